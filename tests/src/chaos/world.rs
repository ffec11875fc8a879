//! All that faults are made in: a cluster of three brokers, hosts that reach it through proxies, a generator and a witness
//! that reach it past them.

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
use crate::proxy::{Held, Network};
use crate::under_load::UnderLoad;
use crate::witness::Witness;

pub(super) const BROKERS: usize = 3;
/// The hosts 0, 1 and up to here run always; this one comes and goes.
pub(super) const SPARE: usize = 2;
/// Two have a stable name, so that a restart goes on at once; the spare one has none.
const INSTANCES: [Option<&str>; SPARE + 1] = [Some("left"), Some("right"), None];

const APP: &str = "chaos";
const PARTITIONS: i32 = 6;
const SHARDS: i32 = 8;
/// At most 200 inputs a second.
const PACE: Pace = Pace { burst: 20, every: Duration::from_millis(100) };
/// The most inputs that are sent and not settled: what comes in two seconds at that pace.
const WINDOW: u64 = 400;
/// A fault begins when at least this many inputs are in flight.
const IN_FLIGHT: u64 = PACE.burst as u64;
/// A fault lasts until at least this many inputs were under it: in flight when it began, or sent before it ended.
pub(super) const UNDER_A_FAULT: u64 = 100;
/// Between two looks at whether a request was caught.
const LOOK: Duration = Duration::from_millis(100);

const _: () = assert!(WINDOW >= UNDER_A_FAULT, "else a fault that stops everything would never end");

/// Small transactions, so that many are under way; a session that ends soon; dead connections that are noticed soon.
const ARGUMENTS: [&str; 18] = [
    "--tenant-header",
    "TENANT=text",
    "--shards",
    "8",
    "--workers",
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

pub(super) struct World {
    pub(super) load: UnderLoad<Input>,
    pub(super) network: Network,
    _witness: Witness,
    client: Client,
    /// Whether the spare host runs.
    pub(super) spare: bool,
    /// Requests held back, and those of them that a broker answered late.
    pub(super) late: (usize, usize),
}

impl World {
    /// Starts everything, with data and logs in `directory`; inputs are settled already when this returns.
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
            arguments: ARGUMENTS.map(str::to_owned).to_vec(),
        };
        let mut fleet = Fleet::new(setup, &INSTANCES)?;
        (0..SPARE).try_for_each(|host| fleet.start(host))?;
        client.wait_for_topic(&letters(), true).context("waiting for the hosts to create their topics")?;
        let witness = Witness::start(kafka.bootstrap(), ("LINES", PARTITIONS), &letters(), &[], |_| ())?;
        let settled = witness.settled();
        let window = Window { settled: settled.clone(), in_flight: WINDOW };
        let generator = Generator::start_closed(kafka.bootstrap(), "IN", Mix::new(seed, PARTITIONS), PACE, window)?;
        let mut load = UnderLoad { fleet, kafka, generator, settled };
        load.settle_more(UNDER_A_FAULT)?;
        Ok(Self { load, network, _witness: witness, client, spare: false, late: (0, 0) })
    }

    /// Waits until a request is held back, while all others go on.
    pub(super) fn wait_for_held(&mut self, held: &Held) -> Result<()> {
        progress::wait_until("the request that is to be held back", || {
            self.load.look()?;
            Ok(held.wait(LOOK).is_ok())
        })
    }

    /// Waits until the load is such that a fault may begin; returns how many inputs are settled.
    pub(super) fn begin_under_load(&mut self) -> Result<u64> {
        self.load.wait_for_in_flight(IN_FLIGHT)?;
        Ok(self.load.settled.count())
    }

    /// Stops the generator, waits until all is settled, ends the hosts well, and gathers what is there. What is not as it
    /// must be beyond that is told.
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
            letters: self.client.read_all(&letters())?,
            changelog: self.client.read_all(&changelog())?,
        };
        Ok((evidence, wrong, self.load.fleet))
    }
}

/// Partitions with an open transaction: their last stable offset does not come up to their high watermark. All hosts are gone,
/// and a transaction ends after 10 s, so none stays open.
fn open_transactions(client: &Client) -> Result<Vec<String>> {
    let topics = ["LINES", "AUDIT", &letters(), &changelog(), &shards(), "__consumer_offsets"];
    let open = || -> Result<Vec<String>> {
        let mut open = Vec::new();
        for topic in topics {
            let (stable, high) = (client.ends(topic, true)?, client.ends(topic, false)?);
            for (partition, (stable, high)) in stable.into_iter().zip(high).enumerate() {
                if stable != high {
                    open.push(format!("a transaction is open in {topic}[{partition}]: {stable} of {high}"));
                }
            }
        }
        Ok(open)
    };
    // Each that ends is progress.
    let mut stall = Stall::new(Vec::new());
    loop {
        let open = open()?;
        if open.is_empty() || stall.check(open.clone()).is_err() {
            return Ok(open);
        }
    }
}

/// Where the group's offsets are not behind the last record.
fn offsets(client: &Client) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    let shards = shards();
    for (topic, partitions) in [("IN", PARTITIONS), (&shards, SHARDS)] {
        let ends = client.ends(topic, true)?;
        let left = client.read_all(topic)?;
        for partition in 0..partitions {
            let place = usize::try_from(partition)?;
            let of = left.iter().filter(|record| record.partition == Some(partition));
            let last = of.filter_map(|record| record.offset).max().map_or(0, |offset| offset + 1);
            let committed = client.committed(APP, topic)?[place];
            // Control records take offsets too, and processed records of shards are deleted.
            if !committed.is_some_and(|offset| (last..=ends[place]).contains(&offset)) && ends[place] > 0 {
                let end = ends[place];
                wrong.push(format!("the offset of {topic}[{partition}] is {committed:?}, not from {last} to {end}"));
            }
        }
    }
    Ok(wrong)
}

fn letters() -> String {
    format!("{APP}-switchboard-dead-letters")
}

fn changelog() -> String {
    format!("{APP}-switchboard-changelog")
}

fn shards() -> String {
    format!("{APP}-switchboard-repartition")
}
