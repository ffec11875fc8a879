//! 2.0.0 of the ledger: its outputs say so.

releases::tagged!("2.0.0");
