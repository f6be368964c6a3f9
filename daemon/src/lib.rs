//! farccd: the daemon behind the `farcc` launcher, and every other command of farcc.
//!
//! The modules stand in reading order, lowest floor first; a module imports only from lower floors.

pub mod digest;
pub mod files;
pub mod paths;
pub mod process;
pub mod prerequisites;
pub mod reapi;
pub mod reason;
pub mod config;
pub mod stats;
pub mod history;
pub mod store;
