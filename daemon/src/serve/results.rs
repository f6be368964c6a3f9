//! Action results: whether all that they name is still there, and their blobs put inline.
//! Knows nothing of who asks.

use std::collections::HashSet;

use bazel_remote_apis::build::bazel::remote::execution::v2::ActionResult;
use bazel_remote_apis::build::bazel::remote::execution::v2::Digest as DigestMessage;
use bazel_remote_apis::build::bazel::remote::execution::v2::Directory;
use bazel_remote_apis::build::bazel::remote::execution::v2::Tree;
use prost::Message;
use tonic::Status;

use super::Served;
use super::messages::digest;
use super::messages::store_status;
use crate::digest::Digest;

/// What a client wants inside the result instead of beside it.
#[derive(Debug, Clone, Default)]
pub(super) struct Inline {
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    /// Paths as in the result.
    pub(super) output_files: Vec<String>,
}

/// What is put inline in one result stays below this in all: wishes are hints, and messages are bounded.
const MAX_INLINE_BYTES: u64 = 2 << 20;

impl Served {
    /// The kept result of an action, if all the blobs that it names are there. Counts as a use of them all.
    pub(super) fn complete_result(&self, key: &Digest) -> Result<Option<ActionResult>, Status> {
        let Some(result) = self.store.action_result(key).map_err(store_status)? else { return Ok(None) };
        // A result that names no digests properly was refused when it came.
        Ok(self.missing_of(&result)?.is_empty().then_some(result))
    }

    /// The blobs that `result` names, directly or by its trees, and that are not there.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` when what it names is no digest, or no tree.
    pub(super) fn missing_of(&self, result: &ActionResult) -> Result<Vec<Digest>, Status> {
        let mut named = Vec::new();
        for file in &result.output_files {
            named.push(digest(file.digest.as_ref(), &file.path)?);
        }
        for (message, name) in
            [(&result.stdout_digest, "stdout_digest"), (&result.stderr_digest, "stderr_digest")]
        {
            // Some clients set an empty message where there is nothing.
            if let Some(message) = message.as_ref().filter(|message| **message != DigestMessage::default()) {
                named.push(digest(Some(message), name)?);
            }
        }
        let mut missing = Vec::new();
        for directory in &result.output_directories {
            if directory.tree_digest.is_none() && directory.root_directory_digest.is_none() {
                return Err(Status::invalid_argument(format!("{}: no digest is set", directory.path)));
            }
            if let Some(message) = &directory.tree_digest {
                let tree = digest(Some(message), &directory.path)?;
                match self.read_message::<Tree>(&tree)? {
                    Some(tree) => {
                        for directory in tree.root.iter().chain(&tree.children) {
                            add_files(directory, &mut named)?;
                        }
                    }
                    None => missing.push(tree),
                }
            }
            if let Some(message) = &directory.root_directory_digest {
                self.add_files_below(digest(Some(message), &directory.path)?, &mut named, &mut missing)?;
            }
        }
        missing.extend(named.into_iter().filter(|digest| !self.store.contains(digest)));
        Ok(missing)
    }

    fn add_files_below(
        &self,
        root: Digest,
        named: &mut Vec<Digest>,
        missing: &mut Vec<Digest>,
    ) -> Result<(), Status> {
        let mut seen = HashSet::from([root]);
        let mut pending = vec![root];
        while let Some(next) = pending.pop() {
            let Some(directory) = self.read_message::<Directory>(&next)? else {
                missing.push(next);
                continue;
            };
            add_files(&directory, named)?;
            for child in &directory.directories {
                let child = digest(child.digest.as_ref(), &child.name)?;
                if seen.insert(child) {
                    pending.push(child);
                }
            }
        }
        Ok(())
    }

    /// The message in a blob; `None` when the blob is not there.
    pub(super) fn read_message<M: Message + Default>(&self, digest: &Digest) -> Result<Option<M>, Status> {
        let Some(bytes) = self.store.read(digest).map_err(store_status)? else { return Ok(None) };
        M::decode(bytes.as_slice()).map(Some).map_err(|error| {
            Status::invalid_argument(format!("blob {digest} is not the message it should be: {error}"))
        })
    }

    /// Puts into `result` what the client wants inline, as far as it fits. What cannot be read stays beside it.
    pub(super) fn put_inline(&self, result: &mut ActionResult, inline: &Inline) {
        let mut left = MAX_INLINE_BYTES;
        let mut read = |message: Option<&DigestMessage>| -> Option<Vec<u8>> {
            let digest = digest(message, "").ok().filter(|digest| digest.size_bytes() <= left)?;
            let bytes = self.store.read(&digest).ok().flatten()?;
            left -= digest.size_bytes();
            Some(bytes)
        };
        if inline.stdout && result.stdout_raw.is_empty() {
            result.stdout_raw = read(result.stdout_digest.as_ref()).unwrap_or_default();
        }
        if inline.stderr && result.stderr_raw.is_empty() {
            result.stderr_raw = read(result.stderr_digest.as_ref()).unwrap_or_default();
        }
        for file in &mut result.output_files {
            if file.contents.is_empty() && inline.output_files.contains(&file.path) {
                file.contents = read(file.digest.as_ref()).unwrap_or_default();
            }
        }
    }
}

fn add_files(directory: &Directory, named: &mut Vec<Digest>) -> Result<(), Status> {
    for file in &directory.files {
        named.push(digest(file.digest.as_ref(), &file.name)?);
    }
    Ok(())
}
