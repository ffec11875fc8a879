//! The routes as they were after each change, from the control topic's records.

use anyhow::{Result, anyhow};
use switchboard_core::record::{Offset, Timestamp};
use switchboard_core::registry::RegistryState;
use switchboard_core::routing::RouteTable;

/// The routes after one change.
#[derive(Debug, Clone)]
pub struct Version {
    /// Of the change's record, the last one of its transaction; `None`: before the first change.
    pub offset: Option<Offset>,
    /// When that was written, by the broker's clock.
    pub timestamp: Option<Timestamp>,
    pub table: RouteTable,
}

/// All of them, oldest first.
#[derive(Debug)]
pub struct Versions {
    /// All that the topic says.
    pub control: RegistryState,
    pub list: Vec<Version>,
}

impl Default for Versions {
    fn default() -> Self {
        let none = Version { offset: None, timestamp: None, table: RouteTable::default() };
        Self { control: RegistryState::default(), list: vec![none] }
    }
}

impl Versions {
    /// Takes in the next record, committed, of which none was compacted away before it was read.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn apply(&mut self, offset: Offset, timestamp: Timestamp, key: &[u8], value: Option<&[u8]>) -> Result<()> {
        self.control.apply(offset, timestamp, key, value).map_err(|malformed| anyhow!("{malformed}"))?;
        if key.starts_with(b"change/") {
            let table = self.control.routes().clone();
            self.list.push(Version { offset: Some(offset), timestamp: Some(timestamp), table });
        }
        Ok(())
    }
}
