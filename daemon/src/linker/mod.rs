//! From a linker's arguments to the files that it reads.
//! Knows nothing of compiler drivers, actions or clusters: it is given the words that the linker itself gets, and runs no
//! program.
//!
//! [`LinkLine`] says what the words mean, without looking at files; [`resolve`] finds the files, by the rules of the linker at
//! hand. A file too many costs little, a file too few a failed link: where a linker could go either way, both are taken. What
//! cannot be followed is an error, never a guess.
//!
//! The modules stand in reading order.

mod line;
mod options;

mod file;
mod script;
mod sources;

mod needed;
mod resolve;
mod search;

mod split_debug;

mod names;

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::path::PathBuf;

pub use line::FurtherOutput;
pub use line::LinkLine;
pub use names::Renaming;
pub use names::tie;
pub use resolve::resolve;
pub use sources::Sources;
pub use split_debug::SplitUnit;

/// Whose rules a linker follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flavour {
    /// GNU ld.
    Bfd,
    /// GNU gold.
    Gold,
    /// LLVM's.
    Lld,
    /// mold.
    Mold,
}

impl Flavour {
    /// By the first line of what `ld --version` prints; None for a linker that is not known.
    pub fn of_version(line: &str) -> Option<Flavour> {
        // lld and mold say that they are compatible with GNU linkers.
        let marks = [
            ("LLD ", Flavour::Lld),
            ("mold ", Flavour::Mold),
            ("GNU gold ", Flavour::Gold),
            ("GNU ld ", Flavour::Bfd),
        ];
        let at = |mark: &str| line.match_indices(mark).any(|(at, _)| at == 0 || line[..at].ends_with(' '));
        marks.iter().find(|(mark, _)| at(mark)).map(|(_, flavour)| *flavour)
    }
}

/// What a link depends on besides its arguments and files.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// The directory that relative paths count from.
    pub cwd: &'a Path,
    /// Whose rules the linker follows.
    pub flavour: Flavour,
    /// What `ld --print-sysroot` says, empty for none. The option `--sysroot` overrides it.
    pub sysroot: &'a Path,
    /// The built-in search path, as the `SEARCH_DIR` lines of `ld --verbose` under the line's emulation say; a leading `=`
    /// stands for the sysroot. Only GNU ld and gold have one.
    pub search_directories: &'a [PathBuf],
    /// `LD_LIBRARY_PATH`; None for a linker that makes programs for other machines, which does not heed it.
    pub library_path: Option<&'a OsStr>,
    /// `LD_RUN_PATH`, likewise.
    pub run_path: Option<&'a OsStr>,
}

/// Why the files that a link reads are not known.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// This option is not known, or its effect on files is not.
    #[error("understand the linker's option {0}")]
    Unsupported(String),
    /// This file or library is nowhere; the linker says so in its own words.
    #[error("find {0}")]
    Missing(String),
    /// Something is there that cannot be read.
    #[error("read {}: {error}", path.display())]
    Unreadable {
        /// Where.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// The linker may read files that are not known: why.
    #[error("tell the linker's inputs: {0}")]
    NotSure(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a compiler or archiver, whose words have blanks between them.
    #[expect(clippy::disallowed_methods, reason = "the tests themselves start compilers")]
    pub(super) fn run(directory: &Path, line: &str) {
        let mut words = line.split(' ');
        let mut command = std::process::Command::new(words.next().unwrap());
        assert!(command.args(words).current_dir(directory).status().unwrap().success(), "{line}");
    }

    #[test]
    fn linkers_by_their_first_words() {
        for (line, expected) in [
            ("GNU ld (GNU Binutils for Debian) 2.40", Some(Flavour::Bfd)),
            ("GNU ld version 2.35.2-63.el9", Some(Flavour::Bfd)),
            ("GNU gold (GNU Binutils for Debian 2.40) 1.16", Some(Flavour::Gold)),
            ("LLD 14.0.6 (compatible with GNU linkers)", Some(Flavour::Lld)),
            ("Debian LLD 14.0.6 (compatible with GNU linkers)", Some(Flavour::Lld)),
            ("Ubuntu LLD 18.1.3 (compatible with GNU linkers)", Some(Flavour::Lld)),
            ("mold 1.10.1 (compatible with GNU ld)", Some(Flavour::Mold)),
            ("Wild version 0.5.0 (compatible with GNU linkers)", None),
            ("", None),
        ] {
            assert_eq!(Flavour::of_version(line), expected, "{line}");
        }
    }
}
