//! Bazel's `.bazelrc`: the options of builds that say something about a cluster.
//! Follows src/main/cpp/rc_file.cc of Bazel in how lines are read and sections expanded; knows nothing of imported
//! files.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use anyhow::bail;

use crate::cli::import::address::Address;
use crate::cli::import::address::Addresses;
use crate::cli::import::draft::ALL_COMMANDS;
use crate::cli::import::draft::Draft;
use crate::cli::import::draft::Key;
use crate::cli::import::syntax::Comment;
use crate::cli::import::syntax::assignment;
use crate::cli::import::syntax::duration;
use crate::cli::import::syntax::truth;
use crate::cli::import::syntax::words;

/// Whose lines count, from the least to the most particular. A build does not read those of `test`, so they yield.
const COMMANDS: &[&str] = &["always", "common", "test", "build"];

/// One line: `command:config words…`.
#[derive(Debug)]
struct Line {
    command: String,
    config: Option<String>,
    words: Vec<String>,
}

/// An option as it counts in the end.
#[derive(Debug)]
struct Flag {
    /// Without its dashes, `no` and `experimental_`.
    name: String,
    /// As it was written, for the report.
    written: String,
    value: String,
}

/// # Errors
/// When sections call each other so often that they make too many options.
pub(super) fn translate(text: &str, configs: &[String], draft: &mut Draft) -> anyhow::Result<()> {
    draft.takes_dollar_literally("Bazel");
    let lines = lines(text, draft);
    let mut expansion = Expansion::of(&lines);
    expansion.expand(None, draft)?;
    for config in configs {
        if !expansion.sections.contains_key(&Some(config.as_str())) {
            bail!("use --bazel-config {config}: the file has no lines for it");
        }
        expansion.expand(Some(config), draft)?;
    }
    let Expansion { flags, used, .. } = expansion;
    let mut unused: Vec<_> = lines.iter().filter_map(|line| line.config.as_deref()).collect();
    unused.sort_unstable();
    unused.dedup();
    unused.retain(|config| !used.contains(*config) && is_word(config));
    if !unused.is_empty() {
        unused.truncate(100);
        draft.note(format!("not taken in, as no --bazel-config NAME says so: {}", unused.join(", ")));
    }
    let scope = Scope::of(&flags);
    addresses(&flags, draft);
    for flag in &flags {
        set(flag, &scope, draft);
    }
    if draft.has(Key::TlsClientKey) && !draft.has(Key::TlsClientCert) {
        draft.disable(Key::TlsClientKey, "it needs a tls.client_cert");
    }
    let has_executor = scope.executor.is_some();
    if has_executor && !flags.iter().any(|flag| flag.name == "remote_local_fallback") {
        draft.note(
            "Bazel fails where the cluster does, farcc runs the command here: [exec] strategy = \"remote\" is Bazel's \
             way",
        );
    }
    if has_executor && !draft.has_platform() {
        draft.note(
            "properties of the workers may stand in the exec_properties of a platform in Starlark: write them into \
             [platform], name = \"value\"",
        );
    }
    Ok(())
}

fn is_word(text: &str) -> bool {
    text.len() <= 64 && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-.+".contains(c))
}

fn lines(text: &str, draft: &mut Draft) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut physical = text.lines().zip(1..);
    while let Some((first, number)) = physical.next() {
        let mut line = first.to_owned();
        while line.ends_with('\\') {
            line.pop();
            line.push_str(physical.next().map_or("", |(next, _)| next));
        }
        let Some(words) = words(&line, Comment::Anywhere) else {
            draft.drop(&format!("line {number}"), "its quotes do not close");
            continue;
        };
        // Bazel knows no empty words.
        let mut words = words.into_iter().filter(|word| !word.is_empty());
        let Some(command) = words.next() else { continue };
        if command == "import" || command == "try-import" {
            let file = words.next().unwrap_or_default();
            draft.note(format!("not followed, import it by itself: {command} {file}"));
            continue;
        }
        let (command, config) = match command.split_once(':') {
            Some((command, config)) => (command.to_owned(), Some(config.to_owned())),
            None => (command, None),
        };
        let words: Vec<_> = words.collect();
        match command.as_str() {
            _ if COMMANDS.contains(&command.as_str()) => lines.push(Line { command, config, words }),
            "startup" => startup(&words, draft),
            _ if is_word(&command) => {
                draft.drop(
                    &command,
                    "lines for other commands of Bazel: only those of builds are like what farcc does",
                );
            }
            _ => draft.drop(&format!("line {number}"), "it begins with no command of Bazel"),
        }
    }
    lines
}

/// Options of Bazel's server.
fn startup(words: &[String], draft: &mut Draft) {
    for flag in flags(words) {
        match (flag.name.as_str(), flag.value.to_ascii_lowercase().as_str()) {
            ("digest_function", name @ ("sha256" | "blake3" | "sha1")) => {
                draft.literal(Key::DigestFunction, format!("\"{name}\""));
            }
            _ => draft.drop(&flag.written, "of Bazel's own server"),
        }
    }
}

/// The options of a line, each with its value.
fn flags(words: &[String]) -> Vec<Flag> {
    let mut flags = Vec::new();
    let mut words = words.iter().peekable();
    while let Some(word) = words.next() {
        let Some(long) = word.strip_prefix("--") else {
            // `-j 8`, `-c opt`; the rest of the letters have no values, and a word without a dash is none of ours.
            let value = words.next_if(|_| matches!(word.as_str(), "-j" | "-c"));
            let name = if word == "-j" { "jobs" } else { "" };
            let written =
                if word.starts_with('-') && word.len() == 2 { word } else { "a word that is no option" };
            let (name, written) = (name.to_owned(), written.to_owned());
            flags.push(Flag { name, written, value: value.cloned().unwrap_or_default() });
            continue;
        };
        let (name, mut value) = match assignment(long) {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (long, None),
        };
        let known = |name: &str| name.strip_prefix("experimental_").unwrap_or(name).to_owned();
        let negated = name.strip_prefix("no").map(known).filter(|name| SWITCHES.contains(&name.as_str()));
        let written = format!("--{name}");
        let name = match negated {
            Some(name) => {
                value = Some("false".to_owned());
                name
            }
            None => known(name),
        };
        if value.is_none() && !SWITCHES.contains(&name.as_str()) {
            value = words.next_if(|next| takes_a_word(&name) || !next.starts_with('-')).cloned();
        }
        flags.push(Flag { name, written, value: value.unwrap_or_else(|| "true".to_owned()) });
    }
    flags
}

/// Options without a value, of those that mean something here.
const SWITCHES: &[&str] = &[
    "remote_accept_cached",
    "remote_upload_local_results",
    "remote_local_fallback",
    "remote_cache_compression",
    "remote_cache_async",
    "remote_verify_downloads",
    "google_default_credentials",
    "enable_platform_specific_config",
];

/// Whether the next word is the value, even where it begins with a dash: no other option may be mistaken for one.
fn takes_a_word(name: &str) -> bool {
    matches!(
        name,
        "remote_header" | "remote_exec_header" | "remote_cache_header" | "remote_default_exec_properties"
    )
}

/// The options of sections, put where `--config` calls them.
struct Expansion<'a> {
    /// Lines that have words, by the name of their section.
    sections: BTreeMap<Option<&'a str>, Vec<&'a Line>>,
    flags: Vec<Flag>,
    open: Vec<String>,
    used: BTreeSet<String>,
}

/// Options that the sections of a file may make.
const MOST_FLAGS: usize = 20_000;

/// Sections that may call each other.
const DEEPEST: usize = 64;

impl<'a> Expansion<'a> {
    fn of(lines: &'a [Line]) -> Expansion<'a> {
        let mut sections: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for line in lines {
            let section = sections.entry(line.config.as_deref()).or_default();
            section.extend((!line.words.is_empty()).then_some(line));
        }
        Expansion { sections, flags: Vec::new(), open: Vec::new(), used: BTreeSet::new() }
    }

    fn expand(&mut self, config: Option<&str>, draft: &mut Draft) -> anyhow::Result<()> {
        if let Some(config) = config {
            if self.open.iter().any(|open| open == config) {
                draft.note("sections call each other in a circle: each was taken once");
                return Ok(());
            }
            if self.open.len() == DEEPEST {
                bail!("expand --config: sections call each other more than {DEEPEST} deep");
            }
            self.open.push(config.to_owned());
            self.used.insert(config.to_owned());
        }
        let section = self.sections.get(&config).cloned().unwrap_or_default();
        for command in COMMANDS {
            for line in section.iter().filter(|line| line.command == *command) {
                for flag in flags(&line.words) {
                    self.take(flag, draft)?;
                }
            }
        }
        if config.is_some() {
            self.open.pop();
        }
        Ok(())
    }

    fn take(&mut self, flag: Flag, draft: &mut Draft) -> anyhow::Result<()> {
        let config = match flag.name.as_str() {
            "config" => Some(flag.value.clone()),
            // farcc knows one system.
            "enable_platform_specific_config" if truth(&flag.value) == Some(true) => Some("linux".to_owned()),
            _ => None,
        };
        self.flags.push(flag);
        if self.flags.len() > MOST_FLAGS {
            bail!("expand --config: the sections make more than {MOST_FLAGS} options");
        }
        let Some(config) = config else { return Ok(()) };
        if self.sections.contains_key(&Some(config.as_str())) {
            return self.expand(Some(&config), draft);
        }
        if config != "linux" && is_word(&config) {
            draft.note(format!("--config={config} is called, but has no lines in this file"));
        }
        Ok(())
    }
}

/// What several options decide together.
#[derive(Debug, Default)]
struct Scope {
    executor: Option<String>,
    /// The value of the `--credential_helper` that fits the cluster best.
    helper: Option<String>,
}

impl Scope {
    fn of(flags: &[Flag]) -> Scope {
        let executor = last(flags, "remote_executor");
        let address = executor.or_else(|| last(flags, "remote_cache")).unwrap_or_default();
        let host = address.split_once("://").map_or(address, |(_, rest)| rest);
        let host = host.split([':', '/']).next().unwrap_or_default();
        // As Bazel chooses: an exact scope before `*.domain`, the longer before the shorter, none last.
        let rank = |value: &str| match value.split_once('=') {
            None => Some(0),
            Some((scope, _)) if scope == host => Some(usize::MAX),
            Some((scope, _)) => scope
                .strip_prefix("*.")
                .filter(|domain| {
                    host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
                })
                .map(|domain| domain.len() + 1),
        };
        let helpers = flags.iter().filter(|flag| flag.name == "credential_helper");
        let helper = helpers.filter_map(|flag| Some((rank(&flag.value)?, &flag.value)));
        Scope {
            executor: executor.map(str::to_owned),
            helper: helper.max_by_key(|(rank, _)| *rank).map(|(_, value)| value.clone()),
        }
    }
}

/// The last value of an option; an empty one takes it back.
fn last<'a>(flags: &'a [Flag], name: &str) -> Option<&'a str> {
    let value = flags.iter().rev().find(|flag| flag.name == name)?.value.as_str();
    (!value.is_empty()).then_some(value)
}

fn addresses(flags: &[Flag], draft: &mut Draft) {
    let engine = last(flags, "remote_executor").and_then(|raw| address("--remote_executor", raw, draft));
    let cache = last(flags, "remote_cache").and_then(|raw| address("--remote_cache", raw, draft));
    Addresses { engine, action_cache: cache.clone(), cas: cache }.write(draft);
}

fn address(from: &str, raw: &str, draft: &mut Draft) -> Option<Address> {
    if let Some(path) = raw.strip_prefix("unix:") {
        return Some(Address::unix(path.strip_prefix("//").unwrap_or(path)));
    }
    let (scheme, rest) = raw.split_once("://").unwrap_or(("", raw));
    match scheme {
        "grpc" => Some(Address::host(rest, false, 80)),
        // What Bazel takes where no scheme is.
        "grpcs" | "" => Some(Address::host(rest, true, 443)),
        "http" | "https" => {
            draft.drop(from, "a cache over HTTP: farcc speaks gRPC");
            None
        }
        _ => {
            draft.drop(from, "its scheme is neither grpc, grpcs nor unix");
            None
        }
    }
}

fn set(flag: &Flag, scope: &Scope, draft: &mut Draft) {
    let (name, value) = (flag.name.as_str(), flag.value.as_str());
    match name {
        // Done together, or expanded.
        "remote_executor" | "remote_cache" | "config" | "enable_platform_specific_config" => {}
        "remote_instance_name" => draft.text(Key::InstanceName, value),
        "remote_header" => header(flag, None, draft),
        "remote_cache_header" | "remote_exec_header" => {
            header(flag, Some("of one service in Bazel; farcc sends it to all of them"), draft);
        }
        "remote_default_exec_properties" => match assignment(value) {
            Some((property, value)) => draft.property(ALL_COMMANDS, &flag.written, property, value),
            None => draft.drop(&flag.written, "a property without a value"),
        },
        "remote_retries" => match value.parse::<u32>() {
            Ok(retries) => draft.literal(Key::Retries, retries),
            Err(_) => draft.drop(&flag.written, "it is no number"),
        },
        "remote_timeout" => match duration(value) {
            Some(timeout) => draft.text(Key::Timeout, &timeout),
            None => draft.drop(&flag.written, "it is no duration"),
        },
        "remote_accept_cached" => switch(flag, Key::AcceptCached, ["false", "true"], draft),
        "remote_upload_local_results" => switch(flag, Key::UploadLocalResults, ["false", "true"], draft),
        "remote_cache_compression" => switch(flag, Key::Compression, ["\"never\"", "\"auto\""], draft),
        "remote_local_fallback" if scope.executor.is_none() => {
            draft.drop(&flag.written, "there is no execution service to fall back from");
        }
        "remote_local_fallback" => {
            switch(flag, Key::Strategy, ["\"remote\"", "\"remote_local_fallback\""], draft);
        }
        "tls_certificate" => draft.path(Key::TlsCaCerts, value),
        "tls_client_certificate" => draft.path(Key::TlsClientCert, value),
        "tls_client_key" => draft.path(Key::TlsClientKey, value),
        "credential_helper" => credential_helper(flag, scope, draft),
        "digest_function" => draft.drop(&flag.written, "it is one of the `startup` options"),
        "jobs" => match value.parse::<u32>() {
            Ok(jobs) if jobs > 0 => draft.literal(Key::Jobs, jobs),
            _ => draft.drop(&flag.written, "farcc takes a plain number: [exec] jobs"),
        },
        "local_cpu_resources" | "local_resources" => {
            match value.strip_prefix("cpu=").unwrap_or(value).parse::<u32>() {
                Ok(jobs) if jobs > 0 => draft.literal(Key::LocalJobs, jobs),
                _ => draft.drop(&flag.written, "farcc takes a plain number of processors: [exec] local_jobs"),
            }
        }
        _ => draft.drop(&flag.written, reason(name)),
    }
}

fn switch(flag: &Flag, key: Key, words: [&str; 2], draft: &mut Draft) {
    match truth(&flag.value) {
        Some(yes) => draft.literal(key, words[usize::from(yes)]),
        None => draft.drop(&flag.written, "it is neither true nor false"),
    }
}

fn header(flag: &Flag, note: Option<&str>, draft: &mut Draft) {
    match assignment(&flag.value) {
        Some((name, value)) => draft.header(&flag.written, name, value, note),
        None => draft.drop(&flag.written, "a header without a value"),
    }
}

fn credential_helper(flag: &Flag, scope: &Scope, draft: &mut Draft) {
    if scope.helper.as_ref() != Some(&flag.value) {
        return draft
            .drop(&flag.written, "of other hosts, or less particular: farcc has one, for its cluster");
    }
    let path = flag.value.split_once('=').map_or(flag.value.as_str(), |(_, path)| path);
    match path.strip_prefix("%workspace%/") {
        Some(path) => draft.path(Key::CredentialHelper, path),
        None => draft.program(Key::CredentialHelper, path),
    }
}

/// Why an option has no place in farcc.toml.
fn reason(name: &str) -> &'static str {
    match name {
        "google_default_credentials" | "google_credentials" | "google_auth_scopes" => {
            "farcc does not log in at Google by itself: a credential_helper can"
        }
        "remote_download_outputs"
        | "remote_download_minimal"
        | "remote_download_toplevel"
        | "remote_download_all"
        | "remote_download_regex" => {
            "a build system that farcc stands in wants every output, so all are fetched"
        }
        "remote_verify_downloads" => "farcc verifies everything that it downloads",
        "remote_default_platform_properties" => "an old form: write the properties into [platform]",
        "remote_max_connections"
        | "remote_max_concurrency_per_connection"
        | "grpc_keepalive_time"
        | "grpc_keepalive_timeout" => "farcc manages its own connections",
        "remote_retry_max_delay" => "farcc spaces its retries by itself",
        "remote_cache_compression_threshold" => "farcc chooses by itself which blobs are worth it",
        "remote_execution_priority" | "remote_result_cache_priority" => "farcc sends no priorities",
        "remote_proxy" => "farcc connects directly: address = \"unix:/path\" where the proxy is the server",
        "remote_downloader" | "remote_downloader_header" | "remote_downloader_local_fallback" => {
            "farcc downloads no sources"
        }
        "disk_cache" => "farcc keeps a store of its own: [cache] dir and max_size",
        "spawn_strategy"
        | "strategy"
        | "strategy_regexp"
        | "genrule_strategy"
        | "dynamic_local_strategy"
        | "dynamic_remote_strategy"
        | "internal_spawn_scheduler" => "farcc's own are [exec] strategy and [[route]]",
        "extra_execution_platforms"
        | "host_platform"
        | "platforms"
        | "extra_toolchains"
        | "crosstool_top"
        | "host_crosstool_top"
        | "define" => "of Bazel's platforms and toolchains: farcc takes the compiler that the build names",
        "action_env" | "host_action_env" | "test_env" | "repo_env" | "incompatible_strict_action_env" => {
            "farcc takes the environment that the build gives to its compiler"
        }
        "" => "a letter, or a word, that says nothing of a cluster",
        _ if name.starts_with("bes_") || name.starts_with("build_event") => "reports of Bazel's own builds",
        _ if name.starts_with("remote_") || name.starts_with("grpc_") || name.starts_with("tls_") => {
            "farcc has no such key"
        }
        _ => "of Bazel's own build",
    }
}
