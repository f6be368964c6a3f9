//! The store on file systems that refuse to work, as another process in a mount namespace of its own.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, its helpers too")]

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;

use bazel_remote_apis::build::bazel::remote::execution::v2::ActionResult;
use farcc_tests::prerequisites;
use farcc_tests::space::TestSpace;
use farcc_tests::twin_place::noise;
use farccd::digest::Digest;
use farccd::store::Store;

/// Set in the process that does the work of a test; holds the directory to use.
const INSIDE: &str = "FARCC_TEST_INSIDE";

/// Runs the test `name` of this program again, by a shell script in a new mount namespace that ends in `"$@"`.
/// `None` when this machine does not allow that, which is then said.
fn run_inside(name: &str, script: &str, directory: &Path) -> Option<Output> {
    let unshare = |arguments: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--map-root-user"]).args(arguments).env(INSIDE, directory).output()
    };
    if !unshare(&["true"]).is_ok_and(|output| output.status.success()) {
        println!("SKIPPED {name}: unshare(1) may not make mount namespaces here");
        return None;
    }
    let program = std::env::current_exe().unwrap();
    let program = program.to_str().unwrap();
    Some(unshare(&["sh", "-ec", script, "sh", program, name, "--exact", "--nocapture"]).unwrap())
}

fn expect_success(output: &Output) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    assert!(text(&output.stdout).contains("1 passed"), "{}", text(&output.stdout));
}

/// Set in a process that writes to the store for ever; holds its number.
const WRITER: &str = "FARCC_TEST_WRITER";

/// What a writer commits in its round: a blob, and a result that names it.
fn entry(writer: u64, round: u64) -> (Vec<u8>, Digest) {
    let size = usize::try_from(1 + (round * 7919) % 200_000).unwrap();
    let mut blob = format!("{writer} {round} ").into_bytes();
    blob.resize(blob.len() + size, b'.');
    (blob, Digest::of(format!("action {writer} {round}").as_bytes()))
}

#[test]
fn killed_writers_lose_nothing_that_they_had_committed() {
    let name = "killed_writers_lose_nothing_that_they_had_committed";
    if let (Some(directory), Ok(writer)) = (std::env::var_os(INSIDE), std::env::var(WRITER)) {
        let store = Store::open(Path::new(&directory), 1 << 30).unwrap();
        let writer = writer.parse().unwrap();
        for round in 0.. {
            let (blob, action) = entry(writer, round);
            let digest = store.put(&blob).unwrap();
            let stdout_digest = Some(digest.into());
            store
                .put_action_result(&action, &ActionResult { stdout_digest, ..ActionResult::default() })
                .unwrap();
            println!("committed {round}");
            // Two processes trim one store beside each other.
            if round % 16 == 0 {
                store.trim().unwrap();
            }
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let program = std::env::current_exe().unwrap();
    let mut committed = Vec::new();
    for life in 0..12_u64 {
        let writers = [2 * life, 2 * life + 1].map(|writer| {
            let mut command = Command::new(&program);
            command.args([name, "--exact", "--nocapture"]).env(INSIDE, directory.path());
            let child = command.env(WRITER, writer.to_string()).stdout(std::process::Stdio::piped()).spawn();
            (writer, child.unwrap())
        });
        // At any moment: from before the first entry on.
        std::thread::sleep(std::time::Duration::from_millis(20 + 23 * life));
        for (writer, mut child) in writers {
            child.kill().unwrap();
            let said = child.wait_with_output().unwrap().stdout;
            let said = String::from_utf8_lossy(&said).into_owned();
            // The last line may be cut off.
            let whole = said.rsplit_once('\n').map_or("", |(whole, _)| whole);
            let rounds = whole.lines().filter_map(|line| line.split("committed ").nth(1)?.parse().ok());
            committed.extend(rounds.map(|round: u64| (writer, round)));
        }
        let store = Store::open(directory.path(), 1 << 30).unwrap();
        for (writer, round) in &committed {
            let (blob, action) = entry(*writer, *round);
            let result =
                store.action_result(&action).unwrap().unwrap_or_else(|| panic!("{writer} {round} is gone"));
            let digest = Digest::try_from(&result.stdout_digest.unwrap()).unwrap();
            assert_eq!(store.read(&digest).unwrap().as_ref(), Some(&blob), "{writer} {round}");
        }
    }
    assert!(committed.len() > 50, "{} entries", committed.len());
    // And nothing is there that is torn.
    let verified = Store::open(directory.path(), 1 << 30).unwrap().verify(|| {}).unwrap();
    assert_eq!((verified.damaged, verified.unreadable), (0, 0), "{verified:?}");
    assert!(verified.sound >= 2 * committed.len() as u64, "{verified:?}");
}

#[test]
fn the_store_can_be_looked_at_trimmed_verified_and_emptied() {
    let space = TestSpace::new("cache");
    space.configure("");
    let build = || {
        for unit in ["a", "b"] {
            space.write(&format!("{unit}.c"), format!("int {unit};\n"));
            space.run("", &["farcc", "gcc", "-c", &format!("{unit}.c")]).success();
        }
        (space.stats().verdict("hit_local"), space.stats().verdict("executed_local"))
    };
    assert_eq!(build(), (0, 2));
    assert_eq!(build(), (2, 2));
    let shown = space.farccd(&["cache", "--json"]).success();
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown["results"], 2, "{shown}");
    assert!(shown["blobs"].as_u64() >= Some(2) && shown["size_bytes"].as_u64() > Some(0), "{shown}");
    let directory = std::path::PathBuf::from(shown["directory"].as_str().unwrap());
    let text = space.farccd(&["cache"]).success().stdout_text();
    assert!(text.contains("2 results") && text.contains(directory.to_str().unwrap()), "{text}");

    // What is damaged is a miss, and is made again; or is found before.
    let verify = || space.farccd(&["cache", "verify"]).success().stdout_text();
    assert!(verify().contains("0 were damaged"));
    let damage = || {
        let object = std::fs::read(space.workspace().join("a.o")).unwrap();
        let store = Store::open(&directory, 1 << 30).unwrap();
        let at = store.blob_path(&Digest::of(&object));
        std::fs::set_permissions(&at, std::fs::Permissions::from_mode(0o644)).unwrap();
        std::fs::write(&at, vec![0; object.len()]).unwrap();
    };
    damage();
    assert_eq!(build(), (3, 3));
    assert!(verify().contains("0 were damaged"));
    damage();
    let found = verify();
    assert!(found.contains("1 were damaged"), "{found}");
    assert_eq!(build(), (4, 4));

    let trimmed = space.farccd(&["cache", "trim", "--to", "1B"]).success().stdout_text();
    assert!(!trimmed.starts_with('0'), "{trimmed}");
    assert_eq!(build(), (4, 6));
    assert_eq!(build(), (6, 6));
    space.farccd(&["cache", "clear"]).success();
    let text = space.farccd(&["cache"]).success().stdout_text();
    assert!(text.contains("  0 results, 0 files"), "{text}");
    assert_eq!(build(), (6, 8));
}

#[test]
fn a_full_disk_is_an_error_and_harms_nothing() {
    let Some(directory) = std::env::var_os(INSIDE) else {
        let directory = tempfile::tempdir().unwrap();
        let script = "mount -t tmpfs -o size=256k none \"$FARCC_TEST_INSIDE\"; exec \"$@\"";
        if let Some(output) =
            run_inside("a_full_disk_is_an_error_and_harms_nothing", script, directory.path())
        {
            expect_success(&output);
        }
        return;
    };
    let directory = Path::new(&directory);
    let store = Store::open(&directory.join("store"), 1 << 30).unwrap();
    let kept = store.put(b"kept").unwrap();
    let large = vec![7; 1 << 20];
    assert_eq!(store.put(&large).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert!(!store.contains(&Digest::of(&large)));
    let source = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(source.path(), &large).unwrap();
    assert_eq!(store.put_file(source.path()).unwrap_err().kind(), io::ErrorKind::StorageFull);
    let result = ActionResult { stdout_raw: large, ..ActionResult::default() };
    let action = Digest::of(b"action");
    assert_eq!(store.put_action_result(&action, &result).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(store.action_result(&action).unwrap(), None);

    // What failed left nothing behind that takes the space of others.
    assert_eq!(std::fs::read_dir(directory.join("store/tmp")).unwrap().count(), 0);
    store.put(&[1; 100_000]).unwrap();
    assert_eq!(store.read(&kept).unwrap().unwrap(), b"kept");

    // An output that does not fit where it is to go: nothing appears there.
    let blob = store.put(&[2; 60_000]).unwrap();
    std::fs::write(directory.join("filler"), vec![0; 50_000]).unwrap();
    let destination = directory.join("a.o");
    assert_eq!(store.install(&blob, &destination, 0o644).unwrap_err().kind(), io::ErrorKind::StorageFull);
    let names: Vec<_> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[test]
fn a_read_only_store_still_reads() {
    let Some(directory) = std::env::var_os(INSIDE) else {
        let directory = tempfile::tempdir().unwrap();
        Store::open(directory.path(), 1 << 30).unwrap().put(b"kept").unwrap();
        // Root may write to directories that forbid it, but not to a file system that does.
        let script = "mount --bind \"$FARCC_TEST_INSIDE\" \"$FARCC_TEST_INSIDE\"; exec \"$@\"";
        if let Some(output) = run_inside("a_read_only_store_still_reads", script, directory.path()) {
            expect_success(&output);
        }
        return;
    };
    let directory = Path::new(&directory);
    let store = Store::open(directory, 1 << 30).unwrap();
    let remount = ["-o", "remount,bind,ro"];
    let mounted = Command::new("mount").args(remount).arg(directory).status().unwrap();
    assert!(mounted.success());
    assert_eq!(store.read(&Digest::of(b"kept")).unwrap().unwrap(), b"kept");
    assert_eq!(store.put(b"new").unwrap_err().kind(), io::ErrorKind::ReadOnlyFilesystem);
    assert!(Store::open(directory, 1 << 30).is_err());
    assert!(store.put(b"kept").is_ok(), "what is there need not be written");
}

#[test]
fn a_forbidden_store_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let forbidden = directory.path().join("forbidden");
    std::fs::create_dir(&forbidden).unwrap();
    std::fs::set_permissions(&forbidden, std::fs::Permissions::from_mode(0o500)).unwrap();
    match Store::open(&forbidden.join("store"), 1 << 30) {
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied),
        Ok(_) if rustix::process::geteuid().is_root() => println!("SKIPPED: nothing is forbidden to root"),
        Ok(_) => panic!("a store in a directory that cannot be written to"),
    }
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(Store::open(&file, 1 << 30).is_err());
}

/// Blobs small and large, put, read back, installed, damaged: as on any other file system.
fn serves_as_ever(store: &Store, outside: &Path) {
    for (number, size) in [0, 1, 4095, 65_536, 65_537, 3 << 20].into_iter().enumerate() {
        let content = noise(u64::try_from(number).unwrap(), size);
        let source = outside.join(format!("source{number}"));
        std::fs::write(&source, &content).unwrap();
        let digest = store.put_file(&source).unwrap();
        assert_eq!(digest, Digest::of(&content), "{size} bytes");
        assert_eq!(store.read(&digest).unwrap().as_deref(), Some(&*content), "{size} bytes");
        let installed = outside.join(format!("installed{number}"));
        for _ in 0..2 {
            assert!(store.install(&digest, &installed, 0o640).unwrap());
            assert_eq!(std::fs::read(&installed).unwrap(), content, "{size} bytes");
        }
        // Whoever writes into the one or the other writes into no blob.
        std::fs::write(&installed, "edited").unwrap();
        std::fs::write(&source, "edited").unwrap();
        assert_eq!(store.read(&digest).unwrap().as_deref(), Some(&*content), "{size} bytes");
        if size > 0 {
            let blob = store.blob_path(&digest);
            std::fs::set_permissions(&blob, std::fs::Permissions::from_mode(0o644)).unwrap();
            let mut damaged = content.clone();
            damaged[size / 2] ^= 1;
            std::fs::write(&blob, damaged).unwrap();
            assert!(!store.install(&digest, &installed, 0o640).unwrap(), "{size} bytes");
            assert_eq!(std::fs::read(&installed).unwrap(), b"edited");
            assert!(!store.contains(&digest), "{size} bytes: what is damaged goes");
        }
    }
}

#[test]
fn a_file_system_that_shares_blocks_serves_as_any_other() {
    let name = "a_file_system_that_shares_blocks_serves_as_any_other";
    let Some(directory) = std::env::var_os(INSIDE) else {
        prerequisites::require(&["mkfs.xfs"]);
        let directory = tempfile::tempdir().unwrap();
        let script = "cd \"$FARCC_TEST_INSIDE\"; truncate -s 400M image; mkfs.xfs -q -m reflink=1 image; mkdir shares; \
                      mount -o loop image shares || exit 77; \"$@\"";
        if let Some(output) = run_inside(name, script, directory.path()) {
            match output.status.code() {
                Some(77) => println!("SKIPPED {name}: this kernel mounts no XFS from a file"),
                _ => expect_success(&output),
            }
        }
        return;
    };
    let directory = Path::new(&directory);
    let shares = directory.join("shares");
    let store = Store::open(&shares.join("store"), 1 << 30).unwrap();
    serves_as_ever(&store, &shares);
    // Blocks are shared indeed: what is installed takes no room.
    let free =
        || rustix::fs::statvfs(&shares).unwrap().f_bavail * rustix::fs::statvfs(&shares).unwrap().f_frsize;
    let large = noise(9, 32 << 20);
    let digest = store.put(&large).unwrap();
    rustix::fs::sync();
    let before = free();
    assert!(store.install(&digest, &shares.join("large"), 0o644).unwrap());
    rustix::fs::sync();
    assert!(before - free() < 16 << 20, "{} of {} bytes were copied", before - free(), large.len());
    assert_eq!(std::fs::read(shares.join("large")).unwrap(), large);
    // From there to another file system, and back.
    serves_as_ever(&store, directory);
    assert!(store.install(&digest, &directory.join("elsewhere"), 0o644).unwrap());
    assert_eq!(std::fs::read(directory.join("elsewhere")).unwrap(), large);
}

/// All entries of a store: blobs and results.
fn entries(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(entries(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

#[test]
fn a_store_full_of_garbage_is_never_believed() {
    prerequisites::require(&["gcc", "mkfifo"]);
    let space = TestSpace::new("garbage");
    space.configure("");
    let units = ["a", "b"];
    for unit in units {
        space.write(&format!("{unit}.c"), format!("#include <stdio.h>\nint {unit} = 'x';\n"));
    }
    let build = || {
        for unit in units {
            let line = ["gcc", "-g", "-MD", "-c", &format!("{unit}.c"), "-o", &format!("{unit}.o")]
                .map(str::to_owned);
            let made = |words: &[&str]| {
                space.run("", words).success();
                [".o", ".d"].map(|end| std::fs::read(space.workspace().join(format!("{unit}{end}"))).unwrap())
            };
            let line: Vec<_> = line.iter().map(String::as_str).collect();
            assert_eq!(made(&[&["farcc"], &*line].concat()), made(&line), "{unit}");
        }
        space.stats().verdict("hit_local")
    };
    assert_eq!(build(), 0);
    assert_eq!(build(), 2);
    let shown = space.farccd(&["cache", "--json"]).success();
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    let directory = PathBuf::from(shown["directory"].as_str().unwrap());
    let size = |path: &Path| usize::try_from(std::fs::metadata(path).unwrap().len()).unwrap();
    type Garbage<'a> = &'a dyn Fn(&Path);
    let kinds: [(&str, Garbage); 7] = [
        ("other bytes", &|path| std::fs::write(path, vec![b'g'; size(path)]).unwrap()),
        ("cut off", &|path| {
            std::fs::File::options().write(true).open(path).unwrap().set_len(size(path) as u64 / 2).unwrap();
        }),
        ("longer", &|path| {
            std::fs::File::options().write(true).open(path).unwrap().set_len(1 << 20).unwrap();
        }),
        ("empty", &|path| std::fs::write(path, "").unwrap()),
        ("a directory", &|path| std::fs::remove_file(path).and_then(|()| std::fs::create_dir(path)).unwrap()),
        ("a symlink", &|path| {
            std::fs::remove_file(path)
                .and_then(|()| std::os::unix::fs::symlink("/etc/passwd", path))
                .unwrap();
        }),
        ("a pipe", &|path| {
            std::fs::remove_file(path).unwrap();
            assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
        }),
    ];
    for (what, spoil) in kinds {
        for (which, hits) in [("all", 0), ("the first", 2)] {
            let before = space.stats().verdict("hit_local");
            let every = entries(&directory);
            assert!(every.len() >= 6, "{every:?}");
            for path in every.iter().take(if which == "all" { usize::MAX } else { 1 }) {
                let _ = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644));
                spoil(path);
            }
            let found = build() - before;
            assert!(found <= hits, "{which} {what}: {found} hits");
            let before = space.stats().verdict("hit_local");
            assert_eq!(build() - before, 2, "{which} {what}: it was repaired");
        }
    }
}
