//! Real projects as compilation databases: every compile that their builds would run, word for word.
//! Knows nothing of what is done with the commands.
//!
//! CMake writes its own database. A make build is run with a recorder in the place of the compiler: it notes each
//! compile and leaves an empty object, so that a whole build takes seconds. Where a project's build needs more than a
//! bare machine has, the commands are made from its sources and the flags that they need.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;

use crate::debian;
use crate::prerequisites;
use crate::project::Compiler;
use crate::project::copy_tree;
use crate::space::run;

/// One compile of a project.
#[derive(Debug, Clone)]
pub struct Command {
    /// Where it runs, absolute.
    pub cwd: PathBuf,
    /// The command, compiler first.
    pub argv: Vec<OsString>,
}

/// A project and the way to its commands.
pub struct Corpus {
    /// Its name in tables.
    pub name: &'static str,
    /// The Debian source packages that it needs: the first is the tree, the others are laid beside it under their
    /// names.
    pub packages: &'static [&'static str],
    /// Programs that configuring needs.
    pub programs: &'static [&'static str],
    /// How the commands are found.
    pub recipe: Recipe,
    /// At least so many units it has.
    pub units: usize,
    /// Whether it is small enough for every run of the tests.
    pub small: bool,
}

/// How a project's commands are found.
pub enum Recipe {
    /// CMake with these options; then these targets, which generate headers, are built.
    CMake {
        /// Options; `$PACKAGES` is the directory in which the packages lie.
        options: &'static str,
        /// Targets for Ninja; may be empty.
        generate: &'static str,
    },
    /// A script that configures with the compilers themselves, and one whose compiles are recorded. `$CC` and `$CXX`
    /// are the compilers.
    Make {
        /// Runs first; may be empty.
        configure: &'static str,
        /// Is recorded. What fails in it must not matter.
        build: &'static str,
    },
    /// A shell script that prints the sources, one a line, and the flags for all of them.
    Sources {
        /// Runs in the tree.
        list: &'static str,
        /// Flags after the compiler, as a shell in the tree expands them; `$PACKAGES` as above.
        flags: &'static str,
    },
}

impl Corpus {
    /// Lays the project below `scratch` and finds its commands; None where its source cannot be had here, which was
    /// said.
    ///
    /// # Panics
    /// When configuring fails.
    pub fn commands(&self, compiler: Compiler, scratch: &Path) -> Option<Vec<Command>> {
        prerequisites::require(self.programs);
        let packages = scratch.join("packages");
        std::fs::create_dir(&packages).unwrap();
        for package in self.packages {
            let (source, place) = (debian::source(package)?, packages.join(package));
            match self.recipe {
                // Nothing is built, so the shared trees will do: one of them is large.
                Recipe::Sources { .. } => std::os::unix::fs::symlink(source, place).unwrap(),
                _ => copy_tree(&source, &place),
            }
        }
        let tree = packages.join(self.packages[0]);
        Some(match self.recipe {
            Recipe::CMake { options, generate } => {
                let script = format!(
                    "cmake -G Ninja -S . -B build -DCMAKE_EXPORT_COMPILE_COMMANDS=ON -DCMAKE_C_COMPILER=$CC \
                     -DCMAKE_CXX_COMPILER=$CXX {options}"
                );
                shell(&tree, compiler, &packages, &script);
                if !generate.is_empty() {
                    shell(&tree, compiler, &packages, &format!("ninja -C build {generate}"));
                }
                database(&tree.join("build/compile_commands.json"))
            }
            Recipe::Make { configure, build } => record(&tree, compiler, scratch, configure, build),
            Recipe::Sources { list, flags } => {
                let flags = shell(&tree, compiler, &packages, &format!("echo {flags}"));
                let sources = shell(&tree, compiler, &packages, list);
                let mut sources: Vec<&str> = sources.lines().collect();
                sources.sort_unstable();
                let command = |source: &&str| {
                    let driver = if source.ends_with(".c") { compiler.c() } else { compiler.cxx() };
                    let words = [driver].into_iter().chain(flags.split_whitespace());
                    let words = words.chain(["-c", source, "-o", "unused.o"]);
                    Command { cwd: tree.clone(), argv: words.map(OsString::from).collect() }
                };
                sources.iter().map(command).collect()
            }
        })
    }
}

/// Runs a script in `tree`; what it prints.
fn shell(tree: &Path, compiler: Compiler, packages: &Path, script: &str) -> String {
    let mut command = std::process::Command::new("sh");
    command.args(["-e", "-c", script]).current_dir(tree);
    command.env("CC", compiler.c()).env("CXX", compiler.cxx()).env("PACKAGES", packages);
    run(&mut command).success().stdout_text()
}

/// Reads a compilation database.
fn database(path: &Path) -> Vec<Command> {
    let text = std::fs::read(path).unwrap();
    let entries: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let command = |entry: &serde_json::Value| Command {
        cwd: entry["directory"].as_str().unwrap().into(),
        argv: shlex::split(entry["command"].as_str().unwrap())
            .unwrap()
            .into_iter()
            .map(OsString::from)
            .collect(),
    };
    entries.as_array().unwrap().iter().map(command).collect()
}

/// Stands in for the compiler: notes compiles, leaves an empty object or a program that does nothing, and lets
/// everything else through. `@REAL@` and `@RECORDS@` are filled in.
const RECORDER: &str = r#"#!/bin/sh
output= compile= previous=
for word; do
    if [ "$previous" = -o ]; then output=$word; fi
    case $word in
        -c) compile=1 ;;
        -o?*) output=${word#-o} ;;
        -E | -M | -MM | -v | --version | -print* | -dump* | -x) exec @REAL@ "$@" ;;
    esac
    previous=$word
done
if [ -z "$output" ]; then exec @REAL@ "$@"; fi
if [ -n "$compile" ]; then
    printf '%s\0' "$PWD" @REAL@ "$@" >"$(mktemp @RECORDS@/XXXXXXXX)"
    : >"$output"
else
    printf '#!/bin/sh\n' >"$output"
    chmod +x "$output"
fi
"#;

fn record(tree: &Path, compiler: Compiler, scratch: &Path, configure: &str, build: &str) -> Vec<Command> {
    let (records, programs) = (scratch.join("records"), scratch.join("recorders"));
    std::fs::create_dir(&records).unwrap();
    std::fs::create_dir(&programs).unwrap();
    for real in [compiler.c(), compiler.cxx()] {
        let text = RECORDER.replace("@REAL@", real).replace("@RECORDS@", &records.display().to_string());
        std::fs::write(programs.join(real), text).unwrap();
        std::fs::set_permissions(programs.join(real), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    if !configure.is_empty() {
        shell(tree, compiler, scratch, configure);
    }
    let mut command = std::process::Command::new("sh");
    command.args(["-c", build]).current_dir(tree);
    command.env("CC", programs.join(compiler.c())).env("CXX", programs.join(compiler.cxx()));
    let output = run(&mut command);
    let mut commands: Vec<Command> = std::fs::read_dir(&records)
        .unwrap()
        .map(|entry| {
            let text = std::fs::read(entry.unwrap().path()).unwrap();
            let text = text.strip_suffix(b"\0").unwrap();
            let mut words = text.split(|&byte| byte == 0).map(|word| OsString::from_vec(word.to_vec()));
            Command { cwd: words.next().unwrap().into(), argv: words.collect() }
        })
        .collect();
    assert!(!commands.is_empty(), "nothing was compiled: {output}");
    // By what is compiled, not by when.
    commands.sort_by(|a, b| (&a.cwd, &a.argv).cmp(&(&b.cwd, &b.argv)));
    commands
}

/// All projects, small ones first.
pub const CORPUS: &[Corpus] = &[
    Corpus {
        name: "lua5.4",
        packages: &["lua5.4"],
        programs: &["make"],
        recipe: Recipe::Make { configure: "", build: "make linux CC=\"$CC -std=gnu99\"" },
        units: 31,
        small: true,
    },
    Corpus {
        name: "zstd",
        packages: &["libzstd"],
        programs: &["make"],
        recipe: Recipe::Make {
            configure: "",
            build: "make -k -C programs zstd; make -k -C lib libzstd.a; make -k -C tests all",
        },
        units: 120,
        small: true,
    },
    Corpus {
        name: "re2",
        packages: &["re2", "googletest"],
        programs: &[],
        recipe: Recipe::Sources {
            list: "ls re2/*.cc util/*.cc re2/testing/*.cc re2/fuzzing/*.cc",
            flags: "-O2 -std=c++17 -Wall -pthread -I. -isystem $PACKAGES/googletest/googletest/include \
                    -isystem $PACKAGES/googletest/googlemock/include",
        },
        units: 50,
        small: true,
    },
    Corpus {
        name: "redis",
        packages: &["redis"],
        programs: &["make"],
        recipe: Recipe::Make {
            configure: "",
            build: "make -k -C src MALLOC=libc BUILD_TLS=no redis-server redis-cli redis-benchmark",
        },
        units: 125,
        small: false,
    },
    Corpus {
        name: "sqlite3",
        packages: &["sqlite3"],
        programs: &["make", "tclsh"],
        recipe: Recipe::Make {
            configure: "./configure --disable-tcl --disable-amalgamation --disable-readline >/dev/null",
            build: "make -k CC=\"$CC\" TCC=\"$CC -g -O2 -I. -I./src -I./ext/rtree -I./ext/icu -I./ext/fts3 \
                    -I./ext/async -I./ext/session -I./ext/userauth\" LTCOMPILE='$(TCC) -c' libsqlite3.la; \
                    for source in $(grep -L tcl src/*.c ext/*/*.c); do \
                        $CC -g -O2 -DSQLITE_CORE -DSQLITE_ENABLE_FTS3 -I. -Isrc -Iext/rtree -Iext/fts3 \
                            -Iext/session -c $source -o $(basename $source .c).o; done",
        },
        units: 190,
        small: false,
    },
    Corpus {
        name: "musl",
        packages: &["musl"],
        programs: &["make"],
        recipe: Recipe::Make {
            configure: "./configure >/dev/null",
            build: "make -k -j2 CC=\"$CC\" lib/libc.a lib/libc.so",
        },
        units: 1250,
        small: false,
    },
    Corpus {
        name: "git",
        packages: &["git", "zlib"],
        programs: &["make"],
        recipe: Recipe::Make {
            configure: "cp ../zlib/zlib.h ../zlib/zconf.h .",
            build: "make -k -j2 CC=\"$CC\" NO_OPENSSL=1 NO_CURL=1 NO_EXPAT=1 NO_GETTEXT=1 NO_TCLTK=1 NO_PERL=1 \
                    NO_PYTHON=1 CFLAGS='-O2 -I.' all t/helper/test-tool",
        },
        units: 480,
        small: false,
    },
    Corpus {
        name: "fmtlib",
        packages: &["fmtlib", "googletest"],
        programs: &[],
        recipe: Recipe::Sources {
            list: "ls src/format.cc src/os.cc test/*.cc test/*/*.cc | grep -v -e detect-stdfs -e header-only",
            flags: "-std=gnu++17 -O1 -I include -I test -isystem $PACKAGES/googletest/googletest/include \
                    -isystem $PACKAGES/googletest/googlemock/include -DGTEST_HAS_STD_WSTRING=1",
        },
        units: 38,
        small: false,
    },
    Corpus {
        name: "googletest",
        packages: &["googletest"],
        programs: &["cmake", "ninja"],
        recipe: Recipe::CMake {
            options: "-DCMAKE_BUILD_TYPE=Debug -Dgtest_build_samples=ON -Dgtest_build_tests=ON -Dgmock_build_tests=ON",
            generate: "",
        },
        units: 95,
        small: false,
    },
    Corpus {
        name: "spdlog",
        packages: &["spdlog", "fmtlib"],
        programs: &[],
        recipe: Recipe::Sources {
            list: "ls src/*.cpp example/*.cpp tests/*.cpp | grep -v systemd",
            flags: "-std=c++17 -O2 -DSPDLOG_COMPILED_LIB -DSPDLOG_FMT_EXTERNAL -I include -I tests \
                    -I $PACKAGES/fmtlib/include",
        },
        units: 28,
        small: false,
    },
    Corpus {
        name: "protobuf",
        packages: &["protobuf"],
        programs: &["cmake", "ninja"],
        recipe: Recipe::CMake {
            options: "-DCMAKE_BUILD_TYPE=Release -Dprotobuf_BUILD_TESTS=OFF -Dprotobuf_BUILD_EXAMPLES=OFF \
                      -Dprotobuf_WITH_ZLIB=OFF",
            generate: "",
        },
        units: 190,
        small: false,
    },
    Corpus {
        name: "abseil",
        packages: &["abseil", "googletest"],
        programs: &["cmake", "ninja"],
        recipe: Recipe::CMake {
            options: "-DCMAKE_CXX_STANDARD=17 -DBUILD_TESTING=ON -DABSL_BUILD_TESTING=ON \
                      -DABSL_LOCAL_GOOGLETEST_DIR=$PACKAGES/googletest",
            generate: "",
        },
        units: 310,
        small: false,
    },
    Corpus {
        name: "boost",
        packages: &["boost1.74"],
        programs: &[],
        recipe: Recipe::Sources {
            list: "ls libs/*/src/*.cpp libs/algorithm/example/*.cpp libs/asio/example/cpp11/*/*.cpp \
                   libs/graph/example/*.cpp libs/multi_index/example/*.cpp libs/spirit/example/qi/*.cpp \
                   libs/signals2/example/*.cpp libs/date_time/example/*/*.cpp libs/regex/example/*/*.cpp \
                   | grep -v -e /python/ -e /mpi/ -e /locale/ -e /stacktrace/ -e /graph_parallel/",
            // As its own build has them: a hundred include directories.
            flags: "-std=c++14 -O2 -pthread $(printf ' -I %s' libs/*/include libs/numeric/*/include)",
        },
        units: 520,
        small: false,
    },
];
