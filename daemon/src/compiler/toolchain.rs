//! One compiler as it behaves under one set of flags: what it is, what it defines, where it looks.
//! Knows nothing of how the facts were learned or of single commands.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;
use serde::Serialize;

use crate::compiler::invocation::find_executable;
use crate::digest::Digest;
use crate::digest::Hasher;
use crate::preprocessor::Answers;
use crate::preprocessor::Family;
use crate::preprocessor::Predefined;
use crate::preprocessor::SearchPath;
use crate::process::env_value;

/// What is known of a compiler under one set of flags.
pub struct Toolchain {
    /// GCC or Clang, by its own macros.
    pub family: Family,
    /// Its version line, as `-v` prints it.
    pub version: String,
    /// Its target, as `-v` prints it.
    pub target: String,
    /// Its own macros.
    pub predefined: Arc<Predefined>,
    /// Its built-in search path, exactly as `-v` prints it.
    pub search_path: SearchPath,
    /// Its answers to `__has_builtin(…)` and its kin, as far as it was asked.
    pub answers: Arc<Answers>,
    /// The programs that a compile runs (driver, compiler proper, assembler), the libraries that each of them
    /// loads; symlinks resolved, sorted.
    pub programs: Vec<(PathBuf, Digest)>,
    /// Specs, configuration files and lists that the driver reads by itself, symlinks resolved.
    pub files: Vec<(PathBuf, Digest)>,
    /// What stands for `-march=native` and its kin: flags that mean the same on every machine. Without such a flag among
    /// those that it was asked with, nothing of interest.
    pub native: Vec<String>,
    /// Of all the programs' digests, version and target: two toolchains with the same identity make the same
    /// objects from the same preprocessed source and flags.
    pub identity: Digest,
    /// What is kept on disk.
    pub(super) record: Record,
}

/// The form of the record; another one is ignored.
pub(super) const FORMAT: u32 = 3;

/// A toolchain as it is kept on disk, with all that shows whether it still holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) format: u32,
    pub(super) is_clang: bool,
    pub(super) version: String,
    pub(super) target: String,
    pub(super) predefined: String,
    pub(super) quote: Vec<PathBuf>,
    pub(super) angle: Vec<PathBuf>,
    pub(super) programs: Vec<ProgramRecord>,
    pub(super) files: Vec<ProgramRecord>,
    /// Programs found along `PATH`, and where.
    pub(super) lookups: Vec<(String, PathBuf)>,
    /// Built-in directories that did not exist.
    pub(super) absent: Vec<PathBuf>,
    /// Files and directories that decide what the driver and the loader choose.
    pub(super) watched: Vec<(PathBuf, Option<Stamp>)>,
    pub(super) answers: BTreeMap<String, i64>,
    pub(super) native: Vec<String>,
}

/// One file of a toolchain.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ProgramRecord {
    pub(super) path: PathBuf,
    pub(super) digest: String,
    pub(super) stamp: Stamp,
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
        let metadata = std::fs::metadata(path)?;
        Ok(Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size_bytes: metadata.size(),
            mode: metadata.mode(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

impl Record {
    /// Whether everything is still as it was when the compiler was asked.
    pub(super) fn holds(&self, cwd: &Path, env: &[(OsString, OsString)]) -> bool {
        let path = env_value(env, "PATH");
        let found = |name: &str| find_executable(OsStr::new(name), cwd, path);
        let is_same = |file: &ProgramRecord| Stamp::of(&file.path).is_ok_and(|stamp| stamp == file.stamp);
        self.programs.iter().all(is_same)
            && self.files.iter().all(is_same)
            && self.watched.iter().all(|(path, stamp)| Stamp::of(path).ok() == *stamp)
            && self.absent.iter().all(|directory| !cwd.join(directory).exists())
            && self.lookups.iter().all(|(name, program)| found(name).as_ref() == Some(program))
    }

    /// The toolchain that the record describes; `None` if the record is damaged.
    pub(super) fn into_toolchain(self) -> Option<Toolchain> {
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
        let answers = Answers::new();
        for (question, value) in &self.answers {
            answers.insert(question.clone(), *value);
        }
        Some(Toolchain {
            family: if self.is_clang { Family::Clang } else { Family::Gcc },
            version: self.version.clone(),
            target: self.target.clone(),
            predefined: Arc::new(Predefined::parse(self.predefined.as_bytes())),
            search_path: SearchPath {
                quote: self.quote.clone(),
                angle: self.angle.clone(),
                ..SearchPath::default()
            },
            answers: Arc::new(answers),
            programs,
            files,
            native: self.native.clone(),
            identity: hasher.finish(),
            record: self,
        })
    }
}
