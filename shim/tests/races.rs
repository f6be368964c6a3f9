//! What the launcher does with a command that the cluster has, too.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::num::NonZeroUsize;
use std::os::unix::process::ExitStatusExt;
use std::process::Child;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use farcc::slots;
use farcc::wire::Ended;
use farcc::wire::Frame;
use farcc::wire::Reply;
use farcc::wire::Request;
use support::*;

/// Tells what the script writes once all of it runs.
const READY: &str = "echo >ready.new; mv ready.new ready";

/// A daemon that begins a race, and stops it when `stop` is there. Its end of the conversation is written down.
fn racing_daemon(space: &Space) {
    let (stop, said) = (space.path("stop"), space.path("said"));
    space.daemon(move |_, mut conversation| {
        let argv = conversation.run_request().argv;
        conversation.reply(Reply::Race { argv });
        conversation.reply(Reply::Working);
        conversation.link.set_patience(Some(Duration::from_millis(50))).unwrap();
        let mut is_told = false;
        let said_by = |text: String| {
            std::fs::write(said.with_extension("new"), text).unwrap();
            std::fs::rename(said.with_extension("new"), &said).unwrap();
        };
        loop {
            match conversation.request() {
                Ok(Request::Stopped) => {
                    said_by("stopped".into());
                    let (stdout, stderr) = (b"there\n".into(), b"warning of there\n".into());
                    conversation.reply(Reply::Completed { exit_code: 0, stdout, stderr });
                }
                Ok(Request::Done(done)) => {
                    said_by(format!("{:?} {:?} {}", done.ended, done.stdout, done.captured));
                    conversation.reply(acknowledged());
                }
                Ok(other) => panic!("{other:?}"),
                Err(error) if error.kind() != std::io::ErrorKind::TimedOut => return,
                Err(_) if !is_told && stop.exists() => {
                    conversation.reply(Reply::Stop);
                    is_told = true;
                }
                Err(_) => {}
            }
        }
    });
}

fn said(space: &Space) -> String {
    std::fs::read_to_string(space.path("said")).unwrap_or_default()
}

fn spawn(space: &Space, script: &str) -> Child {
    let mut command = that_heeds_signals(space.farcc(&["sh", "-c", script]));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn wait_until_ready(space: &Space) {
    wait_until("the script is under way", || space.path("ready").exists());
}

fn finish(child: Child) -> (std::process::ExitStatus, String, String) {
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status, text(output.stdout), text(output.stderr))
}

fn exists(pid: &str) -> bool {
    std::path::Path::new("/proc").join(pid.trim()).exists()
}

#[test]
fn who_ends_first_has_won_and_then_prints() {
    let space = Space::new();
    racing_daemon(&space);
    let mut child =
        spawn(&space, &format!("echo out; echo err >&2; {READY}; until [ -e go ]; do sleep 0.02; done"));
    wait_until_ready(&space);
    // Long enough for what is not held back.
    let mut stdout = child.stdout.take().unwrap();
    rustix::io::ioctl_fionbio(&stdout, true).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let early = std::io::Read::read(&mut stdout, &mut [0; 1]);
    assert_eq!(early.map_err(|error| error.kind()), Err(std::io::ErrorKind::WouldBlock), "printed too early");
    rustix::io::ioctl_fionbio(&stdout, false).unwrap();
    child.stdout = Some(stdout);
    std::fs::write(space.path("go"), "").unwrap();
    let (status, stdout, stderr) = finish(child);
    assert_eq!((status.code(), stdout.as_str(), stderr.as_str()), (Some(0), "out\n", "err\n"));
    assert_eq!(said(&space), format!("{:?} {:?} true", Ended::Exited(0), b"out\n".to_vec()));
}

#[test]
fn a_loser_goes_with_all_that_it_started_and_has_said_nothing() {
    let space = Space::new();
    racing_daemon(&space);
    // A driver that cleans up, a child of its, and one that does not heed what it is told.
    let script = "trap 'rm temporary; exit 1' TERM; echo out; echo err >&2; echo >temporary; \
                  sh -c 'echo $$ >deaf; trap \"\" TERM; while :; do sleep 0.05; done' & \
                  sh -c 'sleep 100 & echo $! >orphan; exit' & wait $!;";
    let child = spawn(&space, &format!("{script} until [ -e deaf ]; do sleep 0.01; done; {READY}; wait"));
    wait_until_ready(&space);
    let pids = ["deaf", "orphan"].map(|name| std::fs::read_to_string(space.path(name)).unwrap());
    assert!(pids.iter().all(|pid| exists(pid)));
    let started = Instant::now();
    std::fs::write(space.path("stop"), "").unwrap();
    wait_until("the launcher's word", || !said(&space).is_empty());
    assert_eq!(said(&space), "stopped");
    assert!(!pids.iter().any(|pid| exists(pid)), "some live on: {pids:?}");
    assert!(!space.path("temporary").exists(), "the driver could not clean up");
    assert!(started.elapsed() < Duration::from_secs(5));
    let (status, stdout, stderr) = finish(child);
    assert_eq!((status.code(), stdout.as_str(), stderr.as_str()), (Some(0), "there\n", "warning of there\n"));
}

#[test]
fn who_is_stopped_at_once_never_runs() {
    let space = Space::new();
    space.daemon(|_, mut conversation| {
        let argv = conversation.run_request().argv;
        // In one piece, as they arrive when the launcher was not scheduled between them.
        let frames = [Reply::Race { argv }, Reply::Working, Reply::Stop];
        let bytes: Vec<u8> =
            frames.into_iter().flat_map(|reply| Frame::Reply(reply).encode().unwrap()).collect();
        std::io::Write::write_all(&mut conversation.link.stream(), &bytes).unwrap();
        assert_eq!(conversation.request().unwrap(), Request::Stopped);
        conversation.reply(acknowledged());
    });
    let started = Instant::now();
    assert_eq!(stdout(&space.farcc(&["sh", "-c", "echo >ran; sleep 10"]).output().unwrap()), "");
    assert!(!space.path("ran").exists() && started.elapsed() < Duration::from_secs(5));
}

#[test]
fn without_a_free_slot_the_launcher_waits_for_the_daemon() {
    let space = Space::new();
    racing_daemon(&space);
    space.places().prepare_run().unwrap();
    let held = slots::acquire(&space.places().slots(), NonZeroUsize::MIN).unwrap();
    let mut command = space.farcc(&["sh", "-c", "echo >ran"]);
    let mut child = command.env("FARCC_EXEC_LOCAL_JOBS", "1").stdout(Stdio::piped()).spawn().unwrap();
    wait_until("the launcher's word", || !said(&space).is_empty());
    assert!(wait(&mut child).success());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.stdout.as_slice(), said(&space).as_str()), (b"there\n".as_slice(), "stopped"));
    assert!(!space.path("ran").exists());
    drop(held);
}

#[test]
fn the_child_holds_a_slot() {
    let space = Space::new();
    racing_daemon(&space);
    let directory = space.places().slots();
    space.places().prepare_run().unwrap();
    slots::set_count(&directory, NonZeroUsize::MIN).unwrap();
    let child = spawn(&space, &format!("{READY}; until [ -e go ]; do sleep 0.02; done"));
    wait_until_ready(&space);
    let is_free = || slots::acquire_free(&directory, NonZeroUsize::MIN).unwrap().is_some();
    assert!(!is_free());
    std::fs::write(space.path("stop"), "").unwrap();
    wait_until("the launcher's word", || said(&space) == "stopped");
    assert!(is_free());
    finish(child);
}

#[test]
fn without_its_daemon_the_child_goes_on() {
    let space = Space::new();
    let gone = space.path("gone");
    space.daemon(move |_, mut conversation| {
        let argv = conversation.run_request().argv;
        conversation.reply(Reply::Race { argv });
        drop(conversation);
        std::fs::write(&gone, "").unwrap();
    });
    let script = "echo once >>runs; until [ -e gone ]; do sleep 0.02; done; sleep 0.3; echo out; exit 7";
    let (status, stdout, _) = finish(spawn(&space, script));
    assert_eq!((status.code(), stdout.as_str()), (Some(7), "out\n"));
    assert_eq!(std::fs::read_to_string(space.path("runs")).unwrap(), "once\n");
}

#[test]
fn a_daemon_that_dies_after_the_race_leaves_the_command_to_the_launcher() {
    let space = Space::new();
    space.daemon(|number, mut conversation| {
        let argv = conversation.run_request().argv;
        if number > 0 {
            return conversation.reply(pass_through());
        }
        conversation.reply(Reply::Race { argv });
        conversation.reply(Reply::Stop);
        assert_eq!(conversation.request().unwrap(), Request::Stopped);
    });
    assert_eq!(stdout(&space.farcc(&["sh", "-c", "sleep 1; echo out"]).output().unwrap()), "out\n");
}

/// The terminal sends ^C to the launcher's process group alone.
#[test]
fn a_signal_for_the_launcher_ends_all_and_is_the_result() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT] {
        let space = Space::new();
        racing_daemon(&space);
        let child = spawn(&space, &format!("sleep 100 & echo $! >pid; {READY}; wait"));
        wait_until_ready(&space);
        let below = std::fs::read_to_string(space.path("pid")).unwrap();
        kill(child.id(), signal);
        let (status, ..) = finish(child);
        // A shell starts what it has in the background so that it does not heed ^C.
        if [libc::SIGTERM, libc::SIGHUP].contains(&signal) {
            wait_until("the end of what it started", || !exists(&below));
        } else {
            kill(below.trim().parse().unwrap(), libc::SIGKILL);
        }
        assert_eq!(status.signal(), Some(signal));
        wait_until("the report", || !said(&space).is_empty());
        assert!(said(&space).starts_with(&format!("Signaled({signal})")), "{}", said(&space));
    }
}

/// Who was told to end and does not, as below nohup, is not ended in favour of the cluster: that would be told as his end.
#[test]
fn a_signal_that_the_child_survives_makes_it_the_only_one() {
    let space = Space::new();
    racing_daemon(&space);
    let script =
        format!("trap 'echo heard >heard' HUP; {READY}; until [ -e go ]; do sleep 0.02; done; echo out");
    let child = spawn(&space, &script);
    wait_until_ready(&space);
    kill(child.id(), libc::SIGHUP);
    wait_until("the signal", || space.path("heard").exists());
    std::fs::write(space.path("stop"), "").unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(said(&space), "");
    std::fs::write(space.path("go"), "").unwrap();
    let (status, stdout, _) = finish(child);
    assert_eq!((status.code(), stdout.as_str()), (Some(0), "out\n"));
}

/// Nothing of the cluster's is taken by a launcher that was told to end while it waited for the loser.
#[test]
fn a_signal_while_the_loser_is_ended_ends_the_launcher() {
    let space = Space::new();
    racing_daemon(&space);
    let script = format!("trap 'echo >told' TERM; {READY}; while :; do sleep 0.02; done");
    let child = spawn(&space, &script);
    wait_until_ready(&space);
    std::fs::write(space.path("stop"), "").unwrap();
    wait_until("the end of the race", || space.path("told").exists());
    kill(child.id(), libc::SIGINT);
    let (status, stdout, _) = finish(child);
    assert_eq!((status.signal(), stdout.as_str()), (Some(libc::SIGINT), ""));
    assert_eq!(said(&space), "");
}
