//! Runs an action on the cluster and follows it to its end, through broken streams.
//! Knows nothing of what the action does, nor how missing inputs are found again.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use bazel_remote_apis::google::longrunning::Operation;
use bazel_remote_apis::google::longrunning::operation;
use prost::Message as _;
use tokio::time::timeout_at;
use tonic::Code;
use tonic::Streaming;

use crate::digest::Digest;
use crate::reapi::Client;
use crate::reapi::MAX_RECEIVED_MESSAGE;
use crate::reapi::call::Attribution;
use crate::reapi::call::Calls;
use crate::reapi::credentials::Wire;
use crate::reapi::error::Cause;
use crate::reapi::error::Error;
use crate::reapi::presence::Known;
use crate::reapi::proto;
use crate::reapi::proto::execution_client::ExecutionClient;
use crate::reapi::proto::execution_stage::Value as Stage;
use crate::reapi::retry::Tries;

/// A stream that lived this long before it broke made progress: servers and proxies cut long streams, and an
/// action may wait longer than any number of tries.
const PROGRESS: Duration = Duration::from_secs(20);

/// How often an operation that the server has forgotten is begun anew.
const MOST_FORGOTTEN: usize = 2;

/// How many times as many tries there are for an operation that the server has taken: some 30 s with those that users get
/// who set none.
const PATIENCE_FOR_OPERATIONS: u32 = 2;

/// How an action is to be run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecuteOptions {
    /// Run it even if its result is cached, and replace that result.
    pub skip_cache_lookup: bool,
    /// Outputs whose contents are wanted in the answer, by the paths that the Command declares.
    pub inline_output_files: Vec<String>,
    /// How long the server may say that the action is queued before it is given up; `None`: for ever. Servers
    /// may queue an action for ever that no worker matches.
    pub queue_timeout: Option<Duration>,
}

/// What an execution came to. The exit code is the caller's to judge.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Outputs, exit code, standard output and error.
    pub result: proto::ActionResult,
    /// Whether the server had it from its cache.
    pub cached: bool,
    /// The server's words to the user, perhaps a link; mostly empty.
    pub message: String,
}

/// How a stream of operations ended.
enum End {
    /// The operation is done.
    Done(Operation),
    /// The stream broke or ended before.
    Broken(Error),
    /// The caller's time for waiting in the queue is over.
    QueuedTooLong,
    /// Nothing comes, and the server does not answer anything else either.
    Dead(Error),
}

/// An execution under way.
struct Following<'a> {
    action: &'a Digest,
    options: &'a ExecuteOptions,
    attribution: Attribution,
    /// The name by which a broken stream is taken up again, once the server has told it.
    operation: Option<String>,
    /// Since when the server has said that the action is queued.
    queued_since: Option<Instant>,
    /// Since when nothing at all has come over the present stream; none: something has.
    unheard_since: Option<Instant>,
}

impl Client {
    /// Runs `action`, whose Action, Command and inputs were uploaded, and waits for its end; there is no
    /// deadline, except that of the queue. A broken stream is taken up with WaitExecution, or by executing
    /// again where the server has forgotten the operation; executions of one action are merged by servers.
    ///
    /// # Errors
    /// `FailedPrecondition` with [missing](Error::missing_digests) inputs: upload them again (their presence is
    /// forgotten here) and execute again. [`Error::may_lack_inputs`]: the same may be the cause, unnamed.
    /// [`Cause::ActionTimeout`], [`Cause::QueueTimeout`]; `DeadlineExceeded` of a server that does not answer
    /// anything any more; else as the server says.
    pub async fn execute(&self, action: &Digest, options: &ExecuteOptions) -> Result<Outcome, Error> {
        let mut following = Following {
            action,
            options,
            attribution: self.attribution.or_action(action),
            operation: None,
            queued_since: None,
            unheard_since: None,
        };
        let retries = self.engine()?.retries;
        let mut tries = Tries::new(retries);
        let mut forgotten = 0;
        loop {
            let began = Instant::now();
            let error = match self.follow(&mut following).await {
                End::Done(operation) => match self.verdict(action, operation) {
                    Ok(outcome) => return Ok(outcome),
                    Err(error) => {
                        // This operation is over; what may pass needs a new one.
                        following.operation = None;
                        following.queued_since = None;
                        if !may_pass(&error) {
                            return Err(self.noted(action, error));
                        }
                        error
                    }
                },
                End::QueuedTooLong => return Err(self.queued_too_long(&following)),
                End::Dead(error) => return Err(self.noted(action, error)),
                End::Broken(error) if following.operation.is_some() && is_forgotten(&error) => {
                    following.operation = None;
                    // The operation is gone, the action is not. A server that was started anew is asked anew, also when
                    // all tries were used up while it was away.
                    if forgotten < MOST_FORGOTTEN {
                        forgotten += 1;
                        tries.reset();
                        continue;
                    }
                    Error::status(Code::Aborted, error.to_string())
                }
                End::Broken(error) => error,
            };
            // What the server has taken is worth more patience than a question: its scheduler may be starting anew.
            if following.operation.is_some() {
                tries.allow(retries.saturating_mul(PATIENCE_FOR_OPERATIONS));
            }
            if following.unheard_since.is_none() && began.elapsed() >= PROGRESS {
                tries.reset();
            }
            let Some(pause) = tries.pause_after(&error) else { return Err(self.noted(action, error)) };
            tracing::debug!(%error, ?pause, "following the execution again");
            tokio::time::sleep(pause).await;
        }
    }

    fn engine(&self) -> Result<&Arc<Calls>, Error> {
        let none =
            || Error::status(Code::Unimplemented, "execute: no execution service is configured".to_owned());
        self.shared.engine.as_ref().ok_or_else(none)
    }

    /// One stream, from its request to its end.
    async fn follow(&self, following: &mut Following<'_>) -> End {
        let calls = match self.engine() {
            Ok(calls) => calls,
            Err(error) => return End::Dead(error),
        };
        let doing = format!("execute action {}", following.action);
        following.unheard_since = Some(Instant::now());
        let begin = |wire| self.begin(wire, following);
        let begun = self.in_time(calls, following.patience(), calls.over_connection(&doing, &begin)).await;
        let (mut stream, _lease): (Streaming<Operation>, _) = match begun {
            Ok(Ok(begun)) => begun,
            Ok(Err(error)) => return End::Broken(error),
            Err(end) => return end,
        };
        loop {
            let next = match self.in_time(calls, following.patience(), stream.message()).await {
                Ok(next) => next,
                Err(end) => return end,
            };
            following.unheard_since = None;
            match next {
                Ok(Some(operation)) if operation.done => return End::Done(operation),
                Ok(Some(operation)) => following.note(operation),
                Ok(None) => {
                    let message = format!("{}: the stream ended before the action", calls.doing(&doing));
                    return End::Broken(Error::status(Code::Unavailable, message));
                }
                Err(status) => return End::Broken(calls.failed(&doing, &status)),
            }
        }
    }

    /// Waits for `next`, at most until `until`, and not for a server that is not there.
    async fn in_time<T>(
        &self,
        calls: &Arc<Calls>,
        until: Option<Instant>,
        next: impl Future<Output = T>,
    ) -> Result<T, End> {
        let next = self.while_answering(calls, next);
        let next = match until {
            None => next.await,
            Some(until) => timeout_at(until.into(), next).await.map_err(|_| End::QueuedTooLong)?,
        };
        next.map_err(End::Dead)
    }

    /// The request that begins a stream: WaitExecution where the operation has a name, else Execute.
    fn begin(
        &self,
        wire: Wire,
        following: &Following<'_>,
    ) -> impl Future<Output = Result<tonic::Response<Streaming<Operation>>, tonic::Status>> + use<> {
        let mut execution = ExecutionClient::new(wire).max_decoding_message_size(MAX_RECEIVED_MESSAGE);
        let wait = following.operation.clone().map(|name| proto::WaitExecutionRequest { name });
        let execute = proto::ExecuteRequest {
            instance_name: self.shared.endpoint.instance_name.clone(),
            skip_cache_lookup: following.options.skip_cache_lookup,
            action_digest: Some(following.action.into()),
            digest_function: following.action.function().number(),
            inline_stdout: true,
            inline_stderr: true,
            inline_output_files: following.options.inline_output_files.clone(),
            ..proto::ExecuteRequest::default()
        };
        let attribution = following.attribution.clone();
        async move {
            match wait {
                Some(wait) => execution.wait_execution(attribution.request(wait)).await,
                None => execution.execute(attribution.request(execute)).await,
            }
        }
    }

    /// Reads the operation's end. The status of the ExecuteResponse is what counts (REAPI, `Execute`).
    fn verdict(&self, action: &Digest, operation: Operation) -> Result<Outcome, Error> {
        let doing = format!("execute action {action} at {}", self.address());
        let unreadable = |what: &str| Error::status(Code::Internal, format!("{doing}: {what}"));
        let response = match operation.result {
            // Servers must not use this field, but some do.
            Some(operation::Result::Error(status)) => return Err(Error::from_rpc(&doing, &status)),
            Some(operation::Result::Response(any)) => {
                if !any.type_url.ends_with("build.bazel.remote.execution.v2.ExecuteResponse") {
                    return Err(unreadable("the response is no ExecuteResponse"));
                }
                proto::ExecuteResponse::decode(any.value.as_slice())
                    .map_err(|error| unreadable(&format!("the response cannot be read: {error}")))?
            }
            None => return Err(unreadable("the operation ended without a response")),
        };
        let status = response.status.unwrap_or_default();
        match Code::from_i32(status.code) {
            Code::Ok => {}
            Code::DeadlineExceeded => {
                let text = Error::from_rpc(&doing, &status).to_string();
                return Err(Error::new(Code::DeadlineExceeded, Cause::ActionTimeout, text));
            }
            _ => return Err(Error::from_rpc(&doing, &status)),
        }
        let result = response.result.ok_or_else(|| unreadable("the response has no result"))?;
        Ok(Outcome { result, cached: response.cached_result, message: response.message })
    }

    /// Takes note of missing inputs, so that the next upload sends them without asking.
    fn noted(&self, action: &Digest, error: Error) -> Error {
        let error = error.of_function(action.function());
        let missing = error.missing_digests().iter().copied();
        self.shared.presence.learn(missing, Known::Missing, Instant::now());
        error
    }

    fn queued_too_long(&self, following: &Following<'_>) -> Error {
        let doing = format!("execute action {} at {}", following.action, self.address());
        let allowed = following.options.queue_timeout.unwrap_or_default();
        let message = format!("{doing}: no worker took it within {allowed:?}");
        Error::new(Code::DeadlineExceeded, Cause::QueueTimeout, message)
    }
}

impl Following<'_> {
    /// Takes note of where the operation is. Metadata may be missing, and stages may be skipped or go back.
    fn note(&mut self, operation: Operation) {
        if !operation.name.is_empty() {
            self.operation = Some(operation.name);
        }
        let metadata = operation
            .metadata
            .and_then(|any| proto::ExecuteOperationMetadata::decode(any.value.as_slice()).ok());
        match metadata.map(|metadata| metadata.stage()) {
            Some(Stage::Queued) => {
                self.queued_since.get_or_insert_with(Instant::now);
            }
            Some(Stage::CacheCheck | Stage::Executing | Stage::Completed) => self.queued_since = None,
            Some(Stage::Unknown) | None => {}
        }
    }

    /// Until when the next message is waited for. What the server has not even confirmed waits in a queue, too.
    fn patience(&self) -> Option<Instant> {
        self.unheard_since.or(self.queued_since)?.checked_add(self.options.queue_timeout?)
    }
}

/// Whether an execution that ended with `error` is worth another. INTERNAL is the caller's: it may mean missing
/// inputs. CANCELLED means that somebody cancelled it (REAPI, `ExecuteResponse.status`).
fn may_pass(error: &Error) -> bool {
    error.retry_after().is_some()
        || matches!(error.code(), Code::Unavailable | Code::ResourceExhausted | Code::Aborted | Code::Unknown)
}

/// Whether WaitExecution says that there is no such operation, or that it does not exist at all.
fn is_forgotten(error: &Error) -> bool {
    matches!(error.code(), Code::NotFound | Code::Unimplemented)
}
