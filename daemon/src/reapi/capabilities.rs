//! What the servers can do, asked once per time without interruption.
//! Knows nothing of the services themselves.

use std::sync::Arc;

use bazel_remote_apis::build::bazel::semver::SemVer;
use futures::future::try_join_all;
use tonic::Code;

use crate::digest::DigestFunction;
use crate::reapi::Client;
use crate::reapi::Shared;
use crate::reapi::call::Calls;
use crate::reapi::error::Error;
use crate::reapi::lock;
use crate::reapi::proto;
use crate::reapi::proto::capabilities_client::CapabilitiesClient;

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
/// version that this client does, and takes digests that it makes.
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
    /// Whether streams of blobs may be packed with zstd.
    pub zstd_streams: bool,
    /// Whether blobs in batches that are sent may be.
    pub zstd_batches: bool,
    /// How digests are computed for this server, by the user's choice or by ours.
    pub digest_function: DigestFunction,
    /// Whether symlinks to absolute paths may be inputs.
    pub absolute_symlinks: bool,
}

impl ServerCapabilities {
    /// Whether outputs are declared in `Command.output_paths`; servers before 2.1 know only `output_files` and
    /// `output_directories`, which others refuse.
    pub fn uses_output_paths(&self) -> bool {
        self.high_version >= ApiVersion { major: 2, minor: 1 }
    }

    /// Whether the server executes commands as they are sent.
    pub fn executes(&self) -> bool {
        self.execution && self.uses_output_paths()
    }

    /// `wanted` is the digest function that the user chose.
    fn from_message(
        message: &proto::ServerCapabilities,
        wanted: Option<DigestFunction>,
    ) -> Result<ServerCapabilities, String> {
        let low_version = version(message.low_api_version.as_ref()).unwrap_or(OUR_LOWEST);
        let high_version = version(message.high_api_version.as_ref()).unwrap_or(OUR_HIGHEST);
        if low_version > OUR_HIGHEST || high_version < OUR_LOWEST {
            let ApiVersion { major, minor } = OUR_HIGHEST;
            return Err(format!(
                "the server speaks versions {}.{} to {}.{} of the API, this client 2.0 to {major}.{minor}",
                low_version.major, low_version.minor, high_version.major, high_version.minor
            ));
        }
        let cache = message.cache_capabilities.clone().unwrap_or_default();
        let mut offered = vec![("the cache", cache.digest_functions)];
        let execution = message.execution_capabilities.clone().unwrap_or_default();
        if execution.exec_enabled {
            // `digest_functions` came with 2.3; servers before it have only the single field.
            let functions = match execution.digest_functions.is_empty() {
                true => Vec::from_iter((execution.digest_function != 0).then_some(execution.digest_function)),
                false => execution.digest_functions,
            };
            offered.push(("execution", functions));
        }
        let limit = |bytes: i64| u64::try_from(bytes).ok().filter(|bytes| *bytes > 0);
        let zstd = i32::from(proto::compressor::Value::Zstd);
        let absolute = proto::symlink_absolute_path_strategy::Value::Allowed;
        Ok(ServerCapabilities {
            execution: execution.exec_enabled,
            action_cache_updates: cache.action_cache_update_capabilities.is_some_and(|it| it.update_enabled),
            max_batch_bytes: limit(cache.max_batch_total_size_bytes).unwrap_or(MAX_BATCH).min(MAX_BATCH),
            zstd_streams: cache.supported_compressors.contains(&zstd),
            zstd_batches: cache.supported_batch_update_compressors.contains(&zstd),
            digest_function: choose(&offered, wanted)?,
            max_blob_bytes: limit(cache.max_cas_blob_size_bytes),
            low_version,
            high_version,
            absolute_symlinks: cache.symlink_absolute_path_strategy == i32::from(absolute),
        })
    }
}

/// The function to be used with services that offer these numbers: the one that the user `wanted`, else SHA-256, which
/// needs no second hash of every file, else the next that all take. An empty list says nothing, and stands for SHA-256.
fn choose(offered: &[(&str, Vec<i32>)], wanted: Option<DigestFunction>) -> Result<DigestFunction, String> {
    let takes = |functions: &[i32], function: DigestFunction| match functions.is_empty() {
        true => function == DigestFunction::Sha256 || wanted == Some(function),
        false => functions.contains(&function.number()),
    };
    let candidates = wanted.map_or(DigestFunction::ALL.to_vec(), |wanted| vec![wanted]);
    let by_all = |function: &DigestFunction| offered.iter().all(|(_, functions)| takes(functions, *function));
    if let Some(function) = candidates.iter().copied().find(by_all) {
        return Ok(function);
    }
    let name = |number: &i32| {
        proto::digest_function::Value::try_from(*number).map_or("?", |function| function.as_str_name())
    };
    let offers = offered.iter().map(|(part, functions)| {
        let names: Vec<_> = functions.iter().map(name).collect();
        format!("{part} takes {}", if names.is_empty() { "SHA256".to_owned() } else { names.join(", ") })
    });
    let ours: Vec<_> = candidates.iter().map(|function| function.name()).collect();
    Err(format!("{}; this client is to use {}", offers.collect::<Vec<_>>().join("; "), ours.join(", ")))
}

fn version(message: Option<&SemVer>) -> Option<ApiVersion> {
    message.map(|version| ApiVersion { major: version.major, minor: version.minor })
}

impl Client {
    /// What the servers can do: asked once while their connections live, and by one caller for all.
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

    /// Remembered while there are connections over which they were learnt: another server may answer the next.
    fn known_capabilities(&self) -> Option<ServerCapabilities> {
        let eras = self.eras();
        let known = lock(&self.shared.capabilities);
        known.as_ref().filter(|(learnt, _)| *learnt == eras).map(|(_, known)| known.clone())
    }

    fn eras(&self) -> Vec<u64> {
        self.shared.calls().iter().map(|calls| calls.era()).collect()
    }

    async fn learn_capabilities(&self) -> Result<ServerCapabilities, Error> {
        if let Some(known) = self.known_capabilities() {
            return Ok(known);
        }
        let shared = &self.shared;
        let answers = shared.calls().into_iter().map(|calls| async move {
            let ask = |wire| {
                let instance_name = shared.endpoint.instance_name.clone();
                let mut request = self.attribution.request(proto::GetCapabilitiesRequest { instance_name });
                request.set_timeout(calls.timeout);
                async move { CapabilitiesClient::new(wire).get_capabilities(request).await }
            };
            calls.unary("ask for the capabilities of the server", ask).await
        });
        let answers = try_join_all(answers).await?;
        let answer_of = |wanted: &Arc<Calls>| {
            let place = shared.calls().iter().position(|calls| Arc::ptr_eq(calls, wanted));
            place.and_then(|place| answers.get(place)).cloned().unwrap_or_default()
        };
        let engine = shared.engine.as_ref().map(answer_of);
        let message = combined(&answer_of(&shared.cas), answer_of(&shared.action_cache), engine);
        let capabilities = ServerCapabilities::from_message(&message, shared.endpoint.digest_function);
        let capabilities = capabilities.map_err(|why| {
            Error::status(Code::FailedPrecondition, format!("use the server at {}: {why}", self.address()))
        })?;
        let capabilities = ServerCapabilities {
            zstd_streams: capabilities.zstd_streams && shared.endpoint.compression,
            zstd_batches: capabilities.zstd_batches && shared.endpoint.compression,
            ..capabilities
        };
        *lock(&shared.capabilities) = Some((self.eras(), capabilities.clone()));
        Ok(capabilities)
    }
}

impl Shared {
    /// Every address once: storage, action cache, engine.
    fn calls(&self) -> Vec<&Arc<Calls>> {
        let mut calls: Vec<&Arc<Calls>> = vec![&self.cas];
        for other in std::iter::once(&self.action_cache).chain(&self.engine) {
            if !calls.iter().any(|known| Arc::ptr_eq(known, other)) {
                calls.push(other);
            }
        }
        calls
    }
}

/// What the servers can do together, one of which may be all three.
fn combined(
    cas: &proto::ServerCapabilities,
    action_cache: proto::ServerCapabilities,
    engine: Option<proto::ServerCapabilities>,
) -> proto::ServerCapabilities {
    let mut cache_capabilities = cas.cache_capabilities.clone().unwrap_or_default();
    cache_capabilities.action_cache_update_capabilities =
        action_cache.cache_capabilities.and_then(|cache| cache.action_cache_update_capabilities);
    // What an action may look like is the engine's to say.
    let versions = engine.as_ref().unwrap_or(cas).clone();
    proto::ServerCapabilities {
        cache_capabilities: Some(cache_capabilities),
        execution_capabilities: engine.and_then(|engine| engine.execution_capabilities),
        ..versions
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
                digest_functions: functions.iter().map(|function| function.number()).collect(),
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
            assert_eq!(ServerCapabilities::from_message(&message, None).is_ok(), usable, "{low:?} {high:?}");
        }
        let known = ServerCapabilities::from_message(&message((2, 0), (2, 0), &[]), None).unwrap();
        assert!(!known.uses_output_paths());
        // Whoever says nothing is no older than others.
        let silent = proto::ServerCapabilities { high_api_version: None, ..message((2, 0), (2, 0), &[]) };
        assert!(ServerCapabilities::from_message(&silent, None).unwrap().uses_output_paths());
    }

    #[test]
    fn a_digest_function_that_all_services_take_is_chosen() {
        use DigestFunction::Blake3;
        use DigestFunction::Sha1;
        use DigestFunction::Sha256;
        let check = |cache: &[DigestFunction], execution: &[DigestFunction], wanted| {
            let mut message = message((2, 0), (2, 12), cache);
            message.execution_capabilities = Some(proto::ExecutionCapabilities {
                exec_enabled: true,
                digest_functions: execution.iter().map(|function| function.number()).collect(),
                ..proto::ExecutionCapabilities::default()
            });
            ServerCapabilities::from_message(&message, wanted).map(|known| known.digest_function)
        };
        for (cache, execution, wanted, chosen) in [
            (&[Blake3, Sha256][..], &[][..], None, Sha256),
            (&[], &[], None, Sha256),
            (&[], &[], Some(Blake3), Blake3),
            (&[Blake3], &[Sha1, Blake3], None, Blake3),
            (&[Sha1], &[Sha1], None, Sha1),
            (&[Sha256, Blake3], &[Blake3], None, Blake3),
            (&[Sha256, Sha1], &[Sha256, Sha1], Some(Sha1), Sha1),
        ] {
            assert_eq!(check(cache, execution, wanted), Ok(chosen), "{cache:?} {execution:?} {wanted:?}");
        }
        assert_eq!(
            check(&[Sha256], &[Blake3], None),
            Err("the cache takes SHA256; execution takes BLAKE3; this client is to use sha256, blake3, sha1"
                .to_owned())
        );
        assert!(check(&[Sha256], &[Sha256], Some(Blake3)).is_err());

        // Servers before 2.3 have one field for it.
        let mut old = message((2, 0), (2, 2), &[Sha256, Blake3]);
        old.execution_capabilities = Some(proto::ExecutionCapabilities {
            exec_enabled: true,
            digest_function: Blake3.number(),
            ..proto::ExecutionCapabilities::default()
        });
        assert_eq!(
            ServerCapabilities::from_message(&old, None).map(|known| known.digest_function),
            Ok(Blake3)
        );
    }

    #[test]
    fn batch_limits_are_kept_sane() {
        for (said, used) in [(0, MAX_BATCH), (-5, MAX_BATCH), (65_536, 65_536), (i64::MAX, MAX_BATCH)] {
            let mut message = message((2, 0), (2, 12), &[]);
            message.cache_capabilities.as_mut().unwrap().max_batch_total_size_bytes = said;
            assert_eq!(
                ServerCapabilities::from_message(&message, None).unwrap().max_batch_bytes,
                used,
                "{said}"
            );
        }
    }
}
