//! What is in a mirror and not in its client's workspace: builds have left it there, and nobody has asked for it.
//! Knows nothing of what the files are.
//!
//! A path is held, or the client has it, or it is not in the mirror. So the client is told of everything that it has, and of what
//! is not held any more: always with the directories that it is in.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::PathBuf;

use crate::mirror::Change;
use crate::mirror::Node;
use crate::mirror::Patterns;
use crate::mirror::RootedChange;
use crate::mirror::Snapshot;
use crate::mirror::TreePath;
use crate::mirror::leads_inside;

/// A path in one of the roots.
type Rooted = (u32, TreePath);

/// The paths that are held.
#[derive(Debug)]
pub struct Held {
    /// Where they are written down, for the next session.
    file: PathBuf,
    /// The directories of the workspace, where the client has them.
    roots: Vec<PathBuf>,
    paths: BTreeSet<Rooted>,
    /// Those of commits of which the client has not said yet that its share is in place: if it never does, what it has is of
    /// before, and so must be what is here. They are not written down.
    unplaced: BTreeMap<u64, Vec<Rooted>>,
}

/// What becomes of a command's changes.
#[derive(Debug, Default)]
pub struct Shares {
    /// The client is told of these: directories before what is in them.
    pub told: Vec<RootedChange>,
    /// These stay here.
    pub kept: Vec<RootedChange>,
    /// What the client could not have: symlinks that lead out of the workspace. Of a build they are kept.
    pub outward: BTreeSet<(u32, TreePath)>,
}

impl Held {
    /// Those that are written down in `file`, of a workspace with these directories. If they cannot be read there are none: then
    /// they go when the client tells what it has.
    pub fn open(file: PathBuf, roots: Vec<PathBuf>) -> Held {
        let bytes = fs::read(&file).unwrap_or_default();
        let paths = bytes.split(|byte| *byte == 0).filter_map(|entry| {
            let (root, path) = entry.split_at(memchr::memchr(b'/', entry)?);
            Some((std::str::from_utf8(root).ok()?.parse().ok()?, TreePath::parse(&path[1..]).ok()?))
        });
        Held { paths: paths.collect(), file, roots, unplaced: BTreeMap::new() }
    }

    /// Whether the client does not have it, although it is here.
    pub fn contains(&self, root: u32, path: &TreePath) -> bool {
        // Most mirrors hold nothing.
        !self.paths.is_empty() && self.paths.contains(&(root, path.clone()))
    }

    /// The same, if the directory in which it came to be held is still the client's: one of `named`.
    pub fn contains_below(&self, root: u32, path: &TreePath, named: &HashSet<(u32, &TreePath)>) -> bool {
        let mut above = std::iter::successors(path.parent(), TreePath::parent);
        let outer = above.find(|above| !self.contains(root, above));
        let is_there =
            outer.is_none_or(|outer| outer.as_bytes().is_empty() || named.contains(&(root, &outer)));
        self.contains(root, path) && is_there
    }

    /// Whether the client is to have what a build makes of it: it has it already, or has asked for it.
    pub fn is_wanted(
        &self,
        root: u32,
        path: &TreePath,
        is_directory: bool,
        trees: &[Snapshot],
        fetch: Option<&Patterns>,
    ) -> bool {
        let Some(fetch) = fetch else { return true };
        !self.client_lacks(root, path, trees) || fetch.match_path(path, is_directory)
    }

    fn client_lacks(&self, root: u32, path: &TreePath, trees: &[Snapshot]) -> bool {
        node(trees, root, path).is_none() || self.contains(root, path)
    }

    /// Divides what a command has changed in `trees`, where it is not in place yet. `fetch`: what is wanted of what it has made;
    /// None: all of it.
    pub fn divide(&self, changes: &[RootedChange], trees: &[Snapshot], fetch: Option<&Patterns>) -> Shares {
        let mut shares = Shares::default();
        let changed: BTreeMap<(u32, &TreePath), &Change> =
            changes.iter().map(|rooted| ((rooted.root, &rooted.change.path), &rooted.change)).collect();
        let mut told: BTreeMap<Rooted, Change> = BTreeMap::new();
        let mut tell = |root: u32, change: Change| {
            let above = std::iter::successors(change.path.parent(), TreePath::parent);
            for path in above.take_while(|_| change.now.is_some()) {
                if !self.client_lacks(root, &path, trees) || told.contains_key(&(root, path.clone())) {
                    break;
                }
                let change = match changed.get(&(root, &path)) {
                    Some(change) => Some((*change).clone()),
                    None => as_it_is(trees, root, &path),
                };
                told.extend(change.map(|change| ((root, path), change)));
            }
            told.insert((root, change.path.clone()), change);
        };
        for RootedChange { root, change } in changes {
            if self.leads_out(*root, change) {
                let path = change.path.clone();
                shares.outward.insert((*root, path.clone()));
                if fetch.is_some() {
                    if !self.client_lacks(*root, &path, trees) {
                        tell(*root, Change { path, now: None, written: None });
                    }
                    continue;
                }
            }
            let is_told = match &change.now {
                None => !self.client_lacks(*root, &change.path, trees),
                Some(now) => self.is_wanted(*root, &change.path, is_directory(now), trees, fetch),
            };
            if is_told {
                tell(*root, change.clone());
            }
        }
        // What is asked for may be here from before.
        for (root, path) in self.paths.iter().filter(|_| fetch.is_some()) {
            let change = as_it_is(trees, *root, path).filter(|_| !changed.contains_key(&(*root, path)));
            let wanted = change.filter(|change| !self.leads_out(*root, change)).filter(|change| {
                let now = change.now.as_ref();
                now.is_some_and(|now| self.is_wanted(*root, path, is_directory(now), trees, fetch))
            });
            if let Some(change) = wanted {
                tell(*root, change);
            }
        }
        let is_kept = |rooted: &&RootedChange| {
            let path = (rooted.root, rooted.change.path.clone());
            !told.contains_key(&path) || fetch.is_some() && shares.outward.contains(&path)
        };
        shares.kept = changes.iter().filter(is_kept).cloned().collect();
        shares.told = told.into_iter().map(|((root, _), change)| RootedChange { root, change }).collect();
        shares
    }

    /// Whether it is a symlink that leads out of the workspace, which the client would refuse.
    fn leads_out(&self, root: u32, change: &Change) -> bool {
        match &change.now {
            Some(Node::Link { target }) => !leads_inside(&self.roots, root, &change.path, target),
            _ => false,
        }
    }

    /// What a command has changed is about to be in place, and the client to be told: it is the commit with this number.
    pub fn commit(&mut self, shares: &Shares, number: u64) {
        let mut is_same = true;
        for RootedChange { root, change } in shares.told.iter().chain(&shares.kept) {
            is_same &= !self.forget(*root, change);
        }
        let kept = shares.kept.iter().filter(|rooted| rooted.change.now.is_some());
        let kept: Vec<_> = kept.map(|rooted| (rooted.root, rooted.change.path.clone())).collect();
        self.paths.extend(kept.iter().cloned());
        if !kept.is_empty() {
            self.unplaced.insert(number, kept);
        }
        if !is_same {
            self.save();
        }
    }

    /// The client has put its share of all commits up to this one into place.
    pub fn placed(&mut self, number: u64) {
        let later = self.unplaced.split_off(&number.saturating_add(1));
        let placed = std::mem::replace(&mut self.unplaced, later);
        if !placed.is_empty() {
            self.save();
        }
    }

    /// What the client has changed is about to be in place. `stays`: directories of which it has told that it does not have them,
    /// and that stay for what is in them.
    pub fn apply(&mut self, batch: &[RootedChange], stays: Vec<Rooted>) {
        let mut is_same = true;
        if !self.paths.is_empty() {
            for RootedChange { root, change } in batch {
                is_same &= !self.forget(*root, change);
            }
        }
        for path in stays {
            is_same &= !self.paths.insert(path);
        }
        if !is_same {
            self.save();
        }
    }

    /// It is not held any more; nor is what was in it, if it is no directory now. Returns whether something was.
    fn forget(&mut self, root: u32, change: &Change) -> bool {
        let path = (root, change.path.clone());
        let mut was_held = self.paths.remove(&path);
        if !matches!(change.now, Some(Node::Directory { .. })) {
            // What begins with the same bytes stands together.
            let begins_so =
                |(other, at): &&Rooted| *other == root && at.as_bytes().starts_with(change.path.as_bytes());
            let inside = self.paths.range(path..).take_while(begins_so);
            let inside: Vec<_> = inside.filter(|(_, at)| at.is_in(&change.path)).cloned().collect();
            was_held |= !inside.is_empty();
            for path in &inside {
                self.paths.remove(path);
            }
        }
        was_held
    }

    /// What is not written down goes with the next session: the builds after that have more to do.
    fn save(&self) {
        let mut bytes = Vec::new();
        let unplaced: HashSet<&Rooted> = self.unplaced.values().flatten().collect();
        for (root, path) in self.paths.iter().filter(|path| !unplaced.contains(path)) {
            bytes.extend(root.to_string().into_bytes());
            bytes.push(b'/');
            bytes.extend(path.as_bytes());
            bytes.push(0);
        }
        let written = || -> io::Result<()> {
            let new = self.file.with_extension("new");
            fs::write(&new, bytes)?;
            fs::rename(new, &self.file)
        };
        if let Err(error) = written() {
            tracing::warn!("write {}: {error}", self.file.display());
        }
    }
}

fn is_directory(node: &Node) -> bool {
    matches!(node, Node::Directory { .. })
}

/// What is there, for somebody who does not have it.
fn as_it_is(trees: &[Snapshot], root: u32, path: &TreePath) -> Option<Change> {
    let tree = trees.get(usize::try_from(root).ok()?)?;
    let now = tree.node(path)?;
    let written = if matches!(now, Node::File { .. }) { tree.modified_nanos(path) } else { None };
    Some(Change { path: path.clone(), now: Some(now), written })
}

fn node(trees: &[Snapshot], root: u32, path: &TreePath) -> Option<Node> {
    trees.get(usize::try_from(root).ok()?)?.node(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn path(text: &str) -> TreePath {
        TreePath::parse(text.as_bytes()).unwrap()
    }

    fn change(name: &str, now: Option<Node>) -> RootedChange {
        let written = matches!(now, Some(Node::File { .. })).then_some(1);
        RootedChange { root: 0, change: Change { path: path(name), now, written } }
    }

    fn file(name: &str) -> RootedChange {
        change(name, Some(Node::File { digest: Digest::of(b"made"), mode: 0o644 }))
    }

    fn directory(name: &str) -> RootedChange {
        change(name, Some(Node::Directory { mode: 0o755 }))
    }

    /// A mirror in which some files are the client's, and some are held.
    struct Case {
        place: tempfile::TempDir,
        held: Held,
    }

    impl Case {
        fn new(of_client: &[&str], held: &[&str]) -> Case {
            let place = tempfile::tempdir().unwrap();
            let held_at = place.path().join("held");
            let mut case = Case { held: Held::open(held_at, vec!["/ws".into()]), place };
            of_client.iter().for_each(|name| case.lay(name));
            let kept: Vec<_> = held.iter().map(|name| file(name)).collect();
            let above =
                held.iter().flat_map(|name| std::iter::successors(path(name).parent(), TreePath::parent));
            let is_new = |above: &TreePath| !above.below(&case.mirror()).exists();
            let above: Vec<_> = above.filter(is_new).map(|above| directory(&above.to_string())).collect();
            held.iter().for_each(|name| case.lay(name));
            let shares = Shares { kept: [kept, above].concat(), ..Shares::default() };
            case.held.commit(&shares, 1);
            case.held.placed(1);
            case
        }

        fn mirror(&self) -> PathBuf {
            self.place.path().join("mirror")
        }

        fn lay(&self, name: &str) {
            let file = self.mirror().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, name).unwrap();
        }

        fn trees(&self) -> Vec<Snapshot> {
            let staging = self.place.path().join("staging");
            fs::create_dir_all(&staging).unwrap();
            fs::create_dir_all(self.mirror()).unwrap();
            let mut tree = Snapshot::whole(self.mirror(), staging);
            tree.look().unwrap();
            vec![tree]
        }

        /// What is told of the changes, and what is held after them.
        #[track_caller]
        fn check(&mut self, changes: &[RootedChange], fetch: Option<&str>, told: &[&str], held: &[&str]) {
            let fetch = fetch.map(|lines| Patterns::new(lines.lines().map(str::as_bytes)).unwrap());
            let shares = self.held.divide(changes, &self.trees(), fetch.as_ref());
            let names: Vec<_> = shares.told.iter().map(|rooted| rooted.change.path.to_string()).collect();
            assert_eq!(names, told);
            self.held.commit(&shares, 2);
            self.held.placed(2);
            assert_eq!(self.names(), held);
            let files = changes.iter().filter(|rooted| rooted.change.content().is_some());
            files.for_each(|rooted| self.lay(&rooted.change.path.to_string()));
        }

        fn names(&self) -> Vec<String> {
            let again = Held::open(self.held.file.clone(), Vec::new());
            assert_eq!(again.paths, self.held.paths);
            again.paths.iter().map(|(_, path)| path.to_string()).collect()
        }
    }

    #[test]
    fn what_is_asked_for_comes_with_its_directories() {
        let mut case = Case::new(&["src/a.c"], &[]);
        let made = [directory("b"), directory("b/o"), file("b/o/a.o"), file("b/app"), file("b/log")];
        case.check(&made, Some("b/app"), &["b", "b/app"], &["b/log", "b/o", "b/o/a.o"]);
        // Asked for later, made once more.
        case.check(&[file("b/o/a.o")], Some("*.o"), &["b/o", "b/o/a.o"], &["b/log"]);
    }

    #[test]
    fn what_the_client_has_comes_back_in_any_case() {
        let mut case = Case::new(&["b/app", "b/old", "src/gen.h"], &["b/x.o"]);
        let changes =
            [file("b/app"), change("b/old", None), file("src/gen.h"), file("b/x.o"), change("b/y", None)];
        case.check(&changes, Some("nothing"), &["b/app", "b/old", "src/gen.h"], &["b/x.o"]);
        case.check(&[change("b/x.o", None)], Some("*"), &[], &[]);
    }

    #[test]
    fn what_leads_out_stays_there_whatever_was_asked_for() {
        let link = |name: &str, target: &str| change(name, Some(Node::Link { target: target.into() }));
        let mut case = Case::new(&["b/sdk"], &[]);
        let made =
            [link("b/sdk", "/opt/sdk"), link("b/up", "../../x"), link("b/in", "../b"), link("b/ws", "/ws/a")];
        let shares = case.held.divide(
            &made,
            &case.trees(),
            Some(&Patterns::new([b"*".as_slice()].into_iter()).unwrap()),
        );
        let names: Vec<_> = shares.outward.iter().map(|(_, path)| path.to_string()).collect();
        assert_eq!(names, ["b/sdk", "b/up"]);
        // What the client had in its place goes.
        assert!(shares.told.contains(&change("b/sdk", None)));
        case.check(&made, Some("*"), &["b/in", "b/sdk", "b/ws"], &["b/sdk", "b/up"]);
        fs::remove_file(case.mirror().join("b/sdk")).unwrap();
        std::os::unix::fs::symlink("/opt/sdk", case.mirror().join("b/sdk")).unwrap();
        case.check(&[], Some("*"), &[], &["b/sdk", "b/up"]);
        // Where it is no build, nothing is kept that nobody asked for.
        let shares = case.held.divide(&made[..2], &case.trees(), None);
        assert!(shares.outward.len() == 2 && shares.kept.is_empty() && shares.told.contains(&made[1]));
    }

    #[test]
    fn what_no_build_changes_comes_with_what_was_held() {
        let mut case = Case::new(&["src/a.c"], &["b/t/log", "b/t/other", "b/x"]);
        case.check(&[file("b/t/log")], None, &["b", "b/t", "b/t/log"], &["b/t/other", "b/x"]);
        case.check(&[change("b/t", None)], None, &["b/t"], &["b/x"]);
    }

    #[test]
    fn what_the_client_puts_there_or_removes_is_held_no_more() {
        let mut case = Case::new(&["src/a.c"], &["b/x", "b/y", "b/d/z", "bb"]);
        case.held.apply(&[file("b/x"), directory("b")], Vec::new());
        assert_eq!(case.names(), ["b/d", "b/d/z", "b/y", "bb"]);
        case.held.apply(&[change("b", None)], Vec::new());
        assert_eq!(case.names(), ["bb"]);
        case.held.apply(&[], vec![(0, path("stays"))]);
        assert_eq!(case.names(), ["bb", "stays"]);
    }

    #[test]
    fn what_was_kept_from_the_client_can_be_asked_for_later() {
        let mut case = Case::new(&["src/a.c"], &["b/d/app", "b/x.o"]);
        case.check(&[], Some("app"), &["b", "b/d", "b/d/app"], &["b/x.o"]);
        case.check(&[], Some("app"), &[], &["b/x.o"]);
    }

    #[test]
    fn what_the_client_has_not_put_into_place_is_not_held_for_the_next_session() {
        let mut case = Case::new(&["src/a.c"], &["b/x.o"]);
        let kept = Shares { kept: vec![file("b/x.o"), file("b/y.o")], ..Shares::default() };
        case.held.commit(&kept, 2);
        case.held.commit(&Shares { kept: vec![file("z.o")], ..Shares::default() }, 3);
        let written = |case: &Case| {
            let again = Held::open(case.held.file.clone(), Vec::new());
            again.paths.iter().map(|(_, path)| path.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(written(&case), ["b"]);
        assert!(case.held.contains(0, &path("b/y.o")) && case.held.contains(0, &path("z.o")));
        case.held.placed(2);
        assert_eq!(written(&case), ["b", "b/x.o", "b/y.o"]);
        case.held.placed(3);
        assert_eq!(written(&case), ["b", "b/x.o", "b/y.o", "z.o"]);
    }

    #[test]
    fn what_is_in_a_directory_that_the_client_has_removed_goes() {
        let case = Case::new(&["src/a.c", "b/main.c"], &["b/o/x.o", "top.o"]);
        let named = [path(""), path("src"), path("src/a.c")];
        let named: HashSet<_> = named.iter().map(|path| (0, path)).collect();
        let stays = |name: &str| case.held.contains_below(0, &path(name), &named);
        assert!(stays("top.o") && !stays("b/o") && !stays("b/o/x.o") && !stays("src/a.c"));
        let b = path("b");
        let named = named.into_iter().chain([(0, &b)]).collect();
        assert!(case.held.contains_below(0, &path("b/o/x.o"), &named));
    }

    #[test]
    fn a_list_that_is_damaged_holds_what_can_be_read() {
        let place = tempfile::tempdir().unwrap();
        let at = place.path().join("held");
        assert!(Held::open(at.clone(), Vec::new()).paths.is_empty());
        fs::write(&at, b"0/a\0x/b\0/c\0\x30/../d\0no path\0\x34/e f\0").unwrap();
        let held = Held::open(at, Vec::new());
        assert_eq!(held.paths, BTreeSet::from([(0, path("a")), (4, path("e f"))]));
    }
}
