//! The routes after each change, from the control topic's records.

use anyhow::{Result, anyhow};
use switchboard_core::record::{Offset, Timestamp};
use switchboard_core::registry::RegistryState;
use switchboard_core::routing::RouteTable;

/// The routes after one change.
#[derive(Debug, Clone)]
pub struct Version {
    /// The offset of the change's record, the last one of its transaction. `None`: before the first change.
    pub offset: Option<Offset>,
    /// The broker's timestamp of that record.
    pub timestamp: Option<Timestamp>,
    pub table: RouteTable,
}

/// All versions of the routes, oldest first.
#[derive(Debug)]
pub struct Versions {
    /// The state that all records so far give.
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
    /// Applies the next committed record. The reader must not have missed a record to compaction.
    ///
    /// # Errors
    /// When the record is malformed.
    pub fn apply(&mut self, offset: Offset, timestamp: Timestamp, key: &[u8], value: Option<&[u8]>) -> Result<()> {
        self.control.apply(offset, timestamp, key, value).map_err(|malformed| anyhow!("{malformed}"))?;
        if key.starts_with(b"change/") {
            let table = self.control.routes().clone();
            self.list.push(Version { offset: Some(offset), timestamp: Some(timestamp), table });
        }
        Ok(())
    }
}
