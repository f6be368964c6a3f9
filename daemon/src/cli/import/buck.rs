//! Buck2's `.buckconfig`: `[buck2_re_client]` and `[buck2] digest_algorithms`.
//! Follows app/buck2_common/src/legacy_configs/parser.rs and app/buck2_re_configuration of Buck2 in how lines are read;
//! knows nothing of included files.

use std::collections::BTreeMap;

use crate::cli::import::address::Address;
use crate::cli::import::address::Addresses;
use crate::cli::import::draft::Draft;
use crate::cli::import::draft::Key;
use crate::cli::import::syntax::assignment;
use crate::cli::import::syntax::truth;

const CLIENT: &str = "buck2_re_client";

/// Sections by name, each with its keys.
type Sections = BTreeMap<String, BTreeMap<String, String>>;

pub(super) fn translate(text: &str, draft: &mut Draft) {
    let sections = sections(text, draft);
    let nothing = BTreeMap::new();
    let mut keys: BTreeMap<&str, String> = BTreeMap::new();
    for (name, raw) in sections.get(CLIENT).unwrap_or(&nothing) {
        let mut budget = MOST_REFERENCES;
        match resolved(raw, &sections, 0, &mut budget) {
            Ok(value) => drop(keys.insert(name, value)),
            Err(reason) => draft.drop(name, reason),
        }
    }
    if !sections.contains_key(CLIENT) {
        draft.note("there is no section [buck2_re_client] in the file");
    }
    addresses(&keys, draft);
    for (name, value) in &keys {
        key(name, value, draft);
    }
    if let Some(raw) = sections.get("buck2").and_then(|section| section.get("digest_algorithms")) {
        digest_function(raw, draft);
    }
    if draft.has(Key::Address) {
        draft.note(
            "Buck2 keeps the properties of the workers in its execution platforms, as remote_execution_properties \
             in Starlark: write them into [platform], name = \"value\"",
        );
    }
    for (section, keys) in &sections {
        for name in keys.keys() {
            let is_known = section == CLIENT || (section == "buck2" && name == "digest_algorithms");
            if !is_known {
                draft.drop(&format!("{section}.{name}"), "of Buck2's own build");
            }
        }
    }
}

fn sections(text: &str, draft: &mut Draft) -> Sections {
    let mut sections = Sections::new();
    let mut current = String::new();
    let mut lines = text.lines().map(str::trim).zip(1..);
    while let Some((first, number)) = lines.next() {
        let mut line = first.to_owned();
        while let Some(shorter) = line.strip_suffix('\\').map(str::len) {
            line.truncate(shorter);
            line.push_str(lines.next().map_or("", |(next, _)| next));
        }
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        let section =
            line.strip_prefix('[').map(|rest| rest.split(" #").next().unwrap_or_default().trim_end());
        if let Some(section) = section.and_then(|rest| rest.strip_suffix(']')) {
            current = section.to_owned();
            sections.entry(current.clone()).or_default();
        } else if let Some((name, value)) = assignment(&line).filter(|(name, _)| !name.is_empty()) {
            sections.entry(current.clone()).or_default().insert(name.to_owned(), value.to_owned());
        } else if line.starts_with("<file:") || line.starts_with("<?file:") {
            draft.note(format!(
                "line {number} includes another file, which was not followed: its keys are missing here"
            ));
        } else {
            draft.drop(&format!("line {number}"), "it is no section, no key and no include");
        }
    }
    sections
}

/// References deeper than this are a circle.
const DEEPEST: u32 = 16;

/// References that one value may lead to.
const MOST_REFERENCES: u32 = 1000;

/// Bytes that a value with its references may have.
const LONGEST: usize = 64 << 10;

/// A value with `$(config section.key)` put in. The error is the reason to drop the key.
fn resolved(raw: &str, sections: &Sections, depth: u32, budget: &mut u32) -> Result<String, &'static str> {
    const OPEN: &str = "$(config ";
    let (mut text, mut rest) = (String::new(), raw);
    while let Some(at) = rest.find(OPEN) {
        text.push_str(&rest[..at]);
        let (name, after) = rest[at + OPEN.len()..].split_once(')').ok_or("a reference without an end")?;
        let (section, key) = name.trim().split_once('.').ok_or("a reference without a section")?;
        *budget = budget.saturating_sub(1);
        if depth == DEEPEST || *budget == 0 {
            return Err("references that lead in a circle, or too deep");
        }
        if let Some(value) = sections.get(section).and_then(|section| section.get(key)) {
            text.push_str(&resolved(value, sections, depth + 1, budget)?);
        }
        if text.len() > LONGEST {
            return Err("references that make too long a value");
        }
        rest = after;
    }
    text.push_str(rest);
    Ok(text)
}

fn addresses(keys: &BTreeMap<&str, String>, draft: &mut Draft) {
    let tls = match keys.get("tls").map(|raw| truth(raw)) {
        Some(Some(tls)) => tls,
        // Buck2's default.
        None => true,
        Some(None) => {
            draft.note(
                "tls is neither true nor false in the imported file: it was taken as Buck2's default, true",
            );
            true
        }
    };
    let own = |name: &str| keys.get(name).filter(|raw| !raw.is_empty()).map(|raw| address(raw, tls));
    let of = |name: &str| own(name).or_else(|| own("address"));
    let addresses = Addresses {
        engine: of("engine_address"),
        cas: of("cas_address"),
        action_cache: of("action_cache_address"),
    };
    addresses.write(draft);
}

/// The key `tls` decides, whatever the scheme says: Buck2's `grpc://` is TLS unless it is false.
fn address(raw: &str, tls: bool) -> Address {
    let (scheme, rest) = match raw.split_once("://") {
        Some((scheme, rest)) => (scheme, rest.trim_start_matches('/')),
        None => match raw.split_once(':') {
            Some((scheme @ ("dns" | "ipv4" | "ipv6"), rest)) => (scheme, rest),
            _ => ("", raw),
        },
    };
    let (tls, note) = match scheme {
        "grpc" if tls => {
            (tls, Some("TLS, as Buck2's grpc:// is unless tls = false; for farcc grpc:// is plaintext"))
        }
        "grpc" | "" => (tls, None),
        "dns" | "ipv4" | "ipv6" => (tls, Some("farcc needs no word for how names are resolved")),
        "grpcs" | "https" => (true, Some("Buck2 does not know this scheme; it was taken as TLS")),
        _ => (tls, Some("Buck2 does not know this scheme; the key `tls` was followed")),
    };
    // What tonic takes for http:// without a port.
    let address = Address::host(rest, tls, 80);
    match note {
        Some(note) => address.noted(note),
        None => address,
    }
}

fn key(name: &str, value: &str, draft: &mut Draft) {
    match name {
        "address" | "engine_address" | "cas_address" | "action_cache_address" | "tls" => {}
        "instance_name" => draft.text(Key::InstanceName, value),
        "tls_ca_certs" => draft.path(Key::TlsCaCerts, value),
        "tls_client_cert" => draft.path(Key::TlsClientCert, value),
        "http_headers" => headers(value, draft),
        "execution_concurrency_limit" => match value.parse::<u32>() {
            Ok(limit) if limit > 0 => draft.literal(Key::Jobs, limit),
            _ => draft.drop(name, "it is no number above nought"),
        },
        "capabilities" => draft.drop(name, "farcc always asks what the server can do"),
        "max_decoding_message_size" | "max_total_batch_size" | "find_missing_blobs_batch_size" => {
            draft.drop(name, "farcc takes its sizes from what the server offers");
        }
        "max_concurrent_uploads_per_action"
        | "min_connections"
        | "max_connections"
        | "max_concurrency_per_connection"
        | "grpc_keepalive_time_secs"
        | "grpc_keepalive_timeout_secs"
        | "grpc_keepalive_while_idle" => draft.drop(name, "farcc manages its own connections"),
        "cas_ttl_secs" => draft.drop(name, "farcc asks the server what it still has"),
        "use_fbcode_metadata" | "override_use_case" => draft.drop(name, "of Meta's own cluster"),
        _ if is_internal(name) => draft.drop(name, "of Meta's own cluster; Buck2's public build ignores it"),
        _ => draft.drop(name, "farcc has no such key"),
    }
}

/// Keys of the client that only Meta has (buck2_re_configuration, the fbcode half).
fn is_internal(name: &str) -> bool {
    const PARTS: &[&str] = &[
        "connection_count",
        "cas_shared_cache",
        "cas_thread_count",
        "use_p2p",
        "rich_client",
        "curl_reactor",
        "minimal_blob_ttl",
        "remaining_ttl",
        "disable_fallocate",
        "respect_file_symlinks",
        "engine_tier",
        "engine_host",
        "engine_port",
        "enable_download_cancellation",
        "features_config_path",
        "client_config_path",
        "verbose_logging",
        "force_enable_deduplicate_find_missing",
        "use_manifold",
    ];
    PARTS.iter().any(|part| name.contains(part))
}

fn headers(value: &str, draft: &mut Draft) {
    for header in value.split(',').filter(|header| !header.trim().is_empty()) {
        match header.split_once(':') {
            Some((name, value)) => draft.header("http_headers", name.trim(), value.trim(), None),
            None => draft.drop("http_headers", "a header without a colon"),
        }
    }
}

/// Buck2 uses the first that the server has; so does `auto`, among those that farcc has.
fn digest_function(raw: &str, draft: &mut Draft) {
    let mut names = raw.split(',').map(str::trim);
    let first = names.next().unwrap_or_default();
    let known = match first {
        "SHA256" => "\"sha256\"",
        "BLAKE3" => "\"blake3\"",
        "SHA1" => "\"sha1\"",
        _ => return draft.drop("buck2.digest_algorithms", "farcc has SHA256, BLAKE3 and SHA1"),
    };
    draft.literal(Key::DigestFunction, known);
    if names.next().is_some() {
        draft.note_on(Key::DigestFunction, "the first of several; \"auto\" takes what the server offers");
    }
}
