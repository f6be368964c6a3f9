//! Content of files on its way between a workstation and its twin.
//! Knows nothing of who wants it.

mod from_store;
mod pieces;

pub use from_store::FromStore;
pub use pieces::PieceError;
pub use pieces::Pieces;
pub use pieces::Receiver;
