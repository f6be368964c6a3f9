//! Whole builds on the twin (`farccd twin run`): they never run here.
//! Knows nothing of what a build does there.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use bytesize::ByteSize;

use crate::compiler::Invocation;
use crate::dispatch::Dispatcher;
use crate::dispatch::Launcher;
use crate::dispatch::Order;
use crate::dispatch::Read;
use crate::dispatch::Trail;
use crate::dispatch::Verdict;
use crate::dispatch::in_background;
use crate::dispatch::sharing::relocation_of_build;
use crate::dispatch::twins::command;
use crate::executor::twin::Build;
use crate::executor::twin::Kept;
use crate::executor::twin::Terminal;
use crate::executor::twin::TwinCommand;
use crate::executor::twin::TwinError;
use crate::executor::twin::TwinRun;
use crate::reapi::printable;
use crate::reason::Reason;
use crate::stats::Outcome;
use crate::stats::Summary;

/// What is special about a build.
#[derive(Debug)]
pub struct BuildOrder {
    /// What comes back, and what it calls the launcher.
    pub build: Build,
    /// The terminal that it is to have, if there is one.
    pub terminal: Option<Terminal>,
    /// Whether nothing is to be said when it has ended.
    pub is_quiet: bool,
}

impl Dispatcher {
    /// Runs a whole build on the twin, for a launcher that shows what it says. What prevents that is its message and a failure.
    pub async fn build(
        &self,
        invocation: Arc<Invocation>,
        order: BuildOrder,
        mut launcher: Launcher,
    ) -> Verdict {
        let mut trail = Trail::new(Arc::clone(&invocation));
        let built = self.try_to_build(&invocation, order, &mut launcher, &mut trail).await;
        let verdict = match built {
            Ok(verdict) => {
                trail.ended(Outcome::Twin, None);
                verdict
            }
            Err(reason) => {
                let stderr = format!("farcc: {reason}\n").into_bytes();
                trail.ended(Outcome::Twin, Some(reason));
                Verdict::Completed { exit_code: 1, stdout: Vec::new(), stderr }
            }
        };
        self.record(trail);
        verdict
    }

    async fn try_to_build(
        &self,
        invocation: &Arc<Invocation>,
        order: BuildOrder,
        launcher: &mut Launcher,
        trail: &mut Trail,
    ) -> Result<Verdict, Reason> {
        let Read { config, .. } = self.read(invocation).await?;
        let config = config?;
        if !config.twin.is_configured() {
            return Err(Reason::TwinUnavailable("[twin] address is not set".to_owned()));
        }
        let (own, known) = (Arc::clone(&config), Arc::clone(invocation));
        let relocation =
            in_background(move || relocation_of_build(&own.workspace, &known.cwd, &known.argv)).await?;
        let roots: Vec<_> = relocation
            .map_err(Reason::OutsideWorkspace)?
            .roots()
            .iter()
            .map(|root| root.here.clone())
            .collect();
        let BuildOrder { mut build, terminal, is_quiet } = order;
        // What lies in the workspace is there already.
        for paths in [&mut build.launchers, &mut build.modules] {
            paths.retain(|path| !roots.iter().any(|root| Path::new(path).starts_with(root)));
        }
        // Who types on a terminal that the build has is heard.
        launcher.has_input |= terminal.is_some_and(|terminal| terminal.descriptors[0]);
        let command = command(&config, invocation, launcher.has_input);
        let command = TwinCommand { terminal, build: Some(build), ..command };
        let executor = self.checked_executor(&config, invocation).await?;
        let running = self.run_there(&executor, &config, &roots, command, launcher, trail, false);
        let (ran, _) = running.await?;
        let ran = ran.map_err(|error| reason(&error))?;
        if !is_quiet {
            // A terminal that is nothing but the build's is raw.
            let is_raw = terminal.is_some_and(|terminal| terminal.descriptors == [true; 3]);
            let line = summary(&ran) + if is_raw { "\r\n" } else { "\n" };
            let said = Order::Output(2, line.into_bytes().into());
            // Whoever has gone need not know.
            let _ = launcher.lane.orders.send(said).await;
        }
        Ok(Verdict::RanOnTwin(ran.ended))
    }
}

fn reason(error: &TwinError) -> Reason {
    let text = error.to_string();
    match error {
        TwinError::Unavailable(_) | TwinError::NoProgram(_) => Reason::TwinUnavailable(text),
        TwinError::OtherProgram(_) => Reason::TwinDiffers(text),
        TwinError::Conflict(_) => Reason::TwinConflict(text),
        TwinError::Lost(_) | TwinError::Dropped(_) | TwinError::NotForHere(_) | TwinError::NotInPlace(_) => {
            Reason::TwinLost(text)
        }
    }
}

/// What has happened, in a line.
fn summary(ran: &TwinRun) -> String {
    let TwinRun { bytes, files, unsent, kept: Kept { files: kept, size_bytes, stats }, .. } = ran;
    let mut text = "farcc: the build ran on the twin".to_owned();
    if let Ok(summary) = serde_json::from_slice::<Summary>(stats) {
        let count = |verdicts: &[&str]| -> u64 {
            verdicts.iter().filter_map(|verdict| summary.by_verdict.get(*verdict)).sum()
        };
        let remote = count(&["executed_remote"]);
        let hits = count(&["hit_remote", "hit_local"]);
        let there = count(&["executed_local", "passed_through"]);
        // Writing to a string never fails.
        let _ = write!(text, ": {remote} commands on the cluster, {hits} hits, {there} on the twin itself");
    }
    let (size, kept_size) = (ByteSize::b(bytes.downloaded), ByteSize::b(*size_bytes));
    let _ = write!(text, "; {files} files came back ({size}), {kept} stay there ({kept_size})");
    if let [first, others @ ..] = &unsent[..] {
        let first = printable(&first.display().to_string());
        let more = if others.is_empty() { String::new() } else { format!(" and {} more", others.len()) };
        let _ = write!(text, "; not here, as sockets or symlinks out of the workspace: {first}{more}");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::executor::twin::TwinEnd;
    use crate::stats::Bytes;

    #[test]
    fn what_a_build_has_done_is_said_in_a_line() {
        let ran = TwinRun {
            ended: TwinEnd::Exited(0),
            bytes: Bytes { downloaded: 2048, ..Bytes::default() },
            files: 2,
            unsent: Vec::new(),
            kept: Kept { files: 30, size_bytes: 1 << 20, stats: b"of another version".into() },
        };
        assert_eq!(
            summary(&ran),
            "farcc: the build ran on the twin; 2 files came back (2.0 KiB), 30 stay there (1.0 MiB)"
        );
        let verdicts = [("executed_remote", 5), ("hit_remote", 2), ("hit_local", 1), ("passed_through", 4)];
        let by_verdict = verdicts.map(|(name, count)| (name.to_owned(), count)).into();
        let stats = serde_json::to_vec(&Summary { by_verdict, ..Summary::default() }).unwrap();
        let unsent = ["/ws/sdk\u{1b}", "/ws/b", "/ws/c"].map(PathBuf::from).into();
        let ran = TwinRun { kept: Kept { stats, ..ran.kept }, unsent, ..ran };
        assert_eq!(
            summary(&ran),
            "farcc: the build ran on the twin: 5 commands on the cluster, 3 hits, 4 on the twin itself; \
             2 files came back (2.0 KiB), 30 stay there (1.0 MiB); not here, as sockets or symlinks out of the workspace: \
             /ws/sdk  and 2 more"
        );
    }
}
