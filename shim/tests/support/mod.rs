//! What the tests of the launcher share: a scratch directory, a launcher in it, and a daemon made of a closure.

#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(unreachable_pub, missing_docs, reason = "shared source, not an interface")]

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use farcc::link::Link;
use farcc::places::Places;
use farcc::wire::Frame;
use farcc::wire::Reply;
use farcc::wire::Request;
use farcc::wire::RunRequest;

/// The program under test.
pub const FARCC: &str = env!("CARGO_BIN_EXE_farcc");

/// A directory with its own FARCC_DIR, and no daemon yet.
pub struct Space {
    pub directory: tempfile::TempDir,
    farcc_dir: PathBuf,
}

impl Space {
    pub fn new() -> Space {
        Space::with_farcc_dir("farcc")
    }

    pub fn with_farcc_dir(name: &str) -> Space {
        let directory = tempfile::tempdir().unwrap();
        let farcc_dir = directory.path().join(name);
        Space { directory, farcc_dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn farcc_dir(&self) -> &Path {
        &self.farcc_dir
    }

    pub fn places(&self) -> Places {
        Places::from_env(&|name| (name == "FARCC_DIR").then(|| self.farcc_dir.clone().into_os_string()))
    }

    /// An executable script.
    pub fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// A copy of the launcher. Another process writes it: what this one has open for writing, the children that other tests start
    /// meanwhile have open as well, and nobody can run it then (execve(2), `ETXTBSY`).
    pub fn copy_of_farcc(&self, name: &str) -> PathBuf {
        let copy = self.path(name);
        assert!(Command::new("cp").args([Path::new(FARCC), &copy]).status().unwrap().success());
        copy
    }

    /// `program` in this space's directory and environment; a daemon that it wants to start does not exist.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(args)
            .current_dir(self.directory.path())
            .env("FARCC_DIR", &self.farcc_dir)
            .env("FARCC_DAEMON", "/nonexistent/farccd");
        for name in ["FARCC_DISABLE", "FARCC_ACTIVE", "FARCC_LOG", "FARCC_EXEC_LOCAL_JOBS", "MAKEFLAGS"] {
            command.env_remove(name);
        }
        command
    }

    pub fn farcc(&self, args: &[&str]) -> Command {
        self.command(FARCC, args)
    }

    /// A daemon in a thread: `answer` has each connection with its number, from 0 on.
    pub fn daemon(&self, answer: impl Fn(usize, Conversation) + Send + Sync + 'static) -> Daemon {
        self.places().prepare().unwrap();
        serve(self.places().bind().unwrap(), answer)
    }

    /// A daemon that answers every request with this.
    pub fn daemon_that_replies(&self, reply: Reply) -> Daemon {
        self.daemon(move |_, mut conversation| {
            conversation.run_request();
            conversation.reply(reply.clone());
        })
    }
}

/// The thread runs as long as the process does; the connections are counted.
pub struct Daemon {
    connections: Arc<AtomicUsize>,
}

impl Daemon {
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

pub fn serve(listener: UnixListener, answer: impl Fn(usize, Conversation) + Send + Sync + 'static) -> Daemon {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let number = counted.fetch_add(1, Ordering::SeqCst);
            let answer = Arc::clone(&answer);
            std::thread::spawn(move || answer(number, Conversation { link: Link::new(stream) }));
        }
    });
    Daemon { connections }
}

/// The daemon's end of one connection.
pub struct Conversation {
    pub link: Link,
}

impl Conversation {
    pub fn request(&mut self) -> std::io::Result<Request> {
        match self.link.receive()? {
            Frame::Request(request) => Ok(request),
            Frame::Reply(reply) => panic!("the launcher sent {reply:?}"),
        }
    }

    pub fn run_request(&mut self) -> RunRequest {
        match self.request().unwrap() {
            Request::Run(run) => run,
            other => panic!("the launcher began with {other:?}"),
        }
    }

    pub fn reply(&mut self, reply: Reply) {
        self.link.send(&Frame::Reply(reply)).unwrap();
    }
}

/// A process as one has it at a terminal: in the background of a script, or below nohup, it would ignore signals.
pub fn that_heeds_signals(mut command: Command) -> Command {
    // SAFETY: system calls only, between fork and exec.
    unsafe {
        command.pre_exec(|| {
            for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP] {
                libc::signal(signal, libc::SIG_DFL);
            }
            Ok(())
        });
    }
    command
}

pub fn pass_through() -> Reply {
    Reply::PassThrough { reason: "test".into(), slot: false }
}

pub fn acknowledged() -> Reply {
    Reply::Completed { exit_code: 0, stdout: vec![], stderr: vec![] }
}

pub fn os(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

/// Standard output as text, if the command succeeded in silence.
pub fn stdout(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.is_empty(), "{:?}: {stderr}", output.status);
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits for the child, but not for ever.
pub fn wait(child: &mut Child) -> std::process::ExitStatus {
    let mut status = None;
    wait_until("the child's end", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap()
}

pub fn kill(pid: u32, signal: i32) {
    // SAFETY: a plain system call on a process that the caller started.
    assert_eq!(unsafe { libc::kill(i32::try_from(pid).unwrap(), signal) }, 0);
}
