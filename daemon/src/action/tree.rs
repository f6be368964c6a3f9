//! Changes to a finished input tree, at the few places where the way to a worker asks for one.
//! Knows nothing of why.

use std::collections::HashMap;
use std::path::Path;
use std::path::PathBuf;

use bazel_remote_apis::build::bazel::remote::execution::v2 as re;
use prost::Message;

use crate::action::InputRoot;
use crate::digest::Digest;
use crate::paths;

impl InputRoot {
    /// The directories on the way to `path` (absolute, in normal form), from the top to that itself. None: it is not there.
    pub(super) fn chain(&self, path: &Path) -> Option<Vec<re::Directory>> {
        let mut chain = vec![self.message(&self.digest.into())?];
        for name in path.strip_prefix("/").ok()? {
            let name = name.to_str()?;
            let node = chain.last()?.directories.iter().find(|node| node.name == name)?;
            let below = self.message(node.digest.as_ref()?)?;
            chain.push(below);
        }
        Some(chain)
    }

    /// Changes the directory at `path`, and with it the digests of all above. False: it is not there.
    pub(super) fn edit(&mut self, path: &Path, edit: impl FnOnce(&mut re::Directory)) -> bool {
        let Some(mut chain) = self.chain(path) else { return false };
        for directory in &chain {
            self.remove(&Digest::of(&directory.encode_to_vec()));
        }
        let Some(mut current) = chain.pop() else { return false };
        edit(&mut current);
        let mut names: Vec<_> = path.components().skip(1).collect();
        loop {
            let bytes = current.encode_to_vec();
            let digest = Digest::of(&bytes);
            self.directories.push((digest, bytes));
            self.digest = digest;
            let (Some(mut above), Some(name)) = (chain.pop(), names.pop()) else { return true };
            for node in above.directories.iter_mut().filter(|node| name.as_os_str() == node.name.as_str()) {
                node.digest = Some(digest.into());
            }
            current = above;
        }
    }

    /// Adds a file to the directory at `path`, which is made where it is not there. False: a part of the tree is missing.
    pub(super) fn add_file(&mut self, path: &Path, file: re::FileNode) -> bool {
        let (mut existing, mut missing) = (path, Vec::new());
        while self.chain(existing).is_none() {
            let (Some(parent), Some(name)) = (existing.parent(), existing.file_name()) else { return false };
            let Some(name) = name.to_str() else { return false };
            missing.push(name.to_owned());
            existing = parent;
        }
        let mut below = re::Directory { files: vec![file], ..re::Directory::default() };
        for name in missing {
            let bytes = below.encode_to_vec();
            let digest = Digest::of(&bytes);
            self.directories.push((digest, bytes));
            let node = re::DirectoryNode { name, digest: Some(digest.into()) };
            below = re::Directory { directories: vec![node], ..re::Directory::default() };
        }
        self.edit(existing, |directory| {
            directory.files.append(&mut below.files);
            directory.files.sort_by(|a, b| a.name.cmp(&b.name));
            directory.directories.append(&mut below.directories);
            directory.directories.sort_by(|a, b| a.name.cmp(&b.name));
        })
    }

    /// The tree whose top is the directory at `path`, outside of which nothing is needed.
    pub(super) fn below(mut self, path: &Path) -> Option<InputRoot> {
        let mut chain = self.chain(path)?;
        let top = chain.pop()?;
        for directory in &chain {
            self.remove(&Digest::of(&directory.encode_to_vec()));
        }
        self.digest = Digest::of(&top.encode_to_vec());
        Some(self)
    }

    /// A symlink that leads into the image.
    pub(super) fn link_to_system(&self) -> Option<PathBuf> {
        let by_digest: HashMap<re::Digest, &[u8]> =
            self.directories.iter().map(|(digest, bytes)| ((*digest).into(), bytes.as_slice())).collect();
        let mut pending = vec![(PathBuf::from("/"), re::Digest::from(self.digest))];
        while let Some((path, digest)) = pending.pop() {
            let directory = re::Directory::decode(*by_digest.get(&digest)?).ok()?;
            for link in &directory.symlinks {
                if paths::is_system(&paths::lexically_normal(&path.join(&link.target))) {
                    return Some(path.join(&link.name));
                }
            }
            for node in directory.directories {
                pending.push((path.join(&node.name), node.digest?));
            }
        }
        None
    }

    /// Looked for from the end, where the upper directories are.
    fn message(&self, digest: &re::Digest) -> Option<re::Directory> {
        let found = self.directories.iter().rev().find(|(known, _)| re::Digest::from(*known) == *digest)?;
        re::Directory::decode(found.1.as_slice()).ok()
    }

    /// Each node has an entry of its own, though it may be the same as others'.
    fn remove(&mut self, digest: &Digest) {
        if let Some(at) = self.directories.iter().rposition(|(known, _)| known == digest) {
            self.directories.remove(at);
        }
    }
}
