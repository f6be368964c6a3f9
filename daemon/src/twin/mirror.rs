//! The mirror of one workspace: what is in it, the overlays over it, and the one thread that changes it.
//! Knows nothing of clients, nor of what commands do.
//!
//! All that is done to a mirror is done by its thread, one thing after the other: an overlay is never mounted between two renames
//! of one commit, and nothing has to be locked.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::HashSet;
use std::fs;
use std::fs::File;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use crate::contents::FromStore;
use crate::digest::Digest;
use crate::files::Fingerprint;
use crate::mirror::Change;
use crate::mirror::IgnoreRules;
use crate::mirror::InstallError;
use crate::mirror::KnownFile;
use crate::mirror::LookError;
use crate::mirror::Manner;
use crate::mirror::Node;
use crate::mirror::Patterns;
use crate::mirror::RootedChange;
use crate::mirror::Snapshot;
use crate::mirror::TreePath;
use crate::mirror::install;
use crate::owner::Owned;
use crate::owner::Owner;
use crate::store::Store;
use crate::twin::By;
use crate::twin::Commit;
use crate::twin::FromCommand;
use crate::twin::Generation;
use crate::twin::Ground;
use crate::twin::Held;
use crate::twin::Overlay;
use crate::twin::Touched;
use crate::twin::Upper;
use crate::twin::whole::changes_to;

/// For how long names that running overlays have cached may be those of a moment ago: only commands that run long look twice.
const STALE: Duration = Duration::from_millis(50);

/// Why a mirror cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// Its directories cannot be made or used.
    #[error("{0}: {1}")]
    Directory(String, io::Error),
    /// The system refuses it a thread.
    #[error("start a thread: {0}")]
    Thread(#[from] io::Error),
    /// What is in it cannot be read.
    #[error(transparent)]
    Look(#[from] LookError),
    /// Changes could not be put into it, or not all: nobody knows any more what is in it.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// It was given up.
    #[error("the mirror was given up")]
    Gone,
}

/// A mirror, from another thread.
pub struct Mirror {
    keeper: Owner<Keeper>,
}

/// What a command works in.
pub struct View {
    /// Tells the commands of a mirror apart.
    pub number: u64,
    /// By root: where the overlay is mounted.
    pub mounts: Vec<PathBuf>,
    /// What the client wants to have of what the command makes; None: all of it.
    fetch: Option<Patterns>,
    began: Generation,
    started: i128,
    /// For the command alone: holds the overlays' directories.
    scratch: PathBuf,
}

/// What a command has left behind, read and digested.
pub struct Left {
    view: View,
    uppers: Vec<Upper>,
    /// By root.
    digests: Vec<HashMap<TreePath, Digest>>,
}

/// What has become of a command's changes.
#[derive(Default)]
pub struct Committed {
    /// What was changed and the client is to be told; the mirror has it all.
    pub changes: Vec<RootedChange>,
    /// How many files the mirror has now that the client was not told of although no rule leaves them out, and their size together in
    /// bytes.
    pub kept: (u64, u64),
    /// Which of all commits with changes it is, from 1 on; 0: there are no changes.
    pub number: u64,
    /// If there are any, nothing is in the mirror.
    pub conflicts: Vec<(u32, TreePath)>,
    /// Symlinks that lead out of the workspace, by a command that is no build. If there are any, nothing is in the mirror.
    pub outward: Vec<(u32, TreePath)>,
    /// What cannot be sent.
    pub unsent: Vec<(u32, TreePath)>,
}

impl Mirror {
    /// The mirror in `directory` of a workspace with these roots at its client's; what it has already is looked at.
    ///
    /// # Errors
    /// [`MirrorError`].
    pub async fn open(directory: PathBuf, roots: Vec<PathBuf>) -> Result<Mirror, MirrorError> {
        let keeper = Owner::start("mirror", move || Keeper::open(&directory, roots)).await?;
        Ok(Mirror { keeper })
    }

    async fn with<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Keeper) -> T + Send + 'static,
    ) -> Result<T, MirrorError> {
        self.keeper.with(act).await.map_err(|_| MirrorError::Gone)
    }

    /// How many files there are, and their size in bytes.
    ///
    /// # Errors
    /// [`MirrorError`].
    pub async fn size(&self) -> Result<(u64, u64), MirrorError> {
        self.with(|keeper| keeper.size()).await
    }

    /// Those contents that are nowhere in the mirror.
    ///
    /// # Errors
    /// [`MirrorError`].
    pub async fn lacking(&self, digests: HashSet<Digest>) -> Result<Vec<Digest>, MirrorError> {
        self.with(move |keeper| {
            let wanted: Vec<_> = digests.into_iter().collect();
            let found = keeper.find(&wanted);
            wanted.into_iter().filter(|digest| !found.contains_key(digest)).collect()
        })
        .await
    }

    /// Puts a batch of the client's into place. `is_whole`: what it does not name is to go. The store has the contents that the
    /// mirror has not.
    ///
    /// # Errors
    /// [`MirrorError`]: it may be there in part.
    pub async fn apply(
        &self,
        batch: Vec<RootedChange>,
        is_whole: bool,
        store: Store,
    ) -> Result<(), MirrorError> {
        self.with(move |keeper| keeper.apply(&batch, is_whole, &store)).await?
    }

    /// Mounts overlays for one more command. `fetch`: what the client wants to have of what it makes; None: all of it.
    ///
    /// # Errors
    /// [`MirrorError`].
    pub async fn begin(&self, fetch: Option<Patterns>) -> Result<View, MirrorError> {
        self.with(|keeper| keeper.begin(fetch)).await?
    }

    /// Forgets a command, none of whose processes is left, and all that it has changed.
    pub async fn abandon(&self, view: View) {
        let scratch = view.scratch;
        // A mirror that is gone has no overlays.
        let overlays = self.with(move |keeper| keeper.running.remove(&view.number)).await;
        // It may be much, and nobody waits for it.
        tokio::task::spawn_blocking(move || {
            drop(overlays);
            remove(&scratch);
        });
    }

    /// Reads what a command has left, none of whose processes is left.
    ///
    /// # Errors
    /// [`MirrorError`]: then nothing of it is in the mirror.
    pub async fn end(&self, view: View) -> Result<Left, MirrorError> {
        let number = view.number;
        // It is still under way: what neighbours change from now on matters until it is committed.
        let take = move |keeper: &mut Keeper| keeper.running.get_mut(&number).map(Running::take);
        let overlays = self.with(take).await?.ok_or(MirrorError::Gone)?;
        let read = tokio::task::spawn_blocking(move || Left::read(view, overlays)).await;
        let read = read.unwrap_or(Err(MirrorError::Gone));
        if read.is_err() {
            self.with(move |keeper| drop(keeper.running.remove(&number))).await?;
        }
        read
    }

    /// Opens those of the contents that are somewhere in the mirror, as long as there are descriptors for them.
    ///
    /// # Errors
    /// [`MirrorError`].
    pub async fn open_all(&self, digests: Vec<Digest>) -> Result<Vec<(Digest, File)>, MirrorError> {
        self.with(move |keeper| keeper.open_all(&digests)).await
    }

    /// The files whose content the client has nowhere, and is to have.
    ///
    /// # Errors
    /// [`MirrorError`].
    pub async fn fresh(&self, left: Left) -> Result<(Left, Vec<RootedChange>), MirrorError> {
        self.with(|keeper| {
            let fresh = keeper.fresh(&left)?;
            Ok((left, fresh))
        })
        .await?
    }

    /// Puts into the mirror what a command has changed, unless it conflicts with what others have.
    ///
    /// # Errors
    /// [`MirrorError`]: it may be there in part.
    pub async fn commit(&self, left: Left) -> Result<Committed, MirrorError> {
        let scratch = left.view.scratch.clone();
        let committed = self.with(move |keeper| keeper.commit(&left)).await?;
        tokio::task::spawn_blocking(move || remove(&scratch));
        committed
    }

    /// The client has put its share of all commits up to this one into place.
    ///
    /// # Errors
    /// [`MirrorError`].
    pub async fn placed(&self, commit: u64) -> Result<(), MirrorError> {
        self.with(move |keeper| keeper.held.placed(commit)).await
    }

    /// Ends its thread: nothing is done to it any more. Returns the size of what is in it, in bytes.
    ///
    /// # Errors
    /// [`MirrorError::Gone`] if it has ended.
    pub async fn close(&self) -> Result<u64, MirrorError> {
        let size = self.size().await;
        self.keeper.end();
        Ok(size?.1)
    }
}

impl View {
    /// Whether the command is a whole build.
    pub fn is_of_build(&self) -> bool {
        self.fetch.is_some()
    }

    /// The directories in which everything is that the command has written.
    pub fn written_in(&self) -> Vec<PathBuf> {
        (0..self.mounts.len()).map(|root| self.scratch.join(root.to_string()).join("upper")).collect()
    }
}

impl Left {
    /// Opens a file that the command has written.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(&self, root: u32, path: &TreePath) -> io::Result<File> {
        let upper = usize::try_from(root).ok().and_then(|root| self.uppers.get(root));
        upper.ok_or(io::ErrorKind::NotFound)?.open(path)
    }

    fn read(view: View, overlays: Vec<Overlay>) -> Result<Left, MirrorError> {
        let failed = |error| MirrorError::Directory("read what a command has changed".to_owned(), error);
        let uppers: Vec<_> =
            overlays.into_iter().map(Overlay::end).collect::<Result<_, _>>().map_err(failed)?;
        let digests = uppers.iter().map(Upper::digests).collect::<Result<_, _>>().map_err(failed)?;
        Ok(Left { view, uppers, digests })
    }
}

struct Keeper {
    /// By root: the directory of the mirror, and where commands' files are until they are committed.
    directories: Vec<PathBuf>,
    scratch: PathBuf,
    /// By root.
    trees: Vec<Snapshot>,
    held: Held,
    touched: Touched,
    running: BTreeMap<u64, Running>,
    next_number: u64,
    /// How many commands have changed something.
    commits: u64,
    /// Since when there are overlays that have to forget names.
    stale_since: Option<Instant>,
}

struct Running {
    /// None any more when its processes have ended.
    overlays: Vec<Overlay>,
    began: Generation,
}

impl Running {
    fn take(&mut self) -> Vec<Overlay> {
        std::mem::take(&mut self.overlays)
    }
}

impl Owned for Keeper {
    fn due(&self) -> Option<Duration> {
        self.stale_since.map(|since| STALE.saturating_sub(since.elapsed()))
    }

    /// Lets running commands see what has changed.
    fn on_idle(&mut self) {
        self.stale_since = None;
        for overlay in self.running.values().flat_map(|running| &running.overlays) {
            if let Err(error) = overlay.refresh() {
                tracing::warn!("a running command may see files as they were: {error}");
            }
        }
    }
}

impl Keeper {
    fn open(directory: &Path, roots: Vec<PathBuf>) -> Result<Keeper, MirrorError> {
        let failed = |doing: &str, at: &Path| {
            let doing = format!("{doing} {}", at.display());
            move |error| MirrorError::Directory(doing, error)
        };
        let scratch = directory.join("scratch");
        // What commands of an earlier life have left belongs to nobody.
        remove(&scratch);
        fs::create_dir_all(&scratch).map_err(failed("make", &scratch))?;
        let staging = scratch.join("staging");
        fs::create_dir(&staging).map_err(failed("make", &staging))?;
        let directories: Vec<_> =
            (0..roots.len()).map(|root| directory.join("roots").join(root.to_string())).collect();
        let mut trees = Vec::new();
        for root in &directories {
            fs::create_dir_all(root).map_err(failed("make", root))?;
            let mut tree = Snapshot::whole(root.clone(), staging.clone());
            tree.look()?;
            trees.push(tree);
        }
        Ok(Keeper {
            directories,
            scratch,
            trees,
            held: Held::open(directory.join("held"), roots),
            touched: Touched::default(),
            running: BTreeMap::new(),
            next_number: 0,
            commits: 0,
            stale_since: None,
        })
    }

    /// The mirror has become another.
    fn changed(&mut self, by: By, changes: &[RootedChange]) {
        if changes.is_empty() {
            return;
        }
        self.touched.note(by, changes);
        self.touched.forget_seen(self.running.values().map(|running| running.began).min());
        if !self.running.is_empty() {
            self.stale_since.get_or_insert_with(Instant::now);
        }
    }

    fn size(&self) -> (u64, u64) {
        let sizes = self.trees.iter().map(|tree| (tree.len() as u64, tree.size_bytes()));
        sizes.fold((0, 0), |(files, bytes), (more, size)| (files + more, bytes + size))
    }

    fn find(&self, digests: &[Digest]) -> HashMap<Digest, KnownFile> {
        self.trees.iter().flat_map(|tree| tree.find(digests)).collect()
    }

    fn apply(&mut self, batch: &[RootedChange], is_whole: bool, store: &Store) -> Result<(), MirrorError> {
        if !is_whole {
            self.held.apply(batch, Vec::new());
            return self.put(batch, store);
        }
        self.put_whole(batch, now(), store)?;
        // By the rules that hold now, more may have to go.
        self.put_whole(batch, i128::MAX, store)
    }

    /// Makes the mirror like the client's whole tree, but for what it holds and what rules leave out.
    fn put_whole(&mut self, batch: &[RootedChange], now: i128, store: &Store) -> Result<(), MirrorError> {
        let mut ignored = self.ignored()?;
        let named: HashSet<_> = batch.iter().map(|rooted| (rooted.root, &rooted.change.path)).collect();
        let mut stays = |root, path: &TreePath, is_directory| {
            self.held.contains_below(root, path, &named) || ignored.leave_out(root, path, is_directory)
        };
        let (changes, around) = changes_to(&self.trees, batch, &mut stays, now);
        self.held.apply(batch, around);
        self.held.apply(&changes, Vec::new());
        self.put(&changes, store)
    }

    /// Puts changes of the client's into place.
    fn put(&mut self, changes: &[RootedChange], store: &Store) -> Result<(), MirrorError> {
        let wanted: Vec<_> = changes.iter().filter_map(|rooted| rooted.change.content()).collect();
        let contents = FromStore { store, trees: self.find(&wanted) };
        install(&mut self.trees, changes, &contents, Manner::Mirror)?;
        self.changed(By::Client, changes);
        Ok(())
    }

    fn begin(&mut self, fetch: Option<Patterns>) -> Result<View, MirrorError> {
        self.next_number += 1;
        let number = self.next_number;
        let scratch = self.scratch.join(number.to_string());
        let failed = |error| MirrorError::Directory("mount an overlay".to_owned(), error);
        let (mut overlays, mut mounts) = (Vec::new(), Vec::new());
        for (root, directory) in self.directories.iter().enumerate() {
            let own = scratch.join(root.to_string());
            let at = own.join("merged");
            fs::create_dir_all(&at).map_err(failed)?;
            let mut overlay = Overlay::new(directory, &own).map_err(failed)?;
            overlay.attach(&at).map_err(failed)?;
            overlays.push(overlay);
            mounts.push(at);
        }
        let started = Fingerprint::of(&scratch).map_err(failed)?.changed_nanos();
        let began = self.touched.now();
        self.running.insert(number, Running { overlays, began });
        Ok(View { number, mounts, fetch, began, started, scratch })
    }

    fn commit(&mut self, left: &Left) -> Result<Committed, MirrorError> {
        let Left { view, uppers, digests } = left;
        self.running.remove(&view.number);
        let mut commits = Vec::new();
        for (root, ((tree, upper), digests)) in (0..).zip(self.trees.iter().zip(uppers).zip(digests)) {
            let View { began, started, .. } = *view;
            let ground = Ground { root, mirror: tree, touched: &self.touched, began, started };
            commits.push(Commit::new(&upper.entries, digests, &ground));
        }
        let all = |of: fn(&Commit) -> &Vec<TreePath>| {
            let rooted = (0..).zip(&commits);
            rooted
                .flat_map(|(root, commit)| of(commit).iter().map(move |path| (root, path.clone())))
                .collect()
        };
        let conflicts: Vec<_> = all(|commit| &commit.conflicts);
        let unsent: Vec<_> = all(|commit| &commit.unsent);
        if !conflicts.is_empty() {
            return Ok(Committed { conflicts, unsent, ..Committed::default() });
        }
        let changes: Vec<_> = (0..)
            .zip(&commits)
            .flat_map(|(root, commit)| {
                commit.changes.values().map(move |change| RootedChange { root, change: change.clone() })
            })
            .collect();
        let shares = self.held.divide(&changes, &self.trees, view.fetch.as_ref());
        // What rules leave out, the client does not hear of.
        let mut ignored = self.ignored()?;
        let is_ours = |(root, path): &&(u32, TreePath)| !ignored.leave_out(*root, path, false);
        let outward: Vec<_> = shares.outward.iter().filter(is_ours).cloned().collect();
        if !view.is_of_build() && !outward.is_empty() {
            return Ok(Committed { outward, unsent, ..Committed::default() });
        }
        let unsent = [outward, unsent].concat();
        // The client is to say when it has its share, also if that is nothing.
        let number = if shares.told.is_empty() && shares.kept.is_empty() { 0 } else { self.commits + 1 };
        self.held.commit(&shares, number);
        let contents = FromCommand { uppers, commits: &commits, mirror: &self.directories };
        install(&mut self.trees, &changes, &contents, Manner::Commit)?;
        self.changed(By::Command, &changes);
        // By the rules as they are now: the command may have written some.
        let mut ignored = self.ignored()?;
        let mut is_ours = |rooted: &RootedChange| !ignored.leave_out_change(rooted);
        let changes: Vec<_> = shares.told.into_iter().filter(&mut is_ours).collect();
        let sizes = shares.kept.iter().filter(|rooted| is_ours(rooted));
        let sizes = sizes.filter_map(|rooted| Some(rooted.change.content()?.size_bytes()));
        let kept = sizes.fold((0, 0), |(files, bytes), size| (files + 1, bytes + size));
        self.commits = self.commits.max(number);
        Ok(Committed { changes, kept, number, unsent, ..Committed::default() })
    }

    /// Files that a command has written and the client is to have, whose content is nowhere in the mirror: one for each.
    fn fresh(&self, left: &Left) -> Result<Vec<RootedChange>, MirrorError> {
        let mut ignored = self.ignored()?;
        let mut written = HashMap::new();
        for (root, (upper, digests)) in (0..).zip(left.uppers.iter().zip(&left.digests)) {
            for entry in &upper.entries {
                let Some(digest) = digests.get(&entry.path) else { continue };
                let now = Some(Node::File { digest: *digest, mode: 0 });
                let change = Change { path: entry.path.clone(), now, written: None };
                let rooted = RootedChange { root, change };
                let fetch = left.view.fetch.as_ref();
                let is_wanted = self.held.is_wanted(root, &entry.path, false, &self.trees, fetch);
                if is_wanted && !ignored.leave_out_change(&rooted) {
                    written.entry(*digest).or_insert(rooted);
                }
            }
        }
        let digests: Vec<_> = written.keys().copied().collect();
        for (root, tree) in (0..).zip(&self.trees) {
            let known = tree.find(&digests).into_iter();
            known.filter(|(_, file)| !self.held.contains(root, file.in_tree())).for_each(|(digest, _)| {
                written.remove(&digest);
            });
        }
        Ok(written.into_values().collect())
    }

    /// Opens those of the contents that are somewhere in the mirror.
    fn open_all(&self, digests: &[Digest]) -> Vec<(Digest, File)> {
        let found = self.find(digests).into_iter();
        found.filter_map(|(digest, known)| Some((digest, known.open().ok()?))).collect()
    }

    fn ignored(&self) -> Result<IgnoredAll, MirrorError> {
        let of = |directory: &PathBuf| IgnoreRules::of(directory.clone());
        let rules: Result<_, _> = self.directories.iter().map(of).collect();
        Ok(IgnoredAll(rules.map_err(|error| MirrorError::Directory("read the mirror".to_owned(), error))?))
    }
}

/// In nanoseconds since 1970.
fn now() -> i128 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i128::try_from(since.as_nanos()).unwrap_or(i128::MAX)
}

/// What is none of the client's business, by root.
struct IgnoredAll(Vec<IgnoreRules>);

impl IgnoredAll {
    fn leave_out(&mut self, root: u32, path: &TreePath, is_directory: bool) -> bool {
        let ignored = usize::try_from(root).ok().and_then(|root| self.0.get_mut(root));
        ignored.is_some_and(|ignored| ignored.leaves_out(path, is_directory))
    }

    fn leave_out_change(&mut self, RootedChange { root, change }: &RootedChange) -> bool {
        self.leave_out(*root, &change.path, matches!(change.now, Some(Node::Directory { .. })))
    }
}

fn remove(directory: &Path) {
    match fs::remove_dir_all(directory) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        // The next start tries it again.
        Err(error) => tracing::warn!("remove {}: {error}", directory.display()),
    }
}
