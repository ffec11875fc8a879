//! 1.0.0 of the ledger: its outputs say so.

releases::tagged!("1.0.0");
