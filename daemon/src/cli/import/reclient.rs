//! reclient's flags: the files of `-cfg` for reproxy and rewrapper, and files of `RBE_*` variables.
//! Knows both programs' flags at once, as a file may hold either's.

use std::collections::BTreeMap;

use crate::cli::import::address::Address;
use crate::cli::import::address::Addresses;
use crate::cli::import::draft::ALL_COMMANDS;
use crate::cli::import::draft::Draft;
use crate::cli::import::draft::Key;
use crate::cli::import::syntax::assignment;
use crate::cli::import::syntax::duration;
use crate::cli::import::syntax::truth;
use crate::cli::import::syntax::variables;

/// Flags by name. Those of the environment stand over those of a file, as in reclient.
type Flags = BTreeMap<String, String>;

pub(super) fn translate(text: &str, draft: &mut Draft) {
    let flags = flags(text, draft);
    let get = |name: &str| flags.get(name).map(String::as_str).filter(|value| !value.is_empty());
    let is_set = |name: &str| get(name).and_then(truth) == Some(true);

    let tls = !is_set("service_no_security");
    let engine = get("service").map(|raw| address(raw, tls));
    let cas = get("cas_service").map(|raw| address(raw, tls));
    if engine.is_some() {
        // The action cache is asked where the blobs are (remote-apis-sdks, client.go).
        Addresses { engine, action_cache: cas.clone(), cas }.write(draft);
    } else if cas.is_some() {
        draft.drop("cas_service", "reclient has no use for it without `service`");
    }
    for (name, value) in &flags {
        flag(name, value, draft);
    }
    if is_set("remote_disabled") {
        draft.literal(Key::Strategy, "\"local\"");
        draft.note_on(Key::Strategy, "remote_disabled");
    }
    if draft.has(Key::Address) && !draft.has_platform() {
        draft.note(
            "reclient keeps platform and strategy in rewrapper's file, which is imported by itself: its [platform] and \
             [exec] belong behind this",
        );
    }
}

fn flags(text: &str, draft: &mut Draft) -> Flags {
    let mut of_file = Flags::new();
    let mut of_environment = Flags::new();
    for (line, number) in text.lines().map(str::trim).zip(1..) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let is_exported = line.starts_with("export ");
        if is_exported || ["RBE_", "FLAG_"].iter().any(|prefix| line.starts_with(prefix)) {
            let Some(variables) = variables(line) else {
                draft.drop(&format!("line {number}"), "it sets no variable, or its quotes do not close");
                continue;
            };
            for (variable, value) in variables {
                match variable.strip_prefix("RBE_").or_else(|| variable.strip_prefix("FLAG_")) {
                    Some(name) => drop(of_environment.insert(name.to_owned(), value)),
                    None => draft.drop(&variable, "no variable of reclient"),
                }
            }
            continue;
        }
        let bare = line.trim_start_matches('-');
        let (name, value) = match bare.split_once(|c: char| c == '=' || c.is_whitespace()) {
            Some((name, value)) => (name, value.trim()),
            None => (bare, "true"),
        };
        match name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && !name.is_empty() {
            true => drop(of_file.insert(name.to_owned(), value.to_owned())),
            false => draft.drop(&format!("line {number}"), "it is no flag"),
        }
    }
    of_file.extend(of_environment);
    of_file
}

fn address(raw: &str, tls: bool) -> Address {
    if let Some(path) = raw.strip_prefix("unix:") {
        return Address::unix(path.strip_prefix("//").unwrap_or(path));
    }
    let (scheme, rest) = raw.split_once("://").unwrap_or(("", raw));
    // gRPC for Go resolves names to port 443, with TLS and without.
    let address = Address::host(rest.trim_start_matches('/'), tls, 443);
    match scheme {
        "" | "dns" | "passthrough" => address,
        _ => address.noted("reclient's addresses have no scheme: service_no_security was followed"),
    }
}

fn flag(name: &str, value: &str, draft: &mut Draft) {
    match name {
        "service" | "cas_service" | "service_no_security" | "remote_disabled" => {}
        "instance" => draft.text(Key::InstanceName, value),
        "tls_ca_cert" => draft.path(Key::TlsCaCerts, value),
        "tls_client_auth_cert" => draft.path(Key::TlsClientCert, value),
        "tls_client_auth_key" => draft.path(Key::TlsClientKey, value),
        "remote_headers" => pairs(name, value, draft, |draft, header, value| {
            draft.header("remote_headers", header, value, None);
        }),
        "platform" => pairs(name, value, draft, |draft, property, value| {
            draft.property(ALL_COMMANDS, "platform", property, value);
        }),
        "compression_threshold" => match value.parse::<i64>() {
            Ok(threshold) => {
                draft.literal(Key::Compression, if threshold < 0 { "\"never\"" } else { "\"auto\"" });
                if threshold > 0 {
                    draft.note_on(Key::Compression, "farcc chooses by itself which blobs are worth it");
                }
            }
            Err(_) => draft.drop(name, "it is no number"),
        },
        "rpc_timeouts" => rpc_timeouts(value, draft),
        "exec_strategy" => strategy(value, draft),
        "exec_timeout" => match duration(value) {
            Some(timeout) => draft.text(Key::ExecTimeout, &timeout),
            None => draft.drop(name, "it is no duration"),
        },
        "remote_accept_cache" => switch(name, value, Key::AcceptCached, draft),
        "remote_update_cache" => {
            switch(name, value, Key::UploadLocalResults, draft);
            draft.note_on(
                Key::UploadLocalResults,
                "in reclient also of what the cluster runs, which farcc leaves to the cluster",
            );
        }
        "compare" => match truth(value) {
            Some(compare) => draft.literal(Key::Verify, if compare { "1.0" } else { "0.0" }),
            None => draft.drop(name, "it is neither true nor false"),
        },
        "cache_silo" => {
            draft.text(Key::Salt, value);
            draft.note_on(
                Key::Salt,
                "reclient sends it as a property; here it sets results apart in the same way",
            );
        }
        _ => draft.drop(name, reason(name)),
    }
}

/// A comma-separated list of `name=value`.
fn pairs(flag: &str, list: &str, draft: &mut Draft, set: impl Fn(&mut Draft, &str, &str)) {
    for pair in list.split(',').filter(|pair| !pair.trim().is_empty()) {
        match assignment(pair) {
            Some((name, value)) => set(draft, name, value),
            None => draft.drop(flag, "an entry without a value"),
        }
    }
}

fn switch(name: &str, value: &str, key: Key, draft: &mut Draft) {
    match truth(value) {
        Some(yes) => draft.literal(key, yes),
        None => draft.drop(name, "it is neither true nor false"),
    }
}

fn strategy(value: &str, draft: &mut Draft) {
    let strategy = match value {
        // "Local Execution, Remote Caching" in reclient's words.
        "local" => "cache_only",
        "remote" | "remote_local_fallback" | "racing" => value,
        _ => return draft.drop("exec_strategy", "none of local, remote, remote_local_fallback and racing"),
    };
    draft.text(Key::Strategy, strategy);
}

/// `Call=duration` for single calls and `default=duration` for the rest.
fn rpc_timeouts(list: &str, draft: &mut Draft) {
    for (name, value) in list.split(',').filter_map(assignment) {
        match (name, duration(value)) {
            ("default", Some(timeout)) => draft.text(Key::Timeout, &timeout),
            _ => draft.drop("rpc_timeouts", "farcc has one limit for all calls, here the `default`"),
        }
    }
}

/// Why a flag has no place in farcc.toml.
fn reason(name: &str) -> &'static str {
    match name {
        "use_application_default_credentials"
        | "use_gce_credentials"
        | "credential_file"
        | "use_rpc_credentials"
        | "automatic_auth"
        | "gcert_refresh_timeout"
        | "creds_file"
        | "use_external_auth_token" => {
            "farcc does not log in at Google by itself: a credential_helper of Bazel's protocol can, or a token_file"
        }
        "credentials_helper"
        | "credentials_helper_args"
        | "experimental_credentials_helper"
        | "experimental_credentials_helper_args" => {
            "another protocol than farcc's: credential_helper is called with `get`, as Bazel does it"
        }
        "service_no_auth" => "farcc sends no credentials but those that it is told",
        "tls_server_name" => "farcc checks the certificate for the host of the address",
        "cas_concurrency"
        | "max_concurrent_requests_per_conn"
        | "max_concurrent_streams_per_conn"
        | "grpc_keepalive_time"
        | "grpc_keepalive_timeout"
        | "grpc_keepalive_permit_without_stream"
        | "dial_timeout" => "farcc manages its own connections",
        "use_unified_uploads"
        | "use_unified_downloads"
        | "use_batches"
        | "upload_buffer_size"
        | "upload_tick_duration"
        | "download_buffer_size"
        | "download_tick_duration"
        | "unified_uploads" => "farcc always sends and fetches a blob once, small ones together",
        "local_resource_fraction" => "a share; farcc takes a number: [exec] local_jobs",
        "racing_bias" => "farcc runs a miss in both places at once, where a slot is free",
        "racing_tmp_dir" => "in a race of farcc's, results wait in the store",
        "cache_dir" | "enable_deps_cache" | "deps_cache_max_mb" | "deps_cache_mode" => {
            "farcc keeps what it knows of files by itself"
        }
        "version_cache_silo" => "the versions of farcc need no setting apart",
        "depsscanner_address"
        | "clang_depscan_archive"
        | "clang_depscan_ignored_plugins"
        | "ip_timeout"
        | "ip_reset_min_delay" => "of reclient's scanner; farcc has its own",
        "inputs" | "toolchain_inputs" | "input_list_paths" | "output_files" | "output_directories" => {
            "farcc finds inputs and outputs from the command"
        }
        "labels"
        | "exec_root"
        | "canonicalize_working_dir"
        | "env_var_allowlist"
        | "remote_wrapper"
        | "local_wrapper"
        | "preserve_symlink"
        | "preserve_unchanged_output_mtime"
        | "download_outputs"
        | "action_log" => "farcc takes it from the command, or always does the same",
        "reclient_timeout" => "farcc waits for the cluster as long as it answers",
        _ if name.starts_with("fail_early") => {
            "farcc never ends a build: a cluster that fails is left alone for a while"
        }
        "server_address"
        | "proxy_idle_timeout"
        | "wait_for_shutdown_rpc"
        | "re_proxy"
        | "reproxy_wait_seconds"
        | "shutdown"
        | "shutdown_proxy"
        | "download_tmp_dir"
        | "startup_capabilities"
        | "cfg" => "of reclient's own daemon",
        _ if ["log", "metrics", "pprof", "profiler", "dump_", "output_dir"]
            .iter()
            .any(|part| name.contains(part)) =>
        {
            "of reclient's own logs and measurements"
        }
        "v" | "vmodule" | "invocation_id" | "command_id" | "tool_name" | "xattr_digest" => {
            "of reclient's own logs and measurements"
        }
        _ => "farcc has no such key",
    }
}
