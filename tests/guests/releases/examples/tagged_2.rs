//! 2.0.0 of the ledger, with the version in each output.

releases::tagged!("2.0.0");
