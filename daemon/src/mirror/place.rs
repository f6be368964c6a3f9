//! Gives names to files, and takes them away, while somebody else may write to them: what was written here is never lost.
//! Knows nothing of where the files come from.
//!
//! Between a look at what has a name and the moment when it gets another file, an editor may save. So the old file is not
//! replaced, but exchanged for the new one, and looked at when nobody finds it any more by that name; if it is not what it was, it
//! gets its name back.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::AtFlags;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::RenameFlags;
use rustix::io::Errno;

use crate::files::Fingerprint;
use crate::mirror::writers::Writers;
use crate::mirror::writers::writers;

/// A name in an open directory.
#[derive(Clone, Copy)]
pub(super) struct Name<'a> {
    pub(super) directory: &'a OwnedFd,
    pub(super) name: &'a OsStr,
}

impl Name<'_> {
    pub(super) fn fingerprint(self) -> io::Result<Fingerprint> {
        Fingerprint::of_entry(self.directory, self.name)
    }

    fn rename(self, to: Name<'_>, flags: RenameFlags) -> rustix::io::Result<()> {
        rustix::fs::renameat_with(self.directory, self.name, to.directory, to.name, flags)
    }

    fn unlink(self) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(self.directory, self.name, AtFlags::empty())?)
    }

    /// Whether it is what was known, with nobody who goes on writing to it. To remove or rename one of a file's names changes the
    /// time of its last change.
    fn is_still(self, known: &Fingerprint) -> bool {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let is_written_to = match rustix::fs::openat(self.directory, self.name, flags, Mode::empty()) {
            Ok(open) if known.is_regular() => writers(&File::from(open)) == Writers::Some,
            // A symlink, or nobody may read it.
            Ok(_) | Err(_) => false,
        };
        !is_written_to && self.fingerprint().is_ok_and(|now| now.is_as_written(known))
    }
}

/// Gives the file at `from` the name `to`, which `known` has had, or nothing. `false`: something else has it, and keeps it.
///
/// # Errors
/// Whatever the system says.
pub(super) fn give(from: Name<'_>, to: Name<'_>, known: Option<&Fingerprint>) -> io::Result<bool> {
    let Some(known) = known else {
        return match from.rename(to, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(Errno::INVAL | Errno::NOSYS) if to.fingerprint().is_ok() => Ok(false),
            // This file system can do no more.
            Err(Errno::INVAL | Errno::NOSYS) => Ok(from.rename(to, RenameFlags::empty()).map(|()| true)?),
            Err(error) => Err(error.into()),
        };
    };
    let ours = from.fingerprint()?;
    match from.rename(to, RenameFlags::EXCHANGE) {
        Ok(()) => {}
        Err(Errno::NOENT) => return Ok(false),
        Err(Errno::INVAL | Errno::NOSYS) if to.is_still(known) => {
            return Ok(from.rename(to, RenameFlags::empty()).map(|()| true)?);
        }
        Err(Errno::INVAL | Errno::NOSYS) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    if from.is_still(known) {
        return from.unlink().map(|()| true);
    }
    from.rename(to, RenameFlags::EXCHANGE)?;
    if !from.fingerprint()?.is_same_file(&ours) {
        // Somebody has saved once more in the meantime: the later one stays.
        from.rename(to, RenameFlags::EXCHANGE)?;
    }
    Ok(false)
}

/// Removes the file `name`, which is `known`, by way of the unused name `aside`. `false`: it is another one, and stays.
///
/// # Errors
/// Whatever the system says.
pub(super) fn take_away(name: Name<'_>, aside: Name<'_>, known: &Fingerprint) -> io::Result<bool> {
    match name.rename(aside, RenameFlags::NOREPLACE) {
        Ok(()) => {}
        Err(Errno::NOENT) => return Ok(true),
        Err(Errno::INVAL | Errno::NOSYS) if name.is_still(known) => return name.unlink().map(|()| true),
        Err(Errno::INVAL | Errno::NOSYS) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    if aside.is_still(known) {
        return aside.unlink().map(|()| true);
    }
    match aside.rename(name, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(false),
        // Somebody has saved once more in the meantime: the later one stays.
        Err(Errno::EXIST) => aside.unlink().map(|()| false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What has the names `new` and `old` when `act` has been done with the latter, which was known, and then `then`.
    fn check(
        act: impl Fn(&std::path::Path),
        then: impl Fn(Name<'_>, Name<'_>, &Fingerprint) -> bool,
    ) -> (bool, [String; 2]) {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("new"), "new").unwrap();
        std::fs::write(path("old"), "old").unwrap();
        let known = Fingerprint::of(&path("old")).unwrap();
        act(&path("old"));
        let open = OwnedFd::from(File::open(directory.path()).unwrap());
        let name = |name| Name { directory: &open, name: OsStr::new(name) };
        let is_done = then(name("new"), name("old"), &known);
        let text = |name| std::fs::read_to_string(path(name)).unwrap_or_else(|_| "none".to_owned());
        (is_done, [text("new"), text("old")])
    }

    #[test]
    fn what_is_not_what_was_known_keeps_its_name() {
        let replace =
            |new: Name<'_>, old: Name<'_>, known: &Fingerprint| give(new, old, Some(known)).unwrap();
        let texts = |new: &str, old: &str| [new.to_owned(), old.to_owned()];
        assert_eq!(check(|_| (), replace), (true, texts("none", "new")));
        let save = |old: &std::path::Path| std::fs::write(old, "saved").unwrap();
        assert_eq!(check(save, replace), (false, texts("new", "saved")));
        let delete = |old: &std::path::Path| std::fs::remove_file(old).unwrap();
        assert_eq!(check(delete, replace), (false, texts("new", "none")));
        let add = |new: Name<'_>, old: Name<'_>, _: &Fingerprint| give(new, old, None).unwrap();
        assert_eq!(check(|_| (), add), (false, texts("new", "old")));
        assert_eq!(check(delete, add), (true, texts("none", "new")));
        let become_directory = |old: &std::path::Path| {
            delete(old);
            std::fs::create_dir(old).unwrap();
        };
        assert_eq!(check(become_directory, replace), (false, texts("new", "none")));
    }

    #[test]
    fn what_somebody_goes_on_writing_keeps_its_name() {
        let writing = |new: Name<'_>, old: Name<'_>, known: &Fingerprint| {
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            let _writer = rustix::fs::openat(old.directory, old.name, flags, Mode::empty()).unwrap();
            let is_given = give(new, old, Some(known)).unwrap();
            let aside = Name { name: OsStr::new("aside"), ..old };
            is_given || take_away(old, aside, known).unwrap()
        };
        assert_eq!(check(|_| (), writing), (false, ["new".to_owned(), "old".to_owned()]));
    }

    #[test]
    fn what_is_not_what_was_known_is_not_removed() {
        let remove = |_: Name<'_>, old: Name<'_>, known: &Fingerprint| {
            let aside = Name { name: OsStr::new("aside"), ..old };
            let is_done = take_away(old, aside, known).unwrap();
            assert!(aside.fingerprint().is_err());
            is_done
        };
        let old = |text: &str| ["new".to_owned(), text.to_owned()];
        assert_eq!(check(|_| (), remove), (true, old("none")));
        assert_eq!(check(|path| std::fs::write(path, "saved").unwrap(), remove), (false, old("saved")));
        assert_eq!(check(|path| std::fs::remove_file(path).unwrap(), remove), (true, old("none")));
    }
}
