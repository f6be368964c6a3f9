//! The harness of farcc's tests: scratch spaces, a cluster that cannot see the client's files, real projects.
//!
//! The modules stand in reading order.

// A test that cannot be set up has failed: the harness says why and panics, as its callers' asserts do.
#![allow(clippy::unwrap_used, clippy::panic)]

pub mod binaries;
pub mod certificates;
pub mod cluster;
pub mod command_case;
pub mod compare;
pub mod corpus;
pub mod debian;
pub mod execve_trace;
pub mod fake_reapi;
pub mod fake_twin;
pub mod generators;
pub mod hostile;
pub mod namespace;
pub mod open_trace;
pub mod oracle;
pub mod plain_build;
pub mod plain_worker;
pub mod preprocessor_program;
pub mod prerequisites;
pub mod project;
pub mod proxy;
pub mod s3_server;
pub mod serve_process;
pub mod space;
pub mod timing;
pub mod trial;
pub mod twin_place;

use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

/// Writes a line that is seen although `cargo test` hides what passing tests print: a skip, a row of a table.
pub fn say(line: &str) {
    // One write, so that the lines of tests that run side by side do not mix. A closed stderr is no failure.
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Says visibly that a test, or a part of it, was not run, and why.
pub fn skipped(what: &str, why: &str) {
    say(&format!("SKIPPED: {what}: {why}"));
}

/// Copies a program that is to be run. Another process writes it: what a test process has open for writing, the children that its
/// other threads start meanwhile have open as well, and nobody can run it then (execve(2), `ETXTBSY`).
///
/// # Panics
/// When that fails.
pub fn copy_program(from: &Path, to: &Path) {
    let copied = Command::new("cp").args([from, to]).status().unwrap();
    assert!(copied.success(), "failed to copy {} to {}", from.display(), to.display());
}

/// Where the tests keep what is fetched or built once: `$XDG_CACHE_HOME/farcc-tests`, or the same below `~/.cache`.
fn cache_directory() -> PathBuf {
    let home = || std::env::home_dir().unwrap_or_else(std::env::temp_dir).join(".cache");
    let set = std::env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty());
    set.map_or_else(home, PathBuf::from).join("farcc-tests")
}

/// Whether the slow tier was asked for: `FARCC_TESTS=full`.
pub fn full_tier() -> bool {
    std::env::var_os("FARCC_TESTS").is_some_and(|tier| tier == "full")
}
