//! Sees to it that the programs which demo and tests need are there: by apt-get where that is possible.
//! Knows nothing of what they are used for.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use anyhow::bail;
use rustix::fs::FlockOperation;

use crate::process::Program;
use crate::process::env_value;

/// A package may come over a slow line.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// Programs by the package of the Debian family that holds them.
const PACKAGES: &[(&str, &str)] = &[
    ("bazel", "bazel-bootstrap"),
    ("bison", "bison"),
    ("bwrap", "bubblewrap"),
    ("cc1obj", "gobjc"),
    ("ccache", "ccache"),
    ("clang", "clang"),
    ("clang-scan-deps-14", "clang-tools-14"),
    ("cmake", "cmake"),
    ("curl", "curl"),
    ("dpkg-source", "dpkg-dev"),
    ("dwp", "binutils"),
    ("faketime", "faketime"),
    ("flex", "flex"),
    ("g++", "g++"),
    ("gcc", "gcc"),
    ("gdb", "gdb"),
    ("ld.lld", "lld"),
    ("llvm-ar", "llvm"),
    ("llvm-dwp", "llvm"),
    ("llvm-strip", "llvm"),
    ("make", "make"),
    ("mkfifo", "coreutils"),
    ("mkfs.xfs", "xfsprogs"),
    ("mold", "mold"),
    ("mount", "mount"),
    ("ninja", "ninja-build"),
    ("python3", "python3"),
    ("rsync", "rsync"),
    ("script", "bsdutils"),
    ("setpriv", "util-linux"),
    ("strace", "strace"),
    ("stty", "coreutils"),
    ("unshare", "util-linux"),
    // dpkg-source unpacks with these.
    ("bzip2", "bzip2"),
    ("patch", "patch"),
    ("xz", "xz-utils"),
];

/// Where `program` lies on the PATH of `env`.
pub fn find_program(program: &str, env: &[(OsString, OsString)]) -> Option<PathBuf> {
    let path = env_value(env, "PATH")?;
    std::env::split_paths(path).map(|directory| directory.join(program)).find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// Makes `programs` available, installing their packages where apt-get is and this is root. `say` is told what
/// is installed.
///
/// # Errors
/// Naming the packages, when some are missing and cannot be installed.
pub async fn require(
    programs: &[&str],
    env: &[(OsString, OsString)],
    say: impl Fn(&str),
) -> anyhow::Result<()> {
    require_packages(&|| missing(programs, env), env, say).await
}

/// Makes `file` available, which is in `package`, in the same way.
///
/// # Errors
/// Naming the package, when the file is missing and cannot be installed.
pub async fn require_file(
    file: &Path,
    package: &str,
    env: &[(OsString, OsString)],
    say: impl Fn(&str),
) -> anyhow::Result<()> {
    let missing = || if file.exists() { Vec::new() } else { vec![package] };
    require_packages(&missing, env, say).await
}

/// Installs the packages that are `missing`, until none is.
async fn require_packages<'a>(
    missing: &(dyn Fn() -> Vec<&'a str> + Sync),
    env: &[(OsString, OsString)],
    say: impl Fn(&str),
) -> anyhow::Result<()> {
    if missing().is_empty() {
        return Ok(());
    }
    // Test binaries run side by side, and only one apt-get can: the others wait here and look again.
    let lock_path = std::env::temp_dir().join("farcc-apt.lock");
    let lock = tokio::task::spawn_blocking(move || -> std::io::Result<File> {
        let lock = File::create(&lock_path)?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
        Ok(lock)
    });
    let _lock = lock.await?.context("lock the installation of packages")?;
    let packages = missing();
    if packages.is_empty() {
        return Ok(());
    }
    let names = packages.join(" ");
    let apt_get = find_program("apt-get", env).filter(|_| rustix::process::geteuid().is_root());
    let Some(apt_get) = apt_get else {
        bail!("find programs that are needed: install these packages: {names}");
    };
    say(&format!("installing {names}"));
    // A stale list names versions that the mirror has no longer: refresh first, as a bare container needs anyway.
    run(&apt_get, &["update"], env).await?;
    let mut install = vec!["install", "--yes", "--no-install-recommends"];
    install.extend(&packages);
    run(&apt_get, &install, env).await?;
    match missing() {
        still if still.is_empty() => Ok(()),
        still => bail!("find what is needed of {} although apt-get installed them", still.join(" ")),
    }
}

/// The packages of those `programs` that are not found; the program's own name where no package is known.
fn missing<'a>(programs: &[&'a str], env: &[(OsString, OsString)]) -> Vec<&'a str> {
    let package_of = |program: &'a str| {
        PACKAGES.iter().find(|(name, _)| *name == program).map_or(program, |(_, package)| *package)
    };
    let not_found = programs.iter().filter(|program| find_program(program, env).is_none());
    let mut packages: Vec<_> = not_found.map(|program| package_of(program)).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

async fn run(apt_get: &Path, arguments: &[&str], env: &[(OsString, OsString)]) -> anyhow::Result<()> {
    let mut env = env.to_vec();
    env.push(("DEBIAN_FRONTEND".into(), "noninteractive".into()));
    let args = arguments.iter().map(OsString::from).collect();
    let program = Program { path: apt_get, args, env, cwd: Path::new("/") };
    let words = format!("run apt-get {}", arguments.join(" "));
    let output = program.output(INSTALL_TIMEOUT).await.with_context(|| words.clone())?;
    if !output.status.success() {
        bail!("{words}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Once;

    use super::*;

    /// The compilers that unit tests compare with, in the directory where they look for them.
    pub(crate) fn require_compilers() {
        static REQUIRED: Once = Once::new();
        REQUIRED.call_once(|| {
            let env = [("PATH".into(), "/usr/bin:/bin:/usr/sbin:/sbin".into())];
            // Its own thread: the test may run in a runtime already.
            let required = std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(require(&["gcc", "g++", "clang"], &env, |line| println!("{line}"))).unwrap();
            });
            required.join().unwrap();
        });
    }

    #[test]
    fn a_missing_program_names_its_package_once() {
        let directory = tempfile::tempdir().unwrap();
        let env = [("PATH".into(), directory.path().into())];
        assert_eq!(missing(&["unshare", "setpriv", "ninja"], &env), ["ninja-build", "util-linux"]);
        assert_eq!(missing(&["no-such-program"], &env), ["no-such-program"]);
        std::fs::write(directory.path().join("ninja"), "").unwrap();
        assert_eq!(missing(&["ninja"], &env), ["ninja-build"], "it is not executable");
    }
}
