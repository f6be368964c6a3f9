//! `farccd explain`: what happened to the command that made a file last, and why.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use std::time::SystemTime;

use anyhow::Context;
use anyhow::bail;
use farcc_proto::record::CommandRecord;
use farcc_proto::record::Ingredient;
use farcc_proto::record::ingredient::Kind;
use serde_json::json;

use crate::cli::Surroundings;
use crate::cli::print;
use crate::cli::print_json;
use crate::cli::readable_micros;
use crate::dispatch::PATHS;
use crate::history::differences;
use crate::paths;

pub(super) fn explain(surroundings: &Surroundings, file: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let path = paths::lexically_normal(&paths::absolute(&surroundings.cwd, file));
    let made = |path: &Path| {
        surroundings.history().of(path).with_context(|| format!("read what made {}", path.display()))
    };
    let history = match (made(&path)?, path.canonicalize()) {
        // Commands name their outputs from the physical working directory; the user may stand in a symlinked one.
        (None, Ok(physical)) => made(&physical)?,
        (known, _) => known,
    };
    let Some(history) = history else {
        bail!("explain {}: farcc knows of no command that made it", path.display());
    };
    let last = history.last.context("read the record: it is empty")?;
    let differences = history.previous.as_ref().map(|previous| differences(previous, &last));
    if json {
        return print_json(&json!({
            "file": path.to_string_lossy(),
            "outcome": last.outcome,
            "reason": last.reason,
            "reason_detail": last.reason_detail,
            "arguments": arguments(&last),
            "directory": OsStr::from_bytes(&last.cwd).to_string_lossy(),
            "unix_millis": last.unix_millis,
            "micros": last.micros,
            "key": last.key,
            "paths": paths_of(&last),
            "differences": differences.map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>()),
        }));
    }
    let mut text = format!("{}\n", path.display());
    let ended = SystemTime::UNIX_EPOCH + Duration::from_millis(last.unix_millis);
    let age = SystemTime::now().duration_since(ended).unwrap_or_default().as_secs();
    // Writing to a String cannot fail.
    let _ = writeln!(text, "  {}", meaning(&last));
    let _ = writeln!(
        text,
        "  {} ago, {} in the daemon",
        humantime::format_duration(Duration::from_secs(age)),
        readable_micros(last.micros)
    );
    let _ = writeln!(text, "  command: {}", arguments(&last).join(" "));
    if !last.key.is_empty() {
        let _ = writeln!(text, "  key: {}", last.key);
    }
    if let Some(paths) = paths_of(&last) {
        let _ = writeln!(text, "  paths: {paths}");
    }
    match differences {
        None => text.push_str("  this was the first time that farcc saw it made\n"),
        Some(differences) if differences.is_empty() => {
            text.push_str("  nothing differs from the time before\n");
        }
        Some(differences) => {
            text.push_str("  what differs from the time before:\n");
            for difference in differences {
                let _ = writeln!(text, "    {difference}");
            }
        }
    }
    print(text)
}

/// Whether the result is for all checkouts, or why not; none where nobody asked for it.
fn paths_of(record: &CommandRecord) -> Option<String> {
    let is_about_paths = |ingredient: &&Ingredient| {
        ingredient.kind == i32::from(Kind::Configuration) && ingredient.name == PATHS.as_bytes()
    };
    let ingredient = record.ingredients.iter().find(is_about_paths)?;
    Some(String::from_utf8_lossy(&ingredient.value).into_owned())
}

fn arguments(record: &CommandRecord) -> Vec<String> {
    record.arguments.iter().map(|argument| String::from_utf8_lossy(argument).into_owned()).collect()
}

fn meaning(record: &CommandRecord) -> String {
    let meaning = match record.outcome.as_str() {
        "hit_local" => "hit: the result was in the store on this machine",
        "hit_remote" => "hit: the result was in the cluster's action cache",
        "executed_remote" => "miss: the cluster ran the command",
        "executed_local" => "miss: the command ran on this machine",
        "passed_through" => "the command ran on this machine, and nothing of it was kept",
        other => other,
    };
    match (record.reason.as_str(), record.reason_detail.as_str()) {
        ("", _) => meaning.to_owned(),
        (reason, "") => format!("{meaning} ({reason})"),
        (reason, detail) => format!("{meaning} ({reason}: {detail})"),
    }
}
