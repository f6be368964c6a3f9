//! Notes what the replay of a unit looks at and does while an included header is replayed of which a [`Summary`] is
//! wanted, and makes that.
//! Knows nothing of when one is wanted, nor of how it is used.

use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use foldhash::HashMap;

use crate::preprocessor::absence::Absence;
use crate::preprocessor::macros::Macro;
use crate::preprocessor::macros::Previous;
use crate::preprocessor::macros::State;
use crate::preprocessor::replay::Replay;
use crate::preprocessor::search::DirectoryId;
use crate::preprocessor::search::FileId;
use crate::preprocessor::search::Found;
use crate::preprocessor::summaries::Slot;
use crate::preprocessor::summary::Searched;
use crate::preprocessor::summary::Summary;
use crate::preprocessor::summary::SummaryFile;
use crate::preprocessor::summary::Where;
use crate::preprocessor::symbol::Symbol;
use crate::preprocessor::symbol::SymbolMap;

/// One thing that the replay looked at or did.
pub(super) enum Event {
    /// It asked what a name stands for.
    Looked(Symbol),
    /// It defined or undefined a name, which was this before.
    Changed(Symbol, Previous),
    /// `#pragma push_macro` and `pop_macro`; the change by the latter is an event of its own.
    Pushed(Symbol),
    Popped(Symbol),
    /// It searched for a name from a directory on.
    Searched(DirectoryId, Symbol),
    /// It came to a file, which was to be read once already (true), or not.
    Came(FileId, bool),
    /// It replayed a file.
    Replayed(FileId),
    /// A file is to be read once from now on.
    Once(FileId),
    /// A `__has_include` found a file.
    Probed(FileId),
    /// It did what no summary can tell.
    Unclear,
}

/// After so many, no summary is made: of what is so long it would be of no use, and memory is bounded.
const MOST_EVENTS: usize = 1 << 18;

/// The events since the outermost header of which a summary is wanted.
#[derive(Default)]
pub(super) struct Recording {
    events: Vec<Event>,
    /// Of how many open headers a summary is wanted.
    open: usize,
}

/// Where a header began of which a summary is wanted.
pub(super) struct Mark {
    slot: Arc<Slot>,
    event: usize,
    budget: usize,
}

impl Recording {
    /// Notes an event, if any summary is wanted.
    pub(super) fn note(&mut self, event: Event) {
        if self.open > 0 && self.events.len() < MOST_EVENTS {
            self.events.push(event);
        }
    }

    pub(super) fn is_on(&self) -> bool {
        self.open > 0
    }

    /// Begins a header for which `slot` wants a summary; `budget` is what the unit may still cost.
    pub(super) fn begin(&mut self, slot: Arc<Slot>, budget: usize) -> Mark {
        self.open += 1;
        Mark { slot, event: self.events.len(), budget }
    }

    fn end(&mut self) {
        self.open -= 1;
        if self.open == 0 {
            self.events.clear();
        }
    }
}

/// What happened to a name between a header's beginning and its end.
#[derive(Default)]
struct Touched {
    /// It was looked at before it was changed.
    looked_at: bool,
    /// What it was before it was changed.
    changed: Option<Previous>,
    pushed: usize,
}

/// The files and directories of a summary, numbered.
struct Numbering<'a, 'b> {
    replay: &'a Replay<'b>,
    fixed: u32,
    files: Vec<SummaryFile>,
    file_numbers: HashMap<FileId, u32>,
    directories: Vec<Arc<[u8]>>,
    directory_numbers: HashMap<DirectoryId, Where>,
}

impl Replay<'_> {
    /// The header that began at `mark` has been replayed, and was included `depth` levels deep from itself.
    pub(super) fn recorded(&mut self, mark: &Mark, depth: usize) {
        let summary = self.summarize(mark, depth);
        self.recording.end();
        mark.slot.keep(summary);
    }

    /// None: something happened that no summary can tell.
    fn summarize(&mut self, mark: &Mark, depth: usize) -> Option<Summary> {
        if self.recording.events.len() >= MOST_EVENTS {
            return None;
        }
        let events = std::mem::take(&mut self.recording.events);
        let summary = self.summary_of(&events[mark.event..], self.spent_since(mark.budget), depth);
        self.recording.events = events;
        summary
    }

    fn summary_of(&mut self, events: &[Event], cost: usize, depth: usize) -> Option<Summary> {
        let mut names: SymbolMap<Symbol, Touched> = SymbolMap::default();
        let mut searches: HashMap<(DirectoryId, Symbol), Option<Found>> = HashMap::default();
        for event in events {
            match event {
                Event::Looked(name) => names.entry(*name).or_default().look_at(),
                Event::Changed(name, previous) => {
                    let touched = names.entry(*name).or_default();
                    touched.changed.get_or_insert_with(|| previous.clone());
                }
                Event::Pushed(name) => {
                    let touched = names.entry(*name).or_default();
                    touched.look_at();
                    touched.pushed += 1;
                }
                Event::Popped(name) => {
                    let touched = names.entry(*name).or_default();
                    touched.pushed = touched.pushed.checked_sub(1)?;
                }
                Event::Searched(start, name) => {
                    searches.entry((*start, *name)).or_insert_with(|| self.search.remembered(*start, *name));
                }
                Event::Unclear => return None,
                Event::Came(..) | Event::Replayed(_) | Event::Once(_) | Event::Probed(_) => {}
            }
        }
        let mut before = Vec::new();
        let mut after = Vec::new();
        for (name, touched) in names {
            if touched.pushed > 0 {
                return None;
            }
            if touched.looked_at {
                before.push((name, self.macros.state_before(name, touched.changed.as_ref())));
            }
            if touched.changed.is_some() {
                after.push((name, self.macros.get(name).cloned()));
            }
        }
        let mut absence = Absence::default();
        for (&(start, name), &found) in &searches {
            self.search.note_absence(start, name, found, &mut absence);
        }
        let (listed, looked_for) = absence.into_parts();
        let mut numbering = Numbering::new(self);
        let opened = numbering.files_of(events);
        let searches = searches.into_iter();
        let searches =
            searches.map(|((start, name), found)| numbering.searched(start, name, found)).collect();
        let absent = looked_for.into_iter().map(|(start, name)| (numbering.directory(start), name)).collect();
        let Numbering { files, directories, .. } = numbering;
        Some(Summary {
            before: before.into(),
            after: after.into(),
            directories: directories.into(),
            files: files.into(),
            opened: opened.into(),
            searches,
            listed: listed.into(),
            absent,
            cost,
            depth,
            suspect: AtomicUsize::new(0),
        })
    }
}

impl Touched {
    fn look_at(&mut self) {
        self.looked_at |= self.changed.is_none();
    }
}

impl<'a, 'b> Numbering<'a, 'b> {
    fn new(replay: &'a Replay<'b>) -> Numbering<'a, 'b> {
        Numbering {
            replay,
            fixed: replay.search.fixed,
            files: Vec::new(),
            file_numbers: HashMap::default(),
            directories: Vec::new(),
            directory_numbers: HashMap::default(),
        }
    }

    /// Numbers the files in the order in which the replay came to them; those that it opened.
    fn files_of(&mut self, events: &[Event]) -> Vec<u32> {
        let mut opened = Vec::new();
        for event in events {
            match *event {
                Event::Came(file, once) => {
                    let number = self.file(file);
                    let came_to = &mut self.files[number as usize].came_to;
                    if came_to.is_none() {
                        *came_to = Some(once);
                        opened.push(number);
                    }
                }
                Event::Replayed(file) => self.file_mut(file).replayed = true,
                Event::Once(file) => self.file_mut(file).once = true,
                Event::Probed(file) => self.file_mut(file).probed = true,
                _ => {}
            }
        }
        opened
    }

    fn file_mut(&mut self, file: FileId) -> &mut SummaryFile {
        let number = self.file(file);
        &mut self.files[number as usize]
    }

    fn file(&mut self, id: FileId) -> u32 {
        if let Some(&number) = self.file_numbers.get(&id) {
            return number;
        }
        let number = u32::try_from(self.files.len()).unwrap_or(u32::MAX);
        self.file_numbers.insert(id, number);
        let file = self.replay.search.file(id);
        let directory = self.directory(file.directory);
        self.files.push(SummaryFile {
            input: Arc::clone(&file.input),
            spelled: Arc::clone(&file.spelled),
            directory,
            came_to: None,
            replayed: false,
            once: false,
            probed: false,
        });
        number
    }

    fn directory(&mut self, id: DirectoryId) -> Where {
        if id.0 < self.fixed {
            return Where::Fixed(id);
        }
        match self.directory_numbers.entry(id) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(vacant) => {
                self.directories.push(self.replay.search.spelled(id).into());
                *vacant.insert(Where::Own(self.directories.len() - 1))
            }
        }
    }

    fn searched(&mut self, start: DirectoryId, name: Symbol, found: Option<Found>) -> Searched {
        let found = found.map(|found| (self.file(found.file), found.directory.map(|id| self.directory(id))));
        Searched { start: self.directory(start), name, found }
    }
}

/// What a summary keeps of a name: see [`Summary::before`] and [`Summary::after`].
pub(super) type Before = (Symbol, State);
pub(super) type After = (Symbol, Option<Arc<Macro>>);
