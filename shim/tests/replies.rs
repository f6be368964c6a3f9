//! What the launcher does with each answer of the daemon, and without one.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::ffi::OsStr;
use std::io::Read;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

use farcc::wire::DoneReport;
use farcc::wire::Ended;
use farcc::wire::Reply;
use farcc::wire::Request;
use farcc::wire::SILENCE;
use support::*;

#[test]
fn completed_is_printed_byte_for_byte() {
    let space = Space::new();
    let stdout: Vec<u8> = (0..10_000_000_u32).map(|n| n.to_le_bytes()[usize::from(n % 3 == 0)]).collect();
    let stderr = b"warning: \xff\0 unused\n".to_vec();
    space.daemon_that_replies(Reply::Completed {
        exit_code: 3,
        stdout: stdout.clone(),
        stderr: stderr.clone(),
    });
    let output = space.farcc(&["sh", "-c", "echo ran; exit 9"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(output.stdout == stdout && output.stderr == stderr);
}

#[test]
fn completed_goes_whole_into_a_non_blocking_pipe() {
    let space = Space::new();
    space.daemon_that_replies(Reply::Completed { exit_code: 0, stdout: vec![b'x'; 1 << 20], stderr: vec![] });
    let (mut reader, writer) = std::io::pipe().unwrap();
    // The flag belongs to the open pipe, so the launcher meets it as a child of some event loops would.
    rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::WRONLY).unwrap();
    let mut child = space.farcc(&["true"]).stdout(writer).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let mut received = Vec::new();
    reader.read_to_end(&mut received).unwrap();
    assert!(wait(&mut child).success());
    assert_eq!(received.len(), 1 << 20);
}

#[test]
fn a_reader_that_is_gone_ends_the_launcher_as_it_would_the_compiler() {
    let space = Space::new();
    space.daemon_that_replies(Reply::Completed { exit_code: 0, stdout: vec![b'x'; 1000], stderr: vec![] });
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = space.farcc(&["true"]).stdout(writer).output().unwrap();
    assert_eq!(output.status.signal(), Some(libc::SIGPIPE));
}

#[test]
fn output_that_cannot_be_written_is_a_failure() {
    let space = Space::new();
    space.daemon_that_replies(Reply::Completed { exit_code: 0, stdout: vec![b'x'], stderr: vec![] });
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = space.farcc(&["true"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("standard output"));
}

#[test]
fn the_request_describes_the_command() {
    let space = Space::new();
    let (send, receive) = std::sync::mpsc::sync_channel(1);
    space.daemon(move |_, mut conversation| {
        send.send(conversation.run_request()).unwrap();
        conversation.reply(pass_through());
    });
    let odd = OsStr::from_bytes(b"\xff\n\x01 odd");
    let mut command = space.command("sh", &["-c", "umask 027; exec \"$@\"", "sh", FARCC, "true", ""]);
    stdout(&command.arg(odd).env("ODD", odd).stdin(Stdio::null()).output().unwrap());
    let request = receive.recv().unwrap();
    assert_eq!(request.argv, [OsStr::new("true"), OsStr::new(""), odd]);
    assert!(request.program.is_absolute() && request.program.ends_with("true"), "{:?}", request.program);
    assert_eq!(request.cwd, space.directory.path().canonicalize().unwrap());
    assert_eq!(request.umask, 0o027);
    assert!(request.env.contains(&("ODD".into(), odd.into())));
    assert_eq!(
        [request.stdin_is_terminal, request.stdout_is_terminal, request.stderr_is_terminal],
        [false; 3]
    );
}

#[test]
fn huge_command_lines_arrive() {
    let space = Space::new();
    let (send, receive) = std::sync::mpsc::sync_channel(1);
    space.daemon(move |_, mut conversation| {
        send.send(conversation.run_request().argv).unwrap();
        conversation.reply(pass_through());
    });
    let args: Vec<String> = (0..12).map(|n| format!("{n}{}", "x".repeat(100_000))).collect();
    let args: Vec<&str> = ["true"].into_iter().chain(args.iter().map(String::as_str)).collect();
    stdout(&space.farcc(&args).output().unwrap());
    assert_eq!(receive.recv().unwrap(), os(&args));
}

/// Runs `sh -c script` under a daemon that wants it stored, and returns what came out and what was reported.
fn run_and_store(space: &Space, script: &str) -> (std::process::Output, Option<DoneReport>) {
    let report = Arc::new(Mutex::new(None));
    let reported = Arc::clone(&report);
    space.daemon(move |_, mut conversation| {
        let argv = conversation.run_request().argv;
        conversation.reply(Reply::Working);
        conversation.reply(Reply::RunAndStore { argv, reason: "test".into() });
        if let Ok(Request::Done(done)) = conversation.request() {
            *reported.lock().unwrap() = Some(done);
            let _ = conversation.link.send(&farcc::wire::Frame::Reply(acknowledged()));
        }
    });
    let output = space.farcc(&["sh", "-c", script]).stdin(Stdio::null()).output().unwrap();
    // A launcher that dies by a signal does not wait for the daemon.
    let _ = (0..200).find(|_| {
        std::thread::sleep(Duration::from_millis(5));
        report.lock().unwrap().is_some()
    });
    let done = report.lock().unwrap().take();
    (output, done)
}

#[test]
fn a_stored_run_streams_and_reports() {
    let space = Space::new();
    let (output, done) = run_and_store(&space, "echo out; echo err >&2; exit 7");
    assert_eq!(
        (output.status.code(), &output.stdout[..], &output.stderr[..]),
        (Some(7), &b"out\n"[..], &b"err\n"[..])
    );
    let expected = DoneReport {
        ended: Ended::Exited(7),
        stdout: b"out\n".into(),
        stderr: b"err\n".into(),
        captured: true,
        micros: 0,
    };
    assert_eq!(done.map(untimed), Some(expected));
}

#[test]
fn large_streams_arrive_whole_on_both_descriptors() {
    let space = Space::new();
    let script = "head -c 10000000 /dev/urandom | tee o; head -c 10000000 /dev/urandom | tee e >&2";
    let (output, done) = run_and_store(&space, script);
    let done = done.unwrap();
    assert!(output.status.success() && done.captured);
    let (o, e) = (std::fs::read(space.path("o")).unwrap(), std::fs::read(space.path("e")).unwrap());
    assert!(output.stdout == o && output.stderr == e && done.stdout == o && done.stderr == e);
}

#[test]
fn too_much_output_is_passed_on_but_not_kept() {
    let space = Space::new();
    let (output, done) = run_and_store(&space, "echo warning >&2; head -c 20000000 /dev/zero");
    assert_eq!(output.stdout.len(), 20_000_000);
    let (stdout, stderr) = (vec![], vec![]);
    let expected = DoneReport { ended: Ended::Exited(0), stdout, stderr, captured: false, micros: 0 };
    assert_eq!(done.map(untimed), Some(expected));
}

/// A report without what differs from run to run.
fn untimed(done: DoneReport) -> DoneReport {
    DoneReport { micros: 0, ..done }
}

#[test]
fn a_stored_run_tells_how_long_the_command_took() {
    let space = Space::new();
    // A slot that is waited for is no part of the command.
    let slots = space.places().slots();
    let one = std::num::NonZeroUsize::MIN;
    farcc::slots::set_count(&slots, one).unwrap();
    let taken = farcc::slots::acquire(&slots, one).unwrap();
    let freed = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(1500));
        drop(taken);
    });
    let (_, done) = run_and_store(&space, "sleep 0.2");
    freed.join().unwrap();
    let micros = done.unwrap().micros;
    assert!((200_000..1_400_000).contains(&micros), "{micros}");
}

#[test]
fn a_stored_run_ends_by_the_child_s_signal() {
    let space = Space::new();
    let (output, done) = run_and_store(&space, "echo before; kill -SEGV $$");
    assert_eq!(output.status.signal(), Some(libc::SIGSEGV));
    assert!(!output.status.core_dumped());
    assert_eq!(output.stdout, b"before\n");
    assert_eq!(done.unwrap().ended, Ended::Signaled(11));
}

#[test]
fn a_process_that_outlives_the_command_is_not_waited_for() {
    let space = Space::new();
    let start = Instant::now();
    // It holds only the launcher's pipes, which nobody but the launcher reads.
    let mut command = space.farcc(&["sh", "-c", "sleep 15 & echo $! >pid; echo done"]);
    space.daemon(|_, mut conversation| {
        let argv = conversation.run_request().argv;
        conversation.reply(Reply::RunAndStore { argv, reason: "test".into() });
        let Ok(Request::Done(done)) = conversation.request() else { panic!() };
        // What it may still write is not known.
        assert!(!done.captured);
        conversation.reply(acknowledged());
    });
    assert_eq!(stdout(&command.output().unwrap()), "done\n");
    assert!(start.elapsed() < Duration::from_secs(10));
    kill(std::fs::read_to_string(space.path("pid")).unwrap().trim().parse().unwrap(), libc::SIGKILL);
}

#[test]
fn signals_reach_the_child_which_decides() {
    let space = Space::new();
    space.daemon(|_, mut conversation| {
        let argv = conversation.run_request().argv;
        conversation.reply(Reply::RunAndStore { argv, reason: "test".into() });
        let _ = conversation.request();
    });
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT] {
        let script =
            format!("trap 'echo caught >caught; exit 5' {signal}; echo >ready; while :; do sleep 0.05; done");
        let mut command = that_heeds_signals(space.farcc(&["sh", "-c", &script]));
        let mut child = command.stdin(Stdio::null()).spawn().unwrap();
        wait_until("the child is ready", || space.path("ready").exists());
        kill(child.id(), signal);
        assert_eq!(wait(&mut child).code(), Some(5), "signal {signal}");
        std::fs::remove_file(space.path("ready")).unwrap();
        std::fs::remove_file(space.path("caught")).unwrap();
    }
    let mut child = space.farcc(&["sh", "-c", "echo >ready; exec sleep 15"]).spawn().unwrap();
    wait_until("the child is ready", || space.path("ready").exists());
    kill(child.id(), libc::SIGTERM);
    assert_eq!(wait(&mut child).signal(), Some(libc::SIGTERM));
}

#[test]
fn a_killed_launcher_takes_the_child_with_it() {
    let space = Space::new();
    space.daemon(|_, mut conversation| {
        let argv = conversation.run_request().argv;
        conversation.reply(Reply::RunAndStore { argv, reason: "test".into() });
        let _ = conversation.request();
    });
    let script = "echo $$ >pid.new; mv pid.new pid; exec sleep 30";
    let mut launcher = space.farcc(&["sh", "-c", script]).spawn().unwrap();
    wait_until("the child is ready", || space.path("pid").exists());
    let child = std::fs::read_to_string(space.path("pid")).unwrap();
    launcher.kill().unwrap();
    wait(&mut launcher);
    let proc = std::path::PathBuf::from(format!("/proc/{}", child.trim()));
    wait_until("the child is gone", || {
        // A zombie that nobody reaps in this container is gone too.
        std::fs::read_to_string(proc.join("stat")).map_or(true, |stat| stat.contains(") Z"))
    });
}

#[test]
fn the_child_meets_a_closed_pipe_itself() {
    let space = Space::new();
    space.daemon(|_, mut conversation| {
        let argv = conversation.run_request().argv;
        conversation.reply(Reply::RunAndStore { argv, reason: "test".into() });
        let _ = conversation.request();
    });
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = space.farcc(&["yes"]).stdout(writer).output().unwrap();
    assert_eq!(output.status.signal(), Some(libc::SIGPIPE));
}

#[test]
fn a_daemon_that_dies_while_it_stores_changes_nothing() {
    let space = Space::new();
    space.daemon(|_, mut conversation| {
        let argv = conversation.run_request().argv;
        conversation.reply(Reply::RunAndStore { argv, reason: "test".into() });
        let _ = conversation.request();
    });
    let output = space.farcc(&["sh", "-c", "echo once >>runs; echo out"]).output().unwrap();
    assert_eq!(stdout(&output), "out\n");
    assert_eq!(std::fs::read_to_string(space.path("runs")).unwrap(), "once\n");
}

#[test]
fn the_launcher_waits_until_the_outputs_are_stored() {
    let space = Space::new();
    let path = space.path("stored");
    space.daemon(move |_, mut conversation| {
        let argv = conversation.run_request().argv;
        conversation.reply(Reply::RunAndStore { argv, reason: "test".into() });
        conversation.request().unwrap();
        conversation.reply(Reply::Working);
        std::thread::sleep(Duration::from_millis(200));
        std::fs::write(&path, "").unwrap();
        conversation.reply(acknowledged());
    });
    stdout(&space.farcc(&["true"]).output().unwrap());
    assert!(space.path("stored").exists());
}

/// The command's own result, whatever the daemon does.
fn check_goes_local(answer: impl Fn(Conversation) + Send + Sync + 'static, reason: &str) -> usize {
    let space = Space::new();
    let daemon = space.daemon(move |_, conversation| answer(conversation));
    let output = space.farcc(&["sh", "-c", "echo local; exit 4"]).env("FARCC_LOG", "debug").output().unwrap();
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(4), &b"local\n"[..]));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains(reason), "{stderr:?} does not say {reason:?}");
    daemon.connections()
}

#[test]
fn whatever_goes_wrong_before_a_run_the_command_runs() {
    let refused = |mut conversation: Conversation| {
        conversation.run_request();
        conversation.reply(Reply::Refused { message: "stopping".into() });
    };
    assert_eq!(check_goes_local(refused, "stopping"), 1);
    // A daemon that dies of a request is not asked again.
    let dies = |mut conversation: Conversation| drop(conversation.run_request());
    assert_eq!(check_goes_local(dies, "ask the daemon"), 1);
    let dies_later = |mut conversation: Conversation| {
        conversation.run_request();
        conversation.reply(Reply::Working);
    };
    assert_eq!(check_goes_local(dies_later, "ask the daemon"), 1);
    let cut = |mut conversation: Conversation| {
        conversation.run_request();
        let bytes = acknowledged().encode().unwrap();
        conversation.link.stream().write_all(&bytes[..bytes.len() - 1]).unwrap();
    };
    assert_eq!(check_goes_local(cut, "ask the daemon"), 1);
    for garbage in [&b"\xff\xff\xff\xff\xff"[..], b"\0\0\0\0\x01", b"HTTP/1.1 400 Bad Request\r\n\r\n"] {
        let garbage = |mut conversation: Conversation| {
            conversation.run_request();
            let _ = conversation.link.stream().write_all(garbage);
        };
        assert_eq!(check_goes_local(garbage, "ask the daemon"), 1);
    }
    let out_of_place = |mut conversation: Conversation| {
        conversation.run_request();
        conversation.reply(Reply::Text(b"what?".into()));
    };
    assert_eq!(check_goes_local(out_of_place, "out of place"), 1);
    let names_nothing = |mut conversation: Conversation| {
        conversation.run_request();
        conversation.reply(Reply::RunAndStore { argv: vec![], reason: String::new() });
    };
    assert_eq!(check_goes_local(names_nothing, "out of place"), 1);
}

#[test]
fn a_daemon_that_goes_away_as_we_come_is_asked_once_more() {
    let space = Space::new();
    // The connection ends with the request unread: nobody has begun anything.
    let daemon = space.daemon(|number, mut conversation| {
        if number > 0 {
            conversation.run_request();
            conversation.reply(Reply::Completed { exit_code: 0, stdout: b"second".into(), stderr: vec![] });
        } else {
            let mut one = [0];
            conversation.link.stream().read_exact(&mut one).unwrap();
        }
    });
    assert_eq!(stdout(&space.farcc(&["echo", "local"]).output().unwrap()), "second");
    assert_eq!(daemon.connections(), 2);
}

#[test]
fn a_daemon_that_is_silent_is_left_and_not_asked_for_a_while() {
    let space = Space::new();
    let daemon = space.daemon(|_, mut conversation| {
        conversation.run_request();
        // As if stopped: until the launcher gives up.
        let _ = conversation.request();
    });
    let lock = space.places().lock_daemon().unwrap();
    let start = Instant::now();
    assert_eq!(stdout(&space.farcc(&["echo", "local"]).output().unwrap()), "local\n");
    assert!(start.elapsed() >= SILENCE && start.elapsed() < 2 * SILENCE);
    let start = Instant::now();
    assert_eq!(stdout(&space.farcc(&["echo", "local"]).output().unwrap()), "local\n");
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(daemon.connections(), 1);
    assert!(space.places().stuck().recall().is_some());
    // Whoever comes when that one is gone need not wait until it is forgotten.
    drop(lock);
    assert_eq!(stdout(&space.farcc(&["echo", "local"]).output().unwrap()), "local\n");
    assert_eq!(daemon.connections(), 2);
    // A new daemon starts with a clean slate.
    drop(space.places().bind().unwrap());
    assert_eq!(space.places().stuck().recall(), None);
}

#[test]
fn an_interrupted_launcher_dies_and_the_daemon_sees_it() {
    let space = Space::new();
    let (send, receive) = std::sync::mpsc::sync_channel(1);
    space.daemon(move |_, mut conversation| {
        conversation.run_request();
        send.send(None).unwrap();
        send.send(Some(conversation.request().unwrap_err().kind())).unwrap();
    });
    let mut child = that_heeds_signals(space.farcc(&["true"])).spawn().unwrap();
    assert_eq!(receive.recv().unwrap(), None);
    kill(child.id(), libc::SIGINT);
    assert_eq!(wait(&mut child).signal(), Some(libc::SIGINT));
    assert_eq!(receive.recv().unwrap(), Some(std::io::ErrorKind::UnexpectedEof));
}

#[test]
fn the_socket_of_another_user_is_refused() {
    // Only root can make one.
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let space = Space::new();
    let daemon =
        space.daemon_that_replies(Reply::Completed { exit_code: 0, stdout: b"evil".into(), stderr: vec![] });
    let output = space.farcc(&["echo", "local"]).output().unwrap();
    assert_eq!(stdout(&output), "evil");
    // The peer's user is that of the process at the time of `listen`, so a launcher of another user sees ours.
    std::fs::set_permissions(space.directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    let places = space.places();
    for path in [space.farcc_dir(), &places.run] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let socket = places.run.join(places.socket_name());
    std::fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    // The name has the user in it; somebody who wants to be met gives the socket that of the victim.
    let victim = socket.to_str().unwrap().replace("-0-", "-65534-");
    std::os::unix::fs::symlink(&socket, victim).unwrap();
    let launcher = space.copy_of_farcc("farcc-copy");
    let mut command = space.command(&launcher, &["echo", "local"]);
    std::os::unix::process::CommandExt::uid(&mut command, 65534);
    let output = command.env("FARCC_LOG", "debug").output().unwrap();
    assert_eq!(output.stdout, b"local\n");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("belongs to uid 0"), "{stderr}");
    assert_eq!(daemon.connections(), 2, "the second was made, and left without a word");
}
