//! The launcher as the shell of `make`: simple commands are launched, and everything does what it does without us.
//! The same Makefiles run with the shell itself, and what they print, leave and end with is compared.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::os::unix::fs::PermissionsExt;

use farcc_tests::prerequisites;
use farcc_tests::space::Finished;
use farcc_tests::space::TestSpace;

/// A program that shows what it is given, and whether it has the job server.
const SHOW: &str = "#!/bin/sh\n\
    printf '[%s]' \"$@\"; echo \" in ${PWD##*/} level $MAKELEVEL\"\n\
    auth=${MAKEFLAGS##*--jobserver-auth=}; auth=${auth%% *}\n\
    case $auth in [0-9]*) test -p /dev/fd/${auth%,*} && echo 'has the job server';; esac\n\
    if [ \"$1\" = fails ]; then exit $2; fi\n\
    if [ \"$1\" = dies ]; then kill -9 $$; fi\n\
    if [ \"$1\" = reads ]; then cat; fi\n";

/// A space with `show`, and with the shells that `farccd install-links` makes.
fn space(name: &str) -> TestSpace {
    prerequisites::require(&["make", "gcc", "bash"]);
    let space = TestSpace::new(name);
    program(&space, "show", SHOW);
    space.configure("");
    space.farccd(&["install-links", "../links"]).success();
    space.start_daemon();
    space
}

fn program(space: &TestSpace, path: &str, text: &str) {
    let path = space.write(path, text);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// What `make` does in a shell's words, where `$S` is the shell.
fn make(space: &TestSpace, shell: &str, script: &str) -> Finished {
    space.bounded(&format!(
        "S={shell}; export FARCC_SHELL={}; {script}",
        if shell.starts_with("../") { "/bin/dash" } else { "" }
    ))
}

/// Runs `script` with dash and with us, compares both, and returns how many commands the daemon heard of.
#[track_caller]
fn compare(space: &TestSpace, makefile: &str, script: &str) -> (Finished, u64) {
    space.write("Makefile", makefile);
    space.sh("", "rm -rf made && mkdir made").success();
    let plain = make(space, "/bin/dash", script);
    let made = space.sh("", "tail made/* /dev/null").stdout_text();
    space.sh("", "rm -rf made && mkdir made").success();
    space.reset_stats();
    let ours = make(space, "../links/shell/sh", script);
    assert_eq!(ours.stdout_text(), plain.stdout_text(), "{script}: {}", ours.stderr_text());
    assert_eq!(ours.stderr_text(), plain.stderr_text(), "{script}");
    assert_eq!(ours.status, plain.status, "{script}");
    assert_eq!(space.sh("", "tail made/* /dev/null").stdout_text(), made, "{script}");
    (ours, space.stats().commands())
}

#[test]
fn simple_commands_are_launched_and_all_others_are_the_shells() {
    let space = space("recipes");
    let makefile = "all: simple others\n\
        simple:\n\
        \t./show a 'b  c' \"d;e \\\"f\\\"\" g\\ h\n\
        \t@./show i \\\n\t  j 'k\\\n\tl'\n\
        \t-./show fails 7\n\
        \t-@./show dies 2>&1\n\
        \t-./nowhere x\n\
        \t-nowhere-in-path x\n\
        \t-./Makefile x\n\
        others:\n\
        \tcd made && ../show m\n\
        \techo \"a\\tb\" $$PWD\n\
        \t./show *.nothing $$MAKELEVEL `echo x`\n\
        \tX=1 ./show n > made/out\n\
        \tif ./show o; then exit 0; fi # why\n\
        \ttouch made/stamp\n\
        \t:\n\
        \t\n\
        \ttest -f made/stamp\n\
        \t./show p & wait\n";
    for script in
        ["make SHELL=$S", "make -k SHELL=$S | cat", "make -O -j1 SHELL=$S", "make -s SHELL=$S > /dev/null"]
    {
        let (ours, asked) = compare(&space, makefile, script);
        assert_eq!(ours.status, 0, "{ours}");
        // `dies 2>&1` is none, and what is not there is for the shell to say.
        assert_eq!(asked, 3, "{script}");
    }
    // How a command died make knows only if there is no shell between; by itself, it has none there.
    let dies = "all:\n\t./show dies\n";
    space.write("Makefile", dies);
    let (plain, ours) = (space.bounded("make"), space.bounded("make SHELL=../links/shell/sh"));
    assert_eq!(ours.stderr_text(), plain.stderr_text());
    assert!(ours.stderr_text().contains("Killed"), "{ours}");
    // What the shell would say of a recipe that fails for good, and where make stops.
    let (ours, asked) = compare(&space, "all:\n\t./show fails 9\n\t./show never\n", "make SHELL=$S");
    assert_eq!((ours.status, asked), (2, 1));
}

#[test]
fn variables_that_are_made_by_the_shell_are_left_alone() {
    let space = space("answers");
    let makefile = "X := $(shell ./show a \"b\"; exit 3)\n\
        Y := $(shell ./show fails 4)\n\
        S4 := $(.SHELLSTATUS)\n\
        Z != ./show c\n\
        all:\n\t@./show '$(X)' '$(Y)' '$(S4)' '$(Z)' '$(shell ./show d)'\n";
    for script in [
        "make SHELL=$S",
        "make SHELL=$S | cat",
        "make -O -j2 SHELL=$S",
        "make SHELL=$S > made/log; cat made/log",
    ] {
        let (_, asked) = compare(&space, makefile, script);
        assert_eq!(asked, 1, "{script}");
    }
}

#[test]
fn the_job_server_is_for_those_that_get_it() {
    let space = space("jobserver");
    let makefile = "all:\n\
        \t+./show plus\n\
        \t./show plain\n\
        \t$(MAKE) --no-print-directory below\n\
        below: x y\n\
        x y:\n\t@./show $@ > made/$@\n\
        z:\n\t./show z\n";
    let (ours, asked) = compare(&space, makefile, "make -j3 SHELL=$S");
    assert_eq!(ours.stdout_text().matches("has the job server").count(), 1, "{ours}");
    assert_eq!(asked, 1);
    // Nothing runs but what is marked with `+` or names make.
    let (_, asked) = compare(&space, makefile, "make -n -j3 SHELL=$S");
    assert_eq!(asked, 0);
    // A make below has the shell by MAKEFLAGS.
    let (_, asked) = compare(&space, "all:\n\t$(MAKE) -s z\nz:\n\t./show z\n", "make SHELL=$S");
    assert_eq!(asked, 1);
}

#[test]
fn options_of_the_shell_are_heeded() {
    let space = space("options");
    for (makefile, expected) in [
        (".ONESHELL:\nall:\n\t@X=1\n\t@./show $$X\n\t-./show fails 3\n\t./show b\n", 0),
        (".ONESHELL:\nall:\n\t@./show 'a b'\n", 1),
        (".POSIX:\nall:\n\t./show a\n\t./show b; ./show fails 3; ./show c\n", 1),
        (".SHELLFLAGS = -eu -c\nall:\n\t./show a\n\t./show $$UNSET\n", 1),
        (".SHELLFLAGS = -xc\nall:\n\t./show a\n", 0),
        ("all:\n\t$(SHELL) script a\n\t$(SHELL) -c './show b; ./show \"$$0\"' c\n", 0),
    ] {
        space.write("script", "./show \"$0\" \"$1\"\n");
        let hidden = "sed -e \"s,$S,SHELL,\" -e s,/bin/dash,SHELL,";
        let script =
            format!("make SHELL=$S > made/log 2>&1; status=$?; {hidden} made/log; rm made/log; exit $status");
        let (_, asked) = compare(&space, makefile, &script);
        assert_eq!(asked, expected, "{makefile}");
    }
    // Another shell than sh has its own link.
    space.write("Makefile", ".SHELLFLAGS = -o pipefail -c\nall:\n\t@./show a\n\t-@false | true\n\t@[[ $$BASH_VERSION ]] && echo $$0\n");
    let plain = space.bounded("make SHELL=/usr/bin/bash");
    let ours = space.bounded("make SHELL=../links/shell/bash");
    assert_eq!(ours.to_string().split_once('\n').unwrap().1, plain.to_string().split_once('\n').unwrap().1);
    assert!(ours.stdout_text().ends_with("bash\n"), "{ours}");
}

#[test]
fn compiles_go_their_own_way() {
    let space = space("toolchain");
    space.write("a.c", "int a;\n");
    space.reset_stats();
    let makefile =
        "all:\n\tfarcc gcc -c a.c\n\tgcc -c a.c -o b.o\n\tar rc made.a a.o\n\t/usr/bin/gcc -c a.c -o c.o\n";
    space.write("Makefile", makefile);
    space.bounded("make SHELL=../links/shell/sh").success();
    let stats = space.stats();
    assert_eq!((stats.commands(), stats.of_kind("compile", "executed_local")), (1, 1), "{}", stats.0);
    // With the links before everything the programs are the launcher itself, and have results.
    space.bounded("PATH=$PWD/../links:$PATH make SHELL=../links/shell/sh").success();
    assert_eq!(space.stats().commands(), 4, "{}", space.stats().0);
}

#[test]
fn without_us_it_is_the_shell() {
    let space = space("off");
    space.write("Makefile", "all:\n\t@./show a\n\t@./show b; ./show c\n");
    let line = |finished: &Finished| finished.stdout_text();
    let plain = line(&space.bounded("make"));
    for script in [
        "FARCC_DISABLE=1 make SHELL=../links/shell/sh",
        "FARCC_SHELL=../links/shell/sh make SHELL=../links/shell/sh",
        "FARCC_DIR=/dev/null/none make SHELL=../links/shell/sh",
        "farcc make SHELL=../links/shell/sh",
        "../links/shell/sh -c 'make'",
    ] {
        assert_eq!(line(&space.bounded(script).success()), plain, "{script}");
    }
    // Standard input belongs to the command.
    space.write("Makefile", "all:\n\t@./show reads\n");
    let read = space.bounded("echo text | make SHELL=../links/shell/sh").success();
    assert!(read.stdout_text().ends_with("\ntext\n"), "{read}");
}
