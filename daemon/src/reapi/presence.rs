//! What is known of which blobs a server has.
//! Knows nothing of how that was learnt.

use std::collections::HashMap;
use std::mem;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

use foldhash::fast::RandomState;

use crate::digest::Digest;
use crate::reapi::lock;

/// How long an answer is believed (Buck2, `cas_ttl_secs`). A blob that is evicted earlier is repaired when an
/// execution names it as missing.
const TIME_TO_LIVE: Duration = Duration::from_secs(3 * 60 * 60);
/// How many answers are kept (as Buck2); some 60 MB when full.
const CAPACITY: usize = 500_000;

/// What is known of one blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// The server has it.
    Present,
    /// The server failed for lack of it. It is sent again without asking, because a server that claims to have
    /// what it then misses would claim it again.
    Missing,
}

/// A bounded memory of answers. Two generations stand in for an exact order of use: what was used since the
/// young one began survives the next change of generations.
pub struct Presence {
    generations: Mutex<Generations>,
    time_to_live: Duration,
    capacity: usize,
}

type Answers = HashMap<Digest, (Known, Instant), RandomState>;

#[derive(Default)]
struct Generations {
    young: Answers,
    old: Answers,
}

impl Default for Presence {
    fn default() -> Presence {
        Presence::new(TIME_TO_LIVE, CAPACITY)
    }
}

impl Presence {
    /// A memory that believes an answer for `time_to_live` and holds at most `capacity` of them.
    pub fn new(time_to_live: Duration, capacity: usize) -> Presence {
        Presence { generations: Mutex::default(), time_to_live, capacity }
    }

    /// What is known of `digest` at `now`.
    pub fn known(&self, digest: &Digest, now: Instant) -> Option<Known> {
        self.look(&mut lock(&self.generations), digest, now)
    }

    /// Those of `items` of whose digest it is not known at `now` that the server has it.
    pub fn without_present<T>(
        &self,
        mut items: Vec<T>,
        digest: impl Fn(&T) -> &Digest,
        now: Instant,
    ) -> Vec<T> {
        let mut generations = lock(&self.generations);
        items.retain(|item| self.look(&mut generations, digest(item), now) != Some(Known::Present));
        items
    }

    fn look(&self, generations: &mut Generations, digest: &Digest, now: Instant) -> Option<Known> {
        let Generations { young, old } = generations;
        let (known, learnt) = *young.get(digest).or_else(|| old.get(digest))?;
        if now.saturating_duration_since(learnt) >= self.time_to_live {
            young.remove(digest);
            old.remove(digest);
            return None;
        }
        if !old.is_empty() && old.remove(digest).is_some() {
            generations.insert(*digest, (known, learnt), self.capacity);
        }
        Some(known)
    }

    /// Records what was learnt at `now`.
    pub fn learn(&self, digests: impl IntoIterator<Item = Digest>, known: Known, now: Instant) {
        let mut generations = lock(&self.generations);
        for digest in digests {
            generations.old.remove(&digest);
            generations.insert(digest, (known, now), self.capacity);
        }
    }

    /// Forgets what is known of `digests`.
    pub fn forget<'a>(&self, digests: impl IntoIterator<Item = &'a Digest>) {
        let mut generations = lock(&self.generations);
        for digest in digests {
            generations.young.remove(digest);
            generations.old.remove(digest);
        }
    }
}

impl Generations {
    fn insert(&mut self, digest: Digest, answer: (Known, Instant), capacity: usize) {
        if self.young.len() >= capacity / 2 {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(digest, answer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(number: usize) -> Digest {
        Digest::of(number.to_string().as_bytes())
    }

    #[test]
    fn answers_expire() {
        let presence = Presence::new(Duration::from_secs(10), 100);
        let start = Instant::now();
        presence.learn([digest(1)], Known::Present, start);
        assert_eq!(presence.known(&digest(1), start + Duration::from_secs(9)), Some(Known::Present));
        // Being asked for does not make an answer any newer.
        assert_eq!(presence.known(&digest(1), start + Duration::from_secs(10)), None);
    }

    #[test]
    fn what_is_used_outlives_what_is_not_within_the_capacity() {
        let presence = Presence::new(Duration::from_secs(10), 100);
        let now = Instant::now();
        for number in 0..1000 {
            presence.learn([digest(number)], Known::Present, now);
            assert_eq!(presence.known(&digest(0), now), Some(Known::Present));
            let generations = lock(&presence.generations);
            assert!(generations.young.len() + generations.old.len() <= 100);
        }
        assert_eq!(presence.known(&digest(1), now), None);
        assert_eq!(presence.known(&digest(999), now), Some(Known::Present));
    }

    #[test]
    fn the_last_word_counts() {
        let presence = Presence::default();
        let now = Instant::now();
        presence.learn([digest(1)], Known::Present, now);
        presence.learn([digest(1)], Known::Missing, now);
        assert_eq!(presence.known(&digest(1), now), Some(Known::Missing));
        presence.forget([&digest(1)]);
        assert_eq!(presence.known(&digest(1), now), None);
    }
}
