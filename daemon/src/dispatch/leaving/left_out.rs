//! What a `.farccignore` leaves out of a workspace: the twin has none of it, and what a command writes there stays there.
//! Knows nothing of commands.

use std::path::Path;
use std::path::PathBuf;

use crate::mirror::IgnoreRules;
use crate::mirror::RULES_FILE;
use crate::mirror::TreePath;
use crate::reason::Reason;

/// The rules of a workspace, by root; None where they cannot be read.
pub(super) struct LeftOut<'a> {
    roots: &'a [PathBuf],
    rules: Vec<Option<IgnoreRules>>,
}

impl LeftOut<'_> {
    /// Those of the workspace with these directories.
    pub(super) fn of(roots: &[PathBuf]) -> LeftOut<'_> {
        let rules = roots.iter().map(|root| IgnoreRules::of(root.clone()).ok());
        LeftOut { roots, rules: rules.collect() }
    }

    /// # Errors
    /// When they leave out what is, or would be, at `path` (absolute, without `..`).
    pub(super) fn check(&mut self, path: &Path) -> Result<(), Reason> {
        for (root, rules) in self.roots.iter().zip(&mut self.rules) {
            let Ok(below) = path.strip_prefix(root) else { continue };
            // What is no path leads nowhere.
            let Ok(below) = TreePath::parse(below.as_os_str().as_encoded_bytes()) else { continue };
            let is_directory = path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
            if rules.as_mut().is_some_and(|rules| rules.leaves_out(&below, is_directory)) {
                let text = format!("{} is left out by a {RULES_FILE}", path.display());
                return Err(Reason::StaysHere(text));
            }
        }
        Ok(())
    }
}
