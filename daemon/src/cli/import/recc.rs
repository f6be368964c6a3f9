//! recc's settings: `recc.conf`, whose keys have no prefix, and files of `RECC_*` variables.
//! Follows docs/source/configuration-variables.rst of recc; knows nothing of the other places that recc reads.

use std::collections::BTreeMap;

use crate::cli::import::address::Address;
use crate::cli::import::address::Addresses;
use crate::cli::import::draft::ALL_COMMANDS;
use crate::cli::import::draft::Draft;
use crate::cli::import::draft::Key;
use crate::cli::import::syntax::duration;
use crate::cli::import::syntax::truth;
use crate::cli::import::syntax::variables;

/// Settings by name, in small letters but for what is behind a prefix such as `remote_platform_`.
type Settings = BTreeMap<String, String>;

/// Prefixes of settings that name a property, and the class of commands that has it.
const PLATFORM: &[(&str, &str)] = &[
    ("remote_platform_", ALL_COMMANDS),
    ("compile_remote_platform_", "compile"),
    ("link_remote_platform_", "link"),
];

pub(super) fn translate(text: &str, draft: &mut Draft) {
    let settings = settings(text, draft);
    let get = |name: &str| settings.get(name).map(String::as_str).filter(|value| !value.is_empty());
    let is_on = |name: &str| get(name).is_some();

    let tls = is_on("server_auth_googleapi");
    let own = |name: &str| get(name).map(|raw| address(raw, tls));
    let cache_only = is_on("cache_only");
    let server = own("server");
    // Blobs and results fall back on each other before they fall back on the server.
    let cas = own("cas_server").or_else(|| own("action_cache_server")).or_else(|| server.clone());
    let action_cache = own("action_cache_server").or_else(|| own("cas_server")).or_else(|| server.clone());
    let is_configured = cas.is_some();
    let engine = server.filter(|_| !cache_only);
    Addresses { engine, cas, action_cache }.write(draft);
    if cache_only {
        draft.literal(Key::Strategy, "\"cache_only\"");
        if !is_on("cache_upload_local_build") {
            draft.literal(Key::UploadLocalResults, "false");
            draft.note_on(
                Key::UploadLocalResults,
                "recc uploads only where RECC_CACHE_UPLOAD_LOCAL_BUILD is set",
            );
        }
    } else if is_configured {
        draft.note(
            "recc fails where the cluster does, farcc runs the command here: [exec] strategy = \"remote\" is recc's way",
        );
    }
    for (name, value) in settings.iter().filter(|(_, value)| !value.is_empty()) {
        setting(name, value, cache_only, draft);
    }
    let instance = get("instance").unwrap_or_default();
    for name in ["cas_instance", "action_cache_instance"] {
        if get(name).is_some_and(|own| own != instance) {
            match draft.has(Key::InstanceName) {
                true => draft.drop(name, "farcc has one instance name for all services"),
                false => draft.text(Key::InstanceName, get(name).unwrap_or_default()),
            }
        }
    }
    if is_configured && !is_on("link") {
        draft.note("recc leaves links alone where RECC_LINK is not set; farcc does them as well");
    }
}

fn settings(text: &str, draft: &mut Draft) -> Settings {
    let mut of_file = Settings::new();
    let mut of_environment = Settings::new();
    for (line, number) in text.lines().map(str::trim).zip(1..) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some(variables) = variables(line) else {
            draft.drop(&format!("line {number}"), "it sets nothing, or its quotes do not close");
            continue;
        };
        let is_exported = line.starts_with("export ");
        for (variable, value) in variables {
            match variable.strip_prefix("RECC_") {
                Some(name) => drop(of_environment.insert(canonical(name), value)),
                None if is_exported => draft.drop(&variable, "no variable of recc"),
                None => drop(of_file.insert(canonical(&variable), value)),
            }
        }
    }
    of_file.extend(of_environment);
    of_file
}

/// A name in small letters, but for a key behind a prefix, which may stand in brackets: `REMOTE_PLATFORM_[OSFamily]`.
fn canonical(name: &str) -> String {
    const KEYED: &[&str] = &[
        "compile_remote_platform_",
        "link_remote_platform_",
        "remote_platform_",
        "remote_env_",
        "deps_env_",
        "metrics_tag_",
    ];
    let small = name.to_ascii_lowercase();
    let Some(prefix) = KEYED.iter().find(|prefix| small.starts_with(**prefix)) else { return small };
    let key = &name[prefix.len()..];
    let bare = key.strip_prefix('[').and_then(|key| key.strip_suffix(']')).unwrap_or(key);
    format!("{prefix}{bare}")
}

fn address(raw: &str, google: bool) -> Address {
    if let Some(path) = raw.strip_prefix("unix:") {
        return Address::unix(path.strip_prefix("//").unwrap_or(path));
    }
    let (scheme, rest) = raw.split_once("://").unwrap_or(("", raw));
    match scheme {
        "https" | "grpcs" => Address::host(rest, true, 443),
        "http" | "grpc" | "" => {
            // gRPC for C++ takes 443 where there is no port, with TLS and without.
            let address = Address::host(rest, google, 443);
            match google {
                true => address.noted("TLS, as RECC_SERVER_AUTH_GOOGLEAPI asks"),
                false => address,
            }
        }
        _ => Address::host(rest, google, 443).noted("recc does not know this scheme; it was left out"),
    }
}

fn setting(name: &str, value: &str, cache_only: bool, draft: &mut Draft) {
    for (prefix, class) in PLATFORM {
        if let Some(property) = name.strip_prefix(prefix) {
            return draft.property(class, prefix, property, value);
        }
    }
    match name {
        // Done together.
        "server"
        | "cas_server"
        | "action_cache_server"
        | "cache_only"
        | "cas_instance"
        | "action_cache_instance" => {
            return;
        }
        "instance" => return draft.text(Key::InstanceName, value),
        "access_token_path" => return draft.path(Key::TokenFile, value),
        "project_root" => return draft.path(Key::Roots, value),
        "action_salt" => return draft.text(Key::Salt, value),
        "retry_limit" => {
            return match value.parse::<u32>() {
                Ok(retries) => draft.literal(Key::Retries, retries),
                Err(_) => draft.drop(name, "it is no number"),
            };
        }
        "request_timeout" => {
            return match duration(value) {
                Some(timeout) => draft.text(Key::Timeout, &timeout),
                None => draft.drop(name, "it is no duration"),
            };
        }
        "cas_digest_function" => {
            return match value.to_ascii_uppercase().as_str() {
                "SHA256" => draft.literal(Key::DigestFunction, "\"sha256\""),
                "SHA1" => draft.literal(Key::DigestFunction, "\"sha1\""),
                "BLAKE3" => draft.literal(Key::DigestFunction, "\"blake3\""),
                _ => draft.drop(name, "farcc has SHA256, SHA1 and BLAKE3"),
            };
        }
        _ => {}
    }
    match name {
        "skip_cache" => draft.literal(Key::AcceptCached, "false"),
        "verify" => draft.literal(Key::Verify, "1.0"),
        "cache_upload_local_build" if cache_only => draft.literal(Key::UploadLocalResults, "true"),
        _ => return draft.drop(name, reason(name)),
    }
    if truth(value) == Some(false) {
        draft.note(format!("{name} says no, but recc takes any value for yes, and so does this file"));
    }
}

/// Why a setting has no place in farcc.toml.
fn reason(name: &str) -> &'static str {
    match name {
        "cache_upload_local_build" => "it counts with RECC_CACHE_ONLY alone",
        "server_auth_googleapi" => {
            "farcc does not log in at Google by itself: a credential_helper can, or a token_file"
        }
        "link" => "farcc always does links as well",
        "link_cache_only" | "compile_cache_only" => "farcc has one [exec] strategy for all commands",
        "force_remote" => "farcc sends compiles, links and archives; others run here",
        "action_uncacheable" => "farcc always lets the cluster keep results",
        "no_execute" | "dont_save_output" => "for trying recc out: `farccd action` shows what would be sent",
        "no_path_rewrite" | "prefix_map" | "working_dir_prefix" => {
            "farcc finds by itself how paths reach the workers: [exec] root"
        }
        "preserve_env" | "env_to_read" => "farcc takes the environment that the compiler reads",
        "retry_delay" => "farcc spaces its retries by itself",
        "keepalive_time" => "farcc manages its own connections",
        "reapi_version" => "farcc asks the server",
        "max_threads" | "runner_command" | "tmpdir" | "tmp_prefix" => "of recc's own process",
        "verbose"
        | "log_level"
        | "log_directory"
        | "enable_metrics"
        | "statsd_format"
        | "correlated_invocations_id"
        | "compilation_metadata_udp_port"
        | "link_metrics_only" => "of recc's own logs and measurements",
        _ if name.starts_with("metrics_") => "of recc's own logs and measurements",
        _ if name.starts_with("remote_env_") => "farcc takes the environment from the command",
        _ if name.starts_with("deps_") || name.starts_with("output_") || name == "compilation_database" => {
            "farcc finds inputs and outputs from the command"
        }
        _ => "farcc has no such key",
    }
}
