//! Puts a finished action's outputs into the store and lists them.
//! Knows nothing of the command; trusts nothing that it left behind.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::fs::Permissions;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;

use bazel_remote_apis::build::bazel::remote::execution::v2::ActionResult;
use bazel_remote_apis::build::bazel::remote::execution::v2::Directory;
use bazel_remote_apis::build::bazel::remote::execution::v2::DirectoryNode;
use bazel_remote_apis::build::bazel::remote::execution::v2::FileNode;
use bazel_remote_apis::build::bazel::remote::execution::v2::OutputDirectory;
use bazel_remote_apis::build::bazel::remote::execution::v2::OutputFile;
use bazel_remote_apis::build::bazel::remote::execution::v2::OutputSymlink;
use bazel_remote_apis::build::bazel::remote::execution::v2::SymlinkNode;
use bazel_remote_apis::build::bazel::remote::execution::v2::Tree;
use bazel_remote_apis::build::bazel::remote::execution::v2::command::OutputDirectoryFormat;
use prost::Message;
use rustix::fs::FileType;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::ResolveFlags;
use rustix::io::Errno;
use tonic::Code;

use super::Failure;
use super::request::Output;
use super::request::OutputKind;
use super::request::Request;
use super::to_message;
use crate::digest::Digest;
use crate::digest::DigestFunction;
use crate::store::Store;

/// Nested deeper, a tree is a mistake or an attack; each level holds a descriptor while it is read.
const MAX_DEPTH: usize = 100;

/// Lists in `result` those outputs of `request` that are there. Paths are resolved as the command saw them, with
/// `root` as `/`; nothing outside is ever read. Mount points are not the command's.
pub(super) fn outputs(
    store: &Store,
    request: &Request,
    root: &Path,
    mount_points: &BTreeSet<PathBuf>,
    result: &mut ActionResult,
) -> Result<(), Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root_fd = rustix::fs::open(root, flags, Mode::empty())
        .map_err(|error| Failure::io("open the action's root", &error.into()))?;
    let collector = Collector { store, mount_points, function: request.function, format: request.format };
    for output in &request.outputs {
        if !mount_points.contains(&output.from_root) {
            collector.output(&root_fd, output, result)?;
        }
    }
    Ok(())
}

struct Collector<'a> {
    /// Stores under the digest function of the request.
    store: &'a Store,
    mount_points: &'a BTreeSet<PathBuf>,
    function: DigestFunction,
    format: OutputDirectoryFormat,
}

impl Collector<'_> {
    // The deprecated fields are what clients before REAPI 2.1 read.
    #[allow(deprecated)]
    fn output(&self, root: &OwnedFd, output: &Output, result: &mut ActionResult) -> Result<(), Failure> {
        let failed = |error: Errno| Failure::io(&format!("open the output {}", output.path), &error.into());
        // An empty path is none to the kernel.
        let is_root = output.from_root.as_os_str().is_empty();
        let path = if is_root { Path::new(".") } else { &output.from_root };
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = match rustix::fs::openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
            Ok(found) => found,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG) => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        let status = rustix::fs::fstat(&found).map_err(failed)?;
        let path = output.path.clone();
        match (FileType::from_raw_mode(status.st_mode), output.kind) {
            (FileType::RegularFile, OutputKind::Path | OutputKind::File) => {
                let (digest, is_executable) = self.file(&found, &output.path)?;
                let digest = Some(to_message(&digest));
                let file = OutputFile { path, digest, is_executable, ..OutputFile::default() };
                result.output_files.push(file);
            }
            (FileType::Directory, OutputKind::Path | OutputKind::Directory) => {
                result.output_directories.push(self.directory(&found, output)?);
            }
            (FileType::Symlink, kind) => {
                let target = target_of(&found, &output.path)?;
                let link = OutputSymlink { path, target, ..OutputSymlink::default() };
                let list = match kind {
                    OutputKind::Path => &mut result.output_symlinks,
                    OutputKind::File => &mut result.output_file_symlinks,
                    OutputKind::Directory => &mut result.output_directory_symlinks,
                };
                list.push(link);
            }
            // Pipes, sockets and what is not of the declared kind cannot be named in a result.
            _ => {}
        }
        Ok(())
    }

    /// Stores a regular file that was found without being opened. Its mode may forbid its owner to read it.
    fn file(&self, found: &OwnedFd, name: &str) -> Result<(Digest, bool), Failure> {
        let failed = |error: io::Error| Failure::io(&format!("read the output {name}"), &error);
        // The one way to open what a descriptor found, and nothing else.
        let path = PathBuf::from(format!("/proc/self/fd/{}", found.as_raw_fd()));
        let status = rustix::fs::fstat(found).map_err(|error| failed(error.into()))?;
        if status.st_mode & 0o400 == 0 {
            let readable = Permissions::from_mode(status.st_mode & 0o7777 | 0o400);
            std::fs::set_permissions(&path, readable).map_err(failed)?;
        }
        let file = File::open(&path).map_err(failed)?;
        let digest = self.store.put_open_file(&file, Path::new(name))?;
        Ok((digest, status.st_mode & 0o100 != 0))
    }

    fn directory(&self, found: &OwnedFd, output: &Output) -> Result<OutputDirectory, Failure> {
        let mut children = Children::default();
        let root = self.walk(found, &output.from_root, 0, &mut children)?;
        let mut directory = OutputDirectory { path: output.path.clone(), ..OutputDirectory::default() };
        if self.format != OutputDirectoryFormat::TreeOnly {
            for child in &children.directories {
                self.store.put(&child.encode_to_vec())?;
            }
            directory.root_directory_digest = Some(to_message(&self.store.put(&root.encode_to_vec())?));
        }
        if self.format != OutputDirectoryFormat::DirectoryOnly {
            let tree = Tree { root: Some(root), children: children.directories };
            directory.tree_digest = Some(to_message(&self.store.put(&tree.encode_to_vec())?));
        }
        Ok(directory)
    }

    /// The message for the directory `found` at `path` (from the root); those below it are added to `children`.
    fn walk(
        &self,
        found: &OwnedFd,
        path: &Path,
        depth: usize,
        children: &mut Children,
    ) -> Result<Directory, Failure> {
        let failed =
            |error: Errno| Failure::io(&format!("read the output {}", path.display()), &error.into());
        if depth > MAX_DEPTH {
            let problem = format!("an output directory is nested deeper than {MAX_DEPTH}");
            return Err(Failure::new(Code::FailedPrecondition, problem));
        }
        let mut message = Directory::default();
        for name in names_in(found).map_err(failed)? {
            let child_path = path.join(OsStr::from_bytes(&name));
            if self.mount_points.contains(&child_path) {
                continue;
            }
            let Ok(name) = String::from_utf8(name) else {
                let problem = format!("the output {} has no UTF-8 name", child_path.display());
                return Err(Failure::new(Code::FailedPrecondition, problem));
            };
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let child = rustix::fs::openat(found, name.as_str(), flags, Mode::empty()).map_err(failed)?;
            let status = rustix::fs::fstat(&child).map_err(failed)?;
            match FileType::from_raw_mode(status.st_mode) {
                FileType::RegularFile => {
                    let (digest, is_executable) = self.file(&child, &name)?;
                    let digest = Some(to_message(&digest));
                    message.files.push(FileNode { name, digest, is_executable, ..FileNode::default() });
                }
                FileType::Directory => {
                    let directory = self.walk(&child, &child_path, depth + 1, children)?;
                    let digest = self.function.digest(&directory.encode_to_vec());
                    children.add(digest, directory);
                    message.directories.push(DirectoryNode { name, digest: Some(to_message(&digest)) });
                }
                FileType::Symlink => {
                    let target = target_of(&child, &name)?;
                    message.symlinks.push(SymlinkNode { name, target, ..SymlinkNode::default() });
                }
                _ => {}
            }
        }
        Ok(message)
    }
}

/// The directories below an output directory, each once (REAPI, `Tree.children`).
#[derive(Default)]
struct Children {
    seen: BTreeSet<Digest>,
    directories: Vec<Directory>,
}

impl Children {
    fn add(&mut self, digest: Digest, directory: Directory) {
        if self.seen.insert(digest) {
            self.directories.push(directory);
        }
    }
}

/// The names in a directory that was found without being opened, sorted by bytes as REAPI wants them.
fn names_in(found: &OwnedFd) -> Result<Vec<Vec<u8>>, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let status = rustix::fs::fstat(found)?;
    if status.st_mode & 0o500 != 0o500 {
        let path = format!("/proc/self/fd/{}", found.as_raw_fd());
        rustix::fs::chmod(path, Mode::from_raw_mode(status.st_mode & 0o7777 | 0o700))?;
    }
    let directory = rustix::fs::openat(found, ".", flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory.as_fd())? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn target_of(link: &OwnedFd, name: &str) -> Result<String, Failure> {
    // An empty path means the symlink itself (readlinkat(2)).
    let target = rustix::fs::readlinkat(link, "", Vec::new())
        .map_err(|error| Failure::io(&format!("read the output symlink {name}"), &error.into()))?;
    target.into_string().map_err(|_| {
        Failure::new(
            Code::FailedPrecondition,
            format!("the target of the output symlink {name} is not UTF-8"),
        )
    })
}
