//! Fetches the answers that a message waits for. Only the message's tenant waits meanwhile.

use std::sync::Arc;
use std::time::Duration;

use super::lookups::Lookups;
use super::plugins::Answers;
use super::process::Need;
use crate::record::Tenant;

/// How often a release may find the answers of a message unusable. Then the message becomes a dead letter.
const UNUSABLE_ANSWERS: u32 = 6;

/// How far a message is with its lookups.
#[derive(Debug, Default)]
pub(super) struct LookupProgress {
    pub(super) answers: Answers,
    pub(super) need: Option<Need>,
    /// How often the release found its answers unusable.
    unusable: u32,
    /// How long its lookups have taken.
    spent: Duration,
}

/// The answers that one message needs, to be fetched.
#[derive(Debug)]
pub struct Fetch {
    /// No other fetch or job of the worker has it.
    pub(super) number: u64,
    pub(super) tenant: Arc<Tenant>,
    pub(super) progress: LookupProgress,
    /// How long all lookups of the message may take together.
    pub(super) lookup_time: Duration,
    /// Why there is no answer.
    pub(super) problem: Option<String>,
}

impl Fetch {
    /// The tenant whose message waits.
    pub fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// Fetches the answers, within the rest of the message's lookup time. `now`: the monotonic time since some fixed point.
    pub fn run(&mut self, lookups: &impl Lookups, now: impl Fn() -> Duration) {
        let (tenant, progress) = (&self.tenant, &mut self.progress);
        let (queries, complaint) = match progress.need.take() {
            None => return,
            Some(Need::Answer(query)) => (vec![query], None),
            Some(Need::BetterAnswers(reason)) => {
                progress.unusable += 1;
                (progress.answers.take_queries(), Some(reason))
            }
        };
        self.problem = complaint.filter(|_| queries.is_empty() || progress.unusable >= UNUSABLE_ANSWERS);
        let started = now();
        for query in queries {
            if self.problem.is_some() {
                break;
            }
            let spent = progress.spent + now().saturating_sub(started);
            let budget = self.lookup_time.saturating_sub(spent);
            let known = if progress.unusable == 0 { lookups.known(tenant, &query) } else { None };
            match known.map_or_else(|| lookups.fetch(tenant, &query, progress.unusable, budget), Ok) {
                Ok(answer) => progress.answers.insert(query, answer),
                Err(why) => {
                    self.problem = Some(format!("no answer from {} for {:?}: {why}", query.source, query.key));
                }
            }
        }
        progress.spent += now().saturating_sub(started);
    }
}
