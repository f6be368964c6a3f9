//! The compiler by whatever name and way, with whatever is unusual about the command: farcc comes to it, and to no other.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use farcc_tests::copy_program;
use farcc_tests::prerequisites;
use farcc_tests::space::TestSpace;

fn space(name: &str) -> TestSpace {
    prerequisites::require(&["gcc"]);
    let space = TestSpace::new(name);
    space.configure("");
    space
}

/// The object that a command makes without farcc.
fn plain(space: &TestSpace, command: &str) -> Vec<u8> {
    let _ = std::fs::remove_file(space.workspace().join("a.o"));
    space.bounded(command).success();
    std::fs::read(space.workspace().join("a.o")).unwrap()
}

/// All ways to the same compiler come to it, none goes round in circles, and all have one result.
#[test]
fn every_way_to_the_compiler_ends_at_it() {
    prerequisites::require(&["ccache"]);
    let space = space("ways");
    space.write("a.c", "int a(void) { return 1; }\n");
    let farcc = &space.binaries().farcc;
    for directory in ["links", "hard", "ccache"] {
        std::fs::create_dir(space.workspace().join(directory)).unwrap();
    }
    symlink(farcc, space.workspace().join("links/gcc")).unwrap();
    symlink("/usr/bin/ccache", space.workspace().join("ccache/gcc")).unwrap();
    if std::fs::hard_link(farcc, space.workspace().join("hard/gcc")).is_err() {
        copy_program(farcc, &space.workspace().join("hard/gcc"));
    }
    let expected = plain(&space, "gcc -c a.c");
    let path = |first: &str| {
        let words: Vec<String> = first.split(' ').map(|name| format!("$PWD/{name}")).collect();
        format!("export CCACHE_DIR=$HOME/ccache PATH={}:$PATH; ", words.join(":"))
    };
    for (first, command) in [
        ("links", "gcc"),
        ("links", "farcc gcc"),
        ("links", "./links/gcc"),
        ("links", "farcc farcc ./links/gcc"),
        ("hard", "gcc"),
        ("hard", "farcc gcc"),
        ("hard links", "farcc ./hard/gcc"),
        ("ccache links", "farcc gcc"),
        ("links ccache", "gcc"),
        ("ccache links", "gcc"),
        ("links ccache hard", "ccache gcc"),
        ("links ccache hard", "farcc ccache ./links/gcc"),
    ] {
        let _ = std::fs::remove_file(space.workspace().join("a.o"));
        let finished = space.bounded(&format!("{}{command} -c a.c", path(first))).success();
        assert_eq!(finished.stderr_text(), "", "{first}: {command}");
        assert_eq!(std::fs::read(space.workspace().join("a.o")).unwrap(), expected, "{first}: {command}");
    }
    // Before ccache by its own name farcc stands back, and what ccache asks for besides, it does once; the rest are hits.
    let stats = space.stats();
    let counts = (stats.verdict("passed_through"), stats.reason("not_a_compiler"));
    assert!(counts == (1, 1) && stats.hits() >= 8, "{}", stats.0);
}

/// A compiler that the build itself makes, and makes again: another program of the same size and the same time.
#[test]
fn a_compiler_that_was_rebuilt_is_another_one() {
    let space = space("bootstrap");
    space.write("a.c", "int a = STAGE;\n");
    let stage = |number: u32| {
        let source = format!(
            "#include <stdlib.h>\n#include <unistd.h>\nint main(int argc, char **argv) {{\n\
             char **words = calloc(argc + 2, sizeof *words);\nwords[0] = \"gcc\";\nwords[1] = \"-DSTAGE={number}\";\n\
             for (int i = 1; i < argc; i++) words[i + 1] = argv[i];\nreturn execv(\"/usr/bin/gcc\", words);\n}}\n"
        );
        space.write("stage.c", source);
        // Over the old one, which keeps its inode; and by rename.
        let replace = if number.is_multiple_of(2) { "cat new > my-gcc" } else { "mv new my-gcc" };
        let script = format!(
            "gcc stage.c -o new && chmod +x new && touch -d 2020-01-01 new && {replace} && \
                              touch -d 2020-01-01 my-gcc && stat -c '%s %Y' my-gcc"
        );
        space.bounded(&script).success().stdout_text()
    };
    let mut looks = Vec::new();
    for number in 1..=4 {
        looks.push(stage(number));
        let expected = plain(&space, "./my-gcc -c a.c");
        assert_eq!(plain(&space, "farcc ./my-gcc -c a.c"), expected, "stage {number}, at once");
        // What has just been written is not trusted yet.
        std::thread::sleep(Duration::from_millis(1500));
        for _ in 0..2 {
            assert_eq!(plain(&space, "farcc ./my-gcc -c a.c"), expected, "stage {number}");
        }
    }
    assert!(looks.iter().all(|look| *look == looks[0]), "the programs differ in size or time: {looks:?}");
    let stats = space.stats();
    assert_eq!((stats.verdict("executed_local"), stats.hits()), (4, 4), "{}", stats.0);
}

/// Close to what `execve` takes in one word (MAX_ARG_STRLEN), which no environment of the driver's own has room for.
#[test]
fn long_words_are_handed_on_as_they_are() {
    let space = space("long-words");
    space.write("a.c", "int a;\n");
    let through = |launcher: &str, length: usize| {
        let _ = std::fs::remove_file(space.workspace().join("a.o"));
        let script = format!("{launcher} gcc -DX=$(head -c {length} /dev/zero | tr '\\0' x) -c a.c 2>&1");
        let finished = space.bounded(&script);
        (finished.status, finished.stdout_text().len(), std::fs::read(space.workspace().join("a.o")).ok())
    };
    for length in [60_000, 130_000, 131_000, 131_071 - "-DX=".len()] {
        assert_eq!(through("farcc", length), through("", length), "{length}");
    }
    let stats = space.stats();
    assert!(stats.verdict("executed_local") >= 3, "{}", stats.0);
}

/// Configure steps are many and small: nothing is asked of the compiler for them, and nothing kept.
#[test]
fn probes_cost_one_question_to_the_daemon() {
    let space = space("probes");
    for source in
        ["conftest.c", "b/CMakeFiles/CMakeScratch/TryCompile-x/a.c", "b/meson-private/tmpx/testfile.c"]
    {
        space.write(source, "int a;\n");
        space.bounded(&format!("farcc gcc -c {source} -o a.o")).success();
        std::fs::remove_file(space.workspace().join("a.o")).unwrap();
    }
    for command in ["gcc --version", "gcc -E conftest.c", "gcc -print-prog-name=ld", "gcc -dumpmachine"] {
        space.bounded(&format!("farcc {command}")).success();
    }
    let entries = |directory: &str| {
        std::fs::read_dir(space.farcc_dir().join("state").join(directory)).map_or(0, Iterator::count)
    };
    assert_eq!((entries("toolchains"), entries("audit")), (0, 0));
    let stats = space.stats();
    assert_eq!((stats.verdict("passed_through"), stats.reason("probe")), (7, 3), "{}", stats.0);
    assert!(stats.0["micros"]["p50"].as_u64().unwrap() < 20_000, "{}", stats.0);
    // The first compile asks.
    space.write("a.c", "int a;\n");
    space.bounded("farcc gcc -c a.c").success();
    assert!(entries("toolchains") > 0);
}

/// A directory that is gone has no name that anybody could be told; the compiler needs none.
#[test]
fn a_deleted_directory_is_the_compilers_to_judge() {
    let space = space("deleted");
    space.write("a.c", "int a;\n");
    let through = |launcher: &str| {
        let script = format!(
            "mkdir gone; cd gone; rmdir ../gone; {launcher} gcc -c $HOME/../workspace/a.c -o $HOME/../workspace/a.o"
        );
        let finished = space.bounded(&script);
        (finished.status, finished.stderr_text(), std::fs::read(space.workspace().join("a.o")).ok())
    };
    let expected = through("");
    assert_eq!(through("farcc"), expected);
    assert!(expected.2.is_some());
}

/// What a command would have said to a closed descriptor nobody knows, so nothing is kept of it; the rest is as ever.
#[test]
fn closed_descriptors_are_no_hindrance() {
    let space = space("closed");
    space.write("a.c", "#warning \"said on standard error\"\nint a;\n");
    let through = |launcher: &str, closed: &str| {
        let _ = std::fs::remove_file(space.workspace().join("a.o"));
        let finished = space.bounded(&format!("{launcher} gcc -c a.c {closed}"));
        let said = (finished.status, finished.stdout_text(), finished.stderr_text());
        (said, std::fs::read(space.workspace().join("a.o")).ok())
    };
    for closed in [">&-", "2>&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-", "<&- >&-"] {
        let expected = through("", closed);
        // Some compilers do not live without them.
        assert!(expected.1.is_some() || closed.contains("2>&-"), "{closed}: {expected:?}");
        for round in ["cold", "warm"] {
            assert_eq!(through("farcc", closed), expected, "{closed}, {round}");
        }
    }
    assert_eq!(space.stats().verdict("passed_through"), 0, "{}", space.stats().0);
}

/// Cross compilers, and versions: the name decides nothing but the language.
#[test]
fn compilers_by_other_names() {
    let space = space("names");
    space.write("a.c", "int a;\n");
    let expected = plain(&space, "gcc -c a.c");
    let gcc = Path::new("/usr/bin/gcc").canonicalize().unwrap();
    for name in ["foo-gcc-12", "arm-none-linux-gcc", "x86_64-foo-linux-gnu-gcc-12.2", "c99"] {
        symlink(&gcc, space.workspace().join(name)).unwrap();
        let command = |launcher: &str| format!("PATH=$PWD:$PATH; {launcher} {name} -c a.c");
        assert_eq!(plain(&space, &command("")), expected, "{name}");
        assert_eq!(plain(&space, &command("farcc")), expected, "{name}");
    }
    // A hard link. One to the system's own would change that, for everybody who looks at it now.
    prerequisites::require(&["clang"]);
    copy_program(&Path::new("/usr/bin/clang").canonicalize().unwrap(), &space.workspace().join("copy"));
    std::fs::hard_link(space.workspace().join("copy"), space.workspace().join("hard-clang")).unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    let expected = plain(&space, "./hard-clang -c a.c");
    for _ in 0..2 {
        assert_eq!(plain(&space, "farcc ./hard-clang -c a.c"), expected);
    }
    let stats = space.stats();
    assert_eq!(stats.verdict("passed_through"), 0, "{}", stats.0);
}
