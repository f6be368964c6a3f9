//! What the workers of a cluster can do and have, as far as commands depend on it: they are asked once for each platform,
//! and the answers are remembered for a day.
//! Knows nothing of results.

mod image;
mod needed;
mod roots;
mod told;

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use bazel_remote_apis::build::bazel::remote::execution::v2 as re;
use dashmap::DashMap;
use prost::Message;
use tokio::sync::Semaphore;
use tokio::sync::SemaphorePermit;

use crate::action::Action;
use crate::action::Brought;
use crate::action::RelativeCommand;
use crate::action::Rooted;
use crate::action::platform_of;
use crate::compiler::Tools;
use crate::config::Config;
use crate::config::Root;
use crate::config::Strategy;
use crate::config::ToolchainSource;
use crate::digest::Hasher;
use crate::dispatch::in_background;
use crate::executor::remote::RemoteError;
use crate::executor::remote::RemoteExecutor;
use crate::reason::Reason;
use crate::store::Store;
use crate::worker;

use image::Images;
use roots::Roots;

pub use image::Comparison;

/// For how long answers are believed: a cluster's workers are given another image or another configuration now and then.
const BELIEVED_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// For how long workers that gave no answer are not asked again: each command that waits for one would wait as long.
const SILENCE: Duration = Duration::from_secs(60);

/// When workers gave no answer, and why, by cluster and platform.
type Silences = DashMap<String, (Instant, String)>;

/// The workers of all clusters.
pub(super) struct Workers {
    directory: PathBuf,
    silences: Silences,
    roots: Roots,
    images: Images,
}

/// A command for a cluster.
pub(super) struct Subject<'a> {
    /// As it is where the input root is the root directory.
    pub action: &'a Arc<Action>,
    /// The programs that it runs.
    pub tools: &'a Arc<Tools>,
    /// The command by relative paths, or why there is none.
    pub relative: &'a Result<RelativeCommand, String>,
    /// Its configuration.
    pub config: &'a Config,
    /// The cluster.
    pub executor: &'a RemoteExecutor,
    /// Where results are kept on this machine.
    pub store: &'a Arc<Store>,
}

/// Whether no worker is to run anything, so that it does not matter what they are like.
fn only_caches(config: &Config) -> bool {
    config.exec.strategy == Strategy::CacheOnly
}

impl Workers {
    /// Answers are kept in `directory`, and so is the program that is sent.
    pub(super) fn new(directory: PathBuf) -> Workers {
        let roots = Roots::new(directory.join("roots"));
        let images = Images::new(directory.join("images"));
        Workers { directory, silences: DashMap::new(), roots, images }
    }

    fn asker<'a>(
        &'a self,
        platform: re::Platform,
        config: &Config,
        executor: &'a RemoteExecutor,
        store: &'a Arc<Store>,
    ) -> Asker<'a> {
        let key = key(&platform, config);
        Asker { directory: &self.directory, silences: &self.silences, platform, key, executor, store }
    }

    /// The action as its result is looked for on the cluster; the workers are asked at most what roots they can do.
    ///
    /// # Errors
    /// When the cluster gives no answer, or the command cannot be sent with the root.
    pub(super) async fn rooted(&self, subject: &Subject<'_>) -> Result<Rooted, Reason> {
        let Subject { action, config, executor, store, .. } = *subject;
        if only_caches(config) {
            return Ok(Rooted::mirror(action));
        }
        let asker = self.asker(platform_of(action), config, executor, store);
        let root = self.roots.choose(&asker, config).await?;
        let brought = self.known_to_differ(action, config).await;
        let root = if brought.is_empty() { root } else { Root::Wrapper };
        self.with(root, action, subject.relative, brought).await
    }

    /// Makes sure that a worker has the programs of this machine and all that the command takes from the image; it is asked
    /// where that is not known. `Some`: the action as it is sent instead, with what the worker lacks.
    ///
    /// # Errors
    /// [`Reason::WorkerDiffers`]; when the cluster gives no answer.
    pub(super) async fn agreed(&self, subject: &Subject<'_>) -> Result<Option<Rooted>, Reason> {
        let Subject { action, config, executor, store, .. } = *subject;
        if config.exec.toolchain == ToolchainSource::Trusted {
            return Ok(None);
        }
        let asker = self.asker(platform_of(action), config, executor, store);
        let differences = self.images.differences(&asker, action, subject.tools, config).await?;
        let Some(first) = differences.first.clone() else { return Ok(None) };
        if !differences.can_be_brought || !self.roots.wraps(&asker.platform, config).await {
            return Err(Reason::WorkerDiffers(first));
        }
        self.with(Root::Wrapper, action, subject.relative, differences.brought).await.map(Some)
    }

    /// The action as its result is offered to the cluster, without asking it.
    pub(super) async fn offered(&self, action: &Arc<Action>, config: &Config) -> Option<Rooted> {
        if only_caches(config) {
            return Some(Rooted::mirror(action));
        }
        let brought = self.known_to_differ(action, config).await;
        let root = match brought.is_empty() {
            true => self.roots.known(&platform_of(action), config).await,
            false => Root::Wrapper,
        };
        self.with(root, action, &Err("it is not offered".to_owned()), brought).await.ok()
    }

    /// The program could not do its work on some worker of the cluster: another root is chosen from now on.
    pub(super) async fn refuted(&self, action: &Action, config: &Config) {
        self.roots.refuted(&platform_of(action), config).await;
    }

    /// Asks a worker for `tools` and for every header that comes with them.
    ///
    /// # Errors
    /// When the cluster gives no answer.
    pub(super) async fn compare(
        &self,
        tools: &Arc<Tools>,
        config: &Config,
        executor: &RemoteExecutor,
        store: &Arc<Store>,
    ) -> Result<Comparison, Reason> {
        let properties = config.platform.of("compile", &Default::default());
        let platform = crate::action::platform(&properties);
        let asker = self.asker(platform, config, executor, store);
        self.images.compare(&asker, tools, config).await
    }

    /// What the workers are known to lack of the headers of a command, where it can be sent.
    async fn known_to_differ(&self, action: &Arc<Action>, config: &Config) -> Vec<Brought> {
        let platform = platform_of(action);
        if config.exec.toolchain == ToolchainSource::Trusted || !self.roots.wraps(&platform, config).await {
            return Vec::new();
        }
        self.images.known_to_differ(&platform, action, config).await
    }

    async fn with(
        &self,
        root: Root,
        action: &Arc<Action>,
        relative: &Result<RelativeCommand, String>,
        brought: Vec<Brought>,
    ) -> Result<Rooted, Reason> {
        if let Root::Mirror | Root::Auto = root {
            // It is never left open by now.
            return Ok(Rooted::mirror(action));
        }
        let (action, relative) = (Arc::clone(action), relative.clone());
        let directory = self.directory.clone();
        in_background(move || {
            let rooted = match root {
                Root::Mirror | Root::Auto => Ok(Rooted::mirror(&action)),
                Root::Wrapper => Rooted::wrapper(&action, &program(&directory)?, &brought),
                Root::Property => Rooted::property(&action),
                Root::Relative => relative.and_then(|relative| Rooted::relative(&action, &relative)),
            };
            rooted.map_err(|why| Reason::RootImpossible(format!("{}: {why}", roots::name(root))))
        })
        .await?
    }
}

/// Something about the workers of one cluster and platform that is not known before one of them was asked.
struct Asked<T> {
    turn: Semaphore,
    known: Mutex<T>,
}

impl<T: Default> Default for Asked<T> {
    fn default() -> Asked<T> {
        Asked { turn: Semaphore::new(1), known: Mutex::default() }
    }
}

impl<T> Asked<T> {
    /// Waits for one's turn to ask. What the command before has asked may be all that is to be known.
    async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed.
        self.turn.acquire().await.ok()
    }

    fn look<R>(&self, look: impl FnOnce(&mut T) -> R) -> R {
        look(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Who asks the workers of one platform.
struct Asker<'a> {
    directory: &'a Path,
    silences: &'a Silences,
    platform: re::Platform,
    key: String,
    executor: &'a RemoteExecutor,
    store: &'a Arc<Store>,
}

impl Asker<'_> {
    /// The same as [`ask`](Self::ask), unless workers have just given no answer.
    async fn ask_patiently(
        &self,
        question: impl FnOnce(re::Platform, &Path) -> Result<Action, String> + Send + 'static,
    ) -> Result<re::ActionResult, RemoteError> {
        if let Some(silence) = self.silences.get(&self.key)
            && silence.0.elapsed() < SILENCE
        {
            let (ago, why) = (silence.0.elapsed(), &silence.1);
            return Err(RemoteError::Refused(format!("a worker was asked {ago:.0?} ago: {why}")));
        }
        let answer = self.ask(question).await;
        match &answer {
            // Whether the cluster can be reached at all is remembered elsewhere.
            Ok(_) | Err(RemoteError::Unavailable(_)) => {}
            Err(error) => {
                self.silences.insert(self.key.clone(), (Instant::now(), error.to_string()));
            }
        }
        answer
    }

    /// The answer of a worker to the action that `question` makes, for a platform, with the program that is sent.
    async fn ask(
        &self,
        question: impl FnOnce(re::Platform, &Path) -> Result<Action, String> + Send + 'static,
    ) -> Result<re::ActionResult, RemoteError> {
        let (directory, platform) = (self.directory.to_owned(), self.platform.clone());
        let action = in_background(move || {
            let program = program(&directory)?;
            question(platform, &program).map_err(Reason::Internal)
        });
        let action = action.await.and_then(|action| action);
        let action = action.map_err(|reason| RemoteError::Refused(format!("ask a worker: {reason}")))?;
        let sent = self.executor.remote_action(&Arc::new(action)).await?;
        Ok(self.executor.execute(&sent, "Probe", self.store, false, None).await?.result)
    }
}

fn program(directory: &Path) -> Result<PathBuf, Reason> {
    worker::lay(directory).map_err(|error| Reason::Store(format!("write {}: {error}", directory.display())))
}

/// What the workers of one cluster and platform are known by.
fn key(platform: &re::Platform, config: &Config) -> String {
    let mut hasher = Hasher::new();
    hasher.field(config.remote.address.as_bytes());
    hasher.field(config.remote.engine_address.as_bytes());
    hasher.field(config.remote.instance_name.as_bytes());
    hasher.field(&platform.encode_to_vec());
    hasher.field(worker::digest().hash());
    hasher.finish().hex()
}

/// Keeps answers for the next daemon, which asks again where that cannot be done.
fn write(file: &Path, bytes: &[u8]) {
    let directory = file.parent().unwrap_or(file);
    let written = std::fs::create_dir_all(directory).and_then(|()| {
        let mut temporary = tempfile::NamedTempFile::new_in(directory)?;
        std::io::Write::write_all(&mut temporary, bytes)?;
        temporary.persist(file)?;
        Ok(())
    });
    if let Err(error) = written {
        tracing::warn!("failed to write {}: {error}", file.display());
    }
}

/// What a worker printed.
fn said(result: &re::ActionResult) -> String {
    let text = [result.stdout_raw.as_slice(), &result.stderr_raw].concat();
    String::from_utf8_lossy(&text).lines().collect::<Vec<_>>().join("; ")
}

/// Now, in seconds since 1970.
fn seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Whether an answer of `asked_at` is still believed; both in seconds since 1970.
fn is_current(asked_at: u64, now: u64) -> bool {
    // A clock that was set back is no reason to believe longer.
    now >= asked_at && now - asked_at < BELIEVED_FOR.as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_believed_for_a_day() {
        let day = BELIEVED_FOR.as_secs();
        for (now, believed) in
            [(1_000_000, true), (1_000_000 + day - 1, true), (1_000_000 + day, false), (999_999, false)]
        {
            assert_eq!(is_current(1_000_000, now), believed, "{now}");
        }
    }
}
