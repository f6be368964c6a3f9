//! Becomes a command for which the paths that the input root repeats are what it has, and all others are the worker's.
//! Knows nothing of what the command is.
//!
//! The new root is a file system in memory. What the input root has at a bound path is mounted there whole, so that a
//! directory of the same name on the worker does not shine through; the directories above hold what the worker has there
//! besides. The old root stays mounted: this is no border that anything is to be kept behind.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs::DirBuilder;
use std::fs::File;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::Component;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use rustix::mount::MountFlags;
use rustix::mount::MountPropagationFlags;
use rustix::thread::UnshareFlags;

use crate::Failure;

/// Variables that name a directory for temporary files.
const TEMPORARY: &[&str] = &["TMPDIR", "TMP", "TEMP"];

/// What a command is to find at its absolute path.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// Paths of the input root, relative to it, none within another one.
    binds: BTreeSet<PathBuf>,
}

/// Why the new root cannot be entered.
enum Refusal {
    /// This process may not mount.
    Namespaces(io::Error),
    /// Something else.
    Other(Failure),
}

impl View {
    /// Adds an absolute path.
    ///
    /// # Errors
    /// When it is the root itself, or not in normal form.
    pub(crate) fn bind(&mut self, path: &OsStr) -> Result<(), Failure> {
        let wrong =
            || format!("bind {}: it is no absolute path in normal form below the root", path.display());
        let below = Path::new(path).strip_prefix("/").map_err(|_| wrong())?;
        let is_normal = below.components().all(|component| matches!(component, Component::Normal(_)));
        if below.as_os_str().is_empty() || !is_normal {
            return Err(wrong());
        }
        if !self.binds.iter().any(|bound| below.starts_with(bound)) {
            self.binds.retain(|bound| !bound.starts_with(below));
            self.binds.insert(below.to_owned());
        }
        Ok(())
    }

    /// Enters a mount namespace in which the view is the root directory. The working directory, which is the input root
    /// before, is another one then.
    ///
    /// # Errors
    /// When that is not permitted here, or a part of the view cannot be had.
    pub(crate) fn enter(&self) -> Result<(), Failure> {
        match self.enter_namespace() {
            Ok(()) => Ok(()),
            Err(Refusal::Namespaces(error)) => Err(format!("enter a mount namespace: {error}")),
            Err(Refusal::Other(failure)) => Err(failure),
        }
    }

    fn enter_namespace(&self) -> Result<(), Refusal> {
        own_mounts().map_err(Refusal::Namespaces)?;
        let change = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", change).map_err(|error| Refusal::Namespaces(error.into()))?;
        let root = std::env::current_dir()
            .map_err(|error| Refusal::Other(format!("find the input root: {error}")))?;
        // It covers the input root for whoever comes by its path; the working directory stays below it.
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        rustix::mount::mount("farcc", &root, "tmpfs", flags, Some(c"mode=0755"))
            .map_err(|error| Refusal::Namespaces(error.into()))?;
        let (over, apart): (Vec<&PathBuf>, Vec<&PathBuf>) =
            self.binds.iter().partition(|bind| is_file_in_both(bind));
        self.fill(&root, Path::new(""), &apart).map_err(Refusal::Other)?;
        rustix::process::chroot(&root)
            .map_err(|error| Refusal::Other(format!("change the root directory: {error}")))?;
        for bind in over {
            let place = Path::new("/").join(bind);
            mount(bind, &place).map_err(Refusal::Other)?;
        }
        Ok(())
    }

    /// Makes what is in the directory `below` of the new root: what is bound there, and what else the worker has.
    fn fill(&self, root: &Path, below: &Path, binds: &[&PathBuf]) -> Result<(), Failure> {
        let mut own = BTreeSet::new();
        for bind in binds {
            if let Ok(rest) = bind.strip_prefix(below)
                && let Some(name) = rest.components().next()
            {
                own.insert(name.as_os_str());
            }
        }
        let there = Path::new("/").join(below);
        for entry in std::fs::read_dir(&there).into_iter().flatten().flatten() {
            if !own.contains(entry.file_name().as_os_str()) {
                let path = entry.path();
                match show(&path, &root.join(below).join(entry.file_name())) {
                    Ok(()) => {}
                    // It has gone, or nobody may look at it: so it is for the command without a view.
                    Err(error)
                        if matches!(
                            error.kind(),
                            io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
                        ) && path.symlink_metadata().is_err() => {}
                    Err(error) => return Err(format!("show {}: {error}", path.display())),
                }
            }
        }
        for name in own {
            let below = below.join(name);
            let place = root.join(&below);
            if self.binds.contains(&below) {
                show(&below, &place)
                    .map_err(|error| format!("show {} of the input root: {error}", below.display()))?;
            } else {
                make_directory(&Path::new("/").join(&below), &place)
                    .map_err(|error| format!("make {}: {error}", below.display()))?;
                self.fill(root, &below, binds)?;
            }
        }
        Ok(())
    }
}

/// Gives this process mounts of its own: by right, or in a user namespace in which it is who it was.
fn own_mounts() -> io::Result<()> {
    if unshare(UnshareFlags::NEWNS).is_ok() {
        return Ok(());
    }
    let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    unshare(UnshareFlags::NEWNS | UnshareFlags::NEWUSER)?;
    // user_namespaces(7): a group may be mapped without privileges only when setgroups(2) was given up. Kernels before
    // 3.19 have no such file.
    match std::fs::write("/proc/self/setgroups", "deny") {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::fs::write("/proc/self/uid_map", format!("{user} {user} 1\n"))?;
    std::fs::write("/proc/self/gid_map", format!("{group} {group} 1\n"))
}

fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: only UnshareFlags::FILES takes descriptors away from other threads; it is never asked for, and this program
    // has one thread.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(io::Error::from)
}

/// Whether `bind` is a file of the input root that the worker has as well: it is mounted over that.
fn is_file_in_both(bind: &Path) -> bool {
    let is_file = |path: &Path| path.symlink_metadata().is_ok_and(|metadata| metadata.is_file());
    is_file(bind) && is_file(&Path::new("/").join(bind))
}

/// Makes `place` what `path` is, with all that is mounted below it.
fn show(path: &Path, place: &Path) -> io::Result<()> {
    let metadata = path.symlink_metadata()?;
    if metadata.is_symlink() {
        return symlink(path.read_link()?, place);
    }
    if metadata.is_dir() {
        std::fs::create_dir(place)?;
    } else {
        File::create(place)?;
    }
    rustix::mount::mount_bind_recursive(path, place).map_err(io::Error::from)
}

fn mount(path: &Path, place: &Path) -> Result<(), Failure> {
    let mounted = rustix::mount::mount_bind_recursive(path, place);
    mounted.map_err(|error| format!("show {} of the input root: {error}", path.display()))
}

/// A directory with the permissions of the worker's.
fn make_directory(like: &Path, place: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o755).create(place)?;
    match std::fs::metadata(like) {
        Ok(metadata) if metadata.is_dir() => {
            let mode = metadata.permissions().mode() & 0o1777;
            std::fs::set_permissions(place, PermissionsExt::from_mode(mode | 0o700))
        }
        _ => Ok(()),
    }
}

/// Becomes `command` in the view, in directory `cwd` of it. Returns only when it cannot, with why.
pub(crate) fn become_command(view: &View, cwd: &OsStr, command: &[OsString]) -> Failure {
    let Some((program, arguments)) = command.split_first() else {
        return "find the command: nothing follows --".to_owned();
    };
    let entered = match view.enter_namespace() {
        Err(Refusal::Namespaces(error)) => match whole_root(program) {
            true => rustix::process::chroot(".").map_err(|second| {
                format!("enter a mount namespace: {error}, nor change the root directory: {second}")
            }),
            false => Err(format!("enter a mount namespace: {error}")),
        },
        Err(Refusal::Other(failure)) => Err(failure),
        Ok(()) => Ok(()),
    };
    if let Err(failure) = entered {
        return failure;
    }
    if let Err(error) = std::env::set_current_dir(cwd) {
        return format!("enter the directory {}: {error}", cwd.display());
    }
    let mut command = Command::new(program);
    command.args(arguments);
    // A worker may name one that lies where the input root has other things.
    for variable in TEMPORARY {
        if std::env::var_os(variable).is_some_and(|directory| !Path::new(&directory).is_dir()) {
            command.env_remove(variable);
        }
    }
    format!("start {}: {}", program.display(), command.exec())
}

/// Whether the input root has all that a command needs, the program first of all, so that it can be the root itself.
fn whole_root(program: &OsStr) -> bool {
    let Ok(program) = Path::new(program).strip_prefix("/") else { return false };
    program.is_file()
}
