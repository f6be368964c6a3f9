//! Changes the names in a tree, once everything is checked and staged.
//! Knows nothing of where the content came from.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use rustix::fs::AtFlags;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::digest::Digest;
use crate::files::Fingerprint;
use crate::mirror::Change;
use crate::mirror::InstallError;
use crate::mirror::Manner;
use crate::mirror::Node;
use crate::mirror::TreePath;
use crate::mirror::install::Part;
use crate::mirror::install::Staged;
use crate::mirror::install::permissions;
use crate::mirror::install::set_time;
use crate::mirror::install::temporary_name;
use crate::mirror::place;
use crate::mirror::place::Name;
use crate::mirror::snapshot::Entry;
use crate::mirror::snapshot::Installed;
use crate::mirror::stamps::Stamp;

impl Part<'_> {
    /// Puts everything into place but the files that were written.
    pub(super) fn put_all_but_files(&mut self) -> Result<(), InstallError> {
        // From the leaves on, so that directories are empty.
        for change in self.changes().iter().rev() {
            self.clear(change)?;
        }
        for Change { path, now, written } in self.changes() {
            match now {
                Some(Node::Directory { mode }) => self.make_directory(path, *mode)?,
                Some(Node::Link { target }) => self.make_link(path, target)?,
                Some(Node::File { digest, mode }) if written.is_none() => {
                    self.set_mode(path, *digest, *mode)?;
                }
                Some(Node::File { .. }) | None => {}
            }
        }
        Ok(())
    }

    /// Removes what is in the way.
    fn clear(&mut self, change: &Change) -> Result<(), InstallError> {
        let path = &change.path;
        let is_directory = match self.manner {
            Manner::Workspace { .. } => match self.snapshot.node(path) {
                None => return Ok(()),
                Some(Node::Directory { .. }) => true,
                Some(Node::File { .. } | Node::Link { .. }) => false,
            },
            // What is there, whether it is known or not.
            Manner::Mirror | Manner::Commit => {
                match Fingerprint::of_entry(&self.open, path.as_path().as_os_str()) {
                    Ok(there) => there.is_directory(),
                    Err(error)
                        if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
                    {
                        self.snapshot.installed(path, Installed::Nothing);
                        return Ok(());
                    }
                    Err(error) => return Err(self.failed(path, error)),
                }
            }
        };
        let is_in_the_way = match &change.now {
            None => true,
            Some(Node::Directory { .. }) => !is_directory,
            // It may be that it is here already.
            Some(now @ Node::Link { .. }) => {
                !self.manner.is_workspace() || self.snapshot.node(path).as_ref() != Some(now)
            }
            Some(Node::File { .. }) => is_directory,
        };
        if !is_in_the_way {
            return Ok(());
        }
        if !self.manner.is_workspace() {
            return self.remove_all(path, is_directory);
        }
        if is_directory {
            for inside in self.snapshot.inside(path).into_iter().rev() {
                self.remove(&inside)?;
            }
        }
        self.remove(path)
    }

    /// Removes what is there, and if it is a directory, all that is in it.
    fn remove_all(&mut self, path: &TreePath, is_directory: bool) -> Result<(), InstallError> {
        let parent = self.parent(path)?;
        let removed = match is_directory {
            true => {
                // No symlink is followed on the way down.
                let directory = PathBuf::from(format!("/proc/self/fd/{}", parent.as_raw_fd()));
                std::fs::remove_dir_all(directory.join(path.name()))
            }
            false => rustix::fs::unlinkat(&parent, path.name(), AtFlags::empty()).map_err(io::Error::from),
        };
        removed.map_err(|error| self.failed(path, error))?;
        self.snapshot.installed(path, Installed::Nothing);
        Ok(())
    }

    /// Removes what is known. A directory in which there is more, of which the other side knows nothing, stays.
    fn remove(&mut self, path: &TreePath) -> Result<(), InstallError> {
        let directory = match self.parent(path) {
            Err(InstallError::Failed { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
                // Somebody here has removed it as well.
                self.snapshot.installed(path, Installed::Nothing);
                return Ok(());
            }
            directory => directory?,
        };
        if let Some(Node::Directory { .. }) = self.snapshot.node(path) {
            match rustix::fs::unlinkat(&directory, path.name(), AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => self.snapshot.installed(path, Installed::Nothing),
                Err(Errno::NOTEMPTY | Errno::EXIST) => self.snapshot.stays(path),
                Err(Errno::NOTDIR) => return Err(InstallError::Conflict(self.full(path))),
                Err(error) => return Err(self.failed(path, error)),
            }
            return Ok(());
        }
        if let Some(known) = self.known(path) {
            let (name, aside) = (path.name(), temporary_name());
            let [name, aside] = [name, &*aside].map(|name| Name { directory: &directory, name });
            let is_removed = place::take_away(name, aside, &known);
            if !is_removed.map_err(|error| self.failed(path, error))? {
                return Err(InstallError::Conflict(self.full(path)));
            }
        }
        self.snapshot.installed(path, Installed::Nothing);
        Ok(())
    }

    /// What is known of a file or symlink.
    fn known(&self, path: &TreePath) -> Option<Fingerprint> {
        match self.snapshot.entry(path) {
            Some(Entry::File { fingerprint, .. } | Entry::Link { fingerprint, .. }) => Some(*fingerprint),
            None | Some(Entry::Directory | Entry::Unsent { .. }) => None,
        }
    }

    fn make_directory(&mut self, path: &TreePath, mode: u32) -> Result<(), InstallError> {
        if path.as_bytes().is_empty() {
            return Ok(());
        }
        let parent = self.parent(path)?;
        match rustix::fs::mkdirat(&parent, path.name(), Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(self.failed(path, error)),
        }
        // What has the name by now may be a symlink.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let open = match rustix::fs::openat(&parent, path.name(), flags, Mode::empty()) {
            Err(Errno::NOTDIR | Errno::LOOP) => return Err(InstallError::Conflict(self.full(path))),
            open => open.map_err(|error| self.failed(path, error))?,
        };
        rustix::fs::fchmod(&open, permissions(mode | 0o700)).map_err(|error| self.failed(path, error))?;
        let fingerprint = Fingerprint::of_open(&open).map_err(|error| self.failed(path, error))?;
        self.snapshot.installed(path, Installed::Directory(fingerprint));
        Ok(())
    }

    fn make_link(&mut self, path: &TreePath, target: &OsString) -> Result<(), InstallError> {
        let directory = self.parent(path)?;
        match rustix::fs::symlinkat(target.as_os_str(), &directory, path.name()) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let there = rustix::fs::readlinkat(&directory, path.name(), Vec::new());
                if !there.is_ok_and(|there| there.as_bytes() == target.as_encoded_bytes()) {
                    return Err(InstallError::Conflict(self.full(path)));
                }
            }
            Err(error) => return Err(self.failed(path, error)),
        }
        let fingerprint = Fingerprint::of_entry(&directory, path.name());
        let fingerprint = fingerprint.map_err(|error| self.failed(path, error))?;
        self.snapshot.installed(path, Installed::Link(fingerprint, target.clone()));
        Ok(())
    }

    /// Gives a file other permissions.
    fn set_mode(&mut self, path: &TreePath, digest: Digest, mode: u32) -> Result<(), InstallError> {
        let directory = self.parent(path)?;
        let known = self.known(path).ok_or_else(|| InstallError::Unknown(self.full(path)))?;
        let set = (|| {
            let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let open = rustix::fs::openat(&directory, path.name(), flags, Mode::empty())?;
            let metadata = File::from(open.try_clone()?).metadata()?;
            if !known.is_same_file(&Fingerprint::of_open(&open)?) {
                return Ok(None);
            }
            if metadata.nlink() > 1 {
                // Its other names may lie anywhere, and are none of the other side's business.
                let temporary = temporary_name();
                let copied = copy(&directory, path.name(), &temporary, mode)?;
                let [from, to] = [&*temporary, path.name()].map(|name| Name { directory: &directory, name });
                let is_given = place::give(from, to, Some(&known));
                if !matches!(is_given, Ok(true)) {
                    let _ = rustix::fs::unlinkat(&directory, &*temporary, AtFlags::empty());
                }
                return Ok(is_given?.then_some(copied));
            }
            rustix::fs::chmod(format!("/proc/self/fd/{}", open.as_raw_fd()), permissions(mode))?;
            // Whether its content is known still, the next look finds out.
            Fingerprint::of_open(&open).map(Some)
        })();
        let set = set.map_err(|error| self.failed(path, error))?;
        let fingerprint = set.ok_or_else(|| InstallError::Conflict(self.full(path)))?;
        self.snapshot.installed(path, Installed::File { fingerprint, is_settled: false, digest });
        Ok(())
    }

    /// Gives a file its name, and its time.
    pub(super) fn put_file(&mut self, staged: &Staged, stamp: Option<Stamp>) -> Result<(), InstallError> {
        let Staged { path, temporary, digest, .. } = staged;
        let from = self.staged_in(temporary)?;
        let to = self.parent(path)?;
        let [from, to] =
            [(&from, temporary), (&to, path)].map(|(directory, path)| Name { directory, name: path.name() });
        let put = (|| {
            if let Some(stamp) = stamp {
                set_time(from.directory, from.name, stamp.nanos)?;
            }
            if self.manner.is_workspace() && !place::give(from, to, self.known(path).as_ref())? {
                return Ok(None);
            }
            if !self.manner.is_workspace() {
                rustix::fs::renameat(from.directory, from.name, to.directory, to.name)?;
            }
            to.fingerprint().map(Some)
        })();
        let fingerprint = put.map_err(|error: io::Error| self.failed(path, error))?;
        let fingerprint = fingerprint.ok_or_else(|| InstallError::Conflict(self.full(path)))?;
        // Whatever is written to it from now on gets a later time.
        let is_settled =
            stamp.is_some_and(|stamp| stamp.is_past && stamp.nanos == fingerprint.modified_nanos());
        self.snapshot.installed(path, Installed::File { fingerprint, is_settled, digest: *digest });
        Ok(())
    }
}

/// Gives the name `copy`, which may be the same, to a file of its own, with the same content and time as the one at `name`.
pub(super) fn copy(directory: &OwnedFd, name: &OsStr, copy: &OsStr, mode: u32) -> io::Result<Fingerprint> {
    let flags = OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let open = rustix::fs::openat(directory, name, flags | OFlags::RDONLY, Mode::empty());
    let mut original = File::from(open?);
    if copy == name {
        rustix::fs::unlinkat(directory, name, AtFlags::empty())?;
    }
    let create = flags | OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
    let open = rustix::fs::openat(directory, copy, create, Mode::RUSR | Mode::WUSR);
    let mut file = File::from(open?);
    let copied = (|| {
        io::copy(&mut original, &mut file)?;
        rustix::fs::fchmod(&file, permissions(mode))?;
        set_time(directory, copy, Fingerprint::of_open(&original)?.modified_nanos())?;
        Fingerprint::of_entry(directory, copy)
    })();
    if copied.is_err() {
        let _ = rustix::fs::unlinkat(directory, copy, AtFlags::empty());
    }
    copied
}
