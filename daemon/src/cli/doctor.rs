//! `farccd doctor`: looks at everything that a build needs, and says how to mend what is wrong.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bazel_remote_apis::build::bazel::remote::execution::v2 as re;
use prost::Message as _;
use serde::Serialize;
use tonic::Code;

use crate::cli::Surroundings;
use crate::cli::print;
use crate::cli::print_json;
use crate::cli::runtime;
use crate::compiler::Invocation;
use crate::config::Config;
use crate::config::Strategy;
use crate::config::ToolchainSource;
use crate::config::load;
use crate::digest::Digest;
use crate::digest::DigestFunction;
use crate::dispatch::Comparison;
use crate::executor::remote::client;
use crate::executor::twin::TwinExecutor;
use crate::paths;
use crate::reapi::Blob;
use crate::reapi::Client;
use crate::reapi::Content;
use crate::reapi::Error;
use crate::reapi::ExecuteOptions;
use crate::store::Store;

/// How long the trial action may wait for a worker.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the last thing is called that is asked of a cluster which executes.
const EXECUTION: &str = "execution";

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    /// What was looked at.
    subject: &'static str,
    ok: bool,
    /// What was found.
    found: String,
    /// What to do, where something is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

fn good(subject: &'static str, found: String) -> Finding {
    Finding { subject, ok: true, found, remedy: None }
}

fn bad(subject: &'static str, found: String, remedy: &str) -> Finding {
    Finding { subject, ok: false, found, remedy: Some(remedy.to_owned()) }
}

pub(super) fn doctor(surroundings: &Surroundings, json: bool) -> anyhow::Result<ExitCode> {
    let findings = runtime()?.block_on(examine(surroundings));
    let well = findings.iter().all(|finding| finding.ok);
    if json {
        print_json(&findings)?;
    } else {
        let mut text = String::new();
        for Finding { subject, ok, found, remedy } in &findings {
            let mark = if *ok { "ok  " } else { "FAIL" };
            text.push_str(&format!("{mark}  {subject}: {found}\n"));
            if let Some(remedy) = remedy {
                text.push_str(&format!("      → {remedy}\n"));
            }
        }
        print(text)?;
    }
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn examine(surroundings: &Surroundings) -> Vec<Finding> {
    let mut findings = Vec::new();
    let config = match load(&surroundings.env, &surroundings.cwd, &surroundings.places.config_file) {
        Ok(config) => {
            findings.push(good("configuration", "it can be used (farccd config shows it)".to_owned()));
            config
        }
        Err(error) => {
            findings.push(bad(
                "configuration",
                format!("failed to {error}"),
                "mend it; until then every command runs here",
            ));
            return findings;
        }
    };
    findings.push(store(surroundings, &config));
    findings.extend(compilers(surroundings).await);
    if config.twin.is_configured() {
        findings.extend(twin(surroundings, &config).await);
    }
    if config.exec.strategy == Strategy::Local || !config.remote.is_configured() {
        findings.push(good("cluster", "none is configured: farcc caches on this machine".to_owned()));
        return findings;
    }
    match client(&config.remote, &surroundings.env) {
        Ok(client) => cluster(&config, &client, &mut findings).await,
        Err(error) => findings.push(bad("cluster", format!("failed to {error}"), "mend [remote]")),
    }
    let executes = findings.last().is_some_and(|finding| finding.ok && finding.subject == EXECUTION);
    if executes && config.exec.toolchain == ToolchainSource::Worker {
        findings.extend(workers(surroundings).await);
    }
    findings
}

/// Programs that builds run besides compilers, as far as they are on this machine.
const PROGRAMS: &[&str] = &[
    "python3", "perl", "sh", "bash", "cmake", "ctest", "make", "ninja", "protoc", "flex", "bison", "m4",
    "sed", "awk",
];

/// Whether the twin can be reached, and whether its programs are those of this machine.
async fn twin(surroundings: &Surroundings, config: &Config) -> Vec<Finding> {
    let address = &config.twin.address;
    let executor = match TwinExecutor::new(&config.twin, &surroundings.env, Vec::new()) {
        Ok(executor) => executor,
        Err(error) => return vec![bad("twin", format!("failed to use {address}: {error}"), "mend [twin]")],
    };
    let described = match executor.describe(Vec::new()).await {
        Ok(described) => described,
        Err(error) => {
            let remedy = "start `farccd twin serve` there; until then all other commands run here";
            return vec![bad("twin", format!("failed to ask {address}: {error}"), remedy)];
        }
    };
    let network = if described.allows_network { "connections allowed" } else { "no connections" };
    let mut findings = vec![good("twin", format!("{address}: farccd {}, {network}", described.version))];
    for name in PROGRAMS {
        let Ok(invocation) = surroundings.typed(vec![name.into()]) else { continue };
        let Some(path) = invocation.executable().filter(|path| paths::is_system(path)) else { continue };
        let Ok(digest) = std::fs::File::open(&path).and_then(|mut file| Digest::of_reader(&mut file)) else {
            continue;
        };
        if let Err(error) = executor.check_program(&path, &digest).await {
            let remedy = "install the same image on both; until then commands that start it run here";
            findings.push(bad("twin", error.to_string(), remedy));
        }
    }
    findings
}

fn store(surroundings: &Surroundings, config: &Config) -> Finding {
    let directory = config.cache.dir.as_ref().unwrap_or(&surroundings.places.store);
    match Store::open(directory, config.cache.max_size.as_u64()).and_then(|store| store.stats()) {
        Ok(stats) => {
            let (size, limit) = (bytesize::ByteSize(stats.size_bytes), config.cache.max_size);
            good(
                "store",
                format!("{}: {} results, {size} of {limit}", directory.display(), stats.action_results),
            )
        }
        Err(error) => bad("store", format!("failed to {error}"), "make it writable, or set [cache] dir"),
    }
}

/// A compile by each compiler in `PATH`, of a file that need not be there.
fn compiles(surroundings: &Surroundings) -> impl Iterator<Item = (&'static str, Arc<Invocation>)> {
    ["gcc", "g++", "clang", "clang++"].into_iter().filter_map(|name| {
        let words = [name, "-c", "farcc-doctor.c"].map(std::ffi::OsString::from);
        Some((name, surroundings.typed(words.to_vec()).ok()?))
    })
}

async fn compilers(surroundings: &Surroundings) -> Vec<Finding> {
    let dispatcher = surroundings.dispatcher();
    let mut findings = Vec::new();
    for (name, invocation) in compiles(surroundings) {
        findings.push(match dispatcher.toolchain(&invocation).await {
            Ok(version) => good("compiler", format!("{name}: {version}")),
            Err(reason) => {
                bad("compiler", format!("{name}: {reason}"), "its commands run here, without farcc")
            }
        });
    }
    if findings.is_empty() {
        findings.push(bad("compiler", "neither gcc nor clang is in PATH".to_owned(), "install one"));
    }
    findings
}

/// Whether the workers have this machine's compilers and system headers.
async fn workers(surroundings: &Surroundings) -> Vec<Finding> {
    let dispatcher = surroundings.dispatcher();
    let mut findings = Vec::new();
    for (name, invocation) in compiles(surroundings) {
        // A compiler that cannot be used has been found already.
        if dispatcher.toolchain(&invocation).await.is_err() {
            continue;
        }
        findings.push(match dispatcher.comparison(&invocation).await {
            Ok(Some(comparison)) => compared(name, &comparison),
            Ok(None) => continue,
            Err(reason) => bad(
                "workers",
                format!("{name}: {reason}"),
                "let the workers run programs of their input root; [exec] toolchain = \"trusted\" asks nothing",
            ),
        });
    }
    findings
}

fn compared(name: &str, comparison: &Comparison) -> Finding {
    let Comparison { programs, first_program, headers, differing_headers, first_header } = comparison;
    if let Some(first) = first_program {
        let remedy = "give the workers this machine's packages, or this machine theirs; until then its commands run here";
        return bad("workers", format!("{name}: {first}"), remedy);
    }
    if let Some(first) = first_header {
        let found = format!("{name}: {differing_headers} of {headers} system headers differ: {first}");
        let remedy = "install the same packages; until then commands that read them run here, unless [exec] root is \
                      wrapper, which sends them";
        return bad("workers", found, remedy);
    }
    good("workers", format!("{name}: {programs} programs and libraries and {headers} system headers agree"))
}

/// Connection, capabilities, storage, action cache, execution: in this order, to the first that fails.
async fn cluster(config: &Config, client: &Client, findings: &mut Vec<Finding>) {
    let known = match client.capabilities().await {
        Ok(known) => known,
        Err(error) => return findings.push(unreachable(&error)),
    };
    let packing = if known.zstd_streams { "zstd" } else { "no compression" };
    let does = match (known.executes(), known.execution) {
        (true, _) => "caches and executes",
        (false, true) => "caches (it executes commands as they were before API 2.1, and is sent none)",
        (false, false) => "caches",
    };
    let version = known.high_version;
    findings.push(good(
        "cluster",
        format!(
            "{} {does}; API {}.{}, {} digests, {packing}, batches of {} bytes",
            client.address(),
            version.major,
            version.minor,
            known.digest_function.name(),
            known.max_batch_bytes
        ),
    ));
    let blobs = trial(config, known.digest_function);
    let action = blobs.first().map(|blob| blob.digest);
    if let Err(error) = client.upload(blobs).await {
        return findings.push(bad("storage", format!("failed to {error}"), remedy(&error)));
    }
    findings.push(good("storage", "blobs can be uploaded".to_owned()));
    let updates = if known.action_cache_updates { "may" } else { "may not" };
    findings.push(good("action cache", format!("results of this machine {updates} be stored, it says")));
    if config.exec.strategy == Strategy::CacheOnly || !known.executes() {
        return;
    }
    let Some(action) = action else { return };
    let options =
        ExecuteOptions { skip_cache_lookup: true, queue_timeout: Some(PATIENCE), ..Default::default() };
    findings.push(match client.execute(&action, &options).await {
        Ok(outcome) if outcome.result.exit_code == 0 => {
            let worker =
                outcome.result.execution_metadata.map(|metadata| metadata.worker).unwrap_or_default();
            good(EXECUTION, format!("a trial action ran on worker {worker:?}"))
        }
        Ok(outcome) => bad(
            EXECUTION,
            format!("a trial action ended with status {}", outcome.result.exit_code),
            "the workers lack /bin/true: check the image in [platform]",
        ),
        Err(error) => bad(EXECUTION, format!("failed to {error}"), remedy(&error)),
    });
}

/// An action that runs `/bin/true`, with its Command and its input tree; the action first.
fn trial(config: &Config, function: DigestFunction) -> Vec<Blob> {
    let blob =
        |bytes: Vec<u8>| Blob { digest: function.digest(&bytes), content: Content::Bytes(bytes.into()) };
    let properties = config.platform.of("compile", &Default::default());
    let properties = properties.into_iter().map(|(name, value)| re::platform::Property { name, value });
    let platform = re::Platform { properties: properties.collect() };
    let root = blob(re::Directory::default().encode_to_vec());
    let command = blob(
        re::Command {
            arguments: vec!["/bin/true".to_owned()],
            #[expect(deprecated, reason = "servers older than API 2.2 read only this one")]
            platform: Some(platform.clone()),
            ..re::Command::default()
        }
        .encode_to_vec(),
    );
    let action = re::Action {
        command_digest: Some(command.digest.into()),
        input_root_digest: Some(root.digest.into()),
        do_not_cache: true,
        platform: Some(platform),
        ..re::Action::default()
    };
    vec![blob(action.encode_to_vec()), command, root]
}

fn unreachable(error: &Error) -> Finding {
    bad("cluster", format!("failed to {error}"), remedy(error))
}

/// What a user can do about an error.
fn remedy(error: &Error) -> &'static str {
    match error.code() {
        Code::Unauthenticated => {
            "set [remote] headers, token_file or credential_helper as the cluster wants them"
        }
        Code::PermissionDenied => "the cluster knows you and does not allow it: ask its administrator",
        Code::FailedPrecondition => {
            "no worker may match [platform], or the cluster is set up otherwise than farcc"
        }
        Code::InvalidArgument => "check [remote] instance_name and [platform]",
        Code::DeadlineExceeded => "no worker took it: check [platform] against what the workers register",
        _ if error.is_unreachable() => {
            "check [remote] address, the network, and that grpcs:// is used where there is TLS"
        }
        _ => "ask the cluster's administrator, with this message",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trial_names_the_platform_twice() {
        let config: Config = toml::from_str("[platform]\nb = \"2\"\na = \"1\"\n").unwrap();
        let blobs = trial(&config, DigestFunction::Blake3);
        let bytes = |blob: &Blob| match &blob.content {
            Content::Bytes(bytes) => bytes.clone(),
            Content::File(_) => unreachable!(),
        };
        let action = re::Action::decode(bytes(&blobs[0])).unwrap();
        let names =
            |platform: re::Platform| platform.properties.into_iter().map(|it| it.name).collect::<Vec<_>>();
        assert_eq!(names(action.platform.unwrap()), ["a", "b"]);
        let command = re::Command::decode(bytes(&blobs[1])).unwrap();
        #[expect(deprecated, reason = "servers older than API 2.2 read only this one")]
        let properties = command.platform.unwrap();
        assert_eq!(names(properties), ["a", "b"]);
        assert!(
            action.do_not_cache && blobs.iter().all(|blob| blob.digest.function() == DigestFunction::Blake3)
        );
    }
}
