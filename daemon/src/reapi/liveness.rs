//! Whether a server that says nothing for a while is there at all.
//! Knows nothing of what is waited for, which may rightly take long.
//!
//! HTTP/2's own pings find a machine that is gone, but not a server that is stopped behind a proxy, and not soon.
//! A limit for the first message of an execution would not do either: one that waits for a free stream of the
//! connection, or runs on a server that tells the end only, is as silent.

use std::pin::pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

use tokio::time::timeout;
use tonic::Code;

use crate::reapi::Client;
use crate::reapi::call::Calls;
use crate::reapi::error::Error;
use crate::reapi::lock;
use crate::reapi::proto;
use crate::reapi::proto::capabilities_client::CapabilitiesClient;
use crate::reapi::single_flight::SingleFlight;

/// For how long nothing needs to come before the server is asked, unless the endpoint's timeout is shorter.
const QUIET: Duration = Duration::from_secs(10);
/// How long the answer may take: the smallest question there is.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is known of whether one address answers.
#[derive(Default)]
pub(super) struct Liveness {
    checking: Arc<SingleFlight<()>>,
    /// When the server last answered a question that asked nothing else.
    seen: Mutex<Option<Instant>>,
}

impl Client {
    /// Waits for `work` with the storage as long as that answers anything.
    ///
    /// # Errors
    /// When it cannot be reached, or `DeadlineExceeded` when it does not answer: a dead server costs some seconds,
    /// however much time the work itself would have.
    pub async fn while_alive<T>(&self, work: impl Future<Output = T>) -> Result<T, Error> {
        self.while_answering(&self.shared.cas, work).await
    }

    /// Waits for `work` as long as the address of `calls` answers anything.
    pub(super) async fn while_answering<T>(
        &self,
        calls: &Arc<Calls>,
        work: impl Future<Output = T>,
    ) -> Result<T, Error> {
        let mut work = pin!(work);
        loop {
            if let Ok(done) = timeout(self.quiet(), &mut work).await {
                return Ok(done);
            }
            tokio::select! {
                done = &mut work => return Ok(done),
                alive = self.check_alive(calls) => alive?,
            }
        }
    }

    fn quiet(&self) -> Duration {
        QUIET.min(self.shared.endpoint.timeout)
    }

    /// Asks the server for anything, unless it has answered a moment ago: one caller for all who wait. Any answer
    /// will do.
    async fn check_alive(&self, calls: &Arc<Calls>) -> Result<(), Error> {
        let (client, asked) = (self.clone(), Arc::clone(calls));
        calls.liveness.checking.run(async move { client.ask_for_sign(&asked).await }).await
    }

    async fn ask_for_sign(&self, calls: &Calls) -> Result<(), Error> {
        let seen = &calls.liveness.seen;
        if lock(seen).is_some_and(|seen| seen.elapsed() < self.quiet()) {
            return Ok(());
        }
        let doing = "ask whether the server is there";
        let limit = PATIENCE.min(calls.timeout);
        let ask = |wire| {
            let instance_name = self.shared.endpoint.instance_name.clone();
            let request = self.attribution.request(proto::GetCapabilitiesRequest { instance_name });
            async move { CapabilitiesClient::new(wire).get_capabilities(request).await }
        };
        match timeout(limit, calls.over_connection(doing, &ask)).await {
            Ok(Err(error)) if error.is_unreachable() => Err(error),
            Ok(_) => {
                *lock(seen) = Some(Instant::now());
                Ok(())
            }
            Err(_) => {
                let message = format!("{}: no answer within {limit:?}", calls.doing(doing));
                Err(Error::status(Code::DeadlineExceeded, message))
            }
        }
    }
}
