//! One RPC: its header, its deadline, its connection, its retries.
//! Knows nothing of what the RPC is for.

use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use tonic::Code;
use tonic::Request;
use tonic::Response;
use tonic::Status;
use tonic::TimeoutExpired;
use tonic::metadata::BinaryMetadataValue;

use crate::digest::Digest;
use crate::reapi::connection::Connections;
use crate::reapi::connection::Lease;
use crate::reapi::connection::has_source;
use crate::reapi::connection::is_connection_lost;
use crate::reapi::credentials::Credentials;
use crate::reapi::credentials::Wire;
use crate::reapi::endpoint::Address;
use crate::reapi::endpoint::Endpoint;
use crate::reapi::error::Error;
use crate::reapi::liveness::Liveness;
use crate::reapi::proto;
use crate::reapi::retry::retrying;

/// The header that names a blob to proxies that distribute calls by it.
const RESOURCE_NAME: &str = "build.bazel.remote.execution.v2.resource-name";
/// REAPI, message `RequestMetadata`: the name of the header that carries it.
const REQUEST_METADATA: &str = "build.bazel.remote.execution.v2.requestmetadata-bin";

/// Who makes a call and for which action: servers schedule and log by it.
#[derive(Clone)]
pub(super) struct Attribution {
    metadata: Arc<proto::RequestMetadata>,
    header: BinaryMetadataValue,
}

impl Attribution {
    /// For calls that belong to no action. `invocation` names this run of the daemon.
    pub(super) fn of_tool(invocation: &str) -> Attribution {
        Attribution::new(proto::RequestMetadata {
            tool_details: Some(proto::ToolDetails {
                tool_name: "farcc".to_owned(),
                tool_version: env!("CARGO_PKG_VERSION").to_owned(),
            }),
            tool_invocation_id: invocation.to_owned(),
            ..proto::RequestMetadata::default()
        })
    }

    /// For calls that belong to `action`.
    pub(super) fn with_action(&self, action: &Digest, mnemonic: &str, target: &str) -> Attribution {
        Attribution::new(proto::RequestMetadata {
            action_id: action.hex(),
            action_mnemonic: mnemonic.to_owned(),
            target_id: target.to_owned(),
            ..proto::RequestMetadata::clone(&self.metadata)
        })
    }

    /// The same attribution, naming `action` unless it already names one.
    pub(super) fn or_action(&self, action: &Digest) -> Attribution {
        match self.metadata.action_id.as_str() {
            "" => self.with_action(action, "", ""),
            _ => self.clone(),
        }
    }

    fn new(metadata: proto::RequestMetadata) -> Attribution {
        let header = BinaryMetadataValue::from_bytes(&metadata.encode_to_vec());
        Attribution { metadata: Arc::new(metadata), header }
    }

    /// `message` with the header.
    pub(super) fn request<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        request.metadata_mut().insert_bin(REQUEST_METADATA, self.header.clone());
        request
    }

    /// `message` about the blob of a resource name, with both headers.
    pub(super) fn request_about<M>(&self, resource_name: &str, message: M) -> Request<M> {
        let mut request = self.request(message);
        // A name that no header can carry is left out: nobody needs it.
        if let Ok(name) = resource_name.parse() {
            request.metadata_mut().insert(RESOURCE_NAME, name);
        }
        request
    }
}

/// Makes calls to one address.
pub(super) struct Calls {
    connections: Arc<Connections>,
    credentials: Arc<Credentials>,
    address: String,
    /// How long one RPC may take, or one step of a stream.
    pub(super) timeout: Duration,
    /// How often a failed RPC is tried again.
    pub(super) retries: u32,
    /// Whether the server is there at all.
    pub(super) liveness: Liveness,
}

impl Calls {
    /// Calls to `address`, which is one of `endpoint`'s; nothing is sent yet.
    ///
    /// # Errors
    /// `InvalidArgument` when it cannot be used as it is written.
    pub(super) fn new(endpoint: &Endpoint, address: &Address) -> Result<Arc<Calls>, Error> {
        Ok(Arc::new(Calls {
            connections: Connections::new(address, endpoint.timeout)?,
            credentials: Credentials::new(endpoint, address)?,
            address: address.text.clone(),
            timeout: endpoint.timeout,
            retries: endpoint.retries,
            liveness: Liveness::default(),
        }))
    }

    /// The address as the user wrote it.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Makes a call that has one answer, with a deadline and retries. `doing` says what it is for; `send` makes
    /// the request anew for each try.
    pub(super) async fn unary<T, F, Sent>(&self, doing: &str, send: F) -> Result<T, Error>
    where
        F: Fn(Wire) -> Sent,
        Sent: Future<Output = Result<Response<T>, Status>>,
    {
        retrying(self.retries, || self.unary_once(doing, &send)).await
    }

    /// [`unary`](Calls::unary) without retries, for callers that do something between tries.
    pub(super) async fn unary_once<T, F, Sent>(&self, doing: &str, send: &F) -> Result<T, Error>
    where
        F: Fn(Wire) -> Sent,
        Sent: Future<Output = Result<Response<T>, Status>>,
    {
        let timed = |wire| async {
            match tokio::time::timeout(self.timeout, send(wire)).await {
                Ok(answer) => answer,
                Err(_) => Err(Status::deadline_exceeded(format!("no answer within {:?}", self.timeout))),
            }
        };
        let (answer, _) = self.over_connection(doing, &timed).await?;
        Ok(answer)
    }

    /// Makes a call without a deadline and without retries: the beginning of a stream, which has its place on the
    /// connection for as long as the lease is kept.
    pub(super) async fn over_connection<T, F, Sent>(&self, doing: &str, send: &F) -> Result<(T, Lease), Error>
    where
        F: Fn(Wire) -> Sent,
        Sent: Future<Output = Result<Response<T>, Status>>,
    {
        let (mut redials, mut renewals) = (1, 1);
        let made_before = self.connections.made();
        loop {
            let lease = self.connections.lease().await?;
            let wire = self.credentials.wire(lease.channel.clone()).await?;
            let status = match send(wire).await {
                Ok(response) => return Ok((response.into_inner(), lease)),
                Err(status) => status,
            };
            if is_connection_lost(&status) {
                self.connections.lost(lease.number);
                // The connection ended while it was idle, as many servers and proxies do after some minutes; the
                // request was not sent. That is no failed try: dial and send it. All that were made before may have
                // ended.
                if lease.number <= made_before {
                    continue;
                }
                if redials > 0 {
                    redials -= 1;
                    continue;
                }
            }
            // A token that has run out before its time.
            if status.code() == Code::Unauthenticated && renewals > 0 && self.credentials.refused() {
                renewals -= 1;
                continue;
            }
            return Err(self.failed(doing, &status));
        }
    }

    /// The error for `status`, saying what was being done and where.
    pub(super) fn failed(&self, doing: &str, status: &Status) -> Error {
        let doing = self.doing(doing);
        // Which of the two clocks rings first, ours or tonic's, is chance.
        if has_source::<TimeoutExpired>(status) {
            let message = format!("no answer within {:?}", self.timeout);
            return Error::from_status(&doing, &Status::deadline_exceeded(message));
        }
        Error::from_status(&doing, status)
    }

    /// `doing`, and where.
    pub(super) fn doing(&self, doing: &str) -> String {
        format!("{doing} at {}", self.address)
    }

    /// Since which connection the server has been there without interruption; 0 when there is none.
    pub(super) fn era(&self) -> u64 {
        self.connections.era()
    }
}
