//! What changes do to a tree, and do not.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::SystemTime;

use super::*;
use crate::mirror::snapshot::Entry;

#[test]
fn several_roots_have_one_order_of_writing() {
    let ((_one, here), (_two, there)) = (tree(), tree());
    let mut snapshots = [&here, &there].map(|root| whole(root.clone()));
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
    let mut snapshots = [whole(root.clone())];
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
    let mut snapshots = [whole(root.clone())];
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

fn gone(path: &str) -> Change {
    Change { now: None, written: None, ..file(path, "") }
}

fn directory(path: &str) -> Change {
    Change { now: Some(Node::Directory { mode: 0o755 }), written: None, ..file(path, "") }
}

/// Content that comes while somebody saves.
struct Meanwhile<'a>(Bytes, &'a dyn Fn());

impl Contents for Meanwhile<'_> {
    fn stage(
        &self,
        root: u32,
        path: &TreePath,
        digest: &Digest,
        directory: BorrowedFd<'_>,
        name: &OsStr,
    ) -> io::Result<bool> {
        (self.1)();
        self.0.stage(root, path, digest, directory, name)
    }
}

#[test]
fn what_is_saved_while_changes_are_put_into_place_stays() {
    let (_space, root) = tree();
    let link =
        |path: &str| Change { now: Some(Node::Link { target: "x".into() }), written: None, ..file(path, "") };
    let mode = |path: &str| Change {
        now: Some(Node::File { digest: Digest::of(b"old"), mode: 0o600 }),
        written: None,
        ..file(path, "")
    };
    for change in
        [file("a", "theirs"), file("new", "theirs"), gone("a"), link("a"), link("new"), mode("linked")]
    {
        for name in ["a", "new", "linked"] {
            let _ = std::fs::remove_file(root.join(name));
        }
        write(&root, "a", "old");
        write(&root, "linked", "old");
        std::fs::hard_link(root.join("linked"), root.with_file_name("other")).unwrap();
        let mut snapshot = workspace(&root);
        look(&mut snapshot);
        let name = change.path.to_string();
        let save = || write(&root, &name, "saved");
        let contents = Meanwhile(contents(&["theirs", "fine"]), &save);
        let changes = [change.clone(), file("z", "fine")].map(|change| RootedChange { root: 0, change });
        let installed = install(
            std::slice::from_mut(&mut snapshot),
            &changes,
            &contents,
            Manner::Workspace { seen_at: None },
        );
        assert!(
            matches!(&installed, Err(InstallError::Conflict(path)) if *path == root.join(&name)),
            "{installed:?}"
        );
        assert_eq!(std::fs::read_to_string(root.join(&name)).unwrap(), "saved", "{change:?}");
        assert!(look(&mut snapshot).iter().any(|told| told.path == change.path), "{change:?}");
        let left = seen(&root).into_keys().any(|path| path.to_string_lossy().contains(".farcc-tmp"));
        assert!(!left, "{:?}", seen(&root));
        std::fs::remove_file(root.with_file_name("other")).unwrap();
    }
}

#[test]
fn what_both_sides_have_removed_is_no_conflict() {
    let (_space, root) = tree();
    write(&root, "d/e/x", "1");
    write(&root, "d/y", "1");
    let mut snapshot = workspace(&root);
    look(&mut snapshot);
    std::fs::remove_dir_all(root.join("d/e")).unwrap();
    let changes = [gone("d/e/x"), gone("d/e"), gone("d/y"), gone("d"), file("made", "1")];
    install_one(&mut snapshot, &changes, &contents(&["1"])).unwrap();
    assert!(root.join("made").exists() && !root.join("d").exists(), "{:?}", seen(&root));
}

#[test]
fn what_is_edited_while_a_command_runs_is_younger_than_what_it_makes() {
    let space = tempfile::tempdir().unwrap();
    let root = space.path().canonicalize().unwrap();
    write(&root, "source", "old");
    let mut snapshot = workspace(&root);
    let seen_at = snapshot.present();
    assert!(seen_at.is_some());
    look(&mut snapshot);
    let install_seen = |snapshot: &mut Snapshot, changes: &[Change], seen_at| {
        let changes: Vec<_> =
            changes.iter().map(|change| RootedChange { root: 0, change: change.clone() }).collect();
        let manner = Manner::Workspace { seen_at };
        install(std::slice::from_mut(snapshot), &changes, &contents(&["1", "2"]), manner).unwrap();
    };
    let older = times(&root)[Path::new("source")];
    std::thread::sleep(Duration::from_millis(30));
    write(&root, "source", "edited");
    std::thread::sleep(Duration::from_millis(30));
    let [one, two] = [("one", "1", 1), ("two", "2", 2)]
        .map(|(path, text, written)| Change { written: Some(written), ..file(path, text) });
    install_seen(&mut snapshot, &[two, one], seen_at);
    let now = times(&root);
    let [one, two, source] = ["one", "two", "source"].map(|name| now[Path::new(name)]);
    assert!(older < one && one < two && two < source, "{now:?}");
    // Where the clock has been set back since, they are no younger than what comes.
    let hour = 3_600_000_000_000;
    install_seen(&mut snapshot, &[file("late", "1")], seen_at.map(|moment| moment + hour));
    let late = times(&root)[Path::new("late")];
    assert!(late > source && late <= snapshot.present().unwrap(), "{late:?}");
}

#[test]
fn what_both_sides_have_done_is_no_conflict() {
    let (_space, root) = tree();
    for name in ["a", "b", "c", "d/x", "e/x", "e/y", "f"] {
        write(&root, name, "old");
    }
    symlink("a", root.join("l")).unwrap();
    let mut snapshot = workspace(&root);
    look(&mut snapshot);
    std::fs::remove_file(root.join("a")).unwrap();
    std::fs::remove_dir_all(root.join("d")).unwrap();
    std::fs::remove_file(root.join("e/x")).unwrap();
    for name in ["b", "n/x"] {
        write(&root, name, "new");
    }
    write(&root, "f", "no");
    for link in ["l", "m"] {
        let _ = std::fs::remove_file(root.join(link));
        symlink("c", root.join(link)).unwrap();
    }
    let link =
        |path: &str| Change { now: Some(Node::Link { target: "c".into() }), written: None, ..file(path, "") };
    let changes = [
        gone("a"),
        file("b", "new"),
        gone("d"),
        gone("e"),
        link("l"),
        link("m"),
        directory("n"),
        file("n/x", "new"),
    ];
    let conflict = [changes.as_slice(), &[file("f", "ja")]].concat();
    let error = install_one(&mut snapshot, &conflict, &contents(&["new", "ja"])).unwrap_err();
    assert!(matches!(error, InstallError::Conflict(path) if path == root.join("f")));
    install_one(&mut snapshot, &changes, &contents(&["new"])).unwrap();
    let left: Vec<_> = seen(&root).into_keys().collect();
    assert_eq!(left, ["b", "c", "f", "l", "m", "n", "n/x"].map(PathBuf::from));
    assert_eq!(described(&look(&mut snapshot)), ["w f"]);
}

#[test]
fn a_directory_with_something_else_in_it_stays_when_it_is_removed() {
    let (_space, root) = tree();
    write(&root, RULES_FILE, "*.tmp\n");
    for name in ["d/a", "d/deep/mine.tmp", "d/deep/b", "d/empty/c"] {
        write(&root, name, "x");
    }
    let mut snapshot = workspace(&root);
    look(&mut snapshot);
    install_one(&mut snapshot, &[gone("d")], &contents(&[])).unwrap();
    let left: Vec<_> = seen(&root).into_keys().collect();
    assert_eq!(left, [RULES_FILE, "d", "d/deep", "d/deep/mine.tmp"].map(PathBuf::from));
    for _ in 0..2 {
        assert_eq!(described(&look(&mut snapshot)), [""; 0]);
    }
    // The other side has to have it again.
    write(&root, "d/deep/mine", "x");
    assert_eq!(described(&look(&mut snapshot)), ["d d", "d d/deep", "w d/deep/mine"]);
    write(&root, "d/deep/too", "x");
    assert_eq!(described(&look(&mut snapshot)), ["w d/deep/too"]);
}

#[test]
fn a_directory_with_something_else_in_it_is_not_replaced() {
    let (_space, root) = tree();
    write(&root, RULES_FILE, "*.tmp\n");
    for name in ["a", "d/a", "d/deep/mine.tmp"] {
        write(&root, name, "x");
    }
    let mut snapshot = workspace(&root);
    look(&mut snapshot);
    let before = seen(&root);
    let link = Change { now: Some(Node::Link { target: "x".into() }), written: None, ..file("d", "") };
    for change in [file("d", "theirs"), link] {
        let changes = [gone("a"), change];
        let error = install_one(&mut snapshot, &changes, &contents(&["theirs"])).unwrap_err();
        assert!(matches!(error, InstallError::Conflict(path) if path == root.join("d/deep/mine.tmp")));
        assert_eq!(seen(&root), before);
    }
}

#[test]
fn what_was_installed_is_not_read_again() {
    let (_space, root) = tree();
    let mut snapshot = workspace(&root);
    look(&mut snapshot);
    let changes: Vec<_> = (0..5).map(|number| file(&number.to_string(), "x")).collect();
    install_one(&mut snapshot, &changes, &contents(&["x"])).unwrap();
    let is_settled = |snapshot: &Snapshot, change: &Change| {
        matches!(snapshot.entry(&change.path), Some(Entry::File { is_settled: true, .. }))
    };
    assert!(changes.iter().all(|change| is_settled(&snapshot, change)));
    // At once, and as long.
    write(&root, "3", "y");
    assert_eq!(described(&look(&mut snapshot)), ["w 3"]);
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
