//! What is in a tree, and what has become of it.
//! Knows nothing of where either is kept.

use std::ffi::OsString;

use crate::digest::Digest;
use crate::mirror::TreePath;

/// What a path is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A directory.
    Directory {
        /// Permission bits, as in `chmod`.
        mode: u32,
    },
    /// A regular file.
    File {
        /// Digest of its bytes.
        digest: Digest,
        /// Permission bits.
        mode: u32,
    },
    /// A symbolic link.
    Link {
        /// What is in it, as written.
        target: OsString,
    },
}

/// What has become of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Where.
    pub path: TreePath,
    /// What is there now; None: nothing.
    pub now: Option<Node>,
    /// For a file whose content was written, even if to equal bytes: when, in nanoseconds since 1970 by the clock of the
    /// machine where it was. Only the order of these counts elsewhere. None: it has other permissions, and its old content
    /// and time.
    pub written: Option<i128>,
}

/// A change of one of a workspace's roots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootedChange {
    /// The root's position in the workspace.
    pub root: u32,
    /// What has become of a path below it.
    pub change: Change,
}

impl Change {
    /// The content that is needed to put it into place, if it is any but what is there.
    pub fn content(&self) -> Option<Digest> {
        match (&self.now, self.written) {
            (Some(Node::File { digest, .. }), Some(_)) => Some(*digest),
            _ => None,
        }
    }
}
