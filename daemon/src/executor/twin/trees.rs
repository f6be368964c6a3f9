//! The client's side of a workspace's files: what has changed in them, and what the twin's commands have changed.
//! Knows nothing of connections.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use crate::contents::FromStore;
use crate::digest::Digest;
use crate::executor::twin::recent::LARGEST_BYTES;
use crate::executor::twin::recent::Recent;
use crate::mirror::Change;
use crate::mirror::InstallError;
use crate::mirror::KnownFile;
use crate::mirror::LookError;
use crate::mirror::Manner;
use crate::mirror::Node;
use crate::mirror::RootedChange;
use crate::mirror::Snapshot;
use crate::mirror::TreePath;
use crate::mirror::Unsent;
use crate::mirror::install;
use crate::owner::Owned;
use crate::store::Store;

/// What the twin has been told of a workspace.
pub(super) struct Trees {
    roots: Arc<[PathBuf]>,
    trees: Vec<Snapshot>,
    /// In which batch a path was last told of.
    told: BTreeMap<(u32, TreePath), u64>,
    sequence: u64,
    recent: Recent,
    /// When there will be time; None: there is nothing to be done then.
    idle_at: Option<Instant>,
}

/// What has changed since the last look, or all that there is.
pub(super) struct Seen {
    /// The number of the batch that tells it: that of the last one if nothing has changed.
    pub(super) sequence: u64,
    /// Whether there is such a batch to be told.
    pub(super) is_new: bool,
    /// Whether it tells of all that there is.
    pub(super) is_whole: bool,
    /// What is in it.
    pub(super) changes: Vec<RootedChange>,
    /// What cannot be told.
    pub(super) unsent: Vec<(u32, Unsent)>,
    /// When the look began, as [`Snapshot::present`] tells it.
    pub(super) began_at: Option<i128>,
}

/// Why a command's changes were not put into place, or not all.
#[derive(Debug, thiserror::Error)]
pub(super) enum PutError {
    /// These were changed here while the command ran. Nothing was put into place.
    #[error("{} was changed here while the command changed it on the twin", .0.display())]
    Meanwhile(PathBuf),
    /// See there.
    #[error(transparent)]
    Install(#[from] InstallError),
}

/// How long nothing has to be asked before there is time for what can wait.
const IDLE: Duration = Duration::from_millis(300);

/// Of the files that a look finds changed, so many are the ones that somebody may still be writing.
const MOST_RECENT: usize = 100;

/// Files that the kernel is asked to watch at a time: some milliseconds.
const WATCHED_AT_A_TIME: usize = 1000;

impl Owned for Trees {
    fn due(&self) -> Option<Duration> {
        self.idle_at.map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// Has the kernel tell of what happens to files, so that the next look need not look at them.
    fn on_idle(&mut self) {
        let mut watched = 0;
        for tree in &mut self.trees {
            watched += tree.watch(WATCHED_AT_A_TIME - watched);
        }
        // There may be more; but not before whoever waits.
        self.idle_at = (watched == WATCHED_AT_A_TIME).then(Instant::now);
    }
}

impl Trees {
    /// Nothing is known, and nothing told.
    pub(super) fn new(roots: &[PathBuf]) -> Trees {
        let roots: Arc<[PathBuf]> = roots.into();
        let mut trees = Trees {
            trees: Vec::new(),
            roots,
            told: BTreeMap::new(),
            sequence: 0,
            recent: Recent::default(),
            idle_at: None,
        };
        trees.forget();
        trees
    }

    /// Whoever was told is gone: the next look shows all that there is.
    pub(super) fn forget(&mut self) {
        let numbered = (0..).zip(self.roots.iter());
        self.trees =
            numbered.map(|(root, path)| Snapshot::new(path.clone(), Arc::clone(&self.roots), root)).collect();
        self.told.clear();
        self.sequence = 0;
    }

    /// Looks at the files.
    pub(super) fn look(&mut self) -> Result<Seen, LookError> {
        self.idle_at = Some(Instant::now() + IDLE);
        let began_at = self.trees.iter().map(Snapshot::present).collect::<Option<Vec<_>>>();
        let began_at = began_at.and_then(|moments| moments.into_iter().max());
        let (mut changes, mut unsent) = (Vec::new(), Vec::new());
        let mut is_whole = self.sequence == 0;
        for (root, tree) in (0..).zip(&mut self.trees) {
            let looked = tree.look()?;
            is_whole |= looked.is_ruled_anew;
            changes.extend(looked.changes.into_iter().map(|change| RootedChange { root, change }));
            unsent.extend(looked.unsent.into_iter().map(|unsent| (root, unsent)));
        }
        self.keep_recent(&changes);
        let is_new = is_whole || !changes.is_empty();
        if is_new {
            self.sequence += 1;
            let told =
                changes.iter().map(|rooted| ((rooted.root, rooted.change.path.clone()), self.sequence));
            // The first batch has no command before it.
            self.told.extend(told.filter(|(_, sequence)| *sequence > 1));
        }
        if is_whole {
            let all = (0..).zip(&self.trees).flat_map(|(root, tree)| {
                tree.all().into_iter().map(move |change| RootedChange { root, change })
            });
            // What rules leave out there would stay, and rules that a command has written are there already.
            changes.retain(|rooted| rooted.change.now.is_none());
            changes.extend(all);
        }
        Ok(Seen { sequence: self.sequence, is_new, is_whole, changes, unsent, began_at })
    }

    /// Forgets which paths were told of in batches that every command under way has seen.
    pub(super) fn forget_seen(&mut self, oldest: Option<u64>) {
        match oldest {
            None => self.told.clear(),
            Some(oldest) => self.told.retain(|_, sequence| *sequence > oldest),
        }
    }

    /// Those of the contents that are neither in the workspace nor in the store.
    pub(super) fn lacking(&self, changes: &[RootedChange], store: &Store) -> Vec<Digest> {
        let wanted: HashSet<_> = changes.iter().filter_map(|rooted| rooted.change.content()).collect();
        let wanted: Vec<_> = wanted.into_iter().filter(|digest| !store.contains(digest)).collect();
        let found = self.find(&wanted);
        // A file that somebody has changed since has its content no more.
        let is_here = |digest: &Digest| found.get(digest).is_some_and(|file| file.open().is_ok());
        wanted.into_iter().filter(|digest| !is_here(digest)).collect()
    }

    /// Puts into place what a command has changed that had seen the batch `after`, and so what was there at `seen_at`.
    pub(super) fn put(
        &mut self,
        changes: &[RootedChange],
        after: u64,
        seen_at: Option<i128>,
        store: &Store,
    ) -> Result<(), PutError> {
        for RootedChange { root, change } in changes {
            let is_meanwhile =
                |path: &TreePath| self.told.get(&(*root, path.clone())).is_some_and(|told| *told > after);
            if is_meanwhile(&change.path) && !self.is_so(*root, change) {
                return Err(PutError::Meanwhile(self.path(*root, &change.path)));
            }
            // What something is to come into was removed.
            let mut above = std::iter::successors(change.path.parent(), TreePath::parent);
            let is_removed = |path: &TreePath| is_meanwhile(path) && !self.is_directory(*root, path);
            if change.now.is_some()
                && let Some(removed) = above.find(is_removed)
            {
                return Err(PutError::Meanwhile(self.path(*root, &removed)));
            }
        }
        let wanted: Vec<_> = changes.iter().filter_map(|rooted| rooted.change.content()).collect();
        let contents = FromStore { store, trees: self.find(&wanted) };
        Ok(install(&mut self.trees, changes, &contents, Manner::Workspace { seen_at })?)
    }

    fn is_so(&self, root: u32, change: &Change) -> bool {
        self.tree(root).is_some_and(|tree| tree.node(&change.path) == change.now)
    }

    fn is_directory(&self, root: u32, path: &TreePath) -> bool {
        self.tree(root).is_some_and(|tree| matches!(tree.node(path), Some(Node::Directory { .. })))
    }

    fn tree(&self, root: u32) -> Option<&Snapshot> {
        usize::try_from(root).ok().and_then(|root| self.trees.get(root))
    }

    /// Where a path is on this machine.
    pub(super) fn path(&self, root: u32, path: &TreePath) -> PathBuf {
        let root = usize::try_from(root).ok().and_then(|root| self.roots.get(root));
        root.map_or_else(|| path.as_path().to_owned(), |root| path.below(root))
    }

    /// Keeps what was written last.
    fn keep_recent(&mut self, changes: &[RootedChange]) {
        let file = |rooted: &RootedChange| Some((rooted.change.written?, rooted.change.content()?));
        let mut files: Vec<_> = changes.iter().filter_map(file).collect();
        files.retain(|(_, digest)| digest.size_bytes() <= LARGEST_BYTES);
        files.sort_by_key(|(written, _)| std::cmp::Reverse(*written));
        files.truncate(MOST_RECENT);
        let digests: Vec<_> = files.into_iter().map(|(_, digest)| digest).collect();
        for (digest, known) in if digests.is_empty() { HashMap::new() } else { self.find(&digests) } {
            self.recent.keep(digest, &known);
        }
    }

    /// Those of the contents that were written lately, whatever has become of them.
    pub(super) fn recent(&self, digests: &[Digest]) -> HashMap<Digest, Arc<[u8]>> {
        digests.iter().filter_map(|digest| Some((*digest, self.recent.get(digest)?))).collect()
    }

    /// Those of the contents that are somewhere in the workspace.
    pub(super) fn find(&self, digests: &[Digest]) -> HashMap<Digest, KnownFile> {
        self.trees.iter().flat_map(|tree| tree.find(digests)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_comes_into_a_directory_that_was_removed_meanwhile_is_a_conflict() {
        let space = tempfile::tempdir().unwrap();
        let root = space.path().canonicalize().unwrap();
        let store = Store::open(&space.path().join("store"), 1 << 20).unwrap();
        let directory = |name: &str| Change {
            path: TreePath::parse(name.as_bytes()).unwrap(),
            now: Some(Node::Directory { mode: 0o755 }),
            written: None,
        };
        let root = root.join("work");
        for (is_seen, made) in [(false, "d/new"), (true, "d/new"), (true, "d/e/new")] {
            fs::create_dir_all(root.join("d/e")).unwrap();
            let mut trees = Trees::new(std::slice::from_ref(&root));
            let seen = trees.look().unwrap();
            fs::remove_dir_all(root.join("d")).unwrap();
            if is_seen {
                trees.look().unwrap();
            }
            let changes = [RootedChange { root: 0, change: directory(made) }];
            let conflict = trees.put(&changes, seen.sequence, seen.began_at, &store).unwrap_err();
            let path = match conflict {
                PutError::Meanwhile(path) | PutError::Install(InstallError::Conflict(path)) => path,
                PutError::Install(error) => panic!("{error}"),
            };
            assert!(root.join(made).starts_with(&path) && path != root.join(made), "{}", path.display());
            assert!(!root.join("d").exists());
        }
    }

    #[test]
    fn what_was_told_of_a_log_can_be_sent_when_more_stands_in_it() {
        let space = tempfile::tempdir().unwrap();
        let root = space.path().canonicalize().unwrap();
        let mut trees = Trees::new(std::slice::from_ref(&root));
        fs::write(root.join("log"), "one\n").unwrap();
        fs::write(root.join("large"), vec![b'x'; 300 << 10]).unwrap();
        trees.look().unwrap();
        fs::write(root.join("log"), "one\ntwo\n").unwrap();
        fs::write(root.join("large"), "small").unwrap();
        let [one, two] = [b"one\n".as_slice(), b"one\ntwo\n"].map(Digest::of);
        for _ in 0..2 {
            let recent = trees.recent(&[one, Digest::of(&vec![b'x'; 300 << 10])]);
            assert_eq!(recent.len(), 1);
            assert_eq!(&*recent[&one], b"one\n");
            trees.look().unwrap();
        }
        assert_eq!(&*trees.recent(&[two])[&two], b"one\ntwo\n");
        assert!(trees.find(&[one]).is_empty());
    }
}
