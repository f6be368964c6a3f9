//! The programs that tests need, installed where that is possible.
//! Knows nothing of what they are used for.

use std::ffi::OsString;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

fn environment() -> Vec<(OsString, OsString)> {
    std::env::vars_os().collect()
}

/// Where `program` lies on the path of this process.
pub fn find_program(program: &str) -> Option<PathBuf> {
    farccd::prerequisites::find_program(program, &environment())
}

/// Makes the programs available, installing their packages where apt-get and the rights for it are there.
///
/// # Panics
/// Naming the packages, when some are missing and cannot be installed.
pub fn require(programs: &[&str]) {
    require_in(programs, &environment());
}

/// The same for compilers proper, which `gcc` finds where its own for C lies: `cc1obj`.
///
/// # Panics
/// As [`require`].
pub fn require_of_gcc(programs: &[&str]) {
    require(&["gcc"]);
    let asked = Command::new("gcc").arg("-print-prog-name=cc1").output().unwrap();
    let own = PathBuf::from(String::from_utf8(asked.stdout).unwrap().trim());
    let mut environment = environment();
    for (_, path) in environment.iter_mut().filter(|(name, _)| name == "PATH") {
        let directories = std::env::split_paths(path).chain(own.parent().map(Path::to_owned));
        *path = std::env::join_paths(directories).unwrap();
    }
    require_in(programs, &environment);
}

/// The same for what Clang links programs with that are instrumented: sanitizers, counters of profiles.
///
/// # Panics
/// As [`require`].
pub fn require_runtime_of_clang() {
    require(&["clang"]);
    let asked = Command::new("clang").arg("-print-resource-dir").output().unwrap();
    let directory = PathBuf::from(String::from_utf8(asked.stdout).unwrap().trim());
    // `…/lib/clang/14.0.6`
    let version = directory.file_name().unwrap().to_str().unwrap();
    let major = version.split('.').next().unwrap();
    let (file, package) = (directory.join("lib/linux"), format!("libclang-rt-{major}-dev"));
    let environment = environment();
    let required = farccd::prerequisites::require_file(&file, &package, &environment, crate::say);
    wait_for(required);
}

fn require_in(programs: &[&str], environment: &[(OsString, OsString)]) {
    let required = farccd::prerequisites::require(programs, environment, crate::say);
    wait_for(required);
}

fn wait_for(required: impl Future<Output = anyhow::Result<()>>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(required).unwrap_or_else(|error| panic!("failed to {error:#}"));
}
