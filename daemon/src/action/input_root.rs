//! The tree of files that an action sees, built so that every absolute path of this machine resolves in it as
//! it does here: symlinks and `..` included (root `mirror`).
//! Knows nothing of compilers, nor where the tree is sent.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::HashSet;
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Component;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use bazel_remote_apis::build::bazel::remote::execution::v2 as re;
use foldhash::fast::RandomState;
use prost::Message;

use crate::action::Layout;
use crate::action::layout::Kind;
use crate::digest::Digest;
use crate::files::Version;
use crate::listings;
use crate::listings::Listing;
use crate::listings::Listings;
use crate::paths;
use crate::relocation::Relocation;

/// How many symlinks one path may lead through, as in Linux (`MAXSYMLINKS`).
const MAX_SYMLINKS: usize = 40;

/// How deep a tree may be. Trees are walked by recursion, here and on servers.
const MAX_DEPTH: usize = 256;

/// How many files of a directory are looked at one by one, before its names are asked for.
const FEW_FILES: usize = 8;

/// An input tree under construction.
pub struct InputRootBuilder<'a> {
    listings: &'a Listings,
    /// The first one is the root.
    trees: Vec<DirectoryTree>,
    /// What `lstat` said of physical paths; valid for the one command that this builder serves.
    kinds: HashMap<PathBuf, Kind, RandomState>,
    /// Physical paths at which nothing was.
    absent: Vec<PathBuf>,
    /// Whether these two are all that decided which tree it is.
    is_complete: bool,
    /// Where directories lead, by the names under which files were asked for in them. By `OsString`: a `Path` hashes
    /// component by component, which takes several times as long.
    places: HashMap<OsString, Place, RandomState>,
}

/// A finished input tree: a Merkle tree of REAPI `Directory` messages and the files in it.
#[derive(Debug, Clone)]
pub struct InputRoot {
    /// Digest of the top `Directory`.
    pub digest: Digest,
    /// Every `Directory` message of the tree, encoded.
    pub directories: Vec<(Digest, Vec<u8>)>,
    /// Every file of the tree: digest of its bytes and where they are on this machine.
    pub files: Vec<(Digest, Arc<Path>)>,
}

/// Where a path leads on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Located {
    /// Into the image that this machine and the worker share; nothing of it is in the tree.
    System,
    /// To a directory or a file outside the image; the physical path.
    Here(Arc<Path>),
}

/// Why a path cannot be in the tree.
#[derive(Debug, thiserror::Error)]
pub enum InputRootError {
    /// It is not there, or cannot be looked at.
    #[error("look at {}: {error}", path.display())]
    Io {
        /// Absolute path.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// It lies below more directories than any server will follow.
    #[error("send {}: it lies too deep", .0.display())]
    TooDeep(PathBuf),
    /// REAPI names are UTF-8 (message `Directory`).
    #[error("send {}: its name is not UTF-8", .0.display())]
    NotUtf8(PathBuf),
}

/// The names in one directory.
type DirectoryTree = BTreeMap<String, Entry>;

enum Entry {
    /// Its index.
    Directory(usize),
    File {
        digest: Digest,
        is_executable: bool,
        source: Arc<Path>,
    },
    Symlink {
        target: String,
    },
}

/// Where a directory leads.
#[derive(Clone)]
enum Place {
    System,
    Here(Directory),
}

/// A directory outside the image.
#[derive(Clone)]
struct Directory {
    physical: Arc<Path>,
    /// Index of its tree.
    tree: usize,
    /// Whether something in it may be part of the image.
    is_above_system: bool,
    /// How many files in it were looked for.
    asked: usize,
    /// The names in it, where they can be vouched for.
    listing: Option<Arc<Listing>>,
}

impl InputRootBuilder<'_> {
    /// An empty tree. The names in directories are those of `listings`, where it can tell.
    pub fn new(listings: &Listings) -> InputRootBuilder<'_> {
        InputRootBuilder {
            listings,
            trees: vec![DirectoryTree::new()],
            kinds: HashMap::default(),
            absent: Vec::new(),
            is_complete: true,
            places: HashMap::default(),
        }
    }

    /// Adds the file that `path` (absolute, as the compiler opens it) leads to, with every symlink on the way.
    ///
    /// # Errors
    /// When the path leads nowhere or to no file, or has a name that is not UTF-8.
    pub fn add_file(&mut self, path: &Path, version: &Version) -> Result<Located, InputRootError> {
        let (physical, tree) = match self.plain_file(path) {
            Some((Located::System, _)) => return Ok(Located::System),
            Some((Located::Here(physical), tree)) => (physical, tree),
            None => {
                let Located::Here(physical) = self.follow(path)? else { return Ok(Located::System) };
                let parent = physical.parent();
                let parent = parent.ok_or_else(|| io_error(path, io::ErrorKind::IsADirectory.into()))?;
                let tree = self.directory(parent)?;
                (physical, tree)
            }
        };
        let name = physical.file_name().ok_or_else(|| io_error(path, io::ErrorKind::IsADirectory.into()))?;
        let (digest, is_executable) = (version.digest, version.fingerprint.is_executable());
        let source = Arc::clone(&physical);
        self.trees[tree].insert(utf8(name, &physical)?, Entry::File { digest, is_executable, source });
        Ok(Located::Here(physical))
    }

    /// Adds a directory, perhaps empty: a working directory, a directory of the search path.
    ///
    /// # Errors
    /// As [`add_file`](Self::add_file).
    pub fn add_directory(&mut self, path: &Path) -> Result<Located, InputRootError> {
        let located = self.follow(path)?;
        if let Located::Here(physical) = &located {
            if physical.parent().is_some() && !matches!(self.kind(physical), Ok(Kind::Directory)) {
                return Err(io_error(path, io::ErrorKind::NotADirectory.into()));
            }
            self.directory(physical)?;
        }
        Ok(located)
    }

    /// Moves the directories of the workspace to where `relocation` has them.
    ///
    /// # Errors
    /// The path of a symlink that leads into one of them, or out of it.
    pub fn relocate(&mut self, relocation: &Relocation) -> Result<(), PathBuf> {
        self.check_symlinks(0, Path::new("/"), relocation)?;
        for root in relocation.roots() {
            if let Some(tree) = self.detach(0, &root.here) {
                let place = self.directory(&root.there).map_err(|_| root.there.clone())?;
                self.trees[place] = std::mem::take(&mut self.trees[tree]);
            }
        }
        Ok(())
    }

    /// The ways to the files that were added, as they are; None: they cannot be vouched for.
    pub fn layout(&self) -> Option<Layout> {
        if !self.is_complete {
            return None;
        }
        let files = self.trees.iter().flat_map(BTreeMap::values).filter_map(|entry| match entry {
            Entry::File { source, .. } => Some(&**source),
            Entry::Directory(_) | Entry::Symlink { .. } => None,
        });
        // What `stat` tells of them tells that they are no symlinks either, where it counts changes of names.
        let known: HashSet<&Path, RandomState> =
            files.filter(|file| listings::counts_changes_of_names(file)).collect();
        let found = self.kinds.iter().filter(|(path, _)| !known.contains(path.as_path()));
        let found = found.map(|(path, kind)| (path.clone(), Some(kind.clone())));
        Some(Layout::new(found.chain(self.absent.iter().map(|path| (path.clone(), None)))))
    }

    /// The finished tree.
    pub fn build(mut self) -> InputRoot {
        let mut input_root =
            InputRoot { digest: Digest::empty(), directories: Vec::new(), files: Vec::new() };
        input_root.digest = input_root.add(&mut self.trees, 0);
        input_root
    }

    /// Where a file leads that is no symlink itself, and the index of its directory's tree. The many files of one directory
    /// share the way to it. None: it must be followed.
    fn plain_file(&mut self, path: &Path) -> Option<(Located, usize)> {
        let (parent, name) = (path.parent()?, path.file_name()?);
        if !self.places.contains_key(parent.as_os_str()) {
            let place = self.place(parent)?;
            self.places.insert(parent.as_os_str().to_owned(), place);
        }
        let directory = match self.places.get_mut(parent.as_os_str())? {
            Place::Here(directory) => directory,
            Place::System => return Some((Located::System, 0)),
        };
        directory.asked += 1;
        if directory.asked == FEW_FILES {
            directory.listing = self.listings.of(&directory.physical);
        }
        let (physical, tree) = (directory.physical.join(name), directory.tree);
        if directory.is_above_system && paths::is_system(&physical) {
            return None;
        }
        let listing = directory.listing.as_ref();
        let name = name.as_bytes();
        if !listing.is_some_and(|listing| listing.has(name) && !listing.has_link(name))
            && !matches!(self.kind(&physical), Ok(Kind::File))
        {
            return None;
        }
        Some((Located::Here(physical.into()), tree))
    }

    /// None: something is wrong with it, which is said of the whole path.
    fn place(&mut self, path: &Path) -> Option<Place> {
        let Located::Here(physical) = self.follow(path).ok()? else { return Some(Place::System) };
        let tree = self.directory(&physical).ok()?;
        let is_above_system = paths::is_above_system(&physical);
        Some(Place::Here(Directory { physical, tree, is_above_system, asked: 0, listing: None }))
    }

    /// Follows `path` as the kernel would, recording each directory and symlink on the way.
    fn follow(&mut self, path: &Path) -> Result<Located, InputRootError> {
        let mut rest: VecDeque<OsString> = path.components().map(|c| c.as_os_str().to_owned()).collect();
        let mut current = PathBuf::from("/");
        let mut symlinks = 0;
        while let Some(name) = rest.pop_front() {
            match Path::new(&name).components().next() {
                Some(Component::RootDir) => current = PathBuf::from("/"),
                Some(Component::ParentDir) => {
                    current.pop();
                }
                Some(Component::Normal(name)) => {
                    let candidate = current.join(name);
                    if paths::is_system(&candidate) {
                        // `/usr/lib/../../home` leads through the image and out of it again.
                        if !rest.iter().any(|name| name == "..") {
                            return Ok(Located::System);
                        }
                        let whole = candidate.join(rest.iter().collect::<PathBuf>());
                        let physical = whole.canonicalize();
                        // Of what is not there, nobody knows whether it would be in the image.
                        let physical = physical.inspect_err(|_| self.is_complete = false);
                        let physical = physical.map_err(|error| io_error(path, error))?;
                        if paths::is_system(&physical) {
                            return Ok(Located::System);
                        }
                        self.is_complete = false;
                        rest = physical.components().map(|c| c.as_os_str().to_owned()).collect();
                        continue;
                    }
                    match self.kind(&candidate).map_err(|error| io_error(path, error))? {
                        // Even one that `..` leaves again: the kernel looks it up on the worker too.
                        Kind::Directory => {
                            self.directory(&candidate)?;
                            current = candidate;
                        }
                        Kind::File if rest.is_empty() => {
                            self.directory(&current)?;
                            return Ok(Located::Here(candidate.into()));
                        }
                        Kind::File => return Err(io_error(path, io::ErrorKind::NotADirectory.into())),
                        Kind::Symlink(target) => {
                            symlinks += 1;
                            if symlinks > MAX_SYMLINKS {
                                return Err(io_error(path, io::ErrorKind::InvalidInput.into()));
                            }
                            self.add_symlink(&current, name, &target)?;
                            for component in target.components().rev() {
                                rest.push_front(component.as_os_str().to_owned());
                            }
                        }
                    }
                }
                Some(Component::CurDir | Component::Prefix(_)) | None => {}
            }
        }
        self.directory(&current)?;
        Ok(Located::Here(current.into()))
    }

    fn kind(&mut self, path: &Path) -> io::Result<Kind> {
        if let Some(kind) = self.kinds.get(path) {
            return Ok(kind.clone());
        }
        let kind = Kind::of(path).inspect_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => self.absent.push(path.to_owned()),
            _ => self.is_complete = false,
        })?;
        self.kinds.insert(path.to_owned(), kind.clone());
        Ok(kind)
    }

    /// An absolute target becomes relative: many servers refuse absolute ones
    /// (REAPI, `SymlinkAbsolutePathStrategy`).
    fn add_symlink(&mut self, parent: &Path, name: &OsStr, target: &Path) -> Result<(), InputRootError> {
        let path = parent.join(name);
        let target = match target.strip_prefix("/") {
            Ok(below_root) => {
                let up: PathBuf = parent.components().skip(1).map(|_| "..").collect();
                up.join(below_root)
            }
            Err(_) => target.to_owned(),
        };
        let target = utf8(target.as_os_str(), &path)?;
        let name = utf8(name, &path)?;
        let tree = self.directory(parent)?;
        self.trees[tree].entry(name).or_insert(Entry::Symlink { target });
        Ok(())
    }

    /// The index of the tree of the physical directory `path`, made with its parents where it is not there.
    fn directory(&mut self, path: &Path) -> Result<usize, InputRootError> {
        let mut tree = 0;
        for (depth, component) in path.components().enumerate().skip(1) {
            if depth >= MAX_DEPTH {
                return Err(InputRootError::TooDeep(path.to_owned()));
            }
            let name = std::str::from_utf8(component.as_os_str().as_bytes());
            let name = name.map_err(|_| InputRootError::NotUtf8(path.to_owned()))?;
            tree = match self.trees[tree].get(name) {
                Some(Entry::Directory(below)) => *below,
                // Or a file or symlink that has become a directory while the tree was built.
                _ => {
                    let below = self.trees.len();
                    self.trees.push(DirectoryTree::new());
                    self.trees[tree].insert(name.to_owned(), Entry::Directory(below));
                    below
                }
            };
        }
        Ok(tree)
    }

    /// Takes a directory out of the tree, with those above it that hold nothing else. Returns its index.
    fn detach(&mut self, tree: usize, path: &Path) -> Option<usize> {
        let mut components = path.strip_prefix("/").unwrap_or(path).components();
        let name = components.next()?.as_os_str().to_str()?;
        let Some(Entry::Directory(below)) = self.trees[tree].get(name) else { return None };
        let (below, rest) = (*below, components.as_path());
        let is_it = rest.as_os_str().is_empty();
        let detached = if is_it { below } else { self.detach(below, rest)? };
        if is_it || self.trees[below].is_empty() {
            self.trees[tree].remove(name);
        }
        Some(detached)
    }

    /// # Errors
    /// The path of a symlink that leads from one directory of the workspace to another place, or from another place into
    /// one.
    fn check_symlinks(&self, tree: usize, path: &Path, relocation: &Relocation) -> Result<(), PathBuf> {
        for (name, entry) in &self.trees[tree] {
            match entry {
                Entry::Directory(below) => self.check_symlinks(*below, &path.join(name), relocation)?,
                Entry::File { .. } => {}
                Entry::Symlink { target } => {
                    let whole = path.join(target);
                    let root =
                        |path: &Path| relocation.roots().iter().position(|root| path.starts_with(&root.here));
                    let path = path.join(name);
                    if relocation.crosses(&whole) || root(&path) != root(&paths::lexically_normal(&whole)) {
                        return Err(path);
                    }
                }
            }
        }
        Ok(())
    }
}

impl InputRoot {
    /// Encodes one of `trees` in REAPI's canonical form, children first: entries sorted by name, as a `BTreeMap` of
    /// UTF-8 strings is.
    fn add(&mut self, trees: &mut [DirectoryTree], tree: usize) -> Digest {
        let mut directory = re::Directory::default();
        for (name, entry) in std::mem::take(&mut trees[tree]) {
            match entry {
                Entry::Directory(below) => {
                    let digest = Some(self.add(trees, below).into());
                    directory.directories.push(re::DirectoryNode { name, digest });
                }
                Entry::File { digest, is_executable, source } => {
                    self.files.push((digest, source));
                    let node_properties = None;
                    let digest = Some(digest.into());
                    directory.files.push(re::FileNode { name, digest, is_executable, node_properties });
                }
                Entry::Symlink { target } => {
                    directory.symlinks.push(re::SymlinkNode { name, target, node_properties: None });
                }
            }
        }
        let bytes = directory.encode_to_vec();
        let digest = Digest::of(&bytes);
        self.directories.push((digest, bytes));
        digest
    }
}

fn utf8(name: &OsStr, path: &Path) -> Result<String, InputRootError> {
    match std::str::from_utf8(name.as_bytes()) {
        Ok(name) => Ok(name.to_owned()),
        Err(_) => Err(InputRootError::NotUtf8(path.to_owned())),
    }
}

fn io_error(path: &Path, error: io::Error) -> InputRootError {
    InputRootError::Io { path: path.to_owned(), error }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::files::Files;

    /// The lines of the tree below the scratch directory, for a set of paths relative to it.
    fn tree(scratch: &Path, paths: &[&str]) -> Result<Vec<String>, InputRootError> {
        tree_by(&Listings::default(), scratch, paths)
    }

    fn tree_by(listings: &Listings, scratch: &Path, paths: &[&str]) -> Result<Vec<String>, InputRootError> {
        let files = Files::default();
        let mut builder = InputRootBuilder::new(listings);
        for path in paths {
            let path = scratch.join(path);
            match files.version(&path) {
                Ok(version) => builder.add_file(&path, &version)?,
                Err(_) => builder.add_directory(&path)?,
            };
        }
        let root = builder.build();
        let by_digest: HashMap<_, _> = root.directories.iter().cloned().collect();
        let mut lines = Vec::new();
        list(&by_digest, root.digest, Path::new("/"), &mut lines);
        let prefix = format!("{}/", scratch.display());
        let below = lines.iter().filter_map(|line| line.strip_prefix(&prefix));
        Ok(below.filter(|line| !line.is_empty()).map(str::to_owned).collect())
    }

    fn list(directories: &HashMap<Digest, Vec<u8>>, digest: Digest, path: &Path, lines: &mut Vec<String>) {
        let directory = re::Directory::decode(&*directories[&digest]).unwrap();
        for file in directory.files {
            lines.push(path.join(file.name).display().to_string());
        }
        for symlink in directory.symlinks {
            lines.push(format!("{} -> {}", path.join(symlink.name).display(), symlink.target));
        }
        for below in directory.directories {
            let path = path.join(&below.name);
            lines.push(format!("{}/", path.display()));
            list(directories, Digest::try_from(below.digest.as_ref().unwrap()).unwrap(), &path, lines);
        }
    }

    fn scratch() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap();
        (directory, path)
    }

    #[test]
    fn parents_of_dot_dot_exist() {
        let (_guard, scratch) = scratch();
        std::fs::create_dir_all(scratch.join("a/b")).unwrap();
        std::fs::write(scratch.join("a/x.h"), "").unwrap();
        assert_eq!(tree(&scratch, &["a/b/../x.h"]).unwrap(), ["a/", "a/x.h", "a/b/"]);
    }

    #[test]
    fn dot_dot_behind_a_symlink_leaves_its_target() {
        let (_guard, scratch) = scratch();
        std::fs::create_dir_all(scratch.join("real/deep")).unwrap();
        std::fs::write(scratch.join("real/x.h"), "").unwrap();
        symlink(scratch.join("real/deep"), scratch.join("link")).unwrap();
        let up = "../".repeat(scratch.components().count() - 1);
        let target = format!("{up}{}", scratch.strip_prefix("/").unwrap().join("real/deep").display());
        assert_eq!(
            tree(&scratch, &["link/../x.h"]).unwrap(),
            [&format!("link -> {target}"), "real/", "real/x.h", "real/deep/"]
        );
    }

    #[test]
    fn many_files_of_a_directory_are_found_like_a_few() {
        let (_guard, scratch) = scratch();
        std::fs::create_dir(scratch.join("far")).unwrap();
        std::fs::create_dir(scratch.join("many")).unwrap();
        std::fs::write(scratch.join("far/x.h"), "").unwrap();
        let names: Vec<String> = (0..3 * FEW_FILES).map(|number| format!("many/{number:02}.h")).collect();
        for name in &names {
            std::fs::write(scratch.join(name), "").unwrap();
        }
        // By then, everything was changed long ago.
        let listings =
            Listings::with_clock(|| std::time::SystemTime::now() + std::time::Duration::from_secs(60));
        let mut paths: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut expected = [&["many/"], paths.as_slice()].concat();
        assert_eq!(tree_by(&listings, &scratch, &paths).unwrap(), expected);
        // The last one becomes a link, and there is another one.
        let last = scratch.join(paths[paths.len() - 1]);
        std::fs::remove_file(&last).unwrap();
        symlink("../far/x.h", &last).unwrap();
        symlink("00.h", scratch.join("many/zz.h")).unwrap();
        paths.push("many/zz.h");
        expected.pop();
        let link = format!("many/{} -> ../far/x.h", last.file_name().unwrap().display());
        expected.splice(0..0, ["far/", "far/x.h"]);
        expected.extend([link.as_str(), "many/zz.h -> 00.h"]);
        assert_eq!(tree_by(&listings, &scratch, &paths).unwrap(), expected);
    }

    #[test]
    fn the_second_file_of_a_directory_is_found_like_the_first() {
        let (_guard, scratch) = scratch();
        std::fs::create_dir_all(scratch.join("real/sub")).unwrap();
        for name in ["real/x.h", "real/y.h", "real/sub/z.h", "other.h"] {
            std::fs::write(scratch.join(name), "").unwrap();
        }
        symlink("real", scratch.join("link")).unwrap();
        symlink("../other.h", scratch.join("real/other.h")).unwrap();
        symlink("sub", scratch.join("real/way")).unwrap();
        let names = ["link/x.h", "link/y.h", "link/other.h", "link/way/z.h", "link/way/../y.h", "real/sub"];
        let expected = [
            "other.h",
            "link -> real",
            "real/",
            "real/x.h",
            "real/y.h",
            "real/other.h -> ../other.h",
            "real/way -> sub",
            "real/sub/",
            "real/sub/z.h",
        ];
        assert_eq!(tree(&scratch, &names).unwrap(), expected);
        // What is not there is missing by its whole name, whatever is known of its directory.
        let Err(InputRootError::Io { path, .. }) = tree(&scratch, &["link/x.h", "link/none.h"]) else {
            panic!("it was found");
        };
        assert_eq!(path, scratch.join("link/none.h"));
        assert!(tree(&scratch, &["link/x.h", "link/x.h/y.h"]).is_err());
    }

    #[test]
    fn a_symlinked_file_is_sent_with_its_link() {
        let (_guard, scratch) = scratch();
        std::fs::write(scratch.join("b.h"), "").unwrap();
        symlink("b.h", scratch.join("a.h")).unwrap();
        assert_eq!(tree(&scratch, &["a.h"]).unwrap(), ["b.h", "a.h -> b.h"]);
    }

    #[test]
    fn links_into_the_image_end_there() {
        let (_guard, scratch) = scratch();
        symlink("/usr/include", scratch.join("include")).unwrap();
        let lines = tree(&scratch, &["include/stdio.h"]).unwrap();
        assert_eq!(lines.len(), 1);
        assert!(lines[0].starts_with("include -> ") && lines[0].ends_with("usr/include"), "{lines:?}");
    }

    #[test]
    fn a_path_through_the_image_may_lead_out_of_it() {
        let (_guard, scratch) = scratch();
        std::fs::write(scratch.join("x.h"), "").unwrap();
        let version = Files::default().version(&scratch.join("x.h")).unwrap();
        for (way, expected) in [
            (format!("/usr/lib/../..{}/x.h", scratch.display()), Located::Here(scratch.join("x.h").into())),
            ("/usr/bin/../bin/env".to_owned(), Located::System),
        ] {
            let located =
                InputRootBuilder::new(&Listings::default()).add_file(Path::new(&way), &version).unwrap();
            assert_eq!(located, expected, "{way}");
        }
    }

    #[test]
    fn a_file_is_no_directory() {
        let (_guard, scratch) = scratch();
        std::fs::write(scratch.join("a.c"), "").unwrap();
        let path = scratch.join("a.c");
        let listings = Listings::default();
        let mut builder = InputRootBuilder::new(&listings);
        builder.add_file(&path, &Files::default().version(&path).unwrap()).unwrap();
        let error = builder.add_directory(&path).unwrap_err();
        assert!(matches!(error, InputRootError::Io { .. }), "{error}");
        assert_eq!(builder.build().files.len(), 1);
    }

    #[test]
    fn bottomless_paths_are_refused() {
        let (_guard, scratch) = scratch();
        let deep = scratch.join("d/".repeat(1500));
        std::fs::create_dir_all(&deep).unwrap();
        let error = InputRootBuilder::new(&Listings::default()).add_directory(&deep).unwrap_err();
        assert!(matches!(error, InputRootError::TooDeep(_)), "{error}");
    }

    #[test]
    fn a_circle_of_links_is_an_error() {
        let (_guard, scratch) = scratch();
        symlink("b", scratch.join("a")).unwrap();
        symlink("a", scratch.join("b")).unwrap();
        assert!(tree(&scratch, &["a"]).is_err());
    }

    #[test]
    fn the_same_files_in_any_order_have_one_digest() {
        let (_guard, scratch) = scratch();
        for name in ["b.h", "a.h", "c.h"] {
            std::fs::write(scratch.join(name), name).unwrap();
        }
        let files = Files::default();
        let digest = |names: &[&str]| {
            let listings = Listings::default();
            let mut builder = InputRootBuilder::new(&listings);
            for name in names {
                let path = scratch.join(name);
                builder.add_file(&path, &files.version(&path).unwrap()).unwrap();
            }
            builder.build().digest
        };
        assert_eq!(digest(&["a.h", "b.h", "c.h"]), digest(&["c.h", "b.h", "a.h", "b.h"]));
        assert_ne!(digest(&["a.h", "b.h"]), digest(&["a.h", "c.h"]));
    }

    #[test]
    fn names_that_are_not_utf8_are_refused() {
        let (_guard, scratch) = scratch();
        let path = scratch.join(OsStr::from_bytes(b"\xff.h"));
        std::fs::write(&path, "").unwrap();
        let version = Files::default().version(&path).unwrap();
        let error = InputRootBuilder::new(&Listings::default()).add_file(&path, &version).unwrap_err();
        assert!(matches!(error, InputRootError::NotUtf8(_)), "{error}");
    }

    /// The top of a tree with these files after a workspace was moved, or where a symlink leads across its border.
    fn moved(roots: &[&Path], paths: &[PathBuf]) -> Result<Vec<String>, PathBuf> {
        let files = Files::default();
        let listings = Listings::default();
        let mut builder = InputRootBuilder::new(&listings);
        for path in paths {
            match files.version(path) {
                Ok(version) => builder.add_file(path, &version).unwrap(),
                Err(_) => builder.add_directory(path).unwrap(),
            };
        }
        let roots: Vec<PathBuf> = roots.iter().map(|root| root.to_path_buf()).collect();
        builder.relocate(&Relocation::new(&roots).unwrap())?;
        let root = builder.build();
        let by_digest: HashMap<_, _> = root.directories.iter().cloned().collect();
        let mut lines = Vec::new();
        list(&by_digest, root.digest, Path::new("/"), &mut lines);
        Ok(lines)
    }

    #[test]
    fn a_workspace_is_moved_whole() {
        let (_guard, scratch) = scratch();
        let (one, two) = (scratch.join("one"), scratch.join("deep/two"));
        for file in [one.join("src/a.c"), one.join("src/real.h"), two.join("b.h"), scratch.join("deep/c.h")] {
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, "").unwrap();
        }
        symlink("src/real.h", one.join("link.h")).unwrap();
        let paths = [one.join("src/a.c"), one.join("link.h"), two.join("b.h")];
        let there = moved(&[&one, &two], &paths).unwrap();
        assert_eq!(
            there,
            [
                "/farcc-workspace/",
                "/farcc-workspace/0/",
                "/farcc-workspace/0/link.h -> src/real.h",
                "/farcc-workspace/0/src/",
                "/farcc-workspace/0/src/a.c",
                "/farcc-workspace/0/src/real.h",
                "/farcc-workspace/1/",
                "/farcc-workspace/1/b.h",
            ]
        );
        // What stands beside it stays where it is, and so do empty directories that somebody asked for.
        let there = moved(&[&one], &[one.join("src/a.c"), scratch.join("deep/c.h")]).unwrap();
        let beside = scratch.join("deep/c.h").display().to_string();
        assert!(there.contains(&beside) && !there.contains(&format!("{}/", one.display())), "{there:?}");
    }

    #[test]
    fn no_symlink_leads_across_the_border_of_a_workspace() {
        let (_guard, scratch) = scratch();
        let (one, other) = (scratch.join("one"), scratch.join("other"));
        for file in [one.join("a.h"), other.join("b.h")] {
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, "").unwrap();
        }
        symlink("../other/b.h", one.join("out.h")).unwrap();
        symlink("/usr/include/stdio.h", one.join("image.h")).unwrap();
        symlink(&one, other.join("in")).unwrap();
        symlink("../one/a.h", one.join("around.h")).unwrap();
        for (name, path) in [("out.h", &one), ("image.h", &one), ("around.h", &one), ("in", &other)]
            .map(|(name, at)| (name, at.join(name)))
        {
            let through = if name == "in" { path.join("a.h") } else { path.clone() };
            assert_eq!(moved(&[&one], &[through]), Err(path));
        }
    }
}
