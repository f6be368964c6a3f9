//! What a build hands from process to process, with launcher and daemon in between: the jobserver, pipes and locks,
//! signals, slots of nested builds, versions and namespaces.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use farcc::places::Places;
use farcc::wire::Frame;
use farcc::wire::Reply;
use farcc::wire::Request;
use farcc::wire::RunRequest;
use farcc_tests::fake_reapi::FakeReapi;
use farcc_tests::fake_reapi::Rpc;
use farcc_tests::fake_reapi::succeed;
use farcc_tests::prerequisites;
use farcc_tests::skipped;
use farcc_tests::space;
use farcc_tests::space::Finished;
use farcc_tests::space::TestSpace;
use farcc_tests::space::wait_until;
use rustix::fs::FlockOperation;
use rustix::process::Pid;
use rustix::process::Signal;

fn space(name: &str, configuration: &str) -> TestSpace {
    prerequisites::require(&["gcc", "make"]);
    let space = TestSpace::new(name);
    space.configure(configuration);
    space
}

/// The descriptors of a process: number and where each leads.
fn descriptors(pid: Pid) -> Vec<(i32, PathBuf)> {
    let directory = format!("/proc/{}/fd", pid.as_raw_nonzero());
    let entries = std::fs::read_dir(directory).unwrap().flatten();
    entries
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.parse().ok()?;
            Some((number, std::fs::read_link(entry.path()).ok()?))
        })
        .collect()
}

/// A Makefile with `count` units, and rules that show what a recipe finds of the jobserver.
fn write_make_project(space: &TestSpace, count: usize) {
    let objects: Vec<String> = (0..count).map(|number| format!("u{number}.o")).collect();
    for number in 0..count {
        space.write(&format!("u{number}.c"), format!("int u{number}(void) {{ return {number}; }}\n"));
    }
    space.write("main.c", "int u0(void);\nint main(void) { return u0(); }\n");
    let makefile = format!(
        "OBJECTS = main.o {}\nCC = $(FARCC) gcc\nCFLAGS = -O2 -flto -ffat-lto-objects\n\
         all: program flags\n\
         program: $(OBJECTS)\n\t+$(CC) -O2 -flto=jobserver $(OBJECTS) -o $@\n\
         flags:\n\t+$(FARCC) sh -c 'echo \"flags: $$MAKEFLAGS\"; \
         for n in 3 4; do [ -e /proc/self/fd/$$n ] && echo \"descriptor $$n\"; done; true'\n\
         clean:\n\trm -f *.o program\n",
        objects.join(" ")
    );
    space.write("Makefile", makefile);
}

/// GNU Make counts its tokens when it ends, and says so if one is missing or too much.
#[test]
fn the_jobserver_is_the_builds_own() {
    let space = space("jobserver", "");
    write_make_project(&space, 12);
    let plain = space.bounded("make -s -j4 FARCC= 2>&1 | tee plain.log; make -s clean").success();
    assert!(plain.stdout_text().contains("flags: ") && plain.stdout_text().contains("jobserver"), "{plain}");
    // The first command starts the daemon; then all are hits.
    for round in ["cold", "warm"] {
        let launched = space
            .bounded("make -s -j4 FARCC=farcc 2>&1 | tee launched.log; ./program; make -s clean")
            .success();
        let flags = |finished: &Finished| finished.stdout_text().replace("FARCC=farcc", "FARCC=");
        assert_eq!(flags(&launched), flags(&plain), "{round}");
        assert!(space.daemon().is_some(), "{round}: the daemon has ended with the build");
    }
    let stats = space.stats();
    assert_eq!((stats.verdict("executed_local"), stats.verdict("hit_local")), (14, 14), "{}", stats.0);
}

/// As GNU Make 4.4 does it: the tokens are bytes in a named pipe.
#[test]
fn a_named_jobserver_keeps_its_tokens() {
    let space = space("jobserver-fifo", "");
    space.write("a.c", "int a;\n");
    let script = "mkfifo jobs && exec 8<>jobs && printf +++ >&8 && \
                  export MAKEFLAGS=\"-j4 --jobserver-auth=fifo:$PWD/jobs\" && \
                  for f in -O0 -O1 -O2; do farcc gcc $f -c a.c & done; wait; farcc gcc -O0 -c a.c && \
                  farcc sh -c 'echo $MAKEFLAGS; head -c 1 jobs >&2; printf + >jobs' && \
                  timeout 1 cat <&8; true";
    let finished = space.bounded(script).success();
    let flags = format!("-j4 --jobserver-auth=fifo:{}/jobs\n", space.workspace().display());
    assert_eq!(finished.stdout_text(), format!("{flags}+++"), "{finished}");
    let environment = std::fs::read(format!("/proc/{}/environ", space.daemon().unwrap().as_raw_nonzero()));
    assert!(!String::from_utf8_lossy(&environment.unwrap()).contains("--jobserver"));
}

/// A lock and a pipe that a build tool leaves open for its children, as vcpkg and a log do.
#[test]
fn the_daemon_takes_no_descriptor_along() {
    let space = space("descriptors", "");
    space.write("a.c", "int a;\n");
    // The log ends only when nobody has the other end of it.
    space.bounded("{ exec 9>lock; flock 9; farcc gcc -c a.c; } 7>&1 8</etc/passwd | cat").success();
    let daemon = space.daemon().unwrap();
    for (number, target) in descriptors(daemon) {
        let text = target.to_string_lossy();
        let is_own = number <= 2
            || ["socket:", "anon_inode:"].iter().any(|kind| text.starts_with(kind))
            || target.starts_with(space.farcc_dir());
        // A runtime wakes itself through pipes of its own: both ends are there.
        let is_both_ends = text.starts_with("pipe:")
            && descriptors(daemon).iter().filter(|(_, other)| *other == target).count() > 1;
        assert!(is_own || is_both_ends, "descriptor {number} leads to {text}");
    }
    let lock = std::fs::File::open(space.workspace().join("lock")).unwrap();
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap_or_else(|error| {
        panic!("somebody still has the lock: {error}");
    });
}

#[test]
fn a_log_behind_cmake_ends() {
    prerequisites::require(&["cmake", "ninja", "gcc", "make"]);
    let space = space("cmake-tee", "");
    space.write(
        "p/CMakeLists.txt",
        "cmake_minimum_required(VERSION 3.15)\nproject(p C)\nadd_library(a STATIC a.c)\n",
    );
    space.write("p/a.c", "int a;\n");
    let script = "cmake -S p -B b -DCMAKE_C_COMPILER_LAUNCHER=farcc 2>&1 | tee log && \
                  cmake --build b -j4 2>&1 | tee -a log";
    let finished = space.bounded(script).success();
    assert!(finished.stdout_text().contains("Built target a"), "{finished}");
    assert!(space.daemon().is_some());
    // What CMake tries out is run at once, and nothing of it is looked at.
    let stats = space.stats();
    assert_eq!(stats.verdict("executed_local"), 1, "{}", stats.0);
}

/// With one slot a parent that held it would wait for its children for ever.
#[test]
fn nested_builds_do_not_starve_each_other() {
    prerequisites::require(&["cmake", "gcc", "make"]);
    let space = space("nested", "[exec]\nlocal_jobs = 1\n");
    for number in 0..6 {
        space.write(&format!("sub/deep/d{number}.c"), format!("int d{number};\n"));
        space.write(&format!("sub/s{number}.c"), format!("int s{number};\n"));
    }
    let objects = |letter: &str| (0..6).map(|n| format!("{letter}{n}.o")).collect::<Vec<_>>().join(" ");
    space.write("Makefile", "all:\n\t+farcc $(MAKE) -C sub\n");
    space.write(
        "sub/Makefile",
        format!(
            "CC = farcc gcc\nall: {} deep\n.PHONY: deep\ndeep:\n\t+farcc sh -c 'farcc $(MAKE) -C deep'\n",
            objects("s")
        ),
    );
    space.write(
        "sub/deep/Makefile",
        format!("CC = farcc gcc\nall: {}\n\tfarcc ar rc libd.a $^\n", objects("d")),
    );
    space.bounded("farcc make -j8").success();
    assert_eq!(space.stats().verdict("executed_local"), 13, "{}", space.stats().0);

    space.write(
        "outer/CMakeLists.txt",
        "cmake_minimum_required(VERSION 3.15)\nproject(outer C)\ninclude(ExternalProject)\n\
         ExternalProject_Add(inner SOURCE_DIR ${CMAKE_SOURCE_DIR}/inner INSTALL_COMMAND \"\"\n\
           CMAKE_ARGS -DCMAKE_C_COMPILER_LAUNCHER=farcc)\n\
         add_library(o STATIC o.c)\n",
    );
    space.write("outer/o.c", "int o;\n");
    space.write(
        "outer/inner/CMakeLists.txt",
        "cmake_minimum_required(VERSION 3.15)\nproject(inner C)\nadd_library(i STATIC i.c)\n",
    );
    space.write("outer/inner/i.c", "int i;\n");
    space.reset_stats();
    let script = "farcc cmake -G 'Unix Makefiles' -S outer -B out -DCMAKE_C_COMPILER_LAUNCHER=farcc && \
                  farcc cmake --build out -j8";
    space.bounded(script).success();
    assert_eq!(space.stats().verdict("executed_local"), 2, "{}", space.stats().0);
}

/// A source over which a compiler sits for seconds; the compiler is known already, so that only its own work is seen.
fn write_slow_source(space: &TestSpace) {
    space.write("known.c", "int known;\n");
    space.bounded("farcc gcc -O2 -c known.c").success();
    space.reset_stats();
    let function =
        |n| format!("int f{n}(int a) {{ for (int i = 0; i < a; i++) a += i * {n} ^ a >> 3; return a; }}\n");
    space.write("slow.c", (0..12_000).map(function).collect::<String>());
}

/// As a terminal does at ^C: to all of the process group. The end is that of the compiler by itself.
#[test]
fn an_interrupt_ends_everything_at_once() {
    let space = space("interrupt", "");
    write_slow_source(&space);
    for signal in [Signal::INT, Signal::TERM, Signal::QUIT] {
        let interrupted = |words: &[&str]| {
            let before = mentions(&space);
            let mut command = space.interruptible(words[0]);
            command.args(&words[1..]).args(["-O2", "-c", "slow.c"]).process_group(0);
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            // The compiler proper works: driver, launcher, and it.
            wait_until("the compiler", 30, || named(&space, "cc1") > 0);
            std::thread::sleep(Duration::from_millis(100));
            let started = Instant::now();
            let group = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
            rustix::process::kill_process_group(group, signal).unwrap();
            let status = child.wait().unwrap();
            assert!(started.elapsed() < Duration::from_secs(2), "{words:?} {signal:?}: it goes on");
            wait_until("the end of all", 5, || mentions(&space) == before);
            assert!(!space.workspace().join("slow.o").exists(), "{words:?} {signal:?}: half an object");
            (status.code(), status.signal())
        };
        let plain = interrupted(&["gcc"]);
        assert_eq!(interrupted(&["farcc", "gcc"]), plain, "{signal:?}");
    }
    // No slot is lost, and nothing was kept.
    wait_until("the counts", 10, || space.stats().commands() == 3);
    assert_eq!(space.stats().hits(), 0);
    space.write("slow.c", "int slow;\n");
    for _ in 0..2 {
        space.bounded("farcc gcc -O2 -c slow.c").success();
    }
    assert_eq!(space.stats().hits(), 1, "{}", space.stats().0);
}

/// The same where the cluster is at work: it is told, and nothing comes of it.
#[test]
fn an_interrupt_ends_remote_work_at_once() {
    let cluster = FakeReapi::new().execute(|_, _, _| succeed(Vec::new())).start();
    cluster.keep_in_queue();
    let space = space("interrupt-remote", "");
    space.configure_remote(&cluster.host_and_port());
    space.write("a.c", "int a;\n");
    space.start_daemon();
    for (round, signal) in [(1, Signal::INT), (2, Signal::TERM), (3, Signal::QUIT)] {
        let mut command = space.interruptible("farcc");
        command.args(["gcc", "-c", "a.c"]).process_group(0);
        let mut child = command.spawn().unwrap();
        wait_until("the execution", 30, || cluster.calls(Rpc::Execute) == round);
        let group = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        rustix::process::kill_process_group(group, signal).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(signal.as_raw()));
        wait_until("the end of the stream", 10, || cluster.left_streams() == round);
        assert!(!space.workspace().join("a.o").exists(), "{signal:?}");
    }
}

/// How many processes work in the space's workspace.
fn mentions(space: &TestSpace) -> usize {
    space::processes_that_mention(&space.workspace()).len()
}

/// How many of them are programs of this name.
fn named(space: &TestSpace, name: &str) -> usize {
    let processes = space::processes_that_mention(&space.workspace()).into_iter();
    let comm = |pid: &Pid| std::fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero()));
    processes.filter(|pid| comm(pid).is_ok_and(|comm| comm.trim_end() == name)).count()
}

/// A compiler that is killed by a signal: the launcher dies of it as well, stored run or not.
#[test]
fn a_killed_compiler_is_told_by_its_signal() {
    let space = space("segv", "");
    write_slow_source(&space);
    space.write("crash/gcc", "#!/bin/sh\nif :; then kill -SEGV $$; fi\n");
    space.bounded("chmod +x crash/gcc").success();
    let status = space.command("farcc").args(["./crash/gcc", "-c", "slow.c"]).status().unwrap();
    assert_eq!(status.signal(), Some(Signal::SEGV.as_raw()));
    assert_eq!(space.stats().reason("wrapper_script"), 1);
    let mut launcher = space.command("farcc").args(["gcc", "-O2", "-c", "slow.c"]).spawn().unwrap();
    wait_until("the compiler", 30, || named(&space, "cc1") > 0);
    let driver = space::processes_that_mention(&space.workspace()).into_iter().find(|pid| {
        std::fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero()))
            .is_ok_and(|comm| comm == "gcc\n")
    });
    rustix::process::kill_process(driver.unwrap(), Signal::SEGV).unwrap();
    assert_eq!(launcher.wait().unwrap().signal(), Some(Signal::SEGV.as_raw()));
}

fn places(space: &TestSpace) -> Places {
    let farcc_dir = space.farcc_dir().into_os_string();
    Places::from_env(&|name| (name == "FARCC_DIR").then(|| farcc_dir.clone()))
}

/// What a launcher of `version` is answered.
fn ask(space: &TestSpace, version: &str) -> Reply {
    let mut link = farcc::link::Link::new(farcc::places::connect(&places(space)).unwrap());
    let request = RunRequest {
        version: version.to_owned(),
        program: "/usr/bin/gcc".into(),
        argv: ["gcc", "-c", "a.c"].map(OsString::from).to_vec(),
        cwd: space.workspace(),
        env: space.environment(),
        umask: 0o022,
        stdin_is_terminal: false,
        stdin_is_fed: false,
        stdout_is_terminal: false,
        stderr_is_terminal: false,
    };
    link.send(&Frame::Request(Request::Run(request))).unwrap();
    match link.receive().unwrap() {
        Frame::Reply(reply) => reply,
        other => panic!("{other:?}"),
    }
}

/// A newer farcc was installed while its daemon ran: between builds the daemon makes room for the new one, within one
/// it does not.
#[test]
fn a_daemon_of_another_version_is_replaced_between_builds() {
    let space = space("versions", "");
    space.write("a.c", "int a;\n");
    space.bounded("farcc gcc -c a.c").success();
    let first = space.daemon().unwrap();
    for _ in 0..3 {
        assert!(matches!(ask(&space, "0.0.0-other"), Reply::Refused { .. }));
    }
    space.bounded("farcc gcc -c a.c").success();
    assert_eq!(space.daemon(), Some(first), "a build of its own version was under way a moment ago");
    // Long enough for a build to be over.
    std::thread::sleep(farccd::server::BETWEEN_BUILDS);
    assert!(matches!(ask(&space, "0.0.0-other"), Reply::Refused { .. }));
    wait_until("the end of the old daemon", 10, || space.daemon() != Some(first));
    space.bounded("farcc gcc -c a.c").success();
    assert!(space.daemon().is_some_and(|daemon| daemon != first));
    let stats = space.stats();
    assert_eq!((stats.reason("version_skew"), stats.verdict("hit_local")), (4, 2), "{}", stats.0);
}

/// However long one command takes: its daemon stays.
#[test]
fn a_daemon_of_another_version_ends_what_it_has_begun() {
    let cluster = FakeReapi::new().execute(|_, _, _| succeed(Vec::new())).start();
    cluster.keep_in_queue();
    let space = space("versions-running", "");
    space.configure_remote(&cluster.host_and_port());
    space.write("a.c", "int a;\n");
    space.start_daemon();
    let first = space.daemon();
    let mut launcher = space.command("farcc").args(["gcc", "-c", "a.c"]).spawn().unwrap();
    wait_until("the execution", 30, || cluster.calls(Rpc::Execute) == 1);
    std::thread::sleep(farccd::server::BETWEEN_BUILDS + Duration::from_millis(200));
    assert!(matches!(ask(&space, "0.0.0-other"), Reply::Refused { .. }));
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!((space.daemon(), cluster.left_streams()), (first, 0));
    assert!(launcher.try_wait().unwrap().is_none(), "the command was given up");
    launcher.kill().unwrap();
    launcher.wait().unwrap();
}

/// A daemon that is about to end has its lock for a moment longer than its socket: the next one waits for it.
#[test]
fn a_daemon_waits_for_the_one_before() {
    let space = space("successor", "");
    space.write("a.c", "int a;\n");
    places(&space).prepare().unwrap();
    let lock = places(&space).lock_daemon().unwrap().unwrap();
    let releasing = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(1500));
        drop(lock);
    });
    space.bounded("farcc gcc -c a.c").success();
    releasing.join().unwrap();
    assert!(space.daemon().is_some());
    assert_eq!(space.stats().verdict("executed_local"), 1, "{}", space.stats().0);
}

/// A container that shares the home directory has other system directories under the same names.
#[test]
fn another_mount_namespace_has_its_own_daemon() {
    let space = space("namespace", "");
    space.write("a.c", "int a;\n");
    let is_allowed = Command::new("unshare").args(["--mount", "true"]).stderr(Stdio::null()).status();
    if !is_allowed.is_ok_and(|status| status.success()) {
        return skipped("daemons of two namespaces", "unshare --mount is not allowed");
    }
    space.bounded("farcc gcc -c a.c").success();
    let inside = "farcc gcc -c a.c && farccd status --json && farccd stop";
    let inside = space.bounded(&format!("unshare --mount sh -c '{inside}'")).success();
    let inside = inside.stdout_text();
    let (inside, _) = inside.rsplit_once('}').unwrap();
    let inside: serde_json::Value = serde_json::from_str(&format!("{inside}}}")).unwrap();
    let (inside, outside) = (inside["daemon"]["pid"].as_u64(), space.listener());
    assert!(inside.is_some() && outside.is_some());
    assert_ne!(inside, outside);
    space.bounded("gcc -c a.c -o plain.o && cmp a.o plain.o").success();
}

/// The first daemon must neither be used nor hindered by somebody else with the same directories.
#[test]
fn another_user_has_another_daemon() {
    if !rustix::process::geteuid().is_root() {
        return skipped("daemons of two users", "only root can be two");
    }
    let space = space("users", "");
    space.write("a.c", "int a;\n");
    space.bounded("farcc gcc -c a.c").success();
    let first = space.daemon();
    // Everything may be read and written by everybody, as in a carelessly shared directory.
    let copy = space.write("bin/farcc", std::fs::read(&space.binaries().farcc).unwrap());
    space.bounded(&format!("chmod a+x bin/farcc; chmod -R a+rwX {}", space.root().display())).success();
    let script = format!("exec {} gcc -c a.c -o b.o", copy.display());
    let mut command = space.command("timeout");
    command.args(["60", "sh", "-c", &script]).uid(65534).gid(65534);
    let finished = space::run(&mut command).success();
    assert_eq!(finished.stderr_text(), "");
    assert!(space.workspace().join("b.o").is_file());
    assert_eq!(space.daemon(), first);
    assert_eq!(space.stats().commands(), 1, "{}", space.stats().0);
}
