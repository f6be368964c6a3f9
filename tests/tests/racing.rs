//! Strategy `racing`: a command runs here and on the cluster at the same time. Whoever is first, the build cannot tell that
//! there was another.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Child;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use farcc::places::Places;
use farcc::slots;
use farcc::slots::Slot;
use farcc_tests::fake_reapi::FakeReapi;
use farcc_tests::fake_reapi::Options;
use farcc_tests::fake_reapi::Rpc;
use farcc_tests::fake_reapi::succeed;
use farcc_tests::prerequisites;
use farcc_tests::space;
use farcc_tests::space::Finished;
use farcc_tests::space::TestSpace;
use farcc_tests::space::wait_until;
use rustix::process::Pid;
use rustix::process::Signal;
use tonic::Code;

/// What the cluster makes of every source: no compiler does, so it shows who made an object.
const MADE_THERE: &[u8] = b"made by the cluster";
const SAID_THERE: &[u8] = b"a.c:1:2: warning: made there\n";

/// What is compiled: the driver keeps a temporary between compiler and assembler, and the depfile lies beside the object.
const COMPILE: &str = "gcc -O2 -MMD -c a.c";

fn cluster() -> Options {
    FakeReapi::new().execute(|_, _, inputs| {
        let mut result = succeed(vec![
            inputs.output_file("a.d", b"a.o: a.c\n", false),
            inputs.output_file("a.o", MADE_THERE, false),
        ]);
        result.stderr_raw = SAID_THERE.to_vec();
        result
    })
}

/// A space whose commands race with `cluster`. Its compiler is known already, so that only the race takes time.
fn space(name: &str, cluster: &FakeReapi) -> TestSpace {
    prerequisites::require(&["gcc"]);
    let space = TestSpace::new(name);
    space.write("known.c", "int known;\n");
    space.configure("");
    space.sh("", "farcc gcc -O2 -c known.c && rm known.o && mkdir temporaries").success();
    space.reset_stats();
    space.configure(&format!(
        "[remote]\naddress = '{}'\n[exec]\nstrategy = 'racing'\nlocal_jobs = 4\n",
        cluster.address()
    ));
    space
}

/// A source over which the compiler sits for some seconds, after it has said something: long enough for the cluster to have
/// the command before this machine is done.
fn slow_source() -> String {
    let function =
        |n| format!("int f{n}(int a) {{ for (int i = 0; i < a; i++) a += i * {n} ^ a >> 3; return a; }}\n");
    "#warning made here\n".to_owned() + &(0..1500).map(function).collect::<String>()
}

fn write_slow_source(space: &TestSpace) {
    space.write("a.c", slow_source());
}

fn write_quick_source(space: &TestSpace) {
    space.write("a.c", "#warning made here\nint a(int b) { return b * 3; }\n");
}

fn spawn(space: &TestSpace, command: &str) -> Child {
    let words: Vec<&str> = command.split(' ').collect();
    let mut launcher = space.interruptible(words[0]);
    launcher.args(&words[1..]).env("TMPDIR", space.workspace().join("temporaries")).process_group(0);
    launcher.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn finish(launcher: Child) -> Finished {
    let (command, started) = (String::new(), Instant::now());
    let output = launcher.wait_with_output().unwrap();
    let status = output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap());
    Finished { command, status, stdout: output.stdout, stderr: output.stderr, took: started.elapsed() }
}

fn compile(space: &TestSpace) -> Finished {
    finish(spawn(space, &format!("farcc {COMPILE}")))
}

fn object(space: &TestSpace) -> Option<Vec<u8>> {
    std::fs::read(space.workspace().join("a.o")).ok()
}

/// What a plain compile leaves and says; its own files are removed again.
fn plain(space: &TestSpace) -> (Option<Vec<u8>>, Finished) {
    let finished = finish(spawn(space, COMPILE));
    let made = object(space);
    for name in ["a.o", "a.d"] {
        let _ = std::fs::remove_file(space.workspace().join(name));
    }
    (made, finished)
}

fn comm(pid: Pid) -> String {
    let comm = std::fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero()));
    comm.unwrap_or_default().trim_end().to_owned()
}

/// The processes of the compiler: the driver, and what it starts.
fn compilers(space: &TestSpace) -> BTreeMap<String, Pid> {
    let processes = space::processes_that_mention(&space.workspace()).into_iter();
    let named = processes.map(|pid| (comm(pid), pid));
    named.filter(|(name, _)| ["gcc", "cc1", "as"].contains(&name.as_str())).collect()
}

fn wait_for_compiler(space: &TestSpace) {
    wait_until("the compiler", 30, || compilers(space).contains_key("cc1"));
    // So that it has made its temporaries and said what it says.
    std::thread::sleep(Duration::from_millis(200));
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// What the loser must have left: nothing.
#[track_caller]
fn assert_no_loser(space: &TestSpace) {
    assert_eq!(compilers(space), BTreeMap::new());
    assert_eq!(names(&space.workspace().join("temporaries")), Vec::<String>::new());
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap()
}

/// Takes the only slot.
fn take_slot(space: &TestSpace) -> Slot {
    let farcc_dir = space.farcc_dir().into_os_string();
    let places = Places::from_env(&|name| (name == "FARCC_DIR").then(|| farcc_dir.clone()));
    slots::acquire(&places.slots(), std::num::NonZeroUsize::MIN).unwrap()
}

#[test]
fn the_cluster_is_first() {
    let cluster = cluster().action_time(Duration::from_millis(1500)).start();
    let space = space("racing-remote", &cluster);
    write_slow_source(&space);
    let before = names(&space.workspace());
    let launcher = spawn(&space, &format!("farcc {COMPILE}"));
    wait_for_compiler(&space);
    let finished = finish(launcher);
    // At once: what lives on might write into what has been installed.
    assert_no_loser(&space);
    assert_eq!((finished.status, finished.stdout.as_slice()), (0, b"".as_slice()), "{finished}");
    assert_eq!(finished.stderr_text().as_bytes(), SAID_THERE);
    assert_eq!(object(&space).unwrap(), MADE_THERE);
    assert_eq!(std::fs::read(space.workspace().join("a.d")).unwrap(), b"a.o: a.c\n");
    let mut expected = before;
    expected.splice(1..1, ["a.d".to_owned(), "a.o".to_owned()]);
    assert_eq!(names(&space.workspace()), expected);
    let stats = space.stats();
    assert_eq!((stats.verdict("executed_remote"), stats.commands()), (1, 1), "{}", stats.0);
    assert_eq!(names(&space.farcc_dir().join("state/audit")).len(), 0);
    compile(&space).success();
    assert_eq!(space.stats().verdict("hit_local"), 1);
}

/// What was there before the race is replaced like by a compiler that was never disturbed.
#[test]
fn outputs_that_cannot_be_brought_back_are_not_raced_for() {
    let cluster = cluster().action_time(Duration::from_millis(500)).start();
    let space = space("racing-outputs", &cluster);
    write_slow_source(&space);
    let before = |script: &str| {
        space.sh("", &format!("rm -f a.o a.d other; {script}")).success();
        let launcher = spawn(&space, &format!("farcc {COMPILE} -DN={}", space.stats().commands()));
        wait_until("the execution", 30, || {
            cluster.calls(Rpc::Execute) as u64 == space.stats().commands() + 1
        });
        std::thread::sleep(Duration::from_millis(250));
        let raced = !compilers(&space).is_empty();
        finish(launcher).success();
        assert_eq!(object(&space).unwrap(), MADE_THERE);
        raced
    };
    for script in ["", "echo older >a.o; echo older >a.d"] {
        assert!(before(script), "{script}: there was no race");
        assert_no_loser(&space);
    }
    for script in ["ln -s other a.o", "echo older >other; ln other a.d", "echo older >a.d; chmod 600 a.d"] {
        assert!(!before(script), "{script}: there was a race");
    }
    let mode = std::fs::metadata(space.workspace().join("a.d")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn this_machine_is_first() {
    let cluster = cluster().start();
    cluster.keep_in_queue();
    let space = space("racing-local", &cluster);
    write_slow_source(&space);
    let (made, said) = plain(&space);
    let finished = compile(&space);
    assert_eq!((finished.status, finished.stderr_text()), (0, said.stderr_text()));
    assert!(finished.stderr_text().contains("made here"));
    assert!(object(&space) == made);
    let stats = space.stats();
    assert_eq!((stats.verdict("executed_local"), stats.reason("raced")), (1, 1), "{}", stats.0);
    wait_until("the end of the stream", 10, || cluster.left_streams() == 1);
    wait_until("the result in the cluster's cache", 20, || cluster.calls(Rpc::UpdateActionResult) == 1);
    compile(&space).success();
    assert_eq!(space.stats().verdict("hit_local"), 1);
    // What was offered is what was made.
    space.stop_daemon();
    space.empty_farcc_dir();
    std::fs::remove_file(space.workspace().join("a.o")).unwrap();
    assert_eq!(compile(&space).success().stderr_text(), said.stderr_text());
    assert!(object(&space) == made);
    let stats = space.stats();
    assert_eq!((stats.verdict("hit_remote"), cluster.calls(Rpc::Execute)), (1, 1), "{}", stats.0);
}

#[test]
fn without_a_slot_the_cluster_is_alone() {
    let cluster = cluster().action_time(Duration::from_millis(300)).start();
    let space = space("racing-slot", &cluster);
    write_quick_source(&space);
    let launch = || {
        let mut launcher = space.command("farcc");
        launcher.args(COMPILE.split(' ')).env("FARCC_EXEC_LOCAL_JOBS", "1");
        launcher
    };
    let held = take_slot(&space);
    // It would wait for ever for the slot.
    let finished = space::run(&mut launch()).success();
    assert_eq!((object(&space).unwrap(), finished.stderr), (MADE_THERE.to_vec(), SAID_THERE.to_vec()));
    assert_eq!(space.stats().verdict("executed_remote"), 1);
    // A cluster that fails leaves the command to whoever has a slot by then.
    write_quick_source(&space);
    space.write("a.c", "int other;\n");
    cluster.fail_next(Rpc::Execute, 1, Code::InvalidArgument);
    let mut launcher = launch().spawn().unwrap();
    wait_until("the execution", 30, || cluster.calls(Rpc::Execute) == 2);
    std::thread::sleep(Duration::from_millis(300));
    assert!(launcher.try_wait().unwrap().is_none());
    drop(held);
    assert!(launcher.wait().unwrap().success());
    let stats = space.stats();
    assert_eq!((stats.verdict("executed_local"), stats.reason("remote_error")), (1, 1), "{}", stats.0);
    let made = object(&space);
    assert!(plain(&space).0 == made);
}

#[test]
fn a_cluster_that_fails_leaves_the_race() {
    let failing = FakeReapi::new().execute(|_, _, _| {
        let mut result = succeed(Vec::new());
        result.exit_code = 1;
        result.stderr_raw = b"failed there\n".to_vec();
        result
    });
    let lacking = FakeReapi::new().execute(|_, _, inputs| {
        // The depfile names what the scan had not: found out when everything is fetched.
        succeed(vec![
            inputs.output_file("a.d", b"a.o: a.c /usr/include/stdio.h\n", false),
            inputs.output_file("a.o", MADE_THERE, false),
        ])
    });
    let objectless = FakeReapi::new()
        .execute(|_, _, inputs| succeed(vec![inputs.output_file("a.d", b"a.o: a.c\n", false)]));
    let cases = [(failing, "remote_failed"), (lacking, "depfile_disagrees"), (objectless, "remote_error")];
    for (options, reason) in cases {
        let cluster = options.start();
        let space = space("racing-failing", &cluster);
        write_slow_source(&space);
        let (made, said) = plain(&space);
        let launcher = spawn(&space, &format!("farcc {COMPILE}"));
        wait_for_compiler(&space);
        let compiler = compilers(&space)["cc1"];
        wait_until("the execution", 30, || !cluster.executed().is_empty());
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(compilers(&space).get("cc1"), Some(&compiler), "{reason}: it does not go on");
        let finished = finish(launcher);
        assert_eq!((finished.status, finished.stderr_text()), (0, said.stderr_text()), "{reason}");
        assert!(object(&space) == made, "{reason}");
        let stats = space.stats();
        assert_eq!((stats.verdict("executed_local"), stats.reason(reason)), (1, 1), "{}", stats.0);
        assert_no_loser(&space);
    }
}

#[test]
fn a_compile_error_here_ends_the_race() {
    let cluster = cluster().start();
    cluster.keep_in_queue();
    let space = space("racing-error", &cluster);
    // An error that is found when the code is made, not while it is read.
    space.write("a.c", slow_source() + "int wrong(int a) { asm (\"\" : : \"i\" (a)); return a; }\n");
    let (_, said) = plain(&space);
    let finished = compile(&space);
    assert_eq!((finished.status, finished.stderr_text()), (said.status, said.stderr_text()));
    assert_eq!((finished.status, object(&space)), (1, None));
    wait_until("the end of the stream", 10, || cluster.left_streams() == 1);
    wait_until("the count", 10, || space.stats().reason("raced") == 1);
    assert_eq!(cluster.calls(Rpc::UpdateActionResult), 0);
}

/// As a terminal does it, to the launcher's process group, and as a build tool may, to the launcher alone.
#[test]
fn an_interrupt_ends_both_runs() {
    let cluster = cluster().start();
    cluster.keep_in_queue();
    let space = space("racing-interrupt", &cluster);
    write_slow_source(&space);
    for (round, signal) in [Signal::INT, Signal::TERM, Signal::QUIT, Signal::HUP].into_iter().enumerate() {
        let launcher = spawn(&space, &format!("farcc {COMPILE}"));
        wait_for_compiler(&space);
        match round % 2 {
            0 => rustix::process::kill_process_group(pid(&launcher), signal).unwrap(),
            _ => rustix::process::kill_process(pid(&launcher), signal).unwrap(),
        }
        let finished = finish(launcher);
        assert_eq!(finished.status, 128 + signal.as_raw(), "{signal:?}");
        assert!(finished.took < Duration::from_secs(2), "{signal:?}: it goes on");
        wait_until("the end of all", 5, || compilers(&space).is_empty());
        // GCC removes its temporaries at the others.
        if signal == Signal::QUIT {
            space.sh("", "rm temporaries/*").success();
        }
        assert_no_loser(&space);
        wait_until("the end of the stream", 10, || cluster.left_streams() == round + 1);
        assert_eq!(object(&space), None, "{signal:?}");
    }
    wait_until("the counts", 10, || space.stats().reason("raced") == 4);
    assert_eq!(cluster.calls(Rpc::UpdateActionResult), 0);
}

#[test]
fn a_daemon_that_dies_leaves_the_local_run() {
    let cluster = cluster().start();
    cluster.keep_in_queue();
    let space = space("racing-daemon", &cluster);
    write_slow_source(&space);
    let (made, said) = plain(&space);
    for stop in [TestSpace::kill_daemon as fn(&TestSpace), |space| drop(space.farccd(&["stop"]))] {
        let _ = std::fs::remove_file(space.workspace().join("a.o"));
        let launcher = spawn(&space, &format!("farcc {COMPILE}"));
        wait_for_compiler(&space);
        let compiler = compilers(&space)["cc1"];
        stop(&space);
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(compilers(&space).get("cc1"), Some(&compiler), "it does not go on");
        let finished = finish(launcher);
        assert_eq!((finished.status, finished.stderr_text()), (0, said.stderr_text()));
        assert!(object(&space) == made);
        assert_no_loser(&space);
    }
}

/// Nobody would wait for what was installed beside the rest of its compiler.
#[test]
fn a_launcher_that_is_killed_takes_both_runs_along() {
    let cluster = cluster().action_time(Duration::from_secs(2)).start();
    let space = space("racing-killed", &cluster);
    write_slow_source(&space);
    let mut launcher = spawn(&space, &format!("farcc {COMPILE}"));
    wait_for_compiler(&space);
    launcher.kill().unwrap();
    launcher.wait().unwrap();
    wait_until("the end of the stream", 10, || cluster.left_streams() == 1);
    wait_until("the driver's end", 10, || !compilers(&space).contains_key("gcc"));
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(object(&space), None);
    assert_eq!(space.stats().commands(), 0);
}

/// A launcher that is suspended while both runs end, the local one first: it is what counts, and nothing else is installed.
#[test]
fn who_had_ended_when_the_cluster_was_ready_has_won() {
    let cluster = cluster().action_time(Duration::from_secs(1)).start();
    let space = space("racing-late", &cluster);
    write_slow_source(&space);
    let (made, _) = plain(&space);
    let launcher = spawn(&space, &format!("farcc {COMPILE}"));
    wait_for_compiler(&space);
    rustix::process::kill_process(pid(&launcher), Signal::STOP).unwrap();
    wait_until("the compiler's end", 60, || !compilers(&space).contains_key("as") && object(&space) == made);
    std::thread::sleep(Duration::from_millis(1500));
    assert!(object(&space) == made, "it was installed beside the local run");
    rustix::process::kill_process(pid(&launcher), Signal::CONT).unwrap();
    finish(launcher).success();
    assert!(object(&space) == made);
    let stats = space.stats();
    assert_eq!((stats.verdict("executed_local"), stats.reason("raced")), (1, 1), "{}", stats.0);
}

fn remove_blobs(directory: &Path) {
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => remove_blobs(&entry.path()),
            false => std::fs::remove_file(entry.path()).unwrap(),
        }
    }
}

/// The local run was given up for a result that is not there any more.
#[test]
fn what_cannot_be_installed_is_made_here_once_more() {
    let cluster = cluster().action_time(Duration::from_secs(1)).start();
    let space = space("racing-gone", &cluster);
    write_slow_source(&space);
    let (made, said) = plain(&space);
    let launcher = spawn(&space, &format!("farcc {COMPILE}"));
    wait_for_compiler(&space);
    let first = compilers(&space)["cc1"];
    // It cannot give up its run, so nothing is installed yet.
    rustix::process::kill_process(pid(&launcher), Signal::STOP).unwrap();
    wait_until("the execution", 30, || !cluster.executed().is_empty());
    std::thread::sleep(Duration::from_millis(1500));
    assert!(compilers(&space).contains_key("cc1") && object(&space).is_none());
    remove_blobs(&space.farcc_dir().join("store"));
    rustix::process::kill_process(pid(&launcher), Signal::CONT).unwrap();
    wait_until("the second run", 30, || compilers(&space).get("cc1").is_some_and(|second| *second != first));
    let finished = finish(launcher);
    assert_eq!((finished.status, finished.stderr_text()), (0, said.stderr_text()));
    assert!(object(&space) == made);
    let stats = space.stats();
    assert_eq!((stats.verdict("executed_local"), stats.reason("store")), (1, 1), "{}", stats.0);
    assert_no_loser(&space);
}

/// Many races at once, which end in every order.
#[test]
fn every_race_ends_with_the_object_of_a_plain_compile() {
    const UNITS: usize = 40;
    let mut random = fastrand::Rng::with_seed(4711);
    let source = |unit: usize, functions: usize| -> String {
        let function =
            |n| format!("int f{unit}_{n}(int a) {{ for (int i = 0; i < a; i++) a += i * {n}; return a; }}\n");
        (0..functions).map(function).collect()
    };
    let sources: Vec<String> = (0..UNITS).map(|unit| source(unit, random.usize(1..400))).collect();
    let mut waits: HashMap<String, Duration> =
        (0..UNITS).map(|unit| (format!("u{unit}.o"), Duration::from_millis(random.u64(0..1500)))).collect();
    // One runs alone, and here it is done long before.
    waits.insert("u0.o".to_owned(), Duration::from_secs(10));
    // By the name of the object.
    let made: Arc<std::sync::Mutex<HashMap<String, Vec<u8>>>> = Arc::default();
    let known = Arc::clone(&made);
    let cluster = FakeReapi::new().execute(move |_, command, inputs| {
        let name = command.output_paths.iter().find(|path| path.ends_with(".o")).unwrap();
        std::thread::sleep(waits[name]);
        let files = command.output_paths.iter().map(|path| {
            let bytes = known.lock().unwrap()[path].clone();
            inputs.output_file(path, &bytes, false)
        });
        succeed(files.collect())
    });
    let cluster = cluster.start();
    let space = space("racing-many", &cluster);
    for (unit, source) in sources.iter().enumerate() {
        space.write(&format!("u{unit}.c"), source);
        space.sh("", &format!("gcc -O2 -MMD -c u{unit}.c")).success();
        for suffix in ["o", "d"] {
            let path = space.workspace().join(format!("u{unit}.{suffix}"));
            made.lock().unwrap().insert(format!("u{unit}.{suffix}"), std::fs::read(&path).unwrap());
            std::fs::remove_file(path).unwrap();
        }
    }
    let start = |unit: usize| spawn(&space, &format!("farcc gcc -O2 -MMD -c u{unit}.c"));
    let first = finish(start(0)).success();
    let finished = (1..UNITS).map(start).collect::<Vec<Child>>().into_iter().map(finish);
    for finished in [first].into_iter().chain(finished) {
        assert_eq!(finished.success().stderr_text(), "");
    }
    for (name, bytes) in made.lock().unwrap().iter() {
        assert!(std::fs::read(space.workspace().join(name)).unwrap() == *bytes, "{name}");
    }
    assert_no_loser(&space);
    let stats = space.stats();
    let (here, there) = (stats.verdict("executed_local"), stats.verdict("executed_remote"));
    assert_eq!((here + there, stats.reason("raced")), (UNITS as u64, here), "{}", stats.0);
    assert!(here > 0 && there > 0, "only one of both was ever first: {}", stats.0);
}
