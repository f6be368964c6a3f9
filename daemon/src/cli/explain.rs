//! `farccd explain FILE`: what happened to the command that made a file last, and why.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use std::time::SystemTime;

use anyhow::Context;
use anyhow::bail;
use clap::Args;
use farcc_proto::record::CommandRecord;
use farcc_proto::record::Ingredient;
use farcc_proto::record::Run;
use farcc_proto::record::ingredient::Kind;
use serde_json::json;

use crate::cli::Surroundings;
use crate::cli::last_build::last_build;
use crate::cli::print;
use crate::cli::print_json;
use crate::cli::readable_micros;
use crate::dispatch::PATHS;
use crate::history::Basis;
use crate::history::Comparison;
use crate::paths;
use crate::reapi::printable;
use crate::reason::remedy;
use crate::stats::Outcome;

#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    /// The output file: an object or its depfile, a program, a library
    #[arg(required_unless_present = "last_build")]
    file: Option<PathBuf>,
    /// Sum up the last commands that followed one another without a pause of 30 seconds: the most expensive misses, and the causes
    /// behind all of them
    #[arg(long, conflicts_with = "file")]
    last_build: bool,
    /// Print JSON (see the README, "Looking inside")
    #[arg(long)]
    json: bool,
}

pub(super) fn explain(surroundings: &Surroundings, args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    match &args.file {
        Some(file) => explain_file(surroundings, file, args.json),
        None => last_build(surroundings, args.json),
    }
}

fn explain_file(surroundings: &Surroundings, file: &Path, json: bool) -> anyhow::Result<ExitCode> {
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
    let run = last.run.clone().unwrap_or_default();
    let comparison = Comparison::of(history.previous.as_ref(), &last);
    let lines: Vec<_> = comparison.differences.iter().map(ToString::to_string).collect();
    if json {
        return print_json(&json!({
            "file": path.to_string_lossy(),
            "outcome": run.outcome,
            "reason": run.reason,
            "reason_detail": run.reason_detail,
            "arguments": arguments(&last),
            "directory": OsStr::from_bytes(&last.cwd).to_string_lossy(),
            "unix_millis": run.unix_millis,
            "micros": run.micros,
            "whole_micros": run.whole_micros,
            "made_unix_millis": known(run.made_unix_millis),
            "made_micros": known(run.made_micros),
            "made_by": (!run.made_by.is_empty()).then_some(&run.made_by),
            "remedy": remedy(&run.reason),
            "key": last.key,
            "paths": paths_of(&last),
            "compared": comparison.headline(is_hit(&run)),
            "differences": (comparison.basis != Basis::First).then_some(lines),
        }));
    }
    let mut text = format!("{}\n", path.display());
    // Writing to a String cannot fail.
    let _ = writeln!(text, "  {}", meaning(&run));
    if let Some(remedy) = remedy(&run.reason) {
        let _ = writeln!(text, "  what to do: {remedy}");
    }
    if let Some(made) = origin(&run) {
        let _ = writeln!(text, "  {made}");
    }
    let (age, whole) = (age(run.unix_millis), readable_micros(run.whole_micros));
    let _ = writeln!(text, "  {age} ago, {whole}, {} of it in the daemon", readable_micros(run.micros));
    let _ = writeln!(text, "  command: {}", arguments(&last).join(" "));
    if !last.key.is_empty() {
        let _ = writeln!(text, "  key: {}", last.key);
    }
    if let Some(paths) = paths_of(&last) {
        let _ = writeln!(text, "  paths: {paths}");
    }
    let _ = writeln!(text, "  {}", comparison.headline(is_hit(&run)));
    for line in lines {
        let _ = writeln!(text, "    {line}");
    }
    print(text)
}

fn is_hit(run: &Run) -> bool {
    [Outcome::HitLocal, Outcome::HitRemote].iter().any(|hit| hit.name() == run.outcome)
}

/// Of a hit: who made the result, and when.
fn origin(run: &Run) -> Option<String> {
    known(run.made_unix_millis)?;
    let by = match (run.made_by.as_str(), run.outcome.as_str()) {
        ("", "hit_local") => "on this machine, or by who shares its store".to_owned(),
        ("", _) => "by a worker that gives no name, or on the machine of somebody who offered it".to_owned(),
        (worker, _) => format!("by {}", printable(worker)),
    };
    let (age, took) = (age(run.made_unix_millis), readable_micros(run.made_micros));
    Some(format!("the result was made {age} ago {by}, in {took}"))
}

/// 0 stands for what is not known.
fn known(number: u64) -> Option<u64> {
    (number > 0).then_some(number)
}

/// How long ago that was.
pub(super) fn age(unix_millis: u64) -> String {
    let then = SystemTime::UNIX_EPOCH + Duration::from_millis(unix_millis);
    let age = SystemTime::now().duration_since(then).unwrap_or_default().as_secs();
    humantime::format_duration(Duration::from_secs(age)).to_string()
}

/// Whether the result is for all checkouts, or why not; none where nobody asked for it.
fn paths_of(record: &CommandRecord) -> Option<String> {
    let is_about_paths = |ingredient: &&Ingredient| {
        ingredient.kind == i32::from(Kind::Configuration) && ingredient.name == PATHS.as_bytes()
    };
    let ingredient = record.ingredients.iter().find(is_about_paths)?;
    Some(String::from_utf8_lossy(&ingredient.value).into_owned())
}

pub(super) fn arguments(record: &CommandRecord) -> Vec<String> {
    record.arguments.iter().map(|argument| String::from_utf8_lossy(argument).into_owned()).collect()
}

fn meaning(run: &Run) -> String {
    let meaning = match run.outcome.as_str() {
        "hit_local" => "hit: the result was in the store on this machine",
        "hit_remote" => "hit: the result was in the cluster's action cache",
        "executed_remote" => "miss: the cluster ran the command",
        "executed_local" => "miss: the command ran on this machine",
        "twin" => "the command ran on the twin",
        "passed_through" => "the command ran on this machine, and nothing of it was kept",
        other => other,
    };
    match (run.reason.as_str(), run.reason_detail.as_str()) {
        ("", _) => meaning.to_owned(),
        (reason, "") => format!("{meaning} ({reason})"),
        (reason, detail) => format!("{meaning} ({reason}: {detail})"),
    }
}
