//! Where one unit looked for files in vain, and what shows that they are still not there.
//! Knows nothing of the files that were found.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use foldhash::HashMap;

use crate::listings::Listing;
use crate::preprocessor::Sources;
use crate::preprocessor::symbol::Symbol;

/// Places where files were looked for in vain.
#[derive(Debug, Default)]
pub struct FailedLookups {
    /// Absolute: first those of the search path in order, then those of including files.
    directories: Vec<PathBuf>,
    /// How many of them are the search path.
    fixed: u32,
    chains: Vec<Chain>,
    /// Files that were looked for by their whole path, absolute.
    absent: Vec<PathBuf>,
}

/// One search: `name` was looked for from directory `start` on, and stands in none before directory `end`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chain {
    pub(super) name: Symbol,
    pub(super) start: u32,
    pub(super) end: u32,
}

impl Chain {
    /// The directories that were searched in vain: after an includer's own, the search path begins.
    fn directories(self, fixed: u32) -> impl Iterator<Item = u32> {
        let own = (self.start >= fixed).then_some(self.start);
        let from = if own.is_some() { 0 } else { self.start };
        own.into_iter().chain(from..self.end)
    }
}

impl FailedLookups {
    pub(super) fn new(
        directories: Vec<PathBuf>,
        fixed: u32,
        mut chains: Vec<Chain>,
        absent: Vec<PathBuf>,
    ) -> FailedLookups {
        chains.shrink_to_fit();
        FailedLookups { directories, fixed, chains, absent }
    }

    /// Every path (absolute) that was looked for in vain; some more than once.
    pub fn paths(&self) -> impl Iterator<Item = PathBuf> {
        let searched = self.chains.iter().flat_map(move |&chain| {
            chain.directories(self.fixed).filter_map(move |directory| self.path(directory, chain.name))
        });
        searched.chain(self.absent.iter().cloned())
    }

    fn path(&self, directory: u32, name: Symbol) -> Option<PathBuf> {
        Some(self.directories.get(directory as usize)?.join(as_path(name.text())))
    }

    /// About how much memory they take, in bytes.
    pub(super) fn size_bytes(&self) -> usize {
        let paths = self.directories.iter().chain(&self.absent);
        let paths: usize = paths.map(|path| size_of::<PathBuf>() + path.as_os_str().len()).sum();
        size_of::<FailedLookups>() + size_of_val(&*self.chains) + paths
    }
}

fn as_path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

/// What shows that all look-ups still fail: one listing for each directory, and for the few that no listing can
/// vouch for, the look-ups themselves.
#[derive(Debug, Default)]
pub(super) struct Watches {
    listings: Vec<Arc<Listing>>,
    /// The listing that stands for the names of `parent` in `directory`, by its place in `listings`.
    groups: HashMap<Group, Option<usize>>,
    /// Look-ups whose names are symlinks: what they lead to can change unseen.
    links: Vec<PathBuf>,
}

/// Names with the same first components, looked for in the same directory: `sys/` of `sys/types.h`.
type Group = (u32, &'static [u8]);

/// All but the last component of a name.
fn parent(name: Symbol) -> &'static [u8] {
    let name = name.text();
    name.iter().rposition(|&byte| byte == b'/').map_or(&[], |slash| &name[..slash])
}

impl Watches {
    /// For look-ups of which the first was made at `started`, and all have failed since.
    pub(super) fn new(failed: &FailedLookups, sources: &dyn Sources, started: SystemTime) -> Watches {
        let mut watches = Watches::default();
        // Searches that begin at one directory differ only in how far they went.
        let mut farthest: HashMap<Group, u32> = HashMap::default();
        for chain in &failed.chains {
            let end = farthest.entry((chain.start, parent(chain.name))).or_default();
            *end = chain.end.max(*end);
        }
        let listing = |directory: &PathBuf| sources.listing(directory);
        let listings: Vec<_> = failed.directories.iter().map(listing).collect();
        for ((start, parent), end) in farthest {
            let chain = Chain { name: Symbol::ZERO, start, end };
            for directory in chain.directories(failed.fixed) {
                watches.groups.entry((directory, parent)).or_insert_with(|| {
                    let path = failed.directories.get(directory as usize)?;
                    let own = listings.get(directory as usize)?.as_ref();
                    let listing = nearest_listing(path, own, parent, sources)?;
                    listing.is_older_than(started).then(|| place(&mut watches.listings, listing))
                });
            }
        }
        if watches.listings.iter().any(|listing| listing.has_links()) {
            watches.find_links(failed);
        }
        watches
    }

    fn find_links(&mut self, failed: &FailedLookups) {
        let mut links = HashSet::new();
        for &chain in &failed.chains {
            let name = chain.name.text();
            let last = name.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
            for directory in chain.directories(failed.fixed) {
                let listing = self.groups.get(&(directory, parent(chain.name))).copied().flatten();
                if listing.is_some_and(|place| self.listings[place].has_link(last)) {
                    links.extend(failed.path(directory, chain.name));
                }
            }
        }
        self.links = links.into_iter().collect();
    }

    /// Whether every look-up still fails. Where a directory has changed, its look-ups are made again, and the
    /// second value is what shows them to fail from now on.
    pub(super) fn hold(
        &self,
        failed: &FailedLookups,
        sources: &dyn Sources,
        now: SystemTime,
    ) -> (bool, Option<Watches>) {
        if self.links.iter().chain(&failed.absent).any(|path| is_there(path)) {
            return (false, None);
        }
        let unchanged: Vec<bool> = self.listings.iter().map(|listing| listing.holds()).collect();
        let vouched_for =
            |place: &Option<usize>| place.is_some_and(|place| unchanged.get(place).copied() == Some(true));
        if self.groups.values().all(vouched_for) {
            return (true, None);
        }
        let mut appeared = failed.chains.iter().flat_map(|&chain| {
            let group = parent(chain.name);
            let doubtful =
                move |directory: &u32| !self.groups.get(&(*directory, group)).is_some_and(vouched_for);
            let directories = chain.directories(failed.fixed).filter(doubtful);
            directories.filter_map(move |directory| failed.path(directory, chain.name))
        });
        if appeared.any(|path| is_there(&path)) {
            return (false, None);
        }
        (true, Some(Watches::new(failed, sources, now)))
    }

    /// About how much memory they take besides the listings, which are shared, in bytes.
    pub(super) fn size_bytes(&self) -> usize {
        let links: usize = self.links.iter().map(|path| size_of::<PathBuf>() + path.as_os_str().len()).sum();
        size_of::<Watches>() + size_of_val(&*self.listings) + self.groups.len() * 48 + links
    }
}

/// The place of a listing among all that are watched.
fn place(listings: &mut Vec<Arc<Listing>>, listing: Arc<Listing>) -> usize {
    let known = listings.iter().position(|known| Arc::ptr_eq(known, &listing));
    known.unwrap_or_else(|| {
        listings.push(listing);
        listings.len() - 1
    })
}

/// The listing that vouches for what is not in `parent` below `directory`, whose own listing is `own`.
fn nearest_listing(
    directory: &Path,
    own: Option<&Arc<Listing>>,
    parent: &[u8],
    sources: &dyn Sources,
) -> Option<Arc<Listing>> {
    let first = parent.split(|&byte| byte == b'/').next().unwrap_or_default();
    match own {
        // Nothing can be below what is not there.
        Some(own) if parent.is_empty() || !matches!(first, b"." | b"..") && !own.has(first) => {
            Some(Arc::clone(own))
        }
        _ => deepest_listing(&directory.join(as_path(parent)), sources),
    }
}

/// Whether an include of `path` would find something: a file, or what cannot be read. As `Sources::load` sees it.
fn is_there(path: &Path) -> bool {
    match std::fs::metadata(path) {
        Ok(metadata) => !metadata.is_dir(),
        Err(error) => !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
    }
}

/// The listing of the directory at `path`, or of the nearest one above it that is there: what is below appears only
/// by a change of that one. None where nothing can be vouched for.
fn deepest_listing(path: &Path, sources: &dyn Sources) -> Option<Arc<Listing>> {
    let mut path = path;
    let mut below = None;
    loop {
        match std::fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => break,
            // In the place of a directory stands a file, which can only be replaced.
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(_) => return None,
        }
        below = path.file_name();
        path = path.parent()?;
        // `a/..` without an `a`.
        below?;
    }
    let listing = sources.listing(path)?;
    // A symlink to nowhere, or a directory that has just been made.
    let is_unclear = |name: &OsStr| {
        let is_file = || std::fs::symlink_metadata(path.join(name)).is_ok_and(|metadata| metadata.is_file());
        listing.has(name.as_bytes()) && !is_file()
    };
    (!below.is_some_and(is_unclear)).then_some(listing)
}
