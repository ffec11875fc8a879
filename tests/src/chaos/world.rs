//! The world in which faults happen: a cluster of three brokers, hosts that reach it through proxies, and a generator
//! and a witness that reach it directly.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::check::Evidence;
use super::mix::{Input, Mix};
use crate::client::Client;
use crate::fleet::{Fleet, Setup};
use crate::generator::{Generator, Pace, Window};
use crate::host::ledger;
use crate::kafka::{Kafka, Options, free_port};
use crate::progress::{self, Stall};
use crate::proxy::{HeldRequest, Network};
use crate::under_load::UnderLoad;
use crate::witness::{Witness, WitnessedTopics};

pub(super) const BROKERS: usize = 3;
/// The number of the host that joins and leaves. The hosts with smaller numbers always run.
pub(super) const SPARE_HOST: usize = 2;
/// The process instance of each host. Two have one, so that a restart continues at once. The spare host has none.
const INSTANCES: [Option<&str>; SPARE_HOST + 1] = [Some("left"), Some("right"), None];

const APP: &str = "chaos";
const PARTITIONS: i32 = 6;
const SHARDS: i32 = 8;
/// At most 200 inputs a second.
const MAX_PACE: Pace = Pace { burst: 20, every: Duration::from_millis(100) };
/// The maximum number of inputs that are sent and not settled: those of two seconds at that pace.
const MAX_IN_FLIGHT: u64 = 400;
/// A fault begins when at least this many inputs are in flight.
const MIN_IN_FLIGHT_AT_FAULT: u64 = MAX_PACE.burst as u64;
/// A fault lasts until it has met at least this many inputs: in flight when it began, or sent before it ended.
pub(super) const MIN_INPUTS_UNDER_FAULT: u64 = 100;
/// The time between two checks of whether a request is held back.
const HELD_REQUEST_POLL: Duration = Duration::from_millis(100);

const _: () =
    assert!(MAX_IN_FLIGHT >= MIN_INPUTS_UNDER_FAULT, "otherwise a fault that stops all hosts would never end");

/// Small transactions, so that many are open; a short session; short time-outs, so that clients detect dead connections
/// soon.
const HOST_FLAGS: [&str; 18] = [
    "--tenant-header",
    "TENANT=text",
    "--shards",
    "8",
    "--members",
    "1",
    "--batch-records",
    "40",
    "--session-timeout-ms",
    "3000",
    "--purge-interval-ms",
    "2000",
    "--replication-factor",
    "3",
    "--kafka",
    "socket.timeout.ms=3000",
    "--kafka",
    "fetch.wait.max.ms=200",
];

/// How many requests were delivered late.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LateRequests {
    pub(super) held_back: usize,
    /// Those that a broker answered when they arrived.
    pub(super) answered: usize,
}

/// The world of a run.
pub(super) struct World {
    pub(super) load: UnderLoad<Input>,
    pub(super) network: Network,
    _witness: Witness,
    client: Client,
    /// Whether the spare host runs.
    pub(super) spare: bool,
    pub(super) late_requests: LateRequests,
}

impl World {
    /// Starts everything, with data and logs in `directory`, and waits until the first inputs are settled.
    pub(super) fn start(directory: &Path, seed: u64) -> Result<Self> {
        let behind = (0..BROKERS).map(|_| free_port()).collect::<Result<Vec<_>>>()?;
        let network = Network::start(&behind)?;
        let proxied = behind.into_iter().zip(network.ports().iter().copied()).collect();
        let properties = [
            ("min.insync.replicas", "2"),
            ("transaction.state.log.min.isr", "2"),
            ("group.min.session.timeout.ms", "1000"),
        ];
        let kafka = Kafka::start_with(&Options {
            nodes: u16::try_from(BROKERS)?,
            proxied,
            data: Some(directory.join("kafka")),
            properties: properties.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec(),
            ..Options::default()
        })?;
        let client = kafka.client()?;
        for topic in ["IN", "LINES", "AUDIT"] {
            client.create_topic(topic, PARTITIONS, &[("min.insync.replicas", "2")])?;
        }
        let proxies: Vec<_> = network.ports().iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let setup = Setup {
            app: APP.to_owned(),
            bootstrap: proxies.join(","),
            plugin: ledger()?,
            directory: directory.join("hosts"),
            arguments: HOST_FLAGS.map(str::to_owned).to_vec(),
        };
        let mut fleet = Fleet::new(setup, &INSTANCES)?;
        (0..SPARE_HOST).try_for_each(|host| fleet.start(host))?;
        client.wait_for_topic(&dead_letters_topic(), true).context("waiting for the hosts to create their topics")?;
        let topics = WitnessedTopics {
            lines: "LINES",
            line_partitions: PARTITIONS,
            dead_letters: &dead_letters_topic(),
            further: &[],
        };
        let witness = Witness::start(kafka.bootstrap(), topics, |_| ())?;
        let settled = witness.settled();
        let window = Window { settled: settled.clone(), in_flight: MAX_IN_FLIGHT };
        let generator = Generator::start_closed(kafka.bootstrap(), "IN", Mix::new(seed, PARTITIONS), MAX_PACE, window)?;
        let mut load = UnderLoad { fleet, kafka, generator, settled };
        load.settle_more(MIN_INPUTS_UNDER_FAULT)?;
        let late_requests = LateRequests::default();
        Ok(Self { load, network, _witness: witness, client, spare: false, late_requests })
    }

    /// Waits until a request is held back, while all other requests continue.
    pub(super) fn wait_for_held(&mut self, held: &HeldRequest) -> Result<()> {
        progress::wait_until("the request that is to be held back", || {
            self.load.look()?;
            Ok(held.wait(HELD_REQUEST_POLL).is_ok())
        })
    }

    /// Waits until enough inputs are in flight for a fault to begin. Returns the number of settled inputs.
    pub(super) fn begin_under_load(&mut self) -> Result<u64> {
        self.load.wait_for_in_flight(MIN_IN_FLIGHT_AT_FAULT)?;
        Ok(self.load.settled.count())
    }

    /// Stops the generator, waits until all inputs are settled, shuts the hosts down, and collects the evidence. Also
    /// returns open transactions and wrong offsets.
    pub(super) fn finish(mut self) -> Result<(Evidence, Vec<String>, Fleet)> {
        let sent = self.load.stop()?;
        self.load.end_hosts()?;
        let mut wrong = open_transactions(&self.client)?;
        wrong.extend(offsets(&self.client)?);
        let evidence = Evidence {
            sent,
            inputs: self.client.read_all("IN")?,
            lines: self.client.read_all("LINES")?,
            audit: self.client.read_all("AUDIT")?,
            dead_letters: self.client.read_all(&dead_letters_topic())?,
            changelog: self.client.read_all(&changelog())?,
        };
        Ok((evidence, wrong, self.load.fleet))
    }
}

/// Partitions with an open transaction: their last stable offset is below their high watermark. All hosts are gone, and
/// a transaction ends after 10 s, so none may stay open.
fn open_transactions(client: &Client) -> Result<Vec<String>> {
    let topics = ["LINES", "AUDIT", &dead_letters_topic(), &changelog(), &repartition_topic(), "__consumer_offsets"];
    let open = || -> Result<Vec<String>> {
        let mut open = Vec::new();
        for topic in topics {
            let stable = client.ends(topic, true)?;
            let high = client.ends(topic, false)?;
            for (partition, (stable, high)) in stable.into_iter().zip(high).enumerate() {
                if stable != high {
                    open.push(format!("a transaction is open in {topic}[{partition}]: {stable} of {high}"));
                }
            }
        }
        Ok(open)
    };
    // Each transaction that ends is progress.
    let mut stall = Stall::new(Vec::new());
    loop {
        let open = open()?;
        if open.is_empty() || stall.check(open.clone()).is_err() {
            return Ok(open);
        }
    }
}

/// The partitions where the group's committed offset does not follow the last record.
fn offsets(client: &Client) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    let repartition_topic = repartition_topic();
    for (topic, partitions) in [("IN", PARTITIONS), (&repartition_topic, SHARDS)] {
        let ends = client.ends(topic, true)?;
        let left = client.read_all(topic)?;
        for partition in 0..partitions {
            let index = usize::try_from(partition)?;
            let of = left.iter().filter(|record| record.partition == Some(partition));
            let last = of.filter_map(|record| record.offset).max().map_or(0, |offset| offset + 1);
            let committed = client.committed(APP, topic)?[index];
            let end = ends[index];
            // Transaction markers take offsets too, and the host deletes processed records of the repartition topic.
            if !committed.is_some_and(|offset| (last..=end).contains(&offset)) && end > 0 {
                wrong.push(format!("the offset of {topic}[{partition}] is {committed:?}, not from {last} to {end}"));
            }
        }
    }
    Ok(wrong)
}

fn dead_letters_topic() -> String {
    format!("{APP}-switchboard-dead-letters")
}

fn changelog() -> String {
    format!("{APP}-switchboard-changelog")
}

fn repartition_topic() -> String {
    format!("{APP}-switchboard-repartition")
}
