//! Finds the program that a command means, in `PATH` as `execvp` does, but never the launcher itself.
//! Knows nothing of compilers.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;

use rustix::fs::Access;

/// Where `execvp` looks without a `PATH` (glibc, `_CS_PATH`).
const DEFAULT_PATH: &str = "/bin:/usr/bin";
/// Programs that a chain of launchers and wrappers may run through before it counts as endless.
const MAX_TRIED: usize = 16;

/// Which file a path leads to, symlinks followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    /// From a `stat` of the file.
    pub fn of(metadata: &Metadata) -> Identity {
        Identity { device: metadata.dev(), inode: metadata.ino() }
    }

    /// The program that this process runs; none without /proc.
    pub fn ourselves() -> Option<Identity> {
        Some(Identity::of(&std::fs::metadata("/proc/self/exe").ok()?))
    }
}

/// The programs that launchers above this one have started already, as their guard variable tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tried(Vec<Identity>);

impl Tried {
    /// Reads the variable's value; what is not understood is skipped.
    pub fn parse(value: &OsStr) -> Tried {
        let identity = |text: &str| {
            let (device, inode) = text.split_once('.')?;
            let number = |hex| u64::from_str_radix(hex, 16).ok();
            Some(Identity { device: number(device)?, inode: number(inode)? })
        };
        Tried(value.to_str().unwrap_or_default().split(',').filter_map(identity).collect())
    }

    /// Adds one more; also one that is there already, so that going in circles is noticed.
    pub fn push(&mut self, identity: Identity) {
        self.0.push(identity);
    }

    /// The variable's value, which begins with `1` where a launcher `has_asked` the daemon, and with `0` where it was
    /// not to.
    pub fn value(&self, has_asked: bool) -> String {
        let mut value = String::from(if has_asked { "1" } else { "0" });
        for Identity { device, inode } in &self.0 {
            let _ = write!(value, ",{device:x}.{inode:x}");
        }
        value
    }
}

/// A program that was found.
#[derive(Debug, PartialEq, Eq)]
pub struct Program {
    /// What to execute: as `execvp` would name it, so relative if `PATH` or the command is.
    pub path: PathBuf,
    /// Which file that is.
    pub identity: Identity,
    /// Whether the launcher's own links, or programs that were tried before, were skipped on the way.
    pub past_ourselves: bool,
}

impl Program {
    /// Whether it is a file that may be executed.
    pub fn is_executable(&self) -> bool {
        self.path.is_file() && rustix::fs::access(&self.path, Access::EXEC_OK).is_ok()
    }
}

/// What a name is looked up with.
pub struct Search<'a> {
    /// The value of `PATH`.
    pub path: Option<&'a OsStr>,
    /// The launcher.
    pub ourselves: Option<Identity>,
    /// Programs that are chosen only if there is no other.
    pub tried: &'a Tried,
}

impl Search<'_> {
    /// The program that the command word `name` means. A path that leads to the launcher means the program of the
    /// same base name in `PATH`.
    ///
    /// # Errors
    /// `NotFound`, or `PermissionDenied` when the only ones found cannot be executed; `FilesystemLoop` when it has been
    /// tried before, and very many with it.
    pub fn find(&self, name: &OsStr) -> io::Result<Program> {
        if !name.as_bytes().contains(&b'/') {
            return self.find_in_path(name, false);
        }
        let path = PathBuf::from(name);
        let metadata = std::fs::metadata(&path)?;
        let identity = Identity::of(&metadata);
        if Some(identity) == self.ourselves {
            return self.find_in_path(path.file_name().unwrap_or_default(), true);
        }
        // Scripts that call each other through the launcher.
        if self.tried.0.len() >= MAX_TRIED && self.tried.0.contains(&identity) {
            return Err(rustix::io::Errno::LOOP.into());
        }
        // Whether it can be executed is for `execve` to say.
        Ok(Program { path, identity, past_ourselves: false })
    }

    /// The program `name` of a directory of `PATH`; `past_ourselves` if the launcher was asked for it by a link.
    ///
    /// # Errors
    /// As [`find`](Search::find).
    pub fn find_in_path(&self, name: &OsStr, mut past_ourselves: bool) -> io::Result<Program> {
        let mut error = io::ErrorKind::NotFound;
        let mut tried_before = None;
        let directories = self.path.unwrap_or(OsStr::new(DEFAULT_PATH));
        for directory in directories.as_bytes().split(|byte| *byte == b':') {
            if name.is_empty() {
                break;
            }
            // An empty element is the working directory (POSIX, Base Definitions, 8.3).
            let path = Path::new(OsStr::from_bytes(directory)).join(name);
            let Ok(metadata) = std::fs::metadata(&path) else { continue };
            let identity = Identity::of(&metadata);
            if Some(identity) == self.ourselves {
                past_ourselves = true;
            } else if !metadata.is_file() || rustix::fs::access(&path, Access::EXEC_OK).is_err() {
                error = io::ErrorKind::PermissionDenied;
            } else if self.tried.0.contains(&identity) {
                tried_before.get_or_insert((path, identity));
                past_ourselves = true;
            } else {
                return Ok(Program { path, identity, past_ourselves });
            }
        }
        match tried_before {
            Some((path, identity)) if self.tried.0.len() < MAX_TRIED => {
                Ok(Program { path, identity, past_ourselves })
            }
            _ => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    struct Tree {
        directory: tempfile::TempDir,
        path: std::ffi::OsString,
    }

    impl Tree {
        fn new(directories: &[&str]) -> Tree {
            let directory = tempfile::tempdir().unwrap();
            let path: Vec<PathBuf> = directories.iter().map(|name| directory.path().join(name)).collect();
            path.iter().for_each(|path| std::fs::create_dir(path).unwrap());
            Tree { path: std::env::join_paths(path).unwrap(), directory }
        }

        fn at(&self, path: &str) -> PathBuf {
            self.directory.path().join(path)
        }

        fn program(&self, path: &str, mode: u32) -> Identity {
            std::fs::write(self.at(path), "").unwrap();
            std::fs::set_permissions(self.at(path), Permissions::from_mode(mode)).unwrap();
            self.identity(path)
        }

        fn identity(&self, path: &str) -> Identity {
            Identity::of(&std::fs::metadata(self.at(path)).unwrap())
        }

        fn find(&self, name: &str, ourselves: Option<Identity>, tried: &Tried) -> io::Result<Program> {
            Search { path: Some(&self.path), ourselves, tried }.find(OsStr::new(name))
        }
    }

    #[test]
    fn the_first_executable_file_wins() {
        let tree = Tree::new(&["a", "b", "c"]);
        std::fs::create_dir(tree.at("a/cc")).unwrap();
        tree.program("b/cc", 0o644);
        tree.program("c/cc", 0o755);
        let found = tree.find("cc", None, &Tried::default()).unwrap();
        assert_eq!((found.path, found.past_ourselves), (tree.at("c/cc"), false));
        tree.program("b/ld", 0o644);
        let error = |name| tree.find(name, None, &Tried::default()).unwrap_err().kind();
        assert_eq!(error("ld"), io::ErrorKind::PermissionDenied);
        assert_eq!(error("as"), io::ErrorKind::NotFound);
        assert_eq!(error(""), io::ErrorKind::NotFound);
        assert_eq!(error("/nowhere/cc"), io::ErrorKind::NotFound);
    }

    #[test]
    fn links_to_ourselves_are_skipped() {
        let tree = Tree::new(&["links", "bin"]);
        let ourselves = tree.program("farcc", 0o755);
        std::os::unix::fs::symlink("../farcc", tree.at("links/cc")).unwrap();
        std::fs::hard_link(tree.at("farcc"), tree.at("links/c++")).unwrap();
        tree.program("bin/cc", 0o755);
        tree.program("bin/c++", 0o755);
        for name in ["cc", "c++"] {
            for asked in [name.to_owned(), tree.at("links").join(name).to_str().unwrap().to_owned()] {
                let found = tree.find(&asked, Some(ourselves), &Tried::default()).unwrap();
                assert_eq!((found.path, found.past_ourselves), (tree.at("bin").join(name), true), "{asked}");
            }
        }
        std::fs::remove_file(tree.at("bin/cc")).unwrap();
        let error = tree.find("cc", Some(ourselves), &Tried::default()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_wrapper_that_calls_back_is_passed_by() {
        let tree = Tree::new(&["links", "ccache", "bin"]);
        let ourselves = tree.program("links/cc", 0o755);
        let ccache = tree.program("ccache/cc", 0o755);
        let compiler = tree.program("bin/cc", 0o755);
        let mut tried = Tried::default();
        let next = |tried: &Tried| tree.find("cc", Some(ourselves), tried).unwrap().identity;
        assert_eq!(next(&tried), ccache);
        tried.push(ccache);
        assert_eq!(next(&tried), compiler);
        tried.push(compiler);
        // All have been tried, and yet somebody asks: the first one, but not for ever.
        assert_eq!(next(&tried), ccache);
        for inode in 0..20 {
            tried.push(Identity { device: u64::MAX, inode });
        }
        assert!(tree.find("cc", Some(ourselves), &tried).is_err());
    }

    #[test]
    fn an_empty_element_is_the_working_directory() {
        let search =
            Search { path: Some(OsStr::new("/nowhere:")), ourselves: None, tried: &Tried::default() };
        // Tests run in the package's directory; nothing in it is executable.
        let error = search.find(OsStr::new("Cargo.toml")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn tried_programs_survive_the_environment() {
        let mut tried = Tried::default();
        assert_eq!(Tried::parse(OsStr::new(&tried.value(true))), tried);
        tried.push(Identity { device: 0xfe01, inode: u64::MAX });
        tried.push(Identity { device: 0, inode: 1 });
        assert_eq!(Tried::parse(OsStr::new(&tried.value(false))), tried);
        assert_eq!(Tried::parse(OsStr::new("1,x.y,,2")), Tried::default());
    }
}
