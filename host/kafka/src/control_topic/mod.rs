//! How is the control topic read and changed?
//!
//! [`ControlReader`] reads the topic from its beginning. [`ArtifactReader`] fetches the chunks of an artifact by their offsets.
//! [`ControlWriter`] changes the topic in one transaction. [`StatusWriter`] writes the status of a host.
//!
//! Nothing here decides what to write: that is `switchboard_core::registry`.

mod artifacts;
mod reader;
mod status;
mod writer;

pub use artifacts::{ArtifactReader, FetchError};
pub use reader::{ControlError, ControlEvent, ControlReader, FetchedRecord};
pub use status::StatusWriter;
pub use writer::{ControlWriter, UpdateError};
