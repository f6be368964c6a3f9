//! The second stage: replays the directives of one unit with its macros, and lists the files that are opened.
//! Knows nothing of bytes: files come stripped.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use crate::digest::Digest;
use crate::files::InputFile;
use crate::files::Version;
use crate::preprocessor::Dialect;
use crate::preprocessor::Family;
use crate::preprocessor::ForcedInclude;
use crate::preprocessor::MacroOption;
use crate::preprocessor::Scan;
use crate::preprocessor::ScanError;
use crate::preprocessor::SourceFile;
use crate::preprocessor::Sources;
use crate::preprocessor::TranslationUnit;
use crate::preprocessor::decision::Circumstances;
use crate::preprocessor::expand::Expansion;
use crate::preprocessor::macros::MacroTable;
use crate::preprocessor::search::FileId;
use crate::preprocessor::search::Found;
use crate::preprocessor::search::Search;
use crate::preprocessor::skimmer::TIMESTAMP_WORD;
use crate::preprocessor::skimmer::time_word;
use crate::preprocessor::source_file::Condition;
use crate::preprocessor::source_file::Directive;
use crate::preprocessor::source_file::Header;
use crate::preprocessor::source_file::Including;
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
    let mut replay = Replay::new(unit, sources);
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
    let (failed_lookups, evidence) = replay.search.into_failed_lookups();
    Ok(Scan {
        files,
        assembled: replay.assembled,
        probed,
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
    time_words: u8,
    redefined_time_words: u8,
    /// The file being replayed was named on the command line, or included by one that was.
    pub(super) forced: bool,
    /// The number of the line of the directive that is being replayed; 0: unknown.
    pub(super) line: u32,
    budget: usize,
    /// What the condition that is being evaluated depends on, if that is to be kept.
    pub(super) circumstances: Option<Circumstances>,
}

/// One file that is being replayed.
pub(super) struct Frame {
    pub(super) file: FileId,
    found: Option<Found>,
    source: Arc<SourceFile>,
    at: usize,
    /// A `#line` was met: lines and the file's name are no longer known.
    pub(super) renumbered: bool,
}

/// What makes two files the same for `#pragma once`. GCC compares size, time in seconds and content (libcpp
/// files.cc, `has_unique_contents`); Clang compares inodes.
#[derive(PartialEq, Eq, Hash)]
enum Same {
    Content(i64, Digest),
    FileId((u64, u64)),
}

impl Same {
    fn of(family: Family, version: Version) -> Same {
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
        }
    }

    /// In the order of GCC and Clang: the command line's macros, `-imacros`, what GCC includes by itself,
    /// `-include`, the source.
    fn unit(&mut self) -> Result<(), ScanError> {
        let unit = self.unit;
        let Some(source) = self.search.source(&unit.source)? else {
            return Err(ScanError::Missing {
                name: unit.source.display().to_string(),
                from: unit.cwd.clone(),
            });
        };
        self.open(source)?;
        for option in &unit.macros {
            self.macro_option(option)?;
        }
        self.forced = true;
        for forced in &unit.forced_includes {
            if let ForcedInclude::Macros(path) = forced {
                self.forced_include(path)?;
            }
        }
        if self.pre_includes() {
            // What the compiler includes by itself is never a precompiled header, nor in the way of one.
            let looks_for_precompiled = std::mem::take(&mut self.search.looks_for_precompiled);
            if let Some(found) = self.search.angled(Symbol::of(b"stdc-predef.h"))? {
                self.enter(found.file, Some(found), false)?;
                self.run()?;
            }
            self.search.looks_for_precompiled = looks_for_precompiled;
        }
        for forced in &unit.forced_includes {
            if let ForcedInclude::Include(path) = forced {
                self.forced_include(path)?;
            }
        }
        self.forced = false;
        self.enter(source, None, false)?;
        self.run()
    }

    /// Whether GCC includes `stdc-predef.h`: when hosted and with its standard directories (gcc/c-family/c-opts.cc,
    /// `push_command_line_include`). Under `-nostdinc` only `-I` directories are left.
    fn pre_includes(&self) -> bool {
        self.unit.family == Family::Gcc
            && self.unit.predefined.integer(Symbol::STDC_HOSTED) != Some(0)
            && self.unit.search_path.angle.len() > self.unit.search_path.user_directories
    }

    fn macro_option(&mut self, option: &MacroOption) -> Result<(), ScanError> {
        let mut text = Vec::new();
        match option {
            MacroOption::Define(definition) => {
                text.extend_from_slice(b"#define ");
                // Both compilers ignore what follows a newline.
                let definition =
                    definition.as_bytes().split(|&byte| byte == b'\n').next().unwrap_or_default();
                match definition.iter().position(|&byte| byte == b'=') {
                    Some(equals) => {
                        text.extend_from_slice(&definition[..equals]);
                        text.push(b' ');
                        text.extend_from_slice(&definition[equals + 1..]);
                    }
                    None => {
                        text.extend_from_slice(definition);
                        text.extend_from_slice(b" 1");
                    }
                }
            }
            MacroOption::Undefine(name) => {
                text.extend_from_slice(b"#undef ");
                text.extend_from_slice(name.as_bytes());
            }
        }
        let line = SourceFile::parse(&text, self.dialect);
        self.time_words |= line.facts().time_words;
        for directive in line.directives() {
            match directive {
                Directive::Define(definition) => {
                    // `-D__DATE__=…`: what the word expands to is then known.
                    self.redefined_time_words |= time_word(definition.name);
                    self.macros.define(definition);
                }
                Directive::Undefine(name) => self.macros.undefine(*name),
                _ => return Err(ScanError::not_sure("macro option", String::from_utf8_lossy(&text))),
            }
        }
        Ok(())
    }

    fn forced_include(&mut self, path: &Path) -> Result<(), ScanError> {
        let name = Symbol::of(path.as_os_str().as_bytes());
        if self.unit.family == Family::Clang {
            self.search.refuse_precompiled(name.text(), &[".pch", ".gch"])?;
        }
        let directory = self.search.working_directory();
        let found = self.search.quoted(directory, name)?;
        let Some(found) = found else {
            return Err(ScanError::Missing { name: name.display(), from: self.unit.cwd.clone() });
        };
        self.search.looks_for_precompiled = false;
        self.enter(found.file, Some(found), false)?;
        self.run()
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

    /// Lists a file when it is opened for the first time, and looks at its facts.
    fn open(&mut self, id: FileId) -> Result<(), ScanError> {
        let file = self.search.file_mut(id);
        if file.opened {
            return Ok(());
        }
        file.opened = true;
        self.opened.push(id);
        let source = Arc::clone(&self.search.file(id).source);
        let facts = source.facts();
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
    fn enter(&mut self, id: FileId, found: Option<Found>, import: bool) -> Result<(), ScanError> {
        self.spend(INCLUDE_COST)?;
        let file = self.search.file_mut(id);
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
        let is_once = self.seen_once && self.once.contains(&same());
        if import {
            // Even if it is not entered now.
            self.seen_once = true;
            self.once.insert(same());
            if replayed_before {
                return Ok(());
            }
        }
        if source.facts().guard.is_some_and(|guard| self.macros.is_defined(guard)) {
            return Ok(());
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
        self.search.file_mut(id).times += 1;
        self.frames.push(Frame { file: id, found, source, at: 0, renumbered: false });
        Ok(())
    }

    fn pragma_once(&mut self) {
        let Some(frame) = self.frames.last() else { return };
        let file = self.search.file_mut(frame.file);
        file.once = true;
        let version = file.input.version;
        self.seen_once = true;
        self.once.insert(Same::of(self.unit.family, version));
    }

    /// Replays until all frames are done.
    fn run(&mut self) -> Result<(), ScanError> {
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
                self.frames.pop();
            }
        }
        Ok(())
    }

    /// Replays one directive; the index of the next.
    fn step(&mut self, source: &SourceFile, at: usize, directive: &Directive) -> Result<usize, ScanError> {
        match directive {
            Directive::If(..) => return self.branch(source, at),
            // The end of a branch that was taken.
            Directive::Else(_, links) => return Ok(links.end as usize),
            Directive::Endif => {}
            Directive::Define(definition) => self.macros.define(definition),
            Directive::Undefine(name) => self.macros.undefine(*name),
            Directive::Include(including, header, line) => {
                self.line = *line;
                self.include(source, *including, *header)?;
            }
            Directive::PragmaOnce => self.pragma_once(),
            Directive::PushMacro(name) => self.macros.push(*name),
            Directive::PopMacro(name) => self.macros.pop(*name),
            Directive::Line => {
                if let Some(frame) = self.frames.last_mut() {
                    frame.renumbered = true;
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
        if next
            && !in_source
            && let Some(found) = self.search.next(found_in, name)?
        {
            return Ok(found);
        }
        match header {
            Header::Quoted(_) => self.search.quoted(own_directory, name),
            _ => self.search.angled(name),
        }
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
                self.search.file_mut(found.file).probed = true;
                Ok(1)
            }
            None => Ok(0),
        }
    }
}
