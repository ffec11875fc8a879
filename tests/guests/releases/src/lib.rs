//! What the releases in `examples` are made of: each is one of these and a version.
//!
//! | component | what it is |
//! |---|---|
//! | `messenger_2` | the messenger 0.2.0, state version 2, takes over 1: messengers have room names ([`rooms`]) |
//! | `messenger_back` | the messenger 0.1.1, state version 1, takes over 2: it drops room names |
//! | `tagged_1`, `tagged_2` | the ledger 1.0.0 and 2.0.0, whose outputs say so ([`tagged`]) |
//! | `trapping` | 3.0.0, traps on a third of all messages |
//! | `unwilling` | 4.0.0, state version 2; its migration from 1 writes, and fails |
//! | `looping` | its `describe` never returns |
//! | `further_topic` | 5.0.0, consumes IN2 beside IN |
//! | `rejecting` | 6.0.0, rejects a third of all messages |

#![forbid(unsafe_code)]

pub mod rooms;
pub mod tagged;
