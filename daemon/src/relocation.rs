//! Where the directories of a workspace stand in an action that is the same for every checkout (`[exec] paths =
//! "shared"`), and what their names become in debug information and `__FILE__`.
//! Maps names and texts; looks at no file.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::ffi::OsStringExt;
use std::path::Component;
use std::path::Path;
use std::path::PathBuf;

use memchr::memmem;

use crate::paths;

/// The directory of an action in which the directories of the workspace stand, by their numbers.
const WORKSPACE: &str = "/farcc-workspace";

/// What stands for the first directory of the workspace in debug information and `__FILE__`: a name that leads a debugger
/// or a program to the sources if it is started there, and that a debugger can be told to replace.
pub const SHOWN: &str = "/proc/self/cwd";

/// The directories of one workspace: where they are on this machine, and where in an action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relocation {
    roots: Vec<Root>,
}

/// One directory of the workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// Physical path on this machine.
    pub here: PathBuf,
    /// Its path in the action.
    pub there: PathBuf,
    /// Its name in debug information.
    pub shown: String,
}

impl Relocation {
    /// The relocation of these directories (physical paths), of which those within others are passed over.
    ///
    /// # Errors
    /// What is wrong with one of them, as a clause: it is the root of the file system or a part of the image, or its name
    /// has a character that means something to Make or to the compilers' prefix maps.
    pub fn new(directories: &[PathBuf]) -> Result<Relocation, String> {
        let is_inner = |directory: &&PathBuf| {
            directories.iter().any(|other| other != *directory && directory.starts_with(other))
        };
        let mut outer: Vec<&PathBuf> = directories.iter().filter(|directory| !is_inner(directory)).collect();
        let mut known = HashSet::new();
        outer.retain(|directory| known.insert(*directory));
        let mut roots = Vec::with_capacity(outer.len());
        for (number, &here) in outer.iter().enumerate() {
            let display = here.display();
            let text = here.to_str().filter(|text| text.bytes().all(is_plain));
            if text.is_none() {
                return Err(format!("the name of {display} has characters with a meaning of their own"));
            }
            if here.parent().is_none() || paths::is_system(here) || here.starts_with(WORKSPACE) {
                return Err(format!("{display} is no workspace"));
            }
            let is_sibling = |other: &Path| is_byte_prefix(here, other) && below(other, here).is_none();
            if outer.iter().any(|other| is_sibling(other)) {
                return Err(format!(
                    "another directory of the workspace has a name that begins as {display}"
                ));
            }
            // The first of eleven would have a name with which that of the last begins.
            if number > 9 {
                return Err("it has more than ten directories".to_owned());
            }
            let from_first = paths::relative(outer[0], here);
            let shown = match number {
                0 => SHOWN.to_owned(),
                _ => format!("{SHOWN}/{}", from_first.display()),
            };
            let there = Path::new(WORKSPACE).join(number.to_string());
            roots.push(Root { here: here.clone(), there, shown });
        }
        Ok(Relocation { roots })
    }

    /// The directories, the first one first.
    pub fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// Where `path` (of this machine) is in the action, spelled alike. A path outside the workspace stays what it is.
    pub fn there(&self, path: &Path) -> PathBuf {
        OsString::from_vec(self.name_there(path.as_os_str().as_bytes())).into()
    }

    /// Whether `path` (absolute, perhaps with `..`) leads into the workspace or out of it by a way that the action does
    /// not have: by the name of a directory around it. Or whether its name begins as one of the workspace's, but is another
    /// (`/w/src-old` beside `/w/src`): compilers change by prefix maps what begins with the same bytes.
    pub fn crosses(&self, path: &Path) -> bool {
        let normal = paths::lexically_normal(path);
        self.roots.iter().any(|root| {
            let is_around = root.here.starts_with(&normal) && normal != root.here;
            let (inside, below) = (normal.starts_with(&root.here), below(path, &root.here));
            let is_sibling = is_byte_prefix(&root.here, path) && below.is_none();
            is_around
                || is_sibling
                || inside != below.is_some()
                || below.is_some_and(|below| leaves(Path::new(below)))
        })
    }

    /// Whether the bytes name the workspace as it is called in actions.
    pub fn is_there_in(&self, bytes: &[u8]) -> bool {
        is_named(bytes, WORKSPACE.as_bytes())
    }

    /// Whether the bytes name a directory of the workspace, as it is called here or in actions.
    pub fn is_named_in(&self, bytes: &[u8]) -> bool {
        self.named_here(bytes).is_some() || self.is_there_in(bytes)
    }

    /// Which directory of this machine the bytes name, if they name one.
    pub fn named_here(&self, bytes: &[u8]) -> Option<&Path> {
        let names = |root: &&Root| is_named(bytes, root.here.as_os_str().as_bytes());
        self.roots.iter().find(names).map(|root| root.here.as_path())
    }

    /// A text that was written in the action, with the names of this machine.
    pub fn text_here(&self, text: &[u8]) -> Vec<u8> {
        // Nothing else has such a name, whatever stands before it.
        self.roots
            .iter()
            .fold(text.to_vec(), |text, root| replaced(&text, &root.there, &root.here, &|_| true))
    }

    /// A text that was written here, with the names of the action.
    pub fn text_there(&self, text: &[u8]) -> Vec<u8> {
        self.roots.iter().fold(text.to_vec(), |text, root| {
            let begins = |at| begins(&text, at);
            replaced(&text, &root.here, &root.there, &begins)
        })
    }

    /// A file's name of the action, with the name of this machine.
    pub fn name_here(&self, name: &[u8]) -> Vec<u8> {
        let renamed = |root: &Root| renamed(name, &root.there, &root.here);
        self.roots.iter().find_map(renamed).unwrap_or_else(|| name.to_vec())
    }

    /// A file's name of this machine, with the name of the action.
    pub fn name_there(&self, name: &[u8]) -> Vec<u8> {
        let renamed = |root: &Root| renamed(name, &root.here, &root.there);
        self.roots.iter().find_map(renamed).unwrap_or_else(|| name.to_vec())
    }
}

/// Characters that Make, the shell and prefix maps take as they are.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"/._+@,-~".contains(&byte)
}

/// Whether the bytes of `path` begin with those of `prefix`.
fn is_byte_prefix(prefix: &Path, path: &Path) -> bool {
    path.as_os_str().as_bytes().starts_with(prefix.as_os_str().as_bytes())
}

/// What a path has after the directory that it begins with, spelled alike.
fn below<'a>(path: &'a Path, directory: &Path) -> Option<&'a OsStr> {
    let rest = path.as_os_str().as_bytes().strip_prefix(directory.as_os_str().as_bytes())?;
    (rest.is_empty() || rest[0] == b'/').then(|| OsStr::from_bytes(rest))
}

/// Whether a relative path leads out of where it starts on the way.
fn leaves(path: &Path) -> bool {
    let mut depth = 0_usize;
    path.components().any(|component| {
        match component {
            Component::ParentDir if depth == 0 => return true,
            Component::ParentDir => depth -= 1,
            Component::Normal(_) => depth += 1,
            // What follows a directory begins with a slash.
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
        false
    })
}

/// Whether `name`, an absolute path, stands in `text` whole: not as a part of a longer path. A comma may belong to a longer one,
/// or separate the words of a list (`-Wl,-rpath,/w,-z,now`).
fn is_named(text: &[u8], name: &[u8]) -> bool {
    let ends =
        |at: usize| text.get(at + name.len()).is_none_or(|&next| b"/,".contains(&next) || !is_plain(next));
    memmem::find_iter(text, name).any(|at| ends(at) && begins(text, at))
}

/// Where `name` ends in `text`, by where it begins there.
fn ends<'a>(text: &'a [u8], name: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    let ends = |at: usize| text.get(at + name.len()).is_none_or(|&next| next == b'/' || !is_plain(next));
    memmem::find_iter(text, name).filter(move |&at| ends(at))
}

/// Whether an absolute path can begin at `at`.
fn begins(text: &[u8], at: usize) -> bool {
    let before = &text[..at];
    match before.last() {
        None | Some(b',' | b'@') => true,
        Some(&last) if !is_plain(last) => true,
        // `file:///…`
        Some(b'/') => before.ends_with(b"://"),
        // Colours: `ESC [ 01 ; 31 m ESC [ K`.
        Some(b'm' | b'K') => {
            let parameters = before[..before.len() - 1].iter().rev();
            let count = parameters.take_while(|byte| byte.is_ascii_digit() || **byte == b';').count();
            before[..before.len() - 1 - count].ends_with(b"\x1b[") || ends_in_flag(before)
        }
        Some(_) => ends_in_flag(before),
    }
}

/// Whether a flag's name stands at the end, such as `-L` or `-isystem`, to which its value is joined.
fn ends_in_flag(before: &[u8]) -> bool {
    let letters = before.iter().rev().take_while(|byte| byte.is_ascii_alphabetic()).count();
    let rest = &before[..before.len() - letters];
    let is_start = |rest: &[u8]| rest.last().is_none_or(|&last| last == b',' || !is_plain(last));
    letters > 0 && rest.strip_suffix(b"-").is_some_and(is_start)
}

fn replaced(text: &[u8], from: &Path, to: &Path, is_wanted: &dyn Fn(usize) -> bool) -> Vec<u8> {
    let (from, to) = (from.as_os_str().as_bytes(), to.as_os_str().as_bytes());
    let mut result = Vec::with_capacity(text.len());
    let mut done = 0;
    for at in ends(text, from).filter(|&at| is_wanted(at)) {
        result.extend_from_slice(&text[done..at]);
        result.extend_from_slice(to);
        done = at + from.len();
    }
    result.extend_from_slice(&text[done..]);
    result
}

fn renamed(name: &[u8], from: &Path, to: &Path) -> Option<Vec<u8>> {
    let rest = below(Path::new(OsStr::from_bytes(name)), from)?;
    Some([to.as_os_str().as_bytes(), rest.as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relocation(directories: &[&str]) -> Relocation {
        Relocation::new(&directories.iter().map(PathBuf::from).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn directories_are_numbered_and_named_from_the_first() {
        let relocation = relocation(&["/w/src", "/w/src/build", "/w/build", "/w/src"]);
        let roots: Vec<_> =
            relocation.roots().iter().map(|root| (root.here.as_path(), &*root.shown)).collect();
        assert_eq!(roots, [(Path::new("/w/src"), SHOWN), (Path::new("/w/build"), "/proc/self/cwd/../build")]);
        assert_eq!(
            relocation.there(Path::new("/w/build/a/../b.c")),
            Path::new("/farcc-workspace/1/a/../b.c")
        );
        assert_eq!(relocation.there(Path::new("/w/src")), Path::new("/farcc-workspace/0"));
        assert_eq!(relocation.there(Path::new("/w/src2/a.c")), Path::new("/w/src2/a.c"));
    }

    #[test]
    fn what_is_no_workspace() {
        for directory in
            ["/", "/usr/src/x", "/farcc-workspace/0", "/w/a b", "/w/a:b", "/w/a=b", "/w/a$b", "/w/ä"]
        {
            assert!(Relocation::new(&[directory.into()]).is_err(), "{directory}");
        }
    }

    #[test]
    fn ways_that_an_action_does_not_have() {
        let relocation = relocation(&["/w/src", "/b"]);
        for (path, crosses) in [
            ("/w/src/a/../b.c", false),
            ("/w/src/a.c", false),
            ("/w/src", false),
            ("/opt/x/../y.h", false),
            ("/w", true),
            ("/", true),
            ("/w/src/..", true),
            ("/w/src/../other/x.h", true),
            ("/w/src/../src/x.h", true),
            ("/w/other/../src/x.h", true),
            ("/w/src/a/../../src/x.h", true),
            ("/w//src/x.h", true),
            ("/w/src-old/x.h", true),
            ("/w/src2", true),
        ] {
            assert_eq!(relocation.crosses(Path::new(path)), crosses, "{path}");
        }
    }

    #[test]
    fn names_are_found_whole() {
        let relocation = relocation(&["/w/src"]);
        for (text, named) in [
            ("a /w/src/b", true),
            ("\"/w/src\"", true),
            ("/w/src", true),
            ("-Wl,/w/src", true),
            ("-L/w/src/lib", true),
            ("-Wl,-L/w/src/lib", true),
            ("-Wl,-rpath,/w/src,-z,now", true),
            ("unused: '-isystem/w/src'", true),
            ("a-L/w/src", false),
            ("\0/w/src\0", true),
            ("/mnt/w/src/a", false),
            ("w/w/src ./w/src", false),
            ("/farcc-workspace/0", true),
            ("/w/src2 /w/src-a /w/src.h", false),
            ("", false),
        ] {
            assert_eq!(relocation.is_named_in(text.as_bytes()), named, "{text}");
        }
    }

    #[test]
    fn texts_are_translated_there_and_back() {
        let relocation = relocation(&["/w/src", "/b"]);
        for (here, there) in [
            ("/w/src/a.c:1: error in '/b'\n", "/farcc-workspace/0/a.c:1: error in '/farcc-workspace/1'\n"),
            ("\x1b[01m\x1b[K/w/src/a.c", "\x1b[01m\x1b[K/farcc-workspace/0/a.c"),
            ("In file included from /b/x.h:1,\n", "In file included from /farcc-workspace/1/x.h:1,\n"),
            ("file:///w/src/a.c", "file:///farcc-workspace/0/a.c"),
            ("'-L/w/src'", "'-L/farcc-workspace/0'"),
            ("/mnt/w/src/a.c /w/srcs m/b K/b", "/mnt/w/src/a.c /w/srcs m/b K/b"),
        ] {
            let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
            assert_eq!(text(relocation.text_there(here.as_bytes())), there);
            assert_eq!(text(relocation.text_here(there.as_bytes())), here);
        }
    }

    #[test]
    fn names_keep_their_spelling() {
        let relocation = relocation(&["/w/src"]);
        for (here, there) in [
            (&b"/w/src/a//b/./c.h"[..], &b"/farcc-workspace/0/a//b/./c.h"[..]),
            (b"/w/src//a\\ b.h", b"/farcc-workspace/0//a\\ b.h"),
            (b"/w/src", b"/farcc-workspace/0"),
            (b"../w/src", b"../w/src"),
            (b"/w/src2", b"/w/src2"),
        ] {
            assert_eq!(relocation.name_there(here), there);
            assert_eq!(relocation.name_here(there), here);
        }
    }
}
