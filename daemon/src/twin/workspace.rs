//! A client's workspace while a session is open: its mirror, what has been put into it, and what runs there.
//! Knows nothing of how the client is talked to.

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Instant;
use std::time::SystemTime;

use serde::Deserialize;
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::digest::Digest;
use crate::digest::DigestFunction;
use crate::mirror::RootedChange;
use crate::mirror::TreePath;
use crate::paths;
use crate::store::Store;
use crate::twin::Cluster;
use crate::twin::Mirror;
use crate::twin::MirrorError;

/// Longer names of workspaces are refused.
const LONGEST_NAME_BYTES: usize = 64;

/// More directories in one workspace are refused.
const MOST_ROOTS: usize = 16;

/// The file that says whose a directory is.
const CARD: &str = "workspace.json";

/// Which workspace it is, and what it looks like from within.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    /// Who has it: what his certificate is known by; empty where there are none.
    pub client: String,
    /// What he calls it.
    pub name: Vec<u8>,
    /// Its directories, absolute.
    pub roots: Vec<PathBuf>,
    /// The number of the user that commands see themselves as.
    pub user: u32,
    /// The same for their group.
    pub group: u32,
}

/// Why there can be no such workspace.
#[derive(Debug, thiserror::Error)]
pub enum InvalidWorkspace {
    /// Its name.
    #[error("a workspace has a name of 1 to 64 bytes")]
    Name,
    /// It has none, or too many.
    #[error("a workspace has 1 to 16 directories")]
    Count,
    /// One of them is no place for a workspace; which.
    #[error("{} is no place for a workspace", .0.display())]
    Place(PathBuf),
    /// One is in another.
    #[error("{} and {} lie in each other", .0.display(), .1.display())]
    Nested(PathBuf, PathBuf),
}

impl Card {
    /// Whether commands could see it where it is to be.
    ///
    /// # Errors
    /// [`InvalidWorkspace`].
    pub fn check(&self) -> Result<(), InvalidWorkspace> {
        if self.name.is_empty() || self.name.len() > LONGEST_NAME_BYTES {
            return Err(InvalidWorkspace::Name);
        }
        if self.roots.is_empty() || self.roots.len() > MOST_ROOTS {
            return Err(InvalidWorkspace::Count);
        }
        for root in &self.roots {
            let below = root.as_os_str().as_bytes().strip_prefix(b"/");
            let is_plain = below.is_some_and(|below| TreePath::parse(below).is_ok());
            if !is_plain || !is_place(root) {
                return Err(InvalidWorkspace::Place(root.clone()));
            }
        }
        for (at, root) in self.roots.iter().enumerate() {
            let others = self.roots.iter().enumerate().filter(|(other, _)| *other != at);
            if let Some((_, inner)) = others.into_iter().find(|(_, other)| other.starts_with(root)) {
                return Err(InvalidWorkspace::Nested(root.clone(), inner.clone()));
            }
        }
        Ok(())
    }

    /// The name of its directory on this machine.
    pub fn directory_name(&self) -> String {
        let mut bytes = self.client.as_bytes().to_vec();
        bytes.push(0);
        bytes.extend_from_slice(&self.name);
        Digest::of(&bytes).hex()
    }

    /// Reads the card of a directory.
    ///
    /// # Errors
    /// When there is none.
    pub fn read(directory: &Path) -> io::Result<Card> {
        Ok(serde_json::from_slice(&fs::read(directory.join(CARD))?)?)
    }

    /// Makes the directory into this workspace's: what another has left there goes.
    fn put(&self, directory: &Path) -> io::Result<()> {
        let is_same = |card: Card| card.roots == self.roots;
        if directory.exists() && !Card::read(directory).is_ok_and(is_same) {
            fs::remove_dir_all(directory)?;
        }
        fs::create_dir_all(directory)?;
        match fs::remove_dir_all(directory.join(BUILDS)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::write(directory.join(CARD), serde_json::to_vec(self)?)?;
        let Card { user, group, .. } = self;
        fs::write(
            directory.join(PASSWD),
            format!(
                "root:x:0:0:root:/root:/bin/sh\nuser:x:{user}:{group}:user:/tmp:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
            ),
        )?;
        fs::write(directory.join(GROUP), format!("root:x:0:\nuser:x:{group}:\nnogroup:x:65534:\n"))
    }
}

/// Written at the end of a session, in a workspace's directory: the size of the mirror in bytes.
const SIZE: &str = "size";

/// What commands see as `/etc/passwd`, in a workspace's directory.
pub(super) const PASSWD: &str = "passwd";

/// The same for `/etc/group`.
pub(super) const GROUP: &str = "group";

/// Where the sockets and logs of builds are while they run, in a workspace's directory.
pub(super) const BUILDS: &str = "builds";

/// The store of all its builds, in a workspace's directory.
pub(super) const STORE: &str = "store";

/// Whether a workspace can be mounted there: not over what is the machine's, and not at the top.
fn is_place(root: &Path) -> bool {
    let mine = ["/dev", "/etc", "/proc", "/run", "/sys", "/boot"];
    let tops = ["/", "/tmp", "/var", "/var/tmp", "/home", "/root"];
    let is_mine = paths::is_system(root) || mine.iter().any(|directory| root.starts_with(directory));
    let holds_mine = mine.iter().any(|directory| Path::new(directory).starts_with(root));
    !is_mine && !holds_mine && !tops.iter().any(|top| root == Path::new(top))
}

/// A mirror on the disk.
pub(super) struct Idle {
    /// The name of its directory.
    pub name: String,
    /// Its directory.
    pub directory: PathBuf,
    /// Whose it is.
    pub card: Card,
    /// When it was last used.
    pub since: SystemTime,
    /// What is in it, in bytes, as far as anybody has counted it.
    pub size_bytes: u64,
}

/// The mirrors in a directory, those that are in use among them.
pub(super) fn mirrors(directory: &Path) -> Vec<Idle> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mirror = |entry: fs::DirEntry| {
        let directory = entry.path();
        let card = Card::read(&directory).ok()?;
        let size = directory.join(SIZE);
        // Where a session ended without a word, it is as old as its card.
        let metadata = fs::metadata(&size).or_else(|_| fs::metadata(directory.join(CARD))).ok()?;
        let size_bytes = fs::read_to_string(&size).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        let since = metadata.modified().ok()?;
        Some(Idle { name: entry.file_name().into_string().ok()?, directory, card, since, size_bytes })
    };
    entries.filter_map(mirror).collect()
}

/// A workspace in which commands can run.
pub struct Workspace {
    /// Which it is.
    pub card: Card,
    /// Its directory on this machine.
    pub directory: PathBuf,
    /// The function of all digests in the session.
    pub function: DigestFunction,
    /// The copy of its files.
    pub mirror: Mirror,
    /// Ready when the session is over, or to be.
    pub over: CancellationToken,
    /// Commands that run, and what is done for them.
    pub tasks: TaskTracker,
    /// What it has seen.
    pub counts: Counts,
    applied: watch::Sender<u64>,
    running: Mutex<BTreeMap<u64, Command>>,
    next_command: AtomicU64,
    used: Mutex<Instant>,
}

/// Since the session began.
#[derive(Debug, Default)]
pub struct Counts {
    /// Commands.
    pub commands: AtomicU64,
    /// Content from the client, as it travelled, in bytes.
    pub received_bytes: AtomicU64,
    /// Content from the cluster's storage, in bytes.
    pub fetched_bytes: AtomicU64,
    /// Content to the client, as it travelled, in bytes.
    pub sent_bytes: AtomicU64,
}

/// A command that runs.
#[derive(Debug, Clone)]
pub struct Command {
    /// Its words.
    pub arguments: Vec<Vec<u8>>,
    /// When it was started.
    pub since: Instant,
}

/// Stands for a command that runs, until it is dropped.
pub struct Entered<'a> {
    workspace: &'a Workspace,
    number: u64,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        lock(&self.workspace.running).remove(&self.number);
        self.workspace.touch();
    }
}

impl Workspace {
    /// Opens it in `directory`, with what its mirror has from before.
    ///
    /// # Errors
    /// [`MirrorError`].
    pub async fn open(
        card: Card,
        directory: PathBuf,
        function: DigestFunction,
    ) -> Result<Workspace, MirrorError> {
        let (own, at) = (card.clone(), directory.clone());
        let failed = |error| MirrorError::Directory(format!("make {}", directory.display()), error);
        let put = tokio::task::spawn_blocking(move || own.put(&at)).await;
        put.map_err(|_| MirrorError::Gone)?.map_err(failed)?;
        let mirror = Mirror::open(directory.clone(), card.roots.clone()).await?;
        Ok(Workspace {
            card,
            directory,
            function,
            mirror,
            over: CancellationToken::new(),
            tasks: TaskTracker::new(),
            counts: Counts::default(),
            applied: watch::Sender::new(0),
            running: Mutex::default(),
            next_command: AtomicU64::default(),
            used: Mutex::new(Instant::now()),
        })
    }

    /// The contents for a batch that neither the mirror nor the store has; the cluster is asked for them first.
    ///
    /// # Errors
    /// [`MirrorError`].
    pub async fn missing(
        &self,
        wanted: HashSet<Digest>,
        store: &Store,
        cluster: Option<&Cluster>,
    ) -> Result<HashSet<Digest>, MirrorError> {
        let lacking = self.mirror.lacking(wanted).await?;
        let own = store.clone();
        let lacking = tokio::task::spawn_blocking(move || {
            lacking.into_iter().filter(|digest| !own.contains(digest)).collect::<Vec<_>>()
        });
        let mut lacking = lacking.await.map_err(|_| MirrorError::Gone)?;
        if let (Some(cluster), false) = (cluster, lacking.is_empty()) {
            let taken = cluster.take(&lacking, store).await;
            self.counts.fetched_bytes.fetch_add(taken.size_bytes, Ordering::Relaxed);
            lacking.retain(|digest| !taken.digests.contains(digest));
        }
        Ok(lacking.into_iter().collect())
    }

    /// Puts the batch with this number into place.
    ///
    /// # Errors
    /// [`MirrorError`]: the session cannot go on.
    pub async fn apply(
        &self,
        sequence: u64,
        batch: Vec<RootedChange>,
        is_whole: bool,
        store: &Store,
    ) -> Result<(), MirrorError> {
        self.mirror.apply(batch, is_whole, store.clone()).await?;
        self.applied.send_replace(sequence);
        self.touch();
        Ok(())
    }

    /// Ready when a batch is in place; `false`: the session is over.
    pub async fn has_applied(&self, sequence: u64) -> bool {
        let mut applied = self.applied.subscribe();
        tokio::select! {
            reached = applied.wait_for(|applied| *applied >= sequence) => reached.is_ok(),
            () = self.over.cancelled() => false,
        }
    }

    /// Takes note of a command that runs.
    pub fn enter(&self, arguments: Vec<Vec<u8>>) -> Entered<'_> {
        let number = self.next_command.fetch_add(1, Ordering::Relaxed);
        self.counts.commands.fetch_add(1, Ordering::Relaxed);
        lock(&self.running).insert(number, Command { arguments, since: Instant::now() });
        Entered { workspace: self, number }
    }

    /// The commands that run.
    pub fn running(&self) -> Vec<Command> {
        lock(&self.running).values().cloned().collect()
    }

    fn touch(&self) {
        *lock(&self.used) = Instant::now();
    }

    /// When something was last done in it.
    pub fn used(&self) -> Instant {
        *lock(&self.used)
    }

    /// The commands' processes are ended, and when they are, the mirror is left alone.
    pub async fn close(&self) {
        self.over.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        // Whoever comes second finds it closed.
        if let Ok(size_bytes) = self.mirror.close().await
            && let Err(error) = fs::write(self.directory.join(SIZE), size_bytes.to_string())
        {
            tracing::warn!("write {}: {error}", self.directory.join(SIZE).display());
        }
    }
}

/// The content of these mutexes is valid after every statement.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(roots: &[&str]) -> Card {
        let roots = roots.iter().map(PathBuf::from).collect();
        Card { client: String::new(), name: b"n".to_vec(), roots, user: 1000, group: 1000 }
    }

    #[test]
    fn where_a_workspace_may_be() {
        for good in [&["/home/u/p"][..], &["/srv/a", "/srv/b"], &["/tmp/x"], &["/a"], &["/home/u/a b\n"]] {
            card(good).check().unwrap();
        }
        for bad in [
            &[][..],
            &["/"],
            &["relative"],
            &["/usr/src/p"],
            &["/lib/x"],
            &["/proc/self"],
            &["/etc"],
            &["/run/user"],
            &["/tmp"],
            &["/home"],
            &["/a/../b"],
            &["/a/./b"],
            &["/a/"],
            &["/a//b"],
            &["/a", "/a/b"],
            &["/a", "/a"],
        ] {
            assert!(card(bad).check().is_err(), "{bad:?}");
        }
        assert!(Card { name: Vec::new(), ..card(&["/a"]) }.check().is_err());
        assert!(Card { name: vec![1; 65], ..card(&["/a"]) }.check().is_err());
    }

    #[test]
    fn nobody_shares_a_directory() {
        let one = card(&["/a"]);
        let other =
            |client: &str, name: &[u8]| Card { client: client.into(), name: name.into(), ..one.clone() };
        assert_ne!(other("a", b"bc").directory_name(), other("ab", b"c").directory_name());
        assert_eq!(one.directory_name(), card(&["/b"]).directory_name());
    }
}
