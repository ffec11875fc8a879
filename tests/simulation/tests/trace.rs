//! The same seed gives the same schedule, call by call. A process of its own, as loggers of other tests' threads would
//! disturb this one's.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use switchboard_simulation::{Stacks, run};

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("nothing panicked").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Every call of a schedule, as `--trace` prints it.
fn trace(seed: u64) -> String {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .without_time()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, || run(seed, &mut Stacks::default()).expect("the promise holds"));
    String::from_utf8(std::mem::take(&mut *lines.0.lock().expect("nothing panicked"))).expect("text")
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
