//! Changes as they are sent (`farcc.twin.v1`).
//! Knows nothing of how they are sent, nor of what becomes of them.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use farcc_proto::twin;
use farcc_proto::twin::change::Now;

use crate::digest::Digest;
use crate::digest::DigestFunction;
use crate::mirror::Change;
use crate::mirror::InvalidPath;
use crate::mirror::Node;
use crate::mirror::RootedChange;
use crate::mirror::TreePath;

/// Changes in one message, at most.
pub const MOST_CHANGES: usize = 10_000;

/// `PATH_MAX` of Linux, in bytes.
const LONGEST_TARGET_BYTES: usize = 4096;

/// Why a message is no change.
#[derive(Debug, thiserror::Error)]
pub enum InvalidChange {
    /// Its path leads elsewhere.
    #[error(transparent)]
    Path(#[from] InvalidPath),
    /// There is no such root.
    #[error("there is no root {0}")]
    Root(u32),
    /// Its digest is none of the session's function.
    #[error("the digest of {0} is damaged")]
    Digest(TreePath),
    /// It has bits besides permissions.
    #[error("{0} has mode {1:o}")]
    Mode(TreePath, u32),
    /// Its target is empty, too long or has a NUL in it.
    #[error("{0} is a symlink that leads nowhere")]
    Target(TreePath),
    /// It is no file, and yet was written.
    #[error("{0} has a rank and is no file")]
    Rank(TreePath),
}

/// As they are sent; of the times of writing, only the order.
pub fn encode(changes: &[RootedChange]) -> Vec<twin::Change> {
    let times: BTreeSet<i128> = changes.iter().filter_map(|rooted| rooted.change.written).collect();
    let ranks: BTreeMap<i128, u32> = times.into_iter().zip(1..).collect();
    let encode_one = |RootedChange { root, change }: &RootedChange| twin::Change {
        root: *root,
        path: change.path.as_bytes().to_vec(),
        now: change.now.as_ref().map(encode_node),
        rank: change.written.and_then(|written| ranks.get(&written).copied()).unwrap_or(0),
    };
    changes.iter().map(encode_one).collect()
}

fn encode_node(node: &Node) -> Now {
    match node {
        Node::Directory { mode } => Now::Directory(twin::Directory { mode: mode & 0o777 }),
        Node::File { digest, mode } => {
            Now::File(twin::File { digest: Some(encode_digest(digest)), mode: mode & 0o777 })
        }
        Node::Link { target } => Now::Link(twin::Link { target: target.as_bytes().to_vec() }),
    }
}

/// A digest as it is sent.
pub fn encode_digest(digest: &Digest) -> twin::Digest {
    twin::Digest { hash: digest.hash().to_vec(), size_bytes: digest.size_bytes() }
}

/// A digest of this function that was sent; None: it is none.
pub fn decode_digest(function: DigestFunction, digest: &twin::Digest) -> Option<Digest> {
    Digest::from_hash(function, &digest.hash, digest.size_bytes)
}

/// Reads a change of one of `roots` roots, in a session with that digest function.
///
/// # Errors
/// [`InvalidChange`]: the sender is mistaken, or hostile.
pub fn decode(
    function: DigestFunction,
    roots: u32,
    message: &twin::Change,
) -> Result<RootedChange, InvalidChange> {
    let path = TreePath::parse(&message.path)?;
    if message.root >= roots {
        return Err(InvalidChange::Root(message.root));
    }
    let now = match &message.now {
        None => None,
        Some(now) => Some(decode_node(function, &path, now)?),
    };
    let is_file = matches!(now, Some(Node::File { .. }));
    let written = (message.rank > 0).then(|| i128::from(message.rank));
    if written.is_some() && !is_file {
        return Err(InvalidChange::Rank(path));
    }
    Ok(RootedChange { root: message.root, change: Change { path, now, written } })
}

fn decode_node(function: DigestFunction, path: &TreePath, now: &Now) -> Result<Node, InvalidChange> {
    let permissions = |mode: u32| match mode & !0o777 {
        0 => Ok(mode),
        _ => Err(InvalidChange::Mode(path.clone(), mode)),
    };
    Ok(match now {
        Now::Directory(directory) => Node::Directory { mode: permissions(directory.mode)? },
        Now::File(file) => {
            let digest = file.digest.as_ref().and_then(|digest| decode_digest(function, digest));
            let digest = digest.ok_or_else(|| InvalidChange::Digest(path.clone()))?;
            Node::File { digest, mode: permissions(file.mode)? }
        }
        Now::Link(link) => {
            let target = &link.target;
            if target.is_empty() || target.len() >= LONGEST_TARGET_BYTES || target.contains(&0) {
                return Err(InvalidChange::Target(path.clone()));
            }
            Node::Link { target: OsStr::from_bytes(target).to_owned() }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, written: Option<i128>) -> RootedChange {
        let now = Some(Node::File { digest: Digest::of(path.as_bytes()), mode: 0o640 });
        let path = TreePath::parse(path.as_bytes()).unwrap();
        RootedChange { root: 1, change: Change { path, now, written } }
    }

    fn other(path: &[u8], now: Option<Node>) -> RootedChange {
        RootedChange { root: 0, change: Change { path: TreePath::parse(path).unwrap(), now, written: None } }
    }

    #[test]
    fn changes_arrive_as_they_were_but_for_the_clock() {
        let changes = [
            file("late", Some(5_000)),
            file("early", Some(-3)),
            file("at once", Some(5_000)),
            file("other permissions", None),
            other(b"\xff\n", Some(Node::Link { target: OsStr::from_bytes(b"../\xfe").to_owned() })),
            other(b"", Some(Node::Directory { mode: 0o755 })),
            other(b"gone", None),
        ];
        let sent = encode(&changes);
        let arrived = sent.iter().map(|change| decode(DigestFunction::Sha256, 2, change).unwrap());
        let mut expected = changes;
        for (change, rank) in expected.iter_mut().zip([2, 1, 2]) {
            change.change.written = Some(rank);
        }
        assert_eq!(arrived.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_is_no_change_is_refused() {
        let good = encode(&[file("a", Some(1))]).remove(0);
        let damaged = |damage: &dyn Fn(&mut twin::Change)| {
            let mut change = good.clone();
            damage(&mut change);
            decode(DigestFunction::Sha256, 2, &change).map_err(|error| error.to_string())
        };
        let digest = |hash: &[u8]| Some(twin::Digest { hash: hash.to_vec(), size_bytes: 1 });
        let link = |target: &[u8]| Some(Now::Link(twin::Link { target: target.to_vec() }));
        assert!(damaged(&|_| ()).is_ok());
        for (damage, expected) in [
            (&|change: &mut twin::Change| change.path = b"../a".to_vec()) as &dyn Fn(&mut twin::Change),
            &|change| change.root = 2,
            &|change| change.now = Some(Now::File(twin::File { digest: None, mode: 0o644 })),
            &|change| change.now = Some(Now::File(twin::File { digest: digest(&[1; 20]), mode: 0o644 })),
            &|change| change.now = Some(Now::File(twin::File { digest: digest(&[1; 32]), mode: 0o4755 })),
            &|change| change.now = Some(Now::Directory(twin::Directory { mode: 0o1777 })),
            &|change| change.now = link(b""),
            &|change| change.now = link(b"a\0b"),
            &|change| change.now = link(&[b'a'; 4096]),
            &|change| change.now = link(b"a"),
            &|change| change.now = None,
        ]
        .into_iter()
        .zip([
            "\"../a\" is no path below a root",
            "there is no root 2",
            "the digest of a is damaged",
            "the digest of a is damaged",
            "a has mode 4755",
            "a has mode 1777",
            "a is a symlink that leads nowhere",
            "a is a symlink that leads nowhere",
            "a is a symlink that leads nowhere",
            "a has a rank and is no file",
            "a has a rank and is no file",
        ]) {
            assert_eq!(damaged(damage).unwrap_err(), expected);
        }
    }
}
