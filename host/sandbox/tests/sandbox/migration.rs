//! Migrations of a tenant's state: what they see, what limits them, and that a failed one leaves nothing behind.

use std::time::Duration;

use switchboard_sandbox::{Limits, Sandbox};

use crate::handmade::{Handmade, Migration};
use crate::support::{Bench, log_of};

fn migrates(migration: Option<Migration>) -> Result<Vec<u32>, String> {
    let sandbox = Sandbox::new(Limits::default()).unwrap();
    let loaded = sandbox.load(&Handmade { migration, ..Handmade::default() }.build());
    loaded.map(|artifact| artifact.release().migrates.clone()).map_err(|error| error.to_string())
}

#[test]
fn a_component_of_either_world_loads_with_its_list_of_versions() {
    assert_eq!(migrates(None), Ok(vec![]));
    assert_eq!(migrates(Some(Migration::default())), Ok(vec![]));
    assert_eq!(migrates(Some(Migration { versions: &[7, 0, 2], before: "" })), Ok(vec![7, 0, 2]));
}

#[test]
fn a_list_of_versions_that_is_unusable_or_never_returned_is_refused() {
    for (versions, before, expected) in [
        (&[2, 1][..], "", "its list of state versions that it takes over (migrates-from) has its own state version, 1"),
        (&[2, 3, 2], "", "its list of state versions that it takes over (migrates-from) has version 2 twice"),
        (&[2], "(loop (br 0))", "(migrates-from): limit: more than 200000000 units of fuel"),
        (&[2], "unreachable", "(migrates-from): trap: wasm trap"),
    ] {
        let error = migrates(Some(Migration { versions, before })).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_migration_changes_the_tenants_state() {
    let mut bench = Bench::new();
    assert_eq!(bench.migrate("t", 7, "state a=1 migration"), Ok(()));
    assert_eq!(bench.state("t"), ["a=1", "migrated=7 "]);
    assert_eq!(bench.state("u"), [""; 0]);
}

#[test]
fn a_version_that_the_plugin_does_not_list_is_not_migrated() {
    let error = Bench::new().migrate("t", 3, "echo x").unwrap_err();
    assert_eq!(error, "hostile 0.1.0 does not take over state of version 3");
    let artifact = Sandbox::new(Limits::default()).unwrap().load(&Handmade::default().build()).unwrap();
    assert_eq!(artifact.release().migrates, [0; 0]);
}

#[test]
fn a_failed_migration_leaves_nothing_staged_and_the_tenant_is_served() {
    let mut bench = Bench::with(|limits| limits.migration_fuel = 100_000_000);
    for (migration, expected) in [
        ("invalid no\nroom", "invalid: Invalid(\"no\\nroom\")"),
        ("stage-and-trap", "trap: wasm trap: wasm `unreachable` instruction executed"),
        ("panic of cats", "trap: panicked at tests/guests/hostile/src/words.rs:"),
        ("loop", "limit: more than 100000000 units of fuel"),
        ("host-calls", "limit: more than 100000000 units of fuel"),
        ("grow 70", "limit: more than 67108864 bytes of memory"),
        ("fill", "limit: the tenant's state would have"),
        ("lookup names 1", "trap: a lookup is not available in describe()"),
        ("exit 1", "trap: left by exit(1)"),
        ("sleep 1", "trap: waits for a clock"),
    ] {
        let error = bench.migrate("t", 2, migration).unwrap_err();
        assert!(error.starts_with(expected), "{migration}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
        assert_eq!(bench.state("t"), [""; 0], "after {migration}");
        assert_eq!(bench.says("t", "count"), "1", "after {migration}");
    }
}

#[test]
fn a_migration_has_limits_of_its_own() {
    let mut bench = Bench::with(|limits| limits.fuel = 1_000_000);
    bench.fails("t", "burn 1000");
    assert_eq!(bench.migrate("t", 2, "burn 1000"), Ok(()));
    let mut bench = Bench::with(|limits| {
        limits.migration_fuel = u64::MAX;
        limits.migration_cpu_time = Duration::from_millis(30);
    });
    assert_eq!(bench.migrate("t", 2, "loop"), Err("deadline: more than 30ms of CPU time".into()));
}

#[test]
fn a_migration_is_deterministic_and_its_clock_shows_zero() {
    let mut bench = Bench::new();
    bench.offset = 1000.into();
    for word in ["random", "clock", "hashmap", "calls"] {
        bench.says("t", "calls");
        let run = |bench: &mut Bench, tenant| {
            bench.migrate(tenant, 2, word).unwrap();
            bench.state(tenant)
        };
        assert_eq!(run(&mut bench, "t"), run(&mut bench, "u"), "{word}");
    }
    assert!(bench.state("t").contains(&"migrated=2 0".into()), "an instance of its own: {:?}", bench.state("t"));
    bench.migrate("t", 2, "clock").unwrap();
    assert!(bench.state("t").contains(&"migrated=2 Some(0ns) (Some(0ns), 0ns)".into()), "{:?}", bench.state("t"));
}

#[test]
fn a_migration_does_not_touch_the_tenants_warm_instance() {
    let mut bench = Bench::new();
    bench.says("t", "calls");
    bench.migrate("t", 2, "echo x").unwrap();
    bench.migrate("t", 2, "trap").unwrap_err();
    assert_eq!(bench.says("t", "calls"), "1");
}

#[test]
fn a_migrations_log_lines_are_the_tenants_and_limited() {
    let lines = log_of(|| {
        let mut bench = Bench::with(|limits| limits.log_lines_per_second = 10);
        for _ in 0..3 {
            bench.migrate("t", 2, "log 1000").unwrap();
        }
    });
    // 3,000 without a limit. The budget fills up while the test runs: 10 lines a second.
    assert!((10..500).contains(&lines.len()), "{}", lines.len());
    assert!(lines[0].contains("line 0 plugin=hostile 0.1.0 tenant=t"), "{}", lines[0]);
}
