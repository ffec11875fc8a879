//! Characters and messengers as the tenant's state has them: values are their JSON.

use serde::{Deserialize, Serialize};

/// A character that the tenant's state knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Character {
    pub(crate) id: u32,
    /// Empty if the directory does not have the character.
    pub(crate) name: String,
    pub(crate) world_id: u8,
    pub(crate) channel_id: u8,
    /// The messenger that lists the character; 0: none.
    pub(crate) messenger_id: u32,
    pub(crate) online: bool,
}

impl Character {
    /// A character in no messenger, offline, on channel 0.
    pub(crate) fn new(id: u32, name: String, world_id: u8) -> Self {
        Self { id, name, world_id, channel_id: 0, messenger_id: 0, online: false }
    }

    pub(crate) fn is_in_messenger(&self) -> bool {
        self.messenger_id != 0
    }
}

/// A messenger: one to three members with distinct slots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Messenger {
    pub(crate) id: u32,
    /// In the order in which they joined.
    pub(crate) members: Vec<Member>,
}

/// A character's slot in a messenger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Member {
    pub(crate) character_id: u32,
    /// 0, 1 or 2.
    pub(crate) slot: u8,
}

impl Messenger {
    const SLOTS: u8 = 3;

    /// The slot of the next member to join; `None`: the messenger is full.
    pub(crate) fn lowest_free_slot(&self) -> Option<u8> {
        (0..Self::SLOTS).find(|slot| self.members.iter().all(|member| member.slot != *slot))
    }
}
