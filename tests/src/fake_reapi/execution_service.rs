//! The fake server's Execution: checks an action's inputs, runs the test's closure, streams operations.
//! Knows nothing of what the closure does.

use std::pin::Pin;
use std::sync::Arc;

use bazel_remote_apis::build::bazel::remote::execution::v2 as proto;
use bazel_remote_apis::build::bazel::remote::execution::v2::execution_server::Execution;
use bazel_remote_apis::build::bazel::remote::execution::v2::execution_stage::Value as Stage;
use bazel_remote_apis::google::longrunning::Operation;
use bazel_remote_apis::google::longrunning::operation;
use bazel_remote_apis::google::protobuf::Any;
use farccd::digest::Digest;
use prost::Message;
use tokio::sync::watch;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic::Response;
use tonic::Status;
use tonic_types::ErrorDetails;
use tonic_types::StatusExt as _;

use super::InputTree;
use super::Rpc;
use super::Shared;
use super::cache_services::as_message;

pub(super) struct Executions(pub(super) Arc<Shared>);

/// What an operation came to, once it has ended.
pub(super) type Running = watch::Receiver<Option<operation::Result>>;

type OperationStream = Pin<Box<dyn Stream<Item = Result<Operation, Status>> + Send>>;

#[tonic::async_trait]
impl Execution for Executions {
    type ExecuteStream = OperationStream;
    type WaitExecutionStream = OperationStream;

    async fn execute(
        &self,
        request: Request<proto::ExecuteRequest>,
    ) -> Result<Response<OperationStream>, Status> {
        self.0.begin(Rpc::Execute, &request).await?;
        let request = request.into_inner();
        self.0.check_function(request.digest_function)?;
        let action = self.0.digest_of(request.action_digest.as_ref())?;
        let (sender, running) = watch::channel(None);
        let (name, breaks, stuck) = self.0.state(|state| {
            let name = format!("operations/{}", state.operations.len());
            state.operations.insert(name.clone(), running.clone());
            let breaks = state.faults.broken_streams > 0;
            state.faults.broken_streams = state.faults.broken_streams.saturating_sub(1);
            (name, breaks, state.faults.stuck_in_queue)
        });
        let shared = Arc::clone(&self.0);
        if stuck {
            // The operation lives on as long as its sender.
            tokio::spawn(async move { sender.closed().await });
        } else {
            tokio::spawn(async move {
                let time = shared.options.action_time;
                let ended = tokio::task::spawn_blocking(move || shared.end(&action, &request));
                tokio::time::sleep(time).await;
                sender.send_replace(ended.await.ok());
            });
        }
        Ok(Response::new(follow(&self.0, name, running, breaks)))
    }

    async fn wait_execution(
        &self,
        request: Request<proto::WaitExecutionRequest>,
    ) -> Result<Response<OperationStream>, Status> {
        self.0.begin(Rpc::WaitExecution, &request).await?;
        let name = request.into_inner().name;
        let (running, breaks) = self.0.state(|state| {
            let known = !state.faults.forgotten_operations;
            let breaks = state.faults.broken_waits > 0;
            state.faults.broken_waits = state.faults.broken_waits.saturating_sub(1);
            (state.operations.get(&name).filter(|_| known).cloned(), breaks)
        });
        let running = running.ok_or_else(|| Status::not_found(format!("no operation {name}")))?;
        Ok(Response::new(follow(&self.0, name, running, breaks)))
    }
}

/// Says that the action is queued, and then how it ended; or breaks in between.
fn follow(shared: &Arc<Shared>, name: String, mut running: Running, breaks: bool) -> OperationStream {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        let metadata = proto::ExecuteOperationMetadata {
            stage: Stage::Queued.into(),
            ..proto::ExecuteOperationMetadata::default()
        };
        let queued = Operation {
            name: name.clone(),
            metadata: Some(any("ExecuteOperationMetadata", &metadata)),
            ..Operation::default()
        };
        let _ = sender.send(Ok(queued)).await;
        if breaks {
            let _ = sender.send(Err(Status::unavailable("injected"))).await;
            return;
        }
        let ended = tokio::select! {
            ended = running.wait_for(Option::is_some) => ended,
            () = sender.closed() => return shared.state(|state| state.left_streams += 1),
        };
        let Some(result) = ended.ok().and_then(|result| result.clone()) else { return };
        let done = Operation { name, done: true, result: Some(result), ..Operation::default() };
        let _ = sender.send(Ok(done)).await;
    });
    Box::pin(ReceiverStream::new(receiver))
}

fn any(name: &str, message: &impl Message) -> Any {
    Any {
        type_url: format!("type.googleapis.com/build.bazel.remote.execution.v2.{name}"),
        value: message.encode_to_vec(),
    }
}

impl Shared {
    /// What the operation of an action comes to.
    fn end(self: &Arc<Shared>, action: &Digest, request: &proto::ExecuteRequest) -> operation::Result {
        match self.state(|state| state.faults.operation_error.take()) {
            Some(status) => operation::Result::Error(as_message(&status)),
            None => operation::Result::Response(any("ExecuteResponse", &self.response(action, request))),
        }
    }

    /// The whole way of an action; what fails is in the response's status.
    fn response(
        self: &Arc<Shared>,
        action: &Digest,
        request: &proto::ExecuteRequest,
    ) -> proto::ExecuteResponse {
        let verdict = self.state(|state| {
            let verdicts = &mut state.faults.verdicts;
            (!verdicts.is_empty()).then(|| verdicts.remove(0))
        });
        let run = match verdict {
            Some(status) => Err(status),
            None => self.run(action, request.skip_cache_lookup),
        };
        match run {
            Ok((mut result, cached_result)) => {
                self.inline(&mut result, &request.inline_output_files);
                let status = Some(as_message(&Status::ok("")));
                proto::ExecuteResponse { result: Some(result), cached_result, status, ..Default::default() }
            }
            Err(status) => proto::ExecuteResponse { status: Some(as_message(&status)), ..Default::default() },
        }
    }

    fn run(
        self: &Arc<Shared>,
        digest: &Digest,
        skip_cache_lookup: bool,
    ) -> Result<(proto::ActionResult, bool), Status> {
        let Some(execute) = &self.options.execute else {
            return Err(Status::unimplemented("this server only caches"));
        };
        if let Some(result) = self.state(|state| state.results.get(digest).cloned())
            && !skip_cache_lookup
        {
            return Ok((result, true));
        }
        let mut missing = Vec::new();
        let action: Option<proto::Action> = self.message(digest, &mut missing)?;
        let Some(action) = action else { return Err(missing_inputs(&missing)) };
        let command: Option<proto::Command> =
            self.message(&self.digest_of(action.command_digest.as_ref())?, &mut missing)?;
        let root = self.digest_of(action.input_root_digest.as_ref())?;
        let inputs = match self.options.trusts_inputs {
            true => InputTree::empty(self),
            false => InputTree::load(self, root, &mut missing)?,
        };
        let Some(command) = command.filter(|_| missing.is_empty()) else {
            return Err(missing_inputs(&missing));
        };
        check_canonical(&action, &command)?;
        if !self.options.trusts_inputs {
            inputs.check_working_directory(&command.working_directory)?;
        }
        self.state(|state| state.executed.push(*digest));
        let result = execute(&action, &command, &inputs);
        if !action.do_not_cache && result.exit_code == 0 {
            self.state(|state| state.results.insert(*digest, result.clone()));
        }
        Ok((result, false))
    }

    /// A message in the CAS; notes it where it is missing.
    pub(super) fn message<M: Message + Default>(
        &self,
        digest: &Digest,
        missing: &mut Vec<Digest>,
    ) -> Result<Option<M>, Status> {
        let bytes = match digest.is_empty() {
            true => Some(bytes::Bytes::new()),
            false => self.state(|state| state.blobs.get(digest).cloned()),
        };
        let Some(bytes) = bytes else {
            missing.push(*digest);
            return Ok(None);
        };
        let message = M::decode(bytes).map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(Some(message))
    }
}

/// REAPI, messages `Command` and `Platform`, as Buildbarn: lists sorted and without duplicates, and the properties both where
/// servers read them now and where they read them once.
fn check_canonical(action: &proto::Action, command: &proto::Command) -> Result<(), Status> {
    let wrong = |what: &str| Err(Status::invalid_argument(format!("{what}: {command:?}")));
    let is_sorted = |list: &[&str]| list.windows(2).all(|pair| pair[0] < pair[1]);
    #[expect(deprecated, reason = "servers older than API 2.2 read only this one")]
    let platform = &command.platform;
    let properties = action.platform.iter().flat_map(|platform| &platform.properties);
    let properties: Vec<_> = properties.map(|property| (&property.name, &property.value)).collect();
    let variables: Vec<&str> = command.environment_variables.iter().map(|it| it.name.as_str()).collect();
    let outputs: Vec<&str> = command.output_paths.iter().map(String::as_str).collect();
    if *platform != action.platform {
        return wrong("Action and Command have other properties");
    }
    if !properties.windows(2).all(|pair| pair[0] < pair[1]) {
        return wrong("properties are not sorted");
    }
    if !is_sorted(&variables) || !is_sorted(&outputs) {
        return wrong("variables or outputs are not sorted");
    }
    if outputs.iter().any(|path| path.starts_with('/') || path.ends_with('/')) {
        return wrong("an output is not relative");
    }
    Ok(())
}

/// REAPI, `Execution.Execute`: one MISSING violation for each blob.
fn missing_inputs(digests: &[Digest]) -> Status {
    let mut details = ErrorDetails::new();
    for digest in digests {
        details.add_precondition_failure_violation("MISSING", format!("blobs/{digest}"), "");
    }
    Status::with_error_details(tonic::Code::FailedPrecondition, "inputs are missing", details)
}
