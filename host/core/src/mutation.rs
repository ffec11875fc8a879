//! Known mistakes of the worker, each a named point in the sources that a test can switch on.
//!
//! A mutation shows that the simulation would find a mistake: without it, a simulation that finds nothing may be blind.
//! `mutated!("name")` asks at such a point whether the process runs with that mistake. Only the cargo feature `mutations`
//! compiles the mistakes in. Without it the macro is the constant `false`, so the product contains neither the names nor
//! the wrong code. `docs/decisions/0006-mutation-points.md` gives the reasons.

#[cfg(feature = "mutations")]
pub use enabled::{ALL, ActivateError, Mutation, activate, is_active};

/// Whether this process runs with the mutation of that name. The constant `false` without the feature `mutations`.
#[cfg(not(feature = "mutations"))]
#[macro_export]
macro_rules! mutated {
    ($name:literal) => {
        false
    };
}

/// Whether this process runs with the mutation of that name.
#[cfg(feature = "mutations")]
#[macro_export]
macro_rules! mutated {
    ($name:literal) => {
        $crate::mutation::is_active($name)
    };
}

#[cfg(feature = "mutations")]
mod enabled {
    use std::sync::OnceLock;

    /// A known mistake.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Mutation {
        /// The name that its points ask for.
        pub name: &'static str,
        /// The mistake, in one line.
        pub mistake: &'static str,
        /// How many points it has in the sources.
        pub points: usize,
    }

    const fn one(name: &'static str, mistake: &'static str) -> Mutation {
        Mutation { name, mistake, points: 1 }
    }

    const fn spread(points: usize, name: &'static str, mistake: &'static str) -> Mutation {
        Mutation { name, mistake, points }
    }

    /// All mutations, by name.
    pub const ALL: &[Mutation] = &[
        one(
            "anchors-follow-the-partition-count",
            "the owner of a source partition depends on how many partitions it knows of",
        ),
        one("keep-what-a-failed-migration-staged", "what a failed migration staged is kept"),
        one(
            "dead-letter-for-a-topic-that-no-release-consumes",
            "a record is a dead letter though its route's release does not consume the topic",
        ),
        one("decision-remembered-over-a-move", "the choice of a release outlives the loss of the tenant's shard"),
        one("decision-remembered-over-a-rollback", "the choice of a release outlives the changes that it made"),
        one(
            "direct-path-open-too-early",
            "a record goes directly to its shard while an earlier one is on its way there",
        ),
        one("direct-paths-never-open", "every record of a source takes the hop, for ever"),
        one("direct-paths-survive-a-revocation", "a direct path stays open when its source or its shard is lost"),
        one(
            "forget-direct-records-of-a-lost-shard",
            "direct records are dropped when their shard is lost and their source stays",
        ),
        one("forget-the-aborted-batch", "the results of an aborted transaction are not sent again"),
        one("go-back-to-the-old-layout", "an older release runs on state of a newer version without a migration"),
        one("idle-offsets-expire", "the offset of an idle source partition is never committed again"),
        one("keep-records-of-revoked-partitions", "records of revoked source partitions, and their results, are kept"),
        one("keep-the-state-of-a-rejected-message", "the changes of a message that became a dead letter are kept"),
        one("last-run-not-updated", "the entry of the last run changes only with the release, not with the route"),
        one("last-run-outside-the-transaction", "the entry of the last run is committed state before the commit"),
        one(
            "map-forgotten-on-abort",
            "results are sent again without the list of records that are settled beyond the offset",
        ),
        one("map-of-a-former-owner-ignored", "records that a former owner settled beyond its offset are handled again"),
        one("map-of-another-partition", "the list of settled records is committed with another partition's offset"),
        spread(2, "no-fence", "offsets are sent without an identity that the group can fence"),
        spread(2, "no-new-epoch-after-doubt", "a producer whose requests may arrive late is used again"),
        one("offset-beyond-what-is-settled", "the committed offset passes records that are read and not settled"),
        one(
            "offsets-outside-the-transaction",
            "offsets are committed after the records, in a transaction of their own",
        ),
        one("promote-before-commit", "finished changes are committed state before the commit"),
        spread(3, "restore-before-stable-offsets", "the changelog is read before the offsets are known to be stable"),
        one("restore-to-the-stable-end", "the changelog is read while a predecessor's transaction in it is open"),
        one(
            "result-of-an-abandoned-job-used",
            "a job's results are sent though its messages are no longer ours, or run again",
        ),
        one("revocation-answered-before-the-commit", "results of a shard are committed after it was given back"),
        one("run-again-after-an-unclear-commit", "results are sent again though their commit may have succeeded"),
        one("run-by-older-routes", "a tenant runs by older routes than it did before, elsewhere"),
        spread(2, "run-on-the-state-of-dropped-results", "messages run on changes of results that are dropped"),
        one("skip-a-record-while-behind", "a worker skips a record by routes older than those that repartitioned it"),
        one(
            "skip-a-record-of-the-wanted-release",
            "a record is skipped while its tenant runs the fallback release, though the wanted one consumes it",
        ),
        one("takeover-outside-the-transaction", "what a release changed when it took over is in no transaction"),
        one("tenant-run-twice-at-once", "a tenant's next job begins while one is out"),
        one("wait-for-a-routing-that-is-taken", "a tenant waits for a routing that was taken while its job ran"),
        one(
            "wait-for-the-end-of-the-control-topic",
            "a record waits for an end of the control topic that others never see",
        ),
    ];

    static ACTIVE: OnceLock<&'static str> = OnceLock::new();

    /// There is no mutation of this name, or another one is active.
    #[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
    pub enum ActivateError {
        /// No mutation has this name.
        #[error("no mutation is named {name:?}; the mutations are: {}", names())]
        Name {
            /// The name that was asked for.
            name: String,
        },
        /// A process runs with one mutation.
        #[error("the mutation {active:?} is active already, and a process has only one")]
        Active {
            /// The one that is active.
            active: &'static str,
        },
    }

    fn names() -> String {
        ALL.iter().map(|mutation| mutation.name).collect::<Vec<_>>().join(", ")
    }

    /// Switches a mutation on, for the whole process and for good.
    ///
    /// # Errors
    /// When no mutation has this name, or another one is active.
    pub fn activate(name: &str) -> Result<(), ActivateError> {
        let known = ALL.iter().find(|mutation| mutation.name == name);
        let Mutation { name, .. } = known.ok_or_else(|| ActivateError::Name { name: name.to_owned() })?;
        match *ACTIVE.get_or_init(|| name) {
            active if active == *name => Ok(()),
            active => Err(ActivateError::Active { active }),
        }
    }

    /// Whether this mutation is switched on. Called by `mutated!`.
    pub fn is_active(name: &str) -> bool {
        ACTIVE.get().is_some_and(|active| *active == name)
    }
}
