//! Mistakes that break a rule, one each, and variations that depart from a rule without harm.

/// A mistake that a model can make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "MISTAKES has the text of each")]
pub enum Mistake {
    OpenAtOnce,
    OpenAtCommitOfBarrier,
    OpenAtFormerBarrier,
    OpenAtBarrierOfOther,
    WriteBarrierBeforeTakeover,
    WriteBarrierBeforeOwnHops,
    WriteBarrierBehindOwnHops,
    HopBehindBarrier,
    HopBeforeBarrier,
    StartAttemptWhileFar,
    StartAttemptBetweenHops,
    HoldBackInInbox,
    KeepPathOverLoss,
    KeepAttemptOverLoss,
    SkipOffsetOfTouchedShard,
    SkipOffsetOfDirectSource,
    SendOffsetsWithoutMembership,
    SendOffsetsFirst,
    CommitPastQueued,
    TruncateMap,
    ForgetMapOnAbort,
    CountAbortedAsFinished,
    AnswerWhileOpen,
    DropAtEachGeneration,
    KeepDirectRecords,
    KeepResultsBehindDropped,
    SkipDirectRecords,
    ReadUnstableOffset,
    ForgetMap,
    MapOfOtherPartition,
    RestoreBeforeOffset,
    ReadEndEarly,
    RestoreToLastStableOffset,
    RunTenantTwice,
    RunOnCommittedState,
    SkipCommittingLayer,
    KeepRunningJob,
    AcceptAbandonedResult,
    SendLaterResultsFirst,
    SkipRefusedMessage,
    KeepResultsBehindRefused,
    ParkOverflowOnly,
    ForgetParkedRecords,
    PutParkedRecordsLast,
    LeaveParkedRecord,
}

/// A mistake, and the rule that it breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlantedMistake {
    /// Which one it is.
    pub mistake: Mistake,
    /// Its name.
    pub name: &'static str,
    /// The rule that it breaks.
    pub rule: &'static str,
    /// The scope whose search finds it.
    pub scope: &'static str,
    /// What goes wrong.
    pub statement: &'static str,
}

const fn planted(
    mistake: Mistake,
    name: &'static str,
    rule: &'static str,
    scope: &'static str,
    statement: &'static str,
) -> PlantedMistake {
    PlantedMistake { mistake, name, rule, scope, statement }
}

/// All mistakes. A search of the named scope finds each.
pub const MISTAKES: &[PlantedMistake] = &[
    planted(
        Mistake::OpenAtOnce,
        "open-at-once",
        "open-at-own-barrier",
        "moves",
        "the direct path opens as soon as its member owns p and s",
    ),
    planted(
        Mistake::OpenAtCommitOfBarrier,
        "open-at-commit-of-barrier",
        "open-at-own-barrier",
        "moves",
        "the direct path opens when the transaction with the barrier is committed, before the barrier is read",
    ),
    planted(
        Mistake::OpenAtFormerBarrier,
        "open-at-former-barrier",
        "open-at-own-barrier",
        "attempts",
        "the direct path opens at a barrier of a former attempt",
    ),
    planted(
        Mistake::OpenAtBarrierOfOther,
        "open-at-barrier-of-other",
        "open-at-own-barrier",
        "moves",
        "the direct path opens at a barrier that the other member wrote",
    ),
    planted(
        Mistake::WriteBarrierBeforeOwnHops,
        "barrier-before-own-hops",
        "wait-for-own-hops",
        "attempts",
        "a transaction writes the barrier first, and then hops of p",
    ),
    planted(
        Mistake::HopBehindBarrier,
        "hop-behind-barrier",
        "hold-back-to-open",
        "moves",
        "records hop while the path opens, after the barrier was written",
    ),
    planted(
        Mistake::HopBeforeBarrier,
        "hop-before-barrier",
        "hold-back-to-open",
        LOAD_SCOPE,
        "the barrier waits until no hop is left, and records go on to hop",
    ),
    planted(
        Mistake::StartAttemptBetweenHops,
        "start-attempt-between-hops",
        "start-attempt-when-near",
        LOAD_SCOPE,
        "an attempt begins only while no transaction with hops is open",
    ),
    planted(
        Mistake::HoldBackInInbox,
        "hold-back-in-inbox",
        "bound-held-records-apart",
        LOAD_SCOPE,
        "records that are held back count to the bound of the inbox, which stops the reading of s",
    ),
    planted(
        Mistake::KeepPathOverLoss,
        "keep-path-over-loss",
        "close-path-on-loss",
        "moves-back",
        "the path stays open when p is lost, and the member gets p again",
    ),
    planted(
        Mistake::KeepAttemptOverLoss,
        "keep-attempt-over-loss",
        "close-path-on-loss",
        "attempts",
        "an attempt to open the path goes on when p is lost, and the member gets p again",
    ),
    planted(
        Mistake::SkipOffsetOfTouchedShard,
        "skip-offset-of-touched-shard",
        "send-offset-of-touched-shard",
        "moves-fenced-by-partition",
        "a transaction whose results are all of direct records does not send the offset of s",
    ),
    planted(
        Mistake::SkipOffsetOfDirectSource,
        "skip-offset-of-direct-source",
        "send-offset-of-direct-source",
        "moves",
        "a transaction with results of direct records sends the offset of s only",
    ),
    planted(
        Mistake::SendOffsetsWithoutMembership,
        "send-offsets-without-membership",
        "send-membership-with-offsets",
        "moves",
        "offsets are sent without a generation, so the group accepts them from anybody",
    ),
    planted(
        Mistake::CommitPastQueued,
        "commit-past-queued",
        "commit-only-finished",
        "shard-moves",
        "the offset of s is that of the next record to read, with records before it in the queues",
    ),
    planted(
        Mistake::TruncateMap,
        "truncate-map",
        "send-whole-map",
        "shard-moves",
        "a map that does not fit is cut off",
    ),
    planted(
        Mistake::ForgetMapOnAbort,
        "forget-map-on-abort",
        "send-whole-map",
        "aborts",
        "after an abort, the map has no record of earlier transactions",
    ),
    planted(
        Mistake::CountAbortedAsFinished,
        "count-aborted-as-finished",
        "count-finished-at-commit",
        "aborts",
        "the records of an aborted transaction stay in the map of the next one",
    ),
    planted(
        Mistake::AnswerWhileOpen,
        "answer-while-open",
        "answer-revocation-between-transactions",
        "moves",
        "a revocation is answered while a transaction is open, and its offsets go out with the new generation",
    ),
    planted(
        Mistake::KeepDirectRecords,
        "keep-direct-records",
        "drop-direct-records-of-lost-source",
        "moves",
        "p is lost, and its direct records stay in the queues",
    ),
    planted(
        Mistake::KeepResultsBehindDropped,
        "keep-results-behind-dropped",
        "drop-results-behind-dropped",
        "moves",
        "direct records of a lost p are dropped, and later results of the same tenant are kept",
    ),
    planted(
        Mistake::SkipDirectRecords,
        "skip-direct-records",
        "hop-direct-records-of-lost-shard",
        "moves",
        "s is lost, and its uncommitted direct records do not hop",
    ),
    planted(
        Mistake::ReadUnstableOffset,
        "read-unstable-offset",
        "read-stable-offset",
        "moves",
        "a takeover reads the committed offset while another one is pending",
    ),
    planted(
        Mistake::ForgetMap,
        "forget-map",
        "skip-finished-beyond-offset",
        "source-moves",
        "a new owner reads all records from the committed offset on",
    ),
    planted(
        Mistake::MapOfOtherPartition,
        "map-of-other-partition",
        "skip-finished-beyond-offset",
        "shard-moves",
        "a new owner skips the records that the map of the other partition lists",
    ),
    planted(
        Mistake::ReadEndEarly,
        "read-end-early",
        "read-ends-after-generation",
        "shard-moves",
        "a takeover restores up to a high watermark of the changelog that was read before the generation was known",
    ),
    planted(
        Mistake::RestoreToLastStableOffset,
        "restore-to-last-stable-offset",
        "restore-to-high-watermark",
        "moves",
        "a takeover restores up to the last stable offset, and does not wait",
    ),
    planted(
        Mistake::RunTenantTwice,
        "run-tenant-twice",
        "run-tenant-once",
        "aborts",
        "two messages of a tenant run at once",
    ),
    planted(
        Mistake::RunOnCommittedState,
        "run-on-committed-state",
        "run-on-all-layers",
        "aborts",
        "a message sees the committed state only",
    ),
    planted(
        Mistake::SkipCommittingLayer,
        "skip-committing-layer",
        "run-on-all-layers",
        "aborts",
        "a message does not see the results that are in the open transaction",
    ),
    planted(
        Mistake::KeepRunningJob,
        "keep-running-job",
        "abandon-job-of-dropped-state",
        "refusals",
        "a message goes on that saw a result that was dropped",
    ),
    planted(
        Mistake::AcceptAbandonedResult,
        "accept-abandoned-result",
        "drop-result-of-abandoned-job",
        "moves-back",
        "the result of an abandoned message is taken for one of the queue",
    ),
    planted(
        Mistake::SendLaterResultsFirst,
        "send-later-results-first",
        "resend-stored-results",
        "aborts",
        "messages of an aborted transaction run again, and later results are sent before them",
    ),
    planted(
        Mistake::SkipRefusedMessage,
        "skip-refused-message",
        "dead-letter-for-refused",
        "refusals",
        "a message whose records are refused counts as finished",
    ),
    planted(
        Mistake::KeepResultsBehindRefused,
        "keep-results-behind-refused",
        "drop-results-behind-refused",
        "refusals",
        "a message becomes a dead letter, and later results of its tenant are kept",
    ),
    planted(
        Mistake::ParkOverflowOnly,
        "park-overflow-only",
        "park-in-queue-order",
        "parks",
        "the second record of a queue is parked, and the first one is not",
    ),
    planted(
        Mistake::ForgetParkedRecords,
        "forget-parked-records",
        "restore-parked-records",
        "parks",
        "a takeover does not restore parked records",
    ),
    planted(
        Mistake::PutParkedRecordsLast,
        "put-parked-records-last",
        "queue-parked-records-first",
        "parks",
        "restored parked records stand behind records that are read",
    ),
    planted(
        Mistake::LeaveParkedRecord,
        "leave-parked-record",
        "delete-parked-at-result",
        "parks",
        "a takeover restores a parked record that is settled",
    ),
];

/// Variations: each departs from a rule, and the promise holds. A search of the named scope finds nothing.
pub const VARIATIONS: &[PlantedMistake] = &[
    planted(
        Mistake::WriteBarrierBeforeTakeover,
        "barrier-before-takeover",
        "write-barrier-after-takeover",
        "attempts",
        "the barrier is written while the member still takes p or s over",
    ),
    planted(
        Mistake::WriteBarrierBehindOwnHops,
        "barrier-behind-own-hops",
        "wait-for-own-hops",
        "attempts",
        "a transaction writes hops of p first, and then the barrier",
    ),
    planted(
        Mistake::StartAttemptWhileFar,
        "start-attempt-while-far",
        "start-attempt-when-near",
        LOAD_SCOPE,
        "an attempt begins while s is far behind, and holds records back for longer",
    ),
    planted(
        Mistake::SendOffsetsFirst,
        "send-offsets-first",
        "send-offsets-last",
        "shard-moves",
        "a transaction sends its offsets first, and writes its records then",
    ),
    planted(
        Mistake::RestoreBeforeOffset,
        "restore-before-offset",
        "takeover-order",
        "shard-moves",
        "a takeover restores the state first, and reads the committed offset then",
    ),
    planted(
        Mistake::DropAtEachGeneration,
        "drop-at-each-generation",
        "keep-across-generations",
        "rebalances",
        "a member that loses nothing by a new generation drops all it has, and takes it over again",
    ),
];

/// The name of the model of the opening under endless load. It has no bounds.
pub const LOAD_SCOPE: &str = "endless-load";

/// The mistake or variation with this name.
pub fn find(name: &str) -> Option<&'static PlantedMistake> {
    MISTAKES.iter().chain(VARIATIONS).find(|planted| planted.name == name)
}
