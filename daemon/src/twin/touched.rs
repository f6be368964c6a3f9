//! What has been changed in a mirror lately, and by whom, so that two who have changed the same file are told from each other.
//! Knows nothing of what the changes are.

use std::collections::BTreeMap;

use crate::mirror::RootedChange;
use crate::mirror::TreePath;

/// Counts the changes of a mirror as wholes: each batch of the client's is one, and each command's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Generation(u64);

/// Who has changed something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The user, or something else on the client's side.
    Client,
    /// A command on this machine.
    Command,
}

/// The last change of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Touch {
    generation: Generation,
    /// Whose it was.
    pub by: By,
    /// When a command has written it, in nanoseconds since 1970 by the clock of this machine's files.
    pub written: Option<i128>,
}

/// The changes that somebody may not have seen.
#[derive(Debug, Default)]
pub struct Touched {
    generation: Generation,
    last: BTreeMap<(u32, TreePath), Touch>,
}

impl Touched {
    /// Where whoever begins now begins: he sees all that has been changed.
    pub fn now(&self) -> Generation {
        self.generation
    }

    /// Takes note of one more change of the mirror.
    pub fn note(&mut self, by: By, changes: &[RootedChange]) {
        self.generation.0 += 1;
        for RootedChange { root, change } in changes {
            let written = change.written.filter(|_| by == By::Command);
            let touch = Touch { generation: self.generation, by, written };
            self.last.insert((*root, change.path.clone()), touch);
        }
    }

    /// The last change of a path, if it came after `began`.
    pub fn since(&self, began: Generation, root: u32, path: &TreePath) -> Option<Touch> {
        let touch = self.last.get(&(root, path.clone()))?;
        (touch.generation > began).then_some(*touch)
    }

    /// Whether something in the directory `path` was changed after `began`.
    pub fn has_inside(&self, began: Generation, root: u32, path: &TreePath) -> bool {
        // Those that begin with the same bytes stand together.
        let from = self.last.range((root, path.clone())..);
        from.take_while(|((other, at), _)| *other == root && at.as_bytes().starts_with(path.as_bytes()))
            .any(|((_, at), touch)| at != path && at.is_in(path) && touch.generation > began)
    }

    /// Forgets what all have seen who began at `oldest` or later; None: nobody is under way.
    pub fn forget_seen(&mut self, oldest: Option<Generation>) {
        match oldest {
            None => self.last.clear(),
            Some(oldest) => self.last.retain(|_, touch| touch.generation > oldest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::Change;

    fn path(text: &str) -> TreePath {
        TreePath::parse(text.as_bytes()).unwrap()
    }

    fn gone(names: &[&str]) -> Vec<RootedChange> {
        let change = |name: &&str| Change { path: path(name), now: None, written: Some(7) };
        names.iter().map(|name| RootedChange { root: 0, change: change(name) }).collect()
    }

    #[test]
    fn who_began_before_is_told() {
        let mut touched = Touched::default();
        touched.note(By::Client, &gone(&["a", "d/e"]));
        let began = touched.now();
        assert_eq!(touched.since(began, 0, &path("a")), None);
        touched.note(By::Command, &gone(&["a", "d-e", "d/f/g"]));
        let touch = touched.since(began, 0, &path("a")).unwrap();
        assert_eq!((touch.by, touch.written), (By::Command, Some(7)));
        assert_eq!(touched.since(began, 1, &path("a")), None);
        assert_eq!(touched.since(began, 0, &path("d/e")), None);
        assert!(touched.has_inside(began, 0, &path("d")) && touched.has_inside(began, 0, &path("d/f")));
        assert!(!touched.has_inside(began, 0, &path("d/e")) && !touched.has_inside(began, 0, &path("a")));
        assert!(!touched.has_inside(touched.now(), 0, &path("d")));
        assert!(!touched.has_inside(began, 1, &TreePath::root()));
        touched.forget_seen(Some(began));
        assert!(touched.since(began, 0, &path("a")).is_some());
        touched.forget_seen(None);
        assert!(touched.since(began, 0, &path("a")).is_none());
    }
}
