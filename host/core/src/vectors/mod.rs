//! Test vectors: scenarios of consumed records and all that they cause, as data.
//!
//! `format` reads the files, `run` runs scenarios on any `Plugins`, with the host's own envelope, state and verdicts:
//! a plugin compiled natively and the component in its sandbox are judged by the same code. No broker is involved.

mod format;
mod run;

pub use format::{
    Bytes, BytesError, Input, NamedBytes, Output, Scenario, ScenarioConfig, Step, StepError, VectorError, parse,
};
pub use run::{Failure, InstanceReuse, Report, run};
