//! Directories that are this user's alone: which will do, and how they are made.
//! Knows nothing of what lies in them.

use std::fs::DirBuilder;
use std::fs::Metadata;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;

use rustix::fs::Access;

/// Where everybody may make directories, so that only what is found to be ours may be used there.
const SHARED: [&str; 2] = ["/tmp", "/var/tmp"];

/// What to do when none will do.
const REMEDY: &str = "set FARCC_DIR to a directory that only this user can write to";

/// The user that files are created as.
pub(crate) fn our_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The directory for all that has no better place: in the first of /tmp and /var/tmp that can be written. It does not
/// depend on TMPDIR, which differs between commands that are to meet.
pub(crate) fn temporary() -> PathBuf {
    let shared = SHARED.into_iter().find(|shared| is_writable(Path::new(shared)));
    Path::new(shared.unwrap_or(SHARED[0])).join(format!("farcc-{}", our_uid()))
}

/// Whether `directory` is there, ours, and can be written to.
pub(crate) fn is_ours(directory: &Path) -> bool {
    let found = std::fs::metadata(directory);
    found.is_ok_and(|found| found.is_dir() && found.uid() == our_uid()) && is_writable(directory)
}

/// Whether `directory` is [ours](is_ours), or could be made: the nearest directory above it that is there decides.
pub(crate) fn can_hold(directory: &Path) -> bool {
    if directory.symlink_metadata().is_ok() {
        return is_ours(directory);
    }
    let nearest = directory.ancestors().skip(1).find(|ancestor| ancestor.symlink_metadata().is_ok());
    nearest.is_some_and(|nearest| nearest.is_dir() && is_writable(nearest))
}

/// Asks the kernel, which also knows of read-only file systems and of what a user namespace may not.
fn is_writable(directory: &Path) -> bool {
    rustix::fs::access(directory, Access::WRITE_OK | Access::EXEC_OK).is_ok()
}

/// Makes sure that `directory` is a directory of ours with mode 0700. A symlink will do if it is ours too: who
/// moved the cache to a larger disk keeps it, who plants a link in /tmp does not get us to follow it.
pub(crate) fn prepare_directory(directory: &Path) -> io::Result<()> {
    prepare(directory, true).map_err(|error| in_context(directory, &error, ""))
}

/// The same for a [temporary] one; what is above it is never made.
pub(crate) fn prepare_temporary(directory: &Path) -> io::Result<()> {
    prepare(directory, false).map_err(|error| in_context(directory, &error, REMEDY))
}

/// Fails when `directory` is there and somebody else's.
pub(crate) fn check_owner(directory: &Path) -> io::Result<()> {
    match look(directory) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(in_context(directory, &error, REMEDY))
        }
        _ => Ok(()),
    }
}

fn prepare(directory: &Path, recursive: bool) -> io::Result<()> {
    let found = match look(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let made = DirBuilder::new().recursive(recursive).mode(0o700).create(directory);
            // Another process may have been faster; whose it is, the second look tells.
            made.or_else(
                |error| {
                    if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) }
                },
            )?;
            look(directory)?
        }
        found => found?,
    };
    if found.mode() & 0o777 != 0o700 {
        std::fs::set_permissions(directory, Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// What is there, if it is a directory of ours.
fn look(directory: &Path) -> io::Result<Metadata> {
    let link = std::fs::symlink_metadata(directory)?;
    let target = if link.is_symlink() { std::fs::metadata(directory)? } else { link.clone() };
    if link.uid() != our_uid() || target.uid() != our_uid() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it belongs to another user"));
    }
    if !target.is_dir() {
        return Err(io::Error::new(io::ErrorKind::NotADirectory, "it is no directory"));
    }
    Ok(target)
}

fn in_context(directory: &Path, error: &io::Error, remedy: &str) -> io::Error {
    let separator = if remedy.is_empty() { "" } else { "; " };
    let message = format!("prepare directory {}: {error}{separator}{remedy}", directory.display());
    io::Error::new(error.kind(), message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_above_a_temporary_directory_is_never_made() {
        let directory = tempfile::tempdir().unwrap();
        let below = directory.path().join("tmp/farcc-1");
        let error = prepare_temporary(&below).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().contains("set FARCC_DIR"), "{error}");
        assert!(!directory.path().join("tmp").exists());
        std::fs::create_dir(directory.path().join("tmp")).unwrap();
        prepare_temporary(&below).unwrap();
        assert!(is_ours(&below));
        assert_eq!(std::fs::metadata(&below).unwrap().mode() & 0o7777, 0o700);
        check_owner(&below).unwrap();
    }

    #[test]
    fn what_another_user_made_is_refused() {
        if our_uid() != 0 {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let planted = directory.path().join("farcc-1");
        // Nobody has made it yet.
        check_owner(&planted).unwrap();
        std::fs::create_dir(&planted).unwrap();
        std::os::unix::fs::chown(&planted, Some(65534), None).unwrap();
        for refused in [prepare_temporary(&planted), check_owner(&planted)] {
            let error = refused.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
            assert!(error.to_string().contains("belongs to another user; set FARCC_DIR"), "{error}");
        }
    }

    #[test]
    fn the_nearest_directory_decides_what_can_be_made() {
        let directory = tempfile::tempdir().unwrap();
        assert!(can_hold(&directory.path().join("a/b")) && can_hold(directory.path()));
        std::fs::write(directory.path().join("file"), "").unwrap();
        assert!(!can_hold(&directory.path().join("file")) && !can_hold(&directory.path().join("file/b")));
        std::os::unix::fs::symlink("nowhere", directory.path().join("link")).unwrap();
        assert!(!can_hold(&directory.path().join("link")) && !can_hold(&directory.path().join("link/b")));
    }
}
