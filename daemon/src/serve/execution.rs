//! `Execution`: looks into the cache, queues, executes, and tells everyone who waits how far it is.
//! Knows nothing of sandboxes.

use std::pin::Pin;
use std::sync::Arc;

use bazel_remote_apis::build::bazel::remote::execution::v2::Action;
use bazel_remote_apis::build::bazel::remote::execution::v2::ActionResult;
use bazel_remote_apis::build::bazel::remote::execution::v2::Command;
use bazel_remote_apis::build::bazel::remote::execution::v2::ExecuteOperationMetadata;
use bazel_remote_apis::build::bazel::remote::execution::v2::ExecuteRequest;
use bazel_remote_apis::build::bazel::remote::execution::v2::ExecuteResponse;
use bazel_remote_apis::build::bazel::remote::execution::v2::WaitExecutionRequest;
use bazel_remote_apis::build::bazel::remote::execution::v2::execution_server::Execution;
use bazel_remote_apis::build::bazel::remote::execution::v2::execution_stage::Value as Stage;
use bazel_remote_apis::google::longrunning;
use bazel_remote_apis::google::longrunning::operation;
use bazel_remote_apis::google::protobuf::Any;
use futures::Stream;
use prost::Message;
use tonic::Code;
use tonic::Request;
use tonic::Response;
use tonic::Status;

use super::Served;
use super::messages::Spoken;
use super::messages::action_key;
use super::messages::digest;
use super::messages::digest_message;
use super::messages::ok_status;
use super::messages::status_message;
use super::messages::status_of;
use super::operations::Key;
use super::operations::Operation;
use super::operations::State;
use super::operations::Watched;
use super::results::Inline;
use crate::digest::Digest;
use crate::digest::DigestFunction;
use crate::executor::sandbox::Failure;

type OperationStream = Pin<Box<dyn Stream<Item = Result<longrunning::Operation, Status>> + Send>>;

#[tonic::async_trait]
impl Execution for Served {
    type ExecuteStream = OperationStream;

    async fn execute(
        &self,
        request: Request<ExecuteRequest>,
    ) -> Result<Response<Self::ExecuteStream>, Status> {
        let request = request.into_inner();
        let spoken = Spoken::of(request.digest_function)?;
        let action_digest = spoken.digest(request.action_digest.as_ref(), "action_digest")?;
        let (action, command) = self.read_action(&action_digest).await?;
        let cache_key = action_key(&request.instance_name, &action_digest);
        // REAPI, `Action.do_not_cache`: such executions are not merged either.
        let key = (!action.do_not_cache)
            .then_some(Key { action: cache_key, skip_cache_lookup: request.skip_cache_lookup });
        let watched = self.operations.join_or_start(key, action_digest);
        if watched.is_new {
            let looks_up = !request.skip_cache_lookup && !action.do_not_cache;
            let function = action_digest.function();
            let execution = Pending { function, cache_key, action, command, looks_up };
            tokio::spawn(self.clone().perform(Arc::clone(&watched.operation), execution));
        } else {
            self.counters.add(|counters| &counters.merged, 1);
        }
        let inline = Inline {
            stdout: request.inline_stdout,
            stderr: request.inline_stderr,
            output_files: request.inline_output_files,
        };
        Ok(Response::new(self.clone().stream(watched, inline)))
    }

    type WaitExecutionStream = OperationStream;

    async fn wait_execution(
        &self,
        request: Request<WaitExecutionRequest>,
    ) -> Result<Response<Self::WaitExecutionStream>, Status> {
        let name = request.into_inner().name;
        let Some(watched) = self.operations.by_name(&name) else {
            return Err(Status::not_found(format!("no operation {name:?}")));
        };
        Ok(Response::new(self.clone().stream(watched, Inline::default())))
    }
}

/// What is to be executed.
struct Pending {
    /// Of all its digests.
    function: DigestFunction,
    cache_key: Digest,
    action: Action,
    command: Command,
    /// Whether a kept result will do.
    looks_up: bool,
}

impl Served {
    async fn read_action(&self, digest_of_action: &Digest) -> Result<(Action, Command), Status> {
        let missing = |digest: Digest| status_of(&Failure::missing(vec![digest]));
        let action: Action =
            self.cas.read_message(digest_of_action).await?.ok_or_else(|| missing(*digest_of_action))?;
        let digest_of_command =
            digest(digest_of_action.function(), action.command_digest.as_ref(), "command_digest")?;
        let command = self.cas.read_message(&digest_of_command).await?;
        let command = command.ok_or_else(|| missing(digest_of_command))?;
        Ok((action, command))
    }

    /// Executes in a task of its own, so that a panic ends as an answer.
    async fn perform(self, operation: Arc<Operation>, pending: Pending) {
        let served = self.clone();
        let executed = Arc::clone(&operation);
        let task = tokio::spawn(async move { served.respond(&executed, pending).await });
        let response = task
            .await
            .unwrap_or_else(|_| failed(Failure::new(Code::Internal, "the execution panicked".to_owned())));
        self.operations.end(&operation, response);
    }

    async fn respond(&self, operation: &Arc<Operation>, pending: Pending) -> ExecuteResponse {
        if pending.looks_up {
            let kept = self.complete_result(&pending.cache_key, pending.function).await;
            // A cache that cannot be read is as good as an empty one.
            if let Ok(Some(result)) = kept {
                self.counters.add(|counters| &counters.cached, 1);
                let status = Some(ok_status());
                return ExecuteResponse {
                    result: Some(result),
                    cached_result: true,
                    status,
                    ..ExecuteResponse::default()
                };
            }
        }
        operation.enter(Stage::Queued);
        if let Ok(root) = digest(pending.function, pending.action.input_root_digest.as_ref(), "")
            && let Err(status) = self.cas.fetch_tree(&root).await
        {
            return unavailable(&status);
        }
        let executing = || operation.enter(Stage::Executing);
        let outcome = tokio::select! {
            outcome = self.sandbox.run(pending.function, &pending.action, &pending.command, executing) => outcome,
            () = self.operations.given_up(operation) => {
                Err(Failure::new(Code::Cancelled, "nobody waited for the execution any more".to_owned()))
            }
        };
        // A failure without any result is that of an action whose command was never started.
        if outcome.as_ref().map_or_else(|failure| failure.result.is_some(), |_| true) {
            self.counters.add(|counters| &counters.executions, 1);
        }
        let result = match outcome {
            Ok(result) => result,
            Err(failure) => {
                self.counters.add(|counters| &counters.failures, 1);
                return failed(failure);
            }
        };
        match self.keep_result(&pending, &result).await {
            Ok(()) => {}
            // What is there only on disk is there, but no other server could give it out.
            Err(status) => return unavailable(&status),
        }
        ExecuteResponse { result: Some(result), status: Some(ok_status()), ..ExecuteResponse::default() }
    }

    /// Stores the outputs, and the result where it may be cached. The result is noted first: an execution whose outputs
    /// cannot be stored for now is not to be done again.
    async fn keep_result(&self, pending: &Pending, result: &ActionResult) -> Result<(), Status> {
        let is_cacheable = result.exit_code == 0 && !pending.action.do_not_cache;
        if is_cacheable && let Err(status) = self.cas.owe_result(&pending.cache_key, result).await {
            tracing::warn!("failed to keep a result: {}", status.message());
        }
        self.keep_outputs(result, pending.function).await?;
        if is_cacheable && let Err(status) = self.cas.pay_result(&pending.cache_key, result).await {
            // The client has its result all the same, and the next one who asks for it brings it up again.
            tracing::warn!("failed to keep a result: {}", status.message());
        }
        Ok(())
    }

    /// The states of an operation as messages, the last one with the response.
    fn stream(self, watched: Watched, inline: Inline) -> OperationStream {
        let Watched { operation, states, .. } = watched;
        Box::pin(futures::stream::unfold(Some(states), move |states| {
            let (served, operation, inline) = (self.clone(), Arc::clone(&operation), inline.clone());
            async move {
                let mut states = states?;
                // The operation outlives its watchers, so that there always is a next state before the last.
                states.changed().await.ok()?;
                let state = states.borrow_and_update().clone();
                let rest = state.response.is_none().then_some(states);
                Some((Ok(served.message(&operation, state, inline).await), rest))
            }
        }))
    }

    async fn message(&self, operation: &Operation, state: State, inline: Inline) -> longrunning::Operation {
        let mut metadata = ExecuteOperationMetadata {
            stage: i32::from(state.stage),
            action_digest: Some(digest_message(&operation.action)),
            digest_function: operation.action.function().number(),
            ..ExecuteOperationMetadata::default()
        };
        let mut result = None;
        if let Some(response) = state.response {
            let mut response = (*response).clone();
            metadata.partial_execution_metadata =
                response.result.as_ref().and_then(|result| result.execution_metadata.clone());
            if let Some(action_result) = &mut response.result {
                self.put_inline(action_result, &inline, operation.action.function()).await;
            }
            result = Some(operation::Result::Response(any("ExecuteResponse", &response)));
        }
        longrunning::Operation {
            name: operation.name.clone(),
            metadata: Some(any("ExecuteOperationMetadata", &metadata)),
            done: result.is_some(),
            result,
        }
    }
}

fn any(name: &str, message: &impl Message) -> Any {
    Any {
        type_url: format!("type.googleapis.com/build.bazel.remote.execution.v2.{name}"),
        value: message.encode_to_vec(),
    }
}

fn failed(failure: Failure) -> ExecuteResponse {
    ExecuteResponse {
        status: Some(failure.to_status()),
        result: failure.result.map(|result| *result),
        ..ExecuteResponse::default()
    }
}

/// An execution that could not have what it needs, and can be tried again.
fn unavailable(status: &Status) -> ExecuteResponse {
    ExecuteResponse { status: Some(status_message(status)), ..ExecuteResponse::default() }
}
