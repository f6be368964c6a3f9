//! What a server can do, asked once per connection.
//! Knows nothing of the services themselves.

use bazel_remote_apis::build::bazel::semver::SemVer;
use tonic::Code;

use crate::reapi::Client;
use crate::reapi::error::Error;
use crate::reapi::lock;
use crate::reapi::proto;
use crate::reapi::proto::capabilities_client::CapabilitiesClient;
use crate::reapi::proto::digest_function::Value as DigestFunction;

/// The newest version of the API that this client speaks.
const OUR_HIGHEST: ApiVersion = ApiVersion { major: 2, minor: 12 };
/// The oldest.
const OUR_LOWEST: ApiVersion = ApiVersion { major: 2, minor: 0 };
/// The largest batch that is sent or asked for, in bytes, whatever the server says: gRPC servers take messages
/// of 4 MiB unless told otherwise, and "no limit set" does not lift that.
const MAX_BATCH: u64 = 4_000_000;

/// A version of the Remote Execution API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion {
    /// 2 in all that is spoken today.
    pub major: i32,
    /// Counts compatible additions.
    pub minor: i32,
}

/// What the server said about itself, as far as it matters here. It has been checked: the server speaks a
/// version that this client does, and takes SHA-256.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerCapabilities {
    /// Whether it executes actions, or only caches.
    pub execution: bool,
    /// Whether it says that this client may store action results.
    pub action_cache_updates: bool,
    /// The largest batch message in bytes, overhead included; at most 4 000 000.
    pub max_batch_bytes: u64,
    /// The largest blob that may be uploaded, in bytes; `None`: no limit.
    pub max_blob_bytes: Option<u64>,
    /// The oldest version that it speaks.
    pub low_version: ApiVersion,
    /// The newest version that it speaks.
    pub high_version: ApiVersion,
    /// Whether symlinks to absolute paths may be inputs.
    pub absolute_symlinks: bool,
}

impl ServerCapabilities {
    /// Whether outputs are declared in `Command.output_paths`; servers before 2.1 know only `output_files` and
    /// `output_directories`.
    pub fn uses_output_paths(&self) -> bool {
        self.high_version >= ApiVersion { major: 2, minor: 1 }
    }

    fn from_message(message: &proto::ServerCapabilities) -> Result<ServerCapabilities, String> {
        let low_version = version(message.low_api_version.as_ref()).unwrap_or(OUR_LOWEST);
        let high_version = version(message.high_api_version.as_ref()).unwrap_or(OUR_LOWEST.max(low_version));
        if low_version > OUR_HIGHEST || high_version < OUR_LOWEST {
            let ApiVersion { major, minor } = OUR_HIGHEST;
            return Err(format!(
                "the server speaks versions {}.{} to {}.{} of the API, this client 2.0 to {major}.{minor}",
                low_version.major, low_version.minor, high_version.major, high_version.minor
            ));
        }
        let cache = message.cache_capabilities.clone().unwrap_or_default();
        require_sha256("the cache", &cache.digest_functions)?;
        let execution = message.execution_capabilities.clone().unwrap_or_default();
        if execution.exec_enabled {
            // `digest_functions` came with 2.3; servers before it have only the single field.
            let functions = match execution.digest_functions.is_empty() {
                true => Vec::from_iter((execution.digest_function != 0).then_some(execution.digest_function)),
                false => execution.digest_functions,
            };
            require_sha256("execution", &functions)?;
        }
        let limit = |bytes: i64| u64::try_from(bytes).ok().filter(|bytes| *bytes > 0);
        let absolute = proto::symlink_absolute_path_strategy::Value::Allowed;
        Ok(ServerCapabilities {
            execution: execution.exec_enabled,
            action_cache_updates: cache.action_cache_update_capabilities.is_some_and(|it| it.update_enabled),
            max_batch_bytes: limit(cache.max_batch_total_size_bytes).unwrap_or(MAX_BATCH).min(MAX_BATCH),
            max_blob_bytes: limit(cache.max_cas_blob_size_bytes),
            low_version,
            high_version,
            absolute_symlinks: cache.symlink_absolute_path_strategy == i32::from(absolute),
        })
    }
}

/// An empty list says nothing; it is SHA-256 that every server has.
fn require_sha256(part: &str, functions: &[i32]) -> Result<(), String> {
    if functions.is_empty() || functions.contains(&i32::from(DigestFunction::Sha256)) {
        return Ok(());
    }
    let names: Vec<_> =
        functions.iter().map(|f| DigestFunction::try_from(*f).map_or("?", |f| f.as_str_name())).collect();
    Err(format!("{part} takes no SHA256 digests, only {}", names.join(", ")))
}

fn version(message: Option<&SemVer>) -> Option<ApiVersion> {
    message.map(|version| ApiVersion { major: version.major, minor: version.minor })
}

impl Client {
    /// What the server can do: asked once per connection, and by one caller for all.
    ///
    /// # Errors
    /// `FailedPrecondition` when this client cannot use the server, else as the call fails.
    pub async fn capabilities(&self) -> Result<ServerCapabilities, Error> {
        if let Some(known) = self.known_capabilities() {
            return Ok(known);
        }
        let client = self.clone();
        self.shared.learning.run(async move { client.learn_capabilities().await }).await
    }

    /// Remembered while the connection lives over which they were learnt: another server may answer the next.
    fn known_capabilities(&self) -> Option<ServerCapabilities> {
        let number = self.shared.calls.connection_number();
        let known = lock(&self.shared.capabilities);
        known.as_ref().filter(|(learnt, _)| *learnt == number).map(|(_, known)| known.clone())
    }

    async fn learn_capabilities(&self) -> Result<ServerCapabilities, Error> {
        if let Some(known) = self.known_capabilities() {
            return Ok(known);
        }
        let shared = &self.shared;
        let doing = "ask for the capabilities of the server";
        let ask = |channel| {
            let instance_name = shared.endpoint.instance_name.clone();
            let mut request = self.attribution.request(proto::GetCapabilitiesRequest { instance_name });
            request.set_timeout(shared.calls.timeout);
            async move { CapabilitiesClient::new(channel).get_capabilities(request).await }
        };
        let answer = shared.calls.unary(doing, ask).await?;
        let capabilities = ServerCapabilities::from_message(&answer).map_err(|why| {
            Error::status(Code::FailedPrecondition, format!("use the server at {}: {why}", self.address()))
        })?;
        *lock(&shared.capabilities) = Some((shared.calls.connection_number(), capabilities.clone()));
        Ok(capabilities)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(low: (i32, i32), high: (i32, i32), functions: &[DigestFunction]) -> proto::ServerCapabilities {
        let version = |(major, minor)| Some(SemVer { major, minor, ..SemVer::default() });
        proto::ServerCapabilities {
            low_api_version: version(low),
            high_api_version: version(high),
            cache_capabilities: Some(proto::CacheCapabilities {
                digest_functions: functions.iter().map(|function| i32::from(*function)).collect(),
                ..proto::CacheCapabilities::default()
            }),
            ..proto::ServerCapabilities::default()
        }
    }

    #[test]
    fn versions_must_overlap() {
        for (low, high, usable) in [
            ((2, 0), (2, 0), true),
            ((2, 3), (2, 11), true),
            ((2, 0), (3, 0), true),
            ((2, 13), (2, 14), false),
            ((3, 0), (3, 1), false),
            ((1, 0), (1, 9), false),
        ] {
            let message = message(low, high, &[]);
            assert_eq!(ServerCapabilities::from_message(&message).is_ok(), usable, "{low:?} {high:?}");
        }
        let known = ServerCapabilities::from_message(&message((2, 0), (2, 0), &[])).unwrap();
        assert!(!known.uses_output_paths());
    }

    #[test]
    fn sha256_is_required() {
        use DigestFunction::Blake3;
        use DigestFunction::Sha256;
        let check = |functions: &[DigestFunction]| {
            ServerCapabilities::from_message(&message((2, 0), (2, 12), functions))
                .map(|known| known.execution)
        };
        assert_eq!(check(&[Blake3, Sha256]), Ok(false));
        assert_eq!(check(&[Blake3]), Err("the cache takes no SHA256 digests, only BLAKE3".to_owned()));

        let mut executing = message((2, 0), (2, 12), &[Sha256]);
        executing.execution_capabilities = Some(proto::ExecutionCapabilities {
            exec_enabled: true,
            digest_function: Blake3.into(),
            ..proto::ExecutionCapabilities::default()
        });
        assert!(ServerCapabilities::from_message(&executing).is_err());
    }

    #[test]
    fn batch_limits_are_kept_sane() {
        for (said, used) in [(0, MAX_BATCH), (-5, MAX_BATCH), (65_536, 65_536), (i64::MAX, MAX_BATCH)] {
            let mut message = message((2, 0), (2, 12), &[]);
            message.cache_capabilities.as_mut().unwrap().max_batch_total_size_bytes = said;
            assert_eq!(ServerCapabilities::from_message(&message).unwrap().max_batch_bytes, used, "{said}");
        }
    }
}
