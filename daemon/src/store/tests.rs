//! What a store promises when files are torn, damaged, foreign, shared or too many.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt;

use tempfile::TempDir;

use super::*;

const PLENTY: u64 = 1 << 30;

fn new_store() -> (TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), PLENTY).unwrap();
    (directory, store)
}

/// Replaces an entry's bytes as a crash or a bad disk would.
fn overwrite(path: &Path, bytes: &[u8]) {
    fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
    fs::write(path, bytes).unwrap();
}

fn temporary_files(store: &Store) -> usize {
    fs::read_dir(store.directory().join(TEMPORARY)).unwrap().count()
}

fn a_result() -> ActionResult {
    ActionResult { exit_code: 3, stdout_raw: b"hello".to_vec(), ..ActionResult::default() }
}

#[test]
fn what_is_put_is_read_back() {
    let (_directory, store) = new_store();
    let digest = store.put(b"hello").unwrap();
    assert_eq!(digest, Digest::of(b"hello"));
    assert!(store.contains(&digest));
    assert_eq!(store.read(&digest).unwrap().unwrap(), b"hello");
    assert!(!store.contains(&Digest::of(b"other")));
    assert_eq!(store.read(&Digest::of(b"other")).unwrap(), None);
    let wrong_size = Digest::from_hex(&digest.hex(), 4).unwrap();
    assert!(!store.contains(&wrong_size));
    assert_eq!(temporary_files(&store), 0);
}

#[test]
fn the_empty_blob_is_always_there() {
    let (directory, store) = new_store();
    assert!(store.contains(&Digest::empty()));
    assert_eq!(store.read(&Digest::empty()).unwrap().unwrap(), b"");
    assert!(store.open_blob(&Digest::empty(), 0).unwrap().is_some());
    let destination = directory.path().join("empty");
    assert!(store.install(&Digest::empty(), &destination, 0o640).unwrap());
    assert_eq!(fs::metadata(destination).unwrap().len(), 0);
    // Nothing was made for it.
    assert_eq!(store.stats().unwrap().blobs, 0);
}

#[test]
fn a_torn_or_damaged_blob_is_a_miss_and_is_deleted() {
    for damage in [&b"hel"[..], b"", b"jello", b"hello!"] {
        let (directory, store) = new_store();
        let digest = store.put(b"hello").unwrap();
        let path = store.blob_path(&digest);
        let destination = directory.path().join("out");
        overwrite(&path, damage);
        assert_eq!(store.read(&digest).unwrap(), None, "{damage:?}");
        assert!(!path.exists(), "{damage:?}");

        store.put(b"hello").unwrap();
        overwrite(&path, damage);
        assert!(!store.install(&digest, &destination, 0o644).unwrap(), "{damage:?}");
        assert!(!path.exists() && !destination.exists());
        // No temporary file stays beside the destination.
        assert!(fs::read_dir(directory.path()).unwrap().all(|file| {
            let name = file.unwrap().file_name();
            [BLOBS, RESULTS, TEMPORARY].iter().any(|known| name == *known)
        }));

        // Putting it again heals it.
        store.put(b"hello").unwrap();
        assert_eq!(store.read(&digest).unwrap().unwrap(), b"hello");
    }
}

#[test]
fn a_damaged_blob_never_streams_to_its_end() {
    let (_directory, store) = new_store();
    let bytes = vec![7; 300_000];
    let digest = store.put(&bytes).unwrap();
    let mut whole = Vec::new();
    store.open_blob(&digest, 0).unwrap().unwrap().read_to_end(&mut whole).unwrap();
    assert_eq!(whole, bytes);
    let mut tail = Vec::new();
    store.open_blob(&digest, 299_990).unwrap().unwrap().read_to_end(&mut tail).unwrap();
    assert_eq!(tail, [7; 10]);
    let error = store.open_blob(&digest, 300_001).err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);

    let mut damaged = bytes.clone();
    damaged[5] = 8;
    overwrite(&store.blob_path(&digest), &damaged);
    let mut got = Vec::new();
    let error = store.open_blob(&digest, 0).unwrap().unwrap().read_to_end(&mut got).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(got.len() < bytes.len());

    store.put(&bytes).unwrap();
    overwrite(&store.blob_path(&digest), &damaged);
    assert!(store.open_blob(&digest, 10).unwrap().is_none(), "a start in the middle is verified too");
}

#[test]
fn a_torn_or_damaged_result_is_a_miss() {
    let (_directory, store) = new_store();
    let action = Digest::of(b"action");
    assert_eq!(store.action_result(&action).unwrap(), None);
    store.put_action_result(&action, &a_result()).unwrap();
    assert_eq!(store.action_result(&action).unwrap(), Some(a_result()));
    let path = store.result_path(&action);
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        store.put_action_result(&action, &a_result()).unwrap();
        overwrite(&path, &whole[..length]);
        assert_eq!(store.action_result(&action).unwrap(), None, "{length}");
    }
    for index in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[index] ^= 1;
        store.put_action_result(&action, &a_result()).unwrap();
        overwrite(&path, &damaged);
        assert_eq!(store.action_result(&action).unwrap(), None, "{index}");
    }
}

#[test]
fn namespaces_and_sizes_keep_results_apart() {
    let (_directory, store) = new_store();
    let served = store.with_namespace("serve");
    let action = Digest::of(b"action");
    store.put_action_result(&action, &a_result()).unwrap();
    assert_eq!(served.action_result(&action).unwrap(), None);
    let other_size = Digest::from_hex(&action.hex(), 7).unwrap();
    assert_eq!(store.action_result(&other_size).unwrap(), None);
    served.put_action_result(&action, &ActionResult::default()).unwrap();
    assert_eq!(served.action_result(&action).unwrap(), Some(ActionResult::default()));
    store.remove_action_result(&action).unwrap();
    store.remove_action_result(&action).unwrap();
    assert_eq!(store.action_result(&action).unwrap(), None);
    assert!(served.action_result(&action).unwrap().is_some());
}

#[test]
fn a_writer_checks_what_was_expected() {
    let (_directory, store) = new_store();
    let digest = Digest::of(b"hello world");
    let mut writer = store.writer().unwrap();
    writer.write_all(b"hello ").unwrap();
    writer.write_all(b"world").unwrap();
    assert_eq!(writer.size_bytes(), 11);
    writer.commit(&digest).unwrap();
    assert_eq!(store.read(&digest).unwrap().unwrap(), b"hello world");

    let mut writer = store.writer().unwrap();
    writer.write_all(b"hello").unwrap();
    assert_eq!(writer.commit(&Digest::of(b"jello")).unwrap_err().kind(), io::ErrorKind::InvalidData);
    let mut dropped = store.writer().unwrap();
    dropped.write_all(b"x").unwrap();
    drop(dropped);
    assert_eq!(temporary_files(&store), 0);
    assert_eq!(store.stats().unwrap().blobs, 1);
}

#[test]
fn files_are_put_and_others_refused() {
    let (directory, store) = new_store();
    let path = directory.path().join("a.o");
    fs::write(&path, "object").unwrap();
    let digest = store.put_file(&path).unwrap();
    // The store has its own copy.
    fs::write(&path, "edited").unwrap();
    assert_eq!(store.read(&digest).unwrap().unwrap(), b"object");
    let pipe = directory.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    for not_a_file in [directory.path(), &pipe] {
        assert_eq!(store.put_file(not_a_file).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
    assert_eq!(store.put_file(&directory.path().join("absent")).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(temporary_files(&store), 0);
}

#[test]
fn install_replaces_whatever_is_there() {
    let (directory, store) = new_store();
    let digest = store.put(b"new").unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::write(at("existing"), "old").unwrap();
    fs::write(at("readonly"), "old").unwrap();
    fs::set_permissions(at("readonly"), Permissions::from_mode(0o400)).unwrap();
    fs::write(at("target"), "target").unwrap();
    std::os::unix::fs::symlink("target", at("symlink")).unwrap();
    fs::hard_link(at("target"), at("hardlink")).unwrap();
    for (name, mode) in
        [("fresh", 0o644), ("existing", 0o755), ("readonly", 0o600), ("symlink", 0o444), ("hardlink", 0o664)]
    {
        assert!(store.install(&digest, &at(name), mode).unwrap());
        let metadata = fs::symlink_metadata(at(name)).unwrap();
        assert!(metadata.is_file(), "{name}");
        assert_eq!(metadata.mode() & 0o7777, mode, "{name}");
        assert_eq!(metadata.nlink(), 1, "{name}: never a hard link");
        assert_eq!(fs::read(at(name)).unwrap(), b"new", "{name}");
    }
    assert_eq!(fs::read(at("target")).unwrap(), b"target");
    fs::write(at("fresh"), "edited in place").unwrap();
    assert_eq!(store.read(&digest).unwrap().unwrap(), b"new");

    fs::create_dir(at("directory")).unwrap();
    fs::write(at("directory/file"), "").unwrap();
    store.install(&digest, &at("directory"), 0o644).unwrap_err();
    assert_eq!(store.install(&digest, &at("no/such"), 0o644).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert!(!store.install(&Digest::of(b"absent"), &at("never"), 0o644).unwrap());
    assert!(!at("never").exists());
}

#[test]
fn two_stores_share_one_directory() {
    let (directory, one) = new_store();
    let two = Store::open(directory.path(), PLENTY).unwrap();
    let digest = one.put(b"shared").unwrap();
    assert!(two.contains(&digest));
    two.clear().unwrap();
    assert_eq!(one.read(&digest).unwrap(), None);
    one.put(b"shared").unwrap();
    // Even the directories may vanish.
    fs::remove_dir_all(directory.path()).unwrap();
    assert_eq!(two.read(&digest).unwrap(), None);
    two.put(b"shared").unwrap();
    assert_eq!(one.read(&digest).unwrap().unwrap(), b"shared");
}

#[test]
fn two_stores_at_once_lose_nothing() {
    let (directory, _) = new_store();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let store = Store::open(directory.path(), PLENTY).unwrap();
                for index in 0..100 {
                    let bytes = format!("blob {index}");
                    let digest = store.put(bytes.as_bytes()).unwrap();
                    assert_eq!(store.read(&digest).unwrap().unwrap(), bytes.as_bytes());
                }
                store.trim().unwrap();
            });
        }
    });
    let store = Store::open(directory.path(), PLENTY).unwrap();
    assert_eq!(store.stats().unwrap().blobs, 100);
    assert_eq!(temporary_files(&store), 0);
}

#[test]
fn trim_deletes_what_was_used_least_recently() {
    let directory = tempfile::tempdir().unwrap();
    // Room for ten blocks; a trim leaves nine.
    let store = Store::open(directory.path(), 10 * 4096).unwrap();
    let digests: Vec<Digest> = (0..12u8).map(|index| store.put(&[index; 100]).unwrap()).collect();
    let start = SystemTime::now() - Duration::from_secs(10_000);
    for (seconds, digest) in (0..).zip(&digests) {
        let file = File::open(store.blob_path(digest)).unwrap();
        file.set_modified(start + Duration::from_secs(seconds)).unwrap();
    }
    // The two oldest are used again, each in another way.
    assert!(store.contains(&digests[0]));
    assert!(store.read(&digests[1]).unwrap().is_some());
    assert!(store.wants_trim());
    let trimmed = store.trim().unwrap();
    assert_eq!(trimmed, Trimmed { entries: 3, size_bytes: 3 * 4096 });
    let kept: Vec<bool> = digests.iter().map(|digest| store.blob_path(digest).exists()).collect();
    let expected: Vec<bool> = (0..12).map(|index| !(2..5).contains(&index)).collect();
    assert_eq!(kept, expected);
    assert!(!store.wants_trim());
    store.put(&[99; 5000]).unwrap();
    assert!(store.wants_trim(), "the account is kept between scans");
}

#[test]
fn every_digest_function_has_its_own_entries() {
    let (_directory, store) = new_store();
    for function in DigestFunction::ALL {
        let store = store.with_function(function);
        let digest = store.put(b"blob").unwrap();
        assert_eq!(digest, function.digest(b"blob"));
        assert_eq!(store.read(&digest).unwrap().unwrap(), b"blob");
        store.put_action_result(&digest, &a_result()).unwrap();
        // A hash of the same length under another function is another blob.
        let others = DigestFunction::ALL.into_iter().filter(|other| *other != function);
        for taken in others.filter_map(|other| other.parse(&digest.hex(), 4).ok()) {
            assert!(!store.contains(&taken) && store.action_result(&taken).unwrap().is_none());
        }
        let mut writer = store.writer().unwrap();
        writer.write_all(b"pieces").unwrap();
        writer.commit(&function.digest(b"pieces")).unwrap();
        let mut text = String::new();
        let pieces = function.digest(b"pieces");
        store.open_blob(&pieces, 3).unwrap().unwrap().read_to_string(&mut text).unwrap();
        store.open_blob(&pieces, 0).unwrap().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "cespieces");
    }
    let stats = store.stats().unwrap();
    assert_eq!((stats.blobs, stats.action_results), (6, 3));
    store.clear().unwrap();
    assert_eq!(store.stats().unwrap().blobs, 0);
}

#[test]
fn foreign_and_abandoned_files() {
    let (directory, store) = new_store();
    let digest = store.put(b"blob").unwrap();
    let shard = store.blob_path(&digest).parent().unwrap().to_owned();
    for foreign in [directory.path().join("README"), shard.join("x.swp"), directory.path().join("cas/notes")]
    {
        fs::write(foreign, "mine").unwrap();
    }
    let fresh = directory.path().join("tmp/fresh");
    let old = directory.path().join("tmp/old");
    fs::write(&fresh, "").unwrap();
    fs::write(&old, "").unwrap();
    File::open(&old).unwrap().set_modified(SystemTime::now() - ABANDONED).unwrap();
    // A directory where a blob should be is none.
    let other = Digest::of(b"other");
    fs::create_dir_all(store.blob_path(&other)).unwrap();
    assert!(!store.contains(&other));
    assert_eq!(store.read(&other).unwrap(), None);

    store.trim().unwrap();
    assert!(fresh.exists() && !old.exists());
    assert_eq!(store.stats().unwrap(), Stats { blobs: 1, action_results: 0, size_bytes: 4096 });
    store.clear().unwrap();
    assert!(shard.join("x.swp").exists());
    assert_eq!(store.stats().unwrap().blobs, 0);
}

const ABANDONED: Duration = Duration::from_secs(7 * 60 * 60);
