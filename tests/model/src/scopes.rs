//! Named bounds: the small ones of the tests, and the large ones of `make model`.

use crate::cluster::group::{Anchor, Fencing};
use crate::state::{Bounds, Budget};

/// Named bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope {
    /// The name.
    pub name: &'static str,
    /// How large the search is.
    pub bounds: Bounds,
    /// Whether the search also checks that the end can be reached from each state.
    pub checks_end: bool,
}

const NO_FAULTS: Budget = Budget {
    source_moves: 0,
    shard_moves: 0,
    rebalances: 0,
    crashes: 0,
    aborts: 0,
    refusals: 0,
    parks: 0,
    give_ups: 0,
};

const fn scope(name: &'static str, records: u8, batch: u8, faults: Budget) -> Scope {
    let bounds = Bounds {
        records,
        batch,
        anchor: Anchor::OtherShard,
        fencing: Fencing::Generation,
        messages_take_time: true,
        faults,
    };
    Scope { name, bounds, checks_end: true }
}

impl Scope {
    const fn anchored_to_same(mut self) -> Self {
        self.bounds.anchor = Anchor::SameShard;
        self
    }

    const fn fenced_by_partition(mut self) -> Self {
        self.bounds.fencing = Fencing::Partition;
        self
    }

    const fn without_end(mut self) -> Self {
        self.checks_end = false;
        self
    }

    const fn without_time(mut self) -> Self {
        self.bounds.messages_take_time = false;
        self
    }
}

/// The bounds of the tests.
pub const SMALL: &[Scope] = &[
    scope("two-records", 2, 2, MOVES),
    scope("two-records-fenced-by-partition", 2, 2, MOVES).fenced_by_partition(),
    scope("two-records-anchored-to-same", 2, 1, Budget { shard_moves: 1, rebalances: 1, ..NO_FAULTS })
        .anchored_to_same()
        .without_time(),
    scope("source-moves", 3, 2, Budget { source_moves: 1, ..NO_FAULTS }),
    scope("shard-moves", 3, 2, Budget { shard_moves: 1, ..NO_FAULTS }),
    scope("moves-back", 3, 1, Budget { source_moves: 2, ..NO_FAULTS }),
    scope("attempts", 3, 1, Budget { source_moves: 2, give_ups: 1, ..NO_FAULTS }).without_time(),
    scope("rebalances", 3, 2, Budget { rebalances: 2, ..NO_FAULTS }),
    scope("crashes", 3, 1, Budget { shard_moves: 1, crashes: 1, ..NO_FAULTS }),
    scope("aborts", 3, 2, Budget { shard_moves: 1, aborts: 1, ..NO_FAULTS }),
    scope("refusals", 4, 2, Budget { refusals: 1, aborts: 1, ..NO_FAULTS }),
    scope("parks", 3, 1, Budget { shard_moves: 1, parks: 1, ..NO_FAULTS }),
];

const MOVES: Budget = Budget { source_moves: 1, shard_moves: 1, ..NO_FAULTS };

/// The bounds of `make model`.
pub const LARGE: &[Scope] = &[
    scope("moves", 3, 1, MOVES),
    scope("moves-fenced-by-partition", 3, 1, MOVES).fenced_by_partition(),
    scope("moves-of-both", 3, 1, Budget { shard_moves: 2, ..NO_FAULTS }).anchored_to_same(),
    scope("moves-twice", 3, 1, Budget { source_moves: 2, shard_moves: 2, ..NO_FAULTS }).without_time(),
    scope("moves-with-full-batches", 3, 3, MOVES).without_time(),
    scope("moves-with-four-records", 4, 1, MOVES).without_time(),
    scope("moves-with-rebalance", 3, 1, Budget { rebalances: 1, ..MOVES }).without_time(),
    scope("moves-with-crash", 3, 1, Budget { crashes: 1, ..MOVES }).without_time(),
    scope("moves-with-crash-fenced-by-partition", 3, 1, Budget { crashes: 1, ..MOVES })
        .without_time()
        .fenced_by_partition(),
    scope("moves-with-give-up", 3, 1, Budget { give_ups: 1, ..MOVES }).without_time(),
    // To check the end too would take 5 GiB.
    scope("moves-with-abort", 3, 1, Budget { aborts: 1, ..MOVES }).without_end(),
    scope("moves-with-refusal", 3, 1, Budget { refusals: 1, ..MOVES }).without_time(),
    scope("moves-with-park", 2, 2, Budget { parks: 1, ..MOVES }),
    scope("crash-with-park", 3, 1, Budget { shard_moves: 1, crashes: 1, parks: 1, ..NO_FAULTS }),
    scope("abort-with-refusal", 4, 2, Budget { shard_moves: 1, aborts: 1, refusals: 1, ..NO_FAULTS }),
    scope("five-records", 5, 2, Budget { shard_moves: 1, ..NO_FAULTS }),
    scope("six-records", 6, 3, Budget { source_moves: 1, ..NO_FAULTS }),
];

/// The scope with this name.
pub fn find(name: &str) -> Option<&'static Scope> {
    SMALL.iter().chain(LARGE).find(|scope| scope.name == name)
}
