//! The programs that tests need, installed where that is possible.
//! Knows nothing of what they are used for.

use std::ffi::OsString;
use std::path::PathBuf;

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
    let environment = environment();
    let required = farccd::prerequisites::require(programs, &environment, crate::say);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(required).unwrap_or_else(|error| panic!("failed to {error:#}"));
}
