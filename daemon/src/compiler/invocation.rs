//! One command as the launcher received it: everything that a program sees when it is started.
//! Knows nothing of compilers.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;

use rustix::fs::FileType;

use crate::process::env_value;

/// A command, and the surroundings in which it was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    /// The command line; the first word is the program as it was named.
    pub argv: Vec<OsString>,
    /// Absolute working directory.
    pub cwd: PathBuf,
    /// The whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// File mode creation mask.
    pub umask: u32,
    /// Whether standard output is a terminal.
    pub stdout_is_terminal: bool,
    /// Whether standard error is a terminal.
    pub stderr_is_terminal: bool,
}

impl Invocation {
    /// The value of environment variable `name`.
    pub fn variable(&self, name: &str) -> Option<&OsStr> {
        env_value(&self.env, name)
    }

    /// The directories of a list of them, empty elements left out.
    pub(super) fn directories_of(&self, variable: &str) -> Vec<PathBuf> {
        let list = self.variable(variable).unwrap_or_default().as_bytes();
        let elements = list.split(|&byte| byte == b':' || byte == b';').filter(|element| !element.is_empty());
        elements.map(|element| self.cwd.join(Path::new(OsStr::from_bytes(element)))).collect()
    }

    /// The absolute path of the program that `argv[0]` names, found as `execvp` does in the command's own
    /// `PATH`. Symlinks are not resolved: a driver behaves by the name under which it is called.
    pub fn executable(&self) -> Option<PathBuf> {
        self.find(self.argv.first()?)
    }

    /// The same for any name that the command could start.
    pub fn find(&self, name: &OsStr) -> Option<PathBuf> {
        find_executable(name, &self.cwd, self.variable("PATH"))
    }
}

/// Programs that stand in front of a compiler under the compiler's own name (`gcc -> ccache`). The search
/// passes over them: it is the compiler that has to be known, and a wrapper may lead back to farcc.
const MASQUERADERS: &[&str] = &["farcc", "ccache", "sccache", "distcc", "icecc", "colorgcc"];

/// What `execvp` does with `name`: a name with a slash is relative to `cwd`, any other is looked for along
/// `path`, of which an empty element means `cwd`. Compiler wrappers on the way are passed over, and one that is named by a
/// path stands for the next program of its name in `path`, as it does for itself.
pub(super) fn find_executable(name: &OsStr, cwd: &Path, path: Option<&OsStr>) -> Option<PathBuf> {
    find_named(name, cwd, path, &|_| true).map(|found| cwd.join(found))
}

/// The same, as `execve` is given it: relative if `name` or the directory in `path` is. Of those in `path` only one that
/// `is_wanted`, which gets absolute paths.
pub(super) fn find_named(
    name: &OsStr,
    cwd: &Path,
    path: Option<&OsStr>,
    is_wanted: &dyn Fn(&Path) -> bool,
) -> Option<PathBuf> {
    if name.is_empty() {
        return None;
    }
    let mut name = name;
    if name.as_bytes().contains(&b'/') {
        let named = cwd.join(name);
        if !is_executable(&named) {
            return None;
        }
        if !is_masquerader(&named) {
            return Some(PathBuf::from(name));
        }
        // It looks for the next one of its name itself.
        name = Path::new(name).file_name()?;
    }
    // POSIX leaves a missing PATH to the system; glibc's execvp uses this value.
    let path = path.unwrap_or(OsStr::new("/bin:/usr/bin"));
    path.as_bytes()
        .split(|&byte| byte == b':')
        .map(|directory| Path::new(OsStr::from_bytes(directory)).join(name))
        .find(|named| {
            let candidate = cwd.join(named);
            is_program(&candidate) && is_wanted(&candidate)
        })
}

fn is_program(candidate: &Path) -> bool {
    is_executable(candidate) && !is_masquerader(candidate)
}

fn is_executable(candidate: &Path) -> bool {
    // Not by `std`, which asks for more: it is looked for in each directory of PATH.
    rustix::fs::stat(candidate).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_mode & 0o111 != 0
    })
}

/// Whether `program` is a symlink that ends in a known wrapper. Only the last component counts, so that no more
/// than that is resolved.
fn is_masquerader(program: &Path) -> bool {
    let mut end = program.to_owned();
    for _ in 0..MOST_LINKS {
        let Ok(target) = std::fs::read_link(&end) else { break };
        // Of an absolute target nothing is left of what it is joined to.
        end.pop();
        end.push(target);
    }
    let name = end.file_name().unwrap_or_default();
    MASQUERADERS.iter().any(|&wrapper| name == wrapper) && program.file_name() != Some(name)
}

/// More of them in a row lead nowhere (path_resolution(7)).
const MOST_LINKS: usize = 40;

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::fs::symlink;

    /// The command `line` (split at blanks) in `cwd`, with an environment in which compilers are found.
    pub(crate) fn invocation(cwd: &Path, line: &str) -> Invocation {
        crate::prerequisites::tests::require_compilers();
        Invocation {
            argv: line.split_whitespace().map(OsString::from).collect(),
            cwd: cwd.to_owned(),
            env: vec![("PATH".into(), "/usr/bin:/bin".into())],
            umask: 0o022,
            stdout_is_terminal: false,
            stderr_is_terminal: false,
        }
    }

    fn program(path: &Path) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "").unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn programs_are_found_along_path() {
        let space = tempfile::tempdir().unwrap();
        let root = space.path();
        program(&root.join("b/tool"));
        program(&root.join("c/tool"));
        std::fs::create_dir_all(root.join("a/tool")).unwrap();
        let path: OsString = format!("{0}/a:{0}/none:{0}/b:{0}/c", root.display()).into();
        assert_eq!(find_executable("tool".as_ref(), root, Some(&path)), Some(root.join("b/tool")));
        assert_eq!(find_executable("c/tool".as_ref(), root, Some(&path)), Some(root.join("c/tool")));
        assert_eq!(find_executable("absent".as_ref(), root, Some(&path)), None);
        assert_eq!(find_executable("".as_ref(), root, Some(&path)), None);
        // An empty element is the working directory; a file that nobody may execute is no program.
        std::fs::write(root.join("plain"), "").unwrap();
        assert_eq!(
            find_executable("tool".as_ref(), &root.join("c"), Some(":/x".as_ref())),
            Some(root.join("c/tool"))
        );
        assert_eq!(find_executable("plain".as_ref(), root, Some("".as_ref())), None);
    }

    #[test]
    fn wrappers_are_passed_over() {
        let space = tempfile::tempdir().unwrap();
        let root = space.path();
        program(&root.join("bin/farcc"));
        program(&root.join("real/gcc"));
        std::fs::create_dir(root.join("links")).unwrap();
        symlink(root.join("bin/farcc"), root.join("links/gcc")).unwrap();
        let path: OsString = format!("{0}/links:{0}/real", root.display()).into();
        assert_eq!(find_executable("gcc".as_ref(), root, Some(&path)), Some(root.join("real/gcc")));
        let named = root.join("links/gcc");
        assert_eq!(find_executable(named.as_os_str(), root, Some(&path)), Some(root.join("real/gcc")));
        assert_eq!(find_executable(named.as_os_str(), root, Some("".as_ref())), None);
    }
}
