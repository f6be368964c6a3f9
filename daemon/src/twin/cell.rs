//! What a command on the twin sees of the machine: the image, read-only, and its workspace at the client's paths. It is set up by
//! bubblewrap; in it, [`init`](crate::twin::init) runs the command.
//! Knows nothing of mirrors, nor of what becomes of the command's changes.
//!
//! # How it ends
//! The first process of the command's PID namespace is ours. When it ends, the kernel ends all others of the namespace, and
//! bubblewrap ends after them (pid_namespaces(7)): then nobody works in the workspace's mounts any more. It ends when its socket
//! does, so that a command never outlives the server.

use std::ffi::OsString;
use std::io;
use std::io::IoSlice;
use std::io::Write as _;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::path::PathBuf;
use std::process::Stdio;

use farcc_proto::twin;
use prost::Message as _;
use rustix::net::SendAncillaryBuffer;
use rustix::net::SendAncillaryMessage;
use rustix::net::SendFlags;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::OwnedReadHalf;
use tokio::net::unix::OwnedWriteHalf;
use tokio::process::Child;
use tokio::sync::mpsc;

use crate::executor::sandbox::SYSTEM_ENTRIES;
use crate::process::Program;
use crate::twin::etc;
use crate::twin::init::REPORT_BYTES;
use crate::twin::init::Report;
use crate::twin::init::Usage;

/// The name under which this program is called as a first process.
pub const INIT: &str = "twin-init";

/// Where this program is in the cell.
pub(super) const PROGRAM: &str = "/run/farcc/farccd";

/// Where bubblewrap is looked for.
const BUBBLEWRAP_PLACES: &[&str] = &["/usr/bin/bwrap", "/usr/local/bin/bwrap", "/bin/bwrap"];

/// Of bubblewrap's messages, this much is read.
const MOST_COMPLAINTS_BYTES: u64 = 4096;

/// How cells are made on this machine.
#[derive(Debug, Clone)]
pub struct Cells {
    bubblewrap: PathBuf,
    /// This program.
    program: PathBuf,
    /// Bubblewrap's arguments for the image.
    image: Vec<OsString>,
    /// How much a command's processes may use.
    limits: Usage,
    /// What `/tmp` and its kin may hold, in bytes.
    temporary_bytes: u64,
}

/// One command's cell.
pub struct Plan<'a> {
    /// Each directory of the workspace: where it is mounted here, and where the command sees it.
    pub roots: Vec<(&'a Path, &'a Path)>,
    /// What `/etc/passwd` and `/etc/group` are.
    pub accounts: [&'a Path; 2],
    /// Whose numbers the command sees as its own.
    pub user: u32,
    /// The same for its group.
    pub group: u32,
    /// Whether it may open connections.
    pub has_network: bool,
    /// A directory that it can write to and that nobody keeps, if there is one outside the workspace.
    pub home: Option<&'a Path>,
    /// What it sees besides.
    pub binds: Vec<Bind>,
}

/// A file or a directory of this machine in a cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// Where it is here.
    pub from: PathBuf,
    /// Where it is there.
    pub at: PathBuf,
    /// Whether it can be written to.
    pub is_writable: bool,
}

/// A command in its cell.
pub struct Cell {
    bubblewrap: Child,
    control: OwnedWriteHalf,
    reports: mpsc::Receiver<Report>,
}

impl Cells {
    /// How cells are made here; `shown` are directories of this machine that commands are to see besides, read-only. `etc` is made
    /// and mounted over.
    ///
    /// # Errors
    /// When bubblewrap is missing, this program cannot be found, or `etc` not be used.
    pub fn new(
        limits: Usage,
        temporary_bytes: u64,
        shown: &[PathBuf],
        etc: PathBuf,
    ) -> anyhow::Result<Cells> {
        use anyhow::Context as _;
        let bubblewrap = BUBBLEWRAP_PLACES.iter().map(PathBuf::from).find(|path| path.exists());
        let bubblewrap = bubblewrap.context("find bwrap: install the package bubblewrap")?;
        let program = std::env::current_exe().context("find this program")?;
        etc::prepare(&etc).with_context(|| format!("prepare {}", etc.display()))?;
        let mut image: Vec<OsString> = ["--ro-bind".into(), etc.into(), "/etc".into()].into();
        for entry in SYSTEM_ENTRIES.iter().map(Path::new).filter(|entry| !entry.starts_with("etc")) {
            show(&mut image, &Path::new("/").join(entry));
        }
        for directory in shown {
            show(&mut image, directory);
        }
        Ok(Cells { bubblewrap, program, image, limits, temporary_bytes })
    }

    /// Starts a command with these standard descriptors.
    ///
    /// # Errors
    /// When the system refuses, or bubblewrap.
    pub async fn start(
        &self,
        plan: &Plan<'_>,
        command: &twin::Start,
        stdio: [OwnedFd; 3],
    ) -> io::Result<Cell> {
        let (control, other) = UnixStream::pair()?;
        let program = Program {
            path: &self.bubblewrap,
            args: self.arguments(plan),
            env: Vec::new(),
            cwd: Path::new("/"),
        };
        let mut bubblewrap = program.command();
        bubblewrap.stdin(OwnedFd::from(other)).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = bubblewrap.spawn()?;
        // Its copy of the other end would keep ours open.
        drop(bubblewrap);
        let bytes = command.encode_to_vec();
        // A command that is longer than a socket's buffer waits for its reader.
        let sent =
            tokio::task::spawn_blocking(move || send(&control, &bytes, &stdio).map(|()| control)).await?;
        let control = match sent {
            Ok(control) => control,
            Err(error) => return Err(complained(child).await?.map_or(error, io::Error::other)),
        };
        control.set_nonblocking(true)?;
        let (reader, control) = tokio::net::UnixStream::from_std(control)?.into_split();
        let (sender, reports) = mpsc::channel(1);
        tokio::spawn(pass_on(reader, sender));
        Ok(Cell { bubblewrap: child, control, reports })
    }

    /// The launcher that belongs to this program, if it is installed.
    pub fn launcher(&self) -> Option<PathBuf> {
        Some(self.program.with_file_name("farcc")).filter(|launcher| launcher.is_file())
    }

    fn arguments(&self, plan: &Plan<'_>) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = Vec::new();
        let mut add = |words: &[&dyn AsRef<std::ffi::OsStr>]| {
            arguments.extend(words.iter().map(|word| word.as_ref().to_owned()));
        };
        let (user, group) = (plan.user.to_string(), plan.group.to_string());
        let size = self.temporary_bytes.to_string();
        add(&[&"--unshare-user", &"--uid", &user, &"--gid", &group]);
        add(&[&"--unshare-ipc", &"--unshare-pid", &"--unshare-uts", &"--unshare-cgroup-try", &"--as-pid-1"]);
        if !plan.has_network {
            add(&[&"--unshare-net"]);
        }
        add(&[&"--cap-drop", &"ALL", &"--hostname", &"twin"]);
        add(&[&"--proc", &"/proc", &"--dev", &"/dev"]);
        for temporary in ["/tmp", "/var/tmp"] {
            add(&[&"--perms", &"1777", &"--size", &size, &"--tmpfs", &temporary]);
        }
        if let Some(home) = plan.home {
            add(&[&"--perms", &"0700", &"--size", &size, &"--tmpfs", &home]);
        }
        arguments.extend(self.image.iter().cloned());
        let mut add = |words: &[&dyn AsRef<std::ffi::OsStr>]| {
            arguments.extend(words.iter().map(|word| word.as_ref().to_owned()));
        };
        for (accounts, at) in plan.accounts.iter().zip(["/etc/passwd", "/etc/group"]) {
            add(&[&"--ro-bind", accounts, &at]);
        }
        if plan.has_network {
            add(&[&"--ro-bind-try", &"/etc/resolv.conf", &"/etc/resolv.conf"]);
        }
        add(&[&"--ro-bind", &self.program, &PROGRAM]);
        for Bind { from, at, is_writable } in &plan.binds {
            add(&[if *is_writable { &"--bind" } else { &"--ro-bind" }, from, at]);
        }
        for (mount, at) in &plan.roots {
            add(&[&"--bind", mount, at]);
        }
        // What a command writes beside its workspace would be lost: it is to learn of that.
        add(&[&"--remount-ro", &"/", &"--chdir", &"/", &"--", &PROGRAM, &INIT]);
        let (processes, memory) = (self.limits.processes.to_string(), self.limits.memory_bytes.to_string());
        add(&[&"--processes", &processes, &"--memory-bytes", &memory]);
        arguments
    }
}

/// Shows this machine's `path`, if there is one.
fn show(arguments: &mut Vec<OsString>, path: &Path) {
    let Ok(metadata) = path.symlink_metadata() else { return };
    let (option, source) = match path.read_link() {
        // On merged-/usr systems `/bin` is a symlink, and programs may look at that.
        Ok(target) if metadata.is_symlink() => ("--symlink", target),
        _ => ("--ro-bind", path.to_owned()),
    };
    arguments.extend([option.into(), source.into_os_string(), path.as_os_str().to_owned()]);
}

/// Sends the command to the cell's first process.
fn send(mut control: &UnixStream, command: &[u8], stdio: &[OwnedFd; 3]) -> io::Result<()> {
    let length = u32::try_from(command.len()).map_err(|_| io::ErrorKind::InvalidInput)?.to_le_bytes();
    let descriptors = stdio.each_ref().map(AsFd::as_fd);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    rights.push(SendAncillaryMessage::ScmRights(&descriptors));
    let sent = rustix::net::sendmsg(control, &[IoSlice::new(&length)], &mut rights, SendFlags::NOSIGNAL)?;
    control.write_all(&length[sent..])?;
    control.write_all(command)
}

/// Passes on what the first process says, until it has nothing more to say.
async fn pass_on(mut control: OwnedReadHalf, reports: mpsc::Sender<Report>) {
    let mut report = [0; REPORT_BYTES];
    while control.read_exact(&mut report).await.is_ok() {
        let Some(report) = Report::decode(report) else { return };
        if reports.send(report).await.is_err() {
            return;
        }
    }
}

/// Waits for bubblewrap's end, and returns what it has complained of, if it has.
async fn complained(mut bubblewrap: Child) -> io::Result<Option<String>> {
    let mut complaints = Vec::new();
    if let Some(stderr) = bubblewrap.stderr.take() {
        // What is lost of it, nobody misses.
        let _ = stderr.take(MOST_COMPLAINTS_BYTES).read_to_end(&mut complaints).await;
    }
    bubblewrap.wait().await?;
    let complaints = String::from_utf8_lossy(&complaints).trim().to_owned();
    Ok(Some(complaints).filter(|complaints| !complaints.is_empty()))
}

impl Cell {
    /// What becomes of the command next; None: its first process has ended without a word. May be dropped and called again.
    pub async fn report(&mut self) -> Option<Report> {
        self.reports.recv().await
    }

    /// Sends a signal to the command's process group. One that has ended does not mind.
    pub fn signal(&self, signal: u8) {
        let _ = self.control.try_write(&[signal]);
    }

    /// Ends every process that is left, and waits for that. Returns what bubblewrap has complained of, if it has.
    ///
    /// # Errors
    /// When it cannot be waited for: then somebody may still work in the mounts.
    pub async fn end(self) -> io::Result<Option<String>> {
        let Cell { bubblewrap, control, reports } = self;
        drop((control, reports));
        complained(bubblewrap).await
    }
}
