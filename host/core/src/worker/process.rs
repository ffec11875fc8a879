//! The verb *process*: one message, one verdict. Pure: nothing is sent here.

use std::sync::Arc;

use super::config::WorkerConfig;
use super::plugins::{Answers, Call, Outcome, Plugins, Query};
use crate::record::{Class, DeadLetter, Outgoing, Trace};
use crate::routing::Release;
use crate::state::TenantState;

/// What becomes of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Its outputs, in order; its state changes are staged in the transaction's layer.
    Outputs(Vec<Outgoing>),
    /// Nothing is applied.
    DeadLetter(DeadLetter),
    /// Nothing is applied; it is to be processed again once it has what it waits for.
    Waits(Need),
}

/// What a message waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// An answer that it has not been given.
    Answer(Query),
    /// Better answers than those it has been given; the text says what is wrong with them.
    BetterAnswers(String),
}

/// Runs one message on its tenant's state.
pub(crate) fn process(
    rules: &WorkerConfig,
    plugins: &mut impl Plugins,
    release: &Arc<Release>,
    state: &mut TenantState,
    call: Call<'_>,
    answers: &Answers,
) -> Verdict {
    let outcome = plugins.handle(release, call, state, answers);
    let verdict = judge(rules, release, outcome, call, answers);
    match verdict {
        Verdict::Outputs(_) => state.accept_message(),
        Verdict::DeadLetter(_) | Verdict::Waits(_) => state.reject_message(),
    }
    verdict
}

fn judge(
    rules: &WorkerConfig,
    release: &Release,
    outcome: Outcome,
    Call { tenant, record, source }: Call<'_>,
    answers: &Answers,
) -> Verdict {
    let declared = &release.manifest.lookups;
    let letter = match outcome {
        Outcome::Outputs(outputs) => {
            let trace = Trace::of(&record.headers, &rules.app, source);
            match rules.outputs.address(&release.produces, outputs, record, tenant, &trace) {
                Ok(outgoing) => return Verdict::Outputs(outgoing),
                Err(letter) => letter,
            }
        }
        // Each further question is a further call.
        Outcome::Missing(_) if answers.len() >= rules.lookups_a_message => {
            DeadLetter::new(Class::Limit, format!("more than {} lookups", rules.lookups_a_message))
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
