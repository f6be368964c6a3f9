//! Two trees that are kept equal, whatever happens in them.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs::Permissions;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;
use std::time::SystemTime;

use super::*;

/// Kinds of operations whose outcome both sides are told of.
const EVERYWHERE: u64 = 11;

/// All kinds.
const ALL: u64 = 12;

/// Operations of all kinds on a few names, so that they meet.
struct Random(u64);

impl Random {
    fn below(&mut self, most: u64) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % most).unwrap()
    }

    fn path(&mut self, root: &Path) -> PathBuf {
        let names = ["a", "b", "c d", "e\n"];
        (0..=self.below(3)).fold(root.to_owned(), |path, _| path.join(names[self.below(4)]))
    }

    /// Most of them fail for some state of the tree: that is no matter.
    fn act(&mut self, root: &Path, kinds: u64) {
        let path = self.path(root);
        match self.below(kinds) {
            0 | 1 => drop(std::fs::create_dir(path)),
            2 | 3 => {
                // Nobody reads from pipes.
                if !path.metadata().is_ok_and(|metadata| metadata.file_type().is_fifo()) {
                    drop(std::fs::write(path, ["", "x", "longer"][self.below(3)]));
                }
            }
            4 => drop(std::fs::remove_file(path)),
            5 => drop(std::fs::remove_dir_all(path)),
            6 => drop(std::fs::rename(path, self.path(root))),
            7 => drop(symlink(["a", "b/c d", "nowhere"][self.below(3)], path)),
            8 => {
                if path.symlink_metadata().is_ok_and(|metadata| metadata.is_file()) {
                    let mode = Permissions::from_mode([0o644, 0o755, 0o600][self.below(3)]);
                    let _ = std::fs::set_permissions(path, mode);
                }
            }
            9 => drop(std::fs::hard_link(path, self.path(root))),
            10 => {
                if path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir()) {
                    let mode = Permissions::from_mode([0o755, 0o750, 0o700][self.below(3)]);
                    let _ = std::fs::set_permissions(path, mode);
                }
            }
            _ => {
                let mode = rustix::fs::Mode::RUSR;
                let _ = rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0);
            }
        }
    }
}

#[test]
fn two_trees_are_kept_equal() {
    let mut random = Random(1);
    for clock in [SystemTime::now, long_after] {
        let ((_one, here), (_two, there)) = (tree(), tree());
        let roots = [&here, &there];
        let mut snapshots = [&here, &there].map(|root| workspace_by(root, clock));
        let mut contents = Bytes::default();
        for snapshot in &mut snapshots {
            look(snapshot);
        }
        for round in 0..300 {
            let (from, to) = (round % 2, 1 - round % 2);
            for _ in 0..random.below(12) {
                random.act(roots[from], EVERYWHERE);
            }
            contents.take(roots[from]);
            let changes = look(&mut snapshots[from]);
            snapshots[round / 2 % 2].watch(random.below(20));
            let older = times(roots[to]);
            install_one(&mut snapshots[to], &changes, &contents).unwrap();
            assert_eq!(seen(&here), seen(&there), "round {round}: {changes:?}");
            assert_eq!(described(&look(&mut snapshots[to])), [""; 0], "round {round}: {changes:?}");
            check_times(&changes, &older, &times(roots[to]), round);
        }
    }
}

/// What rules do not leave out; none of the directories that are here only.
fn heeded(root: &Path, kept: &BTreeSet<TreePath>) -> BTreeMap<PathBuf, Seen> {
    let mut rules = IgnoreRules::of(root.to_owned()).unwrap();
    let mut seen = seen(root);
    seen.retain(|path, seen| {
        let path = TreePath::parse(path.as_os_str().as_bytes()).unwrap();
        !kept.contains(&path) && !rules.leaves_out(&path, matches!(seen, Seen::Directory(_)))
    });
    seen
}

/// Of a mirror's changes, those that a workspace is told of.
fn heeded_changes(mirror: &mut Snapshot) -> Vec<Change> {
    let is_directory = |node: &Node| matches!(node, Node::Directory { .. });
    let before: BTreeSet<TreePath> = mirror
        .entries_in(&TreePath::root())
        .filter_map(|(path, node, _)| is_directory(&node).then_some(path))
        .collect();
    let mut rules = IgnoreRules::of(mirror.root().to_owned()).unwrap();
    let is_heeded = |change: &Change| {
        let is_directory = change.now.as_ref().map_or_else(|| before.contains(&change.path), is_directory);
        !rules.leaves_out(&change.path, is_directory)
    };
    look(mirror).into_iter().filter(is_heeded).collect()
}

#[test]
fn a_workspace_and_its_mirror_are_kept_equal_while_somebody_works_there() {
    let mut rounds = 0;
    for seed in 0..15 {
        let mut random = Random(seed);
        let ((_one, here), (_two, there)) = (tree(), tree());
        std::fs::write(here.join(RULES_FILE), ["", "a\n", "/b/\n!a\n", "*d\n"][random.below(4)]).unwrap();
        let (mut workspace, mut mirror) = (workspace(&here), [whole(there.clone())]);
        look(&mut mirror[0]);
        let mut contents = contents(&["", "x", "longer"]);
        contents.take(&here);
        for round in 0..30 {
            // The first look sees some of it, the second one all.
            for is_quiet in [false, true] {
                let looked = std::thread::scope(|scope| {
                    if !is_quiet {
                        let acts = random.below(12);
                        let random = &mut random;
                        let here = &here;
                        scope.spawn(move || (0..acts).for_each(|_| random.act(here, ALL)));
                    }
                    workspace.look().unwrap()
                });
                let changes: Vec<_> =
                    looked.changes.into_iter().map(|change| RootedChange { root: 0, change }).collect();
                install(&mut mirror, &changes, &contents, Manner::Mirror)
                    .unwrap_or_else(|error| panic!("seed {seed}, round {round}: {error}: {changes:?}"));
            }
            let context = || format!("seed {seed}, round {round}");
            assert_eq!(heeded(&here, &workspace.kept), heeded(&there, &BTreeSet::new()), "{}", context());
            assert_eq!(described(&look(&mut mirror[0])), [""; 0], "{}", context());
            for _ in 0..random.below(6) {
                random.act(&there, EVERYWHERE);
            }
            let changes = heeded_changes(&mut mirror[0]);
            match install_one(&mut workspace, &changes, &contents) {
                Ok(()) => {}
                // Something is there of which the mirror may not know.
                Err(InstallError::Conflict(_)) => break,
                Err(error) => panic!("{}: {error}: {changes:?}", context()),
            }
            rounds += 1;
            workspace.watch(random.below(20));
            mirror[0].watch(random.below(20));
            let told = look(&mut workspace);
            assert_eq!(described(&told), [""; 0], "{}: {changes:?}", context());
            assert_eq!(heeded(&here, &workspace.kept), heeded(&there, &BTreeSet::new()), "{}", context());
        }
    }
    assert!(rounds > 100, "{rounds}");
}

/// What was written is younger than all that was there, in order; all else has the time that it had.
fn check_times(
    changes: &[Change],
    before: &BTreeMap<PathBuf, i128>,
    after: &BTreeMap<PathBuf, i128>,
    round: usize,
) {
    let mut written: Vec<_> = changes
        .iter()
        .filter_map(|change| Some((change.written?, after[change.path.as_path()], change.path.as_path())))
        .collect();
    written.sort();
    for two in written.windows(2) {
        assert_eq!(two[0].0 == two[1].0, two[0].1 == two[1].1, "round {round}: {two:?}");
        assert!(two[0].1 <= two[1].1, "round {round}: {two:?}");
    }
    let latest = before.values().max().copied().unwrap_or(0);
    for (path, time) in after {
        match written.iter().find(|(_, _, written)| written == path) {
            Some(_) => assert!(*time > latest, "round {round}: {}", path.display()),
            None => assert_eq!(Some(time), before.get(path), "round {round}: {}", path.display()),
        }
    }
}
