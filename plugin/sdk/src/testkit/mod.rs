//! Runs a plugin natively, as the host would.
//!
//! [`Bench`] holds the state, answers and log lines of one tenant, for unit tests. [`run_vectors`] runs a file of test vectors
//! with the same code as `switchboard test`, which runs them on the component. The test kit knows neither Kafka nor
//! WebAssembly: only the host can test what the sandbox adds (fuel, memory, fresh instances).

mod memory;
mod native;

use std::fmt::Write as _;

pub use memory::{Answers, Lines, MemoryState};
pub use native::Native;
use switchboard_core::vectors::{self, InstanceReuse, VectorError};

use crate::{Context, Message, Migrate, Outbound, Plugin, Rejection};

/// One tenant: its state, the answers to its lookups, and its log lines. It handles messages one after the other.
#[derive(Clone, Debug, Default)]
pub struct Bench {
    /// The tenant's state.
    pub state: MemoryState,
    /// The answers to lookups.
    pub answers: Answers,
    /// The lines that were logged, also by rejected messages.
    pub lines: Lines,
}

impl Bench {
    /// Handles one message. A rejection leaves the state unchanged, as in the host.
    ///
    /// # Errors
    ///
    /// The rejection of the plugin.
    pub fn handle<P: Plugin>(&mut self, message: &Message) -> Result<Vec<Outbound>, Rejection> {
        let mut staged = self.state.clone();
        let mut ctx = Context::new(&mut staged, &self.answers, &self.lines, message.timestamp);
        let outputs = P::handle(&mut ctx, message)?;
        self.state = staged;
        Ok(outputs)
    }

    /// Lets the plugin take over the state from version `from` of its layout. As in the host, an error leaves the
    /// state unchanged, and there are no lookups.
    ///
    /// # Errors
    ///
    /// The error of the plugin, or that it does not list this version.
    pub fn migrate<P: Migrate>(&mut self, from: u32) -> Result<(), String> {
        if !P::FROM.contains(&from) {
            return Err(format!("it does not take over state of version {from}"));
        }
        let mut staged = self.state.clone();
        P::migrate(&mut Context::new(&mut staged, &native::NoLookups, &self.lines, 0), from)?;
        self.state = staged;
        Ok(())
    }
}

/// Why test vectors did not pass.
#[derive(Debug, thiserror::Error)]
pub enum VectorsError {
    /// The file cannot be read or contradicts itself.
    #[error(transparent)]
    Unusable(#[from] VectorError),
    /// Steps had an unexpected outcome. The text shows both sides of each.
    #[error("{0}")]
    Differs(String),
}

/// Runs all scenarios of a file of test vectors, given as its text. Returns how many steps passed.
///
/// # Errors
///
/// If the text is not such a file, or a step has an unexpected outcome.
pub fn run_vectors<P: Plugin>(file: &str) -> Result<usize, VectorsError> {
    let mut passed = 0;
    let mut differences = String::new();
    for scenario in vectors::parse(file)? {
        let mut plugins = Native::<P>::default();
        let report = vectors::run(&scenario, &plugins.release(), &mut plugins, InstanceReuse::Warm)?;
        passed += report.passed;
        for vectors::Failure { step, input, expected, actual } in report.failures {
            let name = &scenario.name;
            write!(differences, "{name}, step {step}: {input}\nexpected:\n{expected}actual:\n{actual}\n")
                .expect("writing to a String does not fail");
        }
    }
    if differences.is_empty() { Ok(passed) } else { Err(VectorsError::Differs(differences)) }
}
