//! A directory tree that two machines keep equal: what has changed in it since it was last looked at, and how such changes
//! are put into place on the other side.
//! Knows nothing of networks, nor of commands.
//!
//! The modules stand in reading order.

mod change;
mod tree_path;

mod known_file;
mod links;
mod rules;
mod snapshot;

mod look;
mod read;

mod watch;
mod writers;

mod install;
mod place;
mod put;
mod stamps;

mod messages;

pub use change::Change;
pub use change::Node;
pub use change::RootedChange;
pub use install::Contents;
pub use install::InstallError;
pub use install::Manner;
pub use install::install;
pub use known_file::KnownFile;
pub use links::leads_inside;
pub use look::LookError;
pub use look::Looked;
pub use messages::InvalidChange;
pub use messages::MOST_CHANGES;
pub use messages::decode;
pub use messages::decode_digest;
pub use messages::encode;
pub use messages::encode_digest;
pub use rules::IgnoreRules;
pub use rules::Patterns;
pub use rules::RULES_FILE;
pub use snapshot::Snapshot;
pub use snapshot::Unsent;
pub use snapshot::WhyUnsent;
pub use tree_path::InvalidPath;
pub use tree_path::TreePath;

#[cfg(test)]
mod tests;
