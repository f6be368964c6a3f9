//! From an invocation to a task: what a command asks for, which compiler does it, what it would read.
//! Knows nothing of clusters, stores or the daemon's connections.
//!
//! In reading order: [`Invocation`], wrapper scripts expanded by [`resolve`] → [`CommandLine`] (response files expanded, every flag looked up in
//! `flag_table`) → [`Task`] by [`classify`] → for a [`Compile`], the [`Toolchain`] behind its driver, found by
//! [`Toolchains`], and with both the [`TranslationUnit`](crate::preprocessor::TranslationUnit) for the scanner.

mod appended_rules;
mod archive;
mod archivers;
mod command_line;
mod compile;
pub mod depfile;
mod driver_name;
mod flag_table;
mod further_flags;
mod invocation;
mod link;
mod linkers;
mod outputs;
mod probe;
mod programs;
mod questions;
mod recollections;
mod relative;
mod relocated;
mod renamed;
mod response_file;
mod search_path;
mod shape;
mod shell_words;
mod sources;
mod task;
mod toolchain;
mod toolchains;
mod tools;
mod wrapper_script;

pub use appended_rules::AppendedRules;
pub use archive::Archive;
pub use archivers::Archiver;
pub use archivers::Archivers;
pub use command_line::CommandLine;
pub use compile::Audit;
pub use compile::Compile;
pub use driver_name::is_driver;
pub use invocation::Invocation;
pub use link::Link;
pub use linkers::Linker;
pub use linkers::Linkers;
pub use outputs::ExpectedOutput;
pub use outputs::OutputKind;
pub use outputs::Placement;
pub use relative::by_link;
pub use sources::Product;
pub use sources::Source;
pub use task::Task;
pub use task::classify;
pub use toolchain::Toolchain;
pub use toolchains::Toolchains;
pub use tools::Tools;
pub use wrapper_script::resolve;

#[cfg(test)]
pub(crate) use invocation::tests::invocation;
