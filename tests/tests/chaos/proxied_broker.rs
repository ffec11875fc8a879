//! The setup of tests that hold back requests: one application on a single broker, which hosts reach through a proxy.

use std::ffi::OsStr;
use std::process::Command;

use anyhow::Result;
use switchboard_tests::app::WAIT_LIMIT;
use switchboard_tests::client::{Client, Record};
use switchboard_tests::host::{Host, ledger};
use switchboard_tests::kafka::{Kafka, Options, free_port};
use switchboard_tests::proxy::Network;

/// A single broker, with a proxy between it and the hosts.
pub(crate) struct ProxiedBroker {
    client: Client,
    pub(crate) network: Network,
    kafka: Kafka,
}

impl ProxiedBroker {
    pub(crate) fn new() -> Result<Self> {
        let behind = free_port()?;
        let network = Network::start(&[behind])?;
        let properties = vec![("group.min.session.timeout.ms".to_owned(), "1000".to_owned())];
        let proxied = vec![(behind, network.ports()[0])];
        let kafka = Kafka::start_with(&Options { proxied, properties, ..Options::default() })?;
        let client = kafka.client()?;
        for topic in ["IN", "LINES", "AUDIT"] {
            client.create_topic(topic, 1, &[])?;
        }
        Ok(Self { client, network, kafka })
    }

    pub(crate) fn send(&self, id: u32) -> Result<()> {
        let record = Record {
            topic: "IN".to_owned(),
            value: Some(format!("{id} note").into_bytes()),
            headers: vec![("TENANT".to_owned(), Some(b"a".to_vec()))],
            ..Record::default()
        };
        self.client.produce(&[record]).map(drop)
    }

    /// The address of the proxy.
    pub(crate) fn proxy(&self) -> String {
        format!("127.0.0.1:{}", self.network.ports()[0])
    }

    /// The broker's own address.
    pub(crate) fn direct(&self) -> &str {
        self.kafka.bootstrap()
    }

    /// Starts a host with a session time-out of 3 s and one worker, so that one producer makes all transactions.
    pub(crate) fn start(instance: &str, mut command: Command, broker: impl AsRef<OsStr>) -> Result<Host> {
        command
            .args(["run", "--app", "late", "--instance", instance, "--members", "1", "--shards", "1"])
            .args(["--tenant-header", "TENANT=text", "--plugin"])
            .arg(ledger()?)
            .args(["--session-timeout-ms", "3000"])
            .env("BOOTSTRAP_SERVERS", broker);
        Host::start(instance, &mut command)
    }

    /// Waits until the line of the id `last` is committed. Returns the ids of all committed lines.
    pub(crate) fn ids(&self, last: u32) -> Result<Vec<u32>> {
        let id = |line: &Record| {
            let text = String::from_utf8_lossy(line.value.as_deref().unwrap_or_default()).into_owned();
            text.split(' ').next().and_then(|id| id.parse().ok()).unwrap_or(u32::MAX)
        };
        let mut reader = self.client.reader(&["LINES"])?;
        let lines = reader.until("the last line", WAIT_LIMIT, |lines| lines.iter().any(|line| id(line) == last))?;
        Ok(lines.iter().map(id).collect())
    }
}
