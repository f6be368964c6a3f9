//! The way of a command that is understood: a hit on this machine, by the cluster, or by the launcher.
//! Knows nothing of how it came to be understood.

use std::path::PathBuf;
use std::sync::Arc;

use bazel_remote_apis::build::bazel::remote::execution::v2 as re;

use crate::action::Action;
use crate::action::Execution;
use crate::action::Sought;
use crate::compiler::AppendedRules;
use crate::compiler::Audit;
use crate::compiler::Invocation;
use crate::compiler::OutputKind;
use crate::config::Config;
use crate::config::Strategy;
use crate::dispatch::Dispatcher;
use crate::dispatch::Launcher;
use crate::dispatch::Pending;
use crate::dispatch::Presence;
use crate::dispatch::Scanned;
use crate::dispatch::Trail;
use crate::dispatch::Verdict;
use crate::dispatch::attempt::LocalCommand;
use crate::dispatch::in_background;
use crate::dispatch::inputs::Origin;
use crate::dispatch::local;
use crate::dispatch::local::Purpose;
use crate::dispatch::policy::is_heavy;
use crate::dispatch::policy::not_shared;
use crate::dispatch::policy::too_big;
use crate::dispatch::preparation;
use crate::dispatch::remote;
use crate::dispatch::remote::Answer;
use crate::dispatch::remote::Rival;
use crate::dispatch::repeats::Learned;
use crate::dispatch::repeats::Occasion;
use crate::dispatch::step::Step;
use crate::dispatch::trail::files_of;
use crate::dispatch::verification;
use crate::reason::Reason;
use crate::stats::Outcome;
use crate::store::Store;

/// A command that is understood, and what runs it.
#[derive(Clone, Copy)]
pub(super) struct Job<'a> {
    pub(super) config: &'a Arc<Config>,
    pub(super) step: &'a Step,
    /// What is executed in the end.
    pub(super) executed: &'a Arc<Invocation>,
    /// What the launcher runs: the command as it was typed.
    pub(super) invocation: &'a Arc<Invocation>,
}

/// What is known of it before its Action is made.
struct Seen {
    read: Scanned,
    /// What it appends to a file that a variable names.
    appended: Option<AppendedRules>,
    /// Whether it is run here to compare.
    sampled: bool,
    occasion: Option<Occasion>,
}

/// The result that the store has of an action, if it is one of success.
async fn known_result(store: &Arc<Store>, action: &Arc<Action>) -> Result<Option<re::ActionResult>, Reason> {
    let (store, key) = (Arc::clone(store), action.sought.key);
    let result = in_background(move || store.action_result(&key)).await?;
    // A store that cannot be read is a miss.
    Ok(result.ok().flatten().filter(|result| result.exit_code == 0))
}

impl Dispatcher {
    /// Decides one, from its inputs on. It has its `turn` until it is known not to be a hit on this machine.
    pub(super) async fn take(
        &self,
        job: Job<'_>,
        launcher: &mut Launcher,
        trail: &mut Trail,
        turn: impl Sized,
    ) -> Result<Verdict, Reason> {
        let Job { config, step, executed, invocation } = job;
        let read = self.inputs(step, executed).await?;
        let appended = step.appended_rules(executed)?;
        // What is appended when a result is put into place, the compiler would append once more.
        let sampled = appended.is_none() && verification::is_sampled(config.exec.verify);
        let (occasion, learned) = self.recall(job, &read).await?;
        if let Some(learned) = learned.filter(|_| !sampled)
            && let Some((verdict, execution)) =
                self.hit_again(config, &learned, invocation, &launcher.presence).await?
        {
            trail.repeated(&learned);
            trail.ended(Outcome::HitLocal, None);
            trail.spared(execution);
            return Ok(verdict);
        }
        let seen = Seen { read, appended, sampled, occasion };
        // On the heap only here: it is much, and most hits never come so far.
        Box::pin(self.take_anew(job, seen, launcher, trail, turn)).await
    }

    /// Of a command that is not known to have come again.
    async fn take_anew(
        &self,
        job: Job<'_>,
        seen: Seen,
        launcher: &mut Launcher,
        trail: &mut Trail,
        turn: impl Sized,
    ) -> Result<Verdict, Reason> {
        let Job { config, step, executed, invocation } = job;
        let Seen { read, appended, sampled, occasion } = seen;
        let Launcher { presence, lane, .. } = launcher;
        let origin = read.origin.clone();
        let prepared = self.prepare(config, step, executed, read).await?;
        trail.prepared(&prepared, step, executed, config);
        // What was prepared is of a later moment: only what was the same all the time belongs together.
        if let (Some(before), Some(origin), Some(command)) = (occasion, origin, trail.command())
            && let Some(occasion) =
                self.occasion(job, origin).await?.filter(|now| now.is(&before.remembered()))
        {
            self.repeats.learn(&occasion, &prepared.action, command);
        }
        let claim = self.claims.claim(output_paths(&prepared.action.sought));
        let store = self.store(config).await?;
        let mut expected = if sampled { known_result(&store, &prepared.action).await? } else { None };
        if expected.is_none()
            && let Some((verdict, execution)) =
                self.local_hit(&store, &prepared.action.sought, invocation, presence).await
        {
            trail.ended(Outcome::HitLocal, None);
            trail.spared(execution);
            return Ok(verdict);
        }
        drop(turn);
        if let Step::Compile { compile, .. } = step
            && step.audit(appended.as_ref()) == Audit::Question
        {
            let listed = self.toolchains.dependencies(compile, executed).await?;
            local::audit(&listed, &invocation.cwd, &prepared.action.inputs)?;
        }
        let argv = || preparation::argv_here(step, executed, invocation, &prepared.action);
        let audit_directory = self.directories.audit();
        let mut raced = None;
        let stays = not_shared(config, step).map(Reason::ToolchainNotShared);
        let stays = stays.or_else(|| too_big(config, step, &prepared.action));
        let reason = match (self.cluster(config)?, stays) {
            _ if expected.is_some() => Reason::Verify,
            (None, _) => Reason::NoRemote,
            (Some(_), Some(reason)) => reason,
            (Some(cluster), None) => {
                let executor = &cluster.executor;
                let (workers, relative) = (&self.workers, &prepared.relative);
                // What is run to compare runs alone, and what has appended its rules cannot be undone.
                let races = config.exec.strategy == Strategy::Racing
                    && !sampled
                    && appended.is_none()
                    && !is_heavy(config, step, &prepared.action);
                let rival = match races {
                    true => {
                        let command = LocalCommand { step, invocation, argv: argv()?, appended: None };
                        Some(Rival { lane, command, audit_directory: audit_directory.clone() })
                    }
                    false => None,
                };
                let run = remote::Run {
                    executor,
                    store: &store,
                    config,
                    invocation,
                    presence,
                    trail,
                    workers,
                    step,
                    files: &self.files,
                    relative,
                    rival,
                };
                match Box::pin(run.run(&prepared.action, &cluster.jobs)).await {
                    Ok(Answer::There(Verdict::Completed { exit_code: 0, .. })) if sampled => {
                        expected = known_result(&store, &prepared.action).await?;
                        Reason::Verify
                    }
                    Ok(Answer::There(verdict)) => return Ok(verdict),
                    Ok(Answer::Here { attempt, run, reason }) => {
                        raced = Some((attempt, run));
                        reason
                    }
                    Err(reason) if config.exec.strategy == Strategy::Remote => {
                        trail.ended(Outcome::ExecutedRemote, Some(reason.clone()));
                        return Ok(remote::failed_remotely(&reason));
                    }
                    Err(reason) => reason,
                }
            }
        };
        let appended = match (appended, step) {
            (Some(rules), Step::Compile { compile, .. }) => {
                let text = self.toolchains.appended_rules(compile, executed, &rules).await?;
                Some((rules, text))
            }
            _ => None,
        };
        let (attempt, run) = match raced {
            Some((attempt, run)) => (attempt, Some(run)),
            None => {
                let command = LocalCommand { step, invocation, argv: argv()?, appended };
                (command.attempt(&prepared.action, &audit_directory), None)
            }
        };
        let heavy = self.heavy(config, step, &prepared.action).await;
        let trail = std::mem::replace(trail, Trail::new(Arc::clone(invocation)));
        let (invocation, config) = (Arc::clone(invocation), Arc::clone(config));
        let purpose = Purpose { invocation, config, reason, expected, heavy };
        let action = Arc::clone(&prepared.action);
        let pending =
            Box::new(Pending::new(attempt, purpose, action, store, claim, trail, &self.directories));
        Ok(match run {
            Some(run) => Verdict::RanHere(pending, run),
            None => Verdict::RunAndStore(pending),
        })
    }

    async fn occasion(&self, job: Job<'_>, origin: Origin) -> Result<Option<Occasion>, Reason> {
        let config = Arc::clone(job.config);
        let (step, executed, typed) =
            (job.step.clone(), Arc::clone(job.executed), Arc::clone(job.invocation));
        in_background(move || Occasion::of(&config, &step, &executed, &typed, origin)).await
    }

    /// What decides about a command's key now, and what it came to before, if that is the same.
    async fn recall(
        &self,
        job: Job<'_>,
        read: &Scanned,
    ) -> Result<(Option<Occasion>, Option<Arc<Learned>>), Reason> {
        let Some(origin) = read.origin.clone() else { return Ok((None, None)) };
        let Some(occasion) = self.occasion(job, origin).await? else { return Ok((None, None)) };
        let (repeats, history) = (Arc::clone(&self.repeats), self.history.clone());
        in_background(move || {
            // Without all that the key is made of, its histories can only be continued.
            let is_known =
                |learned: &Arc<Learned>| history.knows(&files_of(&learned.sought), learned.command);
            let learned = repeats.recall(&occasion).filter(is_known);
            (Some(occasion), learned)
        })
        .await
    }

    /// A hit of a command that has come again.
    async fn hit_again(
        &self,
        config: &Config,
        learned: &Learned,
        invocation: &Invocation,
        presence: &Presence,
    ) -> Result<Option<(Verdict, Option<Execution>)>, Reason> {
        let sought = &learned.sought;
        let _claim = self.claims.claim(output_paths(sought));
        let store = self.store(config).await?;
        Ok(self.local_hit(&store, sought, invocation, presence).await)
    }

    async fn local_hit(
        &self,
        store: &Arc<Store>,
        sought: &Arc<Sought>,
        invocation: &Invocation,
        presence: &Presence,
    ) -> Option<(Verdict, Option<Execution>)> {
        let (store, sought) = (Arc::clone(store), Arc::clone(sought));
        let (umask, presence, files) = (invocation.umask, presence.clone(), Arc::clone(&self.files));
        let hit = in_background(move || local::hit(&store, &sought, umask, &presence, &files)).await;
        match hit {
            Ok(Ok(hit)) => hit,
            // A store that cannot be read is a miss; the command goes on.
            Ok(Err(error)) => {
                tracing::warn!("failed to {error}");
                None
            }
            Err(reason) => {
                tracing::error!("failed to look into the store: {reason}");
                None
            }
        }
    }
}

/// Where the command writes, without symlinks.
fn output_paths(sought: &Sought) -> Vec<PathBuf> {
    // What others append to as well is nobody's.
    let outputs = sought.outputs.iter().filter(|output| output.kind != OutputKind::AppendedRules);
    outputs.map(|output| output.physical.clone()).collect()
}
