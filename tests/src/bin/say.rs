//! One record for a messenger, and what comes of it: for people who try a running host by hand.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Parser;
use switchboard_tests::app::MESSENGER;
use switchboard_tests::client::{Client, Record};

/// Sends a message of the tenant 083839c6-c47c-42a6-9585-76492795d123/GMS/83/1 to one of the messenger's topics, and prints
/// what the messenger sends within a few seconds. Topics that do not exist are made.
#[derive(Parser)]
#[command(name = "say")]
struct Arguments {
    /// The message's value: {"actorId":1,"type":"CREATE"}
    value: String,
    #[arg(long, default_value = MESSENGER[0])]
    topic: String,
    #[arg(long, env = "BOOTSTRAP_SERVERS", default_value = "localhost:19092")]
    bootstrap_servers: String,
}

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(3);

fn main() -> Result<()> {
    let Arguments { value, topic, bootstrap_servers } = Arguments::parse();
    let client = Client::new(&bootstrap_servers)?;
    let there = client.topics().with_context(|| format!("no broker at {bootstrap_servers}"))?;
    for name in MESSENGER.iter().filter(|name| !there.contains(&(**name).to_owned())) {
        client.create_topic(name, 1, &[])?;
    }
    let answers = || -> Result<Vec<Record>> {
        let all = MESSENGER[3..].iter().map(|name| client.read_all(name)).collect::<Result<Vec<_>>>()?;
        Ok(all.concat())
    };
    let before = answers()?.len();
    let header = |name: &str, value: &[u8]| (name.to_owned(), Some(value.to_vec()));
    let headers = vec![
        header("TENANT_ID", b"083839c6-c47c-42a6-9585-76492795d123"),
        header("REGION", b"GMS"),
        header("MAJOR_VERSION", &83_u16.to_be_bytes()),
        header("MINOR_VERSION", &1_u16.to_be_bytes()),
    ];
    client.produce(&[Record { topic, value: Some(value.into()), headers, ..Record::default() }])?;
    let started = Instant::now();
    let all = loop {
        let all = answers()?;
        if all.len() > before || started.elapsed() >= PATIENCE {
            break all;
        }
    };
    let mut new: Vec<_> = all.into_iter().filter(|record| record.timestamp.is_some()).collect();
    new.sort_by_key(|record| record.timestamp);
    for record in &new[before..] {
        println!("{}: {}", record.topic, String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()));
    }
    if new.len() == before {
        println!("(nothing)");
    }
    Ok(())
}
