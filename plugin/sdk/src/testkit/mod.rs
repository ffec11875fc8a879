//! Runs a plugin natively, as the host would.
//!
//! [`Bench`] holds one tenant's world (state, answers, log lines) for unit tests; [`run_vectors`] runs a file of test
//! vectors, judged by the same code as when `switchboard test` runs it on the component. Nothing here knows Kafka or
//! WebAssembly: what the sandbox adds (fuel, memory, fresh instances) is the host's to test.

mod memory;
mod native;

pub use memory::{Answers, Lines, MemoryState};
pub use native::Native;

use crate::{Context, Message, Migrate, Outbound, Plugin, Rejection};
use std::fmt::Write as _;
use switchboard_core::vectors::{self, InstanceReuse};

/// A tenant's world, in which messages are handled one after the other.
#[derive(Clone, Debug, Default)]
pub struct Bench {
    /// The tenant's state.
    pub state: MemoryState,
    /// What lookups answer.
    pub answers: Answers,
    /// What was logged, also by rejected messages.
    pub lines: Lines,
}

impl Bench {
    /// Handles one message. As in the host, a rejection leaves the state as it was.
    ///
    /// # Errors
    ///
    /// The plugin's own rejection.
    pub fn handle<P: Plugin>(&mut self, message: &Message) -> Result<Vec<Outbound>, Rejection> {
        let mut staged = self.state.clone();
        let mut ctx = Context::new(&mut staged, &self.answers, &self.lines, message.timestamp);
        let outputs = P::handle(&mut ctx, message)?;
        self.state = staged;
        Ok(outputs)
    }
}

impl Bench {
    /// Takes the state over from version `from` of its layout. As in the host, an error leaves it as it was, and there are
    /// no lookups.
    ///
    /// # Errors
    ///
    /// The plugin's own, or that it does not list that version.
    pub fn migrate<P: Migrate>(&mut self, from: u32) -> Result<(), String> {
        if !P::FROM.contains(&from) {
            return Err(format!("it does not take over state of version {from}"));
        }
        let mut staged = self.state.clone();
        P::migrate(&mut Context::new(&mut staged, &native::NotGiven, &self.lines, 0), from)?;
        self.state = staged;
        Ok(())
    }
}

/// Runs all scenarios of a file of test vectors, given as its text. Returns how many steps passed.
///
/// # Errors
///
/// When the text is no such file, or a step differs: for people, both sides of each step that does.
pub fn run_vectors<P: Plugin>(file: &str) -> Result<usize, String> {
    let mut passed = 0;
    let mut differences = String::new();
    for scenario in vectors::parse(file).map_err(|error| error.to_string())? {
        let mut plugins = Native::<P>::default();
        let report = vectors::run(&scenario, &plugins.release(), &mut plugins, InstanceReuse::Warm)
            .map_err(|error| error.to_string())?;
        passed += report.passed;
        for vectors::Failure { step, input, expected, actual } in report.failures {
            let name = &scenario.name;
            write!(differences, "{name}, step {step}: {input}\nexpected:\n{expected}actual:\n{actual}\n")
                .expect("writing to a String does not fail");
        }
    }
    if differences.is_empty() { Ok(passed) } else { Err(differences) }
}
