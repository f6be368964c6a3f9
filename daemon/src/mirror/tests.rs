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
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use tempfile::TempDir;

use super::snapshot::Scope;
use super::*;
use crate::digest::Digest;

/// Everything has settled.
fn long_after() -> SystemTime {
    SystemTime::now() + Duration::from_secs(60)
}

/// The content of all files that a test has made.
#[derive(Default)]
struct Bytes(HashMap<Digest, Vec<u8>>);

impl Contents for Bytes {
    fn stage(
        &self,
        _: u32,
        _: &TreePath,
        digest: &Digest,
        directory: BorrowedFd<'_>,
        name: &OsStr,
    ) -> io::Result<bool> {
        let Some(bytes) = self.0.get(digest) else { return Ok(false) };
        let path = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
        File::create_new(path)?.write_all(bytes).map(|()| true)
    }
}

impl Bytes {
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

/// A workspace with one root.
fn workspace(root: &Path) -> Snapshot {
    workspace_by(root, SystemTime::now)
}

fn workspace_by(root: &Path, clock: fn() -> SystemTime) -> Snapshot {
    let roots: Arc<[PathBuf]> = [root.to_owned()].into();
    Snapshot::with_clock(root.to_owned(), Scope::Workspace { roots, root: 0 }, clock)
}

/// Looks at a tree of which everything can be sent.
fn look(snapshot: &mut Snapshot) -> Vec<Change> {
    let looked = snapshot.look().unwrap();
    assert_eq!(looked.unsent, []);
    looked.changes
}

/// Installs changes where somebody works.
fn install_one(snapshot: &mut Snapshot, changes: &[Change], contents: &Bytes) -> Result<(), InstallError> {
    let changes: Vec<_> =
        changes.iter().map(|change| RootedChange { root: 0, change: change.clone() }).collect();
    install(std::slice::from_mut(snapshot), &changes, contents, Manner::Workspace)
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
    let mut snapshot = workspace(&root);
    let changes = look(&mut snapshot);
    assert_eq!(described(&changes), ["d .", "d a", "w a/b c\n", "w a/\u{fffd}", "l link"]);
    assert_eq!(changes[3].path.as_bytes(), b"a/\xff");
    assert_eq!(changes[2].now, Some(Node::File { digest: Digest::of(b"x"), mode: 0o644 }));
    assert_eq!(described(&look(&mut snapshot)), [""; 0]);
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
        let mut snapshot = workspace_by(&root, clock);
        let mut told = |act: &dyn Fn()| {
            // Later than any tick.
            std::thread::sleep(Duration::from_millis(20));
            act();
            let changes = described(&look(&mut snapshot));
            assert_eq!(described(&look(&mut snapshot)), [""; 0]);
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
    let mut snapshot = workspace(&root);
    look(&mut snapshot);
    std::fs::remove_file(root.join("a")).unwrap();
    std::fs::remove_dir_all(root.join("d")).unwrap();
    make_fifo(&root.join("a"));
    make_fifo(&root.join("d"));
    assert_eq!(described(&look(&mut snapshot)), ["- a", "- d"]);
    std::fs::remove_file(root.join("d")).unwrap();
    write(&root, "d/b", "");
    assert_eq!(described(&look(&mut snapshot)), ["d d", "w d/b"]);
}

#[test]
fn links_that_lead_out_are_not_sent_until_they_lead_inside() {
    let (_space, root) = tree();
    let relink = |target: &str, name: &str| {
        let _ = std::fs::remove_file(root.join(name));
        symlink(target, root.join(name)).unwrap();
    };
    relink("/etc/passwd", "a");
    relink("..", "b");
    relink("x", "c");
    let mut snapshot = workspace(&root);
    let looked = snapshot.look().unwrap();
    let unsent = |looked: &Looked| -> Vec<_> {
        looked.unsent.iter().map(|Unsent { path, why }| format!("{path}: {why}")).collect()
    };
    assert_eq!(described(&looked.changes), ["d .", "l c"]);
    let leads_out = |target: &str| format!("it leads to {target}, outside of the workspace");
    assert_eq!(
        unsent(&looked),
        [format!("a: {}", leads_out("/etc/passwd")), format!("b: {}", leads_out(".."))]
    );
    relink("x", "a");
    relink("../..", "c");
    std::fs::remove_file(root.join("b")).unwrap();
    let looked = snapshot.look().unwrap();
    assert_eq!(described(&looked.changes), ["l a", "- c"]);
    assert_eq!(unsent(&looked), [format!("c: {}", leads_out("../.."))]);
    assert_eq!(snapshot.len(), 1);
    assert!(snapshot.unsent().eq(looked.unsent));
    assert_eq!(described(&Snapshot::whole(root).look().unwrap().changes), ["d .", "l a", "l c"]);
}

#[test]
fn what_is_known_can_be_asked_for() {
    let (_space, root) = tree();
    write(&root, "a/x", "one");
    write(&root, "a/y", "four");
    write(&root, "ab", "one");
    write(&root, RULES_FILE, "x\n");
    let mut snapshot = Snapshot::whole(root.clone());
    look(&mut snapshot);
    let known = |path: &str| -> Vec<_> {
        let path = TreePath::parse(path.as_bytes()).unwrap();
        snapshot.entries_in(&path).map(|(path, ..)| path.to_string()).collect()
    };
    assert_eq!(known(""), [RULES_FILE, "a", "ab", "a/x", "a/y"]);
    assert_eq!(known("a"), ["a/x", "a/y"]);
    assert_eq!([known("ab"), known("nowhere")], [[""; 0]; 2]);
    for (path, node, modified) in snapshot.entries_in(&TreePath::root()) {
        let metadata = root.join(path.as_path()).symlink_metadata().unwrap();
        assert_eq!(snapshot.node(&path), Some(node));
        let nanos = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
        assert_eq!((snapshot.modified_nanos(&path), modified), (Some(nanos), nanos));
    }
    assert_eq!((snapshot.len(), snapshot.size_bytes()), (5, 12));
    let [one, four, none] = [b"one".as_slice(), b"four", b"none"].map(Digest::of);
    let found = snapshot.find(&[one, four, none, one]);
    assert_eq!(found.len(), 2);
    assert_eq!(found[&four].as_bytes(), b"a/y");
    assert!([b"ab".as_slice(), b"a/x"].contains(&found[&one].as_bytes()));
}

#[test]
fn several_roots_have_one_order_of_writing() {
    let ((_one, here), (_two, there)) = (tree(), tree());
    let mut snapshots = [&here, &there].map(|root| Snapshot::whole(root.clone()));
    write(&there, "old", "");
    for snapshot in &mut snapshots {
        look(snapshot);
    }
    let rooted = |root, path, written| RootedChange {
        root,
        change: Change { written: Some(written), ..file(path, "x") },
    };
    let changes =
        [rooted(0, "c", 3), rooted(1, "b", 2), rooted(0, "a", 1), rooted(1, "d", 4), rooted(1, "a", 1)];
    install(&mut snapshots, &changes, &contents(&["x"]), Manner::Mirror).unwrap();
    let at = |root: &PathBuf, name: &str| times(root)[Path::new(name)];
    let times = [at(&there, "old"), at(&here, "a"), at(&there, "b"), at(&here, "c"), at(&there, "d")];
    assert!(times.windows(2).all(|two| two[0] < two[1]), "{times:?}");
    assert_eq!(at(&here, "a"), at(&there, "a"));
    let error = install(&mut snapshots, &[rooted(2, "a", 1)], &contents(&["x"]), Manner::Mirror).unwrap_err();
    assert!(matches!(error, InstallError::NoRoot(2)), "{error}");
}

#[test]
fn in_a_mirror_whatever_is_in_the_way_goes() {
    let (space, root) = tree();
    for name in ["a", "d/known", "e/known", "f"] {
        write(&root, name, "old");
    }
    std::fs::create_dir(space.path().join("outside")).unwrap();
    write(space.path(), "outside/x", "");
    let mut snapshots = [Snapshot::whole(root.clone())];
    look(&mut snapshots[0]);
    write(&root, "a", "unknown");
    write(&root, "d/unknown/x", "unknown");
    write(&root, "e/unknown/x", "unknown");
    symlink(space.path().join("outside"), root.join("d/unknown/out")).unwrap();
    make_fifo(&root.join("g"));
    std::fs::remove_file(root.join("f")).unwrap();
    let link = Some(Node::Link { target: "/anywhere".into() });
    let directory = Some(Node::Directory { mode: 0o750 });
    let now = |path: &str, now| Change { now, written: None, ..file(path, "") };
    let changes = [
        file("a", "new"),
        file("d", "new"),
        now("e", link),
        now("f", None),
        now("g", directory),
        file("g/x", "new"),
        now("h", None),
    ];
    let changes = changes.map(|change| RootedChange { root: 0, change });
    install(&mut snapshots, &changes, &contents(&["new"]), Manner::Mirror).unwrap();
    let new = || Seen::File(b"new".to_vec(), 0o644);
    let expected = [
        ("a", new()),
        ("d", new()),
        ("e", Seen::Link("/anywhere".into())),
        ("g", Seen::Directory(0o750)),
        ("g/x", new()),
    ];
    assert_eq!(seen(&root), expected.map(|(path, seen)| (PathBuf::from(path), seen)).into());
    assert_eq!(described(&look(&mut snapshots[0])), [""; 0]);
    assert!(space.path().join("outside/x").exists());
}

/// Files that were written beside the tree, and come into it as they are.
struct Beside(PathBuf);

impl Contents for Beside {
    fn stage(
        &self,
        _: u32,
        path: &TreePath,
        _: &Digest,
        directory: BorrowedFd<'_>,
        name: &OsStr,
    ) -> io::Result<bool> {
        let flags = rustix::fs::AtFlags::empty();
        let linked = rustix::fs::linkat(rustix::fs::CWD, self.0.join(path.as_path()), directory, name, flags);
        linked.map(|()| true).map_err(io::Error::from)
    }
}

#[test]
fn what_is_committed_stays_as_it_was_written() {
    let (space, root) = tree();
    let upper = space.path().join("upper");
    write(&upper, "a", "one");
    std::fs::hard_link(upper.join("a"), upper.join("b")).unwrap();
    write(&upper, "d", "two");
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    File::options().write(true).open(upper.join("a")).unwrap().set_modified(long_ago).unwrap();
    let mut snapshots = [Snapshot::whole(root.clone())];
    look(&mut snapshots[0]);
    let rooted = |path, content, mode| RootedChange {
        root: 0,
        change: Change { now: Some(Node::File { digest: Digest::of(content), mode }), ..file(path, "") },
    };
    let changes = [rooted("a", b"one", 0o600), rooted("b", b"one", 0o600), rooted("d", b"two", 0)];
    install(&mut snapshots, &changes, &Beside(upper.clone()), Manner::Commit).unwrap();
    let at = |name: &str| root.join(name).metadata().unwrap();
    assert_eq!(at("a").ino(), at("b").ino());
    assert_eq!((at("a").modified().unwrap(), at("a").mode() & 0o777), (long_ago, 0o600));
    assert_eq!(at("d").mode() & 0o777, 0);
    assert_eq!(described(&look(&mut snapshots[0])), [""; 0]);
    // What somebody else has as well is not touched elsewhere.
    let changes = [rooted("a", b"one", 0o666)];
    install(&mut snapshots, &changes, &Beside(upper.clone()), Manner::Mirror).unwrap();
    let beside = upper.join("a").metadata().unwrap();
    assert_eq!((beside.modified().unwrap(), beside.mode() & 0o777), (long_ago, 0o600));
    assert!(at("a").modified().unwrap() > long_ago && at("a").mode() & 0o777 == 0o666);
    std::fs::remove_file(upper.join("a")).unwrap();
    std::fs::create_dir(upper.join("a")).unwrap();
    install(&mut snapshots, &changes, &Beside(upper.clone()), Manner::Mirror).unwrap_err();
    std::fs::remove_dir(upper.join("a")).unwrap();
    symlink("/etc/passwd", upper.join("a")).unwrap();
    for manner in [Manner::Mirror, Manner::Commit] {
        install(&mut snapshots, &changes, &Beside(upper.clone()), manner).unwrap_err();
    }
    assert_eq!(seen(&root).len(), 3);
}

#[test]
fn what_is_too_deep_is_left_out() {
    let (_space, root) = tree();
    let deep = (0..600).fold(root.clone(), |path, _| path.join("x"));
    std::fs::create_dir_all(deep).unwrap();
    let mut snapshot = workspace(&root);
    let looked = snapshot.look().unwrap();
    assert_eq!(looked.unsent.len(), 1);
    assert_eq!((&looked.unsent[0].why, looked.unsent[0].path.as_bytes().len()), (&WhyUnsent::TooDeep, 803));
    assert_eq!(looked.changes.len(), 402);
    // As long as nothing changes.
    let again = snapshot.look().unwrap();
    assert_eq!((again.changes.len(), again.unsent.len()), (0, 0));
    assert!(snapshot.unsent().eq(looked.unsent));
}

#[test]
fn names_of_one_file_are_no_conflict_and_others_keep_their_mode() {
    let (space, root) = tree();
    let outside = space.path().join("outside");
    std::fs::write(&outside, "one").unwrap();
    std::fs::hard_link(&outside, root.join("a")).unwrap();
    std::fs::hard_link(&outside, root.join("b")).unwrap();
    std::fs::hard_link(&outside, root.join("c")).unwrap();
    let mut snapshot = workspace(&root);
    look(&mut snapshot);
    let mode_only = Change {
        path: TreePath::parse(b"c").unwrap(),
        now: Some(Node::File { digest: Digest::of(b"one"), mode: 0o777 }),
        written: None,
    };
    let gone = Change { path: TreePath::parse(b"b").unwrap(), now: None, written: None };
    let before = root.join("c").metadata().unwrap().modified().unwrap();
    install_one(&mut snapshot, &[file("a", "two"), gone, mode_only], &contents(&["two"])).unwrap();
    assert_eq!(outside.metadata().unwrap().mode() & 0o777, 0o644);
    let c = root.join("c").metadata().unwrap();
    assert_eq!((c.mode() & 0o777, c.modified().unwrap()), (0o777, before));
    assert_eq!(std::fs::read_to_string(&outside).unwrap(), "one");
    assert_eq!(described(&look(&mut snapshot)), [""; 0]);
}

#[test]
fn a_directory_s_permissions_are_told_once() {
    let (_space, root) = tree();
    write(&root, "d/a", "");
    let mut snapshot = workspace(&root);
    look(&mut snapshot);
    let now = Some(Node::Directory { mode: 0o555 });
    let change = Change { path: TreePath::parse(b"d").unwrap(), now, written: None };
    install_one(&mut snapshot, &[change], &contents(&[])).unwrap();
    assert_eq!(described(&look(&mut snapshot)), [""; 0]);
}

#[test]
fn rules_leave_out() {
    let (_space, root) = tree();
    write(&root, "a/x.log", "");
    write(&root, "a/keep.log", "");
    write(&root, "a/deep/x.log", "");
    write(&root, "logs/x", "");
    let mut snapshot = workspace(&root);
    assert_eq!(look(&mut snapshot).len(), 8);
    write(&root, RULES_FILE, "*.log\nlogs/\n");
    assert_eq!(described(&look(&mut snapshot)), ["w .farccignore"]);
    assert_eq!(snapshot.len(), 3);
    // None of its business any more.
    std::fs::remove_file(root.join("a/x.log")).unwrap();
    std::fs::remove_file(root.join("a/deep/x.log")).unwrap();
    write(&root, "logs/y", "");
    assert_eq!(described(&look(&mut snapshot)), [""; 0]);
    write(&root, "a/.farccignore", "!keep.log\n");
    assert_eq!(described(&look(&mut snapshot)), ["w a/.farccignore", "w a/keep.log"]);
    std::fs::remove_file(root.join(RULES_FILE)).unwrap();
    assert_eq!(described(&look(&mut snapshot)), ["- .farccignore", "d logs", "w logs/x", "w logs/y"]);
    // Braces are letters, a rule never leaves out the rules, and what is no file has none.
    write(&root, "a/{x}", "");
    write(&root, "a/.farccignore", "{x}\n.*\n[\n");
    assert_eq!(described(&look(&mut snapshot)), ["w a/.farccignore"]);
    std::fs::remove_file(root.join("a/.farccignore")).unwrap();
    make_fifo(&root.join("a/.farccignore"));
    assert_eq!(described(&look(&mut snapshot)), ["- a/.farccignore", "w a/{x}"]);
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

fn contents(of: &[&str]) -> Bytes {
    Bytes(of.iter().map(|text| (Digest::of(text.as_bytes()), text.as_bytes().to_vec())).collect())
}

#[test]
fn what_was_changed_here_is_not_overwritten() {
    let (_space, root) = tree();
    write(&root, "a", "old");
    write(&root, "d/b", "old");
    let mut snapshot = workspace(&root);
    look(&mut snapshot);
    write(&root, "a", "mine");
    write(&root, "n", "mine");
    write(&root, "d/b", "mine");
    let blobs = contents(&["theirs", "fine"]);
    let gone = Change { path: TreePath::parse(b"d").unwrap(), now: None, written: None };
    for change in [file("a", "theirs"), file("n", "theirs"), file("d", "theirs"), gone] {
        let error = install_one(&mut snapshot, &[file("f", "fine"), change], &blobs).unwrap_err();
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
    let mut snapshot = workspace(&root);
    look(&mut snapshot);
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
        let error = install_one(&mut snapshot, &[link(target)], &contents(&[])).unwrap_err();
        assert!(matches!(error, InstallError::Outside { .. }), "{target}: {error}");
    }
    for target in ["x", "..", "../nowhere", "/usr/include", root.join("d").to_str().unwrap()] {
        install_one(&mut snapshot, &[link(target)], &contents(&[])).unwrap();
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
        assert!(install_one(&mut snapshot, &changes, &blobs).is_err());
    }
    // So does it with one that comes from there.
    let inside = Change { now: Some(Node::Link { target: "e".into() }), ..file("g", "") };
    let error = install_one(&mut snapshot, &[inside, file("g/x", "x")], &blobs).unwrap_err();
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
    let mut snapshot = workspace(&root);
    look(&mut snapshot);
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
        let error = install_one(&mut snapshot, &changes, &blobs).unwrap_err();
        assert!(matches!(error, InstallError::NoTree(_) | InstallError::Unknown(_)), "{changes:?}: {error}");
    }
    let error =
        install_one(&mut snapshot, &[file("b", "x"), file("c", "not to be had")], &blobs).unwrap_err();
    assert!(matches!(error, InstallError::Gone(_)), "{error}");
    assert_eq!(seen(&root), before);
}

#[test]
fn what_farcc_does_not_know_stays() {
    let (_space, root) = tree();
    write(&root, RULES_FILE, "*.tmp\n");
    write(&root, "d/a", "");
    write(&root, "d/mine.tmp", "mine");
    let mut snapshot = workspace(&root);
    look(&mut snapshot);
    let gone = Change { path: TreePath::parse(b"d").unwrap(), now: None, written: None };
    install_one(&mut snapshot, &[gone], &contents(&[])).unwrap();
    assert_eq!(std::fs::read_to_string(root.join("d/mine.tmp")).unwrap(), "mine");
    assert!(!root.join("d/a").exists());
}
