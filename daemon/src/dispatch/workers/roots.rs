//! Which root an action is sent with (`[exec] root`): the configured one, or the first that the cluster's workers were seen
//! to do.
//! Knows nothing of how an action is changed for a root, nor of results.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bazel_remote_apis::build::bazel::remote::execution::v2 as re;
use dashmap::DashMap;
use serde::Deserialize;
use serde::Serialize;

use crate::action::probe;
use crate::config::Config;
use crate::config::Root;
use crate::dispatch::in_background;
use crate::executor::remote::RemoteError;
use crate::reason::Reason;

use super::Asked;
use super::Asker;
use super::is_current;
use super::key;
use super::said;
use super::seconds;
use super::write;

/// How long a worker may take to answer when it is asked with a property that it may not know: some servers queue such an
/// action for ever.
const PROPERTY_TIMEOUT: Duration = Duration::from_secs(20);

/// Where the input root is asked to stand in a probe. No machine has it by itself.
const PLACE: &str = "/tmp/farcc-probe";

/// What workers were seen to do, by cluster and platform.
pub(super) struct Roots {
    directory: PathBuf,
    known: DashMap<String, Arc<Asked<Option<Answers>>>>,
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

    fn is_current(&self) -> bool {
        is_current(self.asked_at, seconds())
    }

    fn is_all(&self) -> bool {
        self.is_enough() && self.is_current()
    }
}

impl Roots {
    /// Answers are kept in `directory`.
    pub(super) fn new(directory: PathBuf) -> Roots {
        Roots { directory, known: DashMap::new() }
    }

    /// The root that a command is sent with; the cluster may be asked first.
    ///
    /// # Errors
    /// When the cluster gives no answer.
    pub(super) async fn choose(&self, asker: &Asker<'_>, config: &Config) -> Result<Root, Reason> {
        match config.exec.root {
            Root::Auto if !asker.executor.executes().await? => Ok(Root::Mirror),
            Root::Auto => self.best(asker, config).await,
            root => Ok(root),
        }
    }

    /// The root that a command is offered with, without asking the cluster.
    pub(super) async fn known(&self, platform: &re::Platform, config: &Config) -> Root {
        match config.exec.root {
            Root::Auto => self.answers(platform, config).await.map_or(Root::Mirror, |answers| answers.best()),
            root => root,
        }
    }

    /// Whether the workers are known to run commands below our own program, whatever the best root is.
    pub(super) async fn wraps(&self, platform: &re::Platform, config: &Config) -> bool {
        match config.exec.root {
            Root::Auto => self.answers(platform, config).await.is_some_and(|answers| answers.wrapper),
            root => root == Root::Wrapper,
        }
    }

    async fn answers(&self, platform: &re::Platform, config: &Config) -> Option<Answers> {
        let (key, asked) = self.entry(platform, config);
        self.recall(&key, &asked).await
    }

    /// What is known, to this daemon or from an earlier one.
    async fn recall(&self, key: &str, asked: &Asked<Option<Answers>>) -> Option<Answers> {
        if let Some(answers) = asked.look(|answers| answers.clone()) {
            return Some(answers);
        }
        let file = self.file(key);
        let found = in_background(move || read(&file)).await.ok().flatten();
        // Another command may have asked meanwhile.
        asked.look(|answers| {
            *answers = answers.take().or(found);
            answers.clone()
        })
    }

    /// The program could not do its work on some worker of the cluster: another root is chosen from now on.
    pub(super) async fn refuted(&self, platform: &re::Platform, config: &Config) {
        let (key, asked) = self.entry(platform, config);
        let refuted = asked.look(|answers| {
            let answers = answers.as_mut()?;
            answers.wrapper = false;
            Some(answers.clone())
        });
        if let Some(answers) = refuted {
            self.keep(&key, answers).await;
        }
    }

    /// The best root that the workers can do; they are asked where that is not known.
    async fn best(&self, asker: &Asker<'_>, config: &Config) -> Result<Root, Reason> {
        let (key, asked) = self.entry(&asker.platform, config);
        if let Some(answers) = self.recall(&key, &asked).await.filter(Answers::is_all) {
            return Ok(answers.best());
        }
        let _turn = asked.turn().await;
        let answers = self.recall(&key, &asked).await;
        if let Some(answers) = answers.clone().filter(Answers::is_all) {
            return Ok(answers.best());
        }
        let mut found = match answers.filter(Answers::is_current) {
            Some(answers) => answers,
            None => Answers { asked_at: seconds(), ..plain(asker).await? },
        };
        if !found.is_enough() {
            found.property = Some(property(asker).await?);
        }
        let best = found.best();
        tracing::info!("the workers of {} can do: {found:?}; root {}", config.remote.address, name(best));
        asked.look(|answers| *answers = Some(found.clone()));
        self.keep(&key, found).await;
        Ok(best)
    }

    fn entry(&self, platform: &re::Platform, config: &Config) -> (String, Arc<Asked<Option<Answers>>>) {
        let key = key(platform, config);
        let asked = Arc::clone(self.known.entry(key.clone()).or_default().value());
        (key, asked)
    }

    fn file(&self, key: &str) -> PathBuf {
        self.directory.join(format!("{key}.json"))
    }

    async fn keep(&self, key: &str, answers: Answers) {
        let file = self.file(key);
        // What cannot be written is said there.
        let _ = in_background(move || write(&file, &serde_json::to_vec(&answers).unwrap_or_default())).await;
    }
}

fn read(file: &Path) -> Option<Answers> {
    serde_json::from_slice(&std::fs::read(file).ok()?).ok()
}

/// What they can do without being asked for it.
async fn plain(asker: &Asker<'_>) -> Result<Answers, Reason> {
    let result = asker.ask_patiently(|platform, program| probe(platform, program, None)).await?;
    let answers = read_answers(&result);
    if !answers.mirror && !answers.wrapper {
        tracing::info!("a worker says: {}", said(&result));
    }
    Ok(answers)
}

/// Whether they put the input root where it is asked for.
async fn property(asker: &Asker<'_>) -> Result<bool, Reason> {
    let asked = asker.ask(|platform, program| probe(platform, program, Some(Path::new(PLACE))));
    match tokio::time::timeout(PROPERTY_TIMEOUT, asked).await {
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

/// The root's name in the configuration.
pub(super) fn name(root: Root) -> &'static str {
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

    #[tokio::test]
    async fn answers_outlive_the_daemon() {
        let directory = tempfile::tempdir().unwrap();
        let roots = || Roots::new(directory.path().join("roots"));
        let answers = Answers { asked_at: 7, wrapper: true, ..Answers::default() };
        assert_eq!(roots().recall("k", &Asked::default()).await, None);
        roots().keep("k", answers.clone()).await;
        assert_eq!(roots().recall("k", &Asked::default()).await, Some(answers));
        std::fs::write(roots().file("k"), "{").unwrap();
        assert_eq!(roots().recall("k", &Asked::default()).await, None);
    }
}
