//! Reaches the daemon, and starts it if there is none: once, however many launchers want it at the same time.
//! Knows nothing of what the daemon is asked.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::fs::FlockOperation;
use rustix::pipe::PipeFlags;

use crate::places::Places;
use crate::places::connect;
use crate::places::open_lock;
use crate::process::Environment;
use crate::process::Image;
use crate::process::READY_FD;
use crate::search::Identity;
use crate::search::Search;
use crate::search::Tried;

/// How long a started daemon has to become ready.
pub const START_PATIENCE: Duration = Duration::from_secs(10);

/// What belongs to the command that happened to start the daemon, and must not stay with it: above all the
/// jobserver of a Make, whose tokens a daemon would keep from the build.
const NOT_FOR_THE_DAEMON: [&str; 8] = [
    "MAKEFLAGS",
    "MFLAGS",
    "MAKELEVEL",
    "MAKE_TERMOUT",
    "MAKE_TERMERR",
    "CARGO_MAKEFLAGS",
    "LD_PRELOAD",
    crate::launch::ACTIVE,
];

/// Connects to the daemon at `places`; starts it if there is none.
///
/// # Errors
/// When there is no daemon and none could be started, now or a moment ago; when it is stuck; when somebody else
/// listens there.
pub fn connect_or_start(places: &Places, environment: &Environment) -> io::Result<UnixStream> {
    connect_or_start_with(places, environment, &[])
}

/// Like [`connect_or_start`]; a daemon that has to be started gets `options` besides.
///
/// # Errors
/// The same.
pub fn connect_or_start_with(
    places: &Places,
    environment: &Environment,
    options: &[OsString],
) -> io::Result<UnixStream> {
    if let Some(stuck) = places.stuck().recall() {
        // The one that was stuck may be gone.
        if !places.has_daemon() {
            places.stuck().forget();
            return start(places, environment, options);
        }
        return Err(io::Error::new(io::ErrorKind::TimedOut, stuck));
    }
    match connect(places) {
        Err(error) if is_absent(&error) => start(places, environment, options),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            let message = "the daemon takes no connections";
            places.stuck().note(message);
            Err(io::Error::new(io::ErrorKind::TimedOut, message))
        }
        reached => reached,
    }
}

/// Whether `connect` failed because no daemon is there.
pub fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// Starts the daemon and connects to it. Of several callers one starts it, the others wait for that one.
fn start(places: &Places, environment: &Environment, options: &[OsString]) -> io::Result<UnixStream> {
    places.prepare_run()?;
    // Freed by the kernel if its holder is killed.
    let lock = open_lock(&places.spawn_lock())?;
    while let Err(error) = rustix::fs::flock(&lock, FlockOperation::LockExclusive) {
        if error != rustix::io::Errno::INTR {
            return Err(error.into());
        }
    }
    match connect(places) {
        Err(error) if is_absent(&error) => {}
        reached => return reached,
    }
    if let Some(failure) = places.start_failed().recall() {
        return Err(io::Error::other(failure));
    }
    match spawn(places, environment, options).and_then(|()| connect(places)) {
        Ok(stream) => Ok(stream),
        Err(error) => {
            let message = format!("start the daemon: {error}");
            places.start_failed().note(&message);
            Err(io::Error::new(error.kind(), message))
        }
    }
}

/// Starts the daemon and waits until it says that it listens.
fn spawn(places: &Places, environment: &Environment, options: &[OsString]) -> io::Result<()> {
    places.prepare()?;
    let daemon = find_daemon(environment).ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, "there is no farccd beside farcc or in PATH")
    })?;
    let mut environment = environment.clone();
    NOT_FOR_THE_DAEMON.iter().for_each(|name| environment.remove(name));
    // The daemon runs in another directory, so a relative one would mean another place to it.
    if let Some(directory) = environment.get("FARCC_DIR").filter(|value| !value.is_empty()) {
        let absolute = std::path::absolute(directory)?;
        environment = environment.with("FARCC_DIR", absolute.as_os_str())?;
    }
    let args = ["start", "--foreground", "--ready-fd", &READY_FD.to_string()].map(OsString::from);
    let argv: Vec<OsString> =
        std::iter::once(daemon.clone().into_os_string()).chain(args).chain(options.iter().cloned()).collect();
    let image = Image::new(&daemon, &argv, environment)?;
    let log = OpenOptions::new().append(true).create(true).mode(0o600).open(places.log_file())?;
    let (ready, ready_end) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    image.spawn_daemon(&log, ready_end.as_fd())?;
    // Only the daemon may hold it: its end is then the daemon's.
    drop(ready_end);
    wait_until_ready(&ready)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}; see its log", daemon.display())))
}

/// The daemon's program: FARCC_DAEMON, else the one beside our own, else the one in PATH.
pub fn find_daemon(environment: &Environment) -> Option<PathBuf> {
    if let Some(named) = environment.get("FARCC_DAEMON").filter(|value| !value.is_empty()) {
        return std::path::absolute(named).ok();
    }
    // Without /proc the one in PATH is as good.
    let beside = std::fs::read_link("/proc/self/exe").map(|ourselves| ourselves.with_file_name("farccd"));
    if let Ok(beside) = beside
        && beside.is_file()
    {
        return Some(beside);
    }
    let search =
        Search { path: environment.get("PATH"), ourselves: Identity::ourselves(), tried: &Tried::default() };
    std::path::absolute(search.find_in_path(OsStr::new("farccd"), false).ok()?.path).ok()
}

/// Waits for one byte. A daemon that ends first closes the pipe.
fn wait_until_ready(ready: &OwnedFd) -> io::Result<()> {
    let deadline = Instant::now() + START_PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        match rustix::event::poll(&mut [PollFd::new(ready, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::TimedOut, "it is not ready in time")),
            Ok(_) => break,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    match rustix::io::read(ready, &mut [0])? {
        0 => Err(io::Error::other("it ended at once")),
        _ => Ok(()),
    }
}
