//! The tree of files that an action sees, built so that every absolute path of this machine resolves in it as
//! it does here: symlinks and `..` included (root `mirror`).
//! Knows nothing of compilers, nor where the tree is sent.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Component;
use std::path::Path;
use std::path::PathBuf;

use bazel_remote_apis::build::bazel::remote::execution::v2 as re;
use prost::Message;

use crate::digest::Digest;
use crate::files::Version;
use crate::paths;
use crate::relocation::Relocation;

/// How many symlinks one path may lead through, as in Linux (`MAXSYMLINKS`).
const MAX_SYMLINKS: usize = 40;

/// How deep a tree may be. Trees are walked by recursion, here and on servers.
const MAX_DEPTH: usize = 256;

/// An input tree under construction.
#[derive(Default)]
pub struct InputRootBuilder {
    root: DirectoryTree,
    /// What `lstat` said of physical paths; valid for the one command that this builder serves.
    kinds: HashMap<PathBuf, Kind>,
    /// Where directories lead, by the names under which files were asked for in them.
    directories: HashMap<PathBuf, Located>,
}

/// A finished input tree: a Merkle tree of REAPI `Directory` messages and the files in it.
#[derive(Debug, Clone)]
pub struct InputRoot {
    /// Digest of the top `Directory`.
    pub digest: Digest,
    /// Every `Directory` message of the tree, encoded.
    pub directories: Vec<(Digest, Vec<u8>)>,
    /// Every file of the tree: digest of its bytes and where they are on this machine.
    pub files: Vec<(Digest, PathBuf)>,
}

/// Where a path leads on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Located {
    /// Into the image that this machine and the worker share; nothing of it is in the tree.
    System,
    /// To a directory or a file outside the image; the physical path.
    Here(PathBuf),
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

#[derive(Default)]
struct DirectoryTree {
    entries: BTreeMap<String, Entry>,
}

enum Entry {
    Directory(DirectoryTree),
    File { digest: Digest, is_executable: bool, source: PathBuf },
    Symlink { target: String },
}

#[derive(Clone)]
enum Kind {
    Directory,
    File,
    Symlink(PathBuf),
}

impl InputRootBuilder {
    /// Adds the file that `path` (absolute, as the compiler opens it) leads to, with every symlink on the way.
    ///
    /// # Errors
    /// When the path leads nowhere or to no file, or has a name that is not UTF-8.
    pub fn add_file(&mut self, path: &Path, version: &Version) -> Result<Located, InputRootError> {
        let located = self.resolve(path)?;
        if let Located::Here(physical) = &located {
            let (Some(parent), Some(name)) = (physical.parent(), physical.file_name()) else {
                return Err(io_error(path, io::ErrorKind::IsADirectory.into()));
            };
            let entry = Entry::File {
                digest: version.digest,
                is_executable: version.fingerprint.is_executable(),
                source: physical.clone(),
            };
            let name = utf8(name, physical)?;
            self.directory(parent)?.entries.insert(name, entry);
        }
        Ok(located)
    }

    /// Adds a directory, perhaps empty: a working directory, a directory of the search path.
    ///
    /// # Errors
    /// As [`add_file`](Self::add_file).
    pub fn add_directory(&mut self, path: &Path) -> Result<Located, InputRootError> {
        let located = self.resolve(path)?;
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
        check_symlinks(&self.root, Path::new("/"), relocation)?;
        for root in relocation.roots() {
            if let Some(tree) = detach(&mut self.root, &root.here) {
                let place = self.directory(&root.there).map_err(|_| root.there.clone())?;
                *place = tree;
            }
        }
        Ok(())
    }

    /// The finished tree.
    pub fn build(self) -> InputRoot {
        let mut input_root =
            InputRoot { digest: Digest::empty(), directories: Vec::new(), files: Vec::new() };
        input_root.digest = input_root.add(self.root);
        input_root
    }

    /// Follows `path` as the kernel would, recording each directory and symlink on the way. The many files of one directory
    /// share the way to it.
    fn resolve(&mut self, path: &Path) -> Result<Located, InputRootError> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return self.follow(path) };
        if !self.directories.contains_key(parent) {
            // What is wrong with it is said of the whole path.
            let Ok(located) = self.follow(parent) else { return self.follow(path) };
            self.directories.insert(parent.to_owned(), located);
        }
        let candidate = match self.directories.get(parent) {
            Some(Located::Here(physical)) => physical.join(name),
            Some(Located::System) => return Ok(Located::System),
            None => return self.follow(path),
        };
        if paths::is_system(&candidate) {
            return self.follow(path);
        }
        match self.kind(&candidate) {
            Ok(Kind::File) => Ok(Located::Here(candidate)),
            Ok(Kind::Directory | Kind::Symlink(_)) | Err(_) => self.follow(path),
        }
    }

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
                        let physical = whole.canonicalize().map_err(|error| io_error(path, error))?;
                        if paths::is_system(&physical) {
                            return Ok(Located::System);
                        }
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
                            return Ok(Located::Here(candidate));
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
        Ok(Located::Here(current))
    }

    fn kind(&mut self, path: &Path) -> io::Result<Kind> {
        if let Some(kind) = self.kinds.get(path) {
            return Ok(kind.clone());
        }
        let metadata = std::fs::symlink_metadata(path)?;
        let kind = if metadata.is_symlink() {
            Kind::Symlink(std::fs::read_link(path)?)
        } else if metadata.is_dir() {
            Kind::Directory
        } else {
            Kind::File
        };
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
        self.directory(parent)?.entries.entry(name).or_insert(Entry::Symlink { target });
        Ok(())
    }

    /// The tree of the physical directory `path`, made with its parents where it is not there.
    fn directory(&mut self, path: &Path) -> Result<&mut DirectoryTree, InputRootError> {
        let mut tree = &mut self.root;
        for (depth, component) in path.components().enumerate().skip(1) {
            if depth >= MAX_DEPTH {
                return Err(InputRootError::TooDeep(path.to_owned()));
            }
            let name = std::str::from_utf8(component.as_os_str().as_bytes());
            let name = name.map_err(|_| InputRootError::NotUtf8(path.to_owned()))?;
            // Or a file or symlink that has become a directory while the tree was built.
            if !matches!(tree.entries.get(name), Some(Entry::Directory(_))) {
                tree.entries.insert(name.to_owned(), Entry::Directory(DirectoryTree::default()));
            }
            let Some(Entry::Directory(below)) = tree.entries.get_mut(name) else {
                return Err(io_error(path, io::ErrorKind::NotADirectory.into()));
            };
            tree = below;
        }
        Ok(tree)
    }
}

impl InputRoot {
    /// Encodes `tree` in REAPI's canonical form, children first: entries sorted by name, as a `BTreeMap` of
    /// UTF-8 strings is.
    fn add(&mut self, tree: DirectoryTree) -> Digest {
        let mut directory = re::Directory::default();
        for (name, entry) in tree.entries {
            match entry {
                Entry::Directory(below) => {
                    let digest = Some(self.add(below).into());
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

/// Takes a directory out of the tree, with those above it that hold nothing else.
fn detach(tree: &mut DirectoryTree, path: &Path) -> Option<DirectoryTree> {
    let mut components = path.strip_prefix("/").unwrap_or(path).components();
    let name = components.next()?.as_os_str().to_str()?;
    let rest = components.as_path();
    if rest.as_os_str().is_empty() {
        return match tree.entries.remove(name) {
            Some(Entry::Directory(detached)) => Some(detached),
            _ => None,
        };
    }
    let Some(Entry::Directory(below)) = tree.entries.get_mut(name) else { return None };
    let detached = detach(below, rest);
    if below.entries.is_empty() {
        tree.entries.remove(name);
    }
    detached
}

/// # Errors
/// The path of a symlink that leads from one directory of the workspace to another place, or from another place into one.
fn check_symlinks(tree: &DirectoryTree, path: &Path, relocation: &Relocation) -> Result<(), PathBuf> {
    for (name, entry) in &tree.entries {
        let path = path.join(name);
        match entry {
            Entry::Directory(below) => check_symlinks(below, &path, relocation)?,
            Entry::File { .. } => {}
            Entry::Symlink { target } => {
                let whole = path.parent().unwrap_or(Path::new("/")).join(target);
                let root =
                    |path: &Path| relocation.roots().iter().position(|root| path.starts_with(&root.here));
                if relocation.crosses(&whole) || root(&path) != root(&paths::lexically_normal(&whole)) {
                    return Err(path);
                }
            }
        }
    }
    Ok(())
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
        let files = Files::default();
        let mut builder = InputRootBuilder::default();
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
            (format!("/usr/lib/../..{}/x.h", scratch.display()), Located::Here(scratch.join("x.h"))),
            ("/usr/bin/../bin/env".to_owned(), Located::System),
        ] {
            let located = InputRootBuilder::default().add_file(Path::new(&way), &version).unwrap();
            assert_eq!(located, expected, "{way}");
        }
    }

    #[test]
    fn a_file_is_no_directory() {
        let (_guard, scratch) = scratch();
        std::fs::write(scratch.join("a.c"), "").unwrap();
        let path = scratch.join("a.c");
        let mut builder = InputRootBuilder::default();
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
        let error = InputRootBuilder::default().add_directory(&deep).unwrap_err();
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
            let mut builder = InputRootBuilder::default();
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
        let error = InputRootBuilder::default().add_file(&path, &version).unwrap_err();
        assert!(matches!(error, InputRootError::NotUtf8(_)), "{error}");
    }

    /// The top of a tree with these files after a workspace was moved, or where a symlink leads across its border.
    fn moved(roots: &[&Path], paths: &[PathBuf]) -> Result<Vec<String>, PathBuf> {
        let files = Files::default();
        let mut builder = InputRootBuilder::default();
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
