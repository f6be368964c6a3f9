//! What programs have said of themselves, each asked once: in memory, on disk, else by asking.
//! Knows nothing of the questions.

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::RwLock;
use std::time::Duration;
use std::time::Instant;

use dashmap::DashMap;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::compiler::Invocation;
use crate::digest::Digest;
use crate::files::Files;
use crate::files::Fingerprint;
use crate::reason::Reason;

/// How long a program that did not answer is left alone.
const PATIENCE: Duration = Duration::from_secs(10);

/// More programs and sets of flags than any build has: beyond, memory is given up and the disk remembers.
const MOST_SLOTS: usize = 4096;

/// Something that is remembered as long as it holds.
pub(super) trait Recollection: Sized {
    /// As it is kept on disk.
    type Record: Serialize + DeserializeOwned;

    /// As it is to be kept.
    fn record(&self) -> Self::Record;

    /// As it was kept; None: damaged, or of another form.
    fn recalled(record: Self::Record) -> Option<Self>;

    /// Whether it would be the same if it was asked now.
    fn holds(&self, cwd: &Path, env: &[(OsString, OsString)]) -> bool;
}

/// All that was asked, shared by all connections.
pub(super) struct Recollections<T> {
    directory: PathBuf,
    slots: DashMap<Digest, Arc<Slot<T>>>,
}

/// One question.
struct Slot<T> {
    known: RwLock<Known<T>>,
    /// Held while the question is asked.
    asking: tokio::sync::Mutex<()>,
}

enum Known<T> {
    Nothing,
    Answer(Arc<T>),
    Failure(Instant, Reason),
}

impl<T: Recollection> Recollections<T> {
    /// An empty memory that keeps its records in `directory`, which is made when first needed.
    pub(super) fn new(directory: PathBuf) -> Recollections<T> {
        Recollections { directory, slots: DashMap::new() }
    }

    /// What is known by `key` and still holds, else what `ask` tells. A failure is believed for a moment, but not one of a
    /// `program` that has just been made.
    pub(super) async fn recall(
        &self,
        key: Digest,
        invocation: &Invocation,
        program: &Path,
        files: &Files,
        ask: impl AsyncFnOnce() -> Result<T, Reason>,
    ) -> Result<Arc<T>, Reason> {
        let slot = self.slot(key);
        if let Some(known) = slot.known(invocation) {
            return known;
        }
        let _asking = slot.asking.lock().await;
        // Another connection may have asked meanwhile.
        if let Some(known) = slot.known(invocation) {
            return known;
        }
        // What is said of a program that was made a moment ago is another thing in a moment.
        let started = files.now();
        let is_settled = Fingerprint::of(program).is_ok_and(|program| program.is_settled(started));
        let answer = match self.load(key, invocation) {
            Some(answer) => Ok(Arc::new(answer)),
            None => Box::pin(ask()).await.map(|answer| {
                self.save(key, &answer);
                Arc::new(answer)
            }),
        };
        slot.remember(match &answer {
            Ok(answer) => Known::Answer(Arc::clone(answer)),
            Err(reason) if is_settled => Known::Failure(Instant::now(), reason.clone()),
            Err(_) => Known::Nothing,
        });
        answer
    }

    /// Has `ask` learn more about `answer`, which is known by `key`; everybody else who asks waits.
    ///
    /// # Errors
    /// Those of `ask`. What it has learned before is kept nevertheless.
    pub(super) async fn extend(
        &self,
        key: Digest,
        answer: &T,
        ask: impl AsyncFnOnce() -> Result<bool, Reason>,
    ) -> Result<(), Reason> {
        let slot = self.slot(key);
        let _asking = slot.asking.lock().await;
        let learned = ask().await;
        if !matches!(learned, Ok(false)) {
            self.save(key, answer);
        }
        learned.map(drop)
    }

    fn slot(&self, key: Digest) -> Arc<Slot<T>> {
        if self.slots.len() >= MOST_SLOTS {
            self.slots.clear();
        }
        let nothing = || Slot { known: RwLock::new(Known::Nothing), asking: tokio::sync::Mutex::default() };
        Arc::clone(&self.slots.entry(key).or_insert_with(|| Arc::new(nothing())))
    }

    pub(super) fn record_path(&self, key: Digest) -> PathBuf {
        self.directory.join(format!("{}.json", key.hex()))
    }

    /// Writes the record with the digest of its text on the first line, by rename. One that cannot be written costs a
    /// repeated question, nothing else.
    fn save(&self, key: Digest, answer: &T) {
        let write = || -> std::io::Result<()> {
            let text = serde_json::to_vec(&answer.record())?;
            std::fs::create_dir_all(&self.directory)?;
            let mut file = tempfile::NamedTempFile::new_in(&self.directory)?;
            writeln!(file, "{}", Digest::of(&text))?;
            file.write_all(&text)?;
            file.persist(self.record_path(key))?;
            Ok(())
        };
        if let Err(error) = write() {
            tracing::warn!(%error, directory = %self.directory.display(), "failed to keep what a program said");
        }
    }

    /// The answer from disk, if it is there, undamaged, and still holds.
    pub(super) fn load(&self, key: Digest, invocation: &Invocation) -> Option<T> {
        let content = std::fs::read(self.record_path(key)).ok()?;
        let end = content.iter().position(|&byte| byte == b'\n')?;
        let (digest, text) = (std::str::from_utf8(&content[..end]).ok()?, &content[end + 1..]);
        if digest.parse::<Digest>().ok()? != Digest::of(text) {
            return None;
        }
        let answer = T::recalled(serde_json::from_slice(text).ok()?)?;
        answer.holds(&invocation.cwd, &invocation.env).then_some(answer)
    }
}

impl<T: Recollection> Slot<T> {
    /// What is known and still holds.
    fn known(&self, invocation: &Invocation) -> Option<Result<Arc<T>, Reason>> {
        let answer = match &*self.known.read().unwrap_or_else(PoisonError::into_inner) {
            Known::Answer(answer) => Arc::clone(answer),
            Known::Failure(since, reason) if since.elapsed() < PATIENCE => return Some(Err(reason.clone())),
            Known::Nothing | Known::Failure(..) => return None,
        };
        answer.holds(&invocation.cwd, &invocation.env).then_some(Ok(answer))
    }

    fn remember(&self, known: Known<T>) {
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = known;
    }
}
