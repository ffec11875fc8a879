//! The rules of the engine that the model checks, by name. [`mistakes`](crate::mistakes) has what breaks them.
//!
//! The engine's sources name the rule that they obey, in comments of one form: `// Rule: close-path-on-loss.` Rules about what
//! the engine does not have yet are marked.
//!
//! In all texts `p` is a source partition, `s` is a shard, and a *hop* is a record of `p` that goes through the repartition
//! topic. The *direct path* leads from `p` to the queues of `s`, without a hop. A member opens it by a *barrier*: a record that
//! it writes to the partition `s` of the repartition topic, and reads back.

use std::fmt;

/// A rule of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name, for references.
    pub name: &'static str,
    /// What it demands.
    pub statement: &'static str,
    /// Why no mistake breaks it in this model, if so.
    pub unbreakable: Option<&'static str>,
    /// The part of the engine that the rule is about and that does not exist yet. `None`: the engine's sources name the rule.
    pub awaits: Option<Planned>,
}

/// What the engine does not have yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planned {
    /// Parked records.
    Parking,
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Parking => "parking",
        })
    }
}

const fn rule(name: &'static str, statement: &'static str) -> Rule {
    Rule { name, statement, unbreakable: None, awaits: None }
}

impl Rule {
    const fn unbreakable(mut self, reason: &'static str) -> Self {
        self.unbreakable = Some(reason);
        self
    }

    const fn awaits(mut self, planned: Planned) -> Self {
        self.awaits = Some(planned);
        self
    }
}

/// All rules.
pub const RULES: &[Rule] = &[
    // When the direct path opens.
    rule(
        "open-at-own-barrier",
        "The direct path opens when the member reads from s the barrier that it wrote in this attempt.",
    ),
    rule("write-barrier-after-takeover", "The barrier is written when the member has taken over p and s.").unbreakable(
        "from the new generation on, a former owner writes no hop that is committed, since offsets are sent last: the \
         variation `barrier-before-takeover` holds",
    ),
    rule(
        "wait-for-own-hops",
        "The barrier is written when all transactions with hops of p that the member began have ended.",
    ),
    rule(
        "hold-back-to-open",
        "From the start of an attempt until the path opens or the attempt ends, no further record of p for s hops.",
    ),
    rule("start-attempt-when-near", "An attempt begins when s is nearly read to its end, also while hops are open."),
    rule(
        "bound-held-records-apart",
        "Records that are held back have a bound of their own. They never stop the reading of s.",
    ),
    rule(
        "close-path-on-loss",
        "The direct path closes when p or s is lost, and an attempt to open it ends, even if the same member gets it again.",
    ),
    // What a transaction sends.
    rule(
        "send-offset-of-touched-shard",
        "A transaction with a result of s, or with a parked record, sends the offset of s.",
    ),
    rule("send-offset-of-direct-source", "A transaction with a result of a direct record of p sends the offset of p."),
    rule("send-offsets-last", "Offsets are sent when all records of the transaction are written.").unbreakable(
        "a pending offset makes the next owner wait for the end of the transaction, and with it for its records: the variation \
         `send-offsets-first` holds",
    ),
    rule("send-membership-with-offsets", "Offsets are sent with the member id and the generation."),
    rule(
        "commit-only-finished",
        "A committed offset and its map cover settled records only, never records that are queued.",
    ),
    rule(
        "send-whole-map",
        "A map lists all finished records beyond its offset. If it does not fit, the partition pauses.",
    ),
    rule(
        "count-finished-at-commit",
        "A record counts as finished, for offsets and maps, from the commit of its transaction on.",
    ),
    // What a change of the assignment means.
    rule("answer-revocation-between-transactions", "A member answers a revocation when it has no open transaction."),
    rule("keep-across-generations", "A new generation in which a member loses nothing drops nothing.")
        .unbreakable("to drop and read again is safe, and costs work: the variation `drop-at-each-generation` holds"),
    rule(
        "drop-direct-records-of-lost-source",
        "If p is lost and s stays, the uncommitted direct records of p leave the queues.",
    ),
    rule(
        "drop-results-behind-dropped",
        "Results that were made after a dropped record of the same tenant are dropped, and their records run again.",
    ),
    rule(
        "hop-direct-records-of-lost-shard",
        "If s is lost and p stays, the uncommitted direct records hop, in their order, before later records of p for s.",
    ),
    // How a takeover goes.
    rule("read-stable-offset", "A takeover waits until no transaction has an offset of the partition pending."),
    rule("skip-finished-beyond-offset", "A new owner skips the records that the map of the same partition lists."),
    rule(
        "read-ends-after-generation",
        "The committed offset and the changelog's high watermark are read after the member knows its generation.",
    ),
    rule(
        "takeover-order",
        "A takeover of s reads the committed offset first, then the high watermark of the changelog.",
    )
    .unbreakable("under one generation the other order is safe too: the variation `restore-before-offset` holds"),
    rule(
        "restore-to-high-watermark",
        "A takeover of s waits until the changelog's last stable offset has reached that high watermark, then restores.",
    ),
    // Messages and their results.
    rule("run-tenant-once", "A tenant has at most one running message."),
    rule(
        "run-on-all-layers",
        "A message sees the committed state and all results of its tenant that are not committed yet.",
    ),
    rule(
        "abandon-job-of-dropped-state",
        "A running message that saw a dropped result is abandoned, and its record runs again.",
    ),
    rule("drop-result-of-abandoned-job", "The result of an abandoned message is dropped when it arrives."),
    rule(
        "resend-stored-results",
        "The results of an aborted transaction are sent again, before later results of the same tenant.",
    ),
    rule("dead-letter-for-refused", "A message whose records the broker refuses becomes a dead letter."),
    rule(
        "drop-results-behind-refused",
        "When a message becomes a dead letter, later results of its tenant are dropped and run again.",
    ),
    // Parked records.
    rule(
        "park-in-queue-order",
        "A record is parked in a transaction after which nothing before it in its queue is unsettled and not parked.",
    )
    .awaits(Planned::Parking),
    rule("restore-parked-records", "A takeover of s restores its parked records.").awaits(Planned::Parking),
    rule("queue-parked-records-first", "Restored parked records stand in their queues before records that are read.")
        .awaits(Planned::Parking),
    rule("delete-parked-at-result", "The transaction that settles a parked record deletes its entry in the changelog.")
        .awaits(Planned::Parking),
];
