//! The control topic: read from its beginning, chunks of artifacts fetched by their offsets, changed in one transaction.
//!
//! Nothing here decides what to write: that is `switchboard_core::registry`.

mod artifacts;
mod reader;
mod status;
mod writer;

pub use artifacts::{ArtifactReader, FetchError};
pub use reader::{ControlError, ControlReader, FetchedRecord, Polled};
pub use status::StatusWriter;
pub use writer::{ControlWriter, UpdateError};
