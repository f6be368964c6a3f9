//! A scratch place for one test: a client with its workspace, home and daemon, and beside it a place for a server.
//! Knows nothing of what is built in it.
//!
//! ```text
//! ROOT/client/workspace   what is built
//! ROOT/client/home        HOME, and the configuration file
//! ROOT/client/farcc       FARCC_DIR: socket, store, state, logs
//! ROOT/serve              the server's own directory
//! ```
//! The server's mount namespace hides `ROOT/client` whole.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use rustix::process::Pid;
use rustix::process::Signal;
use serde_json::Value;

use crate::binaries::Binaries;
use crate::binaries::binaries;

/// The place. Dropping it ends every process that still uses it and removes it.
pub struct TestSpace {
    root: PathBuf,
    binaries: &'static Binaries,
    exec_root: Option<&'static str>,
    exec_toolchain: &'static str,
    links: &'static str,
    keep: bool,
}

/// How a program ended and what it said.
#[derive(Debug)]
pub struct Finished {
    /// The command, for messages.
    pub command: String,
    /// Exit status as a shell gives it: 128 + signal for a killed program.
    pub status: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// Wall-clock time.
    pub took: Duration,
}

impl Finished {
    /// This, if the status is 0.
    ///
    /// # Panics
    /// Otherwise, with the end of what the program said.
    #[track_caller]
    pub fn success(self) -> Finished {
        assert!(self.status == 0, "{self}");
        self
    }

    /// Standard output as text.
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

/// The command, its status, and the last lines of each stream.
impl std::fmt::Display for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tail = |text: String| {
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(40)..].join("\n")
        };
        writeln!(f, "{} ended with status {}", self.command, self.status)?;
        writeln!(f, "--- stdout\n{}", tail(self.stdout_text()))?;
        write!(f, "--- stderr\n{}", tail(self.stderr_text()))
    }
}

impl TestSpace {
    /// A new place below the temporary directory, with a random name.
    pub fn new(name: &str) -> TestSpace {
        let root = tempfile::Builder::new().prefix(&format!("farcc-{name}-")).tempdir().unwrap().keep();
        // /tmp may be a symlink: the paths that a compiler reports are resolved ones.
        let root = root.canonicalize().unwrap();
        let space = TestSpace {
            root,
            binaries: binaries(),
            exec_root: Some("mirror"),
            exec_toolchain: "trusted",
            links: "ON",
            keep: false,
        };
        for directory in [space.workspace(), space.home(), space.farcc_dir(), space.serve_dir()] {
            std::fs::create_dir_all(directory).unwrap();
        }
        space
    }

    /// The same with `[exec] root` as it is by default, or another one. Else it is `mirror`: a cluster that is not a real one
    /// has no answer to what `auto` asks first.
    pub fn with_exec_root(mut self, exec_root: &'static str) -> TestSpace {
        self.exec_root = Some(exec_root);
        self
    }

    /// The same with the `[exec] root` of the configuration file.
    pub fn with_configured_root(mut self) -> TestSpace {
        self.exec_root = None;
        self
    }

    /// The same with links and archives of CMake's left alone: their run paths are absolute, which not every root can do.
    pub fn without_links(mut self) -> TestSpace {
        self.links = "OFF";
        self
    }

    /// Whether CMake's links and archives go through farcc.
    pub fn launches_links(&self) -> bool {
        self.links == "ON"
    }

    /// The same with the workers' compilers and system headers compared, as they are by default. Else they are taken for those
    /// of this machine, which they are in most tests.
    pub fn with_workers_compared(mut self) -> TestSpace {
        self.exec_toolchain = "worker";
        self
    }

    /// The random directory around everything.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What the server must not see: workspace, home and `FARCC_DIR`.
    pub fn client(&self) -> PathBuf {
        self.root.join("client")
    }

    /// Where things are built.
    pub fn workspace(&self) -> PathBuf {
        self.root.join("client/workspace")
    }

    /// The user's home directory.
    pub fn home(&self) -> PathBuf {
        self.root.join("client/home")
    }

    /// `FARCC_DIR`.
    pub fn farcc_dir(&self) -> PathBuf {
        self.root.join("client/farcc")
    }

    /// `FARCC_CONFIG`.
    pub fn config_file(&self) -> PathBuf {
        self.home().join("farcc.toml")
    }

    /// A server's own directory.
    pub fn serve_dir(&self) -> PathBuf {
        self.root.join("serve")
    }

    /// The launcher and the daemon.
    pub fn binaries(&self) -> &Binaries {
        self.binaries
    }

    /// Writes a file of the workspace, with its directories, and returns its path.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.workspace().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    /// Writes the configuration that every command of this space uses from now on.
    pub fn configure(&self, toml: &str) {
        std::fs::write(self.config_file(), toml).unwrap();
    }

    /// A configuration with the server at `address` (`host:port`) as its cluster.
    pub fn configure_remote(&self, address: &str) {
        self.configure(&format!("[remote]\naddress = \"grpc://{address}\"\n"));
    }

    /// The whole environment of the space's commands: nothing of it comes from whoever runs the tests.
    pub fn environment(&self) -> Vec<(OsString, OsString)> {
        let mut path = self.binaries.directory().as_os_str().to_owned();
        path.push(":");
        path.push(SYSTEM_PATH);
        let pairs: [(&str, OsString); 8] = [
            ("PATH", path),
            ("HOME", self.home().into()),
            ("FARCC_DIR", self.farcc_dir().into()),
            ("FARCC_CONFIG", self.config_file().into()),
            ("FARCC_EXEC_TOOLCHAIN", self.exec_toolchain.into()),
            ("FARCC_LINKS", self.links.into()),
            ("LC_ALL", "C".into()),
            ("FARCC_LOG", "info".into()),
        ];
        let exec_root = self.exec_root.map(|root| ("FARCC_EXEC_ROOT", root.into()));
        pairs.into_iter().chain(exec_root).map(|(name, value)| (name.into(), value)).collect()
    }

    /// A command with the space's environment, in the workspace, with no standard input.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().envs(self.environment()).current_dir(self.workspace()).stdin(Stdio::null());
        command
    }

    /// The same as [`command`](Self::command) for a program that heeds signals wherever the tests were started from: in the
    /// background of a script, and below nohup, processes ignore some from their birth.
    pub fn interruptible(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.command("env");
        command.arg("--default-signal=HUP,INT,QUIT").arg(program);
        command
    }

    /// Runs a list of words in `directory` (relative to the workspace).
    pub fn run(&self, directory: &str, argv: &[&str]) -> Finished {
        let mut command = self.command(argv[0]);
        command.args(&argv[1..]).current_dir(self.workspace().join(directory));
        run(&mut command)
    }

    /// Runs a shell script in `directory` (relative to the workspace).
    pub fn sh(&self, directory: &str, script: &str) -> Finished {
        self.run(directory, &["sh", "-c", script])
    }

    /// Runs a shell script that must end within a minute: what waits for what never comes would not.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn bounded(&self, script: &str) -> Finished {
        let finished = self.run("", &["timeout", "--kill-after=5", "60", "sh", "-c", script]);
        assert_ne!(finished.status, 124, "it does not end: {finished}");
        finished
    }

    /// Runs `farccd` with `arguments`.
    pub fn farccd(&self, arguments: &[&str]) -> Finished {
        let mut command = self.command(&self.binaries.farccd);
        run(command.args(arguments))
    }

    /// Starts the daemon now. The launcher would do it at its first command as well.
    pub fn start_daemon(&self) {
        self.farccd(&["start"]).success();
    }

    /// Stops the daemon and waits until its process is gone.
    pub fn stop_daemon(&self) {
        let finished = self.farccd(&["stop"]);
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.daemon().is_some() {
            assert!(Instant::now() < deadline, "the daemon does not stop: {finished}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The process of this space's daemon.
    pub fn daemon(&self) -> Option<Pid> {
        let farccd = self.binaries.farccd.canonicalize().unwrap();
        let of_client = processes_that_mention(&self.client());
        of_client.into_iter().find(|pid| {
            let directory = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
            std::fs::read_link(directory.join("exe")).is_ok_and(|exe| exe == farccd)
        })
    }

    /// Ends the daemon at once, as a crash would.
    ///
    /// # Panics
    /// When none runs.
    pub fn kill_daemon(&self) {
        let daemon = self.daemon().unwrap_or_else(|| panic!("no daemon runs"));
        rustix::process::kill_process(daemon, Signal::KILL).unwrap();
    }

    /// What `farccd status --json` says now.
    pub fn status(&self) -> Value {
        let finished = self.farccd(&["status", "--json"]).success();
        serde_json::from_slice(&finished.stdout).unwrap()
    }

    /// What the daemons of this space have logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.status()["log"].as_str().unwrap()).unwrap_or_default()
    }

    /// The process of the daemon that listens, by its own word; none if nobody does.
    pub fn listener(&self) -> Option<u64> {
        self.status()["daemon"]["pid"].as_u64()
    }

    /// What `farccd stats --json` says now.
    pub fn stats(&self) -> Stats {
        let finished = self.farccd(&["stats", "--json"]).success();
        Stats::parse(&finished.stdout)
    }

    /// Sets the counts back to nothing.
    pub fn reset_stats(&self) {
        self.farccd(&["stats", "--reset"]).success();
    }

    /// Forgets everything that farcc kept: store, state and logs. The daemon is stopped for it.
    pub fn empty_farcc_dir(&self) {
        self.stop_daemon();
        std::fs::remove_dir_all(self.farcc_dir()).unwrap();
        std::fs::create_dir(self.farcc_dir()).unwrap();
    }

    /// Keeps the place after the test, for debugging, and says where it is.
    pub fn eject(mut self) -> PathBuf {
        self.keep = true;
        crate::say(&format!("kept {}", self.root.display()));
        self.root.clone()
    }
}

impl Drop for TestSpace {
    fn drop(&mut self) {
        end_processes(&self.root);
        // FARCC_TESTS_KEEP=1 leaves the places of failed tests to look at.
        let failed = std::thread::panicking() && std::env::var_os("FARCC_TESTS_KEEP").is_some();
        if failed {
            crate::say(&format!("kept {}", self.root.display()));
        }
        if !self.keep && !failed {
            // What cannot be removed (a mount that is still busy) must not turn a passed test into a failed one.
            let _ = std::fs::remove_dir_all(&self.root);
        }
    }
}

/// Where the space's commands look for programs, after the launcher's own directory.
pub const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Finished {
    let description = format!("{command:?}");
    let started = Instant::now();
    let output = command.output().unwrap_or_else(|error| panic!("failed to start {description}: {error}"));
    Finished {
        command: description,
        status: shell_status(&output),
        stdout: output.stdout,
        stderr: output.stderr,
        took: started.elapsed(),
    }
}

/// Waits until `is_so`, for `seconds` at most.
///
/// # Panics
/// When the time is over.
#[track_caller]
pub fn wait_until(what: &str, seconds: u64, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what} does not come in {seconds} s");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn shell_status(output: &Output) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0))
}

/// The processes whose command line, environment, directory, executable or open files name a path below `path`.
/// Never this process.
pub fn processes_that_mention(path: &Path) -> Vec<Pid> {
    let needle = path.as_os_str().as_bytes();
    let contains = |bytes: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
    let link = |file: PathBuf| {
        std::fs::read_link(file).is_ok_and(|target| target.as_os_str().as_bytes().starts_with(needle))
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if u32::try_from(id).is_ok_and(|id| id == std::process::id()) {
            continue;
        }
        let directory = entry.path();
        let mentions = ["cmdline", "environ"]
            .iter()
            .any(|file| std::fs::read(directory.join(file)).is_ok_and(|bytes| contains(&bytes)))
            || ["cwd", "exe"].iter().any(|file| link(directory.join(file)))
            || std::fs::read_dir(directory.join("fd"))
                .is_ok_and(|descriptors| descriptors.flatten().any(|descriptor| link(descriptor.path())));
        if mentions {
            found.extend(Pid::from_raw(id));
        }
    }
    found
}

/// Ends every process that uses `path`: asks first, then insists. By id, each looked up just before.
fn end_processes(path: &Path) {
    for (signal, patience) in [(Signal::TERM, 40), (Signal::KILL, 100)] {
        for _ in 0..patience {
            let processes = processes_that_mention(path);
            if processes.is_empty() {
                return;
            }
            for process in processes {
                // It may have ended by itself meanwhile.
                let _ = rustix::process::kill_process(process, signal);
            }
            std::thread::sleep(Duration::from_millis(25));
        }
    }
}

/// The counts of `farccd stats --json`.
#[derive(Debug, Clone)]
pub struct Stats(pub Value);

impl Stats {
    /// From the JSON text.
    ///
    /// # Panics
    /// When it is none, or lacks `commands` or `by_verdict`.
    pub fn parse(text: &[u8]) -> Stats {
        let value: Value = serde_json::from_slice(text)
            .unwrap_or_else(|error| panic!("stats: {error}: {}", String::from_utf8_lossy(text)));
        assert!(value["commands"].is_u64() && value["by_verdict"].is_object(), "stats lack counts: {value}");
        Stats(value)
    }

    /// All commands.
    pub fn commands(&self) -> u64 {
        self.0["commands"].as_u64().unwrap()
    }

    /// How many commands got this verdict.
    ///
    /// # Panics
    /// When farcc does not count such a verdict: a misspelt name must not read as zero.
    #[track_caller]
    pub fn verdict(&self, name: &str) -> u64 {
        self.0["by_verdict"][name].as_u64().unwrap_or_else(|| panic!("no verdict {name} in {}", self.0))
    }

    /// How many commands of this kind got this verdict.
    ///
    /// # Panics
    /// When farcc does not count such a kind or verdict.
    #[track_caller]
    pub fn of_kind(&self, kind: &str, verdict: &str) -> u64 {
        let count = self.0["by_kind"][kind][verdict].as_u64();
        count.unwrap_or_else(|| panic!("no {kind} with verdict {verdict} in {}", self.0))
    }

    /// All commands of this kind.
    ///
    /// # Panics
    /// When farcc does not count such a kind.
    #[track_caller]
    pub fn all_of_kind(&self, kind: &str) -> u64 {
        let verdicts = self.0["by_kind"][kind].as_object();
        let verdicts = verdicts.unwrap_or_else(|| panic!("no kind {kind} in {}", self.0));
        verdicts.values().filter_map(Value::as_u64).sum()
    }

    /// Half of all commands took more than that in the daemon.
    pub fn median_micros(&self) -> u64 {
        self.0["micros"]["p50"].as_u64().unwrap_or(0)
    }

    /// How many commands have this reason.
    pub fn reason(&self, name: &str) -> u64 {
        self.0["by_reason"][name].as_u64().unwrap_or(0)
    }

    /// Commands that are compiles: all but those that are links, archives, questions or other programs.
    pub fn compiles(&self) -> u64 {
        let others = ["link", "archive", "information", "preprocess", "not_a_compiler"];
        self.commands() - others.iter().map(|name| self.reason(name)).sum::<u64>()
    }

    /// Commands of this kind that were answered from a store.
    #[track_caller]
    pub fn hits_of_kind(&self, kind: &str) -> u64 {
        self.of_kind(kind, "hit_local") + self.of_kind(kind, "hit_remote")
    }

    /// Commands answered from a store, this machine's or the cluster's.
    pub fn hits(&self) -> u64 {
        self.verdict("hit_local") + self.verdict("hit_remote")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_see_the_space_and_nothing_else() {
        let space = TestSpace::new("environment");
        let finished = space.sh("", "env; pwd").success();
        let text = finished.stdout_text();
        assert!(text.contains(&format!("HOME={}", space.home().display())), "{text}");
        assert!(!text.contains("CARGO"), "{text}");
        assert!(text.ends_with(&format!("{}\n", space.workspace().display())), "{text}");
    }

    #[test]
    fn dropping_a_space_ends_its_processes_and_removes_it() {
        let space = TestSpace::new("drop");
        let mut child = space.command("sleep").arg("600").spawn().unwrap();
        let root = space.root().to_owned();
        let id = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        // Until exec has happened the child still looks like this process.
        let deadline = Instant::now() + Duration::from_secs(10);
        while !processes_that_mention(&root).contains(&id) {
            assert!(Instant::now() < deadline);
        }
        drop(space);
        // Reaped here: as a zombie it would have no directory and no files any more.
        assert!(!child.wait().unwrap().success());
        assert!(!root.exists());
    }

    #[test]
    fn a_killed_program_has_the_shells_status() {
        let space = TestSpace::new("status");
        assert_eq!(space.sh("", "kill -TERM $$").status, 143);
        assert_eq!(space.sh("", "exit 7").status, 7);
    }

    #[test]
    fn compiles_are_what_is_not_known_to_be_something_else() {
        let stats = Stats::parse(
            br#"{"commands": 10, "by_verdict": {"hit_local": 2, "hit_remote": 1}, "by_reason": {"link": 3, "time_macro": 1}}"#,
        );
        assert_eq!(stats.compiles(), 7);
        assert_eq!(stats.hits(), 3);
    }
}
