//! Which names in a tree are none of the other side's business.
//! Knows nothing of what they are.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use ignore::Match;
use ignore::gitignore::Gitignore;
use ignore::gitignore::GitignoreBuilder;

use crate::digest::Digest;
use crate::mirror::TreePath;

/// The file that has the rules for the directory that it is in and all below it (gitignore(5)).
pub const RULES_FILE: &str = ".farccignore";

/// The rules that hold in one directory: its own before those of the directories above it.
#[derive(Debug, Clone, Default)]
pub(super) struct Rules {
    own: Option<(Digest, Arc<Gitignore>)>,
    above: Option<Arc<Rules>>,
}

impl Rules {
    /// The rules of a directory `path` of the tree at `root`, which is in one that has the rules `above`.
    ///
    /// # Errors
    /// When there is a file of rules that cannot be read or has a pattern that is none.
    pub(super) fn of(root: &Path, path: &TreePath, above: &Arc<Rules>) -> Result<Arc<Rules>, ignore::Error> {
        let directory = root.join(path.as_path());
        let file = directory.join(RULES_FILE);
        let text = match std::fs::read(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Arc::clone(above)),
            Err(error) => return Err(error.into()),
        };
        let mut builder = GitignoreBuilder::new(&directory);
        for line in String::from_utf8_lossy(&text).lines() {
            builder.add_line(Some(file.clone()), line)?;
        }
        let own = Some((Digest::of(&text), Arc::new(builder.build()?)));
        Ok(Arc::new(Rules { own, above: Some(Arc::clone(above)) }))
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
