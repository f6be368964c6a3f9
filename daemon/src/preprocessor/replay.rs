//! The second stage: replays the directives of one unit with its macros, and lists the files that are opened.
//! Knows nothing of bytes: files come stripped.

use std::collections::HashSet;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use crate::digest::Digest;
use crate::files::InputFile;
use crate::files::Version;
use crate::fitted::fitted;
use crate::preprocessor::Dialect;
use crate::preprocessor::Family;
use crate::preprocessor::Scan;
use crate::preprocessor::ScanError;
use crate::preprocessor::SourceFile;
use crate::preprocessor::Sources;
use crate::preprocessor::TranslationUnit;
use crate::preprocessor::decision::Circumstances;
use crate::preprocessor::expand::Expansion;
use crate::preprocessor::macros::Macro;
use crate::preprocessor::macros::MacroTable;
use crate::preprocessor::recording::Event;
use crate::preprocessor::recording::Mark;
use crate::preprocessor::recording::Recording;
use crate::preprocessor::search::FileId;
use crate::preprocessor::search::Found;
use crate::preprocessor::search::Search;
use crate::preprocessor::skimmer::TIMESTAMP_WORD;
use crate::preprocessor::source_file::Condition;
use crate::preprocessor::source_file::Directive;
use crate::preprocessor::source_file::Header;
use crate::preprocessor::source_file::Including;
use crate::preprocessor::summaries::Summaries;
use crate::preprocessor::symbol::Symbol;

/// GCC's `-fmax-include-depth` and Clang's fixed limit.
const DEEPEST_INCLUDE: usize = 200;

/// The reason word for a line of a module.
const MODULES: &str = "modules";

/// How much work one unit may be: directives, tokens read in expansions, and includes, which count as many. The
/// largest real units need a few per cent of it.
const BUDGET: usize = 1 << 26;
pub(super) const INCLUDE_COST: usize = 64;
const BYTE_COST: usize = 4;

/// The files that `unit` reads.
///
/// # Errors
/// See [`ScanError`]. While questions are open, they are the answer, whatever else went wrong.
pub fn scan(unit: &TranslationUnit, sources: &dyn Sources) -> Result<Scan, ScanError> {
    scan_with(Replay::new(unit, sources))
}

/// The same, with a replay that may know summaries of headers.
pub(super) fn scan_with(mut replay: Replay<'_>) -> Result<Scan, ScanError> {
    let result = replay.unit();
    if !replay.questions.is_empty() {
        return Err(ScanError::Unanswered(replay.questions));
    }
    if Symbol::are_exhausted() {
        return Err(ScanError::NotSure("more different names than are kept".to_owned()));
    }
    result?;
    let mut files: Vec<Arc<InputFile>> =
        replay.opened.iter().map(|id| Arc::clone(&replay.search.file(*id).input)).collect();
    let is_opened = |file: &Arc<InputFile>| replay.search.is_opened(&file.path);
    files.extend(replay.embedded.iter().filter(|file| !is_opened(file)).cloned());
    let only_probed = replay.search.files().filter(|file| file.probed && !file.opened);
    let mut probed: Vec<_> = only_probed.map(|file| Arc::clone(&file.input)).collect();
    let mut probed_data = replay.probed_data;
    probed_data.retain(|data| !files.iter().any(|file| file.path == data.path));
    probed.append(&mut probed_data);
    let time_words = replay.time_words & !replay.redefined_time_words;
    let precompiled = std::mem::take(&mut replay.search.precompiled);
    let absolute = std::mem::take(&mut replay.search.absolute);
    let (failed_lookups, evidence) = replay.search.into_failed_lookups();
    Ok(Scan {
        files: fitted(files),
        assembled: fitted(replay.assembled),
        precompiled: fitted(precompiled),
        probed: fitted(probed),
        absolute: absolute.into_iter().collect(),
        uses_time: time_words & !TIMESTAMP_WORD != 0,
        uses_timestamp: time_words & TIMESTAMP_WORD != 0,
        failed_lookups,
        evidence,
    })
}

/// A unit being replayed.
pub(super) struct Replay<'a> {
    pub(super) unit: &'a TranslationUnit,
    pub(super) dialect: Dialect,
    pub(super) macros: MacroTable<'a>,
    pub(super) search: Search<'a>,
    pub(super) frames: Vec<Frame>,
    opened: Vec<FileId>,
    /// What `#embed` reads, and what `__has_embed` found, each path once.
    pub(super) embedded: Vec<Arc<InputFile>>,
    pub(super) probed_data: Vec<Arc<InputFile>>,
    pub(super) embed_depth: u32,
    /// What the assembler reads, each path once.
    pub(super) assembled: Vec<Arc<InputFile>>,
    pub(super) included_assembly: HashSet<PathBuf>,
    /// What the compiler must be asked, each once, in order.
    pub(super) questions: Vec<String>,
    pub(super) asked: HashSet<String>,
    /// Some file is to be read once; from then on, files under other names are compared.
    seen_once: bool,
    once: HashSet<Same>,
    pub(super) time_words: u8,
    pub(super) redefined_time_words: u8,
    /// The file being replayed was named on the command line, or included by one that was.
    pub(super) forced: bool,
    /// The number of the line of the directive that is being replayed; 0: unknown.
    pub(super) line: u32,
    budget: usize,
    /// What the condition that is being evaluated depends on, if that is to be kept.
    pub(super) circumstances: Option<Circumstances>,
    /// The summaries of headers, and the context for which they are made.
    summaries: Option<(&'a Summaries, u32)>,
    pub(super) recording: Recording,
}

/// One file that is being replayed.
pub(super) struct Frame {
    pub(super) file: FileId,
    found: Option<Found>,
    source: Arc<SourceFile>,
    at: usize,
    /// A `#line` was met: lines and the file's name are no longer known.
    pub(super) renumbered: bool,
    /// Where it began, if a summary is wanted.
    mark: Option<Mark>,
    /// How many levels deep files were included from it so far.
    depth: usize,
}

/// What makes two files the same for `#pragma once`. GCC compares size, time in seconds and content (libcpp
/// files.cc, `has_unique_contents`); Clang compares inodes.
#[derive(PartialEq, Eq, Hash)]
pub(super) enum Same {
    Content(i64, Digest),
    FileId((u64, u64)),
}

impl Same {
    pub(super) fn of(family: Family, version: Version) -> Same {
        match family {
            Family::Gcc => Same::Content(version.fingerprint.modified_seconds(), version.digest),
            Family::Clang => Same::FileId(version.fingerprint.file_id()),
        }
    }
}

impl<'a> Replay<'a> {
    pub(super) fn new(unit: &'a TranslationUnit, sources: &'a dyn Sources) -> Replay<'a> {
        let mut dialect = Dialect::new(unit.language, unit.family, &unit.predefined);
        dialect.trigraphs = unit.lexing.trigraphs.unwrap_or(dialect.trigraphs);
        Replay {
            unit,
            dialect,
            macros: MacroTable::new(&unit.predefined),
            search: Search::new(unit, sources, dialect),
            frames: Vec::new(),
            opened: Vec::new(),
            embedded: Vec::new(),
            probed_data: Vec::new(),
            embed_depth: 0,
            assembled: Vec::new(),
            included_assembly: HashSet::new(),
            questions: Vec::new(),
            asked: HashSet::new(),
            seen_once: false,
            once: HashSet::new(),
            time_words: 0,
            redefined_time_words: 0,
            forced: false,
            line: 0,
            budget: BUDGET,
            circumstances: None,
            summaries: None,
            recording: Recording::default(),
        }
    }

    /// With the summaries of headers that were replayed in the same context.
    pub(super) fn with_summaries(mut self, summaries: &'a Summaries, context: u32) -> Replay<'a> {
        self.summaries = Some((summaries, context));
        self
    }

    /// Takes `amount` off what the unit may still cost.
    pub(super) fn spend(&mut self, amount: usize) -> Result<(), ScanError> {
        match self.budget.checked_sub(amount) {
            Some(rest) => {
                self.budget = rest;
                Ok(())
            }
            None => Err(ScanError::NotSure("too much work".to_owned())),
        }
    }

    /// The same for a spelling that is made here: it is kept for good (see [`Symbol`]).
    pub(super) fn spend_bytes(&mut self, length: usize) -> Result<(), ScanError> {
        self.spend(length.saturating_mul(BYTE_COST))
    }

    /// Whether the unit may include `depth` levels deeper, and cost `cost` more.
    pub(super) fn has_room_for(&self, depth: usize, cost: usize) -> bool {
        self.frames.len() + depth < DEEPEST_INCLUDE && self.budget >= cost
    }

    /// What the unit has cost since its budget was `budget`.
    pub(super) fn spent_since(&self, budget: usize) -> usize {
        budget - self.budget
    }

    /// Lists a file when it is opened for the first time, and looks at its facts.
    pub(super) fn open(&mut self, id: FileId) -> Result<(), ScanError> {
        let file = self.search.file_mut(id);
        if file.opened {
            return Ok(());
        }
        file.opened = true;
        self.opened.push(id);
        let facts = self.search.file(id).source.facts();
        self.time_words |= facts.time_words;
        let reason = if facts.not_sure.is_some() {
            facts.not_sure
        } else if facts.lone_carriage_return && self.unit.family == Family::Clang {
            Some("lone carriage return")
        } else {
            None
        };
        match reason {
            Some(reason) => {
                Err(ScanError::not_sure(reason, self.search.file(id).input.path.display().to_string()))
            }
            None => Ok(()),
        }
    }

    fn has_modules(&self) -> bool {
        let predefined = &self.unit.predefined;
        match self.unit.family {
            // GCC has them under `-fmodules` and `-fmodules-ts` only, and then says so.
            Family::Gcc => predefined.is_defined(Symbol::CPP_MODULES),
            Family::Clang => predefined.integer(Symbol::CPLUSPLUS) > Some(201_703),
        }
    }

    /// Begins to replay a file, unless it is to be read once or its guard is defined.
    pub(super) fn enter(&mut self, id: FileId, found: Option<Found>, import: bool) -> Result<(), ScanError> {
        self.spend(INCLUDE_COST)?;
        let file = self.search.file_mut(id);
        self.recording.note(Event::Came(id, file.once));
        if file.once {
            return Ok(());
        }
        let replayed_before = file.times > 0;
        let source = Arc::clone(&file.source);
        let version = file.input.version;
        file.once |= import;
        self.open(id)?;
        let family = self.unit.family;
        let same = || Same::of(family, version);
        let is_once = self.is_once(&same());
        if is_once || import {
            // It depends on all files that the unit has come to.
            self.recording.note(Event::Unclear);
        }
        if import {
            // Even if it is not entered now.
            self.seen_once = true;
            self.once.insert(same());
            if replayed_before {
                return Ok(());
            }
        }
        if let Some(guard) = source.facts().guard {
            self.recording.note(Event::Looked(guard));
            if self.macros.is_defined(guard) {
                return Ok(());
            }
        }
        // Few files are imported, so what was replayed is not noted for them.
        let replayed = |same: &Same| {
            let mut files = self.search.files().filter(|file| file.times > 0);
            files.any(|file| Same::of(family, file.input.version) == *same)
        };
        if is_once || (import && replayed(&same())) {
            return Ok(());
        }
        if self.unit.family == Family::Clang && self.search.has_unclear_directory(id) {
            let path = self.search.file(id).input.path.display().to_string();
            return Err(ScanError::not_sure("one file under two names", path));
        }
        if self.frames.len() >= DEEPEST_INCLUDE {
            return Err(ScanError::NotSure("include depth".to_owned()));
        }
        self.replays(id);
        let Some(mark) = self.recalled(id, &source, found)? else { return Ok(()) };
        self.frames.push(Frame { file: id, found, source, at: 0, renumbered: false, mark, depth: 0 });
        Ok(())
    }

    /// Takes what a file does from a summary (None), or else says whether to make one.
    #[allow(
        clippy::option_option,
        reason = "the outer one is whether to replay, the inner whether to record"
    )]
    fn recalled(
        &mut self,
        id: FileId,
        source: &SourceFile,
        found: Option<Found>,
    ) -> Result<Option<Option<Mark>>, ScanError> {
        let Some((summaries, context)) = self.summaries else { return Ok(Some(None)) };
        let Some(found) = found.filter(|_| source.includes()) else { return Ok(Some(None)) };
        let slot = summaries.of(&self.search.file(id).input, context, self.search.found_number(found));
        if slot.is_small() {
            return Ok(Some(None));
        }
        for summary in slot.known().iter() {
            if let Some(holding) = self.holding(summary)? {
                slot.held(summary);
                self.apply(summary, holding)?;
                self.went_deeper(summary.depth);
                return Ok(None);
            }
        }
        let budget = self.budget;
        let wanted = slot.missed(self.recording.is_on());
        Ok(Some(wanted.then(|| self.recording.begin(slot, budget))))
    }

    /// A file that the current one included has been done, and included files `depth` levels deep itself.
    fn went_deeper(&mut self, depth: usize) {
        if let Some(frame) = self.frames.last_mut() {
            frame.depth = frame.depth.max(depth + 1);
        }
    }

    pub(super) fn replays(&mut self, id: FileId) {
        self.recording.note(Event::Replayed(id));
        self.search.file_mut(id).times += 1;
    }

    pub(super) fn probed(&mut self, id: FileId) {
        self.recording.note(Event::Probed(id));
        self.search.file_mut(id).probed = true;
    }

    /// Whether a file that is the same is to be read once.
    pub(super) fn is_once(&self, same: &Same) -> bool {
        self.seen_once && self.once.contains(same)
    }

    /// From now on the file is to be read once.
    pub(super) fn once(&mut self, id: FileId) {
        self.recording.note(Event::Once(id));
        let file = self.search.file_mut(id);
        file.once = true;
        let version = file.input.version;
        self.seen_once = true;
        self.once.insert(Same::of(self.unit.family, version));
    }

    pub(super) fn define(&mut self, definition: &Arc<Macro>) {
        let previous = self.macros.set(definition.name, Some(Arc::clone(definition)));
        if self.recording.is_on() {
            self.recording.note(Event::Changed(definition.name, previous));
        }
    }

    pub(super) fn undefine(&mut self, name: Symbol) {
        let previous = self.macros.set(name, None);
        self.recording.note(Event::Changed(name, previous));
    }

    fn push_macro(&mut self, name: Symbol) {
        self.macros.push(name);
        self.recording.note(Event::Pushed(name));
    }

    fn pop_macro(&mut self, name: Symbol) {
        self.recording.note(Event::Popped(name));
        if let Some(previous) = self.macros.pop(name) {
            self.recording.note(Event::Changed(name, previous));
        }
    }

    /// Replays until all frames are done.
    pub(super) fn run(&mut self) -> Result<(), ScanError> {
        while let Some(frame) = self.frames.last() {
            let source = Arc::clone(&frame.source);
            let mut at = frame.at;
            let depth = self.frames.len();
            while let Some(directive) = source.directives().get(at) {
                self.spend(1)?;
                at = self.step(&source, at, directive)?;
                if self.frames.len() > depth {
                    break;
                }
            }
            if self.frames.len() > depth {
                self.frames[depth - 1].at = at;
            } else {
                self.leave();
            }
        }
        Ok(())
    }

    /// The current file has been replayed.
    fn leave(&mut self) {
        let Some(frame) = self.frames.pop() else { return };
        self.went_deeper(frame.depth);
        if let Some(mark) = frame.mark {
            self.recorded(&mark, frame.depth);
        }
    }

    /// Replays one directive; the index of the next.
    fn step(&mut self, source: &SourceFile, at: usize, directive: &Directive) -> Result<usize, ScanError> {
        match directive {
            Directive::If(..) => return self.branch(source, at),
            // The end of a branch that was taken.
            Directive::Else(_, links) => return Ok(links.end as usize),
            Directive::Endif => {}
            Directive::Define(definition) => self.define(definition),
            Directive::Undefine(name) => self.undefine(*name),
            Directive::Include(including, header, line) => {
                self.line = *line;
                self.include(source, *including, *header)?;
            }
            Directive::PragmaOnce => {
                if let Some(frame) = self.frames.last() {
                    self.once(frame.file);
                }
            }
            Directive::PushMacro(name) => self.push_macro(*name),
            Directive::PopMacro(name) => self.pop_macro(*name),
            Directive::Line(named) => {
                if let Some(frame) = self.frames.last_mut() {
                    frame.renumbered = true;
                }
                if let Some(name) = named.filter(|_| self.unit.family == Family::Gcc) {
                    self.quotes(name)?;
                }
            }
            Directive::Assembly(reads) => self.assemble(reads)?,
            Directive::Embed(..) if !self.knows_embed() => return Err(self.not_sure_here("#embed")),
            Directive::Embed(header, line) => {
                self.line = *line;
                let header = self.computed(source, *header)?;
                self.embed(header)?;
            }
            Directive::Module if self.has_modules() => return Err(self.not_sure_here(MODULES)),
            Directive::Module => {}
            Directive::NotSure(reason) => return Err(self.not_sure_here(reason)),
        }
        Ok(at + 1)
    }

    pub(super) fn not_sure_here(&self, reason: &'static str) -> ScanError {
        ScanError::not_sure(reason, self.current_path().display().to_string())
    }

    /// The file that is being replayed.
    pub(super) fn current_path(&self) -> &Path {
        self.frames.last().map_or(&self.unit.cwd, |frame| &*self.search.file(frame.file).input.path)
    }

    /// From the `#if` at `at` to the first directive of the branch that is taken, or past the `#endif`.
    fn branch(&mut self, source: &SourceFile, mut at: usize) -> Result<usize, ScanError> {
        loop {
            let (condition, links) = match source.directives().get(at) {
                Some(Directive::If(condition, links) | Directive::Else(condition, links)) => {
                    (*condition, *links)
                }
                _ => return Ok(at + 1),
            };
            self.spend(1)?;
            let holds = match condition {
                Condition::Expression(tokens, line, place) => {
                    self.line = line;
                    self.decide(source, tokens, place)?
                }
                Condition::Defined(name) => self.is_defined(name),
                Condition::Undefined(name) => !self.is_defined(name),
                Condition::Always => true,
                Condition::Malformed => return Err(self.not_sure_here("malformed conditional")),
            };
            if holds {
                return Ok(at + 1);
            }
            at = links.next as usize;
        }
    }

    fn include(
        &mut self,
        source: &SourceFile,
        including: Including,
        header: Header,
    ) -> Result<(), ScanError> {
        let header = self.computed(source, header)?;
        let found = self.look_up(header, including == Including::Next)?;
        let (Header::Quoted(name) | Header::Angled(name)) = header else {
            return Err(self.not_sure_here("computed include"));
        };
        let Some(found) = found else {
            return Err(ScanError::Missing { name: name.display(), from: self.current_path().to_owned() });
        };
        self.search.looks_for_precompiled = false;
        self.enter(found.file, Some(found), including == Including::Import)
    }

    /// The header that a directive names, through macros where it does not name it itself.
    fn computed(&mut self, source: &SourceFile, header: Header) -> Result<Header, ScanError> {
        match header {
            Header::Computed(tokens) => Expansion::new(self, source.tokens(tokens)).header(),
            header => Ok(header),
        }
    }

    fn look_up(&mut self, header: Header, next: bool) -> Result<Option<Found>, ScanError> {
        let Some(frame) = self.frames.last() else { return Ok(None) };
        let found_in = frame.found.and_then(|found| found.directory);
        let own_directory = self.search.file(frame.file).directory;
        // In the source itself there is no next: GCC and Clang warn and include.
        let in_source = self.frames.len() == 1 && !self.forced;
        let name = match header {
            Header::Quoted(name) | Header::Angled(name) => name,
            Header::Computed(_) => return Ok(None),
        };
        let after = if next && !in_source { self.search.next_after(found_in) } else { None };
        let start = match (after, header) {
            (Some(start), _) => start,
            (None, Header::Quoted(_)) => Some(own_directory),
            (None, _) => self.search.first_angled(),
        };
        if let Some(start) = start {
            self.recording.note(Event::Searched(start, name));
        }
        if name.text().starts_with(b"/") {
            // Such a search is not remembered, and must be known of each unit.
            self.recording.note(Event::Unclear);
            self.search.note_absolute(name);
        }
        self.search.from(start, name)
    }

    /// The value of `__has_include(header)` or `__has_include_next(header)`.
    pub(super) fn has_include(&mut self, header: Header, next: bool) -> Result<i64, ScanError> {
        self.looked_elsewhere();
        // The compilers do not take a precompiled header for the answer.
        let looks_for_precompiled = std::mem::take(&mut self.search.looks_for_precompiled);
        let found = self.look_up(header, next);
        self.search.looks_for_precompiled = looks_for_precompiled;
        match found? {
            Some(found) => {
                self.probed(found.file);
                Ok(1)
            }
            None => Ok(0),
        }
    }
}
