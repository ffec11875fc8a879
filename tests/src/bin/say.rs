//! Sends one record to a running messenger and prints its outputs, for manual experiments.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Parser;
use switchboard_tests::app::MESSENGER;
use switchboard_tests::client::{Client, Record};

/// Sends a message of the tenant 083839c6-c47c-42a6-9585-76492795d123/GMS/83/1 to one of the messenger's topics, and
/// prints the messenger's outputs of the next few seconds. Creates the messenger's topics if they do not exist.
#[derive(Parser)]
#[command(name = "say")]
struct Arguments {
    /// The message's value, such as {"actorId":1,"type":"CREATE"}.
    value: String,
    #[arg(long, default_value = MESSENGER[0])]
    topic: String,
    #[arg(long, env = "BOOTSTRAP_SERVERS", default_value = "localhost:19092")]
    bootstrap_servers: String,
}

/// How long to wait for the first output.
const FIRST_OUTPUT_TIMEOUT: Duration = Duration::from_secs(3);

fn main() -> Result<()> {
    let Arguments { value, topic, bootstrap_servers } = Arguments::parse();
    let client = Client::new(&bootstrap_servers)?;
    let existing = client.topics().with_context(|| format!("no broker at {bootstrap_servers}"))?;
    for name in MESSENGER.iter().filter(|name| !existing.contains(&(**name).to_owned())) {
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
        if all.len() > before || started.elapsed() >= FIRST_OUTPUT_TIMEOUT {
            break all;
        }
    };
    let mut outputs: Vec<_> = all.into_iter().filter(|record| record.timestamp.is_some()).collect();
    outputs.sort_by_key(|record| record.timestamp);
    for record in &outputs[before..] {
        println!("{}: {}", record.topic, String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()));
    }
    if outputs.len() == before {
        println!("(no output)");
    }
    Ok(())
}
