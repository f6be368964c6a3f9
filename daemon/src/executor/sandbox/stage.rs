//! Lays an input root out on disk, from its Merkle tree in the store.
//! Knows nothing of what the tree is for; trusts nothing in it.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::PoisonError;

use bazel_remote_apis::build::bazel::remote::execution::v2::Directory;
use prost::Message;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::ResolveFlags;

use super::Failure;
use super::Sandbox;
use super::mounts;
use super::request::Request;
use super::request::digest;
use crate::digest::Digest;

/// No build step has so many inputs. A few small directories that name each other many times could describe more
/// files than any disk holds.
const MAX_NODES: u64 = 200_000;

/// Stages the tree `root_digest` in the empty directory `root`. Nothing is written through a symlink: all
/// directories are made here, and symlinks come last.
pub(super) fn input_root(sandbox: &Sandbox, root_digest: &Digest, root: &Path) -> Result<(), Failure> {
    let mut tree = Tree { directories: HashMap::new(), missing: Vec::new() };
    let nodes = tree.load(sandbox, root_digest)?;
    if nodes > MAX_NODES {
        return Err(Failure::invalid(format!("the input root has {nodes} nodes, more than {MAX_NODES}")));
    }
    let Tree { directories, mut missing } = tree;
    let mut symlinks: Vec<(PathBuf, &str)> = Vec::new();
    let mut pending = vec![(*root_digest, root.to_owned())];
    while let Some((next, path)) = pending.pop() {
        let Some(directory) = directories.get(&next) else { continue };
        for file in &directory.files {
            let file_digest = digest(root_digest.function(), file.digest.as_ref(), &file.name)?;
            if !stage_file(sandbox, &file_digest, &path.join(&file.name), file.is_executable)? {
                missing.push(file_digest);
            }
        }
        for child in &directory.directories {
            let child_path = path.join(&child.name);
            std::fs::create_dir(&child_path).map_err(|error| failed("make", root, &child_path, &error))?;
            let child_digest = digest(root_digest.function(), child.digest.as_ref(), &child.name)?;
            pending.push((child_digest, child_path));
        }
        symlinks.extend(directory.symlinks.iter().map(|link| (path.join(&link.name), link.target.as_str())));
    }
    if !missing.is_empty() {
        return Err(Failure::missing(missing));
    }
    for (path, target) in symlinks {
        std::os::unix::fs::symlink(target, &path).map_err(|error| failed("make", root, &path, &error))?;
    }
    Ok(())
}

/// The directories of an input root, each once.
struct Tree {
    directories: HashMap<Digest, Directory>,
    missing: Vec<Digest>,
}

impl Tree {
    /// Loads all directories below `root`, and returns how many nodes the tree has when it is laid out. Its own
    /// stack: the tree may be nested deeper than this thread's reaches.
    fn load(&mut self, sandbox: &Sandbox, root: &Digest) -> Result<u64, Failure> {
        let mut sizes: HashMap<Digest, u64> = HashMap::new();
        // A directory is met twice: before its children, and when they are all counted.
        let mut pending = vec![(*root, false)];
        while let Some((next, are_children_counted)) = pending.pop() {
            if sizes.contains_key(&next) {
                continue;
            }
            if !are_children_counted && !self.read(sandbox, &next)? {
                sizes.insert(next, 0);
                continue;
            }
            let Some(directory) = self.directories.get(&next) else { continue };
            let children: Result<Vec<Digest>, Failure> = directory
                .directories
                .iter()
                .map(|child| digest(root.function(), child.digest.as_ref(), &child.name))
                .collect();
            let children = children?;
            if are_children_counted {
                let own = directory.files.len() + directory.directories.len() + directory.symlinks.len();
                let below = children.iter().filter_map(|child| sizes.get(child));
                sizes.insert(next, below.fold(own as u64, |sum, size| sum.saturating_add(*size)));
            } else {
                pending.push((next, true));
                pending.extend(children.into_iter().map(|child| (child, false)));
            }
        }
        Ok(sizes.get(root).copied().unwrap_or(0))
    }

    /// `false` when the directory is not in the store.
    fn read(&mut self, sandbox: &Sandbox, next: &Digest) -> Result<bool, Failure> {
        if self.directories.contains_key(next) {
            return Ok(true);
        }
        if self.directories.len() as u64 > MAX_NODES {
            return Err(Failure::invalid(format!("the input root has more than {MAX_NODES} directories")));
        }
        let Some(bytes) = sandbox.store().read(next)? else {
            self.missing.push(*next);
            return Ok(false);
        };
        let directory = Directory::decode(bytes.as_slice())
            .map_err(|error| Failure::invalid(format!("the blob {next} is no Directory: {error}")))?;
        check_names(&directory).map_err(|problem| {
            Failure::invalid(format!("the Directory {next} is not canonical: {problem}"))
        })?;
        self.directories.insert(*next, directory);
        Ok(true)
    }
}

/// Adds to a staged root what REAPI promises besides its inputs: the outputs' parents, and a `/tmp`. Symlinks of
/// the input root are followed as the command would see them.
pub(super) fn complete(request: &Request, root: &Path) -> Result<(), Failure> {
    mounts::make_tmp(root)?;
    let root_fd = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| failed("open", root, root, &error.into()))?;
    let open = |path: &Path| {
        // An empty path is none to the kernel.
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat2(&root_fd, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)
    };
    if open(&request.working_directory).is_err() {
        return Err(Failure::invalid(format!(
            "the working directory {:?} is not in the input root",
            request.working_directory.display().to_string()
        )));
    }
    for output in &request.outputs {
        let Some(parent) = output.from_root.parent() else { continue };
        let mut path = PathBuf::new();
        for component in parent {
            let above =
                open(&path).map_err(|error| failed("open", root, &root.join(&path), &error.into()))?;
            path.push(component);
            match rustix::fs::mkdirat(&above, component, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(failed("make", root, &root.join(&path), &error.into())),
            }
            if open(&path).is_err() {
                let problem = format!("{:?}, above an output, is no directory", path.display().to_string());
                return Err(Failure::invalid(problem));
            }
        }
    }
    Ok(())
}

/// What REAPI demands of a `Directory` ("Directory: … canonical form"), as far as it makes it safe and unique:
/// each name one path segment, each list sorted, no name twice.
fn check_names(directory: &Directory) -> Result<(), String> {
    let files: Vec<&str> = directory.files.iter().map(|node| node.name.as_str()).collect();
    let directories: Vec<&str> = directory.directories.iter().map(|node| node.name.as_str()).collect();
    let symlinks: Vec<&str> = directory.symlinks.iter().map(|node| node.name.as_str()).collect();
    for names in [&files, &directories, &symlinks] {
        if let Some(pair) = names.windows(2).find(|pair| pair[0] >= pair[1]) {
            return Err(format!("{:?} comes before {:?}", pair[0], pair[1]));
        }
    }
    let mut all = [files, directories, symlinks].concat();
    if let Some(name) =
        all.iter().find(|name| matches!(**name, "" | "." | "..") || name.contains(['/', '\0']))
    {
        return Err(format!("{name:?} is no file name"));
    }
    all.sort_unstable();
    if let Some(pair) = all.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(format!("{:?} is there twice", pair[0]));
    }
    match directory.symlinks.iter().find(|link| link.target.is_empty() || link.target.contains('\0')) {
        Some(link) => Err(format!("the symlink {:?} has an impossible target", link.name)),
        None => Ok(()),
    }
}

/// `false` when the blob is not in the store.
fn stage_file(sandbox: &Sandbox, digest: &Digest, path: &Path, is_executable: bool) -> Result<bool, Failure> {
    let failed = |error: io::Error| Failure::io(&format!("stage {}", path.display()), &error);
    // See `Sandbox::starting`. The lock guards nothing that a panic could leave half-done.
    let _writing = is_executable.then(|| sandbox.starting.read().unwrap_or_else(PoisonError::into_inner));
    let mut options = OpenOptions::new();
    let mut file = options.read(true).write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    if !sandbox.store().export(digest, &mut file, path)? {
        return Ok(false);
    }
    let mode = if is_executable { 0o755 } else { 0o644 };
    file.set_permissions(Permissions::from_mode(mode)).map_err(failed)?;
    Ok(true)
}

fn failed(operation: &str, root: &Path, path: &Path, error: &io::Error) -> Failure {
    let inside = path.strip_prefix(root).unwrap_or(path);
    Failure::io(&format!("{operation} /{}", inside.display()), error)
}
