//! The way to one address, for services that are none of REAPI's and yet are reached like them: TLS, headers, credentials.
//! Knows nothing of what is called there.

use std::sync::Arc;
use std::time::Duration;

use crate::reapi::Endpoint;
use crate::reapi::credentials::Credentials;
use crate::reapi::credentials::Wire;
use crate::reapi::dial::Dialler;
use crate::reapi::error::Error;

/// Knows how an address is reached, and who calls.
pub struct Way {
    dialler: Dialler,
    credentials: Arc<Credentials>,
    patience: Duration,
}

impl Way {
    /// The way to the endpoint's address; nothing is sent yet.
    ///
    /// # Errors
    /// `InvalidArgument` or `Unimplemented` when the endpoint cannot be used as it is written.
    pub fn new(endpoint: &Endpoint) -> Result<Way, Error> {
        endpoint.check()?;
        let address = endpoint.cas();
        let dialler = Dialler::new(&address)?;
        let patience = dialler.patience().min(endpoint.timeout);
        Ok(Way { dialler, credentials: Credentials::new(endpoint, &address)?, patience })
    }

    /// One connection, with headers that are good for some time.
    ///
    /// # Errors
    /// Unreachable, with what the system or TLS said; or what the credentials lack.
    pub async fn connect(&self) -> Result<Wire, Error> {
        let dialled = tokio::time::timeout(self.patience, self.dialler.dial()).await;
        let silent = |_| self.dialler.unreachable(&format!("no answer within {:?}", self.patience));
        self.credentials.wire(dialled.map_err(silent)??).await
    }
}
