//! What goes wrong with a twin and must harm nobody: one that is hostile.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

use farcc_proto::twin;
use farcc_proto::twin::run_response::Response as Run;
use farcc_proto::twin::sync_request::Request as SyncRequest;
use farcc_proto::twin::sync_response::Response as Sync;
use farcc_tests::fake_twin::FakeTwin;
use farcc_tests::fake_twin::Options;
use farcc_tests::fake_twin::Said;
use farcc_tests::fake_twin::Say;
use farcc_tests::fake_twin::change;
use farcc_tests::fake_twin::digest;
use farcc_tests::fake_twin::directory;
use farcc_tests::fake_twin::ended;
use farcc_tests::fake_twin::file;
use farcc_tests::fake_twin::like_a_twin;
use farcc_tests::fake_twin::link;
use farcc_tests::fake_twin::piece;
use farcc_tests::fake_twin::said;
use farcc_tests::fake_twin::started;
use farcc_tests::space::Finished;
use farcc_tests::space::TestSpace;
use farcc_tests::space::wait_until;
use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::WaitId;
use rustix::process::WaitIdOptions;

/// `[twin] timeout`.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a fake twin says of the next command.
type Next = Arc<Mutex<Course>>;

/// What a fake twin says of a command, each time anew.
type Course = Box<dyn Fn() -> Said<Run> + Send>;

/// A workspace, a place beside it that nobody may touch, and a twin that says what it likes.
struct Prey {
    space: TestSpace,
    daemon: Pid,
}

impl Prey {
    fn new(name: &str) -> Prey {
        let space = TestSpace::new(name);
        fs::create_dir(space.workspace().join(".git")).unwrap();
        fs::create_dir(outside(&space)).unwrap();
        fs::write(outside(&space).join("secret"), "secret").unwrap();
        space.write("in.txt", "public");
        space.write("sub/known.txt", "known");
        std::os::unix::fs::symlink(outside(&space), space.workspace().join("out")).unwrap();
        std::os::unix::fs::symlink("sub", space.workspace().join("inner")).unwrap();
        space.configure("");
        space.start_daemon();
        let daemon = space.daemon().unwrap();
        Prey { space, daemon }
    }

    fn meet(&self, twin: &FakeTwin) {
        let address = twin.address();
        self.space.configure(&format!(
            "[twin]\naddress = \"grpc://{address}\"\nwhen_lost = \"fail\"\ntimeout = \"{}s\"\n",
            PATIENCE.as_secs()
        ));
    }

    /// Runs a command, which must come to its end, leave alone what is outside, and not break the daemon.
    #[track_caller]
    fn run(&self, script: &str) -> Finished {
        let before = tree(&outside(&self.space));
        let mut command = self.space.command("timeout");
        command.args(["--kill-after=1", "40", "farcc", "/usr/bin/python3", "-c", script]);
        let finished = farcc_tests::space::run(command.env("FARCC_LOG", "debug"));
        assert!(finished.status != 124 && finished.status != 137, "it does not end: {finished}");
        assert_eq!(tree(&outside(&self.space)), before, "{finished}");
        assert_eq!(self.space.daemon(), Some(self.daemon), "another daemon: {finished}");
        assert!(!self.space.log().contains("panicked"), "{}", self.space.log());
        finished
    }
}

fn outside(space: &TestSpace) -> PathBuf {
    space.client().join("outside")
}

/// All that is in a directory: paths, kinds and permissions, contents or targets; of files, when they were written.
fn tree(directory: &Path) -> Vec<(PathBuf, u32, i64, Vec<u8>)> {
    let mut entries = Vec::new();
    let mut left = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            let content = match metadata.file_type() {
                kind if kind.is_dir() => Vec::new(),
                kind if kind.is_symlink() => {
                    fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
                }
                _ => fs::read(&path).unwrap(),
            };
            let modified = if metadata.is_dir() { 0 } else { metadata.mtime_nsec() };
            left.extend(metadata.is_dir().then(|| path.clone()));
            entries.push((path, metadata.mode(), modified, content));
        }
    }
    entries.sort();
    entries
}

/// A twin that says of each command what is put there.
fn with_next(options: Options) -> (FakeTwin, Next) {
    let next: Next = Arc::new(Mutex::new(Box::new(|| said([]))));
    let own = Arc::clone(&next);
    (options.run(move || own.lock().unwrap()()).start(), next)
}

/// What becomes of a command that has changed these, whose files have the content `x`.
fn changing(changes: &[twin::Change], commit: u64) -> impl Fn() -> Said<Run> + Send + use<> {
    let changes = changes.to_vec();
    move || said([started(), Run::Piece(piece(b"x")), ended(changes.clone(), commit)])
}

#[test]
fn a_hostile_twin_changes_nothing_but_the_workspace() {
    let prey = Prey::new("twin-hostile-changes");
    let (fake, next) = with_next(FakeTwin::new());
    prey.meet(&fake);
    let x = || file(b"x");
    let absolute = outside(&prey.space).into_os_string().into_encoded_bytes();
    let long = [b'n'; 256];
    let of_file = |file: twin::File| Some(twin::change::Now::File(file));
    let set_uid = of_file(twin::File { digest: Some(digest(b"x")), mode: 0o4755 });
    let no_digest = of_file(twin::File { digest: None, mode: 0o644 });
    let odd_digest =
        of_file(twin::File { digest: Some(twin::Digest { hash: vec![1; 31], size_bytes: 1 }), mode: 0o644 });
    let before = tree(&prey.space.workspace());
    for (changes, expected) in [
        (vec![change(b"../outside/x", x(), 1)], "no path below a root"),
        (vec![change(&[&absolute[..], b"/x"].concat(), x(), 1)], "no path below a root"),
        (vec![change(b"sub/../../outside/x", x(), 1)], "no path below a root"),
        (vec![change(b"a\0b", x(), 1)], "no path below a root"),
        (vec![change(b"a//b", x(), 1)], "no path below a root"),
        (vec![change(b"sub/", None, 0)], "no path below a root"),
        (vec![change(b".", None, 0)], "no path below a root"),
        (vec![change(&long, x(), 1)], "no path below a root"),
        (vec![twin::Change { root: 7, ..change(b"a", x(), 1) }], "no root 7"),
        (vec![change(b"a", set_uid, 1)], "mode 4755"),
        (vec![change(b"a", no_digest, 1)], "digest of a is damaged"),
        (vec![change(b"a", odd_digest, 1)], "digest of a is damaged"),
        (vec![change(b"a", link(b""), 0)], "leads nowhere"),
        (vec![change(b"a", None, 1)], "rank"),
        // What is understood, and yet must not be.
        (vec![change(b"", None, 0)], "make no tree"),
        (vec![change(b"", x(), 1)], "make no tree"),
        (vec![change(b"a", x(), 1), change(b"a", x(), 2)], "make no tree"),
        (vec![change(b"nowhere/a", x(), 1)], "make no tree"),
        (vec![change(b".farcc-tmp-a", x(), 1)], "make no tree"),
        (vec![change(b"l", link(&absolute), 0)], "outside of the workspace"),
        (vec![change(b"l", link(b"../outside"), 0)], "outside of the workspace"),
        (vec![change(b"l", link(b"sub/../../outside"), 0)], "outside of the workspace"),
        (vec![change(b"l", link(&absolute), 0), change(b"l/x", x(), 1)], "outside of the workspace"),
        (vec![change(b"l", link(b"sub"), 0), change(b"l/x", x(), 1)], "make no tree"),
        // By ways of the user's own.
        (vec![change(b"out/x", x(), 1)], "make no tree"),
        (vec![change(b"out/secret", None, 0), change(b"out", directory(), 0)], "out was changed"),
        (vec![change(b"out", directory(), 0), change(b"out/x", x(), 1)], "out was changed"),
        (vec![change(b"inner/x", x(), 1)], "make no tree"),
        // Contents that are not there.
        (vec![change(b"a", file(b"never sent"), 1)], "content of"),
        (vec![change(b"in.txt", file(b"secret"), 0)], "other content"),
    ] {
        *next.lock().unwrap() = Box::new(changing(&changes, 1));
        let finished = prey.run("open('ran here', 'w')");
        assert_eq!(finished.status, 1, "{changes:?}: {finished}");
        assert!(finished.stderr_text().contains(expected), "{changes:?}: {finished}");
        assert_eq!(tree(&prey.space.workspace()), before, "{changes:?}");
    }
    // The same twin, when it behaves: the cases above fail for what is wrong with them, and the daemon is well.
    *next.lock().unwrap() = Box::new(changing(&[change(b"a", x(), 1), change(b"l", link(b"sub"), 0)], 1));
    prey.run("").success();
    assert_eq!(fs::read(prey.space.workspace().join("a")).unwrap(), b"x");
    assert_eq!(fs::read(prey.space.workspace().join("l/known.txt")).unwrap(), b"known");
    // What it says a second time is heard by nobody.
    let twice = || said([started(), ended(Vec::new(), 0), ended(vec![change(b"second", link(b"a"), 0)], 2)]);
    *next.lock().unwrap() = Box::new(twice);
    prey.run("").success();
    assert!(!prey.space.workspace().join("second").exists());
}

#[test]
fn a_hostile_twin_makes_nobody_wait_or_fall() {
    let prey = Prey::new("twin-hostile-words");
    let (fake, next) = with_next(FakeTwin::new().read(|| Box::new(std::iter::once(Say::Silence))));
    prey.meet(&fake);
    let before = tree(&prey.space.workspace());
    let one = || vec![change(b"a", file(b"x"), 1)];
    let of_size = |data: &[u8], size_bytes: u32| {
        Run::Piece(twin::Piece { data: data.to_vec(), size_bytes, ..piece(b"x") })
    };
    let signaled = |signal| {
        let status = Some(twin::ended::Status::Signal(signal));
        Run::Ended(twin::Ended { status, ..twin::Ended::default() })
    };
    let millions = || -> Said<Run> {
        let part = |at: u32| {
            let name = |n: u32| change(format!("{at}-{n}").as_bytes(), link(b"in.txt"), 0);
            Run::Ended(twin::Ended {
                changes: (0..10_000).map(name).collect(),
                continues: true,
                commit: 1,
                ..twin::Ended::default()
            })
        };
        Box::new(
            std::iter::once(Say::Message(started())).chain((0..1000).map(move |at| Say::Message(part(at)))),
        )
    };
    let cases: Vec<(&str, Course, &str)> = vec![
        ("more than its size", Box::new(move || said([started(), of_size(b"xy", 2)])), "longer than it says"),
        (
            "larger than any",
            Box::new(move || said([started(), of_size(&[0; 3 << 20], 3 << 20)])),
            "a size that none may have",
        ),
        ("other bytes", Box::new(move || said([started(), of_size(b"y", 1)])), "the bytes have digest"),
        ("no end", Box::new(|| said([started()])), "without a word"),
        ("no status", Box::new(|| said([started(), Run::Ended(twin::Ended::default())])), "how it ended"),
        (
            "more to come that never comes",
            Box::new(|| {
                said([started(), Run::Ended(twin::Ended { continues: true, ..twin::Ended::default() })])
            }),
            "without a word",
        ),
        ("a signal that stops", Box::new(move || said([started(), signaled(19)])), "signal 19"),
        ("a signal that there is not", Box::new(move || said([started(), signaled(200)])), "signal 200"),
        ("the seventh commit before the first", Box::new(changing(&one(), 7)), "after those before it"),
        ("changes that are no commit", Box::new(changing(&one(), 0)), "after those before it"),
        (
            "contents that never come",
            Box::new(|| said([started(), ended(vec![change(b"a", file(b"never"), 1)], 1)])),
            "no answer within",
        ),
        (
            "an end that is to confuse a terminal",
            Box::new(|| {
                let dropped = "no\u{1b}[2Jmore".to_owned();
                said([started(), Run::Ended(twin::Ended { dropped, ..twin::Ended::default() })])
            }),
            "no [2Jmore",
        ),
        (
            "words that are",
            Box::new(|| {
                let status = tonic::Status::unavailable("no\u{1b}[2Jway");
                Box::new([Say::Message(started()), Say::End(status)].into_iter())
            }),
            "no [2Jway",
        ),
        ("ten million changes", Box::new(millions), "more changes"),
    ];
    for (what, run, expected) in cases {
        *next.lock().unwrap() = run;
        let started = Instant::now();
        let finished = prey.run("open('ran here', 'w')");
        assert_eq!(finished.status, 1, "{what}: {finished}");
        assert!(finished.stderr_text().contains(expected), "{what}: {finished}");
        assert!(!finished.stderr.contains(&0x1b), "{what}: {finished}");
        assert!(started.elapsed() < PATIENCE + Duration::from_secs(20), "{what}: {:?}", started.elapsed());
        assert_eq!(tree(&prey.space.workspace()), before, "{what}");
    }
    // Nothing was begun, so that it runs here.
    for (what, run) in [
        ("an end without a beginning", Box::new(changing_unbegun) as Course),
        ("not a word", Box::new(|| said([]))),
    ] {
        *next.lock().unwrap() = run;
        prey.run("open('ran here', 'w')").success();
        assert!(prey.space.workspace().join("ran here").exists(), "{what}");
        assert!(!prey.space.workspace().join("a").exists(), "{what}");
        fs::remove_file(prey.space.workspace().join("ran here")).unwrap();
    }
    // It has taken more than it was sent: what is left of a file is what was not sent.
    *next.lock().unwrap() = Box::new(|| {
        said([started(), Run::TakenBytes(u64::MAX), Run::TakenBytes(1 << 40), ended(Vec::new(), 0)])
    });
    prey.space.write("lines", "one\ntwo\n");
    prey.space.bounded("farcc /usr/bin/python3 -c pass < lines").success();
    // It talks without end, and heeds nothing: until somebody here insists.
    let output = || Run::Output(twin::Output { stream: 1, data: vec![b'x'; 60 << 10] });
    *next.lock().unwrap() = Box::new(move || {
        Box::new(std::iter::once(started()).chain(std::iter::repeat_with(output)).map(Say::Message))
    });
    let mut command = prey.space.interruptible("farcc");
    command.args(["/usr/bin/python3", "-c", "pass"]).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut few = [0; 5];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut few).unwrap();
    drop(child.stdout.take());
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(200));
        rustix::process::kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    }
    wait_until("the launcher's end", 10, || has_ended(&child));
    assert!(!child.wait().unwrap().success());
    let memory = resident_bytes(prey.daemon);
    assert!(memory < 300 << 20, "the daemon has {memory} bytes");
    *next.lock().unwrap() = Box::new(changing(&one(), 1));
    prey.run("").success();
}

/// Without the word that it has begun.
fn changing_unbegun() -> Said<Run> {
    said([Run::Piece(piece(b"x")), ended(vec![change(b"a", file(b"x"), 1)], 1)])
}

/// Whether a child has ended, which is still to be waited for.
fn has_ended(child: &Child) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let status = rustix::process::waitid(WaitId::Pid(Pid::from_child(child)), options);
    status.is_ok_and(|status| status.is_some())
}

/// What a process has in memory.
fn resident_bytes(process: Pid) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.as_raw_nonzero())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[test]
fn a_hostile_twin_reads_nothing_that_it_was_not_told_of() {
    let prey = Prey::new("twin-hostile-reads");
    let asks_for = |wanted: Vec<Vec<u8>>, and: Box<dyn Fn() + Send + std::marker::Sync>| {
        let twin = FakeTwin::new().sync(move |request| match request {
            SyncRequest::Batch(_) => {
                and();
                let digests = wanted.iter().map(|content| digest(content)).collect();
                vec![Sync::Missing(twin::Missing { digests })]
            }
            request => like_a_twin(request),
        });
        twin.run(|| Box::new(std::iter::once(Say::Silence))).start()
    };
    let meets = |twin: &FakeTwin| {
        prey.meet(twin);
        let started = Instant::now();
        prey.run("").success();
        assert!(started.elapsed() < PATIENCE + Duration::from_secs(20), "{:?}", started.elapsed());
        let heard = twin.heard();
        assert_eq!(heard.sessions, 1);
        let names: Vec<_> =
            heard.changes.iter().map(|change| change.path.escape_ascii().to_string()).collect();
        assert!(!names.iter().any(|name| name.starts_with("out")), "{names:?}");
        heard.contents
    };
    // It gets what it was told of, so that it would get the others as well.
    let told = asks_for(vec![b"public".to_vec()], Box::new(|| ()));
    assert_eq!(meets(&told), [(digest(b"public"), b"public".to_vec())]);
    // A file of the system's, and one that only a symlink of the user's leads to.
    let passwords = fs::read("/etc/passwd").unwrap();
    for wanted in [passwords, b"secret".to_vec()] {
        assert_eq!(meets(&asks_for(vec![wanted], Box::new(|| ()))), []);
    }
    // What it was told of has become something else meanwhile.
    let at = prey.space.workspace().join("in.txt");
    let secret = outside(&prey.space).join("secret");
    type Act = fn(&Path, &Path);
    let acts: [(&str, Act); 4] = [
        ("a symlink", |at, secret| std::os::unix::fs::symlink(secret, at).unwrap()),
        ("another file", |at, secret| assert!(fs::copy(secret, at).is_ok())),
        ("another name of another file", |at, secret| fs::hard_link(secret, at).unwrap()),
        ("a FIFO", |at, _| {
            rustix::fs::mknodat(rustix::fs::CWD, at, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        }),
    ];
    for (what, act) in acts {
        let (own, other) = (at.clone(), secret.clone());
        let become_other = move || {
            fs::remove_file(&own).unwrap();
            act(&own, &other);
        };
        let twin = asks_for(vec![b"public".to_vec()], Box::new(become_other));
        let contents = meets(&twin);
        assert!(!contents.iter().any(|(_, data)| data == b"secret"), "{what}: {contents:?}");
        fs::remove_file(&at).unwrap();
        fs::write(&at, "public").unwrap();
    }
    // A directory on the way to it has become a symlink.
    let sub = prey.space.workspace().join("sub");
    let (own, there) = (sub, outside(&prey.space));
    fs::write(there.join("known.txt"), "other").unwrap();
    let twin = asks_for(
        vec![b"known".to_vec()],
        Box::new(move || {
            fs::remove_dir_all(&own).unwrap();
            std::os::unix::fs::symlink(&there, &own).unwrap();
        }),
    );
    // What it was told of may be known still; what is there now is nobody's business.
    let contents = meets(&twin);
    assert!(contents.iter().all(|(_, data)| data == b"known"), "{contents:?}");
}

#[test]
fn a_silent_twin_is_waited_for_as_long_as_is_configured() {
    let prey = Prey::new("twin-silent");
    let silent = || -> Said<Run> { Box::new(std::iter::once(Say::Silence)) };
    for (what, twin) in [
        ("it does not open", FakeTwin::new().sync(|_| Vec::new())),
        (
            "it puts nothing into place",
            FakeTwin::new().sync(|request| match request {
                SyncRequest::Open(_) => like_a_twin(request),
                SyncRequest::Batch(_) | SyncRequest::Piece(_) | SyncRequest::PlacedCommit(_) => Vec::new(),
            }),
        ),
        (
            "it applies what it was not told",
            FakeTwin::new().sync(|request| match request {
                SyncRequest::Open(_) => like_a_twin(request),
                SyncRequest::Batch(_) | SyncRequest::Piece(_) | SyncRequest::PlacedCommit(_) => {
                    vec![Sync::Applied(twin::Applied { sequence: u64::MAX })]
                }
            }),
        ),
    ] {
        let twin = twin.run(silent).start();
        prey.meet(&twin);
        let started = Instant::now();
        prey.run("open('ran here', 'w')").success();
        assert!(started.elapsed() < PATIENCE + Duration::from_secs(5), "{what}: {:?}", started.elapsed());
        fs::remove_file(prey.space.workspace().join("ran here")).unwrap();
    }
    assert_eq!(prey.space.stats().reason("twin_unavailable"), 3);
    // One that asks for nothing is at work, also before it opens.
    let busy = FakeTwin::new().sync(|request| match request {
        SyncRequest::Open(_) => {
            let nothing = || Sync::Missing(twin::Missing::default());
            [vec![nothing(), nothing()], like_a_twin(request)].concat()
        }
        SyncRequest::Batch(_) | SyncRequest::Piece(_) | SyncRequest::PlacedCommit(_) => like_a_twin(request),
    });
    let busy = busy.start();
    prey.meet(&busy);
    prey.run("open('ran here', 'w')").success();
    assert_eq!(prey.space.stats().verdict("twin"), 1);
}
