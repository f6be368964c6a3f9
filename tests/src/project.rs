//! The real projects: where their sources come from and how each is configured, built and tested.
//! Knows nothing of farcc beyond the two ways of naming a launcher: `Farcc.cmake`, and `CC="farcc gcc" AR="farcc ar"`.

use std::path::Path;

use crate::binaries::repository;
use crate::debian;

/// A compiler family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compiler {
    /// `gcc` and `g++`.
    Gcc,
    /// `clang` and `clang++`.
    Clang,
}

impl Compiler {
    /// The C driver.
    pub fn c(self) -> &'static str {
        match self {
            Compiler::Gcc => "gcc",
            Compiler::Clang => "clang",
        }
    }

    /// The C++ driver.
    pub fn cxx(self) -> &'static str {
        match self {
            Compiler::Gcc => "g++",
            Compiler::Clang => "clang++",
        }
    }
}

/// A real project and one way to build it. The scripts run in `workspace/NAME`, where the source was laid.
pub struct Project {
    /// Name, also of its directory.
    pub name: &'static str,
    /// The Debian source packages that it needs.
    pub packages: &'static [&'static str],
    /// Programs that the build needs.
    pub programs: &'static [&'static str],
    /// How it is built.
    pub recipe: Recipe,
    /// The project's own quick tests: a shell script.
    pub test: &'static str,
    /// Completes the tree in its second argument, with the packages' trees in the order of `packages`.
    lay: fn(&[std::path::PathBuf], &Path),
}

/// How a project is built.
#[derive(Debug, Clone, Copy)]
pub enum Recipe {
    /// CMake and Ninja, out of source in `build`, with these options.
    CMake(&'static str),
    /// Plain make: a configure script or nothing, then a make command. `$CC` is the compiler and `$AR` the archiver,
    /// launcher included.
    Make {
        /// Runs first; may be empty.
        configure: &'static str,
        /// The build step.
        build: &'static str,
    },
    /// The same, but the launcher is not named: it is found under the compiler's name.
    Masquerade {
        /// Runs first.
        configure: &'static str,
        /// The build step.
        build: &'static str,
    },
}

impl Recipe {
    /// The shell script that configures the build, with farcc in front of the compiler or without.
    pub fn configure_script(self, compiler: Compiler, through_farcc: bool) -> String {
        let (c, cxx) = (compiler.c(), compiler.cxx());
        match self {
            Recipe::CMake(options) => {
                let module = repository().join("cmake/Farcc.cmake");
                let farcc = if through_farcc {
                    format!(" -DCMAKE_PROJECT_TOP_LEVEL_INCLUDES={}", module.display())
                } else {
                    String::new()
                };
                format!(
                    "cmake -G Ninja -S . -B build -DCMAKE_C_COMPILER={c} -DCMAKE_CXX_COMPILER={cxx} {options}{farcc}"
                )
            }
            Recipe::Make { configure, .. } => {
                format!("{}{configure}", make_variables(compiler, through_farcc))
            }
            Recipe::Masquerade { configure, .. } => {
                format!("{}{configure}", masquerade(compiler, through_farcc))
            }
        }
    }

    /// The shell script that builds what was configured.
    pub fn build_script(self, compiler: Compiler, through_farcc: bool) -> String {
        match self {
            // Ninja swallows depfiles, and they are to be compared.
            Recipe::CMake(_) => "ninja -C build -d keepdepfile -j 4".to_owned(),
            Recipe::Make { build, .. } => format!("{}{build}", make_variables(compiler, through_farcc)),
            Recipe::Masquerade { build, .. } => format!("{}{build}", masquerade(compiler, through_farcc)),
        }
    }
}

fn make_variables(compiler: Compiler, through_farcc: bool) -> String {
    let launcher = if through_farcc { "farcc " } else { "" };
    let (c, cxx) = (compiler.c(), compiler.cxx());
    format!("export CC='{launcher}{c}' CXX='{launcher}{cxx}' AR='{launcher}ar' RANLIB='{launcher}ranlib'; ")
}

fn masquerade(compiler: Compiler, through_farcc: bool) -> String {
    let links = "farccd install-links \"$HOME/links\" >&2; export PATH=\"$HOME/links:$PATH\"; ";
    let links = if through_farcc { links } else { "" };
    format!("{links}export CC={} CXX={}; ", compiler.c(), compiler.cxx())
}

impl Project {
    /// Lays a fresh source tree at `to`. False where a package's source cannot be had here, which was said.
    pub fn lay_source(&self, to: &Path) -> bool {
        let Some(sources) =
            self.packages.iter().map(|package| debian::source(package)).collect::<Option<Vec<_>>>()
        else {
            return false;
        };
        copy_tree(&sources[0], to);
        (self.lay)(&sources, to);
        true
    }
}

/// Copies a tree with modes and times.
///
/// # Panics
/// When `cp` fails.
pub fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    let mut command = std::process::Command::new("cp");
    crate::space::run(command.arg("-a").arg(from.join(".")).arg(to)).success();
}

fn nothing(_: &[std::path::PathBuf], _: &Path) {}

/// Debian's tarball lacks a resource file of the Windows build, which the CMake file names on every system.
fn lay_zlib(_: &[std::path::PathBuf], to: &Path) {
    std::fs::create_dir_all(to.join("win32")).unwrap();
    std::fs::write(to.join("win32/zlib1.rc"), "").unwrap();
}

/// Debian's tarball lacks fmt's copy of GoogleTest: Debian's own takes its place.
fn lay_fmt(sources: &[std::path::PathBuf], to: &Path) {
    let gtest = to.join("test/gtest");
    for part in ["googletest", "googlemock"] {
        copy_tree(&sources[1].join(part), &gtest.join(part));
    }
    std::fs::write(gtest.join("CMakeLists.txt"), GTEST_FOR_FMT).unwrap();
}

const GTEST_FOR_FMT: &str = "\
add_library(gtest STATIC googletest/src/gtest-all.cc googlemock/src/gmock-all.cc)
target_include_directories(gtest SYSTEM PUBLIC googletest/include googlemock/include)
target_include_directories(gtest PRIVATE googletest googlemock)
find_package(Threads REQUIRED)
target_link_libraries(gtest Threads::Threads)
";

/// A precompiled header for the library, which is built of unity sources besides.
fn lay_fmt_precompiled(sources: &[std::path::PathBuf], to: &Path) {
    lay_fmt(sources, to);
    append(
        &to.join("CMakeLists.txt"),
        "\ntarget_precompile_headers(fmt PRIVATE <algorithm> <string> <vector>)\n\
         set_target_properties(fmt PROPERTIES UNITY_BUILD ON)\n",
    );
}

/// Precompiled headers for the libraries and for all of the samples.
fn lay_googletest_precompiled(_: &[std::path::PathBuf], to: &Path) {
    append(
        &to.join("googletest/CMakeLists.txt"),
        "\ntarget_precompile_headers(gtest PRIVATE <map> <string> <vector>)\n\
         target_precompile_headers(gtest_main REUSE_FROM gtest)\n\
         foreach(sample sample1_unittest sample2_unittest sample10_unittest)\n\
         target_precompile_headers(${sample} PRIVATE <gtest/gtest.h>)\n\
         endforeach()\n",
    );
}

fn append(file: &Path, text: &str) {
    let mut content = std::fs::read_to_string(file).unwrap();
    content.push_str(text);
    std::fs::write(file, content).unwrap();
}

/// zlib, by CMake.
pub const ZLIB_CMAKE: Project = Project {
    name: "zlib-cmake",
    packages: &["zlib"],
    programs: &["cmake", "ninja"],
    recipe: Recipe::CMake(""),
    test: "cd build && ctest --output-on-failure",
    lay: lay_zlib,
};

/// zlib, by its configure script and make.
pub const ZLIB_MAKE: Project = Project {
    name: "zlib-make",
    packages: &["zlib"],
    programs: &["make"],
    recipe: Recipe::Make { configure: "./configure", build: "make -j4" },
    test: "make test",
    lay: nothing,
};

/// Lua, by make alone, which gives no depfiles.
pub const LUA_MAKE: Project = Project {
    name: "lua-make",
    packages: &["lua5.4"],
    programs: &["make"],
    recipe: Recipe::Make {
        configure: "",
        build: "make -j4 linux CC=\"$CC -std=gnu99\" AR=\"$AR rcu\" RANLIB=\"$RANLIB\"",
    },
    test: "echo 'print((\"x\"):rep(3), 7 // 2, #{1, 2})' | ./src/lua - | tee result && \
           test \"$(cat result)\" = \"$(printf 'xxx\\t3\\t2')\"",
    lay: nothing,
};

/// fmt with its tests.
pub const FMT_CMAKE: Project = Project {
    name: "fmt-cmake",
    packages: &["fmtlib", "googletest"],
    programs: &["cmake", "ninja"],
    recipe: Recipe::CMake("-DCMAKE_BUILD_TYPE=Debug -DFMT_DOC=OFF -DFMT_TEST=ON"),
    test: "cd build && ctest --output-on-failure -j2",
    lay: lay_fmt,
};

/// GoogleTest with its samples.
pub const GOOGLETEST_CMAKE: Project = Project {
    name: "googletest-cmake",
    packages: &["googletest"],
    programs: &["cmake", "ninja"],
    recipe: Recipe::CMake("-DCMAKE_BUILD_TYPE=RelWithDebInfo -Dgtest_build_samples=ON"),
    test: "cd build && for test in googletest/sample*_unittest; do ./$test || exit 1; done",
    lay: nothing,
};

/// xz with its libraries, by a configure script of Autoconf and libtool.
pub const XZ_AUTOTOOLS: Project = Project {
    name: "xz-autotools",
    packages: &["xz-utils"],
    programs: &["make"],
    recipe: Recipe::Make {
        configure: "./configure --disable-nls --disable-doc --disable-dependency-tracking",
        build: "make -j4",
    },
    test: "echo text > t && ./src/xz/xz -k t && ./src/xz/xz -dc t.xz | cmp - t",
    lay: nothing,
};

/// LZO, by the same, with compilers that are links to farcc.
pub const LZO_MASQUERADE: Project = Project {
    name: "lzo-masquerade",
    packages: &["lzo2"],
    programs: &["make"],
    recipe: Recipe::Masquerade { configure: "./configure", build: "make -j4" },
    test: "./lzotest/lzotest -mlzo -n2 -q COPYING",
    lay: nothing,
};

/// fmt with a precompiled header, unity sources and coverage.
pub const FMT_PRECOMPILED: Project = Project {
    name: "fmt-precompiled",
    packages: &["fmtlib", "googletest"],
    programs: &["cmake", "ninja"],
    recipe: Recipe::CMake(
        "-DCMAKE_BUILD_TYPE=Debug -DFMT_DOC=OFF -DFMT_TEST=OFF -DCMAKE_CXX_FLAGS=--coverage",
    ),
    test: "ls build/libfmtd.a",
    lay: lay_fmt_precompiled,
};

/// GoogleTest with precompiled headers, unity sources and split debug information.
pub const GOOGLETEST_PRECOMPILED: Project = Project {
    name: "gtest-precompiled",
    packages: &["googletest"],
    programs: &["cmake", "ninja"],
    recipe: Recipe::CMake(
        "-DCMAKE_BUILD_TYPE=Debug -Dgtest_build_samples=ON -DCMAKE_UNITY_BUILD=ON -DCMAKE_CXX_FLAGS=-gsplit-dwarf",
    ),
    test: "cd build && for test in googletest/sample*_unittest; do ./$test || exit 1; done",
    lay: lay_googletest_precompiled,
};

/// zlib, with code that is made at link time.
pub const ZLIB_OPTIMISED: Project = Project {
    name: "zlib-optimised",
    packages: &["zlib"],
    programs: &["cmake", "ninja"],
    recipe: Recipe::CMake(
        "-DCMAKE_BUILD_TYPE=Release -DCMAKE_POLICY_DEFAULT_CMP0069=NEW -DCMAKE_INTERPROCEDURAL_OPTIMIZATION=ON",
    ),
    test: "cd build && ctest --output-on-failure",
    lay: lay_zlib,
};

/// fmt as a shared library.
pub const FMT_SHARED: Project = Project {
    name: "fmt-shared",
    packages: &["fmtlib", "googletest"],
    programs: &["cmake", "ninja"],
    recipe: Recipe::CMake("-DCMAKE_BUILD_TYPE=Release -DFMT_DOC=OFF -DFMT_TEST=OFF -DBUILD_SHARED_LIBS=ON"),
    test: "nm -D build/libfmt.so | grep -q vformat",
    lay: lay_fmt,
};

/// GoogleTest with its samples, in archives that name their members.
pub const GOOGLETEST_THIN: Project = Project {
    name: "gtest-thin",
    packages: &["googletest"],
    programs: &["cmake", "ninja"],
    recipe: Recipe::CMake(
        "-DCMAKE_BUILD_TYPE=Debug -Dgtest_build_samples=ON -DBUILD_GMOCK=OFF \
         \"-DCMAKE_CXX_ARCHIVE_CREATE=<CMAKE_AR> qcT <TARGET> <LINK_FLAGS> <OBJECTS>\"",
    ),
    test: "cd build && for archive in lib/*.a; do test \"$(head -c 7 $archive)\" = '!<thin>' || exit 1; done; \
           for test in googletest/sample*_unittest; do ./$test || exit 1; done",
    lay: nothing,
};
