//! The machine on which other commands run: keeps mirrors of workspaces, runs commands in them and tells what each of them,
//! and nobody else, has changed.
//! Knows nothing of compilers.
//!
//! # How changes are told apart
//! Each command sees the mirror through an overlay file system of its own (the kernel's overlayfs): what its processes
//! write, delete and rename, by whatever call, lies in the overlay's upper directory, and nothing else does. So no event can be
//! missed or charged to a neighbour, files half-written by others are never seen, and to drop the changes of an aborted command
//! is to remove a directory, even after a crash. Overlays are mounted over the live mirror; those that are still mounted when
//! another command's changes are put into the mirror are told to forget the names that they have cached.

mod overlay;
mod upper;

pub use overlay::Overlay;
pub use upper::UpperEntry;
pub use upper::UpperNode;
