//! What a look tells of.

use std::ffi::OsStr;
use std::fs::File;
use std::fs::FileTimes;
use std::fs::Permissions;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;
use std::time::SystemTime;

use super::*;
use crate::files::Fingerprint;
use crate::mirror::snapshot::Entry;

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
    for (clock, is_watched) in
        [(SystemTime::now as fn() -> SystemTime, false), (long_after, false), (long_after, true)]
    {
        let mut snapshot = workspace_by(&root, clock);
        let mut told = |act: &dyn Fn()| {
            // Later than any tick.
            std::thread::sleep(Duration::from_millis(20));
            if is_watched {
                snapshot.watch(usize::MAX);
            }
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
    assert_eq!(described(&whole(root).look().unwrap().changes), ["d .", "l a", "l c"]);
}

#[test]
fn what_cannot_be_read_is_left_out_or_stays_as_it_was() {
    // Not even root may read this one.
    let root = Path::new("/proc/sys/net/ipv4/route");
    let flush = TreePath::parse(b"flush").unwrap();
    let mut snapshot = whole(root.to_owned());
    let looked = snapshot.look().unwrap();
    assert!(looked.changes.len() > 1);
    let unsent = [Unsent { path: flush.clone(), why: WhyUnsent::Unreadable(rustix::io::Errno::ACCESS) }];
    assert_eq!(looked.unsent, unsent);
    assert_eq!(snapshot.node(&flush), None);
    assert_eq!(snapshot.look().unwrap().unsent, [], "it is told once");
    assert!(snapshot.unsent().eq(unsent.clone()));
    let directory = snapshot.directories.get_mut(&TreePath::root()).unwrap();
    let (_, entry) = directory.entries.iter_mut().find(|(name, _)| name == "flush").unwrap();
    let (fingerprint, digest) = (Fingerprint::of(&root.join("flush")).unwrap(), Digest::of(b"before"));
    *entry = Entry::File { fingerprint, is_settled: false, watch: None, digest };
    for _ in 0..2 {
        let looked = snapshot.look().unwrap();
        assert!(looked.changes.iter().all(|change| change.path != flush), "{:?}", looked.changes);
        assert_eq!(looked.unsent, unsent);
        assert!(matches!(snapshot.node(&flush), Some(Node::File { digest: known, .. }) if known == digest));
    }
    let error = whole(root.join("nowhere")).look().unwrap_err();
    assert_eq!(
        error.to_string(),
        "read /proc/sys/net/ipv4/route/nowhere: No such file or directory (os error 2)"
    );
}

#[test]
fn what_somebody_may_still_write_to_is_read_each_time() {
    let (_space, root) = tree();
    write(&root, "a", "one");
    let is_settled = |snapshot: &Snapshot| {
        let path = TreePath::parse(b"a").unwrap();
        matches!(snapshot.entry(&path), Some(Entry::File { is_settled: true, .. }))
    };
    let mut snapshot = workspace_by(&root, long_after);
    let writer = File::options().write(true).open(root.join("a")).unwrap();
    look(&mut snapshot);
    assert!(!is_settled(&snapshot));
    drop(writer);
    assert_eq!(described(&look(&mut snapshot)), [""; 0]);
    assert!(is_settled(&snapshot));
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for (path, seen) in seen(from) {
        let path = to.join(path);
        match seen {
            Seen::Directory(_) => std::fs::create_dir(path).unwrap(),
            Seen::File(bytes, _) => std::fs::write(path, bytes).unwrap(),
            Seen::Link(target) => symlink(target, path).unwrap(),
        }
    }
}

#[test]
fn what_is_watched_is_not_looked_at_until_something_happens() {
    let (_space, root) = tree();
    for name in ["a/one", "a/two", "b/c/three", "b/four"] {
        write(&root, name, name);
    }
    symlink("a", root.join("l")).unwrap();
    let mut snapshot = workspace_by(&root, long_after);
    let writer = File::options().write(true).open(root.join("a/two")).unwrap();
    look(&mut snapshot);
    assert_eq!(snapshot.watch(usize::MAX), 3, "somebody writes to the fourth");
    drop(writer);
    look(&mut snapshot);
    assert_eq!((snapshot.watch(usize::MAX), snapshot.watch(usize::MAX)), (1, 0));
    // The memory of one that is quiet is believed: a digest that nothing has stays.
    let path = |name: &str| TreePath::parse(name.as_bytes()).unwrap();
    let damage = |snapshot: &mut Snapshot, name: &str| {
        let directory = snapshot.directories.get_mut(&path(name).parent().unwrap()).unwrap();
        for (known, entry) in &mut directory.entries {
            if let Entry::File { fingerprint, .. } = entry
                && *known == *path(name).name()
            {
                *fingerprint = Fingerprint::of(Path::new("/")).unwrap();
            }
        }
    };
    for name in ["a/one", "b/c/three"] {
        damage(&mut snapshot, name);
    }
    assert_eq!(described(&look(&mut snapshot)), [""; 0]);
    // Whoever reads it may go on to write.
    drop(File::open(root.join("a/one")).unwrap());
    assert_eq!(described(&look(&mut snapshot)), ["w a/one"]);
    // It gets another name elsewhere, and is written to by that.
    let outside = root.with_file_name("outside");
    std::fs::hard_link(root.join("b/four"), &outside).unwrap();
    std::fs::write(&outside, "FOUR").unwrap();
    assert_eq!(described(&look(&mut snapshot)), ["w b/four"]);
    // Directories with other directories in them take the place of those that were there.
    copy(&root.join("b"), &root.join("d"));
    look(&mut snapshot);
    // Those that were copied, their copies, and the one that was read.
    assert_eq!(snapshot.watch(usize::MAX), 5);
    assert_eq!(described(&look(&mut snapshot)), [""; 0]);
    write(&root, "d/c/three", "other");
    std::fs::rename(root.join("b"), root.with_file_name("b")).unwrap();
    std::fs::rename(root.join("d"), root.join("b")).unwrap();
    assert_eq!(described(&look(&mut snapshot)), ["w b/c/three", "w b/four", "- d"]);
    // All of it.
    look(&mut snapshot);
    snapshot.watch(usize::MAX);
    let other = root.with_file_name("other");
    copy(&root, &other);
    std::fs::write(other.join("a/two"), "TWO").unwrap();
    std::fs::rename(&root, root.with_file_name("former")).unwrap();
    std::fs::rename(&other, &root).unwrap();
    assert!(described(&look(&mut snapshot)).contains(&"w a/two".to_owned()));
}

#[test]
fn what_is_older_than_a_tick_is_read_once_more() {
    let (_space, root) = tree();
    write(&root, "a", "one");
    let mut snapshot = workspace(&root);
    let is_settled = |snapshot: &Snapshot| {
        let file = snapshot.entry(&TreePath::parse(b"a").unwrap());
        let directory = &snapshot.directories[&TreePath::root()];
        (matches!(file, Some(Entry::File { is_settled: true, .. })), directory.is_settled)
    };
    std::thread::sleep(Duration::from_millis(20));
    look(&mut snapshot);
    assert_eq!(is_settled(&snapshot), (true, true));
}

#[test]
fn what_killed_processes_have_left_is_removed_after_an_hour() {
    let (_space, root) = tree();
    let name = |at: &str| format!("{at}.farcc-tmp-0123456789abcdef-0");
    write(&root, &name("d/"), "");
    symlink("x", root.join(name("l"))).unwrap();
    std::fs::rename(root.join(name("l")), root.join(name(""))).unwrap();
    std::fs::create_dir(root.join(name("") + "1")).unwrap();
    let in_two_hours = || SystemTime::now() + Duration::from_secs(7200);
    for (clock, left) in [(SystemTime::now as fn() -> SystemTime, 4), (in_two_hours, 2)] {
        assert_eq!(described(&look(&mut workspace_by(&root, clock))), ["d .", "d d"]);
        assert_eq!(seen(&root).len(), left);
    }
}

#[test]
fn what_is_known_can_be_asked_for() {
    let (_space, root) = tree();
    write(&root, "a/x", "one");
    write(&root, "a/y", "four");
    write(&root, "ab", "one");
    write(&root, RULES_FILE, "x\n");
    let mut snapshot = whole(root.clone());
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
    assert_eq!(found[&four].path(), root.join("a/y"));
    assert!(["ab", "a/x"].map(|path| root.join(path)).contains(&found[&one].path()));
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
fn rules_leave_out() {
    let (_space, root) = tree();
    write(&root, "a/x.log", "");
    write(&root, "a/keep.log", "");
    write(&root, "a/deep/x.log", "");
    write(&root, "logs/x", "");
    let mut snapshot = workspace(&root);
    assert_eq!(look(&mut snapshot).len(), 8);
    write(&root, RULES_FILE, "*.log\nlogs/\n");
    let told = ["w .farccignore", "- a/deep/x.log", "- a/keep.log", "- a/x.log", "- logs"];
    assert_eq!(described(&look(&mut snapshot)), told);
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

#[test]
fn other_rules_are_told_of_with_all_that_there_is() {
    let (_space, root) = tree();
    std::fs::create_dir_all(root.join("d/cache")).unwrap();
    for (path, text) in [("a", "a"), ("d/b", "b"), ("d/cache/c", "c")] {
        std::fs::write(root.join(path), text).unwrap();
    }
    std::os::unix::fs::symlink("a", root.join("l")).unwrap();
    let mut snapshot = workspace(&root);
    let first = snapshot.look().unwrap();
    assert!(!first.is_ruled_anew);
    assert_eq!(snapshot.all(), first.changes);
    let paths = |snapshot: &Snapshot| -> Vec<_> {
        snapshot.all().iter().map(|change| change.path.to_string()).collect()
    };
    for (rules, expected) in [
        ("cache/\n", &[".", "a", "d", "d/.farccignore", "d/b", "l"][..]),
        ("/b\n", &[".", "a", "d", "d/.farccignore", "d/cache", "d/cache/c", "l"]),
    ] {
        std::fs::write(root.join("d").join(RULES_FILE), rules).unwrap();
        assert!(snapshot.look().unwrap().is_ruled_anew, "{rules}");
        assert_eq!(paths(&snapshot), expected);
        assert!(!snapshot.look().unwrap().is_ruled_anew, "{rules} are told of once");
    }
    std::fs::remove_file(root.join("d").join(RULES_FILE)).unwrap();
    assert!(snapshot.look().unwrap().is_ruled_anew);
    assert_eq!(snapshot.all().len(), first.changes.len());
}
