//! What a command's overlay means for the mirror: the changes that are to be put into it, and what may not be.
//! Pure: the mirror is known, the files are digested, and nothing is done here.
//!
//! The mirror may have become another since the command began, because neighbours have ended and the client has sent what
//! its user has done. What a command has made afresh counts; what it has made out of a file that is another by now is a conflict;
//! and it removes only what it can have seen.

use std::collections::BTreeMap;
use std::collections::HashMap;

use crate::digest::Digest;
use crate::files::Fingerprint;
use crate::mirror::Change;
use crate::mirror::Node;
use crate::mirror::Snapshot;
use crate::mirror::TreePath;
use crate::twin::By;
use crate::twin::Generation;
use crate::twin::Touched;
use crate::twin::UpperEntry;
use crate::twin::UpperNode;

/// What is to be put into one root of a mirror.
#[derive(Debug, Default)]
pub struct Commit {
    /// The changes, by path.
    pub changes: BTreeMap<TreePath, Change>,
    /// Files that were moved with their directory: where their content is in the mirror. All others are where they were
    /// written.
    pub moved: HashMap<TreePath, TreePath>,
    /// Paths that were changed on the ground of what is another by now: nothing may be put into place.
    pub conflicts: Vec<TreePath>,
    /// Sockets, pipes and devices.
    pub unsent: Vec<TreePath>,
}

/// What is known when a command has ended.
pub struct Ground<'a> {
    /// The position of the root.
    pub root: u32,
    /// What is in the mirror now.
    pub mirror: &'a Snapshot,
    /// What has been changed in it.
    pub touched: &'a Touched,
    /// Where the command began.
    pub began: Generation,
    /// When it began, in nanoseconds since 1970 by the clock of this machine's files: what was written before has its time from
    /// elsewhere.
    pub started: i128,
}

impl Commit {
    /// What `entries` (directories before what is in them), whose files have these digests, mean on that ground.
    pub fn new(entries: &[UpperEntry], digests: &HashMap<TreePath, Digest>, ground: &Ground<'_>) -> Commit {
        let mut commit = Commit::default();
        for UpperEntry { path, node } in entries {
            match node {
                UpperNode::Gone => commit.gone(path, ground),
                UpperNode::Directory { fingerprint, is_opaque, moved_from } => {
                    // What went with the directory above is there once more, but not what was in it: overlayfs has no mark for
                    // that, since nothing of below shows there.
                    let is_anew = commit.changes.get(path).is_some_and(|change| change.now.is_none());
                    if is_anew {
                        commit.changes.remove(path);
                    }
                    if *is_opaque || is_anew || moved_from.is_some() {
                        commit.inside_gone(path, ground);
                    }
                    commit.directory(path, fingerprint, ground);
                    if let Some(from) = moved_from {
                        commit.moved_in(path, from, ground);
                    }
                }
                UpperNode::File { fingerprint, is_copied_up } => {
                    // It was digested with the others.
                    let Some(digest) = digests.get(path) else { continue };
                    commit.file(path, *digest, fingerprint, *is_copied_up, ground);
                }
                UpperNode::Link { target } => {
                    commit.link(path, Node::Link { target: target.clone() }, ground);
                }
                UpperNode::Special => {
                    commit.gone(path, ground);
                    commit.unsent.push(path.clone());
                }
            }
        }
        commit
    }

    /// Whatever the command could see there is gone. A neighbour's later work stays.
    fn gone(&mut self, path: &TreePath, ground: &Ground<'_>) {
        self.forget_moved(path);
        let Ground { root, touched, began, .. } = *ground;
        if touched.since(began, root, path).is_some() {
            return;
        }
        if touched.has_inside(began, root, path) {
            return self.inside_gone(path, ground);
        }
        if ground.mirror.node(path).is_some() {
            self.put(path, None, None);
        }
    }

    /// The same for all that is in a directory, but not for the directory.
    fn inside_gone(&mut self, path: &TreePath, ground: &Ground<'_>) {
        let Ground { root, touched, began, mirror, .. } = *ground;
        let is_kept =
            |at: &TreePath| touched.since(began, root, at).is_some() || touched.has_inside(began, root, at);
        for (at, ..) in mirror.entries_in(path) {
            // With its directory it goes by itself.
            let goes_along = at.parent().is_some_and(|above| self.is_gone(&above));
            if !goes_along && !is_kept(&at) {
                self.put(&at, None, None);
            }
        }
    }

    fn is_gone(&self, path: &TreePath) -> bool {
        let mut above = std::iter::successors(Some(path.clone()), TreePath::parent);
        above.any(|above| self.changes.get(&above).is_some_and(|change| change.now.is_none()))
    }

    fn directory(&mut self, path: &TreePath, fingerprint: &Fingerprint, ground: &Ground<'_>) {
        let now = Node::Directory { mode: fingerprint.permissions() & 0o777 };
        if ground.mirror.node(path).as_ref() != Some(&now) {
            self.put(path, Some(now), None);
        }
    }

    /// All that the mirror has in `from` is in `path` now.
    fn moved_in(&mut self, path: &TreePath, from: &TreePath, ground: &Ground<'_>) {
        for (at, node, modified) in ground.mirror.entries_in(from) {
            let Some(rest) = at.as_bytes().strip_prefix(from.as_bytes()) else { continue };
            // Both are paths, and so is what the two are together, unless it is too long for any file system.
            let Ok(new) = TreePath::parse(&[path.as_bytes(), rest].concat()) else { continue };
            let is_file = matches!(node, Node::File { .. });
            if is_file {
                self.moved.insert(new.clone(), at);
            }
            self.put(&new, Some(node), is_file.then_some(modified));
        }
    }

    fn file(
        &mut self,
        path: &TreePath,
        digest: Digest,
        upper: &Fingerprint,
        is_copied_up: bool,
        ground: &Ground<'_>,
    ) {
        self.moved.remove(path);
        let mode = upper.permissions() & 0o777;
        let now = Some(Node::File { digest, mode });
        let before = ground.mirror.node(path);
        if let Some(touch) = ground.touched.since(ground.began, ground.root, path) {
            let is_same = matches!(&before, Some(Node::File { digest: there, .. }) if *there == digest);
            if is_same && touch.by == By::Command {
                return;
            }
            if !is_same && (is_copied_up || touch.by == By::Client) {
                return self.conflicts.push(path.clone());
            }
            if touch.written.is_some_and(|written| written > upper.modified_nanos()) {
                // As on one machine, whoever has written last.
                return;
            }
        }
        let is_directory = matches!(before, Some(Node::Directory { .. }));
        if is_directory && ground.touched.has_inside(ground.began, ground.root, path) {
            return self.conflicts.push(path.clone());
        }
        let has_its_time = ground.mirror.modified_nanos(path) == Some(upper.modified_nanos());
        let (is_same, is_same_mode) = match before {
            Some(Node::File { digest: there, mode: old }) => (there == digest, old == mode),
            _ => (false, false),
        };
        let is_written = !(is_copied_up && is_same && has_its_time);
        if is_written || !is_same_mode {
            self.put(path, now, is_written.then(|| ground.written(upper)));
        }
    }

    fn link(&mut self, path: &TreePath, now: Node, ground: &Ground<'_>) {
        self.moved.remove(path);
        let before = ground.mirror.node(path);
        if before.as_ref() == Some(&now) {
            // It may have gone with its directory before.
            self.changes.remove(path);
            return;
        }
        let touch = ground.touched.since(ground.began, ground.root, path);
        match touch.is_some_and(|touch| touch.by == By::Client) {
            true => self.conflicts.push(path.clone()),
            false => self.put(path, Some(now), None),
        }
    }

    fn put(&mut self, path: &TreePath, now: Option<Node>, written: Option<i128>) {
        self.changes.insert(path.clone(), Change { path: path.clone(), now, written });
    }

    /// What was moved there is not there any more.
    fn forget_moved(&mut self, path: &TreePath) {
        let inside: Vec<_> = self
            .changes
            .range(path.clone()..)
            .map(|(at, _)| at)
            .filter(|at| at.is_in(path))
            .cloned()
            .collect();
        for at in inside {
            self.changes.remove(&at);
            self.moved.remove(&at);
        }
    }
}

impl Ground<'_> {
    /// When a file was written, for the order. What has an older time than the command (`cp -p`, `tar -x`, `touch -d`) was
    /// last changed when it got it.
    fn written(&self, file: &Fingerprint) -> i128 {
        match file.modified_nanos() {
            modified if modified >= self.started => modified,
            _ => file.changed_nanos(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::time::Duration;
    use std::time::SystemTime;

    use expect_test::Expect;
    use expect_test::expect;

    use super::*;
    use crate::mirror::RootedChange;

    fn path(text: &str) -> TreePath {
        TreePath::parse(text.as_bytes()).unwrap()
    }

    /// A mirror with files, which have their own names for content and were written an hour ago.
    struct Case {
        directory: tempfile::TempDir,
        touched: Touched,
        began: Generation,
        entries: Vec<UpperEntry>,
        digests: HashMap<TreePath, Digest>,
    }

    fn hour_ago() -> SystemTime {
        SystemTime::now() - Duration::from_secs(3600)
    }

    impl Case {
        fn new(files: &[&str]) -> Case {
            let directory = tempfile::tempdir().unwrap();
            for side in ["mirror", "upper"] {
                fs::create_dir(directory.path().join(side)).unwrap();
            }
            let touched = Touched::default();
            let began = touched.now();
            let case = Case { directory, touched, began, entries: Vec::new(), digests: HashMap::new() };
            files.iter().for_each(|file| case.write("mirror", file, file, hour_ago()));
            case
        }

        fn write(&self, side: &str, name: &str, text: &str, time: SystemTime) {
            let file = self.directory.path().join(side).join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, text).unwrap();
            fs::File::open(&file).unwrap().set_modified(time).unwrap();
        }

        fn upper(&self, name: &str) -> Fingerprint {
            Fingerprint::of(&self.directory.path().join("upper").join(name)).unwrap()
        }

        fn file(mut self, name: &str, text: &str, time: SystemTime, is_copied_up: bool) -> Case {
            self.write("upper", name, text, time);
            self.digests.insert(path(name), Digest::of(text.as_bytes()));
            let node = UpperNode::File { fingerprint: self.upper(name), is_copied_up };
            self.entries.push(UpperEntry { path: path(name), node });
            self
        }

        fn entry(mut self, name: &str, node: UpperNode) -> Case {
            self.entries.push(UpperEntry { path: path(name), node });
            self
        }

        fn directory(mut self, name: &str, is_opaque: bool, moved_from: Option<&str>) -> Case {
            fs::create_dir_all(self.directory.path().join("upper").join(name)).unwrap();
            let (fingerprint, moved_from) = (self.upper(name), moved_from.map(path));
            let node = UpperNode::Directory { fingerprint, is_opaque, moved_from };
            self.entries.push(UpperEntry { path: path(name), node });
            self
        }

        /// A neighbour, or the client, has changed these meanwhile: the mirror has it.
        fn meanwhile(mut self, by: By, names: &[&str]) -> Case {
            let mut changes = Vec::new();
            for name in names {
                self.write("mirror", name, "meanwhile", SystemTime::now());
                let now = Some(Node::File { digest: Digest::of(b"meanwhile"), mode: 0o644 });
                let file = Fingerprint::of(&self.directory.path().join("mirror").join(name)).unwrap();
                let change = Change { path: path(name), now, written: Some(file.modified_nanos()) };
                changes.push(RootedChange { root: 0, change });
            }
            self.touched.note(by, &changes);
            self
        }

        fn check(&self, expected: &Expect) {
            let mut mirror =
                Snapshot::whole(self.directory.path().join("mirror"), self.directory.path().join("upper"));
            mirror.look().unwrap();
            let started = SystemTime::now() - Duration::from_secs(60);
            let started = started.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
            let started = i128::try_from(started).unwrap();
            let ground =
                Ground { root: 0, mirror: &mirror, touched: &self.touched, began: self.began, started };
            let commit = Commit::new(&self.entries, &self.digests, &ground);
            let mut told = String::new();
            for (path, change) in &commit.changes {
                let what = match &change.now {
                    None => "gone".to_owned(),
                    Some(Node::Directory { .. }) => "directory".to_owned(),
                    Some(Node::Link { target }) => format!("link to {}", Path::new(target).display()),
                    Some(Node::File { mode, .. }) => format!("file {mode:o}"),
                };
                let when = match change.written {
                    None => "",
                    Some(written) if written >= started => ", written now",
                    Some(_) => ", written before",
                };
                let from = commit.moved.get(path).map(|from| format!(", from {from}")).unwrap_or_default();
                told.push_str(&format!("{path}: {what}{when}{from}\n"));
            }
            commit.conflicts.iter().for_each(|path| told.push_str(&format!("{path}: conflict\n")));
            commit.unsent.iter().for_each(|path| told.push_str(&format!("{path}: unsent\n")));
            expected.assert_eq(&told);
        }
    }

    #[test]
    fn what_was_only_opened_is_not_changed() {
        let now = SystemTime::now();
        let time = |case: &Case, name: &str| {
            fs::metadata(case.directory.path().join("mirror").join(name)).unwrap().modified().unwrap()
        };
        let case = Case::new(&["edited", "opened", "rewritten", "executable"]);
        let (opened, executable) = (time(&case, "opened"), time(&case, "executable"));
        let case = case
            .file("edited", "new", now, true)
            .file("executable", "executable", executable, true)
            .file("fresh", "", now, false)
            .file("old", "unpacked", hour_ago(), false)
            .file("opened", "opened", opened, true)
            .file("rewritten", "rewritten", now, true);
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(case.directory.path().join("upper/executable"), mode).unwrap();
        let Case { directory, touched, began, mut entries, digests } = case;
        let fingerprint = Fingerprint::of(&directory.path().join("upper/executable")).unwrap();
        entries[1].node = UpperNode::File { fingerprint, is_copied_up: true };
        Case { directory, touched, began, entries, digests }.check(&expect![[r#"
            edited: file 644, written now
            executable: file 755
            fresh: file 644, written now
            old: file 644, written now
            rewritten: file 644, written now
        "#]]);
    }

    #[test]
    fn a_command_removes_what_it_can_have_seen() {
        Case::new(&["a", "d/old", "d/e/old", "f/old"])
            .meanwhile(By::Command, &["d/new"])
            .entry("a", UpperNode::Gone)
            .entry("d", UpperNode::Gone)
            .entry("f", UpperNode::Gone)
            .entry("never", UpperNode::Gone)
            .check(&expect![[r#"
                a: gone
                d/e: gone
                d/old: gone
                f: gone
            "#]]);
        Case::new(&["d/old", "d/e/old"])
            .meanwhile(By::Command, &["d/new"])
            .directory("d", true, None)
            .file("d/mine", "", SystemTime::now(), false)
            .check(&expect![[r#"
                d/e: gone
                d/mine: file 644, written now
                d/old: gone
            "#]]);
    }

    #[test]
    fn a_directory_that_was_moved_takes_along_what_is_in_it() {
        Case::new(&["d/a", "d/e/b", "d/e/c"])
            .entry("d", UpperNode::Gone)
            .directory("new", true, Some("d"))
            .entry("new/a", UpperNode::Gone)
            .directory("new/e", false, None)
            .file("new/e/b", "edited", SystemTime::now(), true)
            .check(&expect![[r#"
                d: gone
                new: directory
                new/e: directory
                new/e/b: file 644, written now
                new/e/c: file 644, written before, from d/e/c
            "#]]);
    }

    #[test]
    fn what_was_made_of_another_version_is_a_conflict() {
        let now = SystemTime::now() + Duration::from_secs(5);
        let touched = |by| {
            Case::new(&["appended", "d/x", "fresh", "same"])
                .meanwhile(by, &["appended", "d/y", "fresh", "same"])
        };
        let done = |case: Case| {
            case.file("appended", "appended more", now, true).file("fresh", "mine", now, false).file(
                "same",
                "meanwhile",
                now,
                true,
            )
        };
        done(touched(By::Command)).check(&expect![[r#"
            fresh: file 644, written now
            appended: conflict
        "#]]);
        done(touched(By::Client)).check(&expect![[r#"
            same: file 644, written now
            appended: conflict
            fresh: conflict
        "#]]);
        // Whoever wrote last, as on one machine; a directory with somebody's new file in it is no place for a file.
        let earlier = SystemTime::now() - Duration::from_secs(30);
        touched(By::Command)
            .file("d", "a file", now, false)
            .file("fresh", "mine", earlier, false)
            .check(&expect![["d: conflict\n"]]);
    }

    #[test]
    fn links_are_made_and_sockets_are_told() {
        let link = |target: &str| UpperNode::Link { target: target.into() };
        Case::new(&["a", "b"])
            .entry("a", link("b"))
            .entry("b", UpperNode::Special)
            .entry("new", link("/usr/bin/env"))
            .check(&expect![[r#"
                a: link to b
                b: gone
                new: link to /usr/bin/env
                b: unsent
            "#]]);
    }

    #[test]
    fn what_is_made_anew_has_nothing_of_before_in_it() {
        let now = SystemTime::now();
        let case = Case::new(&["b/d/x", "b/d/e/z"]).directory("b", true, None).directory("b/d", false, None);
        case.directory("b/d/e", false, None).file("b/d/y", "y", now, false).check(&expect![[r#"
            b/d/e/z: gone
            b/d/x: gone
            b/d/y: file 644, written now
        "#]]);
        let link = UpperNode::Link { target: "a".into() };
        let case = Case::new(&["b/x"]);
        std::os::unix::fs::symlink("a", case.directory.path().join("mirror/b/l")).unwrap();
        case.directory("b", true, None).entry("b/l", link).check(&expect![[r#"
            b/x: gone
        "#]]);
        let case = Case::new(&["dst/a/x"]).directory("dst", true, None).directory("dst/a", false, None);
        case.directory("dst2", true, Some("dst")).check(&expect![[r#"
            dst/a/x: gone
            dst2: directory
            dst2/a: directory
            dst2/a/x: file 644, written before, from dst/a/x
        "#]]);
    }
}
