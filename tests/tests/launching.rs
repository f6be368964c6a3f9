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

/// Custom commands of all shapes. Of each but the last the first word is one for the launcher, or for the shell alone.
const CUSTOM: &str = r#"cmake_minimum_required(VERSION 3.15)
project(custom C)
set(S ${CMAKE_CURRENT_SOURCE_DIR}/show)
add_executable(gen gen.c)
add_custom_command(OUTPUT a.txt COMMAND ${S} one COMMAND ${S} two > a.txt DEPENDS gen.c VERBATIM)
add_custom_command(OUTPUT b.txt COMMAND gen b.txt "x y" "d;e" "q\"q" "$<TARGET_FILE:gen>" "b\\s" "do$llar" % "\#" it's VERBATIM)
add_custom_command(OUTPUT c.txt COMMAND ${S} "quoted arg" > ../c.txt WORKING_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/sub)
add_custom_command(OUTPUT d.txt COMMAND cd sub && ${S} cd > ../d.txt)
add_custom_command(OUTPUT e.txt COMMAND V=1 ${S} e > e.txt COMMAND : COMMAND W=2 X=3 ${S} f >> e.txt COMMAND exit 0)
add_custom_command(OUTPUT f.txt COMMAND "${S};l1;l2" > f.txt COMMAND_EXPAND_LISTS VERBATIM)
add_custom_command(OUTPUT g.txt COMMAND ${CMAKE_COMMAND} -E env V=2 ${S} g > g.txt COMMAND sh -c "echo hi >> g.txt" VERBATIM)
add_custom_command(OUTPUT h.txt COMMAND export V=5 && ${S} h | cat > h.txt && ! false)
add_custom_command(OUTPUT i.txt COMMAND test -d sub COMMAND [ ! -f nothing ] COMMAND $<$<CONFIG:Never>:${S}> > i.txt COMMAND > i.txt ${S} i)
add_custom_command(OUTPUT j.txt COMMAND eval "V=6 && ${S} j > j.txt" VERBATIM)
add_custom_command(OUTPUT k.txt COMMAND ${S} fails || ${S} k > k.txt COMMAND true)
add_custom_command(OUTPUT l.txt COMMAND exec ${S} l > l.txt)
add_custom_command(TARGET gen PRE_BUILD COMMAND ${S} pre)
add_custom_command(TARGET gen POST_BUILD COMMAND ${S} post COMMAND V=4 ${S} post2 VERBATIM)
add_custom_target(everything ALL COMMAND ${S} target COMMAND cd / COMMAND pwd
  DEPENDS a.txt b.txt c.txt d.txt e.txt f.txt g.txt h.txt i.txt j.txt k.txt l.txt)
enable_testing()
add_test(NAME t COMMAND gen t.txt tested)
"#;

fn write_custom(space: &TestSpace, more: &str) {
    use std::os::unix::fs::PermissionsExt;
    space.write("custom/CMakeLists.txt", format!("{CUSTOM}{more}"));
    let gen_c = "#include <stdio.h>\nint main(int c, char **v) {\n  FILE *f = fopen(v[1], \"w\");\n  \
                 for (int i = 1; i < c; i++) fprintf(f, \"[%s]\", v[i]);\n  return 0;\n}\n";
    space.write("custom/gen.c", gen_c);
    let show = "#!/bin/sh\nprintf '[%s]' \"$@\"; echo \" V=$V\"; [ \"$1\" != fails ]\n";
    let show = space.write("custom/show", show);
    std::fs::set_permissions(&show, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Builds the custom commands and returns what they printed, and what they made.
fn build_custom(space: &TestSpace, generator: &str, options: &[&str]) -> (Vec<String>, String) {
    prerequisites::require(&["cmake", "ninja", "make", "gcc"]);
    space.sh("", "rm -rf build launched && mkdir -p build/sub").success();
    let mut argv = vec!["cmake", "-G", generator, "-S", "custom", "-B", "build"];
    argv.extend(options);
    let configured = space.run("", &argv).success();
    assert_eq!(configured.stderr_text(), "", "{generator}");
    let built = space.run("", &["cmake", "--build", "build"]).success();
    let text = built.stdout_text();
    let mut printed: Vec<String> = text
        .lines()
        .filter(|line| line.starts_with("[") && line.contains(" V="))
        .map(str::to_owned)
        .collect();
    printed.sort();
    (printed, space.sh("build", "tail -n +1 ?.txt").success().stdout_text())
}

/// The first arguments of `show` that went through the launcher, sorted.
fn shown(space: &TestSpace) -> String {
    let text = std::fs::read_to_string(space.workspace().join("launched")).unwrap_or_default();
    let shown = text.lines().filter_map(|line| line.split_once("custom/show ")?.1.split(' ').next());
    let mut shown: Vec<&str> = shown.collect();
    shown.sort_unstable();
    shown.join(" ")
}

/// Whether the CMake that is installed knows `TEST_LAUNCHER`, as 3.29 does.
fn launches_tests(space: &TestSpace) -> bool {
    let text = space.run("", &["cmake", "--version"]).success().stdout_text();
    let version = text.split_whitespace().nth(2).unwrap();
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap(), numbers.next().unwrap()) >= (3, 29)
}

#[test]
fn custom_commands_do_what_they_did() {
    let space = TestSpace::new("custom");
    write_custom(&space, "");
    let launcher = write_launcher(&space, "bin/farcc");
    let include = format!("-DCMAKE_PROJECT_INCLUDE_BEFORE={}", module().display());
    let named = format!("-DFARCC_LAUNCHER={}", launcher.display());
    for generator in ["Ninja", "Unix Makefiles"] {
        let plain = build_custom(&space, generator, &[]);
        assert_eq!(shown(&space), "");
        let ours = build_custom(&space, generator, &[&include, &named]);
        assert_eq!(ours, plain, "{generator}");
        assert_eq!(shown(&space), "e f fails g i l1 one post post2 pre quoted target two", "{generator}");
        let launched = std::fs::read_to_string(space.workspace().join("launched")).unwrap();
        assert!(launched.contains("gen b.txt x y d;e q\"q "), "{launched}");
        let tests = std::fs::read_to_string(space.workspace().join("build/CTestTestfile.cmake")).unwrap();
        let added = tests.lines().find(|line| line.starts_with("add_test(")).unwrap();
        assert_eq!(added.contains(launcher.to_str().unwrap()), launches_tests(&space), "{added}");
        // Nothing is made again.
        let before = std::fs::metadata(space.workspace().join("build/a.txt")).unwrap().modified().unwrap();
        space.run("", &["cmake", "--build", "build"]).success();
        let after = std::fs::metadata(space.workspace().join("build/a.txt")).unwrap().modified().unwrap();
        assert_eq!(before, after);
    }
}

#[test]
fn custom_commands_are_left_alone() {
    let space = TestSpace::new("left");
    write_custom(&space, "");
    let launcher = write_launcher(&space, "bin/farcc");
    let include = format!("-DCMAKE_PROJECT_TOP_LEVEL_INCLUDES={}", module().display());
    let named = format!("-DFARCC_LAUNCHER={}", launcher.display());
    let options = [include.as_str(), named.as_str()];
    let plain = build_custom(&space, "Ninja", &[]);
    assert_eq!(build_custom(&space, "Ninja", &[&options[..], &["-DFARCC_CUSTOM=OFF"]].concat()), plain);
    assert_eq!(shown(&space), "");
    // A shell knows reserved words at the beginning of a command only.
    let reserved = "add_custom_target(compound ALL COMMAND if true\\; then ${S} m > m.txt\\; fi)\n";
    write_custom(&space, reserved);
    let plain = build_custom(&space, "Ninja", &[]);
    assert!(plain.1.contains("[m] V="), "{}", plain.1);
    assert_eq!(build_custom(&space, "Ninja", &options), plain);
    assert_eq!(shown(&space), "");
    // A directory that the project adds from elsewhere counts as well.
    space.write("elsewhere/CMakeLists.txt", reserved.replace("${S} m", "echo m"));
    write_custom(&space, "add_subdirectory(../elsewhere elsewhere)\n");
    build_custom(&space, "Unix Makefiles", &options);
    assert_eq!(shown(&space), "");
    // What the project sets itself stands.
    space.write(
        "custom/CMakeLists.txt",
        "cmake_minimum_required(VERSION 3.15)\nproject(own C)\n\
         set_property(GLOBAL PROPERTY RULE_LAUNCH_CUSTOM \"env V=9\")\n\
         add_custom_target(one ALL COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/show one > a.txt)\n",
    );
    assert_eq!(build_custom(&space, "Unix Makefiles", &options).1, "[one] V=9\n");
    assert_eq!(shown(&space), "");
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
