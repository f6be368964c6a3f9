//! Remembers the summaries of headers, and decides of which one is worth making.
//! Knows nothing of what is in a summary.

use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::RwLock;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use dashmap::DashMap;
use foldhash::fast::RandomState;

use crate::digest::Digest;
use crate::files::InputFile;
use crate::preprocessor::Answers;
use crate::preprocessor::Predefined;
use crate::preprocessor::Scan;
use crate::preprocessor::ScanError;
use crate::preprocessor::Sources;
use crate::preprocessor::TranslationUnit;
use crate::preprocessor::replay::Replay;
use crate::preprocessor::replay::scan_with;
use crate::preprocessor::summary::Summary;
use crate::preprocessor::symbol::Symbol;

/// When the summaries take more memory than this, all are forgotten.
const LARGEST_MEMORY_BYTES: usize = 256 << 20;

/// Under how many circumstances a header is remembered.
const MOST_CIRCUMSTANCES: usize = 6;

/// How often a header may be replayed in a row before only every second, fourth, … replay is summarized.
const MISSES: u32 = 2;

/// A header that includes fewer files is as fast replayed.
const FEWEST_FILES: i64 = 16;

/// What all recordings together may cost at first, in files: what held summaries save is added. A project in which
/// summaries never hold, because its headers see other macros in each unit, soon does without.
const FIRST_CREDIT_FILES: i64 = 600;

/// Of which headers summaries are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Thrift {
    /// Of those where it is likely to save time.
    Worthwhile,
    /// Of all that include others, whenever none holds: for tests of what summaries say.
    All,
}

/// The summaries of all headers, shared by all units.
pub struct Summaries {
    contexts: DashMap<Digest, Context, RandomState>,
    next_context: AtomicU32,
    slots: DashMap<Key, Arc<Slot>, RandomState>,
    accounts: Arc<Accounts>,
}

/// What all summaries take, and whether they are worth it.
struct Accounts {
    thrift: Thrift,
    /// About what they take, in bytes.
    size_bytes: AtomicUsize,
    /// How many files may still be recorded; see [`FIRST_CREDIT_FILES`].
    credit_files: AtomicI64,
    /// How often a summary was applied.
    applied: AtomicUsize,
}

/// All that a unit's command line says, but for its source and its macros. Its compiler's macros and answers are known
/// by their addresses (see [`crate::preprocessor::memo`]).
#[derive(Clone)]
struct Context {
    number: u32,
    _compiler: (Arc<Predefined>, Arc<Answers>),
}

/// A header in a context: the address of its version, the context, and where it was found (see
/// [`Search::found_number`](crate::preprocessor::search::Search::found_number)).
type Key = (usize, u32, u32);

/// The summaries of one header.
pub(super) struct Slot {
    /// As long as it lives, nothing else has its address.
    _header: Arc<InputFile>,
    known: RwLock<Arc<[Arc<Summary>]>>,
    /// How often it was replayed since a summary held.
    misses: AtomicU32,
    /// It includes so little that it is replayed each time.
    is_small: AtomicBool,
    accounts: Arc<Accounts>,
}

impl Default for Summaries {
    fn default() -> Summaries {
        Summaries::new()
    }
}

impl Summaries {
    /// None yet; they will be made where that is likely to save time.
    pub fn new() -> Summaries {
        Summaries::with_thrift(Thrift::Worthwhile)
    }

    /// None yet; they will be made of every header that includes others, whatever it costs: for tests of them.
    pub fn of_all() -> Summaries {
        Summaries::with_thrift(Thrift::All)
    }

    fn with_thrift(thrift: Thrift) -> Summaries {
        Summaries {
            contexts: DashMap::default(),
            next_context: AtomicU32::new(0),
            slots: DashMap::default(),
            accounts: Arc::new(Accounts {
                thrift,
                applied: AtomicUsize::new(0),
                size_bytes: AtomicUsize::new(0),
                credit_files: AtomicI64::new(FIRST_CREDIT_FILES),
            }),
        }
    }

    /// As [`scan`](crate::preprocessor::scan), with what is known of headers, and learning more of them. What was
    /// scanned before must have been in these `sources`.
    ///
    /// # Errors
    /// The same.
    pub fn scan(&self, unit: &TranslationUnit, sources: &dyn Sources) -> Result<Scan, ScanError> {
        self.scan_in(unit.context(), unit, sources)
    }

    /// The same; `context` is that of the unit.
    pub(super) fn scan_in(
        &self,
        context: Digest,
        unit: &TranslationUnit,
        sources: &dyn Sources,
    ) -> Result<Scan, ScanError> {
        let context = self.context(context, &unit.predefined, &unit.answers);
        scan_with(Replay::new(unit, sources).with_summaries(self, context))
    }

    /// The number of a context, known by the digest of all that belongs to it.
    fn context(&self, digest: Digest, predefined: &Arc<Predefined>, answers: &Arc<Answers>) -> u32 {
        if self.size_bytes() > LARGEST_MEMORY_BYTES {
            self.contexts.clear();
            self.slots.clear();
        }
        let context = self.contexts.entry(digest).or_insert_with(|| Context {
            number: self.next_context.fetch_add(1, Ordering::Relaxed),
            _compiler: (Arc::clone(predefined), Arc::clone(answers)),
        });
        context.number
    }

    /// What is known of a header that was found as `found` says.
    pub(super) fn of(&self, header: &Arc<InputFile>, context: u32, found: u32) -> Arc<Slot> {
        let key = (Arc::as_ptr(header).addr(), context, found);
        if let Some(slot) = self.slots.get(&key) {
            return Arc::clone(&slot);
        }
        let slot = || {
            Arc::new(Slot {
                _header: Arc::clone(header),
                known: RwLock::default(),
                misses: AtomicU32::new(0),
                is_small: AtomicBool::new(false),
                accounts: Arc::clone(&self.accounts),
            })
        };
        Arc::clone(&self.slots.entry(key).or_insert_with(slot))
    }

    /// How often one took the place of a replay.
    pub fn applied(&self) -> usize {
        self.accounts.applied.load(Ordering::Relaxed)
    }

    /// About how much memory they take, in bytes.
    pub fn size_bytes(&self) -> usize {
        self.accounts.size_bytes.load(Ordering::Relaxed) + self.slots.len() * (size_of::<Slot>() + 64)
    }
}

impl Slot {
    /// Whether it is no use to look for a summary.
    pub(super) fn is_small(&self) -> bool {
        self.is_small.load(Ordering::Relaxed)
    }

    /// The summaries, the newest first.
    pub(super) fn known(&self) -> Arc<[Arc<Summary>]> {
        Arc::clone(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// A summary held.
    pub(super) fn held(&self, summary: &Summary) {
        self.accounts.applied.fetch_add(1, Ordering::Relaxed);
        self.misses.store(0, Ordering::Relaxed);
        // To hold a summary against a unit takes about half as long as to replay its files.
        self.accounts.credit_files.fetch_add(summary.count_files() / 2, Ordering::Relaxed);
    }

    /// No summary held. Whether to make one of this replay: of a header that is met once, it is not worth it, nor of
    /// one `within` another that is being recorded, until that has turned out to be of no use.
    pub(super) fn missed(&self, within: bool) -> bool {
        if self.accounts.thrift == Thrift::All {
            return true;
        }
        let before = self.misses.fetch_add(1, Ordering::Relaxed);
        let is_its_turn = (1..=MISSES).contains(&before) || before.is_power_of_two();
        is_its_turn && !within && self.accounts.credit_files.load(Ordering::Relaxed) > 0
    }

    /// Keeps what was made of a replay, if anything could be.
    pub(super) fn keep(&self, summary: Option<Summary>) {
        let Some(summary) = summary else { return };
        self.accounts.credit_files.fetch_sub(summary.count_files(), Ordering::Relaxed);
        if self.accounts.thrift == Thrift::Worthwhile && summary.count_files() < FEWEST_FILES {
            self.is_small.store(true, Ordering::Relaxed);
            return;
        }
        if Symbol::are_exhausted() {
            return;
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let size =
            |summaries: &[Arc<Summary>]| summaries.iter().map(|known| known.size_bytes()).sum::<usize>();
        let before = size(&known);
        let kept = known.iter().take(MOST_CIRCUMSTANCES - 1).cloned();
        *known = std::iter::once(Arc::new(summary)).chain(kept).collect();
        self.accounts.size_bytes.fetch_add(size(&known), Ordering::Relaxed);
        self.accounts.size_bytes.fetch_sub(before, Ordering::Relaxed);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let known = self.known.get_mut().unwrap_or_else(PoisonError::into_inner);
        let size = known.iter().map(|known| known.size_bytes()).sum();
        self.accounts.size_bytes.fetch_sub(size, Ordering::Relaxed);
    }
}
