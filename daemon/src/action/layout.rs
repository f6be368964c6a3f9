//! What lay on the ways to the files of an input tree when it was built, and whether it still does: directories, symlinks, and
//! places where nothing is.
//! Knows nothing of what is in files.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::path::PathBuf;

/// What `lstat` says of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File,
    Symlink(PathBuf),
}

impl Kind {
    /// # Errors
    /// Whatever `lstat` and `readlink` answer.
    pub(super) fn of(path: &Path) -> io::Result<Kind> {
        let metadata = std::fs::symlink_metadata(path)?;
        Ok(if metadata.is_symlink() {
            Kind::Symlink(std::fs::read_link(path)?)
        } else if metadata.is_dir() {
            Kind::Directory
        } else {
            Kind::File
        })
    }
}

/// The ways of one tree. That the files at their ends are what they were, others know, if the file system [counts changes of
/// names](crate::listings::counts_changes_of_names): a file that is another one, or that is reached by a symlink where it lay
/// itself, has another `stat` there. On others the files are among the ways.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Physical paths; None: nothing was there.
    ways: Box<[(Box<Path>, Option<Kind>)]>,
}

impl Layout {
    pub(super) fn new(ways: impl Iterator<Item = (PathBuf, Option<Kind>)>) -> Layout {
        Layout { ways: ways.map(|(path, kind)| (path.into_boxed_path(), kind)).collect() }
    }

    /// What lay at each path besides files, in words.
    pub fn described(&self) -> impl Iterator<Item = (&Path, OsString)> {
        let described = |kind: &Option<Kind>| match kind {
            None => Some("nothing".into()),
            Some(Kind::Directory) => Some("a directory".into()),
            Some(Kind::Symlink(target)) => {
                let mut text = OsString::from("a symlink to ");
                text.push(target);
                Some(text)
            }
            Some(Kind::File) => None,
        };
        self.ways.iter().filter_map(move |(path, kind)| Some((&**path, described(kind)?)))
    }

    /// About how much memory it takes, in bytes.
    pub fn size_bytes(&self) -> usize {
        let paths: usize = self.ways.iter().map(|(path, _)| path.as_os_str().len()).sum();
        size_of_val(&*self.ways) + paths
    }

    /// Whether every way still leads where it did.
    pub fn holds(&self) -> bool {
        self.ways.iter().all(|(path, then)| Kind::of(path).ok() == *then)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::action::InputRootBuilder;
    use crate::digest::Digest;
    use crate::files::Fingerprint;
    use crate::files::Version;
    use crate::listings::Listings;

    #[test]
    fn every_change_of_a_way_is_seen() {
        let space = tempfile::tempdir().unwrap();
        let top = space.path().canonicalize().unwrap();
        let at = |name: &str| top.join(name);
        for directory in ["a", "b", "other"] {
            std::fs::create_dir(at(directory)).unwrap();
            std::fs::write(at(directory).join("x.h"), "").unwrap();
        }
        symlink("b", at("link")).unwrap();
        let layout = || {
            let listings = Listings::default();
            let mut builder = InputRootBuilder::new(&listings);
            for path in ["a/x.h", "link/x.h"] {
                let fingerprint = Fingerprint::of(&at(path)).unwrap();
                builder.add_file(&at(path), &Version { fingerprint, digest: Digest::empty() }).unwrap();
            }
            assert!(builder.add_directory(&at("absent")).is_err());
            builder.layout().unwrap()
        };
        type Change<'a> = &'a dyn Fn() -> io::Result<()>;
        let changes: [(&str, Change, Change); 4] = [
            (
                "a directory becomes a symlink",
                &|| std::fs::rename(at("a"), at("moved")).and_then(|()| symlink("moved", at("a"))),
                &|| std::fs::remove_file(at("a")).and_then(|()| std::fs::rename(at("moved"), at("a"))),
            ),
            (
                "a symlink leads elsewhere",
                &|| std::fs::remove_file(at("link")).and_then(|()| symlink("other", at("link"))),
                &|| std::fs::remove_file(at("link")).and_then(|()| symlink("b", at("link"))),
            ),
            (
                "a symlink becomes a directory",
                &|| std::fs::remove_file(at("link")).and_then(|()| std::fs::create_dir(at("link"))),
                &|| std::fs::remove_dir(at("link")).and_then(|()| symlink("b", at("link"))),
            ),
            ("something appears", &|| std::fs::create_dir(at("absent")), &|| {
                std::fs::remove_dir(at("absent"))
            }),
        ];
        for (what, change, undo) in changes {
            let before = layout();
            assert!(before.holds(), "{what}");
            change().unwrap();
            assert!(!before.holds(), "{what}");
            undo().unwrap();
            assert!(before.holds(), "{what}");
        }
    }

    #[test]
    fn a_way_that_the_image_leads_out_is_not_vouched_for() {
        let space = tempfile::tempdir().unwrap();
        let top = space.path().canonicalize().unwrap();
        let vouches = |way: &str| {
            let listings = Listings::default();
            let mut builder = InputRootBuilder::new(&listings);
            let _ = builder.add_directory(Path::new(way));
            builder.layout().is_some()
        };
        assert!(vouches("/usr/lib/../include"));
        assert!(!vouches(&format!("/usr/lib/../..{}", top.display())));
        assert!(!vouches(&format!("/usr/lib/../..{}/none", top.display())));
    }
}
