//! farcc: the launcher that stands in front of a compiler, and what it shares with the daemon.
//!
//! A build starts the launcher once for every command, so it links nothing but the C library's calls, has one
//! thread, and does no work that the daemon can do. The modules stand in reading order, lowest floor first.
//!
//! For the daemon: [`wire`] has the frames and the promises about time, [`places`] the socket and the locks,
//! [`slots`] the limit of local work; [`recipe`] the programs that are
//! not worth a question; [`spawn`] and [`link`] are for its own commands, such as `farccd stop`.

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
compile_error!(
    "farcc runs on Linux, x86-64 and arm64: it uses this kernel's process and file system interfaces"
);

pub mod wire;

pub mod memo;
pub mod signals;

pub mod process;

mod directories;

pub mod places;

pub mod link;
pub mod recall;
pub mod recipe;
pub mod search;
pub mod slots;

pub mod capture;
#[cfg(target_arch = "x86_64")]
pub mod interpreter;
pub mod launch;
pub mod quick;
mod shell;
pub mod spawn;
pub mod stream;
