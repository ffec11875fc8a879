//! What is not deployed, and why.

use std::path::Path;

use anyhow::{Result, ensure};
use minisign::KeyPair;
use serde_json::json;
use switchboard_tests::app::App;
use switchboard_tests::host::{messenger, release};
use switchboard_tests::kafka::Kafka;
use switchboard_tests::native::{Operation, Resource, allow};

use super::{Shelf, app, control, deploy, deployed, history, named, routes, text};

#[test]
fn what_is_no_good_is_refused_and_nothing_is_written() -> Result<()> {
    let (app, shelf) = (app("releases-bad")?, Shelf::new()?);
    let good = shelf.ledger(1, 0)?;
    let refused = |artifact: &Path, arguments: &[&str], words: &[&str]| -> Result<()> {
        let answer = deploy(&app, artifact, arguments)?;
        let why = answer.refusal()?;
        words.iter().try_for_each(|word| {
            ensure!(why.contains(word), "{word:?} is not in: {why}");
            Ok(())
        })
    };
    refused(&shelf.put("text.wasm", b"(component)")?, &[], &["text.wasm", "not WebAssembly"])?;
    refused(&shelf.put("module.wasm", b"\0asm\x01\0\0\0")?, &[], &["module", "wasm32-wasip2"])?;
    refused(&shelf.put("empty.wasm", b"\0asm\x0d\0\x01\0")?, &[], &["switchboard:plugin/handler"])?;
    refused(&release("looping")?, &[], &["fails when asked what it is", "describe"])?;
    refused(&shelf.0.path().join("absent.wasm"), &[], &["absent.wasm", "No such file"])?;
    refused(&good, &["--max-artifact-bytes", "1000"], &["at most 1000"])?;
    refused(&good, &["--tenant", "a/b"], &["\"a/b\" is not a tenant", "TENANT (text)"])?;
    refused(&good, &["--topic", &format!("IN={}-switchboard-control", app.name)], &["Switchboard's own"])?;
    refused(&good, &["--allow-topic", "OTHER"], &["produces to LINES, AUDIT", "allow-topics"])?;
    refused(&good, &["--signature", "/absent.minisig"], &["/absent.minisig"])?;
    assert!(!app.client.topics()?.contains(&control(&app)), "nothing was written, nor created");

    deployed(&app, &good, &[])?;
    let before = app.client.read_all(&control(&app))?.len();
    refused(&good, &["--percent", "5"], &["all tenants run"])?;
    assert_eq!(app.client.read_all(&control(&app))?.len(), before);
    Ok(())
}

#[test]
fn a_signature_is_checked_and_travels_with_its_artifact() -> Result<()> {
    let (shelf, keys) = (Shelf::new()?, KeyPair::generate_unencrypted_keypair()?);
    let app = app("releases-signed")?.arg("--trusted-key", &keys.pk.to_base64());
    let sign = |path: &Path| -> Result<String> {
        let signature = minisign::sign(Some(&keys.pk), &keys.sk, std::fs::File::open(path)?, None, None)?;
        Ok(signature.into_string())
    };
    let (signed, unsigned) = (shelf.ledger(1, 0)?, shelf.ledger(2, 0)?);
    let signature = sign(&signed)?;
    std::fs::write(signed.with_added_extension("minisig"), &signature)?;
    let refused = deploy(&app, &unsigned, &[])?;
    assert!(refused.refusal()?.contains("not signed"), "{refused:?}");
    let beside = text(&signed.with_added_extension("minisig"));
    let refused = deploy(&app, &unsigned, &["--signature", &beside])?;
    assert!(refused.refusal()?.contains("does not match"), "{refused:?}");
    assert!(!app.client.topics()?.contains(&control(&app)), "nothing was written");

    deployed(&app, &signed, &[])?;
    let apart = shelf.put("apart", sign(&unsigned)?.as_bytes())?;
    deployed(&app, &unsigned, &["--signature", &text(&apart)])?;
    let told = app.ask(&["releases"], &["--json"])?.json()?;
    assert_eq!(told["releases"][1]["signature"].as_str(), Some(&*signature));
    assert!(told["releases"][0]["signature"].is_string());
    Ok(())
}

#[test]
fn what_a_deployment_is_not_allowed_is_told() -> Result<()> {
    let (kafka, login) = Kafka::guarded()?;
    let login: Vec<_> = login.iter().map(String::as_str).collect();
    let (app, shelf) = (App::on(&kafka, "releases-acl", &[], 1)?.arg("--tenant-header", "TENANT=text"), Shelf::new()?);
    let artifact = shelf.ledger(1, 0)?;
    let refused = |words: &[&str]| -> Result<()> {
        let answer = deploy(&app, &artifact, &login)?;
        let why = answer.refusal()?;
        ensure!(words.iter().all(|word| why.contains(word)), "{words:?} are not in: {why}");
        Ok(())
    };
    refused(&["-control cannot be created", "TopicAuthorizationFailed"])?;
    let config =
        [("cleanup.policy", "compact"), ("message.timestamp.type", "LogAppendTime"), ("max.message.bytes", "4194304")];
    app.client.create_topic(&control(&app), 1, &config)?;
    let topic = control(&app);
    let grant = |resource, operation| allow(kafka.bootstrap(), "User:switchboard", resource, operation);
    grant(Resource::Topic(&topic), Operation::Read)?;
    refused(&["not allowed to write", "WRITE"])?;
    grant(Resource::Topic(&topic), Operation::Write)?;
    refused(&["cannot be written", "Transactional Id"])?;
    grant(Resource::TransactionalIds(&format!("{}-switchboard-", app.name)), Operation::Write)?;
    deploy(&app, &artifact, &login)?.json()?;
    assert_eq!(history(&app)?.len(), 1);
    Ok(())
}

#[test]
fn a_control_topic_that_does_not_fit_is_refused_with_how_to_mend_it() -> Result<()> {
    let (app, shelf) = (app("releases-unfit")?, Shelf::new()?);
    let artifact = shelf.ledger(1, 0)?;
    app.client.create_topic(&control(&app), 2, &[("cleanup.policy", "compact")])?;
    let answer = deploy(&app, &artifact, &[])?;
    let why = answer.refusal()?;
    assert!(why.contains("2 partitions, but must have 1") && why.contains("1 more"), "{why}");
    app.client.delete_topics(&[&control(&app)])?;
    app.client.create_topic(
        &control(&app),
        1,
        &[("cleanup.policy", "compact"), ("message.timestamp.type", "CreateTime")],
    )?;
    let answer = app.ask(&["rollback"], &[])?;
    let why = answer.refusal()?;
    assert!(why.contains("message.timestamp.type=LogAppendTime") && why.contains("kafka-configs.sh"), "{why}");
    assert_eq!(app.client.read_all(&control(&app))?, []);
    Ok(())
}

#[test]
fn a_release_that_cannot_take_over_the_state_is_refused() -> Result<()> {
    let app = app("releases-state")?;
    let first = deployed(&app, &messenger()?, &[])?;
    let second = deployed(&app, &release("messenger_2")?, &["--tenant", "a"])?;
    let refused = app.ask(&["route", "set", &first[..8]], &["--tenant", "b", "--tenant", "a"])?;
    let why = refused.refusal()?;
    assert!(why.contains("messenger 0.1.0") && why.contains("migrates from version 2"), "{why}");
    assert_eq!(routes(&app)?, named(&[("default", &first), ("tenant/a", &second)]), "not for b either");
    let back = deployed(&app, &release("messenger_back")?, &["--tenant", "a"])?;
    deployed(&app, &release("messenger_2")?, &[])?;
    assert_eq!(routes(&app)?, named(&[("default", &second), ("tenant/a", &back)]));
    // What cannot be forced by a deployment can be undone, at a price that is told.
    let undone = app.ask(&["rollback"], &["--json"])?;
    assert_eq!(undone.json()?["routes"][0]["after"]["release"], json!(first));
    assert!(undone.log.contains("state has version 2 go on with messenger 0.2.0"), "{}", undone.log);
    Ok(())
}
