//! The binary `farccd`: everything but the launcher.

use std::process::ExitCode;

fn main() -> ExitCode {
    farccd::cli::main()
}
