//! farccd: the daemon behind the `farcc` launcher, and every other command of farcc.
//!
//! The modules stand in reading order, lowest floor first; a module imports only from lower floors.

// Floor 0: values, and what every other module stands on.
pub mod compiler;
pub mod digest;
pub mod paths;
pub mod preprocessor;
pub mod process;
pub mod reason;
pub mod config;
pub mod files;
pub mod stats;
pub mod prerequisites;
// Floor 1: each knows one thing, and none of them the others.
pub mod reapi;
pub mod store;
pub mod history;
// Floor 3.
pub mod action;
pub mod executor;
pub mod serve;
