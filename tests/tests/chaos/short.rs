//! Is every input settled exactly once under every kind of fault? A short run of `make chaos`.

use anyhow::{Context, Result};
use switchboard_tests::chaos::{Options, Report, run};

#[test]
fn every_input_is_settled_exactly_once_whatever_fails() -> Result<()> {
    let cycles = 9;
    // This seed deals all kinds within these cycles, and no long one twice.
    let seed = 490;
    let directory = tempfile::Builder::new().prefix("switchboard-chaos-").tempdir()?;
    let options = Options { cycles, seed, directory: directory.path().to_owned() };
    let report = run(&options);
    if !report.as_ref().is_ok_and(Report::is_good) {
        let kept = directory.keep();
        eprintln!("data and logs are kept in {}; to repeat: make chaos CYCLES={cycles} SEED={seed}", kept.display());
    }
    let report = report.context("chaos")?;
    println!("{report}");
    assert!(report.is_good(), "{:#?}", report.wrong());
    assert_eq!(report.kinds(), 15);
    Ok(())
}
