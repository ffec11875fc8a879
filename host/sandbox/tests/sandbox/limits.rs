//! Limits and traps: each ends one call, with a class and a reason, and nothing else.

use std::time::Duration;

use switchboard_core::record::Class;
use switchboard_core::worker::Outcome;

use crate::support::Bench;

#[test]
fn an_endless_loop_runs_out_of_fuel_with_the_same_result_each_time() {
    let mut bench = Bench::with(|limits| limits.fuel = 10_000_000);
    let first = bench.fails("t", "loop");
    assert_eq!(first, (Class::Limit, "more than 10000000 units of fuel".into()));
    assert_eq!(bench.fails("t", "loop"), first);
}

#[test]
fn an_endless_loop_with_unlimited_fuel_runs_out_of_cpu_time() {
    let mut bench = Bench::with(|limits| {
        limits.fuel = u64::MAX;
        limits.cpu_time = Duration::from_millis(30);
    });
    assert_eq!(bench.fails("t", "loop"), (Class::Deadline, "more than 30ms of CPU time".into()));
}

#[test]
fn host_calls_and_the_bytes_that_they_move_cost_fuel() {
    for work in ["host-calls", "host-work"] {
        let mut bench = Bench::with(|limits| {
            limits.cpu_time = Duration::MAX;
            // The guest itself does almost nothing here.
            limits.fuel = 100_000_000;
        });
        let first = bench.fails("t", work);
        assert_eq!(first.0, Class::Limit, "{work}");
        assert_eq!(bench.fails("t", work), first, "{work}");
    }
    let (_, reason) = Bench::new().fails("t", "host-work");
    assert_eq!(reason, "more than 200000000 units of fuel for what the host did");
}

#[test]
fn memory_beyond_the_limit_is_a_limit_not_an_abort() {
    let mut bench = Bench::new();
    assert_eq!(bench.says("t", "grow 40"), (40 << 20).to_string());
    let beyond = (Class::Limit, "more than 67108864 bytes of memory".into());
    assert_eq!(bench.fails("t", "grow 70"), beyond);
    // A message that is larger than the memory that the guest may have.
    let Outcome::Failed(letter) = bench.handle("t", &"x".repeat(65 << 20)) else { panic!("it fits") };
    assert_eq!((letter.class, letter.reason), beyond);
    // More than a 32-bit memory can have.
    assert_eq!(bench.fails("t", "grow 2047"), beyond);
}

#[test]
fn memory_left_by_earlier_messages_fails_no_message() {
    let mut bench = Bench::new();
    for _ in 0..5 {
        assert_eq!(bench.says("t", "leak 25"), "");
    }
    let mut bench = Bench::with(|limits| limits.handles = 100);
    for _ in 0..5 {
        assert_eq!(bench.says("t", "handles 60"), "");
    }
}

#[test]
fn handles_are_limited() {
    let (class, reason) = Bench::new().fails("t", "handles 1100");
    assert_eq!((class, reason.contains("handle limit exceeded")), (Class::Limit, true), "{reason}");
}

#[test]
fn outputs_are_limited_before_they_are_copied() {
    let mut bench = Bench::new();
    assert!(matches!(bench.handle("t", "outputs 1000 100"), Outcome::Outputs(outputs) if outputs.len() == 1000));
    assert!(matches!(bench.handle("t", "outputs 4 1000000"), Outcome::Outputs(outputs) if outputs.len() == 4));
    for outputs in ["outputs 9 1000000", "outputs 300000 0"] {
        let (class, reason) = bench.fails("t", outputs);
        assert_eq!((class, reason.contains("too much data")), (Class::Limit, true), "{outputs}: {reason}");
    }
}

#[test]
fn state_is_limited() {
    let mut bench = Bench::new();
    assert_eq!(bench.says("t", "entry 512 1048576"), "");
    for (entry, class, expected) in [
        ("entry 513 1", Class::Limit, "a state key of 513 bytes, at most 512 are allowed"),
        ("entry 1 1048577", Class::Limit, "a state value of 1048577 bytes, at most 1048576 are allowed"),
        ("entry 1 9000000", Class::Limit, "too much data"),
        ("entry 0 1", Class::Trap, "a state key must not be empty"),
        ("fill", Class::Limit, "the tenant's state would have"),
    ] {
        let (actual, reason) = bench.fails("t", entry);
        assert_eq!((actual, reason.contains(expected)), (class, true), "{entry}: {reason}");
    }
}

#[test]
fn every_trap_has_its_reason() {
    let mut bench = Bench::new();
    for (trap, expected) in [
        (
            "trap",
            "wasm `unreachable` instruction executed in <hostile::words::Hostile as switchboard_sdk::Plugin>::handle",
        ),
        ("out-of-bounds", "out of bounds memory access"),
        ("recurse 100000000", "call stack exhausted"),
        ("panic of cats", "panicked at tests/guests/hostile/src/words.rs:"),
        ("panic of cats", ": of cats"),
        ("exit 3", "left by exit(1)"),
        ("sleep 1", "waits for a clock"),
        ("connect", "wasi:sockets/tcp"),
    ] {
        let (class, reason) = bench.fails("t", trap);
        assert_eq!((class, reason.contains(expected)), (Class::Trap, true), "{trap}: {reason}");
    }
}

#[test]
fn a_trap_affects_no_other_tenant() {
    let mut bench = Bench::new();
    assert_eq!(bench.says("other", "calls"), "0");
    for trap in ["trap", "loop", "grow 70", "panic", "fill"] {
        bench.fails("t", trap);
    }
    assert_eq!(bench.says("other", "calls"), "1", "its instance is the same");
}
