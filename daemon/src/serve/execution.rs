//! `Execution`: looks into the cache, queues, executes, and tells everyone who waits how far it is.
//! Knows nothing of sandboxes.

use std::pin::Pin;
use std::sync::Arc;

use bazel_remote_apis::build::bazel::remote::execution::v2::Action;
use bazel_remote_apis::build::bazel::remote::execution::v2::Command;
use bazel_remote_apis::build::bazel::remote::execution::v2::ExecuteOperationMetadata;
use bazel_remote_apis::build::bazel::remote::execution::v2::ExecuteRequest;
use bazel_remote_apis::build::bazel::remote::execution::v2::ExecuteResponse;
use bazel_remote_apis::build::bazel::remote::execution::v2::WaitExecutionRequest;
use bazel_remote_apis::build::bazel::remote::execution::v2::digest_function;
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
use super::messages::action_key;
use super::messages::blocking;
use super::messages::check_digest_function;
use super::messages::digest;
use super::messages::digest_message;
use super::messages::ok_status;
use super::messages::status_of;
use super::messages::store_status;
use super::operations::Key;
use super::operations::Operation;
use super::operations::State;
use super::operations::Watched;
use super::results::Inline;
use crate::digest::Digest;
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
        check_digest_function(request.digest_function)?;
        let action_digest = digest(request.action_digest.as_ref(), "action_digest")?;
        let (action, command) = blocking(self, move |served| served.read_action(&action_digest)).await?;
        let cache_key = action_key(&request.instance_name, &action_digest);
        // REAPI, `Action.do_not_cache`: such executions are not merged either.
        let key = (!action.do_not_cache)
            .then_some(Key { action: cache_key, skip_cache_lookup: request.skip_cache_lookup });
        let watched = self.operations.join_or_start(key, action_digest);
        if watched.is_new {
            let looks_up = !request.skip_cache_lookup && !action.do_not_cache;
            let execution = Pending { cache_key, action, command, looks_up };
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
    cache_key: Digest,
    action: Action,
    command: Command,
    /// Whether a kept result will do.
    looks_up: bool,
}

impl Served {
    fn read_action(&self, digest_of_action: &Digest) -> Result<(Action, Command), Status> {
        let missing = |digest: Digest| status_of(&Failure::missing(vec![digest]));
        let action: Action =
            self.read_message(digest_of_action)?.ok_or_else(|| missing(*digest_of_action))?;
        let digest_of_command = digest(action.command_digest.as_ref(), "command_digest")?;
        let command = self.read_message(&digest_of_command)?.ok_or_else(|| missing(digest_of_command))?;
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
            let key = pending.cache_key;
            let kept = blocking(self, move |served| served.complete_result(&key)).await;
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
        let executing = || operation.enter(Stage::Executing);
        let outcome = tokio::select! {
            outcome = self.sandbox.run(&pending.action, &pending.command, executing) => outcome,
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
        if result.exit_code == 0 && !pending.action.do_not_cache {
            let (key, kept) = (pending.cache_key, result.clone());
            let put = blocking(self, move |served| {
                served.store.put_action_result(&key, &kept).map_err(store_status)
            });
            if let Err(status) = put.await {
                tracing::warn!("failed to keep a result: {}", status.message());
            }
        }
        ExecuteResponse { result: Some(result), status: Some(ok_status()), ..ExecuteResponse::default() }
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
                Some((served.message(&operation, state, inline).await, rest))
            }
        }))
    }

    async fn message(
        &self,
        operation: &Operation,
        state: State,
        inline: Inline,
    ) -> Result<longrunning::Operation, Status> {
        let mut metadata = ExecuteOperationMetadata {
            stage: i32::from(state.stage),
            action_digest: Some(digest_message(&operation.action)),
            digest_function: i32::from(digest_function::Value::Sha256),
            ..ExecuteOperationMetadata::default()
        };
        let mut result = None;
        if let Some(response) = state.response {
            let mut response = (*response).clone();
            metadata.partial_execution_metadata =
                response.result.as_ref().and_then(|result| result.execution_metadata.clone());
            if let Some(mut action_result) = response.result.take() {
                let filled = blocking(self, move |served| {
                    served.put_inline(&mut action_result, &inline);
                    Ok(action_result)
                });
                response.result = Some(filled.await?);
            }
            result = Some(operation::Result::Response(any("ExecuteResponse", &response)));
        }
        Ok(longrunning::Operation {
            name: operation.name.clone(),
            metadata: Some(any("ExecuteOperationMetadata", &metadata)),
            done: result.is_some(),
            result,
        })
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
