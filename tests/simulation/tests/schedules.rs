//! The promise holds in many schedules of faults.

use switchboard_simulation::{Swaps, Work, run_all};

const SCHEDULES: u64 = 20_000;

#[test]
fn the_promise_holds_in_20_000_schedules() {
    let sum = run_all(0..SCHEDULES);
    if let Some(broken) = sum.broken {
        panic!("{broken}");
    }
    assert_eq!(sum.schedules, SCHEDULES);
    let Swaps { swaps, migrations, fallbacks, early_take_overs, skipped, missed, waits, direct, hopped } = sum.swaps;
    let counts = [swaps, migrations, fallbacks, early_take_overs, skipped, missed, waits, direct, hopped];
    assert!(counts.iter().all(|count| *count > 1000), "{}", sum.swaps);
    let Work { jobs, cut_short, long, abandoned, overlapping, fetches, maps } = sum.work;
    let counts = [jobs, cut_short, long, abandoned, overlapping, fetches, maps];
    assert!(counts.iter().all(|count| *count > 1000), "{}", sum.work);
    assert_eq!(sum.faults.missing(), Vec::<&str>::new(), "each kind of fault was made");
}
