//! The files of this machine's image that commands need on a worker.
//! Knows nothing of what workers have.

use std::path::Path;
use std::path::PathBuf;

use bazel_remote_apis::build::bazel::remote::execution::v2 as re;
use prost::Message;

use crate::action::Action;
use crate::action::Brought;
use crate::compiler::Tools;
use crate::digest::Digest;
use crate::paths;

/// A file of the image that a command needs.
#[derive(Debug, Clone)]
pub(super) struct Needed {
    pub(super) path: PathBuf,
    pub(super) digest: Digest,
    /// Only read, so that another place would do. Programs find others by where they lie.
    pub(super) is_input: bool,
}

/// The programs and libraries that `action` runs, and its driver by the name that a worker runs it by.
pub(super) fn programs(tools: &Tools, action: &Action) -> Vec<Needed> {
    let mut needed = parts(tools);
    // What is behind a name is another program on some.
    for (link, target) in tools.links.iter().filter(|(link, _)| paths::is_system(link)) {
        let digest = tools.programs.iter().find(|(path, _)| path == target).map(|(_, digest)| *digest);
        needed.extend(digest.map(|digest| Needed { path: link.clone(), digest, is_input: false }));
    }
    let command = re::Command::decode(action.command.as_slice()).unwrap_or_default();
    if let Some(driver) = command.arguments.first() {
        let cwd = Path::new("/").join(&command.working_directory);
        let name = paths::lexically_normal(&cwd.join(driver));
        let target = std::fs::canonicalize(&name).ok();
        let of_target = tools.programs.iter().find(|(path, _)| Some(path) == target.as_ref());
        if let Some((_, digest)) = of_target {
            needed.push(Needed { path: name, digest: *digest, is_input: false });
        }
    }
    needed
}

/// The programs and libraries of a toolchain.
pub(super) fn parts(tools: &Tools) -> Vec<Needed> {
    let programs = tools.programs.iter();
    programs.map(|(path, digest)| Needed { path: path.clone(), digest: *digest, is_input: false }).collect()
}

/// What `action` reads of the image.
pub(super) fn inputs(action: &Action) -> Vec<Needed> {
    let needed = action.in_image.iter().map(|input| {
        let path = match paths::is_system(&paths::lexically_normal(&input.path)) {
            true => input.path.clone(),
            // A link outside leads to it.
            false => std::fs::canonicalize(&input.path).unwrap_or_else(|_| input.path.clone()),
        };
        Needed { path, digest: input.version.digest, is_input: true }
    });
    needed.collect()
}

/// The directories of the headers that come with the compiler, as far as they lie in the image.
pub(super) fn headers(tools: &Tools) -> Vec<PathBuf> {
    tools
        .headers
        .iter()
        .filter(|directory| paths::is_system(&paths::lexically_normal(directory)))
        .cloned()
        .collect()
}

/// The files of this machine below `directories`; symlinks are not followed.
pub(super) fn headers_below(directories: &[PathBuf]) -> Vec<Needed> {
    let mut needed = Vec::new();
    let mut pending = directories.to_vec();
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => pending.push(path),
                Ok(kind) if kind.is_file() => {
                    let digest = std::fs::File::open(&path).and_then(|mut file| Digest::of_reader(&mut file));
                    needed.extend(digest.ok().map(|digest| Needed { path, digest, is_input: true }));
                }
                _ => {}
            }
        }
    }
    needed.sort_by(|a, b| a.path.cmp(&b.path));
    needed
}

/// The file as it can be sent. None: on the way to it there is a symlink, which may lead elsewhere on a worker, or it is a
/// program.
pub(super) fn brought(needed: &Needed) -> Option<Brought> {
    let path = paths::lexically_normal(&needed.path);
    let parent = path.parent()?;
    let is_physical = std::fs::canonicalize(parent).is_ok_and(|physical| physical == parent);
    (needed.is_input && is_physical).then(|| Brought { path: path.clone(), digest: needed.digest })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needed(path: &str, content: &[u8]) -> Needed {
        Needed { path: path.into(), digest: Digest::of(content), is_input: true }
    }

    #[test]
    fn a_header_behind_a_symlink_is_not_sent() {
        let directory = tempfile::tempdir().unwrap();
        let top = directory.path().canonicalize().unwrap();
        std::fs::create_dir(top.join("real")).unwrap();
        std::fs::write(top.join("real/a.h"), "").unwrap();
        std::os::unix::fs::symlink("real", top.join("link")).unwrap();
        let at = |name: &str| brought(&needed(top.join(name).to_str().unwrap(), b""));
        assert_eq!(at("real/a.h").unwrap().path, top.join("real/a.h"));
        assert_eq!(at("link/a.h"), None);
        let program = Needed { is_input: false, ..needed(top.join("real/a.h").to_str().unwrap(), b"") };
        assert_eq!(brought(&program), None);
    }
}
