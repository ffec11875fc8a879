//! One message, one verdict. Nothing is sent here.

use std::sync::Arc;

use super::config::WorkerConfig;
use super::plugins::{Answers, Call, Outcome, Query, Runner};
use crate::record::{Class, DeadLetter, Outgoing, Trace};
use crate::routing::Release;
use crate::state::TenantState;

/// What follows from a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Its outputs, in order. Its state changes are staged with the transaction.
    Outputs(Vec<Outgoing>),
    /// A dead letter. None of its state changes are staged.
    DeadLetter(DeadLetter),
    /// It is processed again when it has what it needs. None of its state changes are staged.
    Waits(Need),
}

/// What a message waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// An answer that it does not have yet.
    Answer(Query),
    /// Better answers than it has. The text says what is wrong with those.
    BetterAnswers(String),
}

/// Runs one message on its tenant's state. Unless there are outputs, nothing stays staged.
pub(crate) fn process(
    config: &WorkerConfig,
    runner: &mut impl Runner,
    release: &Arc<Release>,
    state: &mut TenantState,
    call: Call<'_>,
    answers: &Answers,
) -> Verdict {
    let outcome = runner.handle(release, call, state, answers);
    let verdict = judge(config, release, outcome, call, answers);
    match verdict {
        Verdict::Outputs(_) => {}
        Verdict::DeadLetter(_) if mutated!("keep-the-state-of-a-rejected-message") => {}
        Verdict::DeadLetter(_) | Verdict::Waits(_) => state.reject_message(),
    }
    verdict
}

/// The verdict that follows from the outcome of a call.
fn judge(
    config: &WorkerConfig,
    release: &Release,
    outcome: Outcome,
    Call { tenant, record, origin }: Call<'_>,
    answers: &Answers,
) -> Verdict {
    let declared = &release.manifest.lookups;
    let letter = match outcome {
        Outcome::Outputs(outputs) => {
            let trace = Trace::of(&record.headers, &config.app, origin);
            match config.outputs.address(&release.produces, outputs, record, tenant, &trace) {
                Ok(outgoing) => return Verdict::Outputs(outgoing),
                Err(letter) => letter,
            }
        }
        // Each further query costs a further call.
        Outcome::Missing(_) if answers.len() >= config.lookups_a_message => {
            DeadLetter::new(Class::Limit, format!("more than {} lookups", config.lookups_a_message))
        }
        Outcome::Missing(query) if declared.contains(&query.source) => {
            return Verdict::Waits(Need::Answer(query));
        }
        Outcome::Missing(query) => {
            let reason = format!(
                "lookup source {:?} is not declared in the plugin's manifest ({})",
                query.source,
                declared.join(", ")
            );
            DeadLetter::new(Class::Lookup, reason)
        }
        Outcome::UnusableAnswer(reason) => return Verdict::Waits(Need::BetterAnswers(reason)),
        Outcome::Rejected(reason) => DeadLetter::new(Class::Invalid, reason),
        Outcome::Failed(letter) => letter,
    };
    Verdict::DeadLetter(letter)
}
