//! An Action as one cluster gets it, and that cluster's results as this machine keeps them.
//! Knows nothing of how either is transferred.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use bazel_remote_apis::build::bazel::remote::execution::v2 as re;
use prost::DecodeError;
use prost::Message;

use crate::action::Action;
use crate::digest::Digest;
use crate::digest::DigestFunction;

/// An Action with all that it refers to, in one cluster's digests.
#[derive(Debug, Clone)]
pub struct RemoteAction {
    /// Digest of the encoded `Action` message.
    pub digest: Digest,
    /// The encoded `Action` message.
    pub action: Vec<u8>,
    /// Digest of the encoded `Command` message.
    pub command_digest: Digest,
    /// The encoded `Command` message.
    pub command: Vec<u8>,
    /// Every `Directory` message of the input tree, encoded.
    pub directories: Vec<(Digest, Vec<u8>)>,
    /// Every file of the input tree: digest of its bytes and where they are on this machine.
    pub files: Vec<(Digest, Arc<Path>)>,
    /// The names of its outputs, relative to its working directory.
    pub outputs: Vec<String>,
}

impl RemoteAction {
    /// `action` for a cluster whose digests are of `function`. `digest_of` gives the digest of a file by that function,
    /// from the one that it has here and its path; it is not asked where the two functions are the same.
    ///
    /// # Errors
    /// Those of `digest_of`.
    pub fn new<E: From<DecodeError>>(
        action: &Action,
        function: DigestFunction,
        digest_of: impl FnMut(&Digest, &Path) -> Result<Digest, E>,
    ) -> Result<RemoteAction, E> {
        let remote = RemoteAction {
            digest: action.digest,
            action: action.action.clone(),
            command_digest: action.command_digest,
            command: action.command.clone(),
            directories: action.input_root.directories.clone(),
            files: action.input_root.files.clone(),
            outputs: action.sought.outputs.iter().map(|output| output.remote.clone()).collect(),
        };
        if function == remote.digest.function() { Ok(remote) } else { remote.rehashed(function, digest_of) }
    }

    /// The same in digests of another function.
    fn rehashed<E: From<DecodeError>>(
        self,
        function: DigestFunction,
        mut digest_of: impl FnMut(&Digest, &Path) -> Result<Digest, E>,
    ) -> Result<RemoteAction, E> {
        let mut known: HashMap<String, re::Digest> = HashMap::new();
        let mut files = Vec::with_capacity(self.files.len());
        for (digest, path) in self.files {
            let there = digest_of(&digest, &path)?;
            known.insert(digest.hex(), there.into());
            files.push((there, path));
        }
        let replace = |field: &mut Option<re::Digest>, known: &HashMap<String, re::Digest>| {
            if let Some(digest) = field
                && let Some(there) = known.get(&digest.hash)
            {
                digest.clone_from(there);
            }
        };
        let mut directories = Vec::with_capacity(self.directories.len());
        // Children come before their parents.
        for (digest, bytes) in self.directories {
            let mut directory = re::Directory::decode(bytes.as_slice())?;
            directory.files.iter_mut().for_each(|file| replace(&mut file.digest, &known));
            directory.directories.iter_mut().for_each(|below| replace(&mut below.digest, &known));
            let bytes = directory.encode_to_vec();
            let there = function.digest(&bytes);
            known.insert(digest.hex(), there.into());
            directories.push((there, bytes));
        }
        let command_digest = function.digest(&self.command);
        let mut action = re::Action::decode(self.action.as_slice())?;
        replace(&mut action.input_root_digest, &known);
        action.command_digest = Some(command_digest.into());
        let action = action.encode_to_vec();
        Ok(RemoteAction {
            digest: function.digest(&action),
            action,
            command_digest,
            directories,
            files,
            ..self
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::tests::an_action;

    #[test]
    fn every_digest_is_of_the_cluster_s_function() {
        let (_directory, action) = an_action();
        for function in DigestFunction::ALL {
            let mut asked = 0;
            let remote = RemoteAction::new(&action, function, |here, path| {
                asked += 1;
                let bytes = std::fs::read(path).unwrap();
                assert!(here.is_of(&bytes));
                Ok::<_, DecodeError>(function.digest(&bytes))
            });
            let remote = remote.unwrap();
            assert_eq!(asked > 0, function != DigestFunction::Sha256);
            assert_eq!(function.digest(&remote.action), remote.digest);
            assert_eq!(function.digest(&remote.command), remote.command_digest);
            let message = re::Action::decode(remote.action.as_slice()).unwrap();
            assert_eq!(message.command_digest, Some(remote.command_digest.into()));
            // From the root on, everything that is named is there.
            let directories: HashMap<_, _> = remote.directories.iter().cloned().collect();
            let files: HashMap<_, _> = remote.files.iter().cloned().collect();
            let mut waiting = vec![function.read(message.input_root_digest.as_ref().unwrap()).unwrap()];
            let mut found = 0;
            while let Some(digest) = waiting.pop() {
                assert!(digest.is_of(&directories[&digest]));
                let directory = re::Directory::decode(directories[&digest].as_slice()).unwrap();
                for below in &directory.directories {
                    waiting.push(function.read(below.digest.as_ref().unwrap()).unwrap());
                }
                for file in &directory.files {
                    let digest = function.read(file.digest.as_ref().unwrap()).unwrap();
                    assert!(digest.is_of(&std::fs::read(&files[&digest]).unwrap()));
                    found += 1;
                }
            }
            assert_eq!(found, remote.files.len());
            assert!(found > 0);
        }
    }
}
