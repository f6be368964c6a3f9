//! Finds included files along the search path, and remembers within one unit what was found and what was not.
//! Knows nothing of macros or conditionals.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use crate::digest::Digest;
use crate::paths;
use crate::preprocessor::Dialect;
use crate::preprocessor::Family;
use crate::preprocessor::Identity;
use crate::preprocessor::ScanError;
use crate::preprocessor::ScannedFile;
use crate::preprocessor::SourceFile;
use crate::preprocessor::Sources;
use crate::preprocessor::TranslationUnit;
use crate::preprocessor::symbol::Symbol;
use crate::preprocessor::symbol::SymbolMap;

/// A directory: first the quote and angle directories of the search path in order, then those of including files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct DirectoryId(u32);

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
    /// Absolute.
    pub(super) path: PathBuf,
    /// As the compiler spells it: the directory as spelled, and the name.
    pub(super) spelled: Vec<u8>,
    pub(super) source: Arc<SourceFile>,
    pub(super) identity: Identity,
    /// The directory for the quoted includes of this file.
    pub(super) directory: DirectoryId,
    pub(super) opened: bool,
    pub(super) probed: bool,
    /// `#pragma once` or `#import`.
    pub(super) once: bool,
    /// How often it was replayed.
    pub(super) times: u32,
}

/// Places where files were looked for in vain, each a directory and a name.
#[derive(Debug, Default)]
pub struct FailedLookups {
    directories: Vec<PathBuf>,
    names: Vec<(usize, Symbol)>,
}

impl FailedLookups {
    /// Each directory (absolute) and the name, which may have further components, that is not there.
    pub fn iter(&self) -> impl Iterator<Item = (&Path, &Path)> {
        self.names.iter().filter_map(|&(directory, name)| {
            let directory = self.directories.get(directory)?;
            Some((directory.as_path(), Path::new(OsStr::from_bytes(name.text()))))
        })
    }
}

pub(super) struct Search<'a> {
    cwd: &'a Path,
    family: Family,
    dialect: Dialect,
    sources: &'a dyn Sources,
    /// As spelled, without a slash at the end; the working directory is empty.
    directories: Vec<Vec<u8>>,
    directory_ids: std::collections::HashMap<Vec<u8>, DirectoryId>,
    /// How many directories are quote directories, and how many belong to the search path at all.
    quote: u32,
    fixed: u32,
    embed: &'a [PathBuf],
    assembler: &'a [PathBuf],
    files: Vec<File>,
    by_path: std::collections::HashMap<PathBuf, FileId>,
    /// Under which name each file, by device and inode, was found first.
    first_names: std::collections::HashMap<(u64, u64), FileId>,
    /// What is in one directory under one name.
    probes: SymbolMap<(DirectoryId, Symbol), Option<FileId>>,
    /// What a search from one directory on ends at.
    chains: SymbolMap<(DirectoryId, Symbol), Option<Found>>,
    /// Files of which only the digest is asked, by path.
    data: std::collections::HashMap<PathBuf, Option<Digest>>,
    /// Names in `probes` and `data` that were not there, in order.
    failed: Vec<(usize, Symbol)>,
    /// Whether precompiled headers are still looked for: only the first include can be one.
    pub(super) looks_for_precompiled: bool,
}

impl<'a> Search<'a> {
    pub(super) fn new(unit: &'a TranslationUnit, sources: &'a dyn Sources, dialect: Dialect) -> Search<'a> {
        let path = &unit.search_path;
        let directories: Vec<Vec<u8>> =
            path.quote.iter().chain(&path.angle).map(|path| spelled(path.as_os_str().as_bytes())).collect();
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
            directory_ids: std::collections::HashMap::new(),
            files: Vec::new(),
            by_path: std::collections::HashMap::new(),
            first_names: std::collections::HashMap::new(),
            probes: SymbolMap::default(),
            chains: SymbolMap::default(),
            data: std::collections::HashMap::new(),
            failed: Vec::new(),
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
        self.by_path.get(path).is_some_and(|&id| self.file(id).opened)
    }

    pub(super) fn files(&self) -> impl Iterator<Item = &File> {
        self.files.iter()
    }

    /// The source, which is not searched for.
    pub(super) fn source(&mut self, path: &Path) -> Result<Option<FileId>, ScanError> {
        self.load(path.as_os_str().as_bytes().to_vec())
    }

    /// `"name"` in a file of `directory`: there, then along the whole path.
    pub(super) fn quoted(
        &mut self,
        directory: DirectoryId,
        name: Symbol,
    ) -> Result<Option<Found>, ScanError> {
        self.from(Some(directory), name)
    }

    /// `<name>`.
    pub(super) fn angled(&mut self, name: Symbol) -> Result<Option<Found>, ScanError> {
        let start = (self.quote < self.fixed).then_some(DirectoryId(self.quote));
        self.from(start, name)
    }

    /// `#include_next` in a file that was found in `directory`; None: it is a plain include there (GCC manual,
    /// "Wrapper Headers").
    pub(super) fn next(
        &mut self,
        directory: Option<DirectoryId>,
        name: Symbol,
    ) -> Result<Option<Option<Found>>, ScanError> {
        let Some(directory) = directory else { return Ok(None) };
        // For Clang, what was found next to its includer was not found by searching.
        if self.family == Family::Clang && directory.0 >= self.fixed {
            return Ok(None);
        }
        let after = self.after(directory);
        self.from(after, name).map(Some)
    }

    /// The directory that is searched after `directory`: after an includer's own, the path begins.
    fn after(&self, directory: DirectoryId) -> Option<DirectoryId> {
        let next = if directory.0 >= self.fixed { 0 } else { directory.0 + 1 };
        (next < self.fixed).then_some(DirectoryId(next))
    }

    /// The working directory, where files named on the command line are looked for first.
    pub(super) fn working_directory(&mut self) -> DirectoryId {
        self.directory_id(b"")
    }

    fn directory_id(&mut self, directory: &[u8]) -> DirectoryId {
        if let Some(&id) = self.directory_ids.get(directory) {
            return id;
        }
        let id = DirectoryId(number(self.directories.len()));
        self.directories.push(directory.to_vec());
        self.directory_ids.insert(directory.to_vec(), id);
        id
    }

    /// Searches from `start` on.
    fn from(&mut self, start: Option<DirectoryId>, name: Symbol) -> Result<Option<Found>, ScanError> {
        if name.text().starts_with(b"/") {
            let file = self.probe_path(name.text().to_vec())?;
            if file.is_none() {
                self.fail_absolute(name);
            }
            return Ok(file.map(|file| Found { file, directory: None }));
        }
        let Some(start) = start else { return Ok(None) };
        if name.text().is_empty() {
            return Err(ScanError::NotSure("empty file name".to_owned()));
        }
        if let Some(&found) = self.chains.get(&(start, name)) {
            return Ok(found);
        }
        let mut directory = start;
        let found = loop {
            if let Some(file) = self.probe(directory, name)? {
                break Some(Found { file, directory: Some(directory) });
            }
            match self.after(directory) {
                Some(next) => directory = next,
                None => break None,
            }
        };
        self.chains.insert((start, name), found);
        Ok(found)
    }

    fn probe(&mut self, directory: DirectoryId, name: Symbol) -> Result<Option<FileId>, ScanError> {
        if let Some(&file) = self.probes.get(&(directory, name)) {
            return Ok(file);
        }
        let path = self.spelled_in(directory, name);
        let file = self.probe_path(path)?;
        if file.is_none() {
            self.failed.push((directory.0 as usize, name));
        }
        self.probes.insert((directory, name), file);
        Ok(file)
    }

    fn spelled_in(&self, directory: DirectoryId, name: Symbol) -> Vec<u8> {
        let mut path = self.directories[directory.0 as usize].clone();
        if !path.is_empty() && !path.ends_with(b"/") {
            path.push(b'/');
        }
        path.extend_from_slice(name.text());
        path
    }

    fn fail_absolute(&mut self, name: Symbol) {
        let root = self.directory_id(b"/");
        let below = name.text().iter().position(|&byte| byte != b'/').unwrap_or(name.text().len());
        self.failed.push((root.0 as usize, Symbol::of(&name.text()[below..])));
    }

    /// The file `name` (absolute, or relative to `directory`), by its digest.
    pub(super) fn data(
        &mut self,
        directory: DirectoryId,
        name: Symbol,
    ) -> Result<Option<ScannedFile>, ScanError> {
        let is_absolute = name.text().starts_with(b"/");
        let spelled = if is_absolute { name.text().to_vec() } else { self.spelled_in(directory, name) };
        let path = paths::absolute(self.cwd, Path::new(OsStr::from_bytes(&spelled)));
        let digest = match self.data.get(&path) {
            Some(&digest) => digest,
            None => {
                let digest = self
                    .sources
                    .digest(&path)
                    .map_err(|error| ScanError::Unreadable { path: path.clone(), error })?;
                match digest {
                    None if is_absolute => self.fail_absolute(name),
                    None => self.failed.push((directory.0 as usize, name)),
                    Some(_) => {}
                }
                self.data.insert(path.clone(), digest);
                digest
            }
        };
        Ok(digest.map(|digest| ScannedFile { path, digest }))
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
    pub(super) fn assembled(&mut self, name: Symbol) -> Result<Vec<ScannedFile>, ScanError> {
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
        if self.looks_for_precompiled && self.family == Family::Gcc {
            self.refuse_precompiled(&spelled, &[".gch"])?;
        }
        self.load(spelled)
    }

    /// GCC takes `name.gch`, a file or a directory of them, for the first include (GCC manual, "Precompiled
    /// Headers"); Clang's driver takes `name.pch` or `name.gch` for an `-include`.
    pub(super) fn refuse_precompiled(&self, spelled: &[u8], suffixes: &[&str]) -> Result<(), ScanError> {
        for suffix in suffixes {
            let mut path = spelled.to_vec();
            path.extend_from_slice(suffix.as_bytes());
            let path = paths::absolute(self.cwd, Path::new(OsStr::from_bytes(&path)));
            if self.sources.exists(&path) {
                return Err(ScanError::not_sure("precompiled header", path.display().to_string()));
            }
        }
        Ok(())
    }

    fn load(&mut self, spelled: Vec<u8>) -> Result<Option<FileId>, ScanError> {
        let path = paths::absolute(self.cwd, Path::new(OsStr::from_bytes(&spelled)));
        if let Some(&file) = self.by_path.get(&path) {
            return Ok(Some(file));
        }
        let loaded = match self.sources.load(&path, self.dialect) {
            Ok(Some(loaded)) => loaded,
            Ok(None) => return Ok(None),
            Err(error) => return Err(ScanError::Unreadable { path, error }),
        };
        let directory = match spelled.iter().rposition(|&byte| byte == b'/') {
            Some(0) => &b"/"[..],
            Some(slash) => &spelled[..slash],
            None => b"",
        };
        let directory = directory.to_vec();
        let directory = self.directory_id(&directory);
        let id = FileId(number(self.files.len()));
        self.by_path.insert(path.clone(), id);
        self.first_names.entry((loaded.identity.device, loaded.identity.inode)).or_insert(id);
        self.files.push(File {
            path,
            spelled,
            source: loaded.source,
            identity: loaded.identity,
            directory,
            opened: false,
            probed: false,
            once: false,
            times: 0,
        });
        Ok(Some(id))
    }

    /// Whether it is unclear which directory the quoted includes of a file belong to: Clang 14 takes that of the name
    /// under which it found the file first, even if that was another link to it; later versions do not.
    pub(super) fn has_unclear_directory(&self, id: FileId) -> bool {
        let file = self.file(id);
        let Some(&first) = self.first_names.get(&(file.identity.device, file.identity.inode)) else {
            return false;
        };
        let parent = |id| paths::lexically_normal(&self.file(id).path).parent().map(Path::to_owned);
        first != id && file.source.has_quoted_includes() && parent(first) != parent(id)
    }

    pub(super) fn into_failed_lookups(self) -> FailedLookups {
        let absolute =
            |directory: Vec<u8>| paths::absolute(self.cwd, Path::new(OsStr::from_bytes(&directory)));
        FailedLookups {
            directories: self.directories.into_iter().map(absolute).collect(),
            names: self.failed,
        }
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
