//! The directory of one running action, removed whatever the action did to it.
//! Knows nothing of what is in it.

use std::fs::DirBuilder;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::SystemTime;

use super::Failure;

pub(super) struct Scratch {
    directory: PathBuf,
    root: PathBuf,
}

impl Scratch {
    pub(super) fn new(parent: &Path) -> Result<Scratch, Failure> {
        let failed =
            |error: io::Error| Failure::io(&format!("make a directory in {}", parent.display()), &error);
        let directory = parent.join(uuid::Uuid::new_v4().simple().to_string());
        let mut private = DirBuilder::new();
        private.mode(0o700).recursive(true).create(&directory).map_err(failed)?;
        let scratch = Scratch { root: directory.join("root"), directory };
        std::fs::create_dir(&scratch.root).map_err(failed)?;
        Ok(scratch)
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&self.directory) {
            tracing::warn!("cannot remove {}: {error}", self.directory.display());
        }
    }
}

/// Removes what killed servers left behind: trees older than any action can be.
pub(super) fn remove_abandoned(parent: &Path, max_timeout: Duration) {
    let oldest = max_timeout.saturating_add(Duration::from_secs(60 * 60));
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        let age = metadata.modified().ok().and_then(|made| SystemTime::now().duration_since(made).ok());
        if metadata.is_dir() && age.is_some_and(|age| age > oldest) {
            // It is tried again at the next start.
            let _ = remove_tree(&entry.path());
        }
    }
}

/// Removes a directory that may be nested deeper than the stack and the descriptors reach, and whose directories
/// may forbid everything: each directory is moved up to the top before it is emptied.
fn remove_tree(top: &Path) -> io::Result<()> {
    // Unlike any name that a removal that was interrupted left there.
    let prefix = uuid::Uuid::new_v4().simple().to_string();
    let mut moved = 0_u64;
    let mut pending = vec![];
    let mut directory = top.to_owned();
    loop {
        for entry in std::fs::read_dir(&directory)? {
            let entry = entry?;
            if !entry.file_type()?.is_dir() {
                std::fs::remove_file(entry.path())?;
                continue;
            }
            // Only one who may write to a directory can move it (its `..` changes) or empty it.
            std::fs::set_permissions(entry.path(), Permissions::from_mode(0o700))?;
            let mut place = entry.path();
            if directory != top {
                moved += 1;
                place = top.join(format!("{prefix}-{moved}"));
                std::fs::rename(entry.path(), &place)?;
            }
            pending.push(place);
        }
        if directory != top {
            std::fs::remove_dir(&directory)?;
        }
        let Some(next) = pending.pop() else { return std::fs::remove_dir(top) };
        directory = next;
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::Mode;
    use rustix::fs::OFlags;

    use super::*;

    #[test]
    fn a_hostile_tree_is_removed() {
        let parent = tempfile::tempdir().unwrap();
        let outside = parent.path().join("outside");
        std::fs::write(&outside, "stays").unwrap();
        let scratch = Scratch::new(parent.path()).unwrap();
        let top = scratch.directory.clone();
        std::os::unix::fs::symlink(parent.path(), scratch.root().join("symlink")).unwrap();
        // Far deeper than a path may be long.
        let mut directory: rustix::fd::OwnedFd = std::fs::File::open(scratch.root()).unwrap().into();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&directory, "deep", Mode::from_raw_mode(0o700)).unwrap();
            directory = rustix::fs::openat(&directory, "deep", OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        let closed = scratch.root().join("closed/inner");
        std::fs::create_dir_all(&closed).unwrap();
        for directory in [&closed, closed.parent().unwrap(), scratch.root()] {
            std::fs::set_permissions(directory, Permissions::from_mode(0o000)).unwrap();
        }
        drop(scratch);
        assert!(!top.exists());
        assert_eq!(std::fs::read_to_string(outside).unwrap(), "stays");
    }
}
