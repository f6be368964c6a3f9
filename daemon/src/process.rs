//! Starts other programs for the daemon: the one file that may, so that a child never inherits the daemon's
//! directory, environment or descriptors by accident.
//! Knows nothing of what is started.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::Output;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;

/// A program with everything that it sees given explicitly.
pub struct Program<'a> {
    /// Absolute path of the executable.
    pub path: &'a Path,
    /// Arguments after argv\[0\].
    pub args: Vec<OsString>,
    /// The whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// Working directory.
    pub cwd: &'a Path,
}

impl Program<'_> {
    /// Runs the program with no standard input and returns what it printed. Its whole process group is killed
    /// when `timeout` passes or the future is dropped.
    ///
    /// # Errors
    /// When it cannot be started, or `TimedOut`.
    pub async fn output(&self, timeout: Duration) -> io::Result<Output> {
        self.run(Stdio::null(), b"", timeout).await
    }

    /// Like [`output`](Self::output), with `input` as its standard input. One that does not read it may still answer.
    ///
    /// # Errors
    /// As [`output`](Self::output).
    pub async fn answer(&self, input: &[u8], timeout: Duration) -> io::Result<Output> {
        self.run(Stdio::piped(), input, timeout).await
    }

    async fn run(&self, stdin: Stdio, input: &[u8], timeout: Duration) -> io::Result<Output> {
        let mut child = self
            .command()
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .process_group(0)
            .spawn()?;
        let _group = KillGroup::of(&child);
        let stdin = child.stdin.take();
        let answered = async {
            if let Some(mut stdin) = stdin {
                let _ = stdin.write_all(input).await;
            }
            child.wait_with_output().await
        };
        tokio::time::timeout(timeout, answered).await.map_err(|_| {
            io::Error::new(
                io::ErrorKind::TimedOut,
                format!("{} gave no answer in {timeout:?}", self.path.display()),
            )
        })?
    }

    /// The program as a tokio command, for callers that stream. Standard descriptors are the caller's to set.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that starts programs")]
    pub fn command(&self) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(self.path);
        command.args(&self.args).env_clear().current_dir(self.cwd);
        command.envs(self.env.iter().map(|(name, value)| (name as &OsStr, value as &OsStr)));
        command
    }
}

/// Kills a process group when dropped, so that grandchildren (`cc1`, `as`) never outlive their driver.
pub struct KillGroup(Option<rustix::process::Pid>);

impl KillGroup {
    /// Of a child that was started as the leader of its own group.
    pub fn of(child: &tokio::process::Child) -> KillGroup {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        KillGroup(id.and_then(rustix::process::Pid::from_raw))
    }
}

impl Drop for KillGroup {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // The group is usually gone already: nothing is left to do about an error.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}

/// The variable `name` in an environment as a list; the last one wins, as in a shell.
pub fn env_value<'a>(env: &'a [(OsString, OsString)], name: &str) -> Option<&'a OsStr> {
    env.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_os_str())
}
