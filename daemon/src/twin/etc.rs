//! What commands on the twin see as `/etc`: what programs of the image look for there, and no secrets.
//! Knows nothing of cells, but that each of them has the same.
//!
//! It is put together once, out of mounts in this process's own mount namespace: a cell takes it as one, where each of its entries
//! would cost as much (a third of a millisecond). What the machine changes in it shows at once, but for names that were not there.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;

use rustix::io::Errno;
use rustix::mount::MountFlags;

use crate::executor::sandbox::SYSTEM_ENTRIES;

/// What programs of the image look for in `/etc`, and what is there for everybody to read; never what holds secrets.
const ETC: &[&str] = &[
    "bash.bashrc",
    "ca-certificates",
    "debian_version",
    "default/locale",
    "fonts",
    "gss/mech.d",
    "hosts",
    "inputrc",
    "java-",
    "ld.so.preload",
    "locale.alias",
    "locale.conf",
    "localtime",
    "lsb-release",
    "machine-id",
    "magic",
    "magic.mime",
    "mime.types",
    "nsswitch.conf",
    "os-release",
    "papersize",
    "perl",
    "pki/tls/certs",
    "protocols",
    "python",
    "services",
    "sgml",
    "ssl/certs",
    "ssl/openssl.cnf",
    "terminfo",
    "texmf",
    "timezone",
    "xdg",
    "xml",
];

/// What is mounted over in a cell, and so has to be there.
const REPLACED: &[&str] = &["passwd", "group", "resolv.conf"];

/// Makes the directory `at`, and mounts there what commands are to see. This process has mounts of its own; they end with it.
///
/// # Errors
/// When `at` cannot be made, or nothing be mounted there.
pub(super) fn prepare(at: &Path) -> io::Result<()> {
    fs::create_dir_all(at)?;
    // On no disk, so that nothing is ever left there that somebody could take for his to remove.
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("tmpfs", at, "tmpfs", flags, Some(c"mode=755,size=1m"))?;
    for name in REPLACED {
        fs::write(at.join(name), "")?;
    }
    let mut shown: Vec<PathBuf> = Vec::new();
    for entry in entries() {
        // What is in a directory that is shown is shown with it.
        if shown.iter().any(|directory| entry.starts_with(directory)) {
            continue;
        }
        match show(&Path::new("/etc").join(&entry), &at.join(&entry)) {
            Ok(()) => shown.push(entry),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(io::Error::new(error.kind(), format!("/etc/{}: {error}", entry.display())));
            }
        }
    }
    Ok(())
}

/// The entries that commands see, relative to `/etc`, directories before what is in them. A word of [`ETC`] stands for all names that
/// begin so and go on with a version, too.
fn entries() -> Vec<PathBuf> {
    let system = SYSTEM_ENTRIES.iter().filter_map(|entry| entry.strip_prefix("etc/"));
    let mut found: Vec<PathBuf> = system.chain(ETC.iter().copied()).map(PathBuf::from).collect();
    for entry in fs::read_dir("/etc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let is_version = |rest: &str| rest.starts_with(|letter: char| letter.is_ascii_digit());
        if ETC.iter().any(|known| name.strip_prefix(known).is_some_and(is_version)) {
            found.push(name.into());
        }
    }
    found.sort();
    found.dedup();
    found
}

/// Shows what is at `path`, read-only, at `at`.
fn show(path: &Path, at: &Path) -> io::Result<()> {
    let metadata = path.symlink_metadata()?;
    if let Some(directory) = at.parent() {
        fs::create_dir_all(directory)?;
    }
    if metadata.is_symlink() {
        return symlink(fs::read_link(path)?, at);
    }
    if metadata.is_dir() {
        fs::create_dir_all(at)?;
    } else {
        fs::write(at, "")?;
    }
    rustix::mount::mount_bind_recursive(path, at)?;
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    match rustix::mount::mount_remount(at, flags, c"") {
        // Some flags of the machine's mounts an ordinary user must not take away (mount_namespaces(7)); then each cell sees to it.
        Ok(()) | Err(Errno::PERM) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_among_the_entries() {
        let entries = entries();
        for secret in ["shadow", "gshadow", "ssh", "sudoers", "passwd", "group", "ssl/private", "hostname"] {
            assert!(
                !entries.iter().any(|entry| Path::new(secret).starts_with(entry)),
                "{secret}: {entries:?}"
            );
        }
        assert!(entries.contains(&PathBuf::from("nsswitch.conf")));
        assert!(entries.is_sorted());
    }
}
