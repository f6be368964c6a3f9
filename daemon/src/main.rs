//! The binary `farccd`: everything but the launcher.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// Hundreds of commands on several threads allocate small things of many lifetimes: the C library's allocator spent half of
/// the daemon's time on that.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    farccd::cli::main()
}
