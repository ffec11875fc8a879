//! Test vectors: scenarios of consumed records and everything that they cause, as data.
//!
//! * Question: does a plugin do what its test vectors say?
//! * May use: all other modules.
//! * Never: needs a broker.
//!
//! [`parse`] reads a file of scenarios. [`run()`] runs a scenario on any [`Plugins`](crate::worker::Plugins) with the
//! host's own decoding of records, state and verdicts. So the same code judges a plugin that was compiled natively and
//! its component in the sandbox.

mod format;
mod run;

pub use format::{
    Bytes, BytesError, Input, NamedBytes, Output, Scenario, ScenarioConfig, Step, StepError, VectorError, parse,
};
pub use run::{Failure, InstanceReuse, Report, run};
