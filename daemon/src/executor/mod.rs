//! Runs actions. Knows nothing of the commands that they were made from.

pub mod remote;
pub mod sandbox;
pub mod twin;
