//! Two trees on one disk that are kept equal.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs::File;
use std::fs::FileTimes;
use std::fs::Permissions;
use std::io;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::SystemTime;

use tempfile::TempDir;

use super::*;
use crate::digest::Digest;

/// Everything has settled.
fn long_after() -> SystemTime {
    SystemTime::now() + Duration::from_secs(60)
}

/// The content of all files that a test has made.
#[derive(Default)]
struct Contents(HashMap<Digest, Vec<u8>>);

impl Blobs for Contents {
    fn write(&self, digest: &Digest, file: &mut File) -> io::Result<bool> {
        let Some(bytes) = self.0.get(digest) else { return Ok(false) };
        file.write_all(bytes).map(|()| true)
    }
}

impl Contents {
    fn take(&mut self, root: &Path) {
        for seen in seen(root).into_values() {
            if let Seen::File(bytes, _) = seen {
                self.0.insert(Digest::of(&bytes), bytes);
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Directory(u32),
    File(Vec<u8>, u32),
    Link(OsString),
}

fn seen(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut all = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            let mode = metadata.mode() & 0o777;
            let what = if metadata.is_dir() {
                left.push(path.clone());
                Seen::Directory(mode)
            } else if metadata.is_symlink() {
                Seen::Link(path.read_link().unwrap().into())
            } else {
                Seen::File(std::fs::read(&path).unwrap(), mode)
            };
            all.insert(path.strip_prefix(root).unwrap().to_owned(), what);
        }
    }
    all
}

fn tree() -> (TempDir, PathBuf) {
    let space = tempfile::tempdir().unwrap();
    let root = space.path().canonicalize().unwrap().join("tree");
    std::fs::create_dir(&root).unwrap();
    (space, root)
}

fn write(root: &Path, name: &str, text: &str) {
    let path = root.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// `w` written, `m` other permissions, `-` gone, `d` directory, `l` symlink.
fn described(changes: &[Change]) -> Vec<String> {
    let letter = |change: &Change| match (&change.now, change.written) {
        (None, _) => '-',
        (Some(Node::File { .. }), Some(_)) => 'w',
        (Some(Node::File { .. }), None) => 'm',
        (Some(Node::Directory { .. }), _) => 'd',
        (Some(Node::Link { .. }), _) => 'l',
    };
    changes.iter().map(|change| format!("{} {}", letter(change), change.path)).collect()
}

#[test]
fn the_first_look_tells_of_all() {
    let (_space, root) = tree();
    write(&root, "a/b c\n", "x");
    std::fs::write(root.join("a").join(OsStr::from_bytes(b"\xff")), "y").unwrap();
    symlink("a", root.join("link")).unwrap();
    make_fifo(&root.join("fifo"));
    let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    let mut snapshot = Snapshot::new(root);
    let changes = snapshot.look().unwrap();
    assert_eq!(described(&changes), ["d .", "d a", "w a/b c\n", "w a/\u{fffd}", "l link"]);
    assert_eq!(changes[3].path.as_bytes(), b"a/\xff");
    assert_eq!(changes[2].now, Some(Node::File { digest: Digest::of(b"x"), mode: 0o644 }));
    assert_eq!(described(&snapshot.look().unwrap()), [""; 0]);
    assert_eq!(snapshot.len(), 4);
}

#[test]
fn what_has_changed_is_told_once() {
    let (_space, root) = tree();
    for name in ["a/one", "a/two", "b/three", "b/deep/four", "five"] {
        write(&root, name, name);
    }
    let outside = root.with_file_name("outside");
    std::fs::hard_link(root.join("five"), &outside).unwrap();
    // Nothing is settled: what looks the same is read again.
    for clock in [SystemTime::now, long_after] {
        let mut snapshot = Snapshot::with_clock(root.clone(), clock);
        let mut told = |act: &dyn Fn()| {
            // Later than any tick.
            std::thread::sleep(Duration::from_millis(20));
            act();
            let changes = described(&snapshot.look().unwrap());
            assert_eq!(described(&snapshot.look().unwrap()), [""; 0]);
            changes
        };
        let at = |name: &str| root.join(name);
        assert_eq!(told(&|| ()).len(), 9);
        assert_eq!(told(&|| write(&root, "a/one", "ENO")), ["w a/one"]);
        assert_eq!(told(&|| write(&root, "a/one", "ENO")), ["w a/one"], "equal bytes are written, too");
        let mode =
            |name: &str, mode| std::fs::set_permissions(at(name), Permissions::from_mode(mode)).unwrap();
        assert_eq!(told(&|| mode("a/one", 0o755)), ["m a/one"]);
        assert_eq!(told(&|| mode("a", 0o700)), ["d a"]);
        assert_eq!(told(&|| std::fs::remove_file(at("a/one")).unwrap()), ["- a/one"]);
        assert_eq!(told(&|| std::fs::rename(at("a/two"), at("a/one")).unwrap()), ["w a/one", "- a/two"]);
        assert_eq!(told(&|| write(&root, "new/er/file", "")), ["d new", "d new/er", "w new/er/file"]);
        assert_eq!(
            told(&|| std::fs::rename(at("b"), at("c")).unwrap()),
            ["- b", "d c", "d c/deep", "w c/deep/four", "w c/three"]
        );
        let file_for_directory = || {
            std::fs::remove_dir_all(at("new")).unwrap();
            write(&root, "new", "");
        };
        assert_eq!(told(&file_for_directory), ["w new"]);
        let directory_for_file = || {
            std::fs::remove_file(at("new")).unwrap();
            write(&root, "new/x", "");
        };
        assert_eq!(told(&directory_for_file), ["d new", "w new/x"]);
        assert_eq!(told(&|| symlink("x", at("new/l")).unwrap()), ["l new/l"]);
        let other_link = || {
            std::fs::remove_file(at("new/l")).unwrap();
            symlink("y", at("new/l")).unwrap();
        };
        assert_eq!(told(&other_link), ["l new/l"]);
        // By another name.
        assert_eq!(told(&|| std::fs::write(&outside, "FIVE").unwrap()), ["w five"]);
        // Another file with the same time, size and permissions.
        let same_time = || {
            let times = FileTimes::new().set_modified(at("five").metadata().unwrap().modified().unwrap());
            write(&root, "../other", "five");
            File::options().write(true).open(root.with_file_name("other")).unwrap().set_times(times).unwrap();
            std::fs::rename(root.with_file_name("other"), at("five")).unwrap();
        };
        assert_eq!(told(&same_time), ["w five"]);
        mode("a", 0o755);
        std::fs::remove_dir_all(at("new")).unwrap();
        std::fs::rename(at("c"), at("b")).unwrap();
        std::fs::rename(at("a/one"), at("a/two")).unwrap();
        write(&root, "a/one", "");
        std::fs::remove_file(&outside).unwrap();
        std::fs::hard_link(at("five"), &outside).unwrap();
    }
}

fn make_fifo(path: &Path) {
    let mode = rustix::fs::Mode::RUSR;
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
}

#[test]
fn what_becomes_something_else_is_gone() {
    let (_space, root) = tree();
    write(&root, "a", "");
    write(&root, "d/b", "");
    let mut snapshot = Snapshot::new(root.clone());
    snapshot.look().unwrap();
    std::fs::remove_file(root.join("a")).unwrap();
    std::fs::remove_dir_all(root.join("d")).unwrap();
    make_fifo(&root.join("a"));
    make_fifo(&root.join("d"));
    assert_eq!(described(&snapshot.look().unwrap()), ["- a", "- d"]);
    std::fs::remove_file(root.join("d")).unwrap();
    write(&root, "d/b", "");
    assert_eq!(described(&snapshot.look().unwrap()), ["d d", "w d/b"]);
}

#[test]
fn a_tree_that_is_too_deep_is_refused() {
    let (_space, root) = tree();
    let deep = (0..600).fold(root.clone(), |path, _| path.join("x"));
    std::fs::create_dir_all(deep).unwrap();
    assert!(matches!(Snapshot::new(root).look(), Err(LookError::TooDeep(_))));
}

#[test]
fn names_of_one_file_are_no_conflict_and_others_keep_their_mode() {
    let (space, root) = tree();
    let outside = space.path().join("outside");
    std::fs::write(&outside, "one").unwrap();
    std::fs::hard_link(&outside, root.join("a")).unwrap();
    std::fs::hard_link(&outside, root.join("b")).unwrap();
    std::fs::hard_link(&outside, root.join("c")).unwrap();
    let mut snapshot = Snapshot::new(root.clone());
    snapshot.look().unwrap();
    let mode_only = Change {
        path: TreePath::parse(b"c").unwrap(),
        now: Some(Node::File { digest: Digest::of(b"one"), mode: 0o777 }),
        written: None,
    };
    let gone = Change { path: TreePath::parse(b"b").unwrap(), now: None, written: None };
    let before = root.join("c").metadata().unwrap().modified().unwrap();
    install(&mut snapshot, &[file("a", "two"), gone, mode_only], &contents(&["two"])).unwrap();
    assert_eq!(outside.metadata().unwrap().mode() & 0o777, 0o644);
    let c = root.join("c").metadata().unwrap();
    assert_eq!((c.mode() & 0o777, c.modified().unwrap()), (0o777, before));
    assert_eq!(std::fs::read_to_string(&outside).unwrap(), "one");
    assert_eq!(described(&snapshot.look().unwrap()), [""; 0]);
}

#[test]
fn a_directory_s_permissions_are_told_once() {
    let (_space, root) = tree();
    write(&root, "d/a", "");
    let mut snapshot = Snapshot::new(root);
    snapshot.look().unwrap();
    let now = Some(Node::Directory { mode: 0o555 });
    let change = Change { path: TreePath::parse(b"d").unwrap(), now, written: None };
    install(&mut snapshot, &[change], &contents(&[])).unwrap();
    assert_eq!(described(&snapshot.look().unwrap()), [""; 0]);
}

#[test]
fn rules_leave_out() {
    let (_space, root) = tree();
    write(&root, "a/x.log", "");
    write(&root, "a/keep.log", "");
    write(&root, "a/deep/x.log", "");
    write(&root, "logs/x", "");
    let mut snapshot = Snapshot::new(root.clone());
    assert_eq!(snapshot.look().unwrap().len(), 8);
    write(&root, RULES_FILE, "*.log\nlogs/\n");
    assert_eq!(described(&snapshot.look().unwrap()), ["w .farccignore"]);
    assert_eq!(snapshot.len(), 3);
    // None of its business any more.
    std::fs::remove_file(root.join("a/x.log")).unwrap();
    std::fs::remove_file(root.join("a/deep/x.log")).unwrap();
    write(&root, "logs/y", "");
    assert_eq!(described(&snapshot.look().unwrap()), [""; 0]);
    write(&root, "a/.farccignore", "!keep.log\n");
    assert_eq!(described(&snapshot.look().unwrap()), ["w a/.farccignore", "w a/keep.log"]);
    std::fs::remove_file(root.join(RULES_FILE)).unwrap();
    assert_eq!(described(&snapshot.look().unwrap()), ["- .farccignore", "d logs", "w logs/x", "w logs/y"]);
    // Braces are letters, a rule never leaves out the rules, and what is no file has none.
    write(&root, "a/{x}", "");
    write(&root, "a/.farccignore", "{x}\n.*\n[\n");
    assert_eq!(described(&snapshot.look().unwrap()), ["w a/.farccignore"]);
    std::fs::remove_file(root.join("a/.farccignore")).unwrap();
    make_fifo(&root.join("a/.farccignore"));
    assert_eq!(described(&snapshot.look().unwrap()), ["- a/.farccignore", "w a/{x}"]);
}

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
        let mut snapshots = [&here, &there].map(|root| Snapshot::with_clock(root.clone(), clock));
        let mut contents = Contents::default();
        for snapshot in &mut snapshots {
            snapshot.look().unwrap();
        }
        for round in 0..300 {
            let (from, to) = (round % 2, 1 - round % 2);
            for _ in 0..random.below(12) {
                random.act(roots[from]);
            }
            contents.take(roots[from]);
            let changes = snapshots[from].look().unwrap();
            let older = times(roots[to]);
            install(&mut snapshots[to], &changes, &contents).unwrap();
            assert_eq!(seen(&here), seen(&there), "round {round}: {changes:?}");
            assert_eq!(described(&snapshots[to].look().unwrap()), [""; 0], "round {round}: {changes:?}");
            check_times(&changes, &older, &times(roots[to]), round);
        }
    }
}

/// When each file was written.
fn times(root: &Path) -> BTreeMap<PathBuf, i128> {
    let modified = |path: &Path| {
        let metadata = root.join(path).symlink_metadata().unwrap();
        i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec())
    };
    let files = seen(root).into_iter().filter(|(_, seen)| matches!(seen, Seen::File(..)));
    files.map(|(path, _)| (path.clone(), modified(&path))).collect()
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

fn file(path: &str, content: &str) -> Change {
    let now = Some(Node::File { digest: Digest::of(content.as_bytes()), mode: 0o644 });
    Change { path: TreePath::parse(path.as_bytes()).unwrap(), now, written: Some(1) }
}

fn contents(of: &[&str]) -> Contents {
    Contents(of.iter().map(|text| (Digest::of(text.as_bytes()), text.as_bytes().to_vec())).collect())
}

#[test]
fn what_was_changed_here_is_not_overwritten() {
    let (_space, root) = tree();
    write(&root, "a", "old");
    write(&root, "d/b", "old");
    let mut snapshot = Snapshot::new(root.clone());
    snapshot.look().unwrap();
    write(&root, "a", "mine");
    write(&root, "n", "mine");
    write(&root, "d/b", "mine");
    let blobs = contents(&["theirs", "fine"]);
    let gone = Change { path: TreePath::parse(b"d").unwrap(), now: None, written: None };
    for change in [file("a", "theirs"), file("n", "theirs"), file("d", "theirs"), gone] {
        let error = install(&mut snapshot, &[file("f", "fine"), change], &blobs).unwrap_err();
        assert!(matches!(error, InstallError::Conflict(_)), "{error}");
    }
    let texts = ["a", "n", "d/b"].map(|name| std::fs::read_to_string(root.join(name)).unwrap());
    assert_eq!(texts, ["mine", "mine", "mine"]);
    assert_eq!(seen(&root).len(), 4, "{:?}", seen(&root));
}

#[test]
fn nothing_is_put_outside() {
    let (space, root) = tree();
    std::fs::create_dir(space.path().join("outside")).unwrap();
    write(&root, "d/x", "");
    let mut snapshot = Snapshot::new(root.clone());
    snapshot.look().unwrap();
    let link = |target: &str| Change {
        path: TreePath::parse(b"d/l").unwrap(),
        now: Some(Node::Link { target: target.into() }),
        written: None,
    };
    for target in [
        "../../outside",
        "/etc/passwd",
        "../..",
        "/home",
        "../d/../../outside",
        "x/../../..",
        "../d/../x",
        "/proc/self/root/etc/passwd",
        "/dev/zero",
        "/usr/../etc/passwd",
    ] {
        let error = install(&mut snapshot, &[link(target)], &contents(&[])).unwrap_err();
        assert!(matches!(error, InstallError::Outside { .. }), "{target}: {error}");
    }
    for target in ["x", "..", "../nowhere", "/usr/include", root.join("d").to_str().unwrap()] {
        install(&mut snapshot, &[link(target)], &contents(&[])).unwrap();
        assert_eq!(std::fs::read_link(root.join("d/l")).unwrap(), Path::new(target));
    }
    // A directory becomes a symlink when nobody looks.
    std::fs::rename(root.join("d"), root.join("e")).unwrap();
    symlink(space.path().join("outside"), root.join("d")).unwrap();
    let blobs = contents(&["x"]);
    let directory = Change {
        path: TreePath::parse(b"d/new").unwrap(),
        now: Some(Node::Directory { mode: 0o755 }),
        written: None,
    };
    for changes in [vec![file("d/new", "x")], vec![directory.clone()], vec![directory, file("d/new/er", "x")]]
    {
        assert!(install(&mut snapshot, &changes, &blobs).is_err());
    }
    // So does it with one that comes from there.
    let inside = Change { now: Some(Node::Link { target: "e".into() }), ..file("g", "") };
    let error = install(&mut snapshot, &[inside, file("g/x", "x")], &blobs).unwrap_err();
    assert!(matches!(error, InstallError::NoTree(_)), "{error}");
    assert_eq!(std::fs::read_dir(space.path().join("outside")).unwrap().count(), 0);
    let left = seen(&root).into_keys().any(|path| path.to_string_lossy().contains(".farcc-tmp"));
    assert!(!left, "{:?}", seen(&root));
}

#[test]
fn changes_that_make_no_tree_are_refused() {
    let (_space, root) = tree();
    write(&root, "a", "old");
    write(&root, "d/e/y", "old");
    let mut snapshot = Snapshot::new(root.clone());
    snapshot.look().unwrap();
    let blobs = contents(&["x"]);
    let before = seen(&root);
    let root_gone = Change { path: TreePath::root(), now: None, written: None };
    let mode_only = |path: &str, content: &str| Change { written: None, ..file(path, content) };
    let gone = |path: &str| Change { now: None, written: None, ..file(path, "") };
    for changes in [
        vec![file("b", "x"), file("b", "x")],
        vec![file("a/b", "x")],
        vec![file("b", "x"), file("b/c", "x")],
        vec![file("nowhere/b", "x")],
        vec![file("", "x")],
        vec![root_gone],
        vec![mode_only("b", "x")],
        vec![mode_only("a", "x")],
        vec![file(".farcc-tmp-0-0", "x")],
        vec![gone("d"), file("d/e/x", "x")],
        vec![file("d", "x"), file("d/e/x", "x")],
    ] {
        let error = install(&mut snapshot, &changes, &blobs).unwrap_err();
        assert!(matches!(error, InstallError::NoTree(_) | InstallError::Unknown(_)), "{changes:?}: {error}");
    }
    let error = install(&mut snapshot, &[file("b", "x"), file("c", "not to be had")], &blobs).unwrap_err();
    assert!(matches!(error, InstallError::Gone(_)), "{error}");
    assert_eq!(seen(&root), before);
}

#[test]
fn what_farcc_does_not_know_stays() {
    let (_space, root) = tree();
    write(&root, RULES_FILE, "*.tmp\n");
    write(&root, "d/a", "");
    write(&root, "d/mine.tmp", "mine");
    let mut snapshot = Snapshot::new(root.clone());
    snapshot.look().unwrap();
    let gone = Change { path: TreePath::parse(b"d").unwrap(), now: None, written: None };
    install(&mut snapshot, &[gone], &contents(&[])).unwrap();
    assert_eq!(std::fs::read_to_string(root.join("d/mine.tmp")).unwrap(), "mine");
    assert!(!root.join("d/a").exists());
}
