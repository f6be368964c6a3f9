//! The inputs of an action as its closure sees them: files by path, under the input root.
//! Knows nothing of the command.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use bazel_remote_apis::build::bazel::remote::execution::v2 as proto;
use bytes::Bytes;
use farccd::digest::Digest;
use tonic::Status;

use super::Shared;

/// An input root with all its files. Paths are relative to it, separated by `/`.
pub struct InputTree {
    shared: Arc<Shared>,
    files: BTreeMap<String, proto::FileNode>,
    symlinks: BTreeMap<String, String>,
    directories: BTreeSet<String>,
}

impl InputTree {
    /// The node of the file at `path`; symlinks are not followed.
    pub fn file_node(&self, path: &str) -> Option<&proto::FileNode> {
        self.files.get(path)
    }

    /// The bytes of the file at `path`.
    pub fn file(&self, path: &str) -> Option<Bytes> {
        let digest = self.shared.digest_of(self.files.get(path)?.digest.as_ref()).ok()?;
        match digest.is_empty() {
            true => Some(Bytes::new()),
            false => self.shared.state(|state| state.blobs.get(&digest).cloned()),
        }
    }

    /// The target of the symlink at `path`.
    pub fn symlink(&self, path: &str) -> Option<&str> {
        self.symlinks.get(path).map(String::as_str)
    }

    /// Whether there is a directory at `path`; the root is the empty path.
    pub fn has_directory(&self, path: &str) -> bool {
        self.directories.contains(path)
    }

    /// The paths of all files, sorted.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// The paths of all directories, each after the one that it is in; the root is the empty path.
    pub fn directories(&self) -> impl Iterator<Item = &str> {
        self.directories.iter().map(String::as_str)
    }

    /// All symlinks: path and target.
    pub fn symlinks(&self) -> impl Iterator<Item = (&str, &str)> {
        self.symlinks.iter().map(|(path, target)| (path.as_str(), target.as_str()))
    }

    /// Stores an output of the action in the CAS and describes it.
    pub fn output_file(&self, path: &str, bytes: &[u8], is_executable: bool) -> proto::OutputFile {
        let digest = self.store(bytes);
        proto::OutputFile {
            path: path.to_owned(),
            digest: Some(digest.into()),
            is_executable,
            ..proto::OutputFile::default()
        }
    }

    /// Stores any bytes in the CAS, for example those of standard error.
    pub fn store(&self, bytes: &[u8]) -> Digest {
        let digest = self.shared.function().digest(bytes);
        self.shared.state(|state| state.blobs.insert(digest, Bytes::copy_from_slice(bytes)));
        digest
    }

    /// A tree without anything.
    pub(super) fn empty(shared: &Arc<Shared>) -> InputTree {
        InputTree {
            shared: Arc::clone(shared),
            files: BTreeMap::new(),
            symlinks: BTreeMap::new(),
            directories: BTreeSet::new(),
        }
    }

    /// Reads the tree, and notes every blob in it that is not there.
    pub(super) fn load(
        shared: &Arc<Shared>,
        root: Digest,
        missing: &mut Vec<Digest>,
    ) -> Result<InputTree, Status> {
        let mut tree = InputTree::empty(shared);
        let mut waiting = vec![(String::new(), root)];
        while let Some((path, digest)) = waiting.pop() {
            let directory: Option<proto::Directory> = shared.message(&digest, missing)?;
            let Some(directory) = directory else { continue };
            check_canonical(&path, &directory)?;
            let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
            for node in directory.directories {
                waiting.push((below(&node.name), shared.digest_of(node.digest.as_ref())?));
            }
            for node in directory.symlinks {
                tree.symlinks.insert(below(&node.name), node.target);
            }
            for node in directory.files {
                let digest = shared.digest_of(node.digest.as_ref())?;
                let there = shared.state(|state| state.blobs.contains_key(&digest));
                if !there && !digest.is_empty() {
                    missing.push(digest);
                }
                tree.files.insert(below(&node.name), node);
            }
            tree.directories.insert(path);
        }
        Ok(tree)
    }

    /// As Buildfarm: the working directory must be a directory of the tree.
    pub(super) fn check_working_directory(&self, path: &str) -> Result<(), Status> {
        match self.has_directory(path) {
            true => Ok(()),
            false => Err(Status::invalid_argument(format!("working directory {path:?} is not in the tree"))),
        }
    }
}

/// REAPI, message `Directory`: each list sorted, names unique over all three and one segment long.
fn check_canonical(path: &str, directory: &proto::Directory) -> Result<(), Status> {
    let files: Vec<&str> = directory.files.iter().map(|node| node.name.as_str()).collect();
    let directories: Vec<&str> = directory.directories.iter().map(|node| node.name.as_str()).collect();
    let symlinks: Vec<&str> = directory.symlinks.iter().map(|node| node.name.as_str()).collect();
    let mut names = BTreeSet::new();
    for list in [&files, &directories, &symlinks] {
        let one_segment = |name: &&str| !matches!(*name, "" | "." | "..") && !name.contains('/');
        if !list.is_sorted() || !list.iter().all(|name| one_segment(name) && names.insert(*name)) {
            return Err(Status::invalid_argument(format!("directory {path:?} is not canonical: {list:?}")));
        }
    }
    Ok(())
}
