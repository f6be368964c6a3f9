//! `farccd serve` as a cluster on this machine that cannot see the client's files.
//! Knows nothing of clients.

use std::io::BufRead;
use std::io::BufReader;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use rustix::process::Pid;
use rustix::process::Signal;
use serde_json::Value;

use crate::binaries::binaries;
use crate::copy_program;
use crate::prerequisites;
use crate::space::SYSTEM_PATH;
use crate::space::TestSpace;

/// Hides the client and becomes the server. The mask is read-only, so that nothing can come into being behind it,
/// and it is checked before the server starts: a leaked path would make every test pass that should fail.
pub(crate) const START_HIDDEN: &str = r#"
set -eu
mount -t tmpfs -o ro,size=16k none "$HIDDEN"
test -z "$(ls -A "$HIDDEN")"
if [ -n "${REPLACED-}" ]; then mount --bind /bin/true "$REPLACED"; fi
if [ -n "${SMALL-}" ]; then mount -t tmpfs -o "size=$SMALL,mode=755" none "$DIRECTORY"; fi
user="${ORDINARY-}"
unset HIDDEN REPLACED SMALL DIRECTORY ORDINARY
if [ -n "$user" ]; then exec setpriv --reuid "$user" --regid "$user" --clear-groups -- "$@"; fi
exec "$@"
"#;

/// On what kind of machine a server runs, and as whom.
#[derive(Debug, Clone, Copy, Default)]
pub struct Circumstances<'a> {
    /// A program (absolute) that is `/bin/true` there.
    pub replaced: Option<&'a str>,
    /// The size of a file system of its own for the server's directory, as `mount` takes it; it is gone with the server.
    pub size: Option<&'a str>,
    /// The number of the user, and of their group, if that is not the tests' own. Root alone can choose one.
    pub user: Option<u32>,
}

/// A running server. Dropping it ends it.
pub struct ServeProcess {
    child: Child,
    address: String,
    directory: PathBuf,
    log: PathBuf,
}

impl ServeProcess {
    /// Starts a server for `space` in its own mount namespace, in which the client's workspace, home and
    /// `FARCC_DIR` do not exist. Its own directory is `ROOT/serve/NAME`; a name used before means its content
    /// is used again.
    ///
    /// # Panics
    /// When it does not come up, or when it can see the client's files.
    pub fn start(space: &TestSpace, name: &str) -> ServeProcess {
        ServeProcess::start_with(space, name, &[])
    }

    /// Like [`start`](ServeProcess::start), with more arguments for `farccd serve`.
    pub fn start_with(space: &TestSpace, name: &str, arguments: &[&str]) -> ServeProcess {
        ServeProcess::of_kind(&["serve"], space, name, arguments, Circumstances::default())
    }

    /// A twin, which cannot see the client's files either. Its own directory is `ROOT/serve/NAME`.
    ///
    /// # Panics
    /// When it does not come up, or when it can see the client's files.
    pub fn twin(space: &TestSpace, name: &str, arguments: &[&str]) -> ServeProcess {
        ServeProcess::twin_where(space, name, arguments, Circumstances::default())
    }

    /// A twin on whose machine `/bin/true` is what this `program` (absolute) is on the client's.
    ///
    /// # Panics
    /// As [`twin`](ServeProcess::twin).
    pub fn twin_without(space: &TestSpace, name: &str, program: &str) -> ServeProcess {
        let circumstances = Circumstances { replaced: Some(program), ..Circumstances::default() };
        ServeProcess::twin_where(space, name, &[], circumstances)
    }

    /// A twin on a machine that is not as usual.
    ///
    /// # Panics
    /// As [`twin`](ServeProcess::twin).
    pub fn twin_where(
        space: &TestSpace,
        name: &str,
        arguments: &[&str],
        circumstances: Circumstances<'_>,
    ) -> ServeProcess {
        ServeProcess::of_kind(&["twin", "serve"], space, name, arguments, circumstances)
    }

    fn of_kind(
        kind: &[&str],
        space: &TestSpace,
        name: &str,
        arguments: &[&str],
        circumstances: Circumstances<'_>,
    ) -> ServeProcess {
        prerequisites::require(&["unshare", "mount", "bwrap", "setpriv"]);
        let Circumstances { replaced, size, user } = circumstances;
        let place = space.serve_dir().join(name);
        let (directory, home) = (place.join("cas"), place.join("home"));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::create_dir_all(&home).unwrap();
        let mut program = binaries().farccd.clone();
        if let Some(user) = user {
            // Neither the place nor the programs need be where anybody may go.
            program = place.join("farccd");
            copy_program(&binaries().farccd, &program);
            std::fs::set_permissions(space.root(), std::fs::Permissions::from_mode(0o711)).unwrap();
            for path in [&place, &directory, &home] {
                std::os::unix::fs::chown(path, Some(user), Some(user)).unwrap();
            }
        }
        let log = place.join("serve.log");
        let log_file = std::fs::File::options().create(true).append(true).open(&log).unwrap();

        let mut command = hidden_command(&space.client());
        command.arg(&program).args(kind).args(["--listen", "127.0.0.1:0", "--dir"]).arg(&directory);
        command.args(arguments);
        command.env_clear().env("PATH", SYSTEM_PATH).env("HOME", &home).env("LC_ALL", "C");
        command.env("HIDDEN", space.client()).env("FARCC_DIR", place.join("farcc")).env("FARCC_LOG", "info");
        command.env("REPLACED", replaced.unwrap_or_default()).env("SMALL", size.unwrap_or_default());
        command.env("ORDINARY", user.map(|user| user.to_string()).unwrap_or_default());
        command.env("DIRECTORY", &directory);
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log_file);
        let mut child = command.spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let mut server = ServeProcess { child, address: String::new(), directory, log };

        let mut line = String::new();
        let mut stdout = BufReader::new(stdout);
        stdout.read_line(&mut line).unwrap();
        server.address = line
            .trim_end()
            .strip_prefix("listening on ")
            .unwrap_or_else(|| panic!("the server did not come up: {line:?}\n{}", server.log_text()))
            .to_owned();
        // What it says later must not fill the pipe and stop it.
        std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
        server.assert_client_is_invisible(space);
        server
    }

    /// `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its process: the mask is set up by programs that become it.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap()
    }

    /// What it wrote to standard error.
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// How many actions it has run, by its own count, once that count has settled: the server writes it down
    /// a little after the client has its answer.
    ///
    /// # Panics
    /// When its `status.json` cannot be read or has no `executions`.
    pub fn executions(&self) -> u64 {
        let mut count = self.executions_written();
        loop {
            std::thread::sleep(Duration::from_millis(500));
            match self.executions_written() {
                now if now == count => return count,
                now => count = now,
            }
        }
    }

    fn executions_written(&self) -> u64 {
        let file = self.directory.join("status.json");
        let text =
            std::fs::read(&file).unwrap_or_else(|error| panic!("failed to read {}: {error}", file.display()));
        let status: Value = serde_json::from_slice(&text).unwrap();
        status["executions"].as_u64().unwrap_or_else(|| panic!("no executions in {status}"))
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to stop and waits for its end.
    pub fn stop(&mut self) {
        // It may be gone already.
        let _ = rustix::process::kill_process(self.pid(), Signal::TERM);
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if self.child.try_wait().is_ok_and(|status| status.is_some()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.kill();
    }

    /// Looks through the server's own eyes: its root directory as the kernel shows it to us.
    fn assert_client_is_invisible(&self, space: &TestSpace) {
        for path in [space.workspace(), space.home(), space.farcc_dir()] {
            assert!(path.is_dir(), "{} is not there for the client either", path.display());
            assert!(!seen_by(self.pid(), &path).exists(), "the server sees {}", path.display());
        }
        assert!(seen_by(self.pid(), &self.directory).is_dir(), "the server does not see its own directory");
    }
}

impl Drop for ServeProcess {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let text = self.log_text();
            let lines: Vec<&str> = text.lines().collect();
            let tail = lines[lines.len().saturating_sub(30)..].join("\n");
            crate::say(&format!("--- end of the server's log\n{tail}"));
        }
        self.stop();
    }
}

/// `path` as the process sees it.
fn seen_by(process: Pid, path: &Path) -> PathBuf {
    Path::new(&format!("/proc/{}/root", process.as_raw_nonzero())).join(path.strip_prefix("/").unwrap())
}

/// A command that enters its own mount namespace, hides `hidden` and becomes the program whose words are added. Its
/// variable `HIDDEN` must name the same.
pub(crate) fn hidden_command(hidden: &Path) -> Command {
    let mut command = Command::new(prerequisites::find_program("unshare").unwrap());
    if rustix::process::geteuid().is_root() {
        command.args(["--mount", "--propagation", "private"]);
    } else {
        // An ordinary user gets the right to mount in a user namespace of their own.
        command.args(["--user", "--map-root-user", "--mount"]);
    }
    command.args(["sh", "-c", START_HIDDEN, "sh"]);
    command.env("HIDDEN", hidden);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hidden_process_sees_its_own_files_only() {
        prerequisites::require(&["unshare", "mount", "bwrap"]);
        let space = TestSpace::new("hidden");
        let secret = space.write("secret.h", "#define SECRET 1\n");
        let own = space.serve_dir().join("own.h");
        std::fs::write(&own, "").unwrap();
        let mut command = hidden_command(&space.client());
        let mut child = command.args(["sleep", "600"]).spawn().unwrap();
        let process = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while seen_by(process, &secret).exists() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(!seen_by(process, &secret).exists());
        assert!(seen_by(process, &own).exists());
        assert!(secret.exists());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn bubblewrap_works_where_the_client_is_hidden() {
        prerequisites::require(&["unshare", "mount", "bwrap"]);
        let space = TestSpace::new("hidden-bwrap");
        let secret = space.write("secret.h", "");
        let own = space.serve_dir().join("own.h");
        std::fs::write(&own, "").unwrap();
        let exists = |path: &Path| {
            let mut command = hidden_command(&space.client());
            command.args(["bwrap", "--ro-bind", "/", "/", "--unshare-pid", "test", "-e"]).arg(path);
            crate::space::run(&mut command).status == 0
        };
        assert!(exists(&own));
        assert!(!exists(&secret));
    }
}
