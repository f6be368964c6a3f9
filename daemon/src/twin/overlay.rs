//! One command's view of a mirror, by an overlay file system.
//! Knows nothing of what the command does, nor of what becomes of its changes.

use std::collections::HashMap;
use std::fs::DirBuilder;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::path::PathBuf;

use rustix::fs::CWD;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::mount::FsMountFlags;
use rustix::mount::FsOpenFlags;
use rustix::mount::FsPickFlags;
use rustix::mount::MountAttrFlags;

use crate::digest::Digest;
use crate::mirror::TreePath;
use crate::twin::UpperEntry;
use crate::twin::UpperNode;
use crate::twin::upper;

/// A mount that is nowhere, or at one place: whoever has the descriptor can work in it.
pub struct Overlay {
    mount: OwnedFd,
    upper: PathBuf,
    marks: Marks,
    attached: Option<PathBuf>,
}

/// What was done in an overlay.
pub struct Upper {
    /// The directory in which the files are that were made or written.
    pub directory: OwnedFd,
    /// All that is in it, directories before what is in them.
    pub entries: Vec<UpperEntry>,
}

/// What the kernel does only for whom it trusts, off where it would mix versions of a file of which the mirror has another by
/// now (Linux, Documentation/filesystems/overlayfs.rst: "Metadata only copy up", "Changes to underlying filesystems").
const OPTIONS: &[(&str, &str)] =
    &[("redirect_dir", "on"), ("metacopy", "off"), ("index", "off"), ("xino", "off")];

impl Overlay {
    /// Mounts an overlay over `mirror`. `scratch` is an empty directory on the same file system, so that what is written can be
    /// renamed into the mirror; it must never be used again.
    ///
    /// # Errors
    /// When the kernel has no overlayfs, does not let this process mount, or the file system is none for it.
    pub fn new(mirror: &Path, scratch: &Path) -> io::Result<Overlay> {
        let (upper, work) = (scratch.join("upper"), scratch.join("work"));
        for directory in [&upper, &work] {
            DirBuilder::new().mode(0o755).create(directory)?;
        }
        let layers = [("lowerdir", mirror), ("upperdir", &*upper), ("workdir", &*work)];
        let (mount, marks) = match mount(&layers, Marks::Trusted) {
            // In a user namespace nobody is trusted.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                (mount(&layers, Marks::OfUsers)?, Marks::OfUsers)
            }
            mount => (mount?, Marks::Trusted),
        };
        Ok(Overlay { mount, upper, marks, attached: None })
    }

    /// Puts it at the empty directory `at`, where it stays until its end.
    ///
    /// # Errors
    /// Whatever the kernel answers.
    pub fn attach(&mut self, at: &Path) -> io::Result<()> {
        let flags = rustix::mount::MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        rustix::mount::move_mount(self.mount.as_fd(), "", CWD, at, flags)?;
        self.attached = Some(at.to_owned());
        Ok(())
    }

    /// Its root directory.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.mount.as_fd()
    }

    /// Forgets the names that are cached: those in the mirror may be others by now.
    ///
    /// # Errors
    /// Whatever the kernel answers.
    pub fn refresh(&self) -> io::Result<()> {
        let picked = rustix::mount::fspick(
            self.mount.as_fd(),
            "",
            FsPickFlags::FSPICK_EMPTY_PATH | FsPickFlags::FSPICK_CLOEXEC,
        )?;
        Ok(rustix::mount::fsconfig_reconfigure(picked.as_fd())?)
    }

    /// Unmounts it, once no process works in it any more, and tells what was done in it.
    ///
    /// # Errors
    /// Whatever cannot be read.
    pub fn end(self) -> io::Result<Upper> {
        let (upper, marks) = (self.upper.clone(), self.marks);
        drop(self);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(CWD, &upper, flags, Mode::empty())?;
        let entries = upper::entries(&directory, marks.group())?;
        Ok(Upper { directory, entries })
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        if let Some(at) = &self.attached {
            // Nobody works in it; at the worst it stays until this process ends.
            let _ = rustix::mount::unmount(at, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

impl Upper {
    /// The digests of all files.
    ///
    /// # Errors
    /// Whatever cannot be read.
    pub fn digests(&self) -> io::Result<HashMap<TreePath, Digest>> {
        let files = self.entries.iter().filter(|entry| matches!(entry.node, UpperNode::File { .. }));
        files
            .map(|entry| Ok((entry.path.clone(), Digest::of_reader(&mut self.open(&entry.path)?)?)))
            .collect()
    }

    /// Opens one of the files.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(&self, path: &TreePath) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.directory, path.as_path(), flags, Mode::empty())?.into())
    }
}

/// Where overlayfs notes down what it has done.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Marks {
    /// In attributes that only the trusted can write.
    Trusted,
    /// In those of users (Linux 5.11): then a directory that is renamed is copied by whoever renames it, as between file
    /// systems.
    OfUsers,
}

impl Marks {
    /// The group of these attributes.
    fn group(self) -> &'static str {
        match self {
            Marks::Trusted => "trusted",
            Marks::OfUsers => "user",
        }
    }
}

fn mount(layers: &[(&str, &Path)], marks: Marks) -> io::Result<OwnedFd> {
    let options = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (name, path) in layers {
        rustix::mount::fsconfig_set_string(options.as_fd(), *name, escaped(path)?)?;
    }
    if marks == Marks::OfUsers {
        rustix::mount::fsconfig_set_flag(options.as_fd(), "userxattr")?;
    }
    let allowed = OPTIONS.iter().filter(|(name, _)| marks == Marks::Trusted || *name != "redirect_dir");
    for (name, value) in allowed.filter(|(name, _)| marks == Marks::Trusted || *name != "metacopy") {
        rustix::mount::fsconfig_set_string(options.as_fd(), *name, *value)?;
    }
    // Nothing is kept of it after a crash. Without it, to unmount is to write out the whole file system.
    rustix::mount::fsconfig_set_flag(options.as_fd(), "volatile")?;
    rustix::mount::fsconfig_create(options.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    Ok(rustix::mount::fsmount(options.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// Overlayfs separates layers by `:` and options by `,`; the twin's own directories have neither.
fn escaped(path: &Path) -> io::Result<&Path> {
    let separates = |byte: &u8| b":,\\".contains(byte);
    match path.as_os_str().as_encoded_bytes().iter().any(separates) {
        true => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{} has a colon, a comma or a backslash in it", path.display()),
        )),
        false => Ok(path),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::symlink;

    use super::*;

    /// `OVERLAYFS_SUPER_MAGIC` (statfs(2)).
    const OVERLAYFS: i64 = 0x794C_7630;

    /// A mirror and room for overlays; None where this process may not mount.
    struct Twin {
        mirror: PathBuf,
        scratch: tempfile::TempDir,
    }

    impl Twin {
        fn new() -> Option<Twin> {
            let scratch = tempfile::tempdir().unwrap();
            let mirror = scratch.path().join("mirror");
            for directory in ["d/e", "other"] {
                fs::create_dir_all(mirror.join(directory)).unwrap();
            }
            for file in ["a", "b", "d/c", "d/e/f", "other/g"] {
                fs::write(mirror.join(file), file).unwrap();
            }
            let twin = Twin { mirror, scratch };
            match twin.try_overlay("probe") {
                Ok(_) => Some(twin),
                Err(error) => {
                    // Where nobody may mount, or everything lies in an overlay already, nothing of this can be had.
                    let kind = rustix::fs::statfs(twin.scratch.path()).unwrap().f_type;
                    let is_impossible = error.kind() == io::ErrorKind::PermissionDenied || kind == OVERLAYFS;
                    assert!(is_impossible, "{error}");
                    None
                }
            }
        }

        fn try_overlay(&self, name: &str) -> io::Result<Overlay> {
            let scratch = self.scratch.path().join(name);
            fs::create_dir(&scratch).unwrap();
            Overlay::new(&self.mirror, &scratch)
        }

        fn overlay(&self, name: &str) -> Overlay {
            self.try_overlay(name).unwrap()
        }
    }

    /// A path in an overlay that is mounted nowhere.
    fn at(overlay: &Overlay, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", overlay.root().as_raw_fd())).join(name)
    }

    fn described(entries: &[UpperEntry]) -> Vec<String> {
        let mut described = Vec::new();
        for UpperEntry { path, node } in entries {
            let what = match node {
                UpperNode::Gone => "gone".to_owned(),
                UpperNode::Directory { moved_from: Some(from), .. } => format!("directory, was {from}"),
                UpperNode::Directory { is_opaque: true, .. } => "new directory".to_owned(),
                UpperNode::Directory { .. } => "directory".to_owned(),
                UpperNode::File { is_copied_up: true, .. } => "file, copied up".to_owned(),
                UpperNode::File { .. } => "file".to_owned(),
                UpperNode::Link { target } => format!("link to {}", target.display()),
                UpperNode::Special => "special".to_owned(),
            };
            described.push(format!("{path}: {what}"));
        }
        described
    }

    #[test]
    fn what_is_done_in_an_overlay_is_told_and_the_mirror_stays() {
        let Some(twin) = Twin::new() else { return };
        let done = |name: &str, act: &dyn Fn(&Overlay)| {
            let overlay = twin.overlay(name);
            act(&overlay);
            described(&overlay.end().unwrap().entries)
        };
        let read_only = |overlay: &Overlay| assert_eq!(fs::read(at(overlay, "d/e/f")).unwrap(), b"d/e/f");
        assert_eq!(done("read", &read_only), [""; 0]);
        let writes = |overlay: &Overlay| {
            fs::write(at(overlay, "a"), "a").unwrap();
            fs::write(at(overlay, "d/new"), "").unwrap();
            symlink("a", at(overlay, "link")).unwrap();
            fs::hard_link(at(overlay, "d/new"), at(overlay, "d/same")).unwrap();
            let mode = Mode::RUSR;
            rustix::fs::mknodat(CWD, at(overlay, "fifo"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
        };
        assert_eq!(
            done("writes", &writes),
            [
                "a: file, copied up",
                "d: directory",
                "d/new: file",
                "d/same: file",
                "fifo: special",
                "link: link to a"
            ]
        );
        let removals = |overlay: &Overlay| {
            fs::remove_file(at(overlay, "a")).unwrap();
            fs::remove_dir_all(at(overlay, "d/e")).unwrap();
            fs::write(at(overlay, "short-lived"), "").unwrap();
            fs::remove_file(at(overlay, "short-lived")).unwrap();
            fs::remove_file(at(overlay, "b")).unwrap();
            fs::create_dir(at(overlay, "b")).unwrap();
        };
        assert_eq!(done("removals", &removals), ["a: gone", "b: new directory", "d: directory", "d/e: gone"]);
        let renames = |overlay: &Overlay| {
            fs::rename(at(overlay, "a"), at(overlay, "d/moved")).unwrap();
            fs::rename(at(overlay, "d"), at(overlay, "other/d2")).unwrap();
            fs::rename(at(overlay, "other/d2/e"), at(overlay, "other/d2/e2")).unwrap();
            fs::rename(at(overlay, "other"), at(overlay, "third")).unwrap();
        };
        assert_eq!(
            done("renames", &renames),
            [
                "a: gone",
                "d: gone",
                "other: gone",
                "third: directory, was other",
                "third/d2: directory, was d",
                "third/d2/e: gone",
                "third/d2/e2: directory, was d/e",
                "third/d2/moved: file, copied up",
            ]
        );
        let names = ["a", "b", "d/c", "d/e/f", "other/g"];
        assert!(names.iter().all(|name| fs::read(twin.mirror.join(name)).unwrap() == name.as_bytes()));
    }

    #[test]
    fn what_a_neighbour_has_done_shows_after_a_refresh() {
        let Some(twin) = Twin::new() else { return };
        let overlay = twin.overlay("one");
        assert!(!at(&overlay, "d/later").exists());
        assert_eq!(fs::read(at(&overlay, "a")).unwrap(), b"a");
        // As another command's changes are put into the mirror.
        for (name, text) in [("d/later", "later"), ("a", "another")] {
            fs::write(twin.scratch.path().join("staged"), text).unwrap();
            fs::rename(twin.scratch.path().join("staged"), twin.mirror.join(name)).unwrap();
        }
        overlay.refresh().unwrap();
        assert_eq!(fs::read(at(&overlay, "d/later")).unwrap(), b"later");
        assert_eq!(fs::read(at(&overlay, "a")).unwrap(), b"another");
        assert_eq!(described(&overlay.end().unwrap().entries), [""; 0]);
    }

    #[test]
    fn no_two_see_what_is_not_finished() {
        let Some(twin) = Twin::new() else { return };
        let (one, two) = (twin.overlay("one"), twin.overlay("two"));
        fs::write(at(&one, "d/half"), "half").unwrap();
        fs::write(at(&two, "a"), "mine").unwrap();
        assert!(!at(&two, "d/half").exists());
        assert_eq!(fs::read(at(&one, "a")).unwrap(), b"a");
        assert_eq!(described(&one.end().unwrap().entries), ["d: directory", "d/half: file"]);
        assert_eq!(described(&two.end().unwrap().entries), ["a: file, copied up"]);
    }

    #[test]
    fn a_path_that_overlayfs_would_take_apart_is_refused() {
        for path in ["/a:b", "/a,b", "/a\\b"] {
            assert_eq!(escaped(Path::new(path)).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{path}");
        }
        assert!(escaped(Path::new("/a b")).is_ok());
    }
}
