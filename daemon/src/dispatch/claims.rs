//! Which outputs are being made just now: two commands that make one file at the same time cannot know whose
//! bytes they find there.
//! Knows nothing of what the commands are.

use std::path::PathBuf;
use std::sync::Arc;

use dashmap::DashMap;

/// The outputs of all commands that are under way.
#[derive(Default)]
pub(super) struct Claims {
    by_path: DashMap<PathBuf, Claimed>,
}

#[derive(Default)]
struct Claimed {
    holders: usize,
    contested: bool,
}

/// The outputs of one command, until it is dropped.
pub(super) struct Claim {
    claims: Arc<Claims>,
    paths: Vec<PathBuf>,
}

impl Claims {
    /// Claims `paths` (absolute, without symlinks).
    pub(super) fn claim(self: &Arc<Self>, mut paths: Vec<PathBuf>) -> Claim {
        paths.sort();
        paths.dedup();
        for path in &paths {
            let mut claimed = self.by_path.entry(path.clone()).or_default();
            claimed.holders += 1;
            claimed.contested |= claimed.holders > 1;
        }
        Claim { claims: Arc::clone(self), paths }
    }
}

impl Claim {
    /// The output that another command has claimed since this one did, or had before.
    pub(super) fn contested(&self) -> Option<&PathBuf> {
        let is_contested =
            |path: &&PathBuf| self.claims.by_path.get(*path).is_some_and(|claimed| claimed.contested);
        self.paths.iter().find(is_contested)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        for path in &self.paths {
            if let Some(mut claimed) = self.claims.by_path.get_mut(path) {
                claimed.holders -= 1;
            }
            self.claims.by_path.remove_if(path, |_, claimed| claimed.holders == 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_holders_of_an_output_see_it_contested() {
        let claims = Arc::new(Claims::default());
        let first = claims.claim(vec!["/w/a.o".into(), "/w/a.d".into()]);
        assert_eq!(first.contested(), None);
        let second = claims.claim(vec!["/w/a.o".into(), "/w/b.d".into()]);
        assert_eq!(first.contested(), Some(&PathBuf::from("/w/a.o")));
        assert_eq!(second.contested(), Some(&PathBuf::from("/w/a.o")));
        // What the other has written stays written.
        drop(second);
        assert!(first.contested().is_some());
        drop(first);
        assert!(claims.by_path.is_empty());
        assert_eq!(claims.claim(vec!["/w/a.o".into()]).contested(), None);
    }
}
