//! Which artifacts load, and why the others are refused.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use switchboard_core::record::{Class, Coordinates, Headers, Record, Tenant, TenantId};
use switchboard_core::state::TenantState;
use switchboard_core::worker::{Answers, Call, Outcome, Plugins as _, Runner as _};
use switchboard_sandbox::{InstancePool, Limits, LoadError, Sandbox};

use crate::handmade::{Handmade, Migration};
use crate::support::hostile_path;

fn sandbox() -> Sandbox {
    Sandbox::new(Limits::default()).unwrap()
}

fn refusal(bytes: &[u8]) -> String {
    match sandbox().load(bytes) {
        Ok(_) => panic!("loaded"),
        Err(error) => error.to_string(),
    }
}

fn refused(plugin: &Handmade) -> String {
    refusal(&plugin.build())
}

#[test]
fn an_artifact_has_its_manifest_imports_and_digest() {
    let artifact = sandbox().load(&Handmade::default().build()).unwrap();
    let manifest = artifact.manifest();
    assert_eq!((manifest.name.as_str(), manifest.version.as_str()), ("handmade", "1.0.0"));
    assert_eq!((&manifest.consumes[..], manifest.state_version), (&["IN".to_owned()][..], 1));
    assert_eq!(artifact.imports(), [""; 0]);
    // The same digest that `sha256sum` prints.
    assert_eq!(artifact.digest().bytes()[..], Sha256::digest(Handmade::default().build())[..]);

    let hostile = sandbox().load_file(&hostile_path()).unwrap();
    assert!(hostile.imports().iter().any(|import| import == "switchboard:plugin/state@0.1.0"));
    assert_eq!(hostile.size(), std::fs::metadata(hostile_path()).unwrap().len());
}

#[test]
fn bytes_that_are_no_plugin_are_refused_with_a_remedy() {
    for (bytes, expected) in [
        (&b""[..], "not WebAssembly: give the .wasm file"),
        (b"#!/bin/sh", "not WebAssembly"),
        (
            b"\0asm\x01\0\0\0",
            "a WebAssembly module, not a component: build it with `cargo build --release --target wasm32-wasip2`",
        ),
        (b"\0asm\x0d\0\x01\0", "not a plugin: it does not export switchboard:plugin/handler@0.1.0"),
        (b"\0asm\x0d\0\x01\0broken", "not a component that this host can run: "),
        (b"\0asm", "not WebAssembly"),
    ] {
        let error = refusal(bytes);
        assert!(error.starts_with(expected), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn an_import_that_is_not_granted_is_named() {
    let imports = r#"(import "wasi:http/outgoing-handler@0.2.0" (instance))
        (import "switchboard:plugin/state@0.2.0" (instance)) (import "launch" (func))"#;
    let error = refused(&Handmade { imports: imports.into(), ..Handmade::default() });
    let expected = "it imports wasi:http/outgoing-handler@0.2.0, switchboard:plugin/state@0.2.0, launch, which the host \
                    does not grant to plugins";
    assert_eq!(error, expected);
}

#[test]
fn wasi_is_granted_in_any_version_0_2() {
    for version in ["0.2.0", "0.2.6", "0.2.12", "0.2.99"] {
        // Granted, granted with fewer functions than the host has, and denied: an import of each kind.
        let imports = format!(
            r#"(import "wasi:random/insecure-seed@{version}" (instance (export "insecure-seed" (func (result (tuple u64 u64))))))
            (import "wasi:cli/exit@{version}" (instance (export "exit" (func (param "status" (result))))))
            (import "wasi:sockets/instance-network@{version}" (instance (export "instance-network" (func (result u32)))))"#
        );
        let artifact = sandbox().load(&Handmade { imports, ..Handmade::default() }.build()).unwrap();
        assert_eq!(artifact.imports().len(), 3, "{version}");
    }
    let imports = r#"(import "wasi:random/insecure-seed@0.3.0" (instance))"#;
    let error = refused(&Handmade { imports: imports.into(), ..Handmade::default() });
    assert_eq!(error, "it imports wasi:random/insecure-seed@0.3.0, which the host does not grant to plugins");
}

#[test]
fn a_plugin_that_produces_to_a_topic_that_is_not_allowed_is_refused() {
    let bytes = std::fs::read(hostile_path()).unwrap();
    let load = |allowed: &[&str]| {
        let allowed = allowed.iter().map(|&alias| alias.to_owned()).collect();
        sandbox().with_allowed_topics(allowed).load(&bytes).map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(load(&["AUDIT", "OUT"]), Ok(()));
    let refused = "it produces to OUT, which this host does not allow: add that to allow-topics, or take it out of the plugin's \
                   manifest";
    assert_eq!(load(&["AUDIT"]), Err(refused.into()));
    assert_eq!(load(&[]), Err(refused.into()));
}

#[test]
fn an_interface_of_another_shape_is_named() {
    let imports = r#"(import "switchboard:plugin/state@0.1.0" (instance (export "get" (func (param "key" u32)))))"#;
    let error = refused(&Handmade { imports: imports.into(), ..Handmade::default() });
    assert!(
        error.contains("differ from wit/plugin.wit") && error.contains("switchboard:plugin/state@0.1.0"),
        "{error}"
    );
    let migrating = Handmade { migration: Some(Migration::default()), ..Handmade::default() };
    for (part, other, expected) in [
        (r#"(field "state-version" u32)"#, r#"(field "state-version" s32)"#, "expected `u32` found `s32`"),
        (r#"(param "from" u32)"#, r#"(param "from" s32)"#, "expected `u32` found `s32`"),
        (r#"(export "migrate" (func $migrate))"#, "", "does not have export `migrate`"),
        (r#"(export "describe" (func $describe))"#, "", "does not have export `describe`"),
    ] {
        let error = refusal(&migrating.build_with(part, other));
        assert!(error.contains("differ from wit/plugin.wit") && error.contains(expected), "{error}");
    }
    let imports = r#"(import "wasi:clocks/timezone@0.2.0" (instance (export "x" (func))))"#;
    let error = refused(&Handmade { imports: imports.into(), ..Handmade::default() });
    assert!(error.contains("wasi:clocks/timezone@0.2.0"), "{error}");
}

#[test]
fn a_plugin_without_a_usable_manifest_is_refused() {
    for (describe, expected) in [
        ("unreachable", "(describe): trap: wasm trap: wasm `unreachable` instruction executed"),
        ("(loop (br 0))", "(describe): limit: more than 200000000 units of fuel"),
        ("(drop (memory.grow (i32.const 2000)))", "(describe): limit: more than 67108864 bytes of memory"),
    ] {
        let error = refused(&Handmade { describe, ..Handmade::default() });
        assert!(error.contains(expected), "{error}");
    }
    let error = refused(&Handmade { name: "", ..Handmade::default() });
    assert_eq!(error, "its manifest (describe) has an empty name");
    let error = refused(&Handmade { consumes: "A\\0aB", ..Handmade::default() });
    assert!(error.contains("control characters in the topic alias in consumes \"A\\nB"), "{error}");
}

#[test]
fn files_are_refused_with_their_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("big.wasm");
    let load = || sandbox().load_file(&path).err().map(|error| error.to_string()).unwrap();
    assert!(load().starts_with(&format!("cannot read {}: ", path.display())), "{}", load());
    std::fs::File::create(&path).unwrap().set_len((16 << 20) + 1).unwrap();
    let expected = format!(
        "{}: 16777217 bytes, at most 16777216 are allowed for a plugin: build it with --release, strip it, or raise --max-artifact-bytes",
        path.display()
    );
    assert_eq!(load(), expected);
    assert!(matches!(sandbox().load(&vec![0; (16 << 20) + 1]), Err(LoadError::TooLarge { size: 16_777_217, .. })));
}

#[test]
fn memories_and_tables_count_in_sum_over_core_instances() {
    let memory = |name: &str, pages: u32| {
        format!(
            "(core module ${name} (memory {pages}) (func (export \"f\")))
             (core instance (instantiate ${name}))"
        )
    };
    let fits = Handmade { cores: memory("a", 500) + &memory("b", 500), ..Handmade::default() };
    assert!(sandbox().load(&fits.build()).is_ok());
    let beyond = Handmade { cores: memory("a", 600) + &memory("b", 600), ..Handmade::default() };
    assert!(refused(&beyond).contains("limit: more than 67108864 bytes of memory"), "{}", refused(&beyond));
    // 8 Mi elements of 8 bytes are 64 MiB.
    let table = Handmade { items: "(table 8388608 funcref)".into(), ..Handmade::default() };
    assert!(refused(&table).contains("limit: more than 67108864 bytes of memory"), "{}", refused(&table));
    let grows = Handmade {
        items: "(table $t 1 funcref)".into(),
        describe: "(drop (table.grow $t (ref.null func) (i32.const 9000000)))",
        ..Handmade::default()
    };
    assert!(refused(&grows).contains("limit: more than 67108864 bytes of memory"), "{}", refused(&grows));
}

#[test]
fn the_numbers_of_core_instances_memories_and_tables_are_limited() {
    let many = |items: &str, count: usize| {
        let cores = format!("(core module $x {items})") + &"(core instance (instantiate $x))".repeat(count);
        refused(&Handmade { cores, ..Handmade::default() })
    };
    for (items, count, expected) in [
        ("", 40, "limit: resource limit exceeded: instance count"),
        ("(memory 1)", 5, "limit: resource limit exceeded: memory count"),
        ("(table 1 funcref)", 10, "limit: resource limit exceeded: table count"),
    ] {
        let error = many(items, count);
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn growth_beyond_a_tables_declared_maximum_is_refused_and_does_not_end_the_call() {
    let plugin = Handmade {
        items: "(table $t 1 2 funcref)".into(),
        describe: "(if (i32.ne (table.grow $t (ref.null func) (i32.const 5)) (i32.const -1)) (then unreachable))
                   (if (i32.ne (table.grow $t (ref.null func) (i32.const 1)) (i32.const 1)) (then unreachable))",
        ..Handmade::default()
    };
    assert!(sandbox().load(&plugin.build()).is_ok());
}

#[test]
fn the_epoch_thread_ends_with_the_sandbox() {
    let epochs = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let name =
            |task: std::io::Result<std::fs::DirEntry>| std::fs::read_to_string(task.ok()?.path().join("comm")).ok();
        tasks.filter_map(name).filter(|name| name.trim() == "epochs").count()
    };
    let wait = |what: &str, holds: &dyn Fn(usize) -> bool| {
        let start = Instant::now();
        while !holds(epochs()) {
            assert!(start.elapsed() < Duration::from_secs(20), "{} threads, not {what}", epochs());
            std::thread::yield_now();
        }
    };
    // Other tests start and end such threads meanwhile, but far fewer than 50.
    let sandboxes: Vec<_> = (0..50).map(|_| sandbox()).collect();
    wait("at least 50", &|threads| threads >= 50);
    drop(sandboxes);
    wait("fewer than 50", &|threads| threads < 50);
}

#[test]
fn a_handmade_plugin_handles_messages_and_its_endless_loop_fails() {
    let run = |handle: &'static str| {
        let limits = Limits { fuel: 1_000_000, ..Limits::default() };
        let artifact = Arc::new(sandbox().load(&Handmade { handle, ..Handmade::default() }.build()).unwrap());
        let mut instances = InstancePool::new(Arc::clone(&artifact), limits);
        let tenant = Tenant { id: TenantId::new("t"), headers: Headers::new(), texts: vec![] };
        let source = Coordinates { topic: "IN".into(), partition: 0.into(), offset: 0.into() };
        let call = Call { tenant: &tenant, record: &Record::default(), origin: &source };
        instances.lend(&tenant.id).handle(artifact.release(), call, &mut TenantState::default(), &Answers::default())
    };
    assert_eq!(run(""), Outcome::Outputs(vec![]));
    assert!(matches!(run("(loop (br 0))"), Outcome::Failed(letter) if letter.class == Class::Limit));
    assert!(matches!(run("unreachable"), Outcome::Failed(letter) if letter.class == Class::Trap));
}
