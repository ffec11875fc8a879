//! Does `deploy` refuse what cannot run, with the reason, and without writing anything?

use std::path::Path;

use anyhow::{Result, ensure};
use minisign::KeyPair;
use serde_json::json;
use switchboard_tests::app::App;
use switchboard_tests::host::{messenger, release};
use switchboard_tests::kafka::Kafka;
use switchboard_tests::native::{Operation, Resource, allow};

use super::{ArtifactDir, app, control, deploy, deployed, history, named, routes, text};

#[test]
fn a_refused_deployment_writes_nothing() -> Result<()> {
    let app = app("releases-bad")?;
    let dir = ArtifactDir::new()?;
    let good = dir.ledger(1, 0)?;
    let refused = |artifact: &Path, arguments: &[&str], words: &[&str]| -> Result<()> {
        let answer = deploy(&app, artifact, arguments)?;
        let why = answer.refusal()?;
        words.iter().try_for_each(|word| {
            ensure!(why.contains(word), "{word:?} is not in: {why}");
            Ok(())
        })
    };
    refused(&dir.put("text.wasm", b"(component)")?, &[], &["text.wasm", "not WebAssembly"])?;
    refused(&dir.put("module.wasm", b"\0asm\x01\0\0\0")?, &[], &["module", "wasm32-wasip2"])?;
    refused(&dir.put("empty.wasm", b"\0asm\x0d\0\x01\0")?, &[], &["switchboard:plugin/handler"])?;
    refused(&release("looping")?, &[], &["fails when asked what it is", "describe"])?;
    refused(&dir.0.path().join("absent.wasm"), &[], &["absent.wasm", "No such file"])?;
    refused(&good, &["--max-artifact-bytes", "1000"], &["at most 1000"])?;
    refused(&good, &["--tenant", "a/b"], &["\"a/b\" is not a tenant", "TENANT (text)"])?;
    refused(&good, &["--topic", &format!("IN={}-switchboard-control", app.name)], &["Switchboard's own"])?;
    refused(&good, &["--allow-topic", "OTHER"], &["produces to LINES, AUDIT", "allow-topics"])?;
    refused(&good, &["--signature", "/absent.minisig"], &["/absent.minisig"])?;
    assert!(!app.client.topics()?.contains(&control(&app)), "nothing was written, nor created");

    deployed(&app, &good, &[])?;
    let before = app.client.read_all(&control(&app))?.len();
    refused(&good, &["--percent", "5"], &["is already the default release"])?;
    assert_eq!(app.client.read_all(&control(&app))?.len(), before);
    Ok(())
}

#[test]
fn a_signature_is_checked_and_stored_with_its_artifact() -> Result<()> {
    let dir = ArtifactDir::new()?;
    let keys = KeyPair::generate_unencrypted_keypair()?;
    let app = app("releases-signed")?.arg("--trusted-key", &keys.pk.to_base64());
    let sign = |path: &Path| -> Result<String> {
        let signature = minisign::sign(Some(&keys.pk), &keys.sk, std::fs::File::open(path)?, None, None)?;
        Ok(signature.into_string())
    };
    let signed = dir.ledger(1, 0)?;
    let unsigned = dir.ledger(2, 0)?;
    let signature = sign(&signed)?;
    std::fs::write(signed.with_added_extension("minisig"), &signature)?;
    let refused = deploy(&app, &unsigned, &[])?;
    assert!(refused.refusal()?.contains("not signed"), "{refused:?}");
    let signature_path = text(&signed.with_added_extension("minisig"));
    let refused = deploy(&app, &unsigned, &["--signature", &signature_path])?;
    assert!(refused.refusal()?.contains("does not match"), "{refused:?}");
    assert!(!app.client.topics()?.contains(&control(&app)), "nothing was written");

    deployed(&app, &signed, &[])?;
    let apart = dir.put("apart", sign(&unsigned)?.as_bytes())?;
    deployed(&app, &unsigned, &["--signature", &text(&apart)])?;
    let shown = app.run_command(&["releases"], &["--json"])?.json()?;
    assert_eq!(shown["releases"][1]["signature"].as_str(), Some(&*signature));
    assert!(shown["releases"][0]["signature"].is_string());
    Ok(())
}

#[test]
fn a_deployment_without_permission_names_what_is_missing() -> Result<()> {
    let (kafka, login) = Kafka::guarded()?;
    let login: Vec<_> = login.iter().map(String::as_str).collect();
    let (app, dir) =
        (App::on(&kafka, "releases-acl", &[], 1)?.arg("--tenant-header", "TENANT=text"), ArtifactDir::new()?);
    let artifact = dir.ledger(1, 0)?;
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
fn an_unfit_control_topic_is_refused_with_how_to_fix_it() -> Result<()> {
    let app = app("releases-unfit")?;
    let dir = ArtifactDir::new()?;
    let artifact = dir.ledger(1, 0)?;
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
    let answer = app.run_command(&["rollback"], &[])?;
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
    let refused = app.run_command(&["route", "set", &first[..8]], &["--tenant", "b", "--tenant", "a"])?;
    let why = refused.refusal()?;
    assert!(why.contains("messenger 0.1.0") && why.contains("migrates from version 2"), "{why}");
    assert_eq!(routes(&app)?, named(&[("default", &first), ("tenant/a", &second)]), "the route of b is not set either");
    let back = deployed(&app, &release("messenger_back")?, &["--tenant", "a"])?;
    deployed(&app, &release("messenger_2")?, &[])?;
    assert_eq!(routes(&app)?, named(&[("default", &second), ("tenant/a", &back)]));
    // A deployment cannot force this, but a rollback can. Its log warns about the consequences.
    let undone = app.run_command(&["rollback"], &["--json"])?;
    assert_eq!(undone.json()?["routes"][0]["after"]["release"], json!(first));
    assert!(undone.log.contains("state has version 2 go on with messenger 0.2.0"), "{}", undone.log);
    Ok(())
}
