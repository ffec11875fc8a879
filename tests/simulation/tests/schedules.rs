//! The promise holds in many schedules of faults.

use std::sync::{Arc, Mutex};

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

/// Every call of a schedule, as `--trace` prints it.
fn trace(seed: u64) -> String {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .without_time()
        .with_ansi(false)
        .with_writer(Arc::clone(&lines))
        .finish();
    tracing::subscriber::with_default(subscriber, || run(seed, &mut Stacks::default()).expect("the promise holds"));
    String::from_utf8(std::mem::take(&mut lines.lock().expect("nothing panicked"))).expect("text")
}

/// Otherwise a seed that broke the promise could not be replayed. A hash map with a random order would show here.
#[test]
fn a_seed_gives_the_same_trace_again() {
    for seed in 0..50 {
        let (first, second) = (trace(seed), trace(seed));
        assert!(first.lines().count() > 100, "seed {seed} does nothing");
        let differs = first.lines().zip(second.lines()).find(|(first, second)| first != second);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(first.len(), second.len(), "seed {seed}");
    }
}
