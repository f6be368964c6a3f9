//! What of this machine an action sees, as bubblewrap's arguments.
//! Knows nothing of the action but its staged root.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;

use tonic::Code;

use super::Failure;

/// What actions see of this machine, read-only, where it exists: the toolchain, its libraries and headers, and
/// how its programs and libraries are found.
pub const SYSTEM_ENTRIES: &[&str] = &[
    "usr",
    "bin",
    "sbin",
    "lib",
    "lib32",
    "lib64",
    "libx32",
    "etc/alternatives",
    "etc/ld.so.cache",
    "etc/ld.so.conf",
    "etc/ld.so.conf.d",
];

/// The devices of a `dev` directory that the input root brings itself.
const DEVICES: &[&str] = &["null", "zero", "full", "random", "urandom", "tty"];

/// Bubblewrap looks at all earlier mounts for each one: more would take seconds.
const MAX_MOUNTS: usize = 2000;

pub(super) struct Mounts {
    pub(super) arguments: Vec<OsString>,
    /// Where mounts lie, from the root. Their mount points stay behind in the root, and are no outputs.
    pub(super) points: BTreeSet<PathBuf>,
}

/// Plans the mounts over a staged root.
pub(super) fn plan(root: &Path) -> Result<Mounts, Failure> {
    let mut mounts = Mounts { arguments: Vec::new(), points: BTreeSet::new() };
    for entry in SYSTEM_ENTRIES {
        mounts.system(root, Path::new(entry))?;
    }
    match in_root(root, Path::new("dev"))? {
        InRoot::Absent => mounts.add(Path::new("dev"), &["--dev"], None),
        InRoot::Directory => {
            for device in DEVICES {
                let path = Path::new("dev").join(device);
                if in_root(root, &path)? == InRoot::Absent {
                    mounts.add(&path, &["--dev-bind"], Some(&Path::new("/").join(&path)));
                }
            }
        }
        InRoot::Other => {}
    }
    if in_root(root, Path::new("proc"))? == InRoot::Absent {
        mounts.add(Path::new("proc"), &["--proc"], None);
    }
    Ok(mounts)
}

#[derive(PartialEq, Eq)]
enum InRoot {
    Absent,
    Directory,
    /// A file, a symlink, or something below one: the input root's entry stands.
    Other,
}

fn in_root(root: &Path, path: &Path) -> Result<InRoot, Failure> {
    let mut place = root.to_owned();
    for component in path {
        place.push(component);
        match place.symlink_metadata() {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Ok(InRoot::Other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(InRoot::Absent),
            Err(error) => return Err(Failure::io(&format!("look at {}", place.display()), &error)),
        }
    }
    Ok(InRoot::Directory)
}

impl Mounts {
    fn add(&mut self, path: &Path, options: &[&str], source: Option<&Path>) {
        self.arguments.extend(options.iter().map(OsString::from));
        self.arguments.extend(source.map(|source| source.as_os_str().to_owned()));
        self.arguments.push(Path::new("/").join(path).into_os_string());
        self.points.insert(path.to_owned());
    }

    /// Shows this machine's `/path` at `path`. Where both have a directory, what only this machine has is shown
    /// in the other: many projects have a `lib` or `bin` of their own at the top of their input root.
    fn system(&mut self, root: &Path, path: &Path) -> Result<(), Failure> {
        let host = Path::new("/").join(path);
        let Ok(metadata) = host.symlink_metadata() else { return Ok(()) };
        match in_root(root, path)? {
            InRoot::Other => return Ok(()),
            InRoot::Directory => {}
            InRoot::Absent => {
                if self.points.len() >= MAX_MOUNTS {
                    let problem =
                        "the input root overlaps this machine's system directories in too many places";
                    return Err(Failure::new(Code::FailedPrecondition, problem.to_owned()));
                }
                if !metadata.is_symlink() {
                    self.add(path, &["--ro-bind"], Some(&host));
                } else if let Ok(target) = host.read_link() {
                    // On merged-/usr systems `/bin` is a symlink, and programs may look at that.
                    self.add(path, &["--symlink"], Some(&target));
                }
                return Ok(());
            }
        }
        if !host.is_dir() {
            return Ok(());
        }
        let failed = |error: io::Error| Failure::io(&format!("list {}", host.display()), &error);
        for entry in std::fs::read_dir(&host).map_err(failed)? {
            self.system(root, &path.join(entry.map_err(failed)?.file_name()))?;
        }
        Ok(())
    }
}

/// Makes `/tmp` a directory that everyone may write to, unless the input root decides otherwise.
pub(super) fn make_tmp(root: &Path) -> Result<(), Failure> {
    let tmp = root.join("tmp");
    let failed = |error: io::Error| Failure::io("make /tmp", &error);
    match in_root(root, Path::new("tmp"))? {
        InRoot::Absent => std::fs::create_dir(&tmp).map_err(failed)?,
        InRoot::Directory => {}
        InRoot::Other => return Ok(()),
    }
    std::fs::set_permissions(&tmp, std::fs::Permissions::from_mode(0o1777)).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_input_root_stands_and_the_rest_is_merged() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("usr/bin")).unwrap();
        std::fs::write(root.path().join("usr/bin/env"), "mine").unwrap();
        std::fs::create_dir(root.path().join("dev")).unwrap();
        std::os::unix::fs::symlink("elsewhere", root.path().join("etc")).unwrap();
        let points = plan(root.path()).unwrap().points;
        let has = |path: &str| points.contains(Path::new(path));
        assert!(has("usr/lib") && has("usr/include"), "{points:?}");
        assert!(has("usr/bin/sh") || has("usr/bin/gcc"), "{points:?}");
        assert!(!has("usr") && !has("usr/bin") && !has("usr/bin/env"));
        assert!(has("dev/null") && !has("dev"));
        assert!(!points.iter().any(|point| point.starts_with("etc")), "nothing is mounted through a symlink");
        assert!(has("proc"));
    }

    #[test]
    fn an_empty_root_gets_whole_directories() {
        let root = tempfile::tempdir().unwrap();
        let points = plan(root.path()).unwrap().points;
        for point in ["usr", "bin", "lib", "dev", "proc"] {
            assert!(points.contains(Path::new(point)), "{point}");
        }
    }
}
