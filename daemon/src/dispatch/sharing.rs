//! `[exec] paths = "shared"`: which directories are the workspace of a command, and whether its inputs name them.
//! Knows nothing of arguments, nor of actions.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use dashmap::DashMap;
use dashmap::DashSet;

use crate::config::Workspace;
use crate::digest::Digest;
use crate::digest::Hasher;
use crate::files::InputFile;
use crate::paths;
use crate::reason::Reason;
use crate::relocation::Relocation;

/// Entries by which a directory is known as the top of a repository.
const REPOSITORY: &[&str] = &[".git", ".jj", ".hg", ".svn", ".bzr"];

/// The file in which Farcc.cmake notes source and build directory, a line each, in the build directory.
const ROOTS_FILE: &str = ".farcc-roots";

/// More files than one project has: beyond, what is known of them is learned again.
const MOST_FILES: usize = 200_000;

/// What in a text can tie what is made of it to where the workspace is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mention {
    /// The workspace is named.
    Workspace,
    /// A function's signature is asked for, in which some compilers name types by the paths of their sources.
    Signature,
}

/// What files mention. It is kept by content, for no file is read for it twice.
#[derive(Default)]
pub(super) struct Sharing {
    mentions: DashMap<(Digest, Digest), Option<Mention>>,
    /// Keys of actions of which what was made showed the workspace, though nothing in their inputs had told: debug information
    /// that is compressed in objects and is not in what is linked.
    shown: DashSet<Digest>,
}

impl Sharing {
    /// Notes that what was made of the action with this key showed the workspace: the next time it is tied to its checkout.
    pub(super) fn note_shown(&self, key: Digest) {
        if self.shown.len() >= MOST_FILES {
            self.shown.clear();
        }
        self.shown.insert(key);
    }

    /// Whether that was noted.
    pub(super) fn has_shown(&self, key: &Digest) -> bool {
        self.shown.contains(key)
    }

    /// The first of `inputs` in which a directory of the workspace is named, as it is called here or in actions (such a
    /// text has another meaning, or none, where the workspace stands elsewhere), or which asks for signatures if those
    /// matter (`with_signatures`).
    ///
    /// # Errors
    /// When one cannot be read, or has changed.
    pub(super) fn check(
        &self,
        inputs: &[Arc<InputFile>],
        relocation: &Relocation,
        with_signatures: bool,
    ) -> Result<Option<(PathBuf, Mention)>, Reason> {
        let mut hasher = Hasher::new();
        for root in relocation.roots() {
            hasher.field(root.here.as_os_str().as_encoded_bytes());
        }
        let workspace = hasher.finish();
        for input in inputs.iter().filter(|input| !paths::is_system(&input.path)) {
            let key = (input.version.digest, workspace);
            let known = self.mentions.get(&key).map(|known| *known);
            let mention = match known {
                Some(mention) => mention,
                None => {
                    let mention = mention(input, relocation)?;
                    if self.mentions.len() >= MOST_FILES {
                        self.mentions.clear();
                    }
                    self.mentions.insert(key, mention);
                    mention
                }
            };
            match mention {
                None => {}
                Some(Mention::Signature) if !with_signatures => {}
                Some(mention) => return Ok(Some((input.path.clone(), mention))),
            }
        }
        Ok(None)
    }
}

fn mention(input: &InputFile, relocation: &Relocation) -> Result<Option<Mention>, Reason> {
    let path = input.path.display();
    let bytes = std::fs::read(&input.path);
    let bytes = bytes.map_err(|error| Reason::InputUnreadable(format!("{path}: {error}")))?;
    // What is remembered must be true of what the key names.
    if Digest::of(&bytes) != input.version.digest {
        return Err(Reason::InputChanged(path.to_string()));
    }
    let asks_for_signature = || memchr::memmem::find(&bytes, b"__PRETTY_FUNCTION__").is_some();
    Ok(if relocation.is_named_in(&bytes) {
        Some(Mention::Workspace)
    } else {
        asks_for_signature().then_some(Mention::Signature)
    })
}

/// Where the workspace of a command in `cwd` (physical) is, and where it is in an action.
///
/// # Errors
/// Why it has none, as a clause.
pub(super) fn relocation(workspace: &Workspace, cwd: &Path) -> Result<Relocation, String> {
    let physical = |path: PathBuf| {
        path.canonicalize().map_err(|error| format!("{} cannot be the workspace: {error}", path.display()))
    };
    if !workspace.roots.is_empty() {
        let roots: Result<Vec<_>, _> = workspace.roots.iter().cloned().map(physical).collect();
        return Relocation::new(&roots?);
    }
    for directory in cwd.ancestors() {
        if let Ok(noted) = std::fs::read_to_string(directory.join(ROOTS_FILE)) {
            let roots: Result<Vec<_>, _> = noted.lines().map(PathBuf::from).map(physical).collect();
            return Relocation::new(&roots?);
        }
        if REPOSITORY.iter().any(|name| is_repository(&directory.join(name))) {
            return Relocation::new(&[directory.to_owned()]);
        }
    }
    Err("there is no repository around the working directory, and [workspace] roots is empty".to_owned())
}

/// The workspace of a build that is started in `cwd` (physical) by a command with these words: that of the build directory which one
/// of them names, else that of the working directory.
///
/// # Errors
/// Why it has none, as a clause.
pub(super) fn relocation_of_build(
    workspace: &Workspace,
    cwd: &Path,
    words: &[OsString],
) -> Result<Relocation, String> {
    let directory = |word: &OsString| {
        let word = word.as_bytes();
        let named = [Some(word), word.strip_prefix(b"-C")].into_iter().flatten();
        let mut named = named.map(|name| cwd.join(OsStr::from_bytes(name)));
        named.find(|directory| directory.join(ROOTS_FILE).is_file())
    };
    let build = words.iter().skip(1).find_map(directory).and_then(|directory| directory.canonicalize().ok());
    let relocation = relocation(workspace, build.as_deref().unwrap_or(cwd))?;
    match relocation.roots().iter().any(|root| cwd.starts_with(&root.here)) {
        true => Ok(relocation),
        false => Err(format!("{} is not in the workspace of the build directory", cwd.display())),
    }
}

/// A submodule belongs to the repository around it; its `.git` is a file that names a directory there
/// (gitrepository-layout(5)).
fn is_repository(entry: &Path) -> bool {
    match std::fs::symlink_metadata(entry) {
        Ok(metadata) if metadata.is_file() => {
            let text = std::fs::read_to_string(entry).unwrap_or_default();
            text.contains("/worktrees/") || !text.contains(".git/modules/")
        }
        Ok(_) => true,
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::Files;

    fn input(path: &Path) -> Arc<InputFile> {
        Arc::new(InputFile { path: path.to_owned(), version: Files::default().version(path).unwrap() })
    }

    #[test]
    fn files_that_name_the_workspace_are_known_by_their_content() {
        let space = tempfile::tempdir().unwrap();
        let root = space.path().canonicalize().unwrap();
        let (plain, bound, pretty) = (root.join("plain.h"), root.join("bound.h"), root.join("pretty.h"));
        std::fs::write(&plain, "int x;\n").unwrap();
        std::fs::write(&bound, format!("#define ROOT \"{}\"\n", root.display())).unwrap();
        std::fs::write(&pretty, "const char *f = __PRETTY_FUNCTION__;\n").unwrap();
        let named_in = |sharing: &Sharing, inputs: &[Arc<InputFile>], relocation: &Relocation| {
            sharing.check(inputs, relocation, false)
        };
        let workspace = |path: &Path| Ok(Some((path.to_owned(), Mention::Workspace)));
        let sharing = Sharing::default();
        let inputs = [input(&plain), input(&pretty), input(&bound)];
        let here = Relocation::new(std::slice::from_ref(&root)).unwrap();
        let elsewhere = Relocation::new(&["/elsewhere".into()]).unwrap();
        assert_eq!(named_in(&sharing, &inputs, &elsewhere), Ok(None));
        assert_eq!(named_in(&sharing, &inputs, &here), workspace(&bound));
        let signature = sharing.check(&inputs, &elsewhere, true);
        assert_eq!(signature, Ok(Some((pretty, Mention::Signature))));
        // A file is not read again.
        std::fs::remove_file(&plain).unwrap();
        assert_eq!(named_in(&sharing, &inputs, &here), workspace(&bound));
        assert!(matches!(named_in(&Sharing::default(), &inputs, &here), Err(Reason::InputUnreadable(_))));
        // What it holds now says nothing of what it held.
        std::fs::write(&plain, "int y;\n").unwrap();
        assert!(matches!(named_in(&Sharing::default(), &inputs, &here), Err(Reason::InputChanged(_))));
    }

    #[test]
    fn the_nearest_note_or_repository_counts() {
        let space = tempfile::tempdir().unwrap();
        let top = space.path().canonicalize().unwrap();
        let build = top.join("project/build/sub");
        std::fs::create_dir_all(&build).unwrap();
        let found = |workspace: &Workspace| {
            let relocation = relocation(workspace, &build)?;
            Ok(relocation.roots().iter().map(|root| root.here.clone()).collect::<Vec<_>>())
        };
        let default = Workspace::default();
        for name in REPOSITORY {
            let entry = top.join("project").join(name);
            std::fs::create_dir(&entry).unwrap();
            assert_eq!(found(&default), Ok(vec![top.join("project")]), "{name}");
            std::fs::remove_dir(&entry).unwrap();
        }
        let missing: Result<_, String> = found(&default);
        assert!(missing.is_err_and(|why| why.starts_with("there is no repository")));
        let project = top.join("project");
        std::fs::write(
            project.join("build/.farcc-roots"),
            format!("{}\n{}\n", top.display(), build.display()),
        )
        .unwrap();
        assert_eq!(found(&default), Ok(vec![top.clone()]));
        let link = top.join("link");
        std::os::unix::fs::symlink(&project, &link).unwrap();
        assert_eq!(found(&Workspace { roots: vec![link] }), Ok(vec![project]));
        std::fs::write(build.join(".farcc-roots"), "/no/such/directory\n").unwrap();
        assert!(found(&default).is_err());
    }
}
