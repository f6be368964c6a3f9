//! How fast a workspace is looked at for changes, beside `rsync -a --dry-run` of the same tree with a copy.
//!
//! `cargo bench -p farcc-tests --bench look`. Both are interleaved in one run, with everything in the kernel's caches, and only
//! ratios mean anything. rsync is a process of its own, as it is when a build calls it; the daemon is there already.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use farcc_tests::prerequisites;
use farcc_tests::say;
use farcc_tests::timing::median;
use farcc_tests::timing::millis;
use farcc_tests::timing::timed;
use farccd::digest::Digest;
use farccd::mirror::Change;
use farccd::mirror::Contents;
use farccd::mirror::Manner;
use farccd::mirror::Node;
use farccd::mirror::RootedChange;
use farccd::mirror::Snapshot;
use farccd::mirror::TreePath;
use farccd::mirror::install;

/// Interleaved.
const ROUNDS: usize = 25;

/// Commands one after another, each with so many outputs that are installed.
const COMMANDS: usize = 30;
const OUTPUTS: usize = 5;

/// What a look may take of rsync's time, at most, when nothing has changed.
const BAR: f64 = 0.1;

fn main() {
    prerequisites::require(&["rsync"]);
    for (directories, files) in [(500, 20), (2_500, 20), (10, 1_000)] {
        let space = tempfile::tempdir().unwrap();
        let root = space.path().canonicalize().unwrap().join("tree");
        make(&root, directories, files);
        let copy = root.with_file_name("copy");
        let copied = Command::new("cp").arg("-a").args([&root, &copy]).status().unwrap();
        assert!(copied.success());
        let mut snapshot = Snapshot::new(root.clone(), [root.clone()].into(), 0);
        let first = timed(|| drop(snapshot.look().unwrap()));
        // Until nothing may change unseen any more.
        std::thread::sleep(Duration::from_millis(1100));
        snapshot.look().unwrap();
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            theirs.push(timed(|| rsync(&root, &copy)));
            ours.push(timed(|| assert!(snapshot.look().unwrap().changes.is_empty())));
        }
        let mut watched = 0;
        let watching = timed(|| watched = snapshot.watch(usize::MAX));
        let mut quiet = Vec::new();
        for _ in 0..ROUNDS {
            theirs.push(timed(|| rsync(&root, &copy)));
            quiet.push(timed(|| assert!(snapshot.look().unwrap().changes.is_empty())));
        }
        let mut installed = Vec::new();
        for round in 0..COMMANDS {
            let changes: Vec<_> = (0..OUTPUTS).map(|number| output(directories, round, number)).collect();
            install(
                std::slice::from_mut(&mut snapshot),
                &changes,
                &Outputs,
                Manner::Workspace { seen_at: None },
            )
            .unwrap();
            installed.push(timed(|| assert!(snapshot.look().unwrap().changes.is_empty())));
        }
        let changed = root.join("d1/f1");
        let mut one = Vec::new();
        for round in 0..ROUNDS {
            std::fs::write(&changed, round.to_string()).unwrap();
            one.push(timed(|| assert_eq!(snapshot.look().unwrap().changes.len(), 1)));
        }
        let slowest = installed.iter().max().copied().unwrap();
        let (ours, theirs, one, quiet) = (median(ours), median(theirs), median(one), median(quiet));
        let of_rsync = |time: Duration| time.as_secs_f64() / theirs.as_secs_f64();
        say(&format!(
            "{} files in {directories} directories: first {:.1} ms, unchanged {:.2} ms, watched {:.2} ms (after {:.1} ms for \
             {watched} watches), one changed {:.2} ms, after a command's {OUTPUTS} outputs {:.2} ms (at most {:.2}), rsync {:.1} ms; unchanged is {:.3} of rsync, watched {:.3} (bar: {BAR})",
            directories * files,
            millis(first),
            millis(ours),
            millis(quiet),
            millis(watching),
            millis(one),
            millis(median(installed)),
            millis(slowest),
            millis(theirs),
            of_rsync(ours),
            of_rsync(quiet),
        ));
    }
}

/// An output of a command.
fn output(directories: usize, round: usize, number: usize) -> RootedChange {
    let path = format!("d{}/out{round}-{number}", (round * OUTPUTS + number) % directories);
    let now = Some(Node::File { digest: Digest::of(b"output"), mode: 0o644 });
    let path = TreePath::parse(path.as_bytes()).unwrap();
    RootedChange { root: 0, change: Change { path, now, written: Some(1) } }
}

struct Outputs;

impl Contents for Outputs {
    fn stage(
        &self,
        _: u32,
        _: &TreePath,
        _: &Digest,
        directory: BorrowedFd<'_>,
        name: &OsStr,
    ) -> io::Result<bool> {
        let path = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
        std::fs::write(path, "output").map(|()| true)
    }
}

fn make(root: &Path, directories: usize, files: usize) {
    for directory in 0..directories {
        let path = root.join(format!("d{directory}"));
        std::fs::create_dir_all(&path).unwrap();
        for file in 0..files {
            std::fs::write(path.join(format!("f{file}")), format!("{directory} {file}")).unwrap();
        }
    }
}

fn rsync(root: &Path, copy: &Path) {
    let with_slash = |path: &Path| format!("{}/", path.display());
    let done = Command::new("rsync").args(["-a", "--dry-run", &with_slash(root), &with_slash(copy)]).status();
    assert!(done.unwrap().success());
}
