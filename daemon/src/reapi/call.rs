//! One RPC: its header, its deadline, its connection, its retries.
//! Knows nothing of what the RPC is for.

use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use tonic::Request;
use tonic::Response;
use tonic::Status;
use tonic::TimeoutExpired;
use tonic::metadata::BinaryMetadataValue;
use tonic::transport::Channel;

use crate::digest::Digest;
use crate::reapi::connection::Connection;
use crate::reapi::connection::has_source;
use crate::reapi::connection::is_connection_lost;
use crate::reapi::endpoint::Endpoint;
use crate::reapi::error::Error;
use crate::reapi::proto;
use crate::reapi::retry::retrying;

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
}

/// Makes calls over one connection.
pub(super) struct Calls {
    connection: Arc<Connection>,
    address: String,
    /// How long one RPC may take, or one step of a stream.
    pub(super) timeout: Duration,
    /// How often a failed RPC is tried again.
    pub(super) retries: u32,
}

impl Calls {
    pub(super) fn new(connection: Arc<Connection>, endpoint: &Endpoint) -> Calls {
        let Endpoint { address, timeout, retries, .. } = endpoint.clone();
        Calls { connection, address, timeout, retries }
    }

    /// Makes a call that has one answer, with a deadline and retries. `doing` says what it is for; `send` makes
    /// the request anew for each try.
    pub(super) async fn unary<T, F, Sent>(&self, doing: &str, send: F) -> Result<T, Error>
    where
        F: Fn(Channel) -> Sent,
        Sent: Future<Output = Result<Response<T>, Status>>,
    {
        retrying(self.retries, || self.unary_once(doing, &send)).await
    }

    /// [`unary`](Calls::unary) without retries, for callers that do something between tries.
    pub(super) async fn unary_once<T, F, Sent>(&self, doing: &str, send: &F) -> Result<T, Error>
    where
        F: Fn(Channel) -> Sent,
        Sent: Future<Output = Result<Response<T>, Status>>,
    {
        let timed = |channel| async {
            match tokio::time::timeout(self.timeout, send(channel)).await {
                Ok(answer) => answer,
                Err(_) => Err(Status::deadline_exceeded(format!("no answer within {:?}", self.timeout))),
            }
        };
        self.over_connection(doing, &timed).await
    }

    /// Makes a call without a deadline and without retries: the beginning of a stream.
    pub(super) async fn over_connection<T, F, Sent>(&self, doing: &str, send: &F) -> Result<T, Error>
    where
        F: Fn(Channel) -> Sent,
        Sent: Future<Output = Result<Response<T>, Status>>,
    {
        let live = self.connection.live().await?;
        let status = match send(live.channel).await {
            Ok(response) => return Ok(response.into_inner()),
            Err(status) => status,
        };
        if !is_connection_lost(&status) {
            return Err(self.failed(doing, &status));
        }
        // The connection ended while it was idle, as many servers and proxies do after some minutes; the
        // request was not sent. That is no failed try: dial and send it.
        self.connection.lost(live.number);
        let live = self.connection.live().await?;
        match send(live.channel).await {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => {
                if is_connection_lost(&status) {
                    self.connection.lost(live.number);
                }
                Err(self.failed(doing, &status))
            }
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

    /// The number of the connection that calls use at present, 0 if there is none.
    pub(super) fn connection_number(&self) -> u64 {
        self.connection.current().map_or(0, |live| live.number)
    }
}
