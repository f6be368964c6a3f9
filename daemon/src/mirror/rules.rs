//! Which names in a tree are none of the other side's business.
//! Knows nothing of what they are.

use std::fs::File;
use std::io;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use ignore::Match;
use ignore::gitignore::Gitignore;
use ignore::gitignore::GitignoreBuilder;

use crate::digest::Digest;

/// The file that has the rules for the directory that it is in and all below it (gitignore(5)).
pub const RULES_FILE: &str = ".farccignore";

/// Longer ones are not read.
const LARGEST_BYTES: u64 = 1 << 20;

/// Braces mean themselves in gitignore(5), and alternatives in the library.
fn without_alternatives(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut is_escaped = false;
    for letter in line.chars() {
        if matches!(letter, '{' | '}') && !is_escaped {
            plain.push('\\');
        }
        is_escaped = letter == '\\' && !is_escaped;
        plain.push(letter);
    }
    plain
}

/// The rules that hold in one directory: its own before those of the directories above it.
#[derive(Debug, Clone, Default)]
pub(super) struct Rules {
    own: Option<(Digest, Arc<Gitignore>)>,
    above: Option<Arc<Rules>>,
}

impl Rules {
    /// The rules of `directory` (absolute), which has `file` for its rules and is in one that has the rules `above`. What is
    /// no file, or larger than any such file, has no rules; nor has a line that is no pattern.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn of(directory: &Path, file: File, above: &Arc<Rules>) -> io::Result<Arc<Rules>> {
        let metadata = file.metadata()?;
        if !metadata.is_file() || metadata.len() > LARGEST_BYTES {
            return Ok(Arc::clone(above));
        }
        let mut text = Vec::new();
        file.take(LARGEST_BYTES).read_to_end(&mut text)?;
        let mut builder = GitignoreBuilder::new(directory);
        for line in String::from_utf8_lossy(&text).lines() {
            if let Err(error) = builder.add_line(None, &without_alternatives(line)) {
                tracing::warn!("{}: {line:?} is passed over: {error}", directory.join(RULES_FILE).display());
            }
        }
        let own = builder.build().map_err(io::Error::other)?;
        Ok(Arc::new(Rules { own: Some((Digest::of(&text), Arc::new(own))), above: Some(Arc::clone(above)) }))
    }

    /// Whether they are those of the same files with the same text.
    pub(super) fn is(&self, other: &Rules) -> bool {
        let digest = |rules: &Rules| rules.own.as_ref().map(|(digest, _)| *digest);
        let is_same_above = match (&self.above, &other.above) {
            (Some(own), Some(other)) => own.is(other),
            (own, other) => own.is_none() == other.is_none(),
        };
        digest(self) == digest(other) && is_same_above
    }

    /// Whether they leave out `path` (absolute), which is in the directory that they are for.
    pub(super) fn leave_out(&self, path: &Path, is_directory: bool) -> bool {
        let mut rules = Some(self);
        while let Some(Rules { own, above }) = rules {
            match own.as_ref().map_or(Match::None, |(_, own)| own.matched(path, is_directory)) {
                Match::Ignore(_) => return true,
                Match::Whitelist(_) => return false,
                Match::None => rules = above.as_deref(),
            }
        }
        false
    }
}
