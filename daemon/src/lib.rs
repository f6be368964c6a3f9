//! farccd: the daemon behind the `farcc` launcher, and every other command of farcc.
//!
//! The modules stand in reading order, lowest floor first; a module imports only from lower floors.

// Floor 0: values, and what every other module stands on.
pub mod access;
pub mod compression;
pub mod config;
pub mod digest;
pub mod disk;
pub mod files;
pub mod fitted;
pub mod listings;
pub mod owner;
pub mod paths;
pub mod prerequisites;
pub mod process;
pub mod reason;
pub mod relocation;
pub mod stats;
pub mod worker;
// Floor 1: each knows one thing, and none of them the others.
pub mod history;
pub mod linker;
pub mod mirror;
pub mod preprocessor;
pub mod reapi;
pub mod store;
// Floor 2: from a command line to a task.
pub mod compiler;
pub mod contents;
// Floor 3: from a task to an Action.
pub mod action;
// Floor 4: who runs Actions.
pub mod executor;
// Floor 5: the story of a command, and the other end of the protocol.
pub mod dispatch;
pub mod serve;
pub mod twin;
// Floor 6: the ways in.
pub mod cli;
pub mod server;
pub mod status;
