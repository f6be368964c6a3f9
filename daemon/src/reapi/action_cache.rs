//! The cluster's memory of actions that ran before.
//! Knows nothing of whether a result may be used.

use std::sync::atomic::Ordering;

use tonic::Code;

use crate::digest::Digest;
use crate::reapi::Client;
use crate::reapi::MAX_RECEIVED_MESSAGE;
use crate::reapi::error::Error;
use crate::reapi::proto;
use crate::reapi::proto::action_cache_client::ActionCacheClient;

impl Client {
    /// The cached result of `action`, `None` if there is none. Standard output and error are asked for inline,
    /// and so are `inline_output_files` (paths as the Command declares them); servers may decline, and a result
    /// may refer to blobs that are gone.
    ///
    /// # Errors
    /// As the call fails.
    pub async fn action_result(
        &self,
        action: &Digest,
        inline_output_files: &[String],
    ) -> Result<Option<proto::ActionResult>, Error> {
        let calls = &self.shared.action_cache;
        let attribution = self.attribution.or_action(action);
        let get = |wire| {
            let mut request = attribution.request(proto::GetActionResultRequest {
                instance_name: self.shared.endpoint.instance_name.clone(),
                action_digest: Some(action.into()),
                inline_stdout: true,
                inline_stderr: true,
                inline_output_files: inline_output_files.to_vec(),
                digest_function: action.function().number(),
            });
            request.set_timeout(calls.timeout);
            let mut cache = ActionCacheClient::new(wire).max_decoding_message_size(MAX_RECEIVED_MESSAGE);
            async move { cache.get_action_result(request).await }
        };
        match calls.unary(&format!("look up action {action}"), get).await {
            Ok(result) => Ok(Some(result)),
            Err(error) if error.code() == Code::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Stores the result of `action`; false when the server does not let this client do so, which is common and
    /// no error. Action, Command and all outputs must have been uploaded before. Contents that stand in the
    /// result beside their digest are left out: they are in the CAS.
    ///
    /// # Errors
    /// As the call fails.
    pub async fn update_action_result(
        &self,
        action: &Digest,
        result: proto::ActionResult,
    ) -> Result<bool, Error> {
        let calls = &self.shared.action_cache;
        let refused = &self.shared.updates_refused;
        if !self.capabilities().await?.action_cache_updates {
            return Ok(false);
        }
        let era = calls.era();
        if era != 0 && refused.load(Ordering::Relaxed) == era {
            return Ok(false);
        }
        let result = as_stored(result);
        let attribution = self.attribution.or_action(action);
        let update = |wire| {
            let mut request = attribution.request(proto::UpdateActionResultRequest {
                instance_name: self.shared.endpoint.instance_name.clone(),
                action_digest: Some(action.into()),
                action_result: Some(result.clone()),
                results_cache_policy: None,
                digest_function: action.function().number(),
            });
            request.set_timeout(calls.timeout);
            let mut cache = ActionCacheClient::new(wire).max_decoding_message_size(MAX_RECEIVED_MESSAGE);
            async move { cache.update_action_result(request).await }
        };
        match calls.unary(&format!("store the result of action {action}"), update).await {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.code(), Code::PermissionDenied | Code::Unimplemented) => {
                // Asked again when it was away, not for every command.
                refused.store(era, Ordering::Relaxed);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

/// Without inlined contents, and never an empty message, which bazel-remote refuses.
fn as_stored(mut result: proto::ActionResult) -> proto::ActionResult {
    for file in &mut result.output_files {
        if file.digest.is_some() {
            file.contents = Vec::new();
        }
    }
    if result.stdout_digest.is_some() {
        result.stdout_raw = Vec::new();
    }
    if result.stderr_digest.is_some() {
        result.stderr_raw = Vec::new();
    }
    let metadata = result.execution_metadata.get_or_insert_default();
    if metadata.worker.is_empty() {
        metadata.worker = "farcc".to_owned();
    }
    result
}
