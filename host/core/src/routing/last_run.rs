use serde::{Deserialize, Serialize};

use super::digest::Digest;
use crate::record::ControlPosition;

/// What a tenant ran under last: its entry in its changelog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LastRun {
    pub release: Digest,
    /// The version of the layout that its state has.
    pub state_version: u32,
    /// The record of the control topic that last changed something about its route; `None`: none ever did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<ControlPosition>,
}

impl LastRun {
    /// The key of the entry, one of the host's own.
    pub const KEY: &str = "\0release";

    /// As JSON: an entry is read by people too.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("numbers and text have JSON")
    }

    /// The inverse of `encode`; `None`: it was written by something else.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::TopicId;

    #[test]
    fn an_entry_reads_as_it_was_written() {
        let route = ControlPosition { topic: Some(TopicId::new(u64::MAX)), offset: 7.into() };
        for route in [None, Some(route), Some(ControlPosition { topic: None, ..route })] {
            let ran = LastRun { release: Digest::new([7; 32]), state_version: 2, route };
            assert_eq!(LastRun::decode(&ran.encode()), Some(ran));
        }
        assert_eq!(LastRun::decode(b"{}"), None);
    }
}
