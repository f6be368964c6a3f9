//! Finds included files along the search path, and remembers within one unit what was found and what was not.
//! Knows nothing of macros or conditionals.

use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::hash::BuildHasherDefault;
use std::hash::Hash;
use std::hash::Hasher;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use foldhash::HashMap;
use foldhash::fast::RandomState;

use crate::files::InputFile;
use crate::paths;
use crate::preprocessor::Dialect;
use crate::preprocessor::FailedLookups;
use crate::preprocessor::Family;
use crate::preprocessor::Loaded;
use crate::preprocessor::ScanError;
use crate::preprocessor::SourceFile;
use crate::preprocessor::Sources;
use crate::preprocessor::TranslationUnit;
use crate::preprocessor::failed_lookups::Chain;
use crate::preprocessor::siblings::Siblings;
use crate::preprocessor::survey;
use crate::preprocessor::survey::Evidence;
use crate::preprocessor::survey::Survey;
use crate::preprocessor::symbol::Symbol;
use crate::preprocessor::symbol::SymbolMap;

/// A directory: first the quote and angle directories of the search path in order, then those of including files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct DirectoryId(pub(super) u32);

/// A file as found by one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FileId(u32);

/// A file and the directory in which it was found: None for an absolute name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) file: FileId,
    pub(super) directory: Option<DirectoryId>,
}

/// One file of the unit, under one path.
pub(super) struct File {
    /// Its absolute path and its version.
    pub(super) input: Arc<InputFile>,
    /// As the compiler spells it: the directory as spelled, and the name.
    pub(super) spelled: Arc<[u8]>,
    pub(super) source: Arc<SourceFile>,
    /// The directory for the quoted includes of this file.
    pub(super) directory: DirectoryId,
    pub(super) opened: bool,
    pub(super) probed: bool,
    /// `#pragma once` or `#import`.
    pub(super) once: bool,
    /// How often it was replayed.
    pub(super) times: u32,
}

/// A file as the key of a map: known by its path.
struct ByPath(Arc<InputFile>);

impl Borrow<[u8]> for ByPath {
    fn borrow(&self) -> &[u8] {
        self.0.path.as_os_str().as_bytes()
    }
}

impl Hash for ByPath {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Borrow::<[u8]>::borrow(self).hash(state);
    }
}

impl PartialEq for ByPath {
    fn eq(&self, other: &ByPath) -> bool {
        self.0.path.as_os_str() == other.0.path.as_os_str()
    }
}

impl Eq for ByPath {}

/// A directory that is searched.
pub(super) struct Directory {
    /// As spelled, without a slash at the end; the working directory is empty.
    spelled: Vec<u8>,
    /// Absolute.
    pub(super) path: PathBuf,
}

impl Directory {
    fn new(spelled: Vec<u8>, cwd: &Path) -> Directory {
        let path = paths::absolute(cwd, Path::new(OsStr::from_bytes(&spelled)));
        Directory { spelled, path }
    }
}

pub(super) struct Search<'a> {
    cwd: &'a Path,
    family: Family,
    dialect: Dialect,
    sources: &'a dyn Sources,
    pub(super) directories: Vec<Directory>,
    directory_ids: HashMap<Vec<u8>, DirectoryId>,
    pub(super) survey: Survey<'a>,
    /// For the first components of names, the directories of the search path that may have them.
    candidates: HashMap<&'static [u8], Rc<[u32]>>,
    /// How many directories are quote directories, and how many belong to the search path at all: they have the same
    /// numbers in every unit with that path.
    quote: u32,
    pub(super) fixed: u32,
    embed: &'a [PathBuf],
    assembler: &'a [PathBuf],
    files: Vec<File>,
    by_path: HashMap<ByPath, FileId>,
    /// Under which name each file, by device and inode, was found first; for Clang alone.
    first_names: HashMap<(u64, u64), FileId>,
    /// What a search from one directory on ends at.
    chains: SymbolMap<(DirectoryId, Symbol), Option<Found>>,
    /// Files that were looked for by their whole path and are not there, absolute.
    absent: Vec<PathBuf>,
    /// Precompiled headers beside their text.
    pub(super) precompiled: Vec<Arc<InputFile>>,
    /// Names that begin with a slash in the text of some file, found or not.
    pub(super) absolute: BTreeSet<PathBuf>,
    /// Files of which only the digest is asked, by path.
    data: HashMap<OsString, Option<Arc<InputFile>>>,
    /// Whether precompiled headers are still looked for: only the first include can be one.
    pub(super) looks_for_precompiled: bool,
}

impl<'a> Search<'a> {
    pub(super) fn new(unit: &'a TranslationUnit, sources: &'a dyn Sources, dialect: Dialect) -> Search<'a> {
        let path = &unit.search_path;
        let directory = |path: &PathBuf| Directory::new(spelled(path.as_os_str().as_bytes()), &unit.cwd);
        let directories: Vec<Directory> = path.quote.iter().chain(&path.angle).map(directory).collect();
        Search {
            cwd: &unit.cwd,
            family: unit.family,
            dialect,
            sources,
            quote: number(path.quote.len()),
            fixed: number(directories.len()),
            embed: &path.embed,
            assembler: &path.assembler,
            directories,
            directory_ids: HashMap::default(),
            survey: Survey::new(sources),
            candidates: HashMap::default(),
            files: Vec::new(),
            // As for a usual unit: growing from nothing takes as long as the look-ups.
            by_path: HashMap::with_capacity_and_hasher(512, RandomState::default()),
            first_names: HashMap::default(),
            chains: SymbolMap::with_capacity_and_hasher(1024, BuildHasherDefault::default()),
            absent: Vec::new(),
            precompiled: Vec::new(),
            absolute: BTreeSet::new(),
            data: HashMap::default(),
            looks_for_precompiled: true,
        }
    }

    pub(super) fn file(&self, id: FileId) -> &File {
        &self.files[id.0 as usize]
    }

    pub(super) fn file_mut(&mut self, id: FileId) -> &mut File {
        &mut self.files[id.0 as usize]
    }

    pub(super) fn is_opened(&self, path: &Path) -> bool {
        self.known(path).is_some_and(|id| self.file(id).opened)
    }

    /// The file at `path` (absolute), if the unit has come to it.
    pub(super) fn known(&self, path: &Path) -> Option<FileId> {
        self.by_path.get(path.as_os_str().as_bytes()).copied()
    }

    /// Under which name Clang met the file first, if it has.
    pub(super) fn first_name(&self, file: &InputFile) -> Option<FileId> {
        self.first_names.get(&file.version.fingerprint.file_id()).copied()
    }

    /// The file at `path` (absolute), one of many, without adding it to the unit; None also if it cannot be read.
    pub(super) fn look_at(&self, path: &Path, others: &mut Siblings) -> Option<Loaded> {
        self.sources.load_beside(others, path, self.dialect).ok().flatten()
    }

    pub(super) fn files(&self) -> impl Iterator<Item = &File> {
        self.files.iter()
    }

    /// The source, which is not searched for.
    pub(super) fn source(&mut self, path: &Path) -> Result<Option<FileId>, ScanError> {
        self.load_by(path.as_os_str().as_bytes().to_vec(), |sources, path, dialect| {
            sources.load_once(path, dialect)
        })
    }

    /// Where the search for `<name>` begins.
    pub(super) fn first_angled(&self) -> Option<DirectoryId> {
        (self.quote < self.fixed).then_some(DirectoryId(self.quote))
    }

    /// Where that of `#include_next` begins in a file that was found in `directory`; the outer None: it is a plain
    /// include there (GCC manual, "Wrapper Headers").
    pub(super) fn next_after(&self, directory: Option<DirectoryId>) -> Option<Option<DirectoryId>> {
        let directory = directory?;
        // For Clang, what was found next to its includer was not found by searching.
        if self.family == Family::Clang && directory.0 >= self.fixed {
            return None;
        }
        // After an includer's own directory, the path begins.
        let next = if directory.0 >= self.fixed { 0 } else { directory.0 + 1 };
        Some((next < self.fixed).then_some(DirectoryId(next)))
    }

    /// The working directory, where files named on the command line are looked for first.
    pub(super) fn working_directory(&mut self) -> DirectoryId {
        self.directory_id(b"")
    }

    /// Where a file was found, as far as it matters for `#include_next` in it, in every unit with the same search path.
    pub(super) fn found_number(&self, found: Found) -> u32 {
        found.directory.map_or(u32::MAX, |directory| directory.0.min(self.fixed))
    }

    /// A directory as spelled.
    pub(super) fn spelled(&self, directory: DirectoryId) -> &[u8] {
        &self.directories[directory.0 as usize].spelled
    }

    pub(super) fn directory_id(&mut self, directory: &[u8]) -> DirectoryId {
        if let Some(&id) = self.directory_ids.get(directory) {
            return id;
        }
        let id = DirectoryId(number(self.directories.len()));
        self.directories.push(Directory::new(directory.to_vec(), self.cwd));
        self.directory_ids.insert(directory.to_vec(), id);
        id
    }

    /// Searches from `start` on; after an includer's own directory, along the whole path.
    pub(super) fn from(
        &mut self,
        start: Option<DirectoryId>,
        name: Symbol,
    ) -> Result<Option<Found>, ScanError> {
        // First of all, for it is nearly always so.
        if let Some(start) = start
            && let Some(&found) = self.chains.get(&(start, name))
        {
            return Ok(found);
        }
        if name.text().starts_with(b"/") {
            let file = self.probe_path(name.text().to_vec())?;
            if file.is_none() {
                self.absent.push(OsStr::from_bytes(name.text()).into());
            }
            return Ok(file.map(|file| Found { file, directory: None }));
        }
        let Some(start) = start else { return Ok(None) };
        if name.text().is_empty() {
            return Err(ScanError::NotSure("empty file name".to_owned()));
        }
        let found = self.chain(start, name)?;
        self.chains.insert((start, name), found);
        Ok(found)
    }

    /// What the search from `start` on ended at.
    pub(super) fn remembered(&self, start: DirectoryId, name: Symbol) -> Option<Found> {
        self.chains.get(&(start, name)).copied().flatten()
    }

    /// Records what a search ends at.
    pub(super) fn remember(&mut self, start: DirectoryId, name: Symbol, found: Option<Found>) {
        self.chains.entry((start, name)).or_insert(found);
    }

    /// Whether a directory has no file `name`, by looking for it.
    pub(super) fn is_absent(&mut self, id: DirectoryId, name: Symbol) -> bool {
        let spelled = self.spelled_in(id, name);
        let path = paths::absolute(self.cwd, Path::new(OsStr::from_bytes(&spelled)));
        if self.known(&path).is_some() || !matches!(self.sources.load(&path, self.dialect), Ok(None)) {
            return false;
        }
        let directory = &self.directories[id.0 as usize];
        self.survey.was_absent((id.0, &directory.path), name);
        true
    }

    /// The directories that may have the name, in order.
    fn chain(&mut self, start: DirectoryId, name: Symbol) -> Result<Option<Found>, ScanError> {
        let mut first = start.0;
        if first >= self.fixed {
            if let Some(file) = self.probe(start, name)? {
                return Ok(Some(Found { file, directory: Some(start) }));
            }
            first = 0;
        }
        // A precompiled header may be there without its header.
        let candidates = match self.looks_for_precompiled {
            true => (0..self.fixed).collect(),
            false => self.candidates(name),
        };
        let from = candidates.partition_point(|&candidate| candidate < first);
        for &candidate in &candidates[from..] {
            let directory = DirectoryId(candidate);
            if let Some(file) = self.probe(directory, name)? {
                return Ok(Some(Found { file, directory: Some(directory) }));
            }
        }
        Ok(None)
    }

    /// The directories of the search path that may have the directory in which `name` would be: of a hundred
    /// directories, few have the same one.
    pub(super) fn candidates(&mut self, name: Symbol) -> Rc<[u32]> {
        let parent = survey::parent(name);
        if let Some(candidates) = self.candidates.get(parent) {
            return Rc::clone(candidates);
        }
        let mut may_have = |&number: &u32| {
            let directory = &self.directories[number as usize];
            self.survey.may_have((number, &directory.path), parent)
        };
        let candidates: Rc<[u32]> = (0..self.fixed).filter(|number| may_have(number)).collect();
        self.candidates.insert(parent, Rc::clone(&candidates));
        candidates
    }

    /// What one directory has under a name.
    fn probe(&mut self, id: DirectoryId, name: Symbol) -> Result<Option<FileId>, ScanError> {
        let directory = &self.directories[id.0 as usize];
        // In many an includer's own directory all names are found: it is not listed before one was not.
        let is_listed = id.0 < self.fixed || self.survey.was_asked(id.0);
        let is_listed = is_listed && !self.looks_for_precompiled;
        if is_listed && self.survey.lacks((id.0, &directory.path), name) {
            return Ok(None);
        }
        let path = self.spelled_in(id, name);
        let file = self.probe_path(path)?;
        if file.is_none() {
            let directory = &self.directories[id.0 as usize];
            self.survey.was_absent((id.0, &directory.path), name);
        }
        Ok(file)
    }

    fn spelled_in(&self, directory: DirectoryId, name: Symbol) -> Vec<u8> {
        let mut path = self.directories[directory.0 as usize].spelled.clone();
        if !path.is_empty() && !path.ends_with(b"/") {
            path.push(b'/');
        }
        path.extend_from_slice(name.text());
        path
    }

    /// Some text asks for a file by its whole path.
    pub(super) fn note_absolute(&mut self, name: Symbol) {
        self.absolute.insert(OsStr::from_bytes(name.text()).into());
    }

    /// The file `name` (absolute, or relative to `directory`), by its digest.
    pub(super) fn data(
        &mut self,
        directory: DirectoryId,
        name: Symbol,
    ) -> Result<Option<Arc<InputFile>>, ScanError> {
        let is_absolute = name.text().starts_with(b"/");
        if is_absolute {
            self.note_absolute(name);
        }
        let spelled = if is_absolute { name.text().to_vec() } else { self.spelled_in(directory, name) };
        let path = paths::absolute(self.cwd, Path::new(OsStr::from_bytes(&spelled)));
        if let Some(file) = self.data.get(path.as_os_str()) {
            return Ok(file.clone());
        }
        let version = match self.sources.version(&path) {
            Ok(version) => version,
            Err(error) => return Err(ScanError::Unreadable { path, error }),
        };
        let file = version.map(|version| Arc::new(InputFile { path: path.clone(), version }));
        if file.is_none() {
            self.absent.push(path.clone());
        }
        self.data.insert(path.into(), file.clone());
        Ok(file)
    }

    /// `--embed-dir`.
    pub(super) fn embed_directories(&mut self) -> Vec<DirectoryId> {
        self.directory_ids(self.embed)
    }

    fn directory_ids(&mut self, directories: &[PathBuf]) -> Vec<DirectoryId> {
        directories.iter().map(|path| self.directory_id(&spelled(path.as_os_str().as_bytes()))).collect()
    }

    /// What the assembler may open as `name`: first in the working directory, then in those that it is given. GNU
    /// as is given `-I`, Clang's own assembler `-iquote` and `-isystem` as well, so all that have the file count.
    pub(super) fn assembled(&mut self, name: Symbol) -> Result<Vec<Arc<InputFile>>, ScanError> {
        let cwd = self.working_directory();
        if let Some(file) = self.data(cwd, name)? {
            return Ok(vec![file]);
        }
        let mut files = Vec::new();
        if !name.text().starts_with(b"/") {
            let given = self.directory_ids(self.assembler);
            for directory in (0..self.fixed).map(DirectoryId).chain(given) {
                files.extend(self.data(directory, name)?);
            }
        }
        Ok(files)
    }

    /// Assembler text at `path`, which was found before.
    pub(super) fn assembler_text(&self, path: &Path) -> Result<Option<Arc<SourceFile>>, ScanError> {
        // What the assembler itself takes for a comment differs from target to target: what seems one there is
        // read at worst in excess.
        let dialect = Dialect { assembler: true, ..Dialect::default() };
        match self.sources.load(path, dialect) {
            Ok(loaded) => Ok(loaded.map(|loaded| loaded.source)),
            Err(error) => Err(ScanError::Unreadable { path: path.to_owned(), error }),
        }
    }

    fn probe_path(&mut self, spelled: Vec<u8>) -> Result<Option<FileId>, ScanError> {
        if !self.looks_for_precompiled || self.family != Family::Gcc {
            return self.load(spelled);
        }
        let precompiled = self.note_precompiled(&spelled, &[".gch"])?;
        match (self.load(spelled)?, precompiled) {
            // What it defines is known by its text alone.
            (None, Some(path)) => Err(ScanError::not_sure("precompiled header", path.display().to_string())),
            (file, _) => Ok(file),
        }
    }

    /// GCC takes `name.gch` for the first include (GCC manual, "Precompiled Headers"); Clang's driver takes `name.pch` or
    /// `name.gch` for an `-include`. Whether the compiler finds it fit for this unit is its own affair: it is an input
    /// beside the text, which has the same effect.
    pub(super) fn note_precompiled(
        &mut self,
        spelled: &[u8],
        suffixes: &[&str],
    ) -> Result<Option<PathBuf>, ScanError> {
        for suffix in suffixes {
            let mut path = spelled.to_vec();
            path.extend_from_slice(suffix.as_bytes());
            let path = paths::absolute(self.cwd, Path::new(OsStr::from_bytes(&path)));
            match self.sources.version(&path) {
                Ok(Some(version)) => {
                    self.precompiled.push(Arc::new(InputFile { path: path.clone(), version }));
                    return Ok(Some(path));
                }
                // A directory of several, of which one may fit.
                Ok(None) if self.sources.exists(&path) => {
                    return Err(ScanError::not_sure("precompiled header", path.display().to_string()));
                }
                Ok(None) => self.absent.push(path),
                Err(error) => return Err(ScanError::Unreadable { path, error }),
            }
        }
        Ok(None)
    }

    fn load(&mut self, spelled: Vec<u8>) -> Result<Option<FileId>, ScanError> {
        self.load_by(spelled, |sources, path, dialect| sources.load(path, dialect))
    }

    fn load_by(
        &mut self,
        spelled: Vec<u8>,
        load: impl FnOnce(&dyn Sources, &Path, Dialect) -> io::Result<Option<Loaded>>,
    ) -> Result<Option<FileId>, ScanError> {
        let path = paths::absolute(self.cwd, Path::new(OsStr::from_bytes(&spelled)));
        if let Some(&file) = self.by_path.get(path.as_os_str().as_bytes()) {
            return Ok(Some(file));
        }
        let loaded = match load(self.sources, &path, self.dialect) {
            Ok(Some(loaded)) => loaded,
            Ok(None) => return Ok(None),
            Err(error) => return Err(ScanError::Unreadable { path, error }),
        };
        let directory = match spelled.iter().rposition(|&byte| byte == b'/') {
            Some(0) => &b"/"[..],
            Some(slash) => &spelled[..slash],
            None => b"",
        };
        let directory = self.directory_id(directory);
        Ok(Some(self.add(spelled.into(), directory, loaded)))
    }

    /// Adds a file that the unit had not come to yet.
    pub(super) fn add(&mut self, spelled: Arc<[u8]>, directory: DirectoryId, loaded: Loaded) -> FileId {
        let id = FileId(number(self.files.len()));
        self.by_path.insert(ByPath(Arc::clone(&loaded.file)), id);
        if self.family == Family::Clang {
            self.first_names.entry(loaded.file.version.fingerprint.file_id()).or_insert(id);
        }
        self.files.push(File {
            spelled,
            source: loaded.source,
            input: loaded.file,
            directory,
            opened: false,
            probed: false,
            once: false,
            times: 0,
        });
        id
    }

    /// Whether it is unclear which directory the quoted includes of a file belong to: Clang 14 takes that of the name
    /// under which it found the file first, even if that was another link to it; later versions do not.
    pub(super) fn has_unclear_directory(&self, id: FileId) -> bool {
        let file = self.file(id);
        let Some(&first) = self.first_names.get(&file.input.version.fingerprint.file_id()) else {
            return false;
        };
        let parent = |id| paths::lexically_normal(&self.file(id).input.path).parent().map(Path::to_owned);
        first != id && file.source.has_quoted_includes() && parent(first) != parent(id)
    }

    /// The look-ups that failed, and what shows it.
    pub(super) fn into_failed_lookups(self) -> (FailedLookups, Evidence) {
        let directories = self.directories.into_iter().map(|directory| directory.path).collect();
        let chains = self.chains.into_iter().filter_map(|((start, name), found)| {
            let end = match found {
                None => self.fixed,
                Some(Found { directory, .. }) if directory == Some(start) => return None,
                Some(Found { directory, .. }) => directory?.0,
            };
            Some(Chain { name, start: start.0, end })
        });
        let failed = FailedLookups::new(directories, self.fixed, chains.collect(), self.absent);
        (failed, self.survey.into_evidence())
    }
}

/// A directory without slashes at its end, except for the root.
fn spelled(path: &[u8]) -> Vec<u8> {
    let length = path.iter().rposition(|&byte| byte != b'/').map_or(path.len().min(1), |last| last + 1);
    path[..length].to_vec()
}

/// Files and directories of one unit are counted by the budget long before they outgrow this.
fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}
