//! Every kind of fault once, most of them two at a time. `make chaos` makes more of them.

use anyhow::{Context, Result};
use switchboard_tests::chaos::{Options, Report, run};

#[test]
fn every_input_is_settled_exactly_once_whatever_fails() -> Result<()> {
    // A seed that deals all kinds, and no long ones twice.
    let (cycles, seed) = (9, 490);
    let directory = tempfile::Builder::new().prefix("switchboard-chaos-").tempdir()?;
    let options = Options { cycles, seed, directory: directory.path().to_owned() };
    let report = run(&options);
    if !report.as_ref().is_ok_and(Report::is_good) {
        let kept = directory.keep();
        eprintln!("data and logs stay in {}; again: make chaos CYCLES={cycles} SEED={seed}", kept.display());
    }
    let report = report.context("chaos")?;
    println!("{report}");
    assert!(report.is_good(), "{:#?}", report.wrong());
    assert_eq!(report.kinds(), 15);
    Ok(())
}
