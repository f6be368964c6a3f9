//! Whether whoever asked for a command still waits for it.
//! Knows nothing of how that is found out.

use std::sync::Arc;

/// Looked at right before anything is written that others see: a launcher that has gone runs its command itself,
/// and what a blocked thread writes afterwards would come on top of the newer result.
#[derive(Clone)]
pub struct Presence(Arc<dyn Fn() -> bool + Send + Sync>);

impl Presence {
    /// As `is_there` tells each time.
    pub fn new(is_there: impl Fn() -> bool + Send + Sync + 'static) -> Presence {
        Presence(Arc::new(is_there))
    }

    /// Whether somebody waits now.
    pub fn is_there(&self) -> bool {
        (self.0)()
    }
}
