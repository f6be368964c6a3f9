//! What a command, and nobody else, has changed in a mirror of a workspace: the ground on which the machine for other commands
//! is to stand. Nothing serves it yet.
//! Knows nothing of compilers, nor of who runs the command.
//!
//! # How changes are told apart
//! A command sees the mirror through an overlay file system of its own (the kernel's overlayfs): what its processes
//! write, delete and rename, by whatever call, lies in the overlay's upper directory, and nothing else does. So no event can be
//! missed or charged to a neighbour, files half-written by others are never seen, and to drop the changes of an aborted command
//! is to remove a directory, even after a crash. Overlays are mounted over the live mirror; one that is still mounted when
//! another command's changes are put into the mirror has to be told to forget the names that it has cached.

mod overlay;
mod upper;

pub use overlay::Overlay;
pub use upper::UpperEntry;
pub use upper::UpperNode;
