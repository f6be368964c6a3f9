//! A server's process in namespaces of its own, in which the client's files do not exist.
//! Knows nothing of what the server is.
//!
//! It is the first process of a process namespace, so that everything it started ends with it, and it ends with the
//! thread that started it, whatever becomes of that: a test that panics or is killed leaves nothing running.

use std::net::TcpListener;
use std::net::TcpStream;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use rustix::process::Pid;

use crate::prerequisites;
use crate::serve_process::START_HIDDEN;
use crate::space::SYSTEM_PATH;
use crate::space::TestSpace;

/// How long a server may take to come up. Other tests compile at the same time.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A running server. Dropping it ends it.
pub struct ServerProcess {
    /// `unshare`, whose end is the end of all of it.
    child: Child,
    name: String,
    log: PathBuf,
}

impl ServerProcess {
    /// Starts `argv` for `space`, hidden from its client, in `directory`. What it says goes to `NAME.log` there.
    ///
    /// # Panics
    /// When it cannot be started, or can see the client's files.
    pub fn start(space: &TestSpace, name: &str, directory: &Path, argv: &[String]) -> ServerProcess {
        prerequisites::require(&["setpriv", "unshare", "mount"]);
        let log = directory.join(format!("{name}.log"));
        let log_file = std::fs::File::options().create(true).append(true).open(&log).unwrap();
        let home = directory.join("home");
        std::fs::create_dir_all(&home).unwrap();

        let mut words: Vec<&str> = Vec::new();
        if !rustix::process::geteuid().is_root() {
            // An ordinary user gets the right to mount in a user namespace of their own. It is entered first: the
            // kernel forgets what setpriv asks for when the rights of a process change.
            words.extend(["unshare", "--user", "--map-root-user"]);
        }
        words.extend(["setpriv", "--pdeathsig", "KILL"]);
        words.extend(["unshare", "--mount", "--propagation", "private", "--pid", "--mount-proc"]);
        words.extend(["--fork", "--kill-child=KILL", "sh", "-c", START_HIDDEN, "sh"]);
        words.extend(argv.iter().map(String::as_str));
        let mut command = Command::new(prerequisites::find_program(words[0]).unwrap());
        command.args(&words[1..]).env_clear().env("PATH", SYSTEM_PATH).env("HOME", &home).env("LC_ALL", "C");
        command.env("HIDDEN", space.client()).current_dir(directory).stdin(Stdio::null());
        command.stdout(log_file.try_clone().unwrap()).stderr(log_file);
        let child = command.spawn().unwrap();
        let mut server = ServerProcess { child, name: name.to_owned(), log };
        server.assert_client_is_invisible(space);
        server
    }

    /// What it said.
    pub fn log_text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits until `is_up`.
    ///
    /// # Panics
    /// When it ends before, or takes longer than a minute.
    pub fn wait_until_up(&mut self, is_up: impl Fn() -> bool) {
        let deadline = Instant::now() + START_TIMEOUT;
        while !is_up() {
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "{} did not come up:\n{}",
                self.name,
                self.log_text()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it and everything it started at once, as a crash would.
    pub fn kill(&mut self) {
        // The server goes with `unshare`; but when that has been waited for, it need not have gone yet.
        let server = self.server();
        let _ = self.child.kill();
        let _ = self.child.wait();
        let deadline = Instant::now() + Duration::from_secs(10);
        while server.is_some_and(is_alive) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The server's own process, as this namespace numbers it: `None` before it is there and after its end.
    pub fn server(&self) -> Option<Pid> {
        // Until the last of the words has been run they are each other's children or the same process.
        let mut process = i32::try_from(self.child.id()).unwrap();
        loop {
            let children = std::fs::read_to_string(format!("/proc/{process}/task/{process}/children"))
                .unwrap_or_default();
            process = children.split_whitespace().next()?.parse().ok()?;
            if is_first_of_its_namespace(process) {
                return Pid::from_raw(process);
            }
        }
    }

    /// Looks through the server's own eyes: its root directory as the kernel shows it to us.
    fn assert_client_is_invisible(&mut self, space: &TestSpace) {
        let sees = |server: &ServerProcess, path: &Path| {
            server.server().is_none_or(|pid| {
                let root = format!("/proc/{}/root", pid.as_raw_nonzero());
                Path::new(&root).join(path.strip_prefix("/").unwrap()).exists()
            })
        };
        let paths = [space.workspace(), space.home(), space.farcc_dir()];
        for path in &paths {
            assert!(path.is_dir(), "{} is not there for the client either", path.display());
        }
        // The mask is there a moment after the process.
        let deadline = Instant::now() + START_TIMEOUT;
        while paths.iter().any(|path| sees(self, path)) {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "{}: {}", self.name, self.log_text());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let text = self.log_text();
            let lines: Vec<&str> = text.lines().collect();
            let tail = lines[lines.len().saturating_sub(30)..].join("\n");
            crate::say(&format!("--- end of {}'s log\n{tail}", self.name));
        }
        self.kill();
    }
}

/// The process is number 1 in the innermost of its namespaces, see proc_pid_status(5), `NSpid`.
fn is_first_of_its_namespace(process: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
    numbers.split_whitespace().count() > 1 && numbers.split_whitespace().last() == Some("1")
}

fn is_alive(process: Pid) -> bool {
    Path::new(&format!("/proc/{}", process.as_raw_nonzero())).exists()
}

/// `127.0.0.1:PORT` with a port that is free now: for servers that cannot be told to take any.
pub fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// Whether something listens there.
pub fn listens(address: &str) -> bool {
    TcpStream::connect(address).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(script: &str) -> Vec<String> {
        ["sh", "-c", script].map(str::to_owned).to_vec()
    }

    #[test]
    fn what_a_server_started_ends_with_it() {
        let space = TestSpace::new("server-process");
        let directory = space.serve_dir();
        let mut server =
            ServerProcess::start(&space, "shell", &directory, &words("sleep 600 & echo up; wait"));
        server.wait_until_up(|| directory.join("shell.log").metadata().is_ok_and(|log| log.len() > 0));
        let of_server = || crate::space::processes_that_mention(&directory);
        assert!(of_server().len() >= 2, "{:?}", of_server());
        server.kill();
        crate::space::wait_until("the end of its processes", 10, || of_server().is_empty());
    }

    #[test]
    fn a_server_ends_with_the_thread_that_started_it() {
        let space = TestSpace::new("server-thread");
        let directory = space.serve_dir();
        let server = std::thread::scope(|scope| {
            let start = || ServerProcess::start(&space, "shell", &directory, &words("sleep 600"));
            scope.spawn(start).join().unwrap()
        });
        let of_server = || crate::space::processes_that_mention(&directory);
        crate::space::wait_until("the end of the server", 10, || of_server().is_empty());
        drop(server);
    }
}
