//! The programs that do the work of a command, by digest, and whether they are still the same.
//! Knows nothing of what they do.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use serde::Deserialize;
use serde::Serialize;

use crate::compiler::Invocation;
use crate::compiler::invocation::find_executable;
use crate::compiler::programs;
use crate::digest::Digest;
use crate::digest::Hasher;
use crate::files::Files;
use crate::files::Fingerprint;
use crate::process::env_value;
use crate::reason::Reason;

/// The dynamic loader's list of all libraries.
const LOADER_CACHE: &str = "/etc/ld.so.cache";

/// Variables that decide which programs, libraries and directories a driver uses (GCC manual, "Environment
/// Variables Affecting GCC"; ld.so(8)).
const KEY_VARIABLES: &[&str] = &[
    "PATH",
    "COMPILER_PATH",
    "GCC_EXEC_PREFIX",
    "GCC_ROOT",
    "SDKROOT",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "LD_AUDIT",
];

/// The programs that commands of one kind run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tools {
    /// The version line of the first one.
    pub version: String,
    /// What they make things for.
    pub target: String,
    /// The programs and the libraries that each of them loads; symlinks resolved, sorted.
    pub programs: Vec<(PathBuf, Digest)>,
    /// Specs, configuration files and lists that they read by themselves, symlinks resolved.
    pub files: Vec<(PathBuf, Digest)>,
    /// Those that were found along `PATH`: by which name, and which program that is.
    pub lookups: Vec<(String, PathBuf)>,
    /// Those that are named by symlinks, the one that the command names left out: the name, and which program it leads to.
    pub links: Vec<(PathBuf, PathBuf)>,
    /// Directories of headers that come with them.
    pub headers: Vec<PathBuf>,
    /// Of all digests, version and target: two with the same identity make the same of the same.
    pub identity: Digest,
}

/// The programs of a command as whoever was asked names them.
#[derive(Debug, Default)]
pub(super) struct Named {
    pub(super) version: String,
    pub(super) target: String,
    /// The one that the command names.
    pub(super) driver: PathBuf,
    /// Those that it runs: a path, or a name to be found in `PATH`.
    pub(super) programs: Vec<OsString>,
    /// What they load besides the libraries that they are linked with.
    pub(super) plugins: Vec<PathBuf>,
    /// What they read by themselves.
    pub(super) files: Vec<PathBuf>,
    /// Directories that do not exist, and would be looked into.
    pub(super) absent: Vec<PathBuf>,
    /// Files and directories whose content decides which programs are chosen.
    pub(super) watched: Vec<PathBuf>,
}

/// [`Tools`] as they are kept on disk, with all that shows whether they are still the same.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ToolsRecord {
    driver: PathBuf,
    version: String,
    target: String,
    programs: Vec<ProgramRecord>,
    files: Vec<ProgramRecord>,
    /// Programs found along `PATH`, and where.
    lookups: Vec<(String, PathBuf)>,
    /// Programs that are named by symlinks, and what those lead to.
    links: Vec<(PathBuf, PathBuf, Stamp)>,
    /// Directories that did not exist.
    absent: Vec<PathBuf>,
    /// Files and directories that decide what the driver and the loader choose.
    watched: Vec<(PathBuf, Option<Stamp>)>,
}

/// One file of a toolchain.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct ProgramRecord {
    path: PathBuf,
    digest: String,
    stamp: Stamp,
}

/// What `stat` says of a file; outlives the daemon, unlike a `Fingerprint`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size_bytes: u64,
    mode: u32,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Of the file that `path` leads to.
    pub(super) fn of(path: &Path) -> io::Result<Stamp> {
        let fingerprint = Fingerprint::of(path)?;
        let (device, inode) = fingerprint.file_id();
        let split = |nanos: i128| {
            let part = |part: i128| i64::try_from(part).unwrap_or_default();
            (part(nanos.div_euclid(1_000_000_000)), part(nanos.rem_euclid(1_000_000_000)))
        };
        Ok(Stamp {
            device,
            inode,
            size_bytes: fingerprint.size_bytes(),
            mode: fingerprint.mode(),
            modified: split(fingerprint.modified_nanos()),
            changed: split(fingerprint.changed_nanos()),
        })
    }
}

/// What is known by when a driver is asked about commands of one `subject`, a language or a step, with these `flags`. The
/// driver's own stamp is part of it, so that a replaced driver is another one even where the replaced one failed.
/// `is_relative`: what it answers depends on the working directory.
///
/// # Errors
/// [`Reason::ToolchainProbe`]: the driver is not there.
pub(super) fn key(
    driver: &Path,
    subject: &str,
    flags: &[OsString],
    is_relative: bool,
    invocation: &Invocation,
) -> Result<Digest, Reason> {
    let stamp = Stamp::of(driver)
        .map_err(|error| Reason::ToolchainProbe(format!("look at {}: {error}", driver.display())))?;
    let mut hasher = Hasher::new();
    hasher.field(driver.as_os_str().as_bytes());
    hasher.field(format!("{stamp:?}").as_bytes());
    hasher.field(subject.as_bytes());
    hasher.field(flags.len().to_string().as_bytes());
    flags.iter().for_each(|flag| hasher.field(flag.as_bytes()));
    for name in KEY_VARIABLES {
        // Unset is not the same as empty.
        let value = env_value(&invocation.env, name).map(OsStr::as_bytes);
        hasher.field(if value.is_some() { b"set" } else { b"" });
        hasher.field(value.unwrap_or_default());
    }
    let mut lists = KEY_VARIABLES.iter().filter_map(|name| env_value(&invocation.env, name));
    if is_relative || lists.any(has_relative_element) {
        hasher.field(invocation.cwd.as_os_str().as_bytes());
    }
    Ok(hasher.finish())
}

/// Whether a list of directories names one relative to the working directory.
pub(super) fn has_relative_element(list: &OsStr) -> bool {
    list.as_bytes().split(|&byte| byte == b':').any(|element| !element.starts_with(b"/"))
}

impl Named {
    /// Finds the programs, the libraries that each of them loads in `env`, and the digests of all. A file that changed within
    /// the clock's granularity of `started` is refused: who was asked may have been another one.
    ///
    /// # Errors
    /// [`Reason::ToolchainProbe`] with what is missing or cannot be read.
    pub(super) async fn survey(
        self,
        files: &Arc<Files>,
        invocation: &Invocation,
        env: &[(OsString, OsString)],
        started: SystemTime,
    ) -> Result<ToolsRecord, Reason> {
        let Invocation { cwd, .. } = invocation;
        let path = env_value(&invocation.env, "PATH");
        let mut lookups = Vec::new();
        let mut found = vec![self.driver.clone()];
        for name in &self.programs {
            let program = find_executable(name, cwd, path)
                .ok_or_else(|| Reason::ToolchainProbe(format!("find {} in PATH", name.to_string_lossy())))?;
            if !name.as_bytes().contains(&b'/') {
                lookups.push((name.to_string_lossy().into_owned(), program.clone()));
            }
            found.push(program);
        }
        let named = found.iter().filter_map(|program| {
            let program = cwd.join(program);
            let target = std::fs::canonicalize(&program).ok()?;
            let stamp = Stamp::of(&program).ok()?;
            (target != program).then_some((program, target, stamp))
        });
        let links = named.collect();
        let plugins: Vec<_> = self.plugins.iter().map(|plugin| cwd.join(plugin)).collect();
        let programs = programs::with_libraries(&found, &plugins, env, cwd).await?;
        let programs = digests(files, programs, started).await?;
        let read = self.files.iter().map(|file| cwd.join(file)).collect();
        let read = digests(files, read, started).await?;
        let overriding =
            ["LD_LIBRARY_PATH", "COMPILER_PATH"].iter().flat_map(|name| invocation.directories_of(name));
        let watched = [PathBuf::from(LOADER_CACHE)].into_iter();
        let watched = watched.chain(self.watched.iter().map(|directory| cwd.join(directory)));
        let stamped = |path: PathBuf| {
            let stamp = Stamp::of(&path).ok();
            (path, stamp)
        };
        Ok(ToolsRecord {
            driver: self.driver,
            version: self.version,
            target: self.target,
            programs,
            files: read,
            lookups,
            links,
            absent: self.absent,
            watched: watched.chain(overriding).map(stamped).collect(),
        })
    }
}

/// The digests of files, by which they are known from now on.
async fn digests(
    files: &Arc<Files>,
    paths: Vec<PathBuf>,
    started: SystemTime,
) -> Result<Vec<ProgramRecord>, Reason> {
    let files = Arc::clone(files);
    let read = move || {
        let digest = |path: PathBuf| {
            let failed = |why: &str| Reason::ToolchainProbe(format!("read {}: {why}", path.display()));
            let stamp = Stamp::of(&path).map_err(|error| failed(&error.to_string()))?;
            let version = files.version(&path).map_err(|error| failed(&error.to_string()))?;
            if !version.fingerprint.is_settled(started) {
                return Err(failed("it has just been changed"));
            }
            Ok(ProgramRecord { digest: version.digest.to_string(), stamp, path })
        };
        paths.into_iter().map(digest).collect()
    };
    // A compiler's libraries may be a hundred megabytes: not on a thread that serves connections.
    tokio::task::spawn_blocking(read).await.map_err(|error| Reason::Internal(error.to_string()))?
}

impl ToolsRecord {
    /// Whether everything is still as it was when the programs were asked.
    pub(super) fn holds(&self, cwd: &Path, env: &[(OsString, OsString)]) -> bool {
        let path = env_value(env, "PATH");
        let found = |name: &str| find_executable(OsStr::new(name), cwd, path);
        let is_same = |file: &ProgramRecord| Stamp::of(&file.path).is_ok_and(|stamp| stamp == file.stamp);
        self.programs.iter().all(is_same)
            && self.files.iter().all(is_same)
            && self.links.iter().all(|(link, _, stamp)| Stamp::of(link).is_ok_and(|now| now == *stamp))
            && self.watched.iter().all(|(path, stamp)| Stamp::of(path).ok() == *stamp)
            && self.absent.iter().all(|directory| !cwd.join(directory).exists())
            && self.lookups.iter().all(|(name, program)| found(name).as_ref() == Some(program))
    }

    /// What the record describes, with the directories of `headers`; `None` if it is damaged.
    pub(super) fn tools(&self, headers: Vec<PathBuf>) -> Option<Tools> {
        let parsed = |records: &[ProgramRecord]| -> Option<Vec<(PathBuf, Digest)>> {
            records.iter().map(|record| Some((record.path.clone(), record.digest.parse().ok()?))).collect()
        };
        let (programs, files) = (parsed(&self.programs)?, parsed(&self.files)?);
        let mut hasher = Hasher::new();
        hasher.field(self.version.as_bytes());
        hasher.field(self.target.as_bytes());
        for (_, digest) in programs.iter().chain(&files) {
            hasher.field(Digest::hash(digest));
        }
        let target_of = |found: &PathBuf| {
            let link = self.links.iter().find(|(link, ..)| link == found);
            link.map_or_else(|| found.clone(), |(_, target, _)| target.clone())
        };
        let lookups = self.lookups.iter().map(|(name, found)| (name.clone(), target_of(found))).collect();
        let others = self.links.iter().filter(|(link, ..)| *link != self.driver);
        let links = others.map(|(link, target, _)| (link.clone(), target.clone())).collect();
        let (version, target) = (self.version.clone(), self.target.clone());
        let identity = hasher.finish();
        Some(Tools { version, target, programs, files, lookups, links, headers, identity })
    }
}

/// What every program of binutils loads by itself, from a directory beside its own (bfd/plugin.c, `load_plugin`).
pub(super) fn plugins_of_binutils(program: &Path, watched: &mut Vec<PathBuf>) -> Vec<PathBuf> {
    let Ok(program) = std::fs::canonicalize(program) else { return Vec::new() };
    let Some(directory) = program.parent().and_then(Path::parent) else { return Vec::new() };
    let directory = directory.join("lib/bfd-plugins");
    let entries = std::fs::read_dir(&directory).into_iter().flatten().flatten();
    let mut plugins: Vec<_> = entries.map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    plugins.sort();
    watched.push(directory);
    plugins
}
