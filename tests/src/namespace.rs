//! A mount namespace in which a space's client lives: its workspace is on a file system of its own, which nobody else sees.
//! Knows nothing of what is run there.

use std::ffi::OsStr;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use crate::prerequisites;
use crate::space::TestSpace;

/// The namespace. It ends when this is dropped, and with it what was mounted in it, once nothing uses it any more.
pub struct Namespace {
    holder: Child,
}

impl Namespace {
    /// One in which there are file systems of these sizes (as `mount` takes them) at these directories.
    ///
    /// # Panics
    /// When they cannot be mounted: that takes root.
    pub fn new(space: &TestSpace, mounts: &[(&Path, &str)]) -> Namespace {
        prerequisites::require(&["unshare", "mount", "nsenter"]);
        let mut command = space.command("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", HOLD, "sh"]);
        for (directory, size) in mounts {
            std::fs::create_dir_all(directory).unwrap();
            command.arg(directory).arg(format!("size={size}"));
        }
        let holder = command.stdout(Stdio::null()).spawn().unwrap();
        let namespace = Namespace { holder };
        let deadline = Instant::now() + Duration::from_secs(10);
        while !namespace.seen(Path::new("/")).join(READY).is_dir() {
            assert!(Instant::now() < deadline, "the namespace does not come up");
            std::thread::sleep(Duration::from_millis(5));
        }
        namespace
    }

    /// A command in it, in the space's workspace.
    pub fn command(&self, space: &TestSpace, program: impl AsRef<OsStr>) -> Command {
        let mut command = space.command("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.holder.id()));
        command.args(["--", "sh", "-c", "cd \"$0\" && exec \"$@\""]).arg(space.workspace()).arg(program);
        command
    }

    /// Where this process finds a path (absolute) of the namespace's.
    ///
    /// # Panics
    /// When the path is not absolute.
    pub fn seen(&self, path: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.id()));
        root.join(path.strip_prefix("/").unwrap())
    }
}

/// Mounts, says that it has, and stays.
const HOLD: &str = r#"
set -eu
while [ $# -gt 0 ]; do mount -t tmpfs -o "$2" none "$1"; shift 2; done
mount -t tmpfs -o size=16k none /mnt
mkdir /mnt/ready
exec sleep 3600
"#;

/// Below the root, when all is mounted.
const READY: &str = "mnt/ready";

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
