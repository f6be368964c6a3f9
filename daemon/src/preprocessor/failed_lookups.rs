//! Where one unit looked for files in vain, and what shows that they are still not there.
//! Knows nothing of the files that were found.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;
use std::time::SystemTime;

use crate::fitted::fitted;
use crate::preprocessor::Sources;
use crate::preprocessor::survey::Evidence;
use crate::preprocessor::survey::Survey;
use crate::preprocessor::symbol::Symbol;

/// Places where files were looked for in vain.
#[derive(Debug, Default)]
pub struct FailedLookups {
    /// Absolute: first those of the search path in order, then those of including files.
    directories: Box<[PathBuf]>,
    /// How many of them are the search path.
    fixed: u32,
    chains: Box<[Chain]>,
    /// Files that were looked for by their whole path, absolute.
    absent: Vec<PathBuf>,
}

/// One search: `name` was looked for from directory `start` on, and stands in none before directory `end`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chain {
    pub(super) name: Symbol,
    pub(super) start: u32,
    pub(super) end: u32,
}

impl Chain {
    /// The directories that were searched in vain: after an includer's own, the search path begins.
    fn directories(self, fixed: u32) -> impl Iterator<Item = u32> {
        let own = (self.start >= fixed).then_some(self.start);
        let from = if own.is_some() { 0 } else { self.start };
        own.into_iter().chain(from..self.end)
    }
}

impl FailedLookups {
    pub(super) fn new(
        directories: Vec<PathBuf>,
        fixed: u32,
        chains: Vec<Chain>,
        absent: Vec<PathBuf>,
    ) -> FailedLookups {
        FailedLookups { directories: fitted(directories), fixed, chains: fitted(chains), absent }
    }

    /// Every path (absolute) that was looked for in vain; some more than once.
    pub fn paths(&self) -> impl Iterator<Item = PathBuf> {
        let searched = self.lookups().map(|(directory, name)| path(directory.1, name));
        searched.chain(self.absent.iter().cloned())
    }

    /// Every look-up that failed: the directory, with its number, and the name.
    fn lookups(&self) -> impl Iterator<Item = ((u32, &Path), Symbol)> {
        self.chains.iter().flat_map(move |&chain| {
            chain.directories(self.fixed).filter_map(move |number| {
                let directory = self.directories.get(number as usize)?;
                Some(((number, directory.as_path()), chain.name))
            })
        })
    }

    /// Whether all of them still fail, by `evidence`, or else by looking again. In that case the second value is what
    /// shows it from now on.
    pub(super) fn hold(&self, evidence: &Evidence, sources: &dyn Sources) -> (bool, Option<Evidence>) {
        if evidence.links.iter().chain(&self.absent).any(|path| is_there(path)) {
            return (false, None);
        }
        if !evidence.is_incomplete && evidence.listings.iter().all(|listing| listing.holds()) {
            return (true, None);
        }
        let mut survey = Survey::new(sources);
        for (directory, name) in self.lookups() {
            if survey.lacks(directory, name) {
                continue;
            }
            if is_there(&path(directory.1, name)) {
                return (false, None);
            }
            survey.was_absent(directory, name);
        }
        (true, Some(survey.into_evidence()))
    }

    /// About how much memory they take, in bytes.
    pub(super) fn size_bytes(&self) -> usize {
        let paths = self.directories.iter().chain(&self.absent);
        let paths: usize = paths.map(|path| size_of::<PathBuf>() + path.as_os_str().len()).sum();
        size_of::<FailedLookups>() + size_of_val(&*self.chains) + paths
    }
}

impl Evidence {
    /// What is left of it for a scan that began at `started`: look-ups before a listing was read are vouched for
    /// only by a directory that had not changed since.
    pub(super) fn since(mut self, started: SystemTime) -> Evidence {
        self.is_incomplete |= !self.listings.iter().all(|listing| listing.is_older_than(started));
        self
    }

    /// About how much memory it takes besides the listings, which are shared, in bytes.
    pub(super) fn size_bytes(&self) -> usize {
        let links: usize = self.links.iter().map(|path| size_of::<PathBuf>() + path.as_os_str().len()).sum();
        size_of::<Evidence>() + size_of_val(&*self.listings) + links
    }
}

fn path(directory: &Path, name: Symbol) -> PathBuf {
    directory.join(OsStr::from_bytes(name.text()))
}

/// Whether an include of `path` would find something: a file, or what cannot be read, as `Sources::load` sees it; or a
/// directory of precompiled headers.
fn is_there(path: &Path) -> bool {
    let may_be_directory = || path.extension().is_some_and(|suffix| suffix == "gch" || suffix == "pch");
    match std::fs::metadata(path) {
        Ok(metadata) => !metadata.is_dir() || may_be_directory(),
        Err(error) => !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
    }
}
