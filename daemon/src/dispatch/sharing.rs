//! `[exec] paths = "shared"`: which directories are the workspace of a command, and whether its inputs name them.
//! Knows nothing of arguments, nor of actions.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use dashmap::DashMap;

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

/// Which files name a workspace. The answer is kept by content, for no file is read for it twice.
#[derive(Default)]
pub(super) struct Sharing {
    names: DashMap<(Digest, Digest), bool>,
}

impl Sharing {
    /// The first of `inputs` in which a directory of the workspace is named, as it is called here or in actions: such a
    /// text has another meaning, or none, where the workspace stands elsewhere.
    ///
    /// # Errors
    /// When one cannot be read, or has changed.
    pub(super) fn named_in(
        &self,
        inputs: &[Arc<InputFile>],
        relocation: &Relocation,
    ) -> Result<Option<PathBuf>, Reason> {
        let mut hasher = Hasher::new();
        for root in relocation.roots() {
            hasher.field(root.here.as_os_str().as_encoded_bytes());
        }
        let workspace = hasher.finish();
        for input in inputs.iter().filter(|input| !paths::is_system(&input.path)) {
            let key = (input.version.digest, workspace);
            let known = self.names.get(&key).map(|known| *known);
            let is_named = match known {
                Some(is_named) => is_named,
                None => {
                    let path = input.path.display();
                    let bytes = std::fs::read(&input.path);
                    let bytes = bytes.map_err(|error| Reason::InputUnreadable(format!("{path}: {error}")))?;
                    // What is remembered must be true of what the key names.
                    if Digest::of(&bytes) != input.version.digest {
                        return Err(Reason::InputChanged(path.to_string()));
                    }
                    let is_named = relocation.is_named_in(&bytes);
                    if self.names.len() >= MOST_FILES {
                        self.names.clear();
                    }
                    self.names.insert(key, is_named);
                    is_named
                }
            };
            if is_named {
                return Ok(Some(input.path.clone()));
            }
        }
        Ok(None)
    }
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

/// A submodule belongs to the repository around it; its `.git` is a file that names a directory there
/// (gitrepository-layout(5)).
fn is_repository(entry: &Path) -> bool {
    match std::fs::symlink_metadata(entry) {
        Ok(metadata) if metadata.is_file() => {
            let text = std::fs::read_to_string(entry).unwrap_or_default();
            !text.contains("/modules/")
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
        let (plain, bound) = (root.join("plain.h"), root.join("bound.h"));
        std::fs::write(&plain, "int x;\n").unwrap();
        std::fs::write(&bound, format!("#define ROOT \"{}\"\n", root.display())).unwrap();
        let sharing = Sharing::default();
        let inputs = [input(&plain), input(&bound)];
        let here = Relocation::new(std::slice::from_ref(&root)).unwrap();
        let elsewhere = Relocation::new(&["/elsewhere".into()]).unwrap();
        assert_eq!(sharing.named_in(&inputs, &elsewhere), Ok(None));
        assert_eq!(sharing.named_in(&inputs, &here), Ok(Some(bound.clone())));
        // A file is not read again.
        std::fs::remove_file(&plain).unwrap();
        assert_eq!(sharing.named_in(&inputs, &here), Ok(Some(bound)));
        assert!(matches!(Sharing::default().named_in(&inputs, &here), Err(Reason::InputUnreadable(_))));
        // What it holds now says nothing of what it held.
        std::fs::write(&plain, "int y;\n").unwrap();
        assert!(matches!(Sharing::default().named_in(&inputs, &here), Err(Reason::InputChanged(_))));
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
