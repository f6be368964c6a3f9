//! `ActionCache`: results by action.
//! Knows nothing of how they were made; never gives out one whose blobs are gone.

use bazel_remote_apis::build::bazel::remote::execution::v2::ActionResult;
use bazel_remote_apis::build::bazel::remote::execution::v2::GetActionResultRequest;
use bazel_remote_apis::build::bazel::remote::execution::v2::UpdateActionResultRequest;
use bazel_remote_apis::build::bazel::remote::execution::v2::action_cache_server::ActionCache;
use tonic::Request;
use tonic::Response;
use tonic::Status;

use super::Served;
use super::messages::Spoken;
use super::messages::action_key;
use super::messages::status_of;
use super::results::Inline;
use crate::executor::sandbox::Failure;

#[tonic::async_trait]
impl ActionCache for Served {
    async fn get_action_result(
        &self,
        request: Request<GetActionResultRequest>,
    ) -> Result<Response<ActionResult>, Status> {
        let request = request.into_inner();
        let spoken = Spoken::of(request.digest_function)?;
        let action = spoken.digest(request.action_digest.as_ref(), "action_digest")?;
        let key = action_key(&request.instance_name, &action);
        let inline = Inline {
            stdout: request.inline_stdout,
            stderr: request.inline_stderr,
            output_files: request.inline_output_files,
        };
        let result = self.complete_result(&key, action.function()).await?;
        match result {
            Some(mut result) => {
                self.put_inline(&mut result, &inline, action.function()).await;
                self.counters.add(|counters| &counters.action_cache_hits, 1);
                Ok(Response::new(result))
            }
            None => {
                self.counters.add(|counters| &counters.action_cache_misses, 1);
                Err(Status::not_found(format!("no result of action {action}")))
            }
        }
    }

    async fn update_action_result(
        &self,
        request: Request<UpdateActionResultRequest>,
    ) -> Result<Response<ActionResult>, Status> {
        let request = request.into_inner();
        let spoken = Spoken::of(request.digest_function)?;
        let action = spoken.digest(request.action_digest.as_ref(), "action_digest")?;
        let key = action_key(&request.instance_name, &action);
        let Some(result) = request.action_result else {
            return Err(Status::invalid_argument("action_result is not set"));
        };
        let missing = self.missing_of(&result, action.function()).await?;
        if !missing.is_empty() {
            return Err(status_of(&Failure::missing(missing)));
        }
        self.cas.owe_result(&key, &result).await?;
        self.cas.pay_result(&key, &result).await?;
        self.counters.add(|counters| &counters.action_cache_updates, 1);
        Ok(Response::new(result))
    }
}
