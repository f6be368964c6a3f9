//! Where farcc keeps its files, and how launcher and daemon find each other there.
//! Knows nothing of what is said over the socket or kept in the store.

use std::ffi::OsString;
use std::fs::File;
use std::fs::OpenOptions;
use std::fs::Permissions;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::net::AddressFamily;
use rustix::net::SocketAddrUnix;
use rustix::net::SocketFlags;
use rustix::net::SocketType;
use rustix::net::sockopt::Timeout;

use crate::directories::can_hold;
use crate::directories::check_owner;
use crate::directories::is_ours;
use crate::directories::our_uid;
use crate::directories::prepare_directory;
use crate::directories::prepare_temporary;
use crate::directories::temporary;
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
    /// `~/.config/farcc/farcc.toml`, and without HOME `/etc/farcc/farcc.toml`.
    pub config_file: PathBuf,
    /// The directory in /tmp, where one of them lies in it: it must be ours before they are used.
    temporary: Option<PathBuf>,
    /// The name of the socket, where somebody has given it one.
    socket: Option<String>,
    /// The whole of it, once it was asked for.
    socket_name: OnceLock<String>,
}

impl Places {
    /// The places that an environment names. An empty value counts as unset, and so does a relative one of the
    /// XDG variables (XDG Base Directory Specification, "Basics"); a relative FARCC_DIR is taken from the
    /// working directory.
    ///
    /// What HOME and the XDG variables name may not be usable: containers have homes that are not there, that are
    /// read-only or another user's. What cannot be there lies in `/tmp/farcc-<uid>`. FARCC_DIR is for farcc alone, so it
    /// is never departed from.
    ///
    /// FARCC_SOCKET, a name without `/`, is that of the socket: for a launcher and a daemon in containers that show them the same
    /// files.
    pub fn from_env(env: &dyn Fn(&str) -> Option<OsString>) -> Places {
        let path = |name| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let absolute = |name| path(name).filter(|path| path.is_absolute());
        let home = absolute("HOME");
        let config = absolute("XDG_CONFIG_HOME").or_else(|| home.as_ref().map(|home| home.join(".config")));
        // Never one in /tmp: it can name programs to run, and is read before anything is prepared.
        let config_file = config.unwrap_or_else(|| PathBuf::from("/etc")).join("farcc/farcc.toml");
        let socket = env("FARCC_SOCKET").and_then(|name| name.into_string().ok());
        let socket = socket.filter(|name| !name.is_empty() && !name.starts_with('.') && !name.contains('/'));
        if let Some(directory) = path("FARCC_DIR").and_then(|path| std::path::absolute(path).ok()) {
            return Places {
                run: directory.join("run"),
                store: directory.join("store"),
                state: directory.join("state"),
                log: directory.join("log"),
                config_file,
                temporary: None,
                socket,
                socket_name: OnceLock::new(),
            };
        }
        let temporary = temporary();
        // A home that is not there is nobody's to make.
        let home = home.filter(|home| home.is_dir());
        let in_home = |name, below: &str, last: &str| {
            let named = absolute(name).or_else(|| home.as_ref().map(|home| home.join(below)));
            let directory = named.map(|named| named.join("farcc")).filter(|named| can_hold(named));
            directory.unwrap_or_else(|| temporary.join(last))
        };
        let runtime = absolute("XDG_RUNTIME_DIR").filter(|directory| is_ours(directory));
        let run = runtime.map_or_else(|| temporary.clone(), |directory| directory.join("farcc"));
        let store = in_home("XDG_CACHE_HOME", ".cache", "store");
        let state = in_home("XDG_STATE_HOME", ".local/state", "state");
        let is_temporary = [&run, &store, &state].iter().any(|place| place.starts_with(&temporary));
        let log = state.join("log");
        let temporary = is_temporary.then_some(temporary);
        let socket_name = OnceLock::new();
        Places { run, store, state, log, config_file, temporary, socket, socket_name }
    }

    /// Name of the socket below `run`. It covers machine, user, mount namespace and root directory: a container
    /// that shares the directory has another `/usr`, so it must not meet this daemon, unless somebody says that it may.
    pub fn socket_name(&self) -> &str {
        self.socket_name.get_or_init(|| self.find_socket_name())
    }

    fn find_socket_name(&self) -> String {
        if let Some(name) = &self.socket {
            return format!("{name}.sock");
        }
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
        self.prepare_run()?;
        for directory in [&self.store, &self.state, &self.log] {
            prepare_directory(directory)?;
        }
        Ok(())
    }

    /// Creates the directory of socket, locks and slots, mode 0700.
    ///
    /// # Errors
    /// As [`prepare`](Places::prepare).
    pub fn prepare_run(&self) -> io::Result<()> {
        if let Some(temporary) = &self.temporary {
            prepare_temporary(temporary)?;
        }
        prepare_directory(&self.run)
    }

    /// Checks that what lies in /tmp, if anything does, is not somebody else's: for those who only read there.
    ///
    /// # Errors
    /// When it is.
    pub fn check_owner(&self) -> io::Result<()> {
        self.temporary.as_deref().map_or(Ok(()), check_owner)
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

    /// Whether a daemon has its lock.
    pub fn has_daemon(&self) -> bool {
        // Who cannot know must not start another one.
        let lock = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(self.daemon_lock());
        match lock {
            Ok(lock) => rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared).is_err(),
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }

    /// Listens at the socket, mode 0600, in place of whatever was left there, and forgets the troubles of earlier
    /// daemons. Only for the holder of [`lock_daemon`](Places::lock_daemon).
    ///
    /// # Errors
    /// When the directory is not there or the socket cannot be made.
    pub fn bind(&self) -> io::Result<UnixListener> {
        let listener = listen(&self.run.join(self.socket_name()))?;
        self.start_failed().forget();
        self.stuck().forget();
        Ok(listener)
    }
}

/// Listens at `path`, which may be of any length, mode 0600, in place of whatever was left there.
///
/// # Errors
/// When the directory is not there or the socket cannot be made.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    let address = Address::of(path)?;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = new_socket()?;
    rustix::net::bind(&socket, &address.address)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
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

/// 64-bit FNV-1a: short and stable, against accidents only.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
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
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_str().unwrap();
        let temporary = PathBuf::from(format!("/tmp/farcc-{}", our_uid()));
        let home_only = places(&[("HOME", path), ("FARCC_DIR", ""), ("XDG_CACHE_HOME", "relative")]);
        assert_eq!(home_only.run, temporary);
        assert_eq!(home_only.store, directory.path().join(".cache/farcc"));
        assert_eq!(home_only.log, directory.path().join(".local/state/farcc/log"));
        let (cache, state) = (format!("{path}/c"), format!("{path}/s"));
        let xdg =
            places(&[("XDG_RUNTIME_DIR", path), ("XDG_CACHE_HOME", &cache), ("XDG_STATE_HOME", &state)]);
        assert_eq!(xdg.run, directory.path().join("farcc"));
        assert_eq!(xdg.store, directory.path().join("c/farcc"));
        assert_eq!(xdg.state, directory.path().join("s/farcc"));
        assert_eq!(xdg.temporary, None);
        let nothing = places(&[]);
        assert!(nothing.store.starts_with(&temporary) && nothing.state.starts_with(&temporary));
        assert_eq!((nothing.run, nothing.temporary), (temporary.clone(), Some(temporary)));
        assert_eq!(nothing.config_file, Path::new("/etc/farcc/farcc.toml"));
    }

    #[test]
    fn a_home_that_cannot_be_used_is_not() {
        let temporary = PathBuf::from(format!("/tmp/farcc-{}", our_uid()));
        for home in ["/nonexistent", "/etc/passwd"] {
            let variables = ["XDG_RUNTIME_DIR", "XDG_STATE_HOME"].map(|name| (name, "/etc/passwd"));
            let places = places(&[[("HOME", home)].as_slice(), &variables].concat());
            for place in [&places.run, &places.store, &places.state, &places.log] {
                assert!(place.starts_with(&temporary), "{home}: {}", place.display());
            }
            assert_eq!(places.config_file, Path::new(home).join(".config/farcc/farcc.toml"));
        }
        if our_uid() == 0 {
            let directory = tempfile::tempdir().unwrap();
            let farcc = directory.path().join("farcc");
            std::fs::create_dir(&farcc).unwrap();
            let path = directory.path().to_str().unwrap();
            let chosen = || places(&[("XDG_CACHE_HOME", path), ("XDG_RUNTIME_DIR", path)]);
            assert_eq!((chosen().store, chosen().run), (farcc.clone(), farcc.clone()));
            std::os::unix::fs::chown(&farcc, Some(65534), None).unwrap();
            assert_eq!(chosen().store, temporary.join("store"));
            std::os::unix::fs::chown(directory.path(), Some(65534), None).unwrap();
            assert_eq!(chosen().run, temporary);
        }
    }

    #[test]
    fn a_socket_can_have_a_name_of_its_own() {
        let named = |name| places(&[("FARCC_DIR", "/f"), ("FARCC_SOCKET", name)]).socket_name().to_owned();
        assert_eq!(named("build"), "build.sock");
        let own = named("");
        for unusable in ["../build", ".", ".hidden", "a/b"] {
            assert_eq!(named(unusable), own, "{unusable}");
        }
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
        let name = places(&[]).socket_name().to_owned();
        assert_eq!(name, places(&[("FARCC_DIR", "/f")]).socket_name());
        assert!(name.contains(&format!("-{}-", our_uid())) && name.ends_with(".sock") && name.len() < 100);
    }
}
