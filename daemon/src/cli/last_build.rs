//! `farccd explain --last-build`: what became of the commands of a build, which misses were expensive, and what was behind them.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use farcc_proto::record::CommandRecord;
use farcc_proto::record::OutputHistory;
use farcc_proto::record::Run;
use serde::Serialize;

use crate::cli::Surroundings;
use crate::cli::explain::age;
use crate::cli::print;
use crate::cli::print_json;
use crate::cli::readable_micros;
use crate::history::Comparison;
use crate::reapi::printable;
use crate::reason::Reason;
use crate::reason::remedy;
use crate::stats::Outcome;

/// A longer time in which nothing was made is between two builds.
const PAUSE: Duration = Duration::from_secs(30);

/// So many misses are shown, and so many causes.
const SHOWN: usize = 10;

/// A build as it is printed.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Build {
    /// When its first command came in and its last one ended, in milliseconds since 1970.
    started_unix_millis: u64,
    ended_unix_millis: u64,
    commands: u64,
    /// By the names of `farccd stats`.
    by_verdict: BTreeMap<String, u64>,
    /// Those that were no hits, the one that took longest first.
    misses: Vec<Miss>,
    /// What was behind them, what cost most first. A miss with several causes counts with each.
    causes: Vec<Cause>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Miss {
    /// The first file that it made.
    file: String,
    verdict: String,
    reason: String,
    /// From when it came in until it had ended.
    micros: u64,
    causes: Vec<String>,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Cause {
    cause: String,
    misses: u64,
    micros: u64,
    remedy: Option<&'static str>,
}

pub(super) fn last_build(surroundings: &Surroundings, json: bool) -> anyhow::Result<ExitCode> {
    let histories = surroundings.history().last_build(PAUSE).context("read what commands have made")?;
    let build = Build::of(&histories);
    match json {
        true => print_json(&serde_json::to_value(build)?),
        false => print(build.readable(&surroundings.cwd)),
    }
}

impl Build {
    fn of(histories: &[OutputHistory]) -> Build {
        let mut build = Build { started_unix_millis: u64::MAX, ..Build::default() };
        for outcome in Outcome::ALL {
            build.by_verdict.insert(outcome.name().to_owned(), 0);
        }
        let mut causes: BTreeMap<String, Cause> = BTreeMap::new();
        for history in histories {
            let Some((last, run)) = history.last.as_ref().and_then(|last| Some((last, last.run.as_ref()?)))
            else {
                continue;
            };
            build.commands += 1;
            *build.by_verdict.entry(run.outcome.clone()).or_default() += 1;
            let started = run.unix_millis.saturating_sub(run.whole_micros / 1_000);
            build.started_unix_millis = build.started_unix_millis.min(started);
            build.ended_unix_millis = build.ended_unix_millis.max(run.unix_millis);
            let hits = [Outcome::HitLocal, Outcome::HitRemote, Outcome::Twin];
            if hits.iter().any(|hit| hit.name() == run.outcome) {
                continue;
            }
            let miss = miss(last, run, history.previous.as_ref());
            for text in &miss.causes {
                let cause = causes.entry(text.clone()).or_default();
                cause.misses += 1;
                cause.micros += miss.micros;
                if run.outcome == Outcome::PassedThrough.name() {
                    cause.remedy = remedy(&run.reason);
                }
            }
            build.misses.push(miss);
        }
        build.started_unix_millis = build.started_unix_millis.min(build.ended_unix_millis);
        build.misses.sort_by_key(|miss| std::cmp::Reverse(miss.micros));
        build.causes = causes.into_iter().map(|(text, cause)| Cause { cause: text, ..cause }).collect();
        build.causes.sort_by_key(|cause| std::cmp::Reverse(cause.micros));
        build
    }

    fn readable(&self, cwd: &Path) -> String {
        if self.commands == 0 {
            return "farcc has seen no command that makes a file\n".to_owned();
        }
        let took = (self.ended_unix_millis - self.started_unix_millis).saturating_mul(1_000);
        let counts = self.by_verdict.iter().filter(|(_, count)| **count > 0);
        let counts: Vec<_> = counts.map(|(verdict, count)| format!("{count} {verdict}")).collect();
        let mut text = format!(
            "{} commands in {}, until {} ago: {}\n",
            self.commands,
            readable_micros(took),
            age(self.ended_unix_millis),
            counts.join(", ")
        );
        if self.misses.is_empty() {
            text.push_str("nothing was missed\n");
            return text;
        }
        text.push_str("the most expensive misses:\n");
        for miss in self.misses.iter().take(SHOWN) {
            let file = Path::new(&miss.file);
            let file = printable(&file.strip_prefix(cwd).unwrap_or(file).display().to_string());
            let (first, others) =
                (miss.causes.first().map_or("", String::as_str), miss.causes.len().saturating_sub(1));
            let more = if others > 0 { format!(", and {others} more") } else { String::new() };
            // Writing to a String cannot fail.
            let _ =
                writeln!(text, "  {:>8}  {file}: {}{more}", readable_micros(miss.micros), printable(first));
        }
        text.push_str("what was behind the misses:\n");
        for Cause { cause, misses, micros, remedy } in self.causes.iter().take(SHOWN) {
            let word = if *misses == 1 { "miss" } else { "misses" };
            let _ =
                writeln!(text, "  {:>8}  {misses} {word}: {}", readable_micros(*micros), printable(cause));
            if let Some(remedy) = remedy {
                let _ = writeln!(text, "            what to do: {remedy}");
            }
        }
        if self.causes.len() > SHOWN {
            let _ = writeln!(text, "  and {} more (--json has them all)", self.causes.len() - SHOWN);
        }
        text
    }
}

fn miss(last: &CommandRecord, run: &Run, previous: Option<&CommandRecord>) -> Miss {
    let file = last.outputs.first().map(|output| OsStr::from_bytes(output).to_string_lossy().into_owned());
    Miss {
        file: file.unwrap_or_default(),
        verdict: run.outcome.clone(),
        reason: run.reason.clone(),
        micros: run.whole_micros,
        causes: causes(last, run, previous),
    }
}

/// Why there was no hit.
fn causes(last: &CommandRecord, run: &Run, previous: Option<&CommandRecord>) -> Vec<String> {
    if run.outcome == Outcome::PassedThrough.name() {
        let detail =
            if run.reason_detail.is_empty() { String::new() } else { format!(": {}", run.reason_detail) };
        return vec![format!("{}{detail}", run.reason)];
    }
    if run.reason == Reason::Verify.name() {
        return vec!["it was run to compare its result ([exec] verify)".to_owned()];
    }
    Comparison::of(previous, last).causes()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use farcc_proto::record::Ingredient;
    use farcc_proto::record::ingredient::Kind;

    use super::*;

    fn record(name: &str, outcome: Outcome, millis: u64, header: &[u8]) -> CommandRecord {
        let run = Run {
            outcome: outcome.name().to_owned(),
            unix_millis: 10_000 + millis,
            whole_micros: millis * 1_000,
            ..Run::default()
        };
        CommandRecord {
            run: Some(run),
            outputs: vec![format!("/w/{name}").into_bytes()],
            key: String::from_utf8_lossy(header).into_owned(),
            ingredients: vec![Ingredient {
                kind: Kind::Input.into(),
                name: b"/w/a.h".to_vec(),
                value: header.to_vec(),
            }],
            ..CommandRecord::default()
        }
    }

    fn history(previous: Option<CommandRecord>, last: CommandRecord) -> OutputHistory {
        OutputHistory { last: Some(last), previous }
    }

    #[test]
    fn misses_are_summed_up_by_their_causes() {
        let before = |name| Some(record(name, Outcome::HitLocal, 1, b"old"));
        let mut flag = record("f.o", Outcome::PassedThrough, 400, b"");
        let run = flag.run.as_mut().unwrap();
        (run.reason, run.reason_detail) = ("unsupported_flag".to_owned(), "-fplugin=\u{1b}x".to_owned());
        let mut compared = record("g.o", Outcome::ExecutedLocal, 10, b"old");
        compared.run.as_mut().unwrap().reason = Reason::Verify.name().to_owned();
        let otherwise =
            CommandRecord { key: "other".into(), ..record("h.o", Outcome::ExecutedLocal, 9, b"old") };
        let build = Build::of(&[
            history(before("g.o"), compared),
            history(before("h.o"), otherwise),
            history(
                Some(record("i.o", Outcome::PassedThrough, 1, b"")),
                record("i.o", Outcome::ExecutedLocal, 8, b"new"),
            ),
            history(before("a.o"), record("a.o", Outcome::ExecutedRemote, 2_000, b"new")),
            history(before("b.o"), record("b.o", Outcome::ExecutedLocal, 3_500, b"new")),
            history(before("c.o"), record("c.o", Outcome::ExecutedLocal, 20, b"old")),
            history(None, record("d.o", Outcome::ExecutedLocal, 700, b"new")),
            history(before("e.o"), record("e.o", Outcome::HitRemote, 5, b"new")),
            history(None, flag),
        ]);
        let text = build.readable(Path::new("/w"));
        let text = text.split_once("ago").unwrap().1;
        expect![[r#"
            : 6 executed_local, 1 executed_remote, 1 hit_remote, 1 passed_through
            the most expensive misses:
                 3.5 s  b.o: input changed: /w/a.h
                 2.0 s  a.o: input changed: /w/a.h
                700 ms  d.o: this was the first time that farcc saw it made
                400 ms  f.o: unsupported_flag: -fplugin= x
                 20 ms  c.o: its result was not kept, or is gone
                 10 ms  g.o: it was run to compare its result ([exec] verify)
                9.0 ms  h.o: its key is another one, by something of which there is no record
                8.0 ms  i.o: the time before, its result was not looked for
            what was behind the misses:
                 5.5 s  2 misses: input changed: /w/a.h
                700 ms  1 miss: this was the first time that farcc saw it made
                400 ms  1 miss: unsupported_flag: -fplugin= x
                        what to do: leave the flag out, or report it: farcc does not know what it reads or writes
                 20 ms  1 miss: its result was not kept, or is gone
                 10 ms  1 miss: it was run to compare its result ([exec] verify)
                9.0 ms  1 miss: its key is another one, by something of which there is no record
                8.0 ms  1 miss: the time before, its result was not looked for
        "#]].assert_eq(text);
        assert_eq!((build.started_unix_millis, build.ended_unix_millis), (10_000, 13_500));
        let value = serde_json::to_value(&build).unwrap();
        assert_eq!(
            (&value["misses"][0]["file"], &value["by_verdict"]["twin"]),
            (&"/w/b.o".into(), &0.into())
        );
        assert!(Build::of(&[]).readable(Path::new("/")).contains("no command"));
    }
}
