//! The parts of the releases in `examples`. Each release is one of these plugins with a version.
//!
//! | component | what it is |
//! |---|---|
//! | `messenger_2` | the messenger 0.2.0, state version 2, migrates from 1: messengers have room names ([`rooms`]) |
//! | `messenger_back` | the messenger 0.1.1, state version 1, migrates from 2: it drops room names |
//! | `tagged_1`, `tagged_2` | the ledger 1.0.0 and 2.0.0, with the version in each output ([`mod@tagged`]) |
//! | `trapping` | 3.0.0, traps on a third of all messages |
//! | `unwilling` | 4.0.0, state version 2, consumes IN2 in addition to IN; its migration from 1 writes, and fails |
//! | `looping` | its `describe` never returns |
//! | `further_topic` | 5.0.0, consumes IN2 in addition to IN |
//! | `rejecting` | 6.0.0, rejects a third of all messages |

#![forbid(unsafe_code)]

pub mod rooms;
pub mod tagged;
