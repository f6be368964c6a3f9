//! The harness of farcc's tests: scratch spaces, a cluster that cannot see the client's files, real projects.
//!
//! The modules stand in reading order.

// A test that cannot be set up has failed: the harness says why and panics, as its callers' asserts do.
#![allow(clippy::unwrap_used, clippy::panic)]

pub mod binaries;
pub mod command_case;
pub mod compare;
pub mod corpus;
pub mod debian;
pub mod execve_trace;
pub mod fake_reapi;
pub mod hostile;
pub mod oracle;
pub mod plain_build;
pub mod preprocessor_program;
pub mod prerequisites;
pub mod project;
pub mod serve_process;
pub mod space;

use std::io::Write;

/// Writes a line that is seen although `cargo test` hides what passing tests print: a skip, a row of a table.
pub fn say(line: &str) {
    // One write, so that the lines of tests that run side by side do not mix. A closed stderr is no failure.
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Says visibly that a test, or a part of it, was not run, and why.
pub fn skipped(what: &str, why: &str) {
    say(&format!("SKIPPED: {what}: {why}"));
}

/// Whether the slow tier was asked for: `FARCC_TESTS=full`.
pub fn full_tier() -> bool {
    std::env::var_os("FARCC_TESTS").is_some_and(|tier| tier == "full")
}
