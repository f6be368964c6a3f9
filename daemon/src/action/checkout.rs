//! The checkout from which an action comes that names none (`[exec] paths = "shared"`): the texts of its result with the
//! names of this machine, and back.
//! Knows nothing of stores, nor of who ran the command.

use std::sync::Arc;

use crate::compiler::depfile;
use crate::preprocessor::Family;
use crate::relocation::Relocation;

/// A checkout.
#[derive(Debug, Clone)]
pub struct Checkout {
    /// Its directories.
    pub relocation: Arc<Relocation>,
    /// Whose depfiles are written for it.
    pub family: Family,
}

impl Checkout {
    /// A depfile of the action, as the compiler would have written it here.
    pub fn depfile_here(&self, text: &[u8]) -> Vec<u8> {
        depfile::renamed(text, self.family, &|name| self.relocation.name_here(name))
    }

    /// A depfile that was written here, as the compiler would have written it in the action.
    pub fn depfile_there(&self, text: &[u8]) -> Vec<u8> {
        depfile::renamed(text, self.family, &|name| self.relocation.name_there(name))
    }
}
