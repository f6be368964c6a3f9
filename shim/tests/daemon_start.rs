//! How launchers start the daemon: one for all, detached from the build, and never at the build's expense.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use farcc::places::Places;
use farcc::wire::Reply;
use support::*;

/// What a started daemon is: this program again, called by a script with this variable set.
const ROLE: &str = "FARCC_TEST_DAEMON_DELAY_MS";

/// No test in an ordinary run. With [`ROLE`] it is a daemon that becomes ready late, answers each command
/// `by daemon`, and lives as long as its directory.
#[test]
fn acts_as_daemon() {
    let Some(delay) = std::env::var_os(ROLE) else { return };
    let places = Places::from_env(&|name| std::env::var_os(name));
    let lock = places.lock_daemon().unwrap().expect("another daemon has the lock");
    std::thread::sleep(Duration::from_millis(delay.to_str().unwrap().parse().unwrap()));
    let listener = places.bind().unwrap();
    let _daemon = serve(listener, |_, mut conversation| {
        conversation.run_request();
        conversation.reply(Reply::Completed { exit_code: 0, stdout: b"by daemon\n".into(), stderr: vec![] });
    });
    std::fs::write("/proc/self/fd/3", "r").unwrap();
    for _ in 0..600 {
        if !places.run.exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    drop(lock);
}

/// A space whose daemon is a script that writes down that it was started, and with what.
struct Starts {
    space: Space,
    script: PathBuf,
}

impl Starts {
    fn new(delay_ms: u32) -> Starts {
        Starts::with_farcc_dir("farcc", delay_ms)
    }

    fn with_farcc_dir(name: &str, delay_ms: u32) -> Starts {
        let space = Space::with_farcc_dir(name);
        let here = space.directory.path().display().to_string();
        let exe = std::env::current_exe().unwrap();
        let text = format!(
            "#!/bin/sh\ncd {here}\necho \"$@\" >>starts\nls -l /proc/$$/fd >fds\nenv >env\n\
             cut -d' ' -f6 /proc/$$/stat >session; echo $$ >pid\n\
             {ROLE}={delay_ms} exec {} --exact acts_as_daemon --nocapture\n",
            exe.display()
        );
        let script = space.script("farccd.sh", &text);
        Starts { space, script }
    }

    fn farcc(&self, args: &[&str]) -> Command {
        let mut command = self.space.farcc(args);
        command.env("FARCC_DAEMON", &self.script);
        command
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.space.path(name)).unwrap_or_default()
    }

    fn daemon_pid(&self) -> u32 {
        self.read("pid").trim().parse().unwrap()
    }
}

impl Drop for Starts {
    fn drop(&mut self) {
        if let Ok(pid) = self.read("pid").trim().parse() {
            // SAFETY: a plain system call on the daemon that this test has started.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    }
}

#[test]
fn fifty_launchers_start_one_daemon() {
    let starts = Starts::new(300);
    let launchers: Vec<_> = (0..50)
        .map(|_| {
            starts.farcc(&["echo", "local"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for launcher in launchers {
        assert_eq!(stdout(&launcher.wait_with_output().unwrap()), "by daemon\n");
    }
    assert_eq!(starts.read("starts"), "start --foreground --ready-fd 3\n");
}

#[test]
fn a_daemon_that_was_killed_is_started_again() {
    let starts = Starts::new(0);
    for _ in 0..2 {
        assert_eq!(stdout(&starts.farcc(&["echo", "local"]).output().unwrap()), "by daemon\n");
        kill(starts.daemon_pid(), libc::SIGKILL);
        let lock = || starts.space.places().lock_daemon().unwrap().is_some();
        wait_until("the kernel has freed the lock", lock);
    }
    assert_eq!(starts.read("starts").lines().count(), 2);
}

#[test]
fn the_daemon_keeps_nothing_of_the_build() {
    let starts = Starts::new(0);
    let (reader, writer) = std::io::pipe().unwrap();
    let number = writer.as_raw_fd();
    let mut command = starts.farcc(&["true"]);
    command
        .env("MAKEFLAGS", "-j8 --jobserver-auth=3,4")
        .env("MFLAGS", "-j8")
        .env("LD_PRELOAD", "")
        .env("KEPT", "1");
    // SAFETY: two system calls between fork and exec: the pipe of a jobserver is inherited.
    unsafe {
        command.pre_exec(move || {
            libc::fcntl(number, libc::F_SETFD, 0);
            libc::umask(0o002);
            Ok(())
        });
    }
    assert_eq!(stdout(&command.output().unwrap()), "by daemon\n");
    drop((reader, writer));
    let fds = starts.read("fds");
    let numbers: Vec<&str> =
        fds.lines().filter_map(|line| line.split_once(" -> ")?.0.rsplit(' ').next()).collect();
    // The shell has the script itself open besides.
    let foreign: Vec<_> = fds
        .lines()
        .filter(|line| {
            line.contains(" -> ")
                && !["/dev/null", "farccd.log", "pipe:", "farccd.sh", "/fds"]
                    .iter()
                    .any(|known| line.contains(known))
        })
        .collect();
    assert!(foreign.is_empty(), "{fds}");
    assert_eq!(fds.matches("pipe:").count(), 1, "the ready pipe alone: {fds}");
    assert!(["0", "1", "2", "3"].iter().all(|number| numbers.contains(number)), "{fds}");
    let env = starts.read("env");
    assert!(env.contains("KEPT=1") && !env.contains("MAKEFLAGS") && !env.contains("MFLAGS"), "{env}");
    let pid = starts.daemon_pid();
    assert_ne!(starts.read("session").trim(), session_of_this_test());
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("Umask:\t0077"), "{status}");
    // `acts_as_daemon` has not moved: the script went to its directory from where it was started.
    assert!(starts.space.places().log_file().exists());
}

fn session_of_this_test() -> String {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    stat.rsplit(')').next().unwrap().split_whitespace().nth(3).unwrap().to_owned()
}

#[test]
fn a_pipe_behind_the_build_ends_while_the_daemon_lives() {
    let starts = Starts::new(0);
    let script = format!("{FARCC} true 2>&1 | cat");
    let mut shell = starts.space.command("sh", &["-c", &script]);
    let child = shell.env("FARCC_DAEMON", &starts.script).stdout(Stdio::piped()).spawn().unwrap();
    assert_eq!(stdout(&child.wait_with_output().unwrap()), "by daemon\n");
    assert!(std::fs::exists(format!("/proc/{}", starts.daemon_pid())).unwrap());
}

#[test]
fn a_long_path_is_no_hindrance() {
    let starts = Starts::with_farcc_dir(&format!("{}/{}", "long".repeat(30), "path".repeat(30)), 0);
    assert_eq!(stdout(&starts.farcc(&["echo", "local"]).output().unwrap()), "by daemon\n");
    assert_eq!(stdout(&starts.farcc(&["echo", "local"]).output().unwrap()), "by daemon\n");
    assert_eq!(starts.read("starts").lines().count(), 1);
}

#[test]
fn a_relative_farcc_dir_is_the_same_place_for_the_daemon() {
    let starts = Starts::new(0);
    let mut command = starts.farcc(&["echo", "local"]);
    assert_eq!(stdout(&command.env("FARCC_DIR", "farcc").output().unwrap()), "by daemon\n");
}

#[test]
fn a_daemon_that_cannot_start_is_tried_once_and_the_build_goes_on() {
    let space = Space::new();
    let script = space.script(
        "farccd.sh",
        &format!("#!/bin/sh\necho start >>{}\nexit 1\n", space.path("starts").display()),
    );
    let launchers: Vec<_> = (0..10)
        .map(|_| {
            space
                .farcc(&["echo", "local"])
                .env("FARCC_DAEMON", &script)
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for launcher in launchers {
        assert_eq!(stdout(&launcher.wait_with_output().unwrap()), "local\n");
    }
    assert_eq!(std::fs::read_to_string(space.path("starts")).unwrap(), "start\n");
    let output =
        space.farcc(&["true"]).env("FARCC_DAEMON", &script).env("FARCC_LOG", "debug").output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("ended at once"));
}

#[test]
fn without_a_daemon_or_a_directory_the_build_goes_on() {
    let space = Space::new();
    assert_eq!(stdout(&space.farcc(&["echo", "local"]).output().unwrap()), "local\n");
    let space = Space::new();
    std::fs::write(space.farcc_dir(), "a file").unwrap();
    assert_eq!(stdout(&space.farcc(&["echo", "local"]).output().unwrap()), "local\n");
    assert_eq!(
        stdout(&space.farcc(&["echo", "local"]).env("FARCC_DIR", "/proc").output().unwrap()),
        "local\n"
    );
}

#[test]
fn a_slow_daemon_is_not_waited_for_beyond_its_time() {
    let space = Space::new();
    let script = space.script("farccd.sh", "#!/bin/sh\nexec sleep 20\n");
    let start = Instant::now();
    let output = space.farcc(&["echo", "local"]).env("FARCC_DAEMON", &script).output().unwrap();
    assert_eq!(stdout(&output), "local\n");
    let waited = start.elapsed();
    assert!(waited >= farcc::spawn::START_PATIENCE && waited < Duration::from_secs(18), "{waited:?}");
}
