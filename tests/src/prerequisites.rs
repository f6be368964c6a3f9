//! Sees to it that the programs which tests and demo need are there: by apt-get where that is possible.
//! Knows nothing of what they are used for.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use rustix::fs::FlockOperation;

/// A program, and the package of the Debian family that holds it.
struct Prerequisite {
    program: &'static str,
    package: &'static str,
}

/// What the tests may ask for besides Rust and `g++`.
const PREREQUISITES: &[Prerequisite] = &[
    Prerequisite { program: "bwrap", package: "bubblewrap" },
    Prerequisite { program: "ccache", package: "ccache" },
    Prerequisite { program: "clang", package: "clang" },
    Prerequisite { program: "cmake", package: "cmake" },
    Prerequisite { program: "dpkg-source", package: "dpkg-dev" },
    Prerequisite { program: "g++", package: "g++" },
    Prerequisite { program: "gcc", package: "gcc" },
    Prerequisite { program: "make", package: "make" },
    Prerequisite { program: "mount", package: "mount" },
    Prerequisite { program: "ninja", package: "ninja-build" },
    Prerequisite { program: "setpriv", package: "util-linux" },
    Prerequisite { program: "strace", package: "strace" },
    Prerequisite { program: "unshare", package: "util-linux" },
    // dpkg-source unpacks with these.
    Prerequisite { program: "bzip2", package: "bzip2" },
    Prerequisite { program: "patch", package: "patch" },
    Prerequisite { program: "xz", package: "xz-utils" },
];

/// Where `program` lies on the path of this process.
pub fn find_program(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|file| is_executable(file))
}

fn is_executable(file: &std::path::Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// Makes the programs available, installing their packages where apt-get and the rights for it are there.
///
/// # Panics
/// Naming the packages, when some are missing and cannot be installed.
pub fn require(programs: &[&str]) {
    if missing(programs).is_empty() {
        return;
    }
    // The test binaries run side by side, and only one apt-get can: the others wait here and look again.
    let lock = File::create(std::env::temp_dir().join("farcc-tests-apt.lock")).unwrap();
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).unwrap();
    let packages = missing(programs);
    if packages.is_empty() {
        return;
    }
    let names = packages.join(" ");
    let can_install = find_program("apt-get").is_some() && rustix::process::geteuid().is_root();
    assert!(can_install, "these packages are needed and not installed: {names}");
    crate::say(&format!("installing {names}"));
    // A stale list names versions that the mirror has no longer: refresh first, as a bare container needs anyway.
    apt_get(&["update"]);
    let mut install = vec!["install", "--yes", "--no-install-recommends"];
    install.extend(&packages);
    apt_get(&install);
    let still = missing(programs);
    assert!(
        still.is_empty(),
        "apt-get installed {names}, yet their programs are not found: {}",
        still.join(" ")
    );
}

/// The packages of those `programs` that are not found.
fn missing(programs: &[&str]) -> Vec<&'static str> {
    packages_of(programs, |program| find_program(program).is_none())
}

fn packages_of(programs: &[&str], wanted: impl Fn(&str) -> bool) -> Vec<&'static str> {
    let mut packages: Vec<&str> = programs
        .iter()
        .filter(|program| wanted(program))
        .map(|program| {
            let row = PREREQUISITES.iter().find(|row| row.program == *program);
            row.unwrap_or_else(|| panic!("no package is known for {program}")).package
        })
        .collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

fn apt_get(arguments: &[&str]) {
    let output = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "failed to run apt-get {}: {messages}", arguments.join(" "));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_not_installed() {
        assert!(missing(&["g++"]).is_empty());
        require(&["g++"]);
    }

    #[test]
    fn a_missing_program_names_its_package_once() {
        let packages = packages_of(&["unshare", "setpriv", "ninja", "g++"], |program| program != "g++");
        assert_eq!(packages, ["ninja-build", "util-linux"]);
        assert!(find_program("no-such-program-of-farcc").is_none());
    }
}
