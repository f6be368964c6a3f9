//! The checkout from which an action comes that names none (`[exec] paths = "shared"`): the texts of its result with the
//! names of this machine, and back.
//! Knows nothing of stores, nor of who ran the command.

use std::sync::Arc;

use crate::compiler::depfile;
use crate::relocation::Relocation;

/// A checkout.
#[derive(Debug, Clone)]
pub struct Checkout {
    /// Its directories.
    pub relocation: Arc<Relocation>,
    /// Who writes its depfiles.
    pub writer: depfile::Writer,
}

impl Checkout {
    /// A depfile of the action, as its writer would have written it here.
    pub fn depfile_here(&self, text: &[u8]) -> Vec<u8> {
        depfile::renamed(text, self.writer, &|name| self.relocation.name_here(name))
    }

    /// A depfile that was written here, as its writer would have written it in the action.
    pub fn depfile_there(&self, text: &[u8]) -> Vec<u8> {
        depfile::renamed(text, self.writer, &|name| self.relocation.name_there(name))
    }
}
