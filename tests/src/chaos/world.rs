//! All that faults are made in: a cluster of three brokers, hosts that reach it through proxies, a generator and a witness
//! that reach it past them.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::check::Evidence;
use super::mix::{Input, Mix};
use crate::client::Client;
use crate::fleet::{Fleet, Setup};
use crate::generator::{Generator, Pace};
use crate::host::ledger;
use crate::kafka::{Kafka, Options, free_port};
use crate::proxy::Network;
use crate::witness::Witness;

pub(super) const BROKERS: usize = 3;
/// The hosts 0, 1 and up to here run always; this one comes and goes.
pub(super) const SPARE: usize = 2;
/// Two have a stable name, so that a restart goes on at once; the spare one has none.
const INSTANCES: [Option<&str>; SPARE + 1] = [Some("left"), Some("right"), None];

const APP: &str = "chaos";
const PARTITIONS: i32 = 6;
const SHARDS: i32 = 8;
/// 200 inputs a second.
const PACE: Pace = Pace { burst: 20, every: Duration::from_millis(100) };
/// How long everything may take to be settled once nothing is wrong any more.
pub(super) const RECOVERY: Duration = Duration::from_mins(2);
/// Between two looks at whether all hosts live.
const LOOK: Duration = Duration::from_millis(100);

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
    pub(super) fleet: Fleet,
    pub(super) network: Network,
    pub(super) kafka: Kafka,
    pub(super) generator: Generator<Input>,
    pub(super) witness: Witness,
    pub(super) client: Client,
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
        let generator = Generator::start(kafka.bootstrap(), "IN", Mix::new(seed, PARTITIONS), PACE)?;
        let mut world = Self { fleet, network, kafka, generator, witness, client, spare: false, late: (0, 0) };
        world.pass(Duration::from_millis(500))?;
        world.settle()?;
        Ok(world)
    }

    /// Lets time pass.
    pub(super) fn pass(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            thread::sleep(left.min(LOOK));
            self.look()?;
        }
        Ok(())
    }

    /// Waits until all that was sent up to now is settled, and returns how long that took.
    pub(super) fn settle(&mut self) -> Result<Duration> {
        let (started, sent) = (Instant::now(), self.generator.sent());
        while !self.witness.wait_for(sent, LOOK) {
            self.look()?;
            if started.elapsed() > RECOVERY {
                let missing = self.witness.missing(sent);
                bail!(
                    "{} of {sent} inputs are not settled after {RECOVERY:?}: {:?} ...",
                    missing.len(),
                    &missing[..missing.len().min(5)]
                );
            }
        }
        Ok(started.elapsed())
    }

    fn look(&mut self) -> Result<()> {
        self.fleet.supervise()?;
        self.kafka.check()?;
        let twice = self.witness.twice();
        ensure!(twice.is_empty(), "{}", twice.join("; "));
        Ok(())
    }

    /// Stops the generator, waits until all is settled, ends the hosts well, and gathers what is there. What is not as it
    /// must be beyond that is told.
    pub(super) fn finish(mut self) -> Result<(Evidence, Vec<String>, Fleet)> {
        self.settle()?;
        let inputs = self.generator.sent();
        let sent = self.generator.stop()?;
        let started = Instant::now();
        while !self.witness.wait_for(sent.len() as u64, LOOK) {
            self.fleet.supervise()?;
            ensure!(started.elapsed() < RECOVERY, "the last of {inputs} inputs are not settled after {RECOVERY:?}");
        }
        for host in 0..self.fleet.len() {
            self.fleet.terminate(host);
        }
        for host in 0..self.fleet.len() {
            self.fleet.wait(host)?;
        }
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
        Ok((evidence, wrong, self.fleet))
    }
}

/// Partitions with an open transaction: their last stable offset does not come up to their high watermark, though all
/// hosts are gone and a transaction ends after 10 s.
fn open_transactions(client: &Client) -> Result<Vec<String>> {
    let deadline = Instant::now() + Duration::from_mins(1);
    let topics = ["LINES", "AUDIT", &letters(), &changelog(), &shards(), "__consumer_offsets"];
    loop {
        let mut open = Vec::new();
        for topic in topics {
            let (stable, high) = (client.ends(topic, true)?, client.ends(topic, false)?);
            for (partition, (stable, high)) in stable.into_iter().zip(high).enumerate() {
                if stable != high {
                    open.push(format!("a transaction is open in {topic}[{partition}]: {stable} of {high}"));
                }
            }
        }
        if open.is_empty() || Instant::now() > deadline {
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
