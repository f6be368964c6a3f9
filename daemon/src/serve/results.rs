//! Action results: whether all that they name is still there, and their blobs put inline.
//! Knows nothing of who asks.

use std::collections::HashSet;

use bazel_remote_apis::build::bazel::remote::execution::v2::ActionResult;
use bazel_remote_apis::build::bazel::remote::execution::v2::Digest as DigestMessage;
use bazel_remote_apis::build::bazel::remote::execution::v2::Directory;
use bazel_remote_apis::build::bazel::remote::execution::v2::Tree;
use tonic::Status;

use super::Served;
use super::messages::digest;
use crate::digest::Digest;
use crate::digest::DigestFunction;

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

/// What a result names, directly or by its trees.
#[derive(Default)]
struct Named {
    digests: Vec<Digest>,
    /// Trees and directories that are nowhere, so that what they name is not known.
    missing: Vec<Digest>,
}

impl Served {
    /// The kept result of an action, if all the blobs that it names are stored. Counts as a use of them all.
    ///
    /// While the bucket cannot be reached, what is whole on disk is given out all the same: it can be fetched from here.
    pub(super) async fn complete_result(
        &self,
        key: &Digest,
        function: DigestFunction,
    ) -> Result<Option<ActionResult>, Status> {
        let Some(bucket) = self.cas.bucket() else {
            let Some(result) = self.cas.disk_result(key).await? else { return Ok(None) };
            return Ok(self.missing_of(&result, function).await?.is_empty().then_some(result));
        };
        match bucket.result(key).await {
            Ok(Some(result)) => Ok(self.missing_of(&result, function).await?.is_empty().then_some(result)),
            Ok(None) => {
                let Some(result) = self.cas.owed_result(key).await? else { return Ok(None) };
                if !self.missing_of(&result, function).await?.is_empty() {
                    return Ok(None);
                }
                self.cas.pay_result(key, &result).await?;
                Ok(Some(result))
            }
            Err(status) => {
                let Some(result) = self.cas.disk_result(key).await? else { return Err(status) };
                let Ok(named) = self.named_by(&result, function).await else { return Err(status) };
                for digest in &named.digests {
                    if !self.cas.is_on_disk(digest).await? {
                        return Err(status);
                    }
                }
                if named.missing.is_empty() { Ok(Some(result)) } else { Err(status) }
            }
        }
    }

    /// The blobs that `result` names, directly or by its trees, and that are not stored.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` when what it names is no digest of `function`, or no tree.
    pub(super) async fn missing_of(
        &self,
        result: &ActionResult,
        function: DigestFunction,
    ) -> Result<Vec<Digest>, Status> {
        let Named { digests, mut missing } = self.named_by(result, function).await?;
        missing.extend(self.cas.missing(digests).await?);
        Ok(missing)
    }

    /// Stores the blobs of a result that was just made here.
    pub(super) async fn keep_outputs(
        &self,
        result: &ActionResult,
        function: DigestFunction,
    ) -> Result<(), Status> {
        let Named { digests, mut missing } = self.named_by(result, function).await?;
        missing.extend(self.cas.keep_all_new(digests).await?);
        match missing.first() {
            None => Ok(()),
            Some(digest) => Err(Status::internal(format!("the output {digest} was stored and is gone"))),
        }
    }

    async fn named_by(&self, result: &ActionResult, function: DigestFunction) -> Result<Named, Status> {
        let mut named = Named::default();
        for file in &result.output_files {
            named.digests.push(digest(function, file.digest.as_ref(), &file.path)?);
        }
        for (message, name) in
            [(&result.stdout_digest, "stdout_digest"), (&result.stderr_digest, "stderr_digest")]
        {
            // Some clients set an empty message where there is nothing.
            if let Some(message) = message.as_ref().filter(|message| **message != DigestMessage::default()) {
                named.digests.push(digest(function, Some(message), name)?);
            }
        }
        for directory in &result.output_directories {
            if directory.tree_digest.is_none() && directory.root_directory_digest.is_none() {
                return Err(Status::invalid_argument(format!("{}: no digest is set", directory.path)));
            }
            if let Some(message) = &directory.tree_digest {
                let tree = digest(function, Some(message), &directory.path)?;
                match self.cas.read_message::<Tree>(&tree).await? {
                    Some(message) => {
                        named.digests.push(tree);
                        for directory in message.root.iter().chain(&message.children) {
                            add_files(function, directory, &mut named)?;
                        }
                    }
                    None => named.missing.push(tree),
                }
            }
            if let Some(message) = &directory.root_directory_digest {
                let root = digest(function, Some(message), &directory.path)?;
                self.add_directories_below(root, &mut named).await?;
            }
        }
        Ok(named)
    }

    async fn add_directories_below(&self, root: Digest, named: &mut Named) -> Result<(), Status> {
        let mut seen = HashSet::from([root]);
        let mut pending = vec![root];
        while let Some(next) = pending.pop() {
            let Some(directory) = self.cas.read_message::<Directory>(&next).await? else {
                named.missing.push(next);
                continue;
            };
            named.digests.push(next);
            add_files(root.function(), &directory, named)?;
            for child in &directory.directories {
                let child = digest(root.function(), child.digest.as_ref(), &child.name)?;
                if seen.insert(child) {
                    pending.push(child);
                }
            }
        }
        Ok(())
    }

    /// Puts into `result` what the client wants inline, as far as it fits. What cannot be read stays beside it.
    pub(super) async fn put_inline(
        &self,
        result: &mut ActionResult,
        inline: &Inline,
        function: DigestFunction,
    ) {
        let mut left = MAX_INLINE_BYTES;
        if inline.stdout && result.stdout_raw.is_empty() {
            result.stdout_raw = self.inlined(result.stdout_digest.as_ref(), function, &mut left).await;
        }
        if inline.stderr && result.stderr_raw.is_empty() {
            result.stderr_raw = self.inlined(result.stderr_digest.as_ref(), function, &mut left).await;
        }
        for file in &mut result.output_files {
            if file.contents.is_empty() && inline.output_files.contains(&file.path) {
                file.contents = self.inlined(file.digest.as_ref(), function, &mut left).await;
            }
        }
    }

    /// The blob's bytes if they fit into what is left; else none.
    async fn inlined(
        &self,
        message: Option<&DigestMessage>,
        function: DigestFunction,
        left: &mut u64,
    ) -> Vec<u8> {
        let digest = digest(function, message, "").ok().filter(|digest| digest.size_bytes() <= *left);
        let Some(digest) = digest else { return Vec::new() };
        let Ok(Some(bytes)) = self.cas.read(&digest).await else { return Vec::new() };
        *left -= digest.size_bytes();
        bytes
    }
}

fn add_files(function: DigestFunction, directory: &Directory, named: &mut Named) -> Result<(), Status> {
    for file in &directory.files {
        named.digests.push(digest(function, file.digest.as_ref(), &file.name)?);
    }
    Ok(())
}
