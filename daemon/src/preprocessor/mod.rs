//! Finds the files that a compile reads, without running the compiler.
//! Knows nothing of command lines, toolchains or remote execution: it is given a [`TranslationUnit`].
//!
//! Two stages. Each file, once: [`SourceFile`] keeps its directives and a few facts. Each unit: [`scan`] replays the
//! directives with a real macro table, `#if` evaluator and search path. What it cannot follow is
//! [`ScanError::NotSure`], never a guess. [`Memo`] remembers whole scans.
//!
//! The modules stand in reading order.

mod unit;

mod symbol;

mod assembly;
mod dialect;
mod siblings;
mod skimmer;
mod source_file;
mod sources;
mod token;

mod absence;
mod assembled;
mod beginning;
mod decision;
mod embed;
mod expand;
mod expression;
mod macros;
mod names;
mod recording;
mod replay;
mod search;
mod summaries;
mod summary;
mod survey;

mod failed_lookups;
mod identity;
mod memo;

#[cfg(test)]
mod tests;

pub use dialect::Dialect;
pub use failed_lookups::FailedLookups;
pub use macros::Predefined;
pub use memo::Memo;
pub use replay::scan;
pub use siblings::Siblings;
pub use source_file::SourceFile;
pub use sources::DiskSources;
pub use sources::Loaded;
pub use sources::MemorySources;
pub use sources::Sources;
pub use summaries::Summaries;
pub use unit::Answers;
pub use unit::Family;
pub use unit::ForcedInclude;
pub use unit::Form;
pub use unit::Language;
pub use unit::Lexing;
pub use unit::MacroOption;
pub use unit::SearchPath;
pub use unit::TranslationUnit;

use std::path::PathBuf;
use std::sync::Arc;

use crate::files::InputFile;
use crate::preprocessor::survey::Evidence;

/// What a unit reads.
#[derive(Debug)]
pub struct Scan {
    /// Every file that is opened, the source first, then in order, at the end what `#embed` reads. No path twice. A
    /// path is the working directory joined with the path as the compiler spells it, `..` kept.
    pub files: Box<[Arc<InputFile>]>,
    /// Files that the assembler reads for `.incbin` and `.include`, likewise. No compiler's `-M` lists them. Some may
    /// be in excess: a statement that no code uses counts, and of the assembler's search path every directory
    /// that has the file.
    pub assembled: Box<[Arc<InputFile>]>,
    /// Precompiled headers that the compiler may take in place of their texts, which are among the files as well.
    pub precompiled: Box<[Arc<InputFile>]>,
    /// Files that a `__has_include` or `__has_embed` found and nothing opened, and those that GCC's messages quote because
    /// a `#line` names them; spelled likewise.
    pub probed: Box<[Arc<InputFile>]>,
    /// The names by which includes, `__has_include` and their kin in some file's text asked for files by their whole paths,
    /// found or not.
    pub absolute: Vec<PathBuf>,
    /// `__DATE__` or `__TIME__` may be expanded: it stands in some file's code or macros.
    pub uses_time: bool,
    /// The same for `__TIMESTAMP__`, which no variable of the environment fixes.
    pub uses_timestamp: bool,
    /// Where files were looked for and not found: if one appears there, the scan is no longer valid.
    pub failed_lookups: FailedLookups,
    /// What shows that they still fail.
    evidence: Evidence,
}

impl Scan {
    /// All files on which the compile depends, in whichever way.
    pub fn all_files(&self) -> impl Iterator<Item = &Arc<InputFile>> {
        self.files.iter().chain(&self.assembled).chain(&self.precompiled).chain(&self.probed)
    }

    /// The paths of the files that are opened.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.files.iter().map(|file| file.path.clone()).collect()
    }
}

/// Why there is no [`Scan`].
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// An included file, or the source itself, is nowhere: the compiler would fail, too.
    #[error("find {name}, included from {}", from.display())]
    Missing {
        /// As the directive or the command line names it.
        name: String,
        /// The including file, absolute; the working directory for what the command line names.
        from: PathBuf,
    },
    /// A file is there and cannot be read.
    #[error("read {}: {error}", path.display())]
    Unreadable {
        /// The file, absolute.
        path: PathBuf,
        /// What the system answered.
        error: std::io::Error,
    },
    /// The scanner cannot follow the unit: a stable reason word, and for some reasons `: ` and a detail.
    #[error("follow the preprocessor: {0}")]
    NotSure(String),
    /// The compiler must be asked these questions, in the spelling of the keys of
    /// [`Answers`]; each is an expression for `#if`. Then scan again.
    #[error("answer {}", .0.join(", "))]
    Unanswered(Vec<String>),
}

/// A macro can make a spelling of megabytes, of which a message shows this many bytes.
const LONGEST_DETAIL: usize = 4096;

impl ScanError {
    fn not_sure(reason: &'static str, detail: impl Into<String>) -> ScanError {
        let mut detail = detail.into();
        if detail.len() > LONGEST_DETAIL {
            let end = (0..=LONGEST_DETAIL).rev().find(|&end| detail.is_char_boundary(end));
            detail.truncate(end.unwrap_or_default());
            detail.push('…');
        }
        ScanError::NotSure(format!("{reason}: {detail}"))
    }
}
