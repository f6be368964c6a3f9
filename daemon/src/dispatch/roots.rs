//! Which root an action is sent with (`[exec] root`): the configured one, or the first that the cluster's workers were seen
//! to do, which is remembered for each cluster and platform.
//! Knows nothing of how an action is changed for a root, nor of results.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use bazel_remote_apis::build::bazel::remote::execution::v2 as re;
use dashmap::DashMap;
use prost::Message;
use serde::Deserialize;
use serde::Serialize;
use tokio::sync::Mutex;

use crate::action::Action;
use crate::action::RelativeCommand;
use crate::action::Rooted;
use crate::action::platform_of;
use crate::action::probe;
use crate::config::Config;
use crate::config::Root;
use crate::config::Strategy;
use crate::digest::Hasher;
use crate::dispatch::in_background;
use crate::executor::remote::RemoteError;
use crate::executor::remote::RemoteExecutor;
use crate::reason::Reason;
use crate::store::Store;
use crate::worker;

/// For how long answers are believed: a cluster's workers are given another image or another configuration now and then.
const BELIEVED_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a worker may take to answer when it is asked with a property that it may not know: some servers queue such an
/// action for ever.
const PROPERTY_TIMEOUT: Duration = Duration::from_secs(20);

/// Where the input root is asked to stand in a probe. No machine has it by itself.
const PLACE: &str = "/tmp/farcc-probe";

/// What workers were seen to do, by cluster and platform.
pub(super) struct Roots {
    directory: PathBuf,
    known: DashMap<String, Arc<Mutex<Option<Answers>>>>,
}

/// What the workers of one cluster and platform can do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Answers {
    /// Seconds since 1970.
    asked_at: u64,
    mirror: bool,
    wrapper: bool,
    /// Asked only where neither of the others can be had.
    property: Option<bool>,
}

impl Answers {
    fn best(&self) -> Root {
        match self {
            Answers { mirror: true, .. } => Root::Mirror,
            Answers { wrapper: true, .. } => Root::Wrapper,
            Answers { property: Some(true), .. } => Root::Property,
            Answers { .. } => Root::Relative,
        }
    }

    /// Whether nothing more needs to be asked.
    fn is_enough(&self) -> bool {
        self.mirror || self.wrapper || self.property.is_some()
    }

    fn is_current(&self, now: u64) -> bool {
        // A clock that was set back is no reason to believe longer.
        now >= self.asked_at && now - self.asked_at < BELIEVED_FOR.as_secs()
    }
}

/// Whether no worker is to run anything.
fn only_caches(config: &Config) -> bool {
    config.exec.strategy == Strategy::CacheOnly
}

impl Roots {
    /// Answers are kept in `directory`, and so is the program that is sent.
    pub(super) fn new(directory: PathBuf) -> Roots {
        Roots { directory, known: DashMap::new() }
    }

    /// `action` as it is sent to the cluster of `executor`, which may be asked first. `relative`: the command by relative
    /// paths, or why there is none.
    ///
    /// # Errors
    /// When the cluster gives no answer, or the command cannot be sent with the root.
    pub(super) async fn rooted(
        &self,
        action: &Arc<Action>,
        config: &Config,
        executor: &RemoteExecutor,
        store: &Arc<Store>,
        relative: &Result<RelativeCommand, String>,
    ) -> Result<Rooted, Reason> {
        let root = match config.exec.root {
            // Without workers there is nothing that a root could matter to.
            _ if only_caches(config) => Root::Mirror,
            Root::Auto if !executor.executes().await? => Root::Mirror,
            Root::Auto => self.best(action, config, executor, store).await?,
            root => root,
        };
        self.with(root, action, relative).await
    }

    /// `action` as it is offered to the cluster, without asking it.
    pub(super) async fn offered(&self, action: &Arc<Action>, config: &Config) -> Option<Rooted> {
        let root = match config.exec.root {
            _ if only_caches(config) => Root::Mirror,
            Root::Auto => {
                let (key, known) = self.known(action, config);
                let answers = known.lock().await.clone();
                answers.or_else(|| self.read(&key)).map_or(Root::Mirror, |answers| answers.best())
            }
            root => root,
        };
        self.with(root, action, &Err("it is not offered".to_owned())).await.ok()
    }

    async fn with(
        &self,
        root: Root,
        action: &Arc<Action>,
        relative: &Result<RelativeCommand, String>,
    ) -> Result<Rooted, Reason> {
        let (action, relative) = (Arc::clone(action), relative.clone());
        let directory = self.directory.clone();
        in_background(move || {
            let rooted = match root {
                // It is never left open by then.
                Root::Mirror | Root::Auto => Ok(Rooted::mirror(&action)),
                Root::Wrapper => Rooted::wrapper(&action, &program(&directory)?),
                Root::Property => Rooted::property(&action),
                Root::Relative => relative.and_then(|relative| Rooted::relative(&action, &relative)),
            };
            rooted.map_err(|why| Reason::RootImpossible(format!("{}: {why}", name(root))))
        })
        .await?
    }

    /// The program could not do its work on some worker of the cluster: another root is chosen from now on.
    pub(super) async fn refuted(&self, action: &Action, config: &Config) {
        let (key, known) = self.known(action, config);
        let mut answers = known.lock().await;
        if let Some(answers) = answers.as_mut() {
            answers.wrapper = false;
            self.write(&key, answers);
        }
    }

    /// The best root that the workers can do; they are asked where that is not known.
    async fn best(
        &self,
        action: &Arc<Action>,
        config: &Config,
        executor: &RemoteExecutor,
        store: &Arc<Store>,
    ) -> Result<Root, Reason> {
        let (key, known) = self.known(action, config);
        // One command asks, the others wait for the answer.
        let mut answers = known.lock().await;
        let now = seconds();
        if answers.is_none() {
            *answers = self.read(&key);
        }
        let current = answers.as_ref().filter(|answers| answers.is_current(now));
        if let Some(answers) = current.filter(|answers| answers.is_enough()) {
            return Ok(answers.best());
        }
        let probes = Probes { directory: &self.directory, action, executor, store };
        let mut found = match answers.take().filter(|answers| answers.is_current(now)) {
            Some(answers) => answers,
            None => Answers { asked_at: now, ..probes.plain().await? },
        };
        if !found.is_enough() {
            found.property = Some(probes.property().await?);
        }
        let best = found.best();
        tracing::info!("the workers of {} can do: {found:?}; root {}", config.remote.address, name(best));
        self.write(&key, &found);
        *answers = Some(found);
        Ok(best)
    }

    fn known(&self, action: &Action, config: &Config) -> (String, Arc<Mutex<Option<Answers>>>) {
        let mut hasher = Hasher::new();
        hasher.field(config.remote.address.as_bytes());
        hasher.field(config.remote.engine_address.as_bytes());
        hasher.field(config.remote.instance_name.as_bytes());
        hasher.field(&platform_of(action).unwrap_or_default().encode_to_vec());
        hasher.field(worker::digest().hash());
        let key = hasher.finish().hex();
        let known = Arc::clone(self.known.entry(key.clone()).or_default().value());
        (key, known)
    }

    fn file(&self, key: &str) -> PathBuf {
        self.directory.join(format!("{key}.json"))
    }

    fn read(&self, key: &str) -> Option<Answers> {
        serde_json::from_slice(&std::fs::read(self.file(key)).ok()?).ok()
    }

    /// What cannot be written is asked again by the next daemon.
    fn write(&self, key: &str, answers: &Answers) {
        let text = serde_json::to_vec(answers).unwrap_or_default();
        let written = std::fs::create_dir_all(&self.directory).and_then(|()| {
            let mut file = tempfile::NamedTempFile::new_in(&self.directory)?;
            std::io::Write::write_all(&mut file, &text)?;
            file.persist(self.file(key))?;
            Ok(())
        });
        if let Err(error) = written {
            tracing::warn!("failed to write {}: {error}", self.file(key).display());
        }
    }
}

/// The questions to the workers that would run an action.
struct Probes<'a> {
    directory: &'a Path,
    action: &'a Action,
    executor: &'a RemoteExecutor,
    store: &'a Arc<Store>,
}

impl Probes<'_> {
    /// What they can do without being asked for it.
    async fn plain(&self) -> Result<Answers, Reason> {
        let result = self.run(None).await?;
        let answers = read_answers(&result);
        if !answers.mirror && !answers.wrapper {
            tracing::info!("a worker says: {}", said(&result));
        }
        Ok(answers)
    }

    /// Whether they put the input root where it is asked for.
    async fn property(&self) -> Result<bool, Reason> {
        match tokio::time::timeout(PROPERTY_TIMEOUT, self.run(Some(Path::new(PLACE)))).await {
            Ok(Ok(result)) => Ok(read_answers(&result).property == Some(true)),
            Ok(Err(error @ (RemoteError::Unavailable(_) | RemoteError::Store(_)))) => Err(error.into()),
            Ok(Err(error)) => {
                tracing::info!("no worker knows the property: {error}");
                Ok(false)
            }
            Err(_) => {
                tracing::info!("no worker knows the property: none came in {PROPERTY_TIMEOUT:?}");
                Ok(false)
            }
        }
    }

    async fn run(&self, at: Option<&Path>) -> Result<re::ActionResult, RemoteError> {
        let (directory, platform) = (self.directory.to_owned(), platform_of(self.action));
        let at = at.map(Path::to_owned);
        let probe = in_background(move || {
            let program = program(&directory)?;
            probe(platform, &program, at.as_deref()).map_err(Reason::Internal)
        });
        let probe = probe.await.and_then(|probe| probe);
        let probe = probe.map_err(|reason| RemoteError::Refused(format!("make a probe: {reason}")))?;
        let sent = self.executor.remote_action(&Arc::new(probe)).await?;
        Ok(self.executor.execute(&sent, self.store, false).await?.result)
    }
}

fn program(directory: &Path) -> Result<PathBuf, Reason> {
    worker::lay(directory).map_err(|error| Reason::Store(format!("write {}: {error}", directory.display())))
}

/// A probe's answers. A worker that could not run it does nothing that it asks for.
fn read_answers(result: &re::ActionResult) -> Answers {
    let text = String::from_utf8_lossy(&result.stdout_raw);
    let says = |line: &str| result.exit_code == 0 && text.lines().any(|said| said == line);
    Answers {
        asked_at: 0,
        mirror: says("mirror=yes"),
        wrapper: says("wrapper=yes"),
        property: says("property=yes").then_some(true),
    }
}

fn said(result: &re::ActionResult) -> String {
    let text = [result.stdout_raw.as_slice(), &result.stderr_raw].concat();
    String::from_utf8_lossy(&text).lines().collect::<Vec<_>>().join("; ")
}

fn seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The root's name in the configuration.
fn name(root: Root) -> &'static str {
    match root {
        Root::Auto => "auto",
        Root::Relative => "relative",
        Root::Mirror => "mirror",
        Root::Property => "property",
        Root::Wrapper => "wrapper",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_works_is_the_best() {
        let answers = |mirror: bool, wrapper: bool, property: bool| {
            let property = Some(property).filter(|_| !mirror && !wrapper);
            Answers { asked_at: 0, mirror, wrapper, property }
        };
        for (given, best) in [
            (answers(true, true, true), Root::Mirror),
            (answers(false, true, true), Root::Wrapper),
            (answers(false, false, true), Root::Property),
            (answers(false, false, false), Root::Relative),
        ] {
            assert_eq!(given.best(), best);
            assert!(given.is_enough());
        }
        // The program failed on some worker: of the property nothing is known.
        let refuted = Answers { wrapper: false, ..answers(false, true, false) };
        assert!(!refuted.is_enough());
    }

    #[test]
    fn answers_are_lines_of_a_probe_that_ran() {
        let result = |exit_code, text: &str| re::ActionResult {
            exit_code,
            stdout_raw: text.as_bytes().to_vec(),
            ..re::ActionResult::default()
        };
        let wrapper = Answers { wrapper: true, ..Answers::default() };
        assert_eq!(read_answers(&result(0, "mirror=/x: not there\nwrapper=yes\n")), wrapper);
        assert_eq!(read_answers(&result(1, "mirror=yes\nwrapper=yes\n")), Answers::default());
        assert_eq!(read_answers(&result(0, "")), Answers::default());
    }

    #[test]
    fn answers_are_believed_for_a_day() {
        let answers = Answers { asked_at: 1_000_000, ..Answers::default() };
        let day = BELIEVED_FOR.as_secs();
        for (now, believed) in
            [(1_000_000, true), (1_000_000 + day - 1, true), (1_000_000 + day, false), (999_999, false)]
        {
            assert_eq!(answers.is_current(now), believed, "{now}");
        }
    }

    #[test]
    fn answers_outlive_the_daemon() {
        let directory = tempfile::tempdir().unwrap();
        let roots = Roots::new(directory.path().join("roots"));
        let answers = Answers { asked_at: 7, wrapper: true, ..Answers::default() };
        assert_eq!(roots.read("k"), None);
        roots.write("k", &answers);
        assert_eq!(Roots::new(directory.path().join("roots")).read("k"), Some(answers));
        std::fs::write(roots.file("k"), "{").unwrap();
        assert_eq!(roots.read("k"), None);
    }
}
