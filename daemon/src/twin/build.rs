//! What a whole build has besides its workspace: a launcher, and a farccd of its own, which sends its compiles and links to the
//! cluster beside this machine.
//! Knows nothing of what the build does.
//!
//! The daemon has a cell of its own over the same mounts. Both cells show the same files at the same places, so that what the launcher
//! names means the same to the daemon. It reads what a compile names and runs what the build calls a compiler, to ask for its version:
//! so it knows no secret and has no network, but a socket behind which the twin passes its calls on to the cluster.

use std::ffi::OsString;
use std::fs;
use std::fs::File;
use std::io;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Component;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::SystemTime;

use farcc::link::Link;
use farcc::places::Places;
use farcc::wire::Frame;
use farcc::wire::Reply;
use farcc::wire::Request;
use farcc_proto::twin;
use tokio::time::Instant;

use crate::paths;
use crate::reapi::Relays;
use crate::twin::Bind;
use crate::twin::Cell;
use crate::twin::Cells;
use crate::twin::Plan;
use crate::twin::cell::PROGRAM;

/// More paths of launchers are refused.
const MOST: usize = 1000;

/// How long the daemon may take to begin.
const START_PATIENCE: Duration = Duration::from_secs(20);

/// How often it is tried meanwhile.
const TRY_AGAIN: Duration = Duration::from_millis(3);

/// How long it may take to say what it has counted.
const STATS_PATIENCE: Duration = Duration::from_secs(2);

/// Of its log, this much is told when it does not begin.
const LAST_LINES: usize = 3;

/// Where both cells have the directory of socket, locks and slots.
const DIRECTORY: &str = "/run/farcc/build";

/// What in it is the build's to write: launchers take slots, and compilers that run here leave lists of what they have read. All else
/// is not: the socket has to be the daemon's.
const WRITTEN: &[&str] = &["run/slots", "state/audit"];

/// Where the daemon's cell has its store.
const STORE: &str = "/run/farcc/store";

/// Where the daemon's cell has the sockets of the cluster.
pub const CLUSTER: &str = "/run/farcc/cluster";

/// The daemon's configuration, in [`DIRECTORY`].
const CONFIGURATION: &str = "farcc.toml";

/// The name of the socket: the two cells have no mount namespace in common from which they could make one.
const SOCKET: &str = "build";

/// The year 2000.
const OLD: Duration = Duration::from_secs(946_684_800);

/// What is here in place of the client's own word.
const OWN: &[&str] = &["FARCC_CONFIG", "FARCC_DAEMON", "FARCC_DIR", "FARCC_SOCKET"];

/// What builds are given on this machine.
#[derive(Debug, Clone, Default)]
pub struct BuildOptions {
    /// The environment of a build's daemon, which has no secrets.
    pub environment: Vec<(OsString, OsString)>,
    /// Its `farcc.toml`, which has none either, and for which the cluster is at the sockets in [`CLUSTER`].
    pub configuration: String,
    /// The cluster; None: there is none.
    pub cluster: Option<Relays>,
    /// The directory of the sockets, here.
    pub sockets: PathBuf,
}

/// A build's own farccd.
pub(super) struct BuildDaemon {
    cell: Cell,
    directory: PathBuf,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum BuildError {
    /// The client asks for what cannot be; what.
    #[error("{0}")]
    Refused(String),
    /// It does not begin; why.
    #[error("start the build's farccd: {0}")]
    NotStarted(String),
}

/// What the build's own cell has besides, and the environment that it gets.
pub(super) struct Launchers {
    pub(super) binds: Vec<Bind>,
    pub(super) environment: Vec<Vec<u8>>,
}

impl Launchers {
    /// For a build in these roots, whose daemon has `directory`.
    ///
    /// # Errors
    /// [`BuildError::Refused`].
    pub(super) fn new(
        cells: &Cells,
        start: &twin::Start,
        build: &twin::Build,
        roots: &[PathBuf],
        directory: &Path,
    ) -> Result<Launchers, BuildError> {
        let launcher = cells.launcher();
        let launcher = launcher.ok_or_else(|| {
            BuildError::Refused("there is no farcc beside the twin's farccd: install it there".to_owned())
        })?;
        if build.launchers.len() + build.modules.len() > MOST {
            return Err(BuildError::Refused("the launcher has more names than a build can use".to_owned()));
        }
        let at = Path::new(DIRECTORY);
        let mut binds = vec![Bind { from: directory.to_owned(), at: at.to_owned(), is_writable: false }];
        let written = WRITTEN.iter().map(|name| (directory.join(name), at.join(name)));
        binds.extend(written.map(|(from, at)| Bind { from, at, is_writable: true }));
        let module = directory.join("Farcc.cmake");
        if !build.modules.is_empty() {
            make_module(&module).map_err(|error| BuildError::NotStarted(error.to_string()))?;
        }
        let launchers = build.launchers.iter().map(|at| (&launcher, at));
        for (from, at) in launchers.chain(build.modules.iter().map(|at| (&module, at))) {
            let at = PathBuf::from(OsString::from_vec(at.clone()));
            if let Some(at) = place(at, roots)? {
                binds.push(Bind { from: from.clone(), at, is_writable: false });
            }
        }
        let is_own = |entry: &[u8]| {
            OWN.iter().any(|name| {
                entry.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&b'='))
            })
        };
        let mut environment: Vec<_> =
            start.environment.iter().filter(|entry| !is_own(entry)).cloned().collect();
        environment.extend(variables());
        // There is one, and if it ends, none is to come after it.
        environment.push(b"FARCC_DAEMON=/run/farcc/none".to_vec());
        Ok(Launchers { binds, environment })
    }
}

/// Makes the file by which CMake learns of the launcher. It is older than any build, so that none is configured anew for it.
fn make_module(at: &Path) -> io::Result<()> {
    if let Some(directory) = at.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut module = File::create(at)?;
    module.write_all(include_bytes!("../../../cmake/Farcc.cmake"))?;
    module.set_modified(SystemTime::UNIX_EPOCH + OLD)
}

/// Where a launcher is to be shown; None: whatever the image or the workspace has there must do.
fn place(at: PathBuf, roots: &[PathBuf]) -> Result<Option<PathBuf>, BuildError> {
    let is_plain =
        at.is_absolute() && at.components().skip(1).all(|part| matches!(part, Component::Normal(_)));
    let mine = ["/proc", "/dev", "/sys", "/run/farcc", "/etc"];
    let holds_root = roots.iter().any(|root| root.starts_with(&at));
    if !is_plain
        || holds_root
        || at.parent() == Some(Path::new("/"))
        || mine.iter().any(|mine| at.starts_with(mine))
    {
        return Err(BuildError::Refused(format!("{} is no place for a launcher", at.display())));
    }
    if roots.iter().any(|root| at.starts_with(root)) {
        return Ok(None);
    }
    if !paths::is_system(&at) {
        return Ok(Some(at));
    }
    match at.exists() {
        true => Ok(None),
        false => Err(BuildError::Refused(format!(
            "the build may call {}, which is not there on the twin: install farcc on the twin as it is installed here",
            at.display()
        ))),
    }
}

fn variables() -> [Vec<u8>; 2] {
    [format!("FARCC_DIR={DIRECTORY}").into_bytes(), format!("FARCC_SOCKET={SOCKET}").into_bytes()]
}

impl BuildDaemon {
    /// Starts one in a cell like that of `plan`, with `directory` for its socket and log, which is made, and `store` for its store.
    ///
    /// # Errors
    /// [`BuildError`].
    pub(super) async fn start(
        cells: &Cells,
        options: &BuildOptions,
        plan: &Plan<'_>,
        directory: PathBuf,
        store: PathBuf,
    ) -> Result<BuildDaemon, BuildError> {
        let failed = |error: io::Error| BuildError::NotStarted(error.to_string());
        for made in WRITTEN.iter().map(|name| directory.join(name)).chain([store.clone()]) {
            fs::create_dir_all(made).map_err(failed)?;
        }
        let log_file = directory.join("farccd.log");
        let mut binds = vec![
            Bind { from: directory.clone(), at: DIRECTORY.into(), is_writable: true },
            Bind { from: store, at: STORE.into(), is_writable: true },
        ];
        fs::write(directory.join(CONFIGURATION), &options.configuration).map_err(failed)?;
        if options.cluster.is_some() {
            let from = options.sockets.clone();
            binds.push(Bind { from, at: CLUSTER.into(), is_writable: false });
        }
        let roots = plan.roots.clone();
        let plan = Plan { roots, has_network: false, home: None, binds, ..*plan };
        let stdio = stdio(&log_file).map_err(failed)?;
        let cell = cells.start(&plan, &command(options), stdio).await.map_err(failed)?;
        let mut daemon = BuildDaemon { cell, directory };
        let begun = daemon.wait_until_ready().await;
        match begun {
            Ok(()) => Ok(daemon),
            Err(why) => {
                let complaints = daemon.cell.end().await.ok().flatten().unwrap_or_default();
                let log = fs::read_to_string(&log_file).unwrap_or_default();
                let lines: Vec<_> = log.lines().chain(complaints.lines()).collect();
                let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("; ");
                Err(BuildError::NotStarted(format!("{why}: {last}")))
            }
        }
    }

    async fn wait_until_ready(&mut self) -> Result<(), String> {
        let places = self.places();
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            if farcc::places::connect(&places).is_ok() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(format!("it does not listen after {START_PATIENCE:?}"));
            }
            tokio::select! {
                report = self.cell.report() => match report {
                    Some(crate::twin::Report::Started) => {}
                    _ => return Err("it has ended".to_owned()),
                },
                () = tokio::time::sleep(TRY_AGAIN) => {}
            }
        }
    }

    /// As this process sees them.
    fn places(&self) -> Places {
        Places::from_env(&|name| match name {
            "FARCC_DIR" => Some(self.directory.clone().into_os_string()),
            "FARCC_SOCKET" => Some(SOCKET.into()),
            _ => None,
        })
    }

    /// What it has counted, as JSON; empty if it does not say.
    pub(super) async fn stats(&self) -> Vec<u8> {
        let places = self.places();
        let ask = move || -> io::Result<Vec<u8>> {
            let mut link = Link::new(farcc::places::connect(&places)?);
            link.set_patience(Some(STATS_PATIENCE))?;
            link.send(&Frame::Request(Request::Control { words: vec!["stats".into()] }))?;
            match link.receive()? {
                Frame::Reply(Reply::Text(text)) => Ok(text),
                _ => Err(io::ErrorKind::InvalidData.into()),
            }
        };
        match tokio::task::spawn_blocking(ask).await {
            Ok(Ok(stats)) => stats,
            Ok(Err(error)) => {
                tracing::warn!("ask a build's farccd what it has done: {error}");
                Vec::new()
            }
            Err(_) => Vec::new(),
        }
    }

    /// Ends it, and waits for that.
    ///
    /// # Errors
    /// When it cannot be waited for: then it may still work in the mounts.
    pub(super) async fn end(self) -> io::Result<()> {
        let complaints = self.cell.end().await?;
        if let Some(complaints) = complaints {
            tracing::warn!("a build's farccd: {complaints}");
        }
        Ok(())
    }
}

/// Nothing to read, and a log to write.
fn stdio(log_file: &Path) -> io::Result<[OwnedFd; 3]> {
    let log = fs::File::options().create(true).append(true).open(log_file)?;
    Ok([File::open("/dev/null")?.into(), log.try_clone()?.into(), log.into()])
}

fn command(options: &BuildOptions) -> twin::Start {
    let arguments = [PROGRAM, "start", "--foreground", "--own-config", "--idle-timeout", "30days"];
    let text = |(name, value): &(OsString, OsString)| [name.as_bytes(), b"=", value.as_bytes()].concat();
    let mut environment: Vec<_> = options.environment.iter().map(text).collect();
    environment.extend(variables());
    environment.push(format!("FARCC_CONFIG={DIRECTORY}/{CONFIGURATION}").into_bytes());
    environment.push(format!("FARCC_CACHE_DIR={STORE}").into_bytes());
    twin::Start {
        arguments: arguments.map(|word| word.as_bytes().to_vec()).into(),
        environment,
        working_directory: b"/".to_vec(),
        umask: 0o022,
        ..twin::Start::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_launcher_may_be() {
        let roots = [PathBuf::from("/home/u/p")];
        let at = |path: &str| place(PathBuf::from(path), &roots);
        assert_eq!(at("/home/u/bin/farcc").unwrap(), Some("/home/u/bin/farcc".into()));
        assert_eq!(at("/home/u/p/tools/farcc").unwrap(), None);
        assert_eq!(at("/usr/bin/env").unwrap(), None);
        for bad in [
            "farcc",
            "/",
            "/farcc",
            "/a/../farcc",
            "/home/u",
            "/home/u/p/..",
            "/etc/passwd",
            "/run/farcc/farccd",
            "/proc/self/exe",
        ] {
            assert!(at(bad).is_err(), "{bad}");
        }
        assert!(at("/usr/bin/no-such-farcc").unwrap_err().to_string().contains("install farcc on the twin"));
    }
}
