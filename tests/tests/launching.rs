//! The ways of putting farcc in front of a build: `Farcc.cmake`, CMake's launcher variables, make's `CC`.
//! A script that writes down what it is given and runs it stands for the launcher.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::path::PathBuf;

use farcc_tests::binaries::repository;
use farcc_tests::prerequisites;
use farcc_tests::space::Finished;
use farcc_tests::space::TestSpace;

/// A project with a nested one, a compile check, and sources in two languages.
fn write_project(space: &TestSpace) {
    space.write(
        "project/CMakeLists.txt",
        "cmake_minimum_required(VERSION 3.15)\n\
         project(outer C CXX)\n\
         include(CheckCSourceCompiles)\n\
         check_c_source_compiles(\"int main(void) { return 0; }\" COMPILES)\n\
         check_c_source_compiles(\"#error no\" DOES_NOT_COMPILE)\n\
         if(NOT COMPILES OR DOES_NOT_COMPILE)\n  message(FATAL_ERROR \"the checks are wrong\")\nendif()\n\
         add_subdirectory(nested)\n\
         add_executable(program main.cpp one.c)\n\
         target_link_libraries(program nested)\n",
    );
    space.write(
        "project/nested/CMakeLists.txt",
        "cmake_minimum_required(VERSION 3.15)\nproject(nested C)\nadd_library(nested STATIC three.c)\n",
    );
    space.write("project/nested/three.c", "int three(void) { return 3; }\n");
    space.write("project/one.c", "int one(void) { return 1; }\n");
    space.write(
        "project/main.cpp",
        "extern \"C\" { int one(void); int three(void); }\nint main() { return one() + three() - 4; }\n",
    );
}

/// The stand-in for the launcher, and where it writes.
fn write_launcher(space: &TestSpace, path: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let log = space.workspace().join("launched");
    let script = format!("#!/bin/sh\necho \"$@\" >> '{}'\nexec \"$@\"\n", log.display());
    let launcher = space.write(path, script);
    std::fs::set_permissions(&launcher, std::fs::Permissions::from_mode(0o755)).unwrap();
    launcher
}

/// The source files that went through the launcher as compiles, sorted.
fn launched(space: &TestSpace) -> Vec<String> {
    let text = std::fs::read_to_string(space.workspace().join("launched")).unwrap_or_default();
    let mut files: Vec<String> = text
        .lines()
        .filter(|line| line.contains(" -c "))
        .filter_map(|line| {
            line.split(' ').rfind(|word| word.starts_with(space.workspace().to_str().unwrap()))
        })
        .map(|word| Path::new(word).file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    files.sort();
    files
}

fn configure(space: &TestSpace, options: &[&str]) -> Finished {
    prerequisites::require(&["cmake", "ninja", "gcc", "g++"]);
    let mut argv = vec!["cmake", "-G", "Ninja", "-S", "project", "-B", "build"];
    argv.extend(options);
    space.run("", &argv).success()
}

fn configure_and_build(space: &TestSpace, options: &[&str]) -> Finished {
    let configured = configure(space, options);
    space.run("", &["cmake", "--build", "build"]).success();
    space.run("", &["./build/program"]).success();
    configured
}

const ALL_SOURCES: [&str; 3] = ["main.cpp", "one.c", "three.c"];

fn module() -> PathBuf {
    repository().join("cmake/Farcc.cmake")
}

#[test]
fn the_module_puts_farcc_before_every_compile() {
    // CMake 3.24 has a variable for this; 3.15 has one that is read before every project, nested ones too.
    for variable in ["CMAKE_PROJECT_TOP_LEVEL_INCLUDES", "CMAKE_PROJECT_INCLUDE_BEFORE"] {
        let space = TestSpace::new("launching");
        write_project(&space);
        let launcher = write_launcher(&space, "bin/farcc");
        let configured = configure_and_build(
            &space,
            &[
                &format!("-D{variable}={}", module().display()),
                &format!("-DFARCC_LAUNCHER={}", launcher.display()),
                "-Werror=dev",
            ],
        );
        assert_eq!(configured.stderr_text(), "", "{variable}");
        assert_eq!(configured.stdout_text().matches("farcc: compiles go through").count(), 1, "{variable}");
        assert_eq!(launched(&space), ALL_SOURCES, "{variable}");
        let roots = std::fs::read_to_string(space.workspace().join("build/.farcc-roots")).unwrap();
        let workspace = space.workspace().display().to_string();
        assert_eq!(roots, format!("{workspace}/project\n{workspace}/build\n"), "{variable}");
    }
}

#[test]
fn configuring_again_changes_nothing() {
    let space = TestSpace::new("again");
    write_project(&space);
    let launcher = write_launcher(&space, "bin/farcc");
    let include = format!("-DCMAKE_PROJECT_TOP_LEVEL_INCLUDES={}", module().display());
    let named = format!("-DFARCC_LAUNCHER={}", launcher.display());
    let options = [include.as_str(), named.as_str()];
    configure_and_build(&space, &options);
    let first = launched(&space);
    // Nothing is built again: the commands are the same to the letter.
    configure_and_build(&space, &options);
    assert_eq!(launched(&space), first);
}

#[test]
fn the_module_finds_farcc_beside_itself_and_in_the_path() {
    let space = TestSpace::new("beside");
    write_project(&space);
    write_launcher(&space, "installed/farcc");
    let copy = space.workspace().join("installed/Farcc.cmake");
    std::fs::copy(module(), &copy).unwrap();
    configure_and_build(&space, &[&format!("-DCMAKE_PROJECT_TOP_LEVEL_INCLUDES={}", copy.display())]);
    assert_eq!(launched(&space), ALL_SOURCES);

    let space = TestSpace::new("path");
    let elsewhere = space.write("module/Farcc.cmake", std::fs::read(module()).unwrap());
    write_project(&space);
    let configured =
        configure(&space, &[&format!("-DCMAKE_PROJECT_TOP_LEVEL_INCLUDES={}", elsewhere.display())]);
    // The harness puts the built launcher first in the path.
    let expected = format!("farcc: compiles go through {}", space.binaries().farcc.display());
    assert!(configured.stdout_text().contains(&expected), "{configured}");
}

#[test]
fn a_users_own_launcher_is_kept_and_said() {
    let space = TestSpace::new("users");
    write_project(&space);
    let farcc = write_launcher(&space, "bin/farcc");
    let other = space.write("bin/other-launcher", "#!/bin/sh\nexec \"$@\"\n");
    space.run("", &["chmod", "+x", "bin/other-launcher"]).success();
    let configured = configure_and_build(
        &space,
        &[
            &format!("-DCMAKE_PROJECT_TOP_LEVEL_INCLUDES={}", module().display()),
            &format!("-DFARCC_LAUNCHER={}", farcc.display()),
            &format!("-DCMAKE_C_COMPILER_LAUNCHER={}", other.display()),
        ],
    );
    assert_eq!(launched(&space), ["main.cpp"]);
    let text = configured.stderr_text();
    assert!(text.contains("CMAKE_C_COMPILER_LAUNCHER is set to"), "{text}");
    assert!(!text.contains("CMAKE_CXX_COMPILER_LAUNCHER"), "{text}");
}

#[test]
fn a_build_goes_on_where_farcc_is_missing() {
    let space = TestSpace::new("missing");
    write_project(&space);
    let elsewhere = space.write("module/Farcc.cmake", std::fs::read(module()).unwrap());
    let mut command = space.command("cmake");
    command.args(["-G", "Ninja", "-S", "project", "-B", "build", "-DFARCC_LAUNCHER=/nowhere/farcc"]);
    command.arg(format!("-DCMAKE_PROJECT_TOP_LEVEL_INCLUDES={}", elsewhere.display()));
    prerequisites::require(&["cmake", "ninja", "gcc", "g++"]);
    command.env("PATH", farcc_tests::space::SYSTEM_PATH);
    let configured = farcc_tests::space::run(&mut command).success();
    assert!(configured.stderr_text().contains("no farcc program was found"), "{configured}");
    space.run("", &["cmake", "--build", "build"]).success();
    space.run("", &["./build/program"]).success();
}

#[test]
fn cmakes_own_launcher_variables_work() {
    let space = TestSpace::new("variables");
    write_project(&space);
    let launcher = write_launcher(&space, "bin/farcc");
    let options: Vec<String> = ["C", "CXX"]
        .iter()
        .map(|language| format!("-DCMAKE_{language}_COMPILER_LAUNCHER={}", launcher.display()))
        .collect();
    configure_and_build(&space, &options.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(launched(&space), ALL_SOURCES);
}

#[test]
fn make_takes_the_launcher_in_cc() {
    prerequisites::require(&["make", "gcc"]);
    let space = TestSpace::new("make");
    let launcher = write_launcher(&space, "bin/farcc");
    space.write("main.c", "int main(void) { return 0; }\n");
    space.run("", &["make", &format!("CC={} gcc", launcher.display()), "main.o"]).success();
    let text = std::fs::read_to_string(space.workspace().join("launched")).unwrap();
    assert!(text.contains("gcc") && text.contains("-c") && text.contains("main.c"), "{text}");
}

/// Before ccache farcc lets it do its work; behind it, it does the compiles that ccache has not. Neither calls the other
/// again.
#[test]
fn ccache_on_either_side() {
    prerequisites::require(&["ccache", "gcc"]);
    let space = TestSpace::new("ccache");
    space.configure("");
    space.write("a.c", "int x;\n");
    let in_front = "export CCACHE_DIR=$HOME/ccache; farcc ccache gcc -c a.c && farcc ccache gcc -c a.c";
    space.sh("", in_front).success();
    assert_eq!(space.stats().reason("not_a_compiler"), 2);
    space.reset_stats();
    let behind = "export CCACHE_DIR=$HOME/ccache CCACHE_PREFIX=farcc CCACHE_RECACHE=1; \
                  gcc -g -c a.c -o plain.o && ccache gcc -g -c a.c && cmp a.o plain.o && \
                  ccache gcc -g -c a.c && cmp a.o plain.o";
    space.sh("", behind).success();
    let stats = space.stats();
    assert_eq!((stats.verdict("executed_local"), stats.verdict("hit_local")), (1, 1), "{stats:?}");
}
