//! What a tenant ran last, as its changelog records it.

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use crate::record::ControlPosition;

/// The release that a tenant ran last. It is an entry of the host in the tenant's changelog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LastRun {
    /// The release.
    pub release: Digest,
    /// The state version of that release, and so of the tenant's state.
    pub state_version: u32,
    /// The position of the control record that last changed the tenant's route; `None`: none ever did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<ControlPosition>,
}

impl LastRun {
    /// The key of the entry. Keys that start with U+0000 are the host's.
    pub const KEY: &str = "\0release";

    /// The entry as JSON, which people can read too.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("numbers and text have JSON")
    }

    /// Reads an entry; `None`: it is not one of Switchboard's.
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
