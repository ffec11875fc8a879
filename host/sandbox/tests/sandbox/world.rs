//! What a plugin sees of the outside world: clock, random numbers, streams, log.

use switchboard_core::worker::Outcome;

use crate::support::{Bench, log_of};

#[test]
fn the_clock_shows_the_timestamp_of_the_message_and_stands_still() {
    let mut bench = Bench::new();
    bench.offset = 1_700_000_000_123_i64.try_into().unwrap();
    let clock = bench.says("t", "clock");
    assert_eq!(clock, "Some(1700000000.123s) (Some(0ns), 0ns)");
    bench.offset = 7.into();
    assert_eq!(bench.says("t", "clock"), "Some(7ms) (Some(0ns), 0ns)");
    assert_eq!(bench.says("t", "sleep 0"), "");
}

#[test]
fn random_bytes_depend_on_the_coordinates_of_the_record_only() {
    let mut bench = Bench::new();
    let first = bench.says("t", "random");
    let second = bench.says("t", "random");
    assert_ne!(first, second);
    bench.offset = 0.into();
    assert_eq!(bench.says("t", "random"), first, "a second attempt, warm");
    bench.offset = 1.into();
    assert_eq!(Bench::new().says("t", "random"), first, "another worker");
    assert_eq!(bench.says("u", "random"), second, "fresh");
}

#[test]
fn maps_are_in_the_same_order_in_every_instance() {
    let mut bench = Bench::new();
    let warm = [bench.says("t", "hashmap"), bench.says("t", "hashmap")];
    bench.discard("t");
    assert_eq!([bench.says("t", "hashmap"), bench.says("t", "hashmap")], warm);
    assert_eq!(bench.says("u", "hashmap"), warm[0]);
}

#[test]
fn nan_has_one_bit_pattern() {
    assert_eq!(Bench::new().says("t", "nan"), "7ff8000000000000");
}

#[test]
fn a_plugin_finds_no_input_no_environment_and_no_file() {
    assert_eq!(Bench::new().says("t", "world"), "Ok(0) [] [] true");
}

#[test]
fn output_of_a_plugin_becomes_log_lines_with_plugin_tenant_and_source() {
    let mut bench = Bench::new();
    let lines = log_of(|| {
        bench.says("t", "print one\ntwo");
        bench.says("t", "print-unfinished three");
        bench.says("u", "complain four\u{1b}[31m");
        bench.says("u", "log 1");
        bench.says("u", &format!("print {}", "x".repeat(10_000)));
        bench.fails("u", "panic five");
    });
    let expected = [
        " INFO plugin: one plugin=hostile 0.1.0 tenant=t source=IN[0]@0",
        " INFO plugin: two plugin=hostile 0.1.0 tenant=t source=IN[0]@0",
        " INFO plugin: three plugin=hostile 0.1.0 tenant=t source=IN[0]@1",
        " WARN plugin: four\\u{1b}[31m plugin=hostile 0.1.0 tenant=u source=IN[0]@2",
        " INFO plugin: line 0 plugin=hostile 0.1.0 tenant=u source=IN[0]@3",
    ];
    assert_eq!(lines[..5], expected);
    assert!(lines[5].contains("xxx [cut] plugin=") && lines[5].len() < 9000, "{}", lines[5]);
    assert!(lines[6..].iter().any(|line| line.starts_with(" WARN plugin: five ")), "{lines:#?}");
}

#[test]
fn a_tenants_log_lines_are_limited_across_its_instances() {
    let mut bench = Bench::with(|limits| limits.log_lines_per_second = 20);
    let lines = log_of(|| {
        bench.says("t", "log 15");
        assert!(matches!(bench.handle("t", "trap"), Outcome::Failed(_)));
        bench.says("t", "log 10000");
        bench.says("u", "log 15");
    });
    let of = |tenant: &str| lines.iter().filter(|line| line.contains(&format!("tenant={tenant} "))).count();
    // The budget fills up while the test runs: 20 lines a second.
    assert!((20..60).contains(&of("t")), "{}", of("t"));
    assert_eq!(of("u"), 15);
}
