//! The store on file systems that refuse to work, as another process in a mount namespace of its own.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, its helpers too")]

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::process::Output;

use bazel_remote_apis::build::bazel::remote::execution::v2::ActionResult;
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
