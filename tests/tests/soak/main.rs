//! Is every message settled once, by its tenant's release, while releases are swapped? A short run of `make swap-soak`.

#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use switchboard_tests::soak::{Options, Report, run};

#[test]
fn every_message_is_handled_once_by_the_release_that_its_tenant_has() -> Result<()> {
    let swaps = 40;
    let seed = 6;
    let directory = tempfile::Builder::new().prefix("switchboard-soak-").tempdir()?;
    let options = Options { swaps, seed, rate: 5000, fresh: false, directory: directory.path().to_owned() };
    let report = run(&options);
    if !report.as_ref().is_ok_and(Report::is_good) {
        let kept = directory.keep();
        eprintln!("data and logs are kept in {}; to repeat: make swap-soak SWAPS={swaps} SEED={seed}", kept.display());
    }
    let report = report.context("swaps")?;
    println!("{report}");
    assert!(report.is_good(), "{:#?}", report.wrong());
    Ok(())
}
