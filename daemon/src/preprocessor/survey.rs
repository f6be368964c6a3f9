//! Which names are certainly not in the directories of a search, told by their listings.
//! Knows nothing of search order, nor of what the files are.
//!
//! A name may have several components: `sys/types.h` cannot be in a directory that has no `sys`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use foldhash::HashMap;

use crate::listings::Listing;
use crate::preprocessor::Sources;
use crate::preprocessor::symbol::Symbol;

/// The directories of one search, each known by a number, as far as they were asked about.
pub(super) struct Survey<'a> {
    sources: &'a dyn Sources,
    /// What is known of a directory and of those below it, which are named by the first components of a name.
    names: HashMap<(u32, &'static [u8]), Names>,
    evidence: Evidence,
}

/// What is known of the names in one directory.
#[derive(Debug, Clone, Copy)]
enum Names {
    /// It is not there.
    None,
    /// They are those in the listing at this place.
    Listed(usize),
    /// Each must be looked for.
    Unknown,
}

/// What shows that the names that were not there still are not.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    /// As long as these hold, so does everything that was told by them.
    pub(super) listings: Vec<Arc<Listing>>,
    /// Names that are there and lead to no file: what they lead to can change unseen.
    pub(super) links: Vec<PathBuf>,
    /// Some name was looked for where no listing tells.
    pub(super) is_incomplete: bool,
}

/// Each component is a recursion; no real name comes near.
const LONGEST_PARENT: usize = 512;

/// All but the last component of a name, and the last.
fn components(name: Symbol) -> (&'static [u8], &'static [u8]) {
    let name = name.text();
    match name.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&name[..slash], &name[slash + 1..]),
        None => (b"", name),
    }
}

/// All but the last component of a name.
pub(super) fn parent(name: Symbol) -> &'static [u8] {
    components(name).0
}

fn is_plain(component: &[u8]) -> bool {
    !matches!(component, b"" | b"." | b"..")
}

impl<'a> Survey<'a> {
    pub(super) fn new(sources: &'a dyn Sources) -> Survey<'a> {
        Survey { sources, names: HashMap::default(), evidence: Evidence::default() }
    }

    /// Whether names in the directory were asked about.
    pub(super) fn was_asked(&self, directory: u32) -> bool {
        self.names.contains_key(&(directory, &b""[..]))
    }

    /// Whether `parent` below the directory may be there.
    pub(super) fn may_have(&mut self, directory: (u32, &Path), parent: &'static [u8]) -> bool {
        !matches!(self.names(directory, parent), Names::None)
    }

    /// Whether it is certain that the directory has no `name`.
    pub(super) fn lacks(&mut self, directory: (u32, &Path), name: Symbol) -> bool {
        let (parent, last) = components(name);
        match self.names(directory, parent) {
            Names::None => true,
            Names::Listed(place) => is_plain(last) && !self.evidence.listings[place].has(last),
            Names::Unknown => false,
        }
    }

    /// Notes that `name` was looked for in the directory, and is not there or is no file.
    pub(super) fn was_absent(&mut self, directory: (u32, &Path), name: Symbol) {
        let (parent, last) = components(name);
        match self.names(directory, parent) {
            Names::None => {}
            Names::Listed(place) => {
                let listing = &self.evidence.listings[place];
                if listing.has_link(last) {
                    self.evidence.links.push(directory.1.join(OsStr::from_bytes(name.text())));
                }
                self.evidence.is_incomplete |= !is_plain(last);
            }
            Names::Unknown => self.evidence.is_incomplete = true,
        }
    }

    /// The listing of `below` in the directory.
    pub(super) fn listing(&mut self, directory: (u32, &Path), below: &'static [u8]) -> Option<&Arc<Listing>> {
        match self.names(directory, below) {
            Names::Listed(place) => Some(&self.evidence.listings[place]),
            Names::None | Names::Unknown => None,
        }
    }

    /// The listing that tells of names with these first components in the directory, and what it lists below that: all
    /// of the components, or fewer where the next one is not there.
    pub(super) fn shown_by(
        &mut self,
        directory: (u32, &Path),
        mut parent: &'static [u8],
    ) -> Option<(&'static [u8], Arc<Listing>)> {
        loop {
            match self.names(directory, parent) {
                Names::Listed(place) => return Some((parent, Arc::clone(&self.evidence.listings[place]))),
                Names::Unknown => return None,
                Names::None if parent.is_empty() => return None,
                Names::None => {
                    let slash = parent.iter().rposition(|&byte| byte == b'/');
                    parent = slash.map_or(&[][..], |slash| &parent[..slash]);
                }
            }
        }
    }

    fn names(&mut self, directory: (u32, &Path), parent: &'static [u8]) -> Names {
        if let Some(names) = self.names.get(&(directory.0, parent)) {
            return *names;
        }
        let names = match parent.iter().rposition(|&byte| byte == b'/') {
            _ if parent.is_empty() => self.list(directory.1),
            _ if parent.len() > LONGEST_PARENT => Names::Unknown,
            slash => {
                let (above, component) =
                    slash.map_or((&b""[..], parent), |at| (&parent[..at], &parent[at + 1..]));
                match self.names(directory, above) {
                    Names::None => Names::None,
                    Names::Listed(place)
                        if is_plain(component) && !self.evidence.listings[place].has(component) =>
                    {
                        Names::None
                    }
                    _ => self.list(&directory.1.join(OsStr::from_bytes(parent))),
                }
            }
        };
        self.names.insert((directory.0, parent), names);
        names
    }

    fn list(&mut self, path: &Path) -> Names {
        match self.sources.listing(path) {
            Some(listing) => {
                self.evidence.listings.push(listing);
                Names::Listed(self.evidence.listings.len() - 1)
            }
            None => Names::Unknown,
        }
    }

    pub(super) fn into_evidence(self) -> Evidence {
        self.evidence
    }
}
