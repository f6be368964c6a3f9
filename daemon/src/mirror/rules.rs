//! Which names in a tree are none of the other side's business.
//! Knows nothing of what they are.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use ignore::Match;
use ignore::gitignore::Gitignore;
use ignore::gitignore::GitignoreBuilder;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::ResolveFlags;
use rustix::io::Errno;

use crate::digest::Digest;
use crate::mirror::TreePath;

/// The file that has the rules for the directory that it is in and all below it (gitignore(5)).
pub const RULES_FILE: &str = ".farccignore";

/// Longer ones are not read.
const LARGEST_BYTES: u64 = 1 << 20;

/// Braces mean themselves in gitignore(5), and alternatives in the library.
fn without_alternatives(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut is_escaped = false;
    for letter in line.chars() {
        if matches!(letter, '{' | '}') && !is_escaped {
            plain.push('\\');
        }
        is_escaped = letter == '\\' && !is_escaped;
        plain.push(letter);
    }
    plain
}

/// What is no UTF-8 stands for any byte: the library has no other word for it.
fn as_text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| '?'));
    }
    text
}

/// Patterns as in gitignore(5) that are in no tree: each is relative to the top of one.
#[derive(Debug, Clone)]
pub struct Patterns(Gitignore);

impl Patterns {
    /// The patterns of these lines; the last one that matches decides.
    ///
    /// # Errors
    /// What is wrong with one that is none.
    pub fn new<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Result<Patterns, String> {
        let mut builder = GitignoreBuilder::new("");
        for line in lines {
            let text = as_text(line);
            let added = builder.add_line(None, &without_alternatives(&text));
            added.map_err(|error| format!("{text:?} is no pattern: {error}"))?;
        }
        builder.build().map(Patterns).map_err(|error| error.to_string())
    }

    /// Whether they match what is at `path`, or a directory that it is in.
    pub fn match_path(&self, path: &TreePath, is_directory: bool) -> bool {
        !path.as_bytes().is_empty()
            && self.0.matched_path_or_any_parents(path.as_path(), is_directory).is_ignore()
    }
}

/// The rules that hold in one directory: its own before those of the directories above it.
#[derive(Debug, Clone, Default)]
pub(super) struct Rules {
    own: Option<(Digest, Arc<Gitignore>)>,
    above: Option<Arc<Rules>>,
}

impl Rules {
    /// The rules of the directory at `path` below the open directory `root`, which is at `tree` and in which the rules
    /// `above` hold.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(super) fn below(
        root: &OwnedFd,
        tree: &Path,
        path: &TreePath,
        above: &Arc<Rules>,
    ) -> io::Result<Arc<Rules>> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let at = path.join(OsStr::new(RULES_FILE));
        match rustix::fs::openat2(root, at.as_path(), flags, Mode::empty(), resolve) {
            Ok(open) => Rules::of(&path.below(tree), File::from(open), above),
            // A socket has no rules either.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => Ok(Arc::clone(above)),
            Err(error) => Err(error.into()),
        }
    }

    /// The rules of `directory` (absolute), which has `file` for its rules and is in one that has the rules `above`. What is
    /// no file, or larger than any such file, has no rules; nor has a line that is no pattern.
    fn of(directory: &Path, file: File, above: &Arc<Rules>) -> io::Result<Arc<Rules>> {
        let metadata = file.metadata()?;
        if !metadata.is_file() || metadata.len() > LARGEST_BYTES {
            return Ok(Arc::clone(above));
        }
        let mut text = Vec::new();
        file.take(LARGEST_BYTES).read_to_end(&mut text)?;
        let mut builder = GitignoreBuilder::new(directory);
        for line in as_text(&text).lines() {
            if let Err(error) = builder.add_line(None, &without_alternatives(line)) {
                tracing::warn!("{}: {line:?} is passed over: {error}", directory.join(RULES_FILE).display());
            }
        }
        let own = builder.build().map_err(io::Error::other)?;
        Ok(Arc::new(Rules { own: Some((Digest::of(&text), Arc::new(own))), above: Some(Arc::clone(above)) }))
    }

    /// Whether they are those of the same files with the same text.
    pub(super) fn is(&self, other: &Rules) -> bool {
        let digest = |rules: &Rules| rules.own.as_ref().map(|(digest, _)| *digest);
        let is_same_above = match (&self.above, &other.above) {
            (Some(own), Some(other)) => own.is(other),
            (own, other) => own.is_none() == other.is_none(),
        };
        digest(self) == digest(other) && is_same_above
    }

    /// Whether there are none.
    pub(super) fn are_none(&self) -> bool {
        self.own.is_none() && self.above.as_ref().is_none_or(|above| above.are_none())
    }

    /// Whether they leave out what is at `path` in the tree at `tree`, in the directory that they are for: never the rules.
    pub(super) fn leave_out_of(&self, tree: &Path, path: &TreePath, is_directory: bool) -> bool {
        if path.as_bytes().is_empty() || (path.name() == RULES_FILE && !is_directory) {
            return false;
        }
        self.leave_out(&path.below(tree), is_directory)
    }

    fn leave_out(&self, path: &Path, is_directory: bool) -> bool {
        let mut rules = Some(self);
        while let Some(Rules { own, above }) = rules {
            match own.as_ref().map_or(Match::None, |(_, own)| own.matched(path, is_directory)) {
                Match::Ignore(_) => return true,
                Match::Whitelist(_) => return false,
                Match::None => rules = above.as_deref(),
            }
        }
        false
    }
}

/// What the rules' files that lie in a tree leave out, each read once: for as long as nobody changes them.
pub struct IgnoreRules {
    tree: PathBuf,
    root: OwnedFd,
    /// None: the directory is left out itself.
    directories: HashMap<TreePath, Option<Arc<Rules>>>,
}

impl IgnoreRules {
    /// Those of the tree at `tree` (absolute).
    ///
    /// # Errors
    /// When there is no such directory.
    pub fn of(tree: PathBuf) -> io::Result<IgnoreRules> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&tree, flags, Mode::empty())?;
        Ok(IgnoreRules { tree, root, directories: HashMap::new() })
    }

    /// Whether they leave out what is, was or will be at `path`; all that is in a directory that is left out, or whose rules
    /// cannot be read, is as well.
    pub fn leaves_out(&mut self, path: &TreePath, is_directory: bool) -> bool {
        let Some(parent) = path.parent() else { return false };
        match self.within(&parent) {
            Some(rules) => rules.leave_out_of(&self.tree, path, is_directory),
            None => true,
        }
    }

    /// The rules that hold in a directory.
    fn within(&mut self, directory: &TreePath) -> Option<Arc<Rules>> {
        let mut from_root: Vec<_> =
            std::iter::successors(Some(directory.clone()), TreePath::parent).collect();
        from_root.reverse();
        let mut above = Some(Arc::new(Rules::default()));
        for path in from_root {
            if let Some(known) = self.directories.get(&path) {
                above = known.clone();
                continue;
            }
            above = above.filter(|above| !above.leave_out_of(&self.tree, &path, true));
            above = above.and_then(|above| Rules::below(&self.root, &self.tree, &path, &above).ok());
            self.directories.insert(path, above.clone());
        }
        above
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_utf_8_stands_for_any_byte() {
        let space = tempfile::tempdir().unwrap();
        let tree = space.path().canonicalize().unwrap();
        std::fs::write(tree.join(RULES_FILE), b"\xe9t\xe9\r\n").unwrap();
        let mut rules = IgnoreRules::of(tree).unwrap();
        for (name, expected) in
            [(b"\xe9t\xe9".as_slice(), true), (b"t", false), (b"\xc3\xa9t\xc3\xa9", false)]
        {
            assert_eq!(rules.leaves_out(&TreePath::parse(name).unwrap(), false), expected, "{name:?}");
        }
    }

    #[test]
    fn rules_of_a_tree() {
        let space = tempfile::tempdir().unwrap();
        let tree = space.path().canonicalize().unwrap();
        for directory in ["a/deep", "out/a"] {
            std::fs::create_dir_all(tree.join(directory)).unwrap();
        }
        std::fs::write(tree.join(RULES_FILE), "*.log\n/out/\n").unwrap();
        std::fs::write(tree.join("a").join(RULES_FILE), "!keep.log\n.*\nonly/\n").unwrap();
        std::fs::write(tree.join("out").join(RULES_FILE), "!*\n").unwrap();
        let mut rules = IgnoreRules::of(tree).unwrap();
        for (path, is_directory, expected) in [
            ("", true, false),
            ("x.log", false, true),
            ("a", true, false),
            ("a/x.log", false, true),
            ("a/keep.log", false, false),
            ("keep.log", false, true),
            ("a/deep/keep.log", false, false),
            ("a/deep/.farccignore", false, false),
            ("a/deep/only", false, false),
            ("a/deep/only", true, true),
            ("a/deep/only/x", false, true),
            ("out", false, false),
            ("out", true, true),
            ("out/a/x", false, true),
            ("not/there/x.log", false, true),
            ("not/there/x", false, false),
        ] {
            let path = TreePath::parse(path.as_bytes()).unwrap();
            assert_eq!(rules.leaves_out(&path, is_directory), expected, "{path}");
        }
    }
}
