//! A real S3 server that others wrote, on a directory of its own: `s3s-fs`, installed by cargo.
//! Knows nothing of who uses it.

use std::net::TcpListener;
use std::net::TcpStream;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use rustix::fs::FlockOperation;

use crate::prerequisites;
use crate::serve_process::hidden_command;
use crate::space::run;

const VERSION: &str = "0.14.1";
const ACCESS_KEY: &str = "farcc-test";
const SECRET_KEY: &str = "farcc-test-secret";

/// A running server with one bucket. Dropping it ends it.
pub struct S3Server {
    directory: tempfile::TempDir,
    hidden: PathBuf,
    program: PathBuf,
    port: u16,
    child: Child,
}

impl S3Server {
    /// The name of the bucket.
    pub const BUCKET: &str = "farcc";

    /// Starts a server in its own mount namespace, in which `hidden` is empty; `None`, said visibly, where it cannot be
    /// had.
    ///
    /// # Panics
    /// When it is there and does not come up.
    pub fn start(hidden: &Path) -> Option<S3Server> {
        let program = installed()?;
        prerequisites::require(&["unshare", "mount"]);
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join(S3Server::BUCKET)).unwrap();
        // Free a moment ago; a restart is to find the same.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = spawn(&program, directory.path(), hidden, port);
        Some(S3Server { directory, hidden: hidden.to_owned(), program, port, child })
    }

    /// What clients connect to.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The variables that give access.
    pub fn environment(&self) -> Vec<(String, String)> {
        let variables = [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)];
        variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }

    /// The file that holds the object `key`.
    pub fn object(&self, key: &str) -> PathBuf {
        self.directory.path().join(S3Server::BUCKET).join(key)
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again on what it had, at the same address.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn restart(&mut self) {
        self.kill();
        self.child = spawn(&self.program, self.directory.path(), &self.hidden, self.port);
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(program: &Path, directory: &Path, hidden: &Path, port: u16) -> Child {
    let mut command = hidden_command(hidden);
    command.arg(program).args(["--host", "127.0.0.1", "--port", &port.to_string()]);
    command.args(["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY]).arg(directory);
    command.env("HIDDEN", hidden).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(child.try_wait().unwrap().is_none(), "s3s-fs has ended");
        assert!(Instant::now() < deadline, "s3s-fs does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}

/// The program from the tests' cache directory, built there if need be.
fn installed() -> Option<PathBuf> {
    let cache = crate::cache_directory();
    std::fs::create_dir_all(&cache).unwrap();
    let place = cache.join(format!("s3s-fs-{VERSION}"));
    let program = place.join("bin/s3s-fs");
    let lock = std::fs::File::create(cache.join("s3s-fs.lock")).unwrap();
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).unwrap();
    if program.exists() {
        return Some(program);
    }
    crate::say(&format!("building s3s-fs {VERSION}, an S3 server, once"));
    let target = tempfile::tempdir_in(&cache).unwrap();
    let mut install = Command::new("nice");
    install.args(["cargo", "install", "--locked", "s3s-fs", "--version", VERSION, "--features", "binary"]);
    install.arg("--root").arg(&place).env("CARGO_TARGET_DIR", target.path());
    // Quickly built is better than fast.
    install.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1").env("CARGO_PROFILE_RELEASE_LTO", "off");
    let finished = run(install.current_dir(&cache));
    if finished.status != 0 {
        crate::skipped("S3", &format!("s3s-fs cannot be installed: {finished}"));
        return None;
    }
    Some(program)
}
