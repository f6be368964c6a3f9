//! What is to be done so that a mirror becomes like a workspace of which everything is told, and nothing is known from before.
//! Pure: knows the mirror, and does nothing to it.

use std::collections::BTreeMap;
use std::collections::HashSet;

use crate::mirror::Change;
use crate::mirror::Node;
use crate::mirror::RootedChange;
use crate::mirror::Snapshot;
use crate::mirror::TreePath;

/// The changes that make `trees` what `told` says they are to be. What `stays` says so of stays if nothing is told of it, and so do
/// the directories that it is in; those are returned, too.
///
/// Files keep their times as far as the order of these is that in which the workspace's were written: once one has to be written
/// anew, all that is younger there would be older here, so that it gets a time anew as well. What is younger than `now` (in
/// nanoseconds since 1970) has its time from a clock that was wrong: what is written anew would be older.
pub(super) fn changes_to(
    trees: &[Snapshot],
    told: &[RootedChange],
    stays: &mut dyn FnMut(u32, &TreePath, bool) -> bool,
    now: i128,
) -> (Vec<RootedChange>, Vec<(u32, TreePath)>) {
    let (mut changes, mut around) = (Vec::new(), Vec::new());
    let mut named: Vec<BTreeMap<&TreePath, &Change>> = vec![BTreeMap::new(); trees.len()];
    let mut files = Vec::new();
    for rooted in told {
        let RootedChange { root, change } = rooted;
        let Some((tree, named)) = at(trees, *root).zip(named.get_mut(*root as usize)) else { continue };
        named.insert(&change.path, change);
        let there = tree.node(&change.path);
        match &change.now {
            Some(Node::File { digest, .. }) => {
                let is_same = matches!(&there, Some(Node::File { digest: there, .. }) if there == digest);
                let modified = tree.modified_nanos(&change.path).filter(|_| is_same);
                files.push((change.written, modified, rooted, there == change.now));
            }
            now if *now == there => {}
            _ => changes.push(rooted.clone()),
        }
    }
    for (root, (tree, named)) in (0..).zip(trees.iter().zip(&named)) {
        let (removed, kept) = removed(root, tree, named, stays);
        changes.extend(removed);
        around.extend(kept.into_iter().filter(|path| !named.contains_key(path)).map(|path| (root, path)));
    }
    // At the same rank, as they are here.
    files.sort_by_key(|(written, modified, ..)| (*written, *modified));
    let (mut latest, mut is_in_order) = (i128::MIN, true);
    for (_, modified, rooted, is_as_told) in files {
        is_in_order &= modified.is_some_and(|modified| modified >= latest && modified <= now);
        latest = modified.unwrap_or(latest);
        if !is_in_order {
            changes.push(rooted.clone());
        } else if !is_as_told {
            let change = Change { written: None, ..rooted.change.clone() };
            changes.push(RootedChange { root: rooted.root, change });
        }
    }
    (changes, around)
}

fn at(trees: &[Snapshot], root: u32) -> Option<&Snapshot> {
    trees.get(usize::try_from(root).ok()?)
}

/// All that is in a tree and not named, but what stays, and the directories that this is in; and those.
fn removed(
    root: u32,
    tree: &Snapshot,
    named: &BTreeMap<&TreePath, &Change>,
    stays: &mut dyn FnMut(u32, &TreePath, bool) -> bool,
) -> (Vec<RootedChange>, HashSet<TreePath>) {
    let mut entries: Vec<_> = tree.entries_in(&TreePath::root()).collect();
    entries.sort_by(|(one, ..), (other, ..)| other.cmp(one));
    let mut kept = HashSet::new();
    let mut removed = Vec::new();
    for (path, node, _) in entries {
        if named.contains_key(&path) || kept.contains(&path) {
            continue;
        }
        if stays(root, &path, matches!(node, Node::Directory { .. })) {
            let above = std::iter::successors(path.parent(), TreePath::parent);
            kept.extend(above.filter(|path| !path.as_bytes().is_empty()));
            continue;
        }
        removed.push(RootedChange { root, change: Change { path, now: None, written: None } });
    }
    (removed, kept)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::time::Duration;
    use std::time::SystemTime;

    use super::*;
    use crate::digest::Digest;
    use crate::mirror::IgnoreRules;

    fn path(text: &str) -> TreePath {
        TreePath::parse(text.as_bytes()).unwrap()
    }

    /// Makes files whose names are their content, each a second younger than the one before.
    fn lay(root: &Path, files: &[&str]) {
        let begin = SystemTime::now() - Duration::from_secs(3600);
        for (at, file) in (0..).zip(files) {
            fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
            fs::write(root.join(file), file).unwrap();
            let time = begin + Duration::from_secs(at);
            fs::File::open(root.join(file)).unwrap().set_modified(time).unwrap();
        }
    }

    fn file(name: &str, text: &str, written: i128) -> RootedChange {
        let now = Some(Node::File { digest: Digest::of(text.as_bytes()), mode: 0o644 });
        RootedChange { root: 0, change: Change { path: path(name), now, written: Some(written) } }
    }

    fn directory(name: &str) -> RootedChange {
        let now = Some(Node::Directory { mode: 0o755 });
        RootedChange { root: 0, change: Change { path: path(name), now, written: None } }
    }

    fn check(root: &Path, told: &[RootedChange], expected: &[&str]) {
        check_with(i128::MAX, root, told, expected, &[]);
    }

    fn check_at(now: i128, root: &Path, told: &[RootedChange], expected: &[&str]) {
        check_with(now, root, told, expected, &[]);
    }

    /// `around`: directories that are not named and stay for what is in them.
    fn check_with(now: i128, root: &Path, told: &[RootedChange], expected: &[&str], around: &[&str]) {
        let mut tree = Snapshot::whole(root.to_owned(), root.to_owned());
        tree.look().unwrap();
        let mut rules = IgnoreRules::of(root.to_owned()).unwrap();
        let mut stays = |_, path: &TreePath, is_directory| rules.leaves_out(path, is_directory);
        let (changes, kept) = changes_to(&[tree], told, &mut stays, now);
        let mut kept: Vec<_> = kept.iter().map(|(_, path)| path.to_string()).collect();
        kept.sort();
        assert_eq!(kept, around);
        let describe = |rooted: RootedChange| {
            let Change { path, now, written } = rooted.change;
            let what = match (now, written) {
                (None, _) => "gone",
                (Some(_), Some(_)) => "written",
                (Some(_), None) => "changed",
            };
            format!("{path} {what}")
        };
        let mut described: Vec<_> = changes.into_iter().map(describe).collect();
        described.sort();
        assert_eq!(described, expected);
    }

    #[test]
    fn what_is_there_in_the_right_order_stays() {
        let root = tempfile::tempdir().unwrap();
        lay(root.path(), &["a", "b", "c", "d"]);
        check(
            root.path(),
            &[file("a", "a", 1), file("b", "b", 1), file("c", "c", 2), file("d", "d", 3)],
            &[],
        );
        // What is younger than a file that is written anew has to be written anew, too.
        let edited = [file("a", "a", 1), file("b", "other", 2), file("c", "c", 3), file("d", "d", 4)];
        check(root.path(), &edited, &["b written", "c written", "d written"]);
        let touched = [file("a", "a", 9), file("b", "b", 2), file("c", "c", 3), file("d", "d", 4)];
        check(root.path(), &touched, &["a written"]);
        let mut executable = file("b", "b", 2);
        executable.change.now = Some(Node::File { digest: Digest::of(b"b"), mode: 0o755 });
        let told = [file("a", "a", 1), executable, file("c", "c", 3), file("d", "d", 4)];
        check(root.path(), &told, &["b changed"]);
    }

    #[test]
    fn what_a_wrong_clock_has_written_is_written_anew() {
        let root = tempfile::tempdir().unwrap();
        lay(root.path(), &["a", "b", "c"]);
        let nanos = |name: &str| {
            let modified = fs::metadata(root.path().join(name)).unwrap().modified().unwrap();
            let since = modified.duration_since(SystemTime::UNIX_EPOCH).unwrap();
            i128::try_from(since.as_nanos()).unwrap()
        };
        let told = [file("a", "a", 1), file("b", "b", 2), file("c", "c", 3)];
        check_at(nanos("c"), root.path(), &told, &[]);
        check_at(nanos("b"), root.path(), &told, &["c written"]);
        check_at(nanos("a") - 1, root.path(), &told, &["a written", "b written", "c written"]);
    }

    #[test]
    fn what_is_not_named_goes_unless_rules_leave_it_out() {
        let root = tempfile::tempdir().unwrap();
        lay(root.path(), &["a", "d/x", "d/y", "e/cache/z", "e/w"]);
        fs::write(root.path().join(".farccignore"), "cache/\n").unwrap();
        let told = [file(".farccignore", "cache/\n", 1), file("new", "", 2), directory("n")];
        check_with(
            i128::MAX,
            root.path(),
            &told,
            &["a gone", "d gone", "d/x gone", "d/y gone", "e/w gone", "n changed", "new written"],
            &["e", "e/cache"],
        );
    }
}
