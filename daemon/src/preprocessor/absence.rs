//! What shows that searches found nothing before they ended, in a form in which another unit with the same search path
//! can hold it against the disk.
//! Knows nothing of what was found.

use std::sync::Arc;

use foldhash::HashMap;
use foldhash::HashSet;

use crate::listings::Listing;
use crate::preprocessor::search::DirectoryId;
use crate::preprocessor::search::Found;
use crate::preprocessor::search::Search;
use crate::preprocessor::survey;
use crate::preprocessor::symbol::Symbol;

/// What shows that searches found nothing before they ended.
#[derive(Default)]
pub(super) struct Absence {
    /// First components of names for which the directories without them have been noted.
    parents: HashSet<&'static [u8]>,
    /// For a directory and first components of names, whether a listing shows what is not there.
    shown: HashMap<(u32, &'static [u8]), bool>,
    /// The listings, of directories below those of the search path.
    listed: HashMap<(u32, &'static [u8]), Arc<Listing>>,
    /// Names that were looked for one by one.
    looked_for: Vec<(DirectoryId, Symbol)>,
}

/// One listing of [`Absence`]: the directory of the search path, what is listed below it, and the listing.
pub(super) type Listed = (DirectoryId, &'static [u8], Arc<Listing>);

impl Absence {
    pub(super) fn into_parts(self) -> (Vec<Listed>, Vec<(DirectoryId, Symbol)>) {
        let listed = self.listed.into_iter();
        let listed = listed.map(|((number, below), listing)| (DirectoryId(number), below, listing));
        (listed.collect(), self.looked_for)
    }
}

impl Search<'_> {
    /// Adds what shows that a search, which ended at `found`, found nothing before.
    pub(super) fn note_absence(
        &mut self,
        start: DirectoryId,
        name: Symbol,
        found: Option<Found>,
        absence: &mut Absence,
    ) {
        let end = found.and_then(|found| found.directory);
        if end == Some(start) {
            return;
        }
        let mut first = start.0;
        if first >= self.fixed {
            absence.looked_for.push((start, name));
            first = 0;
        }
        let parent = survey::parent(name);
        let candidates = self.candidates(name);
        if absence.parents.insert(parent) {
            // Of the others, it shows of every name with these first components.
            let others = (0..self.fixed).filter(|number| candidates.binary_search(number).is_err());
            for number in others {
                self.note_listing(number, parent, absence);
            }
        }
        let end = end.map_or(self.fixed, |end| end.0);
        let searched = candidates.iter().copied().filter(|candidate| (first..end).contains(candidate));
        for number in searched {
            let path = &self.directories[number as usize].path;
            if !self.survey.lacks((number, path), name) || !self.note_listing(number, parent, absence) {
                absence.looked_for.push((DirectoryId(number), name));
            }
        }
    }

    /// Adds the listing by which `parent` below a directory lacks names, or is not there. False: there is none.
    fn note_listing(&mut self, number: u32, parent: &'static [u8], absence: &mut Absence) -> bool {
        if let Some(known) = absence.shown.get(&(number, parent)) {
            return *known;
        }
        let directory = (number, &*self.directories[number as usize].path);
        let shown = self.survey.shown_by(directory, parent);
        if let Some((below, listing)) = &shown {
            absence.listed.insert((number, below), Arc::clone(listing));
        }
        absence.shown.insert((number, parent), shown.is_some());
        shown.is_some()
    }

    /// Whether the names in `below` of a directory of the search path are still those of this listing.
    pub(super) fn is_listed_by(
        &mut self,
        directory: DirectoryId,
        below: &'static [u8],
        listing: &Arc<Listing>,
    ) -> bool {
        let path = &self.directories[directory.0 as usize].path;
        self.survey.listing((directory.0, path), below).is_some_and(|now| Arc::ptr_eq(now, listing))
    }
}
