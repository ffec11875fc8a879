//! Which faults a schedule has, and how often each occurred.

use std::fmt;
use std::time::Duration;

use crate::kafka::Cluster;

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A call has to be repeated, or a question has no answer yet.
    Slow,
    /// A producer's request: its answer is lost, it is given up, it arrives late, it arrives twice.
    Request,
    /// A transaction that can only be aborted, or a client that cannot be created.
    Abortable,
    /// A consumer becomes unusable.
    Consumer,
    /// A restore makes no progress for some time.
    SlowRestore,
    /// A process dies at once.
    Crash,
    /// A process is stopped, for long enough that others may take over, and wakes up later.
    Freeze,
    /// The successor of a stopped process starts while that process still lives.
    Twin,
    /// A process leaves in good order.
    Leave,
    /// All shards are assigned again.
    Rebalance,
    /// The group removes a member that lives.
    Kick,
    /// A changelog is compacted.
    Compaction,
    /// Processed records of a shard are deleted.
    Purge,
    /// A process cannot load a release.
    Load,
    /// A process reads the control topic very late.
    Lag,
    /// A process that died never starts again.
    Death,
    /// The coordinators move to another broker. Until it has loaded their state, they answer nothing and write no markers.
    Coordinator,
    /// A restore starts from a checkpoint.
    Checkpoint,
    /// A record of a source is in a transaction of its own producer, which is open for a while.
    OpenSource,
    /// A lookup source does not answer.
    Lookup,
    /// Brokers refuse offsets, as their metadata is too large for them.
    Map,
    /// All processes are stopped, and an operator leaves metadata at an offset that no worker can read. It is repaired at the
    /// end.
    Damage,
    /// All processes are stopped, and an operator commits an offset again, without its metadata. What was settled beyond it is
    /// handled again.
    Reset,
}

/// Each kind, its rate where it is rare (of 65,536 occasions), and its name.
const KINDS: [(Kind, u16, &str); 23] = [
    (Kind::Slow, 600, "slow calls"),
    (Kind::Request, 3000, "requests lost, late or twice"),
    (Kind::Abortable, 1000, "aborts"),
    (Kind::Consumer, 200, "consumers failed"),
    (Kind::SlowRestore, 10_000, "slow restores"),
    (Kind::Crash, 300, "crashes"),
    (Kind::Freeze, 300, "stopped processes"),
    (Kind::Twin, 20_000, "twins of stopped processes"),
    (Kind::Leave, 150, "leaves"),
    (Kind::Rebalance, 300, "rebalances"),
    (Kind::Kick, 300, "members given up"),
    (Kind::Compaction, 1000, "compactions"),
    (Kind::Purge, 1000, "purges"),
    (Kind::Load, 8000, "releases not loaded"),
    (Kind::Lag, 16_000, "processes late with routes"),
    (Kind::Death, 4000, "processes dead for ever"),
    (Kind::Coordinator, 200, "moves of the coordinators"),
    (Kind::Checkpoint, 16_000, "restores from a checkpoint"),
    (Kind::OpenSource, 8000, "open transactions in sources"),
    (Kind::Lookup, 8000, "lookups without an answer"),
    (Kind::Map, 2000, "offset maps refused"),
    (Kind::Damage, 15, "offset maps damaged"),
    (Kind::Reset, 40, "offset maps lost"),
];

/// How many faults of each kind occurred.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FaultCounts([u64; KINDS.len()]);

impl FaultCounts {
    /// Adds another schedule's.
    pub fn add(&mut self, other: &Self) {
        for (sum, count) in self.0.iter_mut().zip(other.0) {
            *sum += count;
        }
    }

    /// The kinds of faults that no schedule had.
    pub fn missing(&self) -> Vec<&'static str> {
        KINDS.iter().zip(self.0).filter(|(_, count)| *count == 0).map(|((_, _, name), _)| *name).collect()
    }
}

impl fmt::Display for FaultCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, ((_, _, name), count)) in KINDS.iter().zip(self.0).enumerate() {
            write!(f, "{}{count} {name}", if place == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// The faults of a schedule. Some schedules have few, some have many, and each ends with a time without faults, in which
/// all must be settled.
#[derive(Debug)]
pub(crate) struct Faults {
    /// Of 65,536 occasions, how many have a fault.
    rates: [u16; KINDS.len()],
    until: Duration,
    pub(crate) made: FaultCounts,
}

impl Faults {
    pub(crate) fn new(random: &mut fastrand::Rng, until: Duration) -> Self {
        // A fault shows more when others do not hide it. So a schedule has only some kinds, rarely or often.
        let mut rates = KINDS.map(|(_, rare, _)| match random.u8(0..4) {
            0 | 1 => 0,
            2 => rare,
            _ => rare.saturating_mul(4),
        });
        // Records that are handled again may hide mistakes, so few schedules have them.
        if random.u8(0..8) > 0 {
            rates[Kind::Reset as usize] = 0;
        }
        Self { rates, until, made: FaultCounts::default() }
    }

    pub(crate) fn strikes(&mut self, kind: Kind, cluster: &mut Cluster) -> bool {
        let rate = self.rates[kind as usize];
        let strikes = rate > 0 && cluster.now < self.until && cluster.random.u16(..) < rate;
        self.made.0[kind as usize] += u64::from(strikes);
        strikes
    }

    /// Whether there was such a fault.
    pub(crate) fn has_made(&self, kind: Kind) -> bool {
        self.made.0[kind as usize] > 0
    }

    /// Whether the time without faults has begun.
    pub(crate) fn are_over(&self, now: Duration) -> bool {
        now >= self.until
    }
}
