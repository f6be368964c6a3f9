//! Where farcc keeps its files, and how launcher and daemon find each other there.
//! Knows nothing of what is said over the socket or kept in the store.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::fs::File;
use std::fs::OpenOptions;
use std::fs::Permissions;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::net::AddressFamily;
use rustix::net::SocketAddrUnix;
use rustix::net::SocketFlags;
use rustix::net::SocketType;
use rustix::net::sockopt::Timeout;

use crate::memo::Memo;
use crate::process;

/// How long connecting, or sending into a full socket, may take before the daemon counts as stuck.
pub const SEND_PATIENCE: Duration = Duration::from_secs(10);
/// `sun_path` takes this many bytes with the NUL behind them (unix(7)).
const SUN_PATH_BYTES: usize = 108;
const BACKLOG: i32 = 4096;
const START_FAILED_LIFETIME: Duration = Duration::from_secs(30);
const STUCK_LIFETIME: Duration = Duration::from_secs(300);

/// The directories of one user's farcc, all absolute. Nothing needs to exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Socket, locks and slots: `$FARCC_DIR/run`, else `$XDG_RUNTIME_DIR/farcc`, else `/tmp/farcc-<uid>`.
    pub run: PathBuf,
    /// Blobs and results: `$FARCC_DIR/store`, else `$XDG_CACHE_HOME/farcc`, else `~/.cache/farcc`.
    pub store: PathBuf,
    /// What the daemon remembers: `$FARCC_DIR/state`, else `$XDG_STATE_HOME/farcc`, else `~/.local/state/farcc`.
    pub state: PathBuf,
    /// Logs: `log` in the directory of FARCC_DIR, else in `state`.
    pub log: PathBuf,
    /// The configuration, unless FARCC_CONFIG names another: `$XDG_CONFIG_HOME/farcc/farcc.toml`, else
    /// `~/.config/farcc/farcc.toml`.
    pub config_file: PathBuf,
}

impl Places {
    /// The places that an environment names. An empty value counts as unset, and so does a relative one of the
    /// XDG variables (XDG Base Directory Specification, "Basics"); a relative FARCC_DIR is taken from the
    /// working directory. Without HOME everything lies in `/tmp/farcc-<uid>`.
    pub fn from_env(env: &dyn Fn(&str) -> Option<OsString>) -> Places {
        let path = |name| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let absolute = |name| path(name).filter(|path| path.is_absolute());
        let temporary = PathBuf::from(format!("/tmp/farcc-{}", our_uid()));
        let home = absolute("HOME");
        let in_home = |name, below: &str, last: &str| match (absolute(name), &home) {
            (Some(directory), _) => directory.join("farcc"),
            (None, Some(home)) => home.join(below).join("farcc"),
            (None, None) => temporary.join(last),
        };
        let config_file = in_home("XDG_CONFIG_HOME", ".config", "config").join("farcc.toml");
        if let Some(directory) = path("FARCC_DIR").and_then(|path| std::path::absolute(path).ok()) {
            return Places {
                run: directory.join("run"),
                store: directory.join("store"),
                state: directory.join("state"),
                log: directory.join("log"),
                config_file,
            };
        }
        let state = in_home("XDG_STATE_HOME", ".local/state", "state");
        Places {
            run: absolute("XDG_RUNTIME_DIR").map_or_else(|| temporary.clone(), |path| path.join("farcc")),
            store: in_home("XDG_CACHE_HOME", ".cache", "store"),
            log: state.join("log"),
            state,
            config_file,
        }
    }

    /// Name of the socket below `run`. It covers machine, user, mount namespace and root directory: a container
    /// that shares the directory has another `/usr`, so it must not meet this daemon.
    pub fn socket_name(&self) -> String {
        let namespace = std::fs::metadata("/proc/self/ns/mnt").map_or(0, |metadata| metadata.ino());
        let (device, inode) = std::fs::metadata("/").map_or((0, 0), |root| (root.dev(), root.ino()));
        let machine = fnv1a(rustix::system::uname().nodename().to_bytes());
        format!("{machine:016x}-{}-{namespace:x}-{device:x}-{inode:x}.sock", our_uid())
    }

    /// The file whose lock says that a daemon serves the socket.
    pub fn daemon_lock(&self) -> PathBuf {
        self.run.join(self.socket_name()).with_extension("lock")
    }

    /// The file whose lock one launcher holds while it starts the daemon.
    pub fn spawn_lock(&self) -> PathBuf {
        self.run.join(self.socket_name()).with_extension("spawn")
    }

    /// Set while starting the daemon has just failed.
    pub fn start_failed(&self) -> Memo {
        Memo {
            path: self.run.join(self.socket_name()).with_extension("failed"),
            lifetime: START_FAILED_LIFETIME,
        }
    }

    /// Set while the daemon has just been found to give no answer.
    pub fn stuck(&self) -> Memo {
        Memo { path: self.run.join(self.socket_name()).with_extension("stuck"), lifetime: STUCK_LIFETIME }
    }

    /// The directory of the [slots](crate::slots).
    pub fn slots(&self) -> PathBuf {
        self.run.join("slots")
    }

    /// Where standard output and error of a daemon go that a launcher started.
    pub fn log_file(&self) -> PathBuf {
        self.log.join("farccd.log")
    }

    /// Creates the directories, mode 0700.
    ///
    /// # Errors
    /// When one cannot be created, is no directory or belongs to somebody else.
    pub fn prepare(&self) -> io::Result<()> {
        for directory in [&self.run, &self.store, &self.state, &self.log] {
            prepare_directory(directory)?;
        }
        Ok(())
    }

    /// Creates the directory of socket, locks and slots, mode 0700.
    ///
    /// # Errors
    /// As [`prepare`](Places::prepare).
    pub fn prepare_run(&self) -> io::Result<()> {
        prepare_directory(&self.run)
    }

    /// Takes the daemon's lock for the life of the returned file; none if another daemon has it.
    ///
    /// # Errors
    /// When the file cannot be opened or locked.
    pub fn lock_daemon(&self) -> io::Result<Option<File>> {
        let file = open_lock(&self.daemon_lock())?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Listens at the socket, mode 0600, in place of whatever was left there, and forgets the troubles of earlier
    /// daemons. Only for the holder of [`lock_daemon`](Places::lock_daemon).
    ///
    /// # Errors
    /// When the directory is not there or the socket cannot be made.
    pub fn bind(&self) -> io::Result<UnixListener> {
        let path = self.run.join(self.socket_name());
        let address = Address::of(&path)?;
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = new_socket()?;
        rustix::net::bind(&socket, &address.address)?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        rustix::net::listen(&socket, BACKLOG)?;
        self.start_failed().forget();
        self.stuck().forget();
        Ok(socket.into())
    }
}

/// Connects to the daemon that listens at `places`, if its process belongs to us. The socket has a send time-out
/// of [`SEND_PATIENCE`].
///
/// # Errors
/// `NotFound` or `ConnectionRefused` when there is no daemon, `PermissionDenied` when somebody else listens,
/// `TimedOut` when the daemon takes no connections; otherwise what the kernel answers.
pub fn connect(places: &Places) -> io::Result<UnixStream> {
    let address = Address::of(&places.run.join(places.socket_name()))?;
    let socket = new_socket()?;
    rustix::net::sockopt::set_socket_timeout(&socket, Timeout::Send, Some(SEND_PATIENCE))?;
    loop {
        match rustix::net::connect(&socket, &address.address) {
            Ok(()) => break,
            Err(rustix::io::Errno::INTR) => {}
            // The queue of connections was full all the time.
            Err(rustix::io::Errno::AGAIN) => return Err(io::ErrorKind::TimedOut.into()),
            Err(error) => return Err(error.into()),
        }
    }
    let (_, peer_uid) = process::peer(socket.as_fd())?;
    if peer_uid != our_uid() {
        let message = format!("connect to the daemon: its socket belongs to uid {peer_uid}");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    Ok(socket.into())
}

/// A socket address of any length: a long path is reached through a descriptor of its directory.
struct Address {
    address: SocketAddrUnix,
    // The address leads through it.
    _directory: Option<OwnedFd>,
}

impl Address {
    fn of(path: &Path) -> io::Result<Address> {
        if path.as_os_str().len() < SUN_PATH_BYTES {
            return Ok(Address { address: SocketAddrUnix::new(path)?, _directory: None });
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let directory =
            rustix::fs::open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let short = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
        Ok(Address { address: SocketAddrUnix::new(short)?, _directory: Some(directory) })
    }
}

fn new_socket() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}

/// Opens a file to lock: created if need be, never through a symlink that somebody planted.
pub(crate) fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}

/// Makes sure that `directory` is a directory of ours with mode 0700. A symlink will do if it is ours too: who
/// moved the cache to a larger disk keeps it, who plants a link in /tmp does not get us to follow it.
pub(crate) fn prepare_directory(directory: &Path) -> io::Result<()> {
    let context = |error: io::Error| {
        io::Error::new(error.kind(), format!("prepare directory {}: {error}", directory.display()))
    };
    let refuse = |kind, problem: &str| Err(context(io::Error::new(kind, problem)));
    let found = match std::fs::symlink_metadata(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(context)?;
            std::fs::symlink_metadata(directory)
        }
        found => found,
    };
    let link = found.map_err(context)?;
    let target =
        if link.is_symlink() { std::fs::metadata(directory).map_err(context)? } else { link.clone() };
    if link.uid() != our_uid() || target.uid() != our_uid() {
        return refuse(io::ErrorKind::PermissionDenied, "it belongs to another user");
    }
    if !target.is_dir() {
        return refuse(io::ErrorKind::NotADirectory, "it is no directory");
    }
    if target.mode() & 0o777 != 0o700 {
        std::fs::set_permissions(directory, Permissions::from_mode(0o700)).map_err(context)?;
    }
    Ok(())
}

/// The user that files are created as.
pub(crate) fn our_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// 64-bit FNV-1a: short and stable, against accidents only.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::io::Write;

    use super::*;

    fn places(pairs: &[(&str, &str)]) -> Places {
        Places::from_env(&|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
    }

    fn in_directory(directory: &Path) -> Places {
        Places::from_env(&|name| (name == "FARCC_DIR").then(|| directory.into()))
    }

    #[test]
    fn farcc_dir_holds_everything_but_the_configuration() {
        let places = places(&[("FARCC_DIR", "/f"), ("HOME", "/h"), ("XDG_RUNTIME_DIR", "/r")]);
        assert_eq!(places.run, Path::new("/f/run"));
        assert_eq!(places.store, Path::new("/f/store"));
        assert_eq!(places.state, Path::new("/f/state"));
        assert_eq!(places.log, Path::new("/f/log"));
        assert_eq!(places.config_file, Path::new("/h/.config/farcc/farcc.toml"));
    }

    #[test]
    fn xdg_directories() {
        let home_only = places(&[("HOME", "/h"), ("FARCC_DIR", ""), ("XDG_CACHE_HOME", "relative")]);
        assert_eq!(home_only.run, Path::new(&format!("/tmp/farcc-{}", our_uid())));
        assert_eq!(home_only.store, Path::new("/h/.cache/farcc"));
        assert_eq!(home_only.log, Path::new("/h/.local/state/farcc/log"));
        let xdg = places(&[("XDG_RUNTIME_DIR", "/r"), ("XDG_CACHE_HOME", "/c"), ("XDG_STATE_HOME", "/s")]);
        assert_eq!((xdg.run.as_path(), xdg.store.as_path()), (Path::new("/r/farcc"), Path::new("/c/farcc")));
        assert_eq!(xdg.state, Path::new("/s/farcc"));
        let nothing = places(&[]);
        assert!(nothing.store.starts_with(&nothing.run) && nothing.config_file.starts_with(&nothing.run));
    }

    #[test]
    fn a_relative_farcc_dir_becomes_absolute() {
        assert_eq!(places(&[("FARCC_DIR", "x")]).run, std::env::current_dir().unwrap().join("x/run"));
    }

    #[test]
    fn prepare_makes_private_directories_and_mends_modes() {
        let directory = tempfile::tempdir().unwrap();
        let places = in_directory(&directory.path().join("a/b"));
        places.prepare().unwrap();
        std::fs::set_permissions(&places.run, Permissions::from_mode(0o777)).unwrap();
        places.prepare().unwrap();
        for made in [&places.run, &places.store, &places.state, &places.log] {
            assert_eq!(std::fs::metadata(made).unwrap().mode() & 0o7777, 0o700, "{}", made.display());
        }
    }

    #[test]
    fn what_is_no_directory_of_ours_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let places = in_directory(directory.path());
        std::fs::write(&places.run, "").unwrap();
        assert_eq!(places.prepare_run().unwrap_err().kind(), io::ErrorKind::NotADirectory);
        if our_uid() == 0 {
            std::fs::remove_file(&places.run).unwrap();
            std::fs::create_dir(&places.run).unwrap();
            std::os::unix::fs::chown(&places.run, Some(65534), None).unwrap();
            assert_eq!(places.prepare_run().unwrap_err().kind(), io::ErrorKind::PermissionDenied);
            // A link that another user planted, to a directory that is ours.
            std::fs::create_dir(directory.path().join("ours")).unwrap();
            std::fs::remove_dir(&places.run).unwrap();
            std::os::unix::fs::symlink("ours", &places.run).unwrap();
            std::os::unix::fs::lchown(&places.run, Some(65534), None).unwrap();
            assert_eq!(places.prepare_run().unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        }
    }

    #[test]
    fn two_daemons_never_have_the_lock() {
        let directory = tempfile::tempdir().unwrap();
        let places = in_directory(directory.path());
        places.prepare_run().unwrap();
        let lock = places.lock_daemon().unwrap();
        assert!(lock.is_some());
        assert!(places.lock_daemon().unwrap().is_none());
        drop(lock);
        assert!(places.lock_daemon().unwrap().is_some());
    }

    #[test]
    fn sockets_work_at_any_path_length() {
        let directory = tempfile::tempdir().unwrap();
        for deeper in ["s".to_owned(), "l".repeat(200)] {
            let places = in_directory(&directory.path().join(deeper));
            assert_eq!(connect(&places).unwrap_err().kind(), io::ErrorKind::NotFound);
            places.prepare_run().unwrap();
            assert_eq!(connect(&places).unwrap_err().kind(), io::ErrorKind::NotFound);
            drop(places.bind().unwrap());
            assert_eq!(connect(&places).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
            let listener = places.bind().unwrap();
            let mode = std::fs::metadata(places.run.join(places.socket_name())).unwrap().mode();
            assert_eq!(mode & 0o777, 0o600);
            let mut stream = connect(&places).unwrap();
            let us = (i32::try_from(std::process::id()).unwrap(), our_uid());
            assert_eq!(process::peer(stream.as_fd()).unwrap(), us);
            stream.write_all(b"x").unwrap();
            drop(stream);
            let mut received = Vec::new();
            listener.accept().unwrap().0.read_to_end(&mut received).unwrap();
            assert_eq!(received, b"x");
        }
    }

    #[test]
    fn the_socket_name_is_stable() {
        let name = places(&[]).socket_name();
        assert_eq!(name, places(&[("FARCC_DIR", "/f")]).socket_name());
        assert!(name.contains(&format!("-{}-", our_uid())) && name.ends_with(".sock") && name.len() < 100);
    }
}
