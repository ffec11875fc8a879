//! The world in which releases are swapped: a broker, hosts, inputs, a reader, and the commands.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use fastrand::Rng;
use switchboard_core::routing::LastRun;

use super::Options;
use super::artifacts::Artifacts;
use super::check::{Awaited, Evidence};
use super::load::{self, Input, PARTITIONS};
use super::swaps::{End, Running, SwapKind, Swaps};
use super::watch::{TopicWatch, WatchedTopics};
use crate::client::Client;
use crate::fleet::{Fleet, Setup};
use crate::generator::{Generator, Pace, Window};
use crate::kafka::{self, Kafka};
use crate::progress;
use crate::under_load::UnderLoad;

pub(super) const APP: &str = "soak";
/// The process instance of each host. Two have one, so that a restart continues at once. The guest has none.
const INSTANCES: [Option<&str>; 3] = [Some("left"), Some("right"), None];
/// The number of the host that runs all the time.
pub(super) const PERMANENT_HOST: usize = 0;
/// The number of the host that the test kills.
const KILLED_HOST: usize = 1;
/// The number of the host that joins and leaves.
const GUEST_HOST: usize = 2;
/// The maximum number of bursts of inputs a second.
const MAX_BURSTS_PER_SECOND: usize = 100;
/// The minimum number of inputs that are settled from the begin of a swap to the begin of the next.
pub(super) const MIN_SETTLED_PER_SWAP: u64 = 2 * load::TENANTS as u64;
const HOST_FLAGS: [&str; 6] = ["--tenant-header", "TENANT=text", "--shards", "8", "--session-timeout-ms", "6000"];

/// The world of a run.
pub(super) struct World {
    random: Rng,
    load: UnderLoad<Input>,
    /// The maximum number of inputs a second.
    rate: u64,
    client: Client,
    watch: TopicWatch,
    swaps: Swaps,
    awaited: Vec<Awaited>,
}

impl World {
    /// Starts everything, and waits until the first inputs are settled.
    pub(super) fn start(options: &Options) -> Result<Self> {
        let directory = &options.directory;
        let kafka = Kafka::start_with(&kafka::Options {
            data: Some(directory.join("kafka")),
            optimised: true,
            heap_mib: 1024,
            ..kafka::Options::default()
        })?;
        let client = kafka.client()?;
        client.create_topic("IN", PARTITIONS, &[])?;
        client.create_topic("LINES", PARTITIONS, &[("message.timestamp.type", "LogAppendTime")])?;
        client.create_topic("AUDIT", 1, &[])?;
        let mut artifacts = Artifacts::new(&directory.join("artifacts"))?;
        let base = artifacts.make()?;
        artifacts.make()?;
        let setup = Setup {
            app: APP.to_owned(),
            bootstrap: kafka.bootstrap().to_owned(),
            plugin: artifacts.path(base),
            directory: directory.join("hosts"),
            arguments: HOST_FLAGS.map(str::to_owned).to_vec(),
        };
        let mut fleet = Fleet::new(setup, &INSTANCES)?;
        fleet.start(PERMANENT_HOST)?;
        fleet.start(KILLED_HOST)?;
        let topics = WatchedTopics {
            lines: "LINES".to_owned(),
            partitions: PARTITIONS,
            dead_letters: format!("{APP}-switchboard-dead-letters"),
            control: format!("{APP}-switchboard-control"),
        };
        for topic in [&topics.dead_letters, &topics.control] {
            client.wait_for_topic(topic, true).context("waiting for the hosts to create their topics")?;
        }
        let watch = TopicWatch::start(kafka.bootstrap(), &topics)?;
        let every = Duration::from_secs(1) / u32::try_from(MAX_BURSTS_PER_SECOND)?;
        let pace = Pace { burst: options.rate / MAX_BURSTS_PER_SECOND, every };
        let settled = watch.witness.settled();
        let rate = options.rate as u64;
        // The inputs of half a second at that rate.
        let window = Window { settled: settled.clone(), in_flight: rate / 2 };
        let generator = Generator::start_closed(kafka.bootstrap(), "IN", load::inputs(), pace, window)?;
        let swaps = Swaps::new(APP, kafka.bootstrap(), artifacts, options.seed, options.fresh);
        let random = Rng::with_seed(!options.seed);
        let mut load = UnderLoad { fleet, kafka, generator, settled };
        load.settle_more(rate)?;
        Ok(Self { random, load, rate, client, watch, swaps, awaited: Vec::new() })
    }

    /// Runs one command.
    pub(super) fn swap(&mut self) -> Result<()> {
        let running = self.swaps.begin()?;
        self.finish_swap(running)
    }

    /// Runs one command, and waits until all inputs are settled after it.
    pub(super) fn last_swap(&mut self) -> Result<()> {
        let running = self.swaps.begin_with(SwapKind::DeployAndWait)?;
        self.finish_swap(running)?;
        self.load.settle_more(self.rate)?;
        self.settle().map(drop)
    }

    /// Runs one command. Meanwhile kills a host and restarts it.
    pub(super) fn swap_during_a_kill(&mut self) -> Result<()> {
        let running = self.swaps.begin()?;
        self.pass_up_to(300)?;
        self.load.fleet.kill(KILLED_HOST)?;
        self.pass_up_to(300)?;
        self.load.fleet.start(KILLED_HOST)?;
        self.finish_swap(running)
    }

    fn finish_swap(&mut self, mut running: Running) -> Result<()> {
        progress::wait_until(&format!("the end of {running}"), || {
            self.load.look()?;
            running.has_ended()
        })?;
        match self.swaps.end(running)? {
            End::Done => {}
            End::Awaited(change) => self.awaited.push(Awaited { id: self.load.generator.sent(), change }),
            End::Failed => {
                self.settle()?;
                self.swaps.learn(&self.watch.seen().versions.control)?;
            }
        }
        self.load.look()
    }

    /// Starts a further host.
    pub(super) fn join(&mut self) -> Result<()> {
        self.load.fleet.start(GUEST_HOST)
    }

    /// Ends the further host, after it has been assigned partitions.
    pub(super) fn leave(&mut self) -> Result<()> {
        self.load.wait_for_hosts()?;
        self.load.fleet.terminate(GUEST_HOST);
        self.load.fleet.wait(GUEST_HOST)
    }

    /// The resident memory of the two hosts that always run, in bytes.
    pub(super) fn memory(&self) -> Result<Vec<u64>> {
        [PERMANENT_HOST, KILLED_HOST].iter().map(|host| self.load.fleet.memory(*host)).collect()
    }

    /// Waits for a time that the seed draws: the duration of a fault.
    fn pass_up_to(&mut self, most_ms: u64) -> Result<()> {
        let time = Duration::from_millis(self.random.u64(0..most_ms));
        self.load.pass(time)
    }

    /// The number of inputs that are settled so far.
    pub(super) fn settled(&self) -> u64 {
        self.load.settled.count()
    }

    /// Waits until further inputs are settled: as many as the seed draws, and at least [`MIN_SETTLED_PER_SWAP`] since
    /// `begin`.
    pub(super) fn rest(&mut self, begin: u64) -> Result<()> {
        let drawn = self.random.u64(0..self.rate / 5);
        let owed = (begin + MIN_SETTLED_PER_SWAP).saturating_sub(self.settled());
        self.load.settle_more(drawn.max(owed))
    }

    /// Waits until all inputs that have been sent are settled, and returns how long that took.
    pub(super) fn settle(&mut self) -> Result<Duration> {
        self.load.settle()
    }

    /// Stops the generator, waits until all inputs are settled, ends the hosts, and collects the evidence. Also returns
    /// records that must not exist.
    pub(super) fn finish(mut self) -> Result<(Evidence, Swaps, Fleet, Vec<String>)> {
        let sent = self.load.stop()?.len() as u64;
        self.load.end_hosts()?;
        let last_runs = last_runs(&self.client)?;
        let mut seen = self.watch.seen();
        let wrong = std::mem::take(&mut seen.wrong);
        let evidence = Evidence {
            sent,
            outputs: std::mem::take(&mut seen.outputs),
            versions: std::mem::take(&mut seen.versions.list),
            releases: self.swaps.artifacts.digests().to_vec(),
            base: 0,
            awaited: self.awaited,
            last_runs,
        };
        drop(seen);
        Ok((evidence, self.swaps, self.load.fleet, wrong))
    }
}

/// The last run of each tenant, from the changelog.
fn last_runs(client: &Client) -> Result<BTreeMap<usize, LastRun>> {
    let mut last_runs = BTreeMap::new();
    for record in client.read_all(&format!("{APP}-switchboard-changelog"))? {
        let key = String::from_utf8_lossy(record.key.as_deref().unwrap_or_default()).into_owned();
        let Some((tenant, key)) = key.split_once('\0') else { continue };
        if let (Some(tenant), LastRun::KEY, Some(value)) = (load::tenant(tenant), key, record.value) {
            let entry = LastRun::decode(&value).with_context(|| format!("the entry of {}", load::name(tenant)))?;
            last_runs.insert(tenant, entry);
        }
    }
    Ok(last_runs)
}
