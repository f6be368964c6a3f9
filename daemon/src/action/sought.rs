//! What of an action is needed to take its result from a store and put it into place: a small part of it, which is kept for
//! many commands.
//! Knows nothing of how the key came about.

use crate::action::Checkout;
use crate::action::Output;
use crate::action::Speaker;
use crate::digest::Digest;

/// What is looked for, and where it goes.
#[derive(Debug, Clone)]
pub struct Sought {
    /// Key of the result in the store on this machine: the digest of the Action without its time limit.
    pub key: Digest,
    /// What the command makes.
    pub outputs: Vec<Output>,
    /// The checkout to which the names in results are translated.
    pub checkout: Option<Checkout>,
    /// The program whose messages begin with its name.
    pub speaker: Option<Speaker>,
}

impl Sought {
    /// Messages of a result, as they are to be shown here.
    pub fn messages_here(&self, text: Vec<u8>) -> Vec<u8> {
        let text = match &self.speaker {
            Some(speaker) => speaker.here(&text),
            None => text,
        };
        match &self.checkout {
            Some(checkout) => checkout.relocation.text_here(&text),
            None => text,
        }
    }

    /// Messages that were written here, as they stand in a result.
    pub fn messages_there(&self, text: &[u8]) -> Vec<u8> {
        let text = match &self.checkout {
            Some(checkout) => checkout.relocation.text_there(text),
            None => text.to_vec(),
        };
        match &self.speaker {
            Some(speaker) => speaker.there(&text),
            None => text,
        }
    }
}
