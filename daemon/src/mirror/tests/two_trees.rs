//! Two trees that are kept equal, whatever happens in them.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;
use std::time::SystemTime;

use super::*;

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
    fn act(&mut self, root: &Path) {
        let path = self.path(root);
        match self.below(9) {
            0 | 1 => drop(std::fs::create_dir(path)),
            2 | 3 => drop(std::fs::write(path, ["", "x", "longer"][self.below(3)])),
            4 => drop(std::fs::remove_file(path)),
            5 => drop(std::fs::remove_dir_all(path)),
            6 => drop(std::fs::rename(path, self.path(root))),
            7 => drop(symlink(["a", "b/c d", "nowhere"][self.below(3)], path)),
            _ => {
                if path.symlink_metadata().is_ok_and(|metadata| metadata.is_file()) {
                    let mode = Permissions::from_mode([0o644, 0o755, 0o600][self.below(3)]);
                    std::fs::set_permissions(path, mode).unwrap();
                }
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
                random.act(roots[from]);
            }
            contents.take(roots[from]);
            let changes = look(&mut snapshots[from]);
            let older = times(roots[to]);
            install_one(&mut snapshots[to], &changes, &contents).unwrap();
            assert_eq!(seen(&here), seen(&there), "round {round}: {changes:?}");
            assert_eq!(described(&look(&mut snapshots[to])), [""; 0], "round {round}: {changes:?}");
            check_times(&changes, &older, &times(roots[to]), round);
        }
    }
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
