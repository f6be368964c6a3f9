//! The daemon's life, and the configuration of the commands that it serves: through the real programs.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::Read;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::time::Duration;
use std::time::Instant;

use farcc_tests::fake_reapi::FakeReapi;
use farcc_tests::fake_reapi::Rpc;
use farcc_tests::fake_reapi::succeed;
use farcc_tests::prerequisites;
use farcc_tests::space::Finished;
use farcc_tests::space::TestSpace;
use farcc_tests::space::run;
use farcc_tests::space::wait_until;
use rustix::process::Pid;
use rustix::process::Signal;

/// What the cluster makes of every source: no compiler does, so it shows who made an object.
const MADE_THERE: &[u8] = b"made by the cluster";

fn cluster() -> FakeReapi {
    let cluster = FakeReapi::new().execute(|_, _, inputs| {
        succeed(vec![
            inputs.output_file("a.d", b"a.o: a.c\n", false),
            inputs.output_file("a.o", MADE_THERE, false),
        ])
    });
    cluster.start()
}

fn space(name: &str) -> TestSpace {
    prerequisites::require(&["gcc"]);
    let space = TestSpace::new(name);
    space.configure("");
    space.write("a.c", "int a;\n");
    space
}

const COMPILE: &str = "farcc gcc -MMD -c a.c";

fn compile(space: &TestSpace) -> Finished {
    space.sh("", COMPILE)
}

fn object(space: &TestSpace) -> Vec<u8> {
    std::fs::read(space.workspace().join("a.o")).unwrap_or_default()
}

#[test]
fn it_starts_stops_and_starts_again() {
    let space = space("life");
    assert_eq!(space.listener(), None);
    space.farccd(&["start"]).success();
    let first = space.listener().unwrap();
    assert!(space.farccd(&["start"]).success().stdout_text().contains(&first.to_string()), "it runs already");
    assert_eq!(space.listener(), Some(first));
    space.farccd(&["restart"]).success();
    let second = space.listener().unwrap();
    assert_ne!(first, second);
    assert!(space.farccd(&["status"]).success().stdout_text().contains(&format!("process {second}")));
    space.farccd(&["stop"]).success();
    assert_eq!((space.listener(), space.daemon()), (None, None));
    assert!(space.farccd(&["stop"]).success().stdout_text().contains("no daemon runs"));
    // The counts of the one that is gone.
    compile(&space).success();
    space.farccd(&["stop", "--drain"]).success();
    assert_eq!(space.stats().commands(), 1);
    compile(&space).success();
    assert_eq!(space.stats().verdict("hit_local"), 1);
}

#[test]
fn it_ends_when_nobody_comes() {
    let space = space("idle");
    space.farccd(&["start", "--idle-timeout", "2s"]).success();
    compile(&space).success();
    let first = space.listener().unwrap();
    wait_until("the idle daemon's end", 20, || space.daemon().is_none());
    compile(&space).success();
    assert_ne!(space.listener().unwrap(), first);
    assert_eq!(space.stats().verdict("hit_local"), 1);
}

#[test]
fn many_launchers_start_one_daemon() {
    let space = space("many");
    for number in 0..30 {
        space.write(&format!("u{number}.c"), format!("int u{number};\n"));
    }
    let script = "for n in $(seq 0 29); do farcc gcc -c u$n.c & pids=\"$pids $!\"; done; for p in $pids; do wait $p || exit 1; done";
    space.sh("", script).success();
    assert_eq!(space.stats().commands(), 30);
    assert_eq!(space.log().matches(" listens in ").count(), 1, "{}", space.log());
    for number in 0..30 {
        assert!(space.workspace().join(format!("u{number}.o")).is_file());
    }
}

#[test]
fn draining_lets_a_remote_compile_end() {
    let space = space("drain");
    let cluster = cluster();
    space.configure_remote(&cluster.host_and_port());
    space.start_daemon();
    cluster.delay(Rpc::Execute, Duration::from_secs(3));
    std::thread::scope(|scope| {
        let compiling = scope.spawn(|| compile(&space).success());
        wait_until("the execution", 30, || cluster.calls(Rpc::Execute) == 1);
        space.farccd(&["stop", "--drain"]).success();
        assert_eq!(object(&space), MADE_THERE, "stop has not waited");
        compiling.join().unwrap();
    });
    assert_eq!(space.daemon(), None);
    assert_eq!(space.stats().verdict("executed_remote"), 1);
}

#[test]
fn stopping_leaves_a_remote_compile_to_its_launcher() {
    let space = space("stop");
    let cluster = cluster();
    cluster.keep_in_queue();
    space.configure_remote(&cluster.host_and_port());
    space.start_daemon();
    std::thread::scope(|scope| {
        let compiling = scope.spawn(|| compile(&space).success());
        wait_until("the execution", 30, || cluster.calls(Rpc::Execute) == 1);
        space.configure("");
        space.farccd(&["stop"]).success();
        compiling.join().unwrap();
    });
    let ours = object(&space);
    space.sh("", "gcc -MMD -c a.c").success();
    assert!(ours == object(&space));
}

fn spawn_compile(space: &TestSpace) -> Child {
    let mut launcher = space.interruptible("farcc");
    launcher.args(["gcc", "-MMD", "-c", "a.c"]).stderr(std::process::Stdio::null()).spawn().unwrap()
}

#[test]
fn a_launcher_that_is_killed_takes_its_remote_work_along() {
    let space = space("killed");
    let cluster = cluster();
    cluster.keep_in_queue();
    space.configure_remote(&cluster.host_and_port());
    space.start_daemon();
    let daemon = space.listener().unwrap();
    for (round, signal) in [(1, Signal::KILL), (2, Signal::TERM), (3, Signal::INT)] {
        let mut launcher = spawn_compile(&space);
        wait_until("the execution", 30, || cluster.calls(Rpc::Execute) == round);
        assert_eq!(cluster.left_streams(), round - 1);
        let process = Pid::from_raw(i32::try_from(launcher.id()).unwrap()).unwrap();
        rustix::process::kill_process(process, signal).unwrap();
        let started = Instant::now();
        assert!(!launcher.wait().unwrap().success());
        assert!(started.elapsed() < Duration::from_secs(5), "{signal:?}: the launcher lives on");
        wait_until("the end of the stream", 10, || cluster.left_streams() == round);
        assert!(!space.workspace().join("a.o").exists());
    }
    space.configure("");
    compile(&space).success();
    assert_eq!(space.listener(), Some(daemon));
    assert_eq!(space.stats().verdict("executed_local"), 1);
}

/// One HTTP request; the status line, and the whole answer.
fn get(address: &str, target: &str, host: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    (answer.lines().next().unwrap_or_default().to_owned(), answer)
}

#[test]
fn the_status_page_is_for_those_who_know_the_token() {
    let space = space("page");
    space.start_daemon();
    compile(&space).success();
    assert!(space.status()["daemon"]["memory"]["source_bytes"].as_u64().is_some());
    let url = space.status()["daemon"]["status_page"].as_str().unwrap().to_owned();
    let (address, query) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let (line, page) = get(address, &format!("/{query}"), address);
    assert!(line.contains(" 200 ") && page.contains("1 commands"), "{page}");
    let (line, page) = get(address, &format!("/stats.json{query}"), address);
    assert!(line.contains(" 200 ") && page.contains("\"executed_local\":1"), "{page}");
    for (target, host) in [
        ("/", address),
        ("/stats.json", address),
        ("/metrics?token=", address),
        ("/?token=00000000000000000000000000000000", address),
        (&*format!("/{query}"), "evil.example"),
        (&*format!("/{query}"), "localhost"),
    ] {
        let (line, page) = get(address, target, host);
        assert!(line.contains(" 403 ") && !page.contains("executed"), "{target} {host}: {page}");
    }
    // Garbage, and connections that say nothing, are no harm.
    TcpStream::connect(address).unwrap().write_all(&[0xff; 5000]).unwrap();
    let _silent: Vec<_> = (0..10).map(|_| TcpStream::connect(address).unwrap()).collect();
    assert!(get(address, &format!("/{query}"), address).0.contains(" 200 "));
}

#[test]
fn garbage_at_the_socket_harms_nobody() {
    let space = space("garbage");
    space.start_daemon();
    let daemon = space.listener().unwrap();
    let socket = space.status()["socket"].as_str().unwrap().to_owned();
    let mut random = 12345_u32;
    let mut noise = |length: usize| -> Vec<u8> {
        let mut next = || {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            random.to_le_bytes()[3]
        };
        (0..length).map(|_| next()).collect()
    };
    let mut cases: Vec<Vec<u8>> = vec![vec![], vec![0], vec![0xff; 5], b"GET / HTTP/1.1\r\n\r\n".to_vec()];
    // Every kind of frame, with a payload of noise, of none, and one that ends early.
    for kind in 0..=u8::MAX {
        for (promised, sent) in [(64_u32, 64), (0, 0), (1 << 20, 100)] {
            let mut frame = promised.to_le_bytes().to_vec();
            frame.push(kind);
            frame.extend(noise(sent));
            cases.push(frame);
        }
    }
    let mut open = Vec::new();
    for case in &cases {
        let mut stream = UnixStream::connect(&socket).unwrap();
        // It may have hung up already.
        let _ = stream.write_all(case);
        if case.len() == 105 {
            open.push(stream);
        }
    }
    compile(&space).success();
    assert_eq!(space.listener(), Some(daemon));
    drop(open);
    assert!(!space.log().contains("panicked"), "{}", space.log());
    assert_eq!(space.stats().commands(), 1, "{}", space.stats().0);
}

#[test]
fn strategy_remote_fails_where_the_cluster_is_gone_and_says_so() {
    let space = space("remote-only");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let text = format!("[remote]\naddress = \"grpc://127.0.0.1:{port}\"\n[exec]\nstrategy = \"remote\"\n");
    space.configure(&text);
    let finished = compile(&space);
    assert_eq!(finished.status, 1);
    let said = finished.stderr_text();
    assert!(said.contains(&format!("127.0.0.1:{port}")) && said.contains("strategy"), "{said}");
    assert!(!space.workspace().join("a.o").exists());
    assert_eq!(space.stats().reason("remote_unavailable"), 1);
    // What the compiler says of a bad source is not lost with it.
    let cluster = FakeReapi::new().execute(|_, _, _| {
        let mut failure = succeed(Vec::new());
        failure.exit_code = 3;
        failure.stderr_raw = b"a.c: no good\n".to_vec();
        failure
    });
    let cluster = cluster.start();
    space.configure(&text.replace(&format!("grpc://127.0.0.1:{port}"), &cluster.address()));
    let finished = compile(&space);
    assert_eq!((finished.status, finished.stderr_text()), (3, "a.c: no good\n".to_owned()));
}

#[test]
fn strategy_local_leaves_the_cluster_alone() {
    let space = space("local");
    let cluster = cluster();
    space
        .configure(&format!("[remote]\naddress = \"{}\"\n[exec]\nstrategy = \"local\"\n", cluster.address()));
    compile(&space).success();
    assert_eq!(space.stats().reason("no_remote"), 1, "{}", space.stats().0);
    compile(&space).success();
    assert_eq!(space.stats().verdict("hit_local"), 1);
    assert_eq!(cluster.all_calls().len(), 0, "{:?}", cluster.all_calls());
}

#[test]
fn the_first_route_that_matches_counts() {
    let space = space("routes");
    let cluster = cluster();
    let routes =
        "[[route]]\nmatch = '-DTHERE'\nto = 'remote'\n[[route]]\nmatch = '-D(THERE|HERE)\\b'\nto = 'local'\n";
    space.configure(&format!("[remote]\naddress = \"{}\"\n{routes}", cluster.address()));
    space.sh("", "farcc gcc -DTHERE -MMD -c a.c").success();
    assert_eq!(object(&space), MADE_THERE);
    space.sh("", "farcc gcc -DHERE -MMD -c a.c").success();
    assert_ne!(object(&space), MADE_THERE);
    assert_eq!(space.stats().reason("route"), 1);
    space.sh("", "farcc gcc -DHEREABOUTS -MMD -c a.c").success();
    assert_eq!(object(&space), MADE_THERE);
}

#[test]
fn accept_cached_false_executes_again() {
    let space = space("not-cached");
    let cluster = cluster();
    for (accept_cached, executed) in [(true, 1), (true, 1), (false, 2), (false, 3), (true, 3)] {
        space.configure(&format!(
            "[remote]\naddress = \"{}\"\n[exec]\naccept_cached = {accept_cached}\n",
            cluster.address()
        ));
        space.empty_farcc_dir();
        compile(&space).success();
        assert_eq!(object(&space), MADE_THERE);
        assert_eq!(cluster.executed().len(), executed);
    }
}

#[test]
fn another_salt_is_another_cache() {
    let space = space("salt");
    let cluster = cluster();
    for (salt, executed) in [("one", 1), ("two", 2), ("one", 2), ("", 3), ("two", 3)] {
        space.configure(&format!(
            "[remote]\naddress = \"{}\"\n[exec]\nsalt = \"{salt}\"\n",
            cluster.address()
        ));
        compile(&space).success();
        assert_eq!(cluster.executed().len(), executed, "{salt}");
    }
    assert_eq!(space.stats().verdict("hit_local"), 2);
}

#[test]
fn one_daemon_serves_two_configurations() {
    let space = space("two");
    let clusters = [cluster(), cluster()];
    let configuration = |number: usize| space.home().join(format!("{number}.toml"));
    for (number, cluster) in clusters.iter().enumerate() {
        let store = space.root().join(format!("client/store{number}"));
        let text = format!(
            "[remote]\naddress = \"{}\"\n[cache]\ndir = \"{}\"\n",
            cluster.address(),
            store.display()
        );
        std::fs::write(configuration(number), text).unwrap();
    }
    space.start_daemon();
    let daemon = space.listener();
    for round in 1..=2 {
        for (number, cluster) in clusters.iter().enumerate() {
            let mut command = space.command("sh");
            run(command.args(["-c", COMPILE]).env("FARCC_CONFIG", configuration(number))).success();
            assert_eq!(cluster.executed().len(), 1, "round {round}");
        }
    }
    // A variable of the command has the last word.
    let mut command = space.command("sh");
    command.args(["-c", COMPILE]).env("FARCC_CONFIG", configuration(0)).env("FARCC_EXEC_SALT", "mine");
    run(&mut command).success();
    assert_eq!([clusters[0].executed().len(), clusters[1].executed().len()], [2, 1]);
    assert_eq!(space.listener(), daemon);
    let stats = space.stats();
    assert_eq!((stats.verdict("executed_remote"), stats.verdict("hit_local")), (3, 2), "{}", stats.0);
}

#[test]
fn a_changed_configuration_is_seen_at_the_next_command() {
    let space = space("changed");
    let cluster = cluster();
    compile(&space).success();
    let daemon = space.listener();
    assert_eq!(space.stats().reason("no_remote"), 1);
    let with_salt =
        |salt: &str| format!("[remote]\naddress = \"{}\"\n[exec]\nsalt = \"{salt}\"\n", cluster.address());
    space.configure(&with_salt("a"));
    compile(&space).success();
    assert_eq!(cluster.executed().len(), 1);
    // The same length and the same second.
    space.configure(&with_salt("b"));
    compile(&space).success();
    assert_eq!(cluster.executed().len(), 2);
    assert_eq!(space.listener(), daemon);
}

#[test]
fn a_broken_configuration_stops_no_command() {
    let space = space("broken");
    let broken =
        ["[remote\n", "[remote]\nadress = \"x\"\n", "[remote]\naddress = \"$NOT_SET\"\n", "jobs = 1\n"];
    for (number, text) in (1..).zip(broken) {
        // The first one starts the daemon, too.
        space.configure(text);
        let _ = std::fs::remove_file(space.workspace().join("a.o"));
        let finished = compile(&space).success();
        assert_eq!(finished.stderr_text(), "");
        assert!(space.workspace().join("a.o").is_file());
        assert_eq!(space.stats().reason("configuration"), number, "{text}");
    }
    std::fs::remove_file(space.config_file()).unwrap();
    compile(&space).success();
    assert_eq!(space.stats().reason("configuration"), 5, "FARCC_CONFIG names a file that is not there");
    space.configure("");
    compile(&space).success();
    assert_eq!(space.stats().verdict("executed_local"), 1);
}

#[test]
fn compilers_that_do_not_answer_hold_up_nobody_else() {
    let space = space("stuck-compilers");
    space.write("stuck.c", "#include <unistd.h>\nint main(void) { for (;;) pause(); }\n");
    space.sh("", "gcc stuck.c -o stuck").success();
    // More than commands are prepared at a time.
    let processors = std::thread::available_parallelism().unwrap().get();
    let stuck: Vec<Child> = (0..(2 * processors).max(16) + 4)
        .map(|number| {
            space.sh("", &format!("mkdir c{number} && cp stuck c{number}/gcc")).success();
            let mut command = space.command(&space.binaries().farcc);
            command
                .args([&format!("c{number}/gcc"), "-c", "a.c", "-o", &format!("{number}.o")])
                .spawn()
                .unwrap()
        })
        .collect();
    wait_until("all commands under way", 20, || {
        space.status()["daemon"]["connections"]
            .as_u64()
            .is_some_and(|commands| commands >= stuck.len() as u64)
    });
    let started = Instant::now();
    compile(&space).success();
    let took = started.elapsed();
    for mut child in stuck {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    // A compiler is given half a minute to answer.
    assert!(took < Duration::from_secs(15), "{took:?}");
}
