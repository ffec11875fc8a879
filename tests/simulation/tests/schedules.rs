//! The promise holds in many schedules of faults.

use switchboard_simulation::{Stacks, Swaps, run, run_all};

const SCHEDULES: u64 = 20_000;

#[test]
fn the_promise_holds_in_20_000_schedules() {
    let sum = run_all(0..SCHEDULES);
    if let Some(broken) = sum.broken {
        panic!("{broken}");
    }
    assert_eq!(sum.schedules, SCHEDULES);
    let Swaps { swaps, migrations, fallbacks, early_take_overs, skipped, missed, waits } = sum.swaps;
    assert!(
        [swaps, migrations, fallbacks, early_take_overs, skipped, missed, waits].iter().all(|count| *count > 1000),
        "{}",
        sum.swaps
    );
    assert_eq!(sum.faults.missing(), Vec::<&str>::new(), "each kind of fault was made");
}

#[test]
fn a_seed_gives_the_same_schedule_again() {
    for seed in 0..50 {
        let once = || run(seed, &mut Stacks::default()).expect("the promise holds");
        let (first, second) = (once(), once());
        assert_eq!((first.turns, first.faults, first.swaps), (second.turns, second.faults, second.swaps), "{seed}");
    }
}
