//! The direct path: source records of this worker's own shards skip the repartition topic.
//!
//! A record of a source partition p whose tenant is in shard s may skip the repartition topic only if no earlier record of
//! p is still on its way there. So each path (p, s) is closed at first, and opens like this:
//!
//! ```text
//!            s is nearly read                 no record of the        the barrier is
//!            to its end                       sources is queued       read back from s
//!  Closed ────────────────────▶ Held ─────────────────────▶ Sent ────────────────────▶ Open
//!     ▲                          │  the sources' records     │                          │
//!     │                          │  are held back            │                          │
//!     └──────────────────────────┴───────────────────────────┴──────────────────────────┘
//!       p or s is lost, or the attempt takes too long
//! ```
//!
//! A *barrier* is a record that this worker writes to the shard's partition of the repartition topic. A read_committed reader
//! that reads it has read all committed records before it. All records of p on the hop were written before it:
//!
//! * this worker's own, because the sources are held back and the barrier follows their last hop;
//! * a former owner's, because p was taken over before. The takeover waits for transactions that had sent p's offset. All
//!   others are refused when they send it, and abort.
//!
//! Each attempt has a number of its own, so the barrier of a former attempt opens nothing.
//!
//! While a path is closed its records take the hop, and each hop moves the end of s away. Without holding the sources back,
//! a path would not open under load. The hold is bounded in time. It is bounded in records too: the sources are paused.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::ports::{Consumed, Partition};
use crate::record::{Barrier, ShardId};

/// How many records a shard may be behind its log's end when its paths begin to open.
pub(super) const NEAR: i64 = 10_000;
/// How long an attempt may hold sources back while no record is settled.
const LONGEST_HOLD: Duration = Duration::from_secs(2);
/// How long an attempt may hold sources back in all. While records are settled the worker is not idle: those that are held
/// back would have waited behind the same records.
const LONGEST_ATTEMPT: Duration = Duration::from_mins(1);
/// The pause before another attempt. Each failed one doubles it, up to the longest.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause before another attempt.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The paths of one worker.
#[derive(Debug)]
pub(super) struct Paths {
    /// Barriers of other workers, and of earlier runs of this one, have another number.
    incarnation: u64,
    /// The number of attempts so far.
    attempts: u64,
    open: BTreeSet<(Partition, ShardId)>,
    opening: Option<Opening>,
    /// No attempt begins before this time.
    due: Duration,
    pause: Duration,
}

/// An attempt to open paths.
#[derive(Debug)]
struct Opening {
    barrier: Barrier,
    /// The sources that are held back.
    sources: BTreeSet<Partition>,
    /// The shards whose barriers were not read yet, and whether a committed transaction wrote them.
    shards: BTreeMap<ShardId, bool>,
    /// What arrived from the sources meanwhile.
    held: VecDeque<Consumed>,
    /// When it is given up, unless records are settled before.
    until: Duration,
    /// When it is given up in any case.
    end: Duration,
}

/// What an attempt held back, when it has ended.
#[derive(Debug, Default)]
pub(super) struct Released {
    /// The sources, which are paused.
    pub(super) sources: Vec<Partition>,
    /// Their records, in the order of arrival.
    pub(super) records: VecDeque<Consumed>,
}

impl Paths {
    pub(super) fn new(incarnation: u64) -> Self {
        Self {
            incarnation,
            attempts: 0,
            open: BTreeSet::new(),
            opening: None,
            due: Duration::ZERO,
            pause: SHORTEST_PAUSE,
        }
    }

    /// Whether a record of this source partition goes directly to this shard.
    pub(super) fn is_open(&self, source: Partition, shard: ShardId) -> bool {
        self.open.contains(&(source, shard))
    }

    /// Whether records of this source are held back.
    pub(super) fn holds(&self, source: Partition) -> bool {
        self.opening.as_ref().is_some_and(|opening| opening.sources.contains(&source))
    }

    /// Holds a record back.
    pub(super) fn hold(&mut self, consumed: Consumed) {
        self.opening.as_mut().expect("only while sources are held back").held.push_back(consumed);
    }

    /// The shards with closed paths from these sources, when an attempt is due.
    pub(super) fn closed(&self, sources: &[Partition], shards: &[ShardId], now: Duration) -> Vec<ShardId> {
        if self.opening.is_some() || now < self.due {
            return Vec::new();
        }
        let is_closed = |shard: &&ShardId| sources.iter().any(|source| !self.is_open(*source, **shard));
        shards.iter().filter(is_closed).copied().collect()
    }

    /// No path can be opened now: the next attempt waits.
    pub(super) fn postpone(&mut self, now: Duration) {
        self.due = now + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    /// Begins to open the paths from these sources to these shards. Returns the sources that are held back from now on.
    pub(super) fn begin(&mut self, sources: &[Partition], shards: Vec<ShardId>, now: Duration) -> Vec<Partition> {
        let has_closed = |source: &&Partition| shards.iter().any(|shard| !self.is_open(**source, *shard));
        let sources: BTreeSet<_> = sources.iter().filter(has_closed).copied().collect();
        let held = sources.iter().copied().collect();
        self.attempts += 1;
        let barrier = Barrier { incarnation: self.incarnation, number: self.attempts };
        let mut shards: BTreeMap<_, _> = shards.into_iter().map(|shard| (shard, false)).collect();
        if mutated!("direct-path-open-too-early") {
            let early = std::mem::take(&mut shards).into_keys();
            self.open.extend(early.flat_map(|shard| sources.iter().map(move |source| (*source, shard))));
        }
        self.opening = Some(Opening {
            barrier,
            sources,
            shards,
            held: VecDeque::new(),
            until: now + LONGEST_HOLD,
            end: now + LONGEST_ATTEMPT,
        });
        held
    }

    /// The barriers to write with the next transaction. `has_hop`: whether a record of one of these sources that will hop is
    /// still queued.
    pub(super) fn barriers(&self, has_hop: impl Fn(&BTreeSet<Partition>) -> bool) -> Vec<(ShardId, Barrier)> {
        let Some(opening) = &self.opening else { return Vec::new() };
        let unsent = opening.shards.iter().filter(|(_, sent)| !**sent);
        let unsent: Vec<_> = unsent.map(|(shard, _)| (*shard, opening.barrier)).collect();
        // Rule: wait-for-own-hops.
        if unsent.is_empty() || has_hop(&opening.sources) { Vec::new() } else { unsent }
    }

    /// Records were settled, so an attempt comes closer to its end.
    pub(super) fn progressed(&mut self, now: Duration) {
        if let Some(opening) = &mut self.opening {
            opening.until = (now + LONGEST_HOLD).min(opening.end);
        }
    }

    /// Gives the attempt up: it ends at the next call of `end`.
    pub(super) fn give_up(&mut self, now: Duration) {
        if let Some(opening) = &mut self.opening {
            opening.until = now;
        }
    }

    /// These barriers are written by a committed transaction.
    pub(super) fn sent(&mut self, barriers: &[(ShardId, Barrier)]) {
        let Some(opening) = &mut self.opening else { return };
        for (shard, barrier) in barriers {
            if *barrier == opening.barrier
                && let Some(sent) = opening.shards.get_mut(shard)
            {
                *sent = true;
            }
        }
    }

    /// A barrier was read from a shard: all before it has arrived.
    pub(super) fn read(&mut self, shard: ShardId, barrier: Barrier) {
        let Some(opening) = &mut self.opening else { return };
        // Rule: open-at-own-barrier.
        if barrier == opening.barrier && opening.shards.remove(&shard).is_some() {
            self.open.extend(opening.sources.iter().map(|source| (*source, shard)));
        }
    }

    /// Ends the attempt if all its barriers were read, or if it takes too long.
    pub(super) fn end(&mut self, now: Duration) -> Option<Released> {
        let opening = self.opening.as_ref()?;
        if opening.shards.is_empty() {
            self.pause = SHORTEST_PAUSE;
            self.due = Duration::ZERO;
        } else if now >= opening.until {
            self.postpone(now);
        } else {
            return None;
        }
        let Opening { sources, held, .. } = self.opening.take()?;
        Some(Released { sources: sources.into_iter().collect(), records: held })
    }

    /// A shard is not read on for now: an attempt goes on without it. Its open paths stay open.
    pub(super) fn leave_out(&mut self, shard: ShardId) {
        if let Some(opening) = &mut self.opening {
            opening.shards.remove(&shard);
        }
    }

    /// Closes the paths from these sources and to these shards. They are no longer ours.
    pub(super) fn close(&mut self, sources: &[Partition], shards: &[ShardId]) {
        // Rule: close-path-on-loss.
        self.open.retain(|(source, shard)| !sources.contains(source) && !shards.contains(shard));
        if let Some(opening) = &mut self.opening {
            opening.sources.retain(|source| !sources.contains(source));
            opening.held.retain(|consumed| !sources.contains(&consumed.partition));
            opening.shards.retain(|shard, _| !shards.contains(shard));
        }
    }

    /// Closes all paths and forgets what is held back: it is read again.
    pub(super) fn clear(&mut self) {
        // Rule: close-path-on-loss.
        let (incarnation, attempts) = (self.incarnation, self.attempts);
        *self = Self { attempts, ..Self::new(incarnation) };
    }

    /// How many paths are open.
    pub(super) fn open_count(&self) -> usize {
        self.open.len()
    }
}
