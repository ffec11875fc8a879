//! Fetches the answers that a message waits for, or makes it a dead letter. No transaction is open meanwhile.

use std::time::Duration;

use super::config::WorkerConfig;
use super::inbox::{Disposition, Pending};
use super::lookups::Lookups;
use super::process::Need;
use crate::record::{Class, DeadLetter};

/// How often a release may find the answers of a message unusable. Then the message becomes a dead letter.
const UNUSABLE_ANSWERS: u32 = 6;

/// Fetches the answers that a message needs, within the rest of its lookup time.
pub(super) fn answer(
    pending: &mut Pending,
    config: &WorkerConfig,
    lookups: &mut impl Lookups,
    now: impl Fn() -> Duration,
) {
    let Disposition::Process { tenant, .. } = &pending.disposition else { return };
    let progress = &mut pending.lookups;
    let (queries, complaint) = match progress.need.take() {
        None => return,
        Some(Need::Answer(query)) => (vec![query], None),
        Some(Need::BetterAnswers(reason)) => {
            progress.unusable += 1;
            (progress.answers.take_queries(), Some(reason))
        }
    };
    let mut problem = complaint.filter(|_| queries.is_empty() || progress.unusable >= UNUSABLE_ANSWERS);
    let started = now();
    for query in queries {
        if problem.is_some() {
            break;
        }
        let spent = progress.spent + now().saturating_sub(started);
        let budget = config.lookup_time.saturating_sub(spent);
        let known = if progress.unusable == 0 { lookups.known(tenant, &query) } else { None };
        match known.map_or_else(|| lookups.fetch(tenant, &query, progress.unusable, budget), Ok) {
            Ok(answer) => progress.answers.insert(query, answer),
            Err(why) => problem = Some(format!("no answer from {} for {:?}: {why}", query.source, query.key)),
        }
    }
    progress.spent += now().saturating_sub(started);
    if let Some(reason) = problem {
        pending.disposition =
            Disposition::DeadLetter { letter: DeadLetter::new(Class::Lookup, reason), minimal: false };
    }
}
