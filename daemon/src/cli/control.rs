//! `farccd stop`, `status`, `stats`: words to a running daemon, and what is known without one.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::bail;
use bytesize::ByteSize;
use clap::Args;
use farcc::link::Link;
use farcc::places::Places;
use farcc::wire::Frame;
use farcc::wire::Reply;
use farcc::wire::Request;
use farcc::wire::SILENCE;
use serde_json::json;

use crate::cli::Surroundings;
use crate::cli::parse_duration;
use crate::cli::print;
use crate::cli::print_json;
use crate::cli::readable_micros;
use crate::server::DaemonStatus;
use crate::server::Farewell;
use crate::stats;
use crate::stats::Offers;
use crate::stats::Summary;

/// How long `stop` waits for the daemon to be gone after it has said its last word.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// How much of the log of a daemon that did not start is shown.
const LAST_LINES: usize = 3;

#[derive(Debug, Args)]
pub(super) struct StopArgs {
    /// Let the commands under way end first, and their results reach the cluster
    #[arg(long)]
    drain: bool,
    /// With --drain: how long results that are on their way to the cluster are waited for
    #[arg(long, value_parser = parse_duration, default_value = "60s")]
    timeout: Duration,
    /// Print what the daemon saw since it started: where results came from, why commands ran here, bytes, time saved
    #[arg(long)]
    summary: bool,
}

impl StopArgs {
    pub(super) fn for_restart() -> StopArgs {
        StopArgs { drain: true, timeout: Duration::from_secs(60), summary: false }
    }
}

pub(super) fn stop(surroundings: &Surroundings, args: &StopArgs) -> anyhow::Result<ExitCode> {
    let seconds = args.timeout.as_secs().to_string();
    let words: &[&str] = if args.drain { &["stop", "drain", &seconds] } else { &["stop"] };
    let Some(answer) = ask(surroundings, words)? else { return print(none_runs(surroundings)) };
    // A daemon of another version may have less to say, and say it before it drains.
    let farewell: Option<Farewell> = serde_json::from_slice(&answer).ok();
    let is_over = farewell.is_some() || !args.drain;
    // Its lock is free when it is gone.
    let started = Instant::now();
    while surroundings.places.lock_daemon().context("wait for the daemon's end")?.is_none() {
        if is_over && started.elapsed() > STOP_PATIENCE {
            bail!("stop the daemon: it is still there after {STOP_PATIENCE:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let Some(farewell) = farewell else { return print("farccd stopped\n") };
    print(stopped(&farewell, args))
}

/// The end of a daemon for people.
fn stopped(farewell: &Farewell, args: &StopArgs) -> String {
    let Farewell { summary, uptime_seconds, unsent } = farewell;
    let mut text = "farccd stopped".to_owned();
    // Writing to a String cannot fail.
    if args.summary {
        let uptime = humantime::format_duration(Duration::from_secs(*uptime_seconds));
        let _ = write!(text, " after {uptime}:\n{}", table(summary));
    } else {
        text.push('\n');
    }
    if *unsent > 0 {
        let _ = write!(text, "given up: {unsent} results that were on their way to the cluster");
        if args.drain {
            let _ = write!(text, ", after {}", humantime::format_duration(args.timeout));
        }
        text.push('\n');
    }
    text
}

/// That there is no daemon, and what kept it from starting, if anything did.
fn none_runs(surroundings: &Surroundings) -> String {
    let Some(failure) = failure(&surroundings.places) else { return "no daemon runs\n".to_owned() };
    let mut text = format!("no daemon runs: failed to {failure}\n");
    // A container takes its log along when it ends.
    let log = std::fs::read(surroundings.places.log_file()).unwrap_or_default();
    let lines: Vec<_> = log.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
    for line in &lines[lines.len().saturating_sub(LAST_LINES)..] {
        let _ = writeln!(text, "  {}", String::from_utf8_lossy(line));
    }
    text
}

/// What keeps a daemon from starting, or did the last time.
fn failure(places: &Places) -> Option<String> {
    let log = places.log_file();
    let last = places.start_failed().last().map(|failure| format!("{failure} ({})", log.display()));
    last.or_else(|| Some(places.prepare_run().err()?.to_string()))
}

pub(super) fn status(surroundings: &Surroundings, json: bool) -> anyhow::Result<ExitCode> {
    let places = &surroundings.places;
    let daemon: Option<DaemonStatus> = match ask(surroundings, &["status"])? {
        Some(answer) => Some(serde_json::from_slice(&answer).context("read the daemon's status")?),
        None => None,
    };
    if json {
        return print_json(&json!({
            "daemon": daemon,
            "socket": places.run.join(places.socket_name()),
            "store": places.store,
            "state": places.state,
            "log": places.log_file(),
            "config_file": places.config_file,
        }));
    }
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = match &daemon {
        None => match failure(places) {
            Some(failure) => writeln!(text, "daemon   none runs: failed to {failure}"),
            None => writeln!(text, "daemon   none runs; the next launcher starts one"),
        },
        Some(daemon) => {
            let DaemonStatus { pid, version, uptime_seconds, connections, draining, status_page, memory } =
                daemon;
            let state = if *draining { "draining" } else { "running" };
            writeln!(
                text,
                "daemon   {state}, process {pid}, version {version}, up {}, {} commands under way\n\
                 page     {status_page}\n\
                 memory   {} units in {}, {} source files in {}",
                humantime::format_duration(Duration::from_secs(*uptime_seconds)),
                connections.saturating_sub(1),
                memory.units,
                bytes(memory.scan_bytes),
                memory.stripped_files,
                bytes(memory.source_bytes),
            )
        }
    };
    for (name, path) in [
        ("socket", places.run.join(places.socket_name())),
        ("store", places.store.clone()),
        ("state", places.state.clone()),
        ("log", places.log_file()),
        ("config", places.config_file.clone()),
    ] {
        let _ = writeln!(text, "{name:<8} {}", path.display());
    }
    print(text)
}

fn bytes(count: usize) -> bytesize::ByteSize {
    bytesize::ByteSize::b(u64::try_from(count).unwrap_or(u64::MAX))
}

pub(super) fn stats(surroundings: &Surroundings, json: bool, reset: bool) -> anyhow::Result<ExitCode> {
    let words: &[&str] = if reset { &["stats", "reset"] } else { &["stats"] };
    let summary: Summary = match ask(surroundings, words)? {
        Some(answer) => serde_json::from_slice(&answer).context("read the daemon's counts")?,
        None => {
            let summary = stats::read(&surroundings.stats_file());
            if reset
                && let Err(error) = std::fs::remove_file(surroundings.stats_file())
                && error.kind() != io::ErrorKind::NotFound
            {
                return Err(error).context("reset the counts");
            }
            summary.unwrap_or_else(Summary::zero)
        }
    };
    if json { print_json(&summary) } else { print(table(&summary)) }
}

/// The counts for people.
pub(super) fn table(summary: &Summary) -> String {
    let mut text = format!("{:>8} commands\n", summary.commands);
    // Writing to a String cannot fail.
    for (name, count) in summary.by_verdict.iter().filter(|(_, count)| **count > 0) {
        let _ = writeln!(text, "{count:>8}   {name}");
    }
    text.push_str(&kinds(summary));
    if !summary.by_reason.is_empty() {
        text.push_str("why here:\n");
        for (name, count) in &summary.by_reason {
            let _ = writeln!(text, "{count:>8}   {name}");
        }
    }
    let size = |bytes| ByteSize::b(bytes).to_string();
    let bytes = summary.bytes;
    let _ = writeln!(
        text,
        "bytes: {} uploaded, {} downloaded, {} stored",
        size(bytes.uploaded),
        size(bytes.downloaded),
        size(bytes.stored)
    );
    let Offers { taken, refused, failed } = summary.offers;
    if taken + refused + failed > 0 {
        let _ = writeln!(text, "given to the cluster: {taken} results; {refused} not taken, {failed} failed");
    }
    let hits = summary.hits();
    if hits > 0 {
        let _ = writeln!(text, "saved: {}", saved(summary.micros_saved, summary.hits_timed, hits));
    }
    let micros = summary.micros;
    let _ = writeln!(
        text,
        "time in the daemon: p50 {}, p90 {}, p99 {}",
        readable_micros(micros.p50),
        readable_micros(micros.p90),
        readable_micros(micros.p99)
    );
    text
}

/// What the commands made.
fn kinds(summary: &Summary) -> String {
    let mut text = String::new();
    for name in stats::Kind::ALL.map(stats::Kind::name) {
        let verdicts = summary.by_kind.get(name).into_iter().flatten().filter(|(_, count)| **count > 0);
        let verdicts: Vec<_> = verdicts.collect();
        if !verdicts.is_empty() {
            let count: u64 = verdicts.iter().map(|(_, count)| **count).sum();
            let each: Vec<_> = verdicts.iter().map(|(verdict, count)| format!("{count} {verdict}")).collect();
            let _ = writeln!(text, "{count:>8}   {name}: {}", each.join(", "));
        }
    }
    if text.is_empty() { text } else { format!("what they make:\n{text}") }
}

/// What hits have saved, of which only some tell.
fn saved(micros: i64, timed: u64, hits: u64) -> String {
    if timed == 0 {
        return format!("not known: none of {hits} hits tells how long its command ran");
    }
    let sign = if micros < 0 { "-" } else { "" };
    let mut text = format!("{sign}{} of compile time", readable_micros(micros.unsigned_abs()));
    if timed < hits {
        let _ =
            write!(text, ", by {timed} of {hits} hits; the others do not tell how long their commands ran");
    }
    text
}

/// Asks the daemon; none if none runs.
fn ask(surroundings: &Surroundings, words: &[&str]) -> anyhow::Result<Option<Vec<u8>>> {
    let stream = match farcc::places::connect(&surroundings.places) {
        Ok(stream) => stream,
        Err(error) if farcc::spawn::is_absent(&error) => return Ok(None),
        Err(error) => return Err(error).context("reach the daemon"),
    };
    let words = words.iter().map(OsString::from).collect();
    match exchange(stream, Request::Control { words }).context("talk to the daemon")? {
        Reply::Text(text) => Ok(Some(text)),
        other => bail!("talk to the daemon: it answered {other:?}"),
    }
}

/// The answer to a request, for which the daemon may take its time while it shows that it lives.
fn exchange(stream: UnixStream, request: Request) -> anyhow::Result<Reply> {
    let mut link = Link::new(stream);
    link.set_patience(Some(SILENCE))?;
    link.send(&Frame::Request(request))?;
    loop {
        match link.receive()? {
            Frame::Reply(Reply::Working) => {}
            Frame::Reply(reply) => return Ok(reply),
            Frame::Request(_) => bail!("read its answer: it is a request"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Bytes;
    use crate::stats::Micros;

    fn farewell(hits: u64, timed: u64, micros_saved: i64) -> Farewell {
        let mut summary = Summary::zero();
        summary.commands = hits + 2;
        summary.by_verdict.insert("hit_remote".into(), hits);
        summary.by_verdict.insert("passed_through".into(), 2);
        summary.by_kind.insert("compile".into(), [("hit_remote".into(), hits)].into());
        summary.by_kind.insert("link".into(), [("passed_through".into(), 2)].into());
        summary.by_reason.insert("link".into(), 2);
        summary.bytes = Bytes { uploaded: 0, downloaded: 5 << 20, stored: 5 << 20 };
        summary.micros = Micros { p50: 4_000, p90: 9_000, p99: 20_000 };
        (summary.micros_saved, summary.hits_timed) = (micros_saved, timed);
        Farewell { summary, uptime_seconds: 75, unsent: 0 }
    }

    const ARGS: StopArgs = StopArgs { drain: true, timeout: Duration::from_secs(60), summary: true };

    #[test]
    fn a_summary_says_what_was_saved_and_of_how_many() {
        let text = stopped(&farewell(40, 40, 81_250_000), &ARGS);
        assert_eq!(
            text,
            "farccd stopped after 1m 15s:\n\
             \x20     42 commands\n\
             \x20     40   hit_remote\n\
             \x20      2   passed_through\n\
             what they make:\n\
             \x20     40   compile: 40 hit_remote\n\
             \x20      2   link: 2 passed_through\n\
             why here:\n\
             \x20      2   link\n\
             bytes: 0 B uploaded, 5.0 MiB downloaded, 5.0 MiB stored\n\
             saved: 81.2 s of compile time\n\
             time in the daemon: p50 4.0 ms, p90 9.0 ms, p99 20 ms\n"
        );
        let some = stopped(&farewell(40, 30, 1_500), &ARGS);
        assert!(
            some.contains("saved: 1.5 ms of compile time, by 30 of 40 hits; the others do not"),
            "{some}"
        );
        let slower = stopped(&farewell(40, 40, -1_500), &ARGS);
        assert!(slower.contains("saved: -1.5 ms of compile time\n"), "{slower}");
        let unknown = stopped(&farewell(40, 0, 0), &ARGS);
        assert!(unknown.contains("saved: not known: none of 40 hits tells"), "{unknown}");
        assert!(!stopped(&farewell(0, 0, 0), &ARGS).contains("saved"));
    }

    #[test]
    fn what_was_given_up_is_always_said() {
        let farewell = Farewell { unsent: 3, ..farewell(1, 0, 0) };
        let quiet = StopArgs { summary: false, ..ARGS };
        let expected =
            "farccd stopped\ngiven up: 3 results that were on their way to the cluster, after 1m\n";
        assert_eq!(stopped(&farewell, &quiet), expected);
        let at_once = StopArgs { drain: false, ..quiet };
        assert!(stopped(&farewell, &at_once).ends_with("to the cluster\n"));
    }
}
