//! What goes wrong in a build ends as it would have without farcc, and the next build is right too.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fmt::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;

use farcc_tests::compare::Judge;
use farcc_tests::copy_program;
use farcc_tests::prerequisites;
use farcc_tests::serve_process::ServeProcess;
use farcc_tests::skipped;
use farcc_tests::space::Finished;
use farcc_tests::space::TestSpace;
use farcc_tests::space::run;

/// A build may take this much longer than a plain one, whatever happens to the daemon or the cluster.
const PATIENCE: Duration = Duration::from_secs(60);

/// The cluster at `address`, or none.
fn configure(space: &TestSpace, address: Option<&String>) {
    match address {
        Some(address) => space.configure_remote(address),
        None => space.configure(""),
    }
}

/// How many units the project has: enough that a build is still running when something is killed.
const UNITS: usize = 12;

/// A header that takes the compiler a while.
fn slow_header(functions: usize) -> String {
    let mut text = String::from("#pragma once\n");
    for number in 0..functions {
        writeln!(
            text,
            "static inline int f{number}(int a, int b) {{ int c = a * {number} + b; while (c > b) c -= a ^ (b | 1); \
             return c; }}"
        )
        .unwrap();
    }
    text
}

/// A project for make whose units each take a noticeable time.
fn write_project(space: &TestSpace) {
    let objects: Vec<String> = (0..UNITS).map(|number| format!("unit{number}.o")).collect();
    space.write("project/slow.h", slow_header(4000));
    space.write("project/value.h", "#define VALUE 1\n");
    for number in 0..UNITS {
        let calls: String = (0..200).map(|call| format!("    sum += f{call}(a, sum);\n")).collect();
        space.write(
            &format!("project/unit{number}.c"),
            format!(
                "#include \"slow.h\"\n#include \"value.h\"\nint unit{number}(int a)\n{{\n    int sum = VALUE;\n{calls}    \
                 return sum + {number};\n}}\n"
            ),
        );
    }
    let list = objects.join(" ");
    space.write(
        "project/Makefile",
        format!(
            "CFLAGS = -O2 -g -MMD -MP\nall: {list}\n%.o: %.c\n\t$(CC) $(CFLAGS) -c $< -o $@\n\
             clean:\n\trm -f *.o *.d\n-include *.d\n"
        ),
    );
}

/// The project after a plain build, twice, at the same path.
fn judge(space: &TestSpace) -> Judge {
    prerequisites::require(&["gcc", "make"]);
    write_project(space);
    let keep = |name: &str| {
        space.sh("project", "make -j2 CC=gcc").success();
        let kept = space.root().join("kept").join(name);
        std::fs::create_dir_all(kept.parent().unwrap()).unwrap();
        farcc_tests::project::copy_tree(&space.workspace().join("project"), &kept);
        space.sh("project", "make clean").success();
        kept
    };
    Judge::new(&keep("plain-1"), &keep("plain-2"))
}

const BUILD: &str = "make -j2 CC='farcc gcc'";

/// Builds through farcc from nothing: it must work and give what plain builds give.
fn assert_builds_right(space: &TestSpace, judge: &Judge, what: &str) {
    space.sh("project", "make clean").success();
    space.sh("project", BUILD).success();
    judge.compare(&space.workspace().join("project")).assert_equal(what);
}

/// Starts the build and returns when its first objects are there and others are not.
fn start_build(space: &TestSpace) -> Child {
    let child = space
        .command("sh")
        .args(["-c", BUILD])
        .current_dir(space.workspace().join("project"))
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    while objects(space) == 0 {
        assert!(Instant::now() < deadline, "no object appears");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(objects(space) < UNITS, "the build was over before anything could happen to it");
    child
}

fn objects(space: &TestSpace) -> usize {
    let entries = std::fs::read_dir(space.workspace().join("project")).unwrap();
    entries.flatten().filter(|entry| entry.path().extension().is_some_and(|suffix| suffix == "o")).count()
}

/// Waits for a build that must succeed, in bounded time.
fn finish_build(mut build: Child) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = build.try_wait().unwrap() {
            assert!(status.success(), "the build failed: {status}");
            return;
        }
        assert!(Instant::now() < deadline, "the build hangs");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A command, plainly and through farcc. `output` is removed before each; both must say and leave the same.
fn assert_same_as_plain(space: &TestSpace, argv: &[&str], output: &str) -> Finished {
    let path = space.workspace().join("project").join(output);
    let remove = || {
        let _ = std::fs::remove_file(&path);
    };
    remove();
    let plain = space.run("project", argv);
    let plain_bytes = std::fs::read(&path).ok();
    // Twice: what a failure left behind must not show the second time.
    for _ in 0..2 {
        remove();
        let mut words = vec!["farcc"];
        words.extend(argv);
        let ours = space.run("project", &words);
        assert_eq!(ours.status, plain.status, "{ours}");
        assert_eq!(ours.stdout_text(), plain.stdout_text());
        assert_eq!(ours.stderr_text(), plain.stderr_text());
        assert_eq!(std::fs::read(&path).ok(), plain_bytes, "{argv:?} left another {output}");
    }
    plain
}

#[test]
fn the_daemon_is_killed_during_a_build() {
    let space = TestSpace::new("daemon-killed");
    let judge = judge(&space);
    let server = ServeProcess::start(&space, "cluster");
    space.configure_remote(server.address());
    let build = start_build(&space);
    space.kill_daemon();
    finish_build(build);
    judge.compare(&space.workspace().join("project")).assert_equal("the build whose daemon was killed");
    assert_builds_right(&space, &judge, "the build after that");
    assert!(space.stats().hits() > 0, "the daemon that came next knows nothing: {}", space.stats().0);
}

#[test]
fn the_server_is_killed_during_a_build() {
    let space = TestSpace::new("server-killed");
    let judge = judge(&space);
    let mut server = ServeProcess::start(&space, "cluster");
    space.configure_remote(server.address());
    let build = start_build(&space);
    server.kill();
    finish_build(build);
    judge.compare(&space.workspace().join("project")).assert_equal("the build whose server was killed");
    // Still dead: what is not stored yet is compiled here, at once.
    space.empty_farcc_dir();
    assert_builds_right(&space, &judge, "the build after that");
    assert!(space.stats().reason("remote_unavailable") > 0, "{}", space.stats().0);
    // And when there is a server again, it is used.
    let server = ServeProcess::start(&space, "another");
    space.configure_remote(server.address());
    space.empty_farcc_dir();
    assert_builds_right(&space, &judge, "the build with another server");
    assert!(server.executions() > 0);
}

#[test]
fn the_address_leads_nowhere() {
    let space = TestSpace::new("unreachable");
    let judge = judge(&space);
    // A port that nobody listens on: bound by us for a moment, so that it is certainly free.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    space.configure_remote(&format!("127.0.0.1:{port}"));
    let started = Instant::now();
    assert_builds_right(&space, &judge, "the first build");
    assert!(started.elapsed() < PATIENCE, "it took {:?}", started.elapsed());
    let stats = space.stats();
    assert!(stats.reason("remote_unavailable") > 0, "{}", stats.0);
    assert_eq!(stats.verdict("executed_remote"), 0);
    assert_builds_right(&space, &judge, "the second build");
    assert!(space.stats().hits() > 0, "what was compiled here was not kept: {}", space.stats().0);
}

#[test]
fn an_address_that_swallows_everything_does_not_hang_a_build() {
    let space = TestSpace::new("silent");
    let judge = judge(&space);
    // Accepts connections (the kernel does) and never says a word.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    space.configure(&format!("[remote]\naddress = \"grpc://{address}\"\ntimeout = \"2s\"\nretries = 1\n"));
    let started = Instant::now();
    assert_builds_right(&space, &judge, "the build");
    assert!(started.elapsed() < PATIENCE, "it took {:?}", started.elapsed());
}

/// What `farccd explain` says of a file. The daemon writes its history without keeping the build waiting.
fn explanation(space: &TestSpace, file: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let finished = space.farccd(&["explain", file]);
        if finished.status == 0 || Instant::now() > deadline {
            return finished.success().stdout_text();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_broken_configuration_costs_only_the_commands_that_have_it() {
    let space = TestSpace::new("broken-configuration");
    space.write("a.c", "int a;\n");
    // The daemon is started by a command with a misspelt key.
    space.configure("[remote]\nadress = \"x\"\n");
    space.run("", &["farcc", "gcc", "-c", "a.c"]).success();
    let stats = space.stats();
    assert_eq!((stats.commands(), stats.reason("configuration")), (1, 1), "{}", stats.0);
    let explained = explanation(&space, "a.o");
    assert!(explained.contains("(configuration: ") && explained.contains("adress"), "{explained}");
    space.configure("");
    space.run("", &["farcc", "gcc", "-c", "a.c"]).success();
    let stats = space.stats();
    assert_eq!((stats.commands(), stats.verdict("executed_local")), (2, 1), "{}", stats.0);
    // Each file that a command makes may be asked about.
    space.run("", &["farcc", "gcc", "-g", "-gsplit-dwarf", "-c", "a.c"]).success();
    let explained = explanation(&space, "a.dwo");
    assert!(explained.contains("no_remote"), "{explained}");
    // What is not taken apart has a reason as well.
    space.write("main.c", "int main(void) { return 0; }\n");
    for (command, reason) in [
        ("gcc -Xassembler --warn -c main.c -o main.o", "(unsupported_flag: -Xassembler --warn)"),
        ("gcc main.c -o main", "(link: main.c is compiled by the same command)"),
    ] {
        let words: Vec<&str> = std::iter::once("farcc").chain(command.split(' ')).collect();
        space.run("", &words).success();
        let explained = explanation(&space, words[words.len() - 1]);
        assert!(explained.contains(reason), "{command}: {explained}");
    }
}

#[test]
fn a_compile_error_is_the_compilers_own() {
    let space = TestSpace::new("compile-error");
    prerequisites::require(&["gcc"]);
    let server = ServeProcess::start(&space, "cluster");
    space.write("project/bad.c", "#include <stdio.h>\nint main(void)\n{\n    return oops;\n}\n");
    for with_cluster in [false, true] {
        let address = server.address().to_owned();
        configure(&space, with_cluster.then_some(&address));
        let plain = assert_same_as_plain(&space, &["gcc", "-c", "bad.c", "-o", "bad.o"], "bad.o");
        assert_eq!(plain.status, 1);
        assert!(plain.stderr_text().contains("oops"));
    }
    space.write("project/bad.c", "int main(void)\n{\n    int unused;\n    return 0;\n}\n");
    let plain = assert_same_as_plain(&space, &["gcc", "-Wall", "-c", "bad.c", "-o", "bad.o"], "bad.o");
    assert_eq!(plain.status, 0);
    assert!(plain.stderr_text().contains("unused"));
}

#[test]
fn a_missing_header_is_the_compilers_to_miss() {
    let space = TestSpace::new("missing");
    prerequisites::require(&["gcc"]);
    let server = ServeProcess::start(&space, "cluster");
    space.configure_remote(server.address());
    space.write("project/a.c", "#include \"generated.h\"\nint a = VALUE;\n");
    let argv = ["gcc", "-c", "a.c", "-o", "a.o"];
    let plain = assert_same_as_plain(&space, &argv, "a.o");
    assert_ne!(plain.status, 0);
    assert!(space.stats().reason("input_missing") > 0, "{}", space.stats().0);
    // Now it is there.
    space.write("project/generated.h", "#define VALUE 3\n");
    assert_eq!(assert_same_as_plain(&space, &argv, "a.o").status, 0);
    // And gone again: the hit must not outlive its input.
    std::fs::remove_file(space.workspace().join("project/generated.h")).unwrap();
    assert_ne!(assert_same_as_plain(&space, &argv, "a.o").status, 0);
}

#[test]
fn a_header_that_is_a_directory_is_the_compilers_to_refuse() {
    let space = TestSpace::new("directory");
    prerequisites::require(&["gcc"]);
    space.configure("");
    space.write("project/a.c", "#include \"folder.h\"\nint a;\n");
    space.write("project/folder.h/inside", "");
    let plain = assert_same_as_plain(&space, &["gcc", "-c", "a.c", "-o", "a.o"], "a.o");
    assert_ne!(plain.status, 0);
}

#[test]
fn an_unreadable_header_is_the_compilers_to_refuse() {
    prerequisites::require(&["gcc", "setpriv"]);
    let space = TestSpace::new("unreadable");
    space.configure("");
    space.write("project/a.c", "#include \"secret.h\"\nint a = VALUE;\n");
    let secret = space.write("project/secret.h", "#define VALUE 1\n");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o000)).unwrap();
    // Root reads everything: the commands are run as nobody then, who needs the programs and a place of their own.
    let programs = space.client().join("bin");
    std::fs::create_dir(&programs).unwrap();
    for program in [&space.binaries().farcc, &space.binaries().farccd] {
        copy_program(program, &programs.join(program.file_name().unwrap()));
    }
    let script = |command: &str| {
        let path = format!("{}:{}", programs.display(), farcc_tests::space::SYSTEM_PATH);
        let mut shell = if rustix::process::geteuid().is_root() {
            let mut shell = space.command("setpriv");
            shell.args(["--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", command]);
            shell
        } else {
            let mut shell = space.command("sh");
            shell.args(["-c", command]);
            shell
        };
        run(shell.env("PATH", path).current_dir(space.workspace().join("project")))
    };
    if rustix::process::geteuid().is_root() {
        std::fs::set_permissions(space.root(), std::fs::Permissions::from_mode(0o755)).unwrap();
        run(Command::new("chown").args(["-R", "65534:65534"]).arg(space.client())).success();
    }
    if script("cat secret.h").status == 0 {
        skipped("an unreadable header", "this system lets nobody read everything");
        return;
    }
    let plain = script("gcc -c a.c -o a.o");
    assert_ne!(plain.status, 0);
    let ours = script("farcc gcc -c a.c -o a.o");
    assert_eq!((ours.status, ours.stderr_text()), (plain.status, plain.stderr_text()));
    let stats = script("farccd stats --json").success();
    let counts = farcc_tests::space::Stats::parse(&stats.stdout);
    assert_eq!(counts.reason("input_unreadable") + counts.reason("input_missing"), 1, "{}", counts.0);
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o644)).unwrap();
    script("farcc gcc -c a.c -o a.o").success();
    script("farccd stop").success();
}

#[test]
fn the_stores_disk_is_full() {
    prerequisites::require(&["unshare", "mount"]);
    let space = TestSpace::new("full-disk");
    let judge = judge(&space);
    space.configure("");
    // A disk of its own for everything that farcc keeps, much smaller than one object, in a namespace of its own.
    let script = format!(
        "set -eu\nmount -t tmpfs -o size=96k none {farcc}\n{BUILD}\nmake clean >/dev/null\n{BUILD}\n\
         farccd stats --json > {stats}\nfarccd stop",
        farcc = space.farcc_dir().display(),
        stats = space.root().join("stats.json").display(),
    );
    let mut command = space.command("unshare");
    if rustix::process::geteuid().is_root() {
        command.args(["--mount", "--propagation", "private"]);
    } else {
        command.args(["--user", "--map-root-user", "--mount"]);
    }
    run(command.args(["sh", "-c", &script]).current_dir(space.workspace().join("project"))).success();
    judge.compare(&space.workspace().join("project")).assert_equal("the build with a full disk");
    let stats = farcc_tests::space::Stats::parse(&std::fs::read(space.root().join("stats.json")).unwrap());
    assert!(stats.reason("store") > 0, "{}", stats.0);
    // With room again everything is as ever.
    assert_builds_right(&space, &judge, "the build after that");
}

/// The value that `a.o` holds in its data section, by way of a program.
fn value_in_object(space: &TestSpace) -> i32 {
    space.sh("project", "gcc main.c a.o -o main").success();
    space.sh("project", "./main").status
}

#[test]
fn a_header_is_edited_while_its_unit_compiles() {
    let space = TestSpace::new("edited");
    prerequisites::require(&["gcc"]);
    let server = ServeProcess::start(&space, "cluster");
    space.write("project/slow.h", slow_header(20000));
    // The header that changes is read last, long after the scan has seen it.
    space.write("project/a.c", "#include \"slow.h\"\n#include \"value.h\"\nint a = VALUE;\n");
    space.write("project/main.c", "extern int a;\nint main(void) { return a; }\n");
    let argv = ["farcc", "gcc", "-O1", "-c", "a.c", "-o", "a.o"];
    for (round, with_cluster) in [(0, false), (1, true), (2, false), (3, true)] {
        let address = server.address().to_owned();
        configure(&space, with_cluster.then_some(&address));
        let (before, after) = (10 + 2 * round, 11 + 2 * round);
        let set = |value: i32| space.write("project/value.h", format!("#define VALUE {value}\n"));
        set(before);
        let mut child = space
            .command(argv[0])
            .args(&argv[1..])
            .current_dir(space.workspace().join("project"))
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(100 + 150 * u64::try_from(round).unwrap()));
        set(after);
        assert!(child.wait().unwrap().success());
        // Whichever of the two the compiler saw, nothing may have been kept under the wrong one.
        for value in [after, before, after] {
            set(value);
            space.run("project", &argv).success();
            assert_eq!(value_in_object(&space), value, "round {round}, with a cluster: {with_cluster}");
        }
    }
    assert!(Path::new(&space.farcc_dir()).exists());
}
