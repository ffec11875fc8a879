//! All that swaps are made in: a broker, hosts, inputs, a reader, and who types the commands.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use fastrand::Rng;
use switchboard_core::routing::LastRun;

use super::Options;
use super::artifacts::Artifacts;
use super::check::{Awaited, Evidence};
use super::load::{self, Input, PARTITIONS};
use super::swaps::{End, Kind, Running, Swaps};
use super::watch::{Topics, Watch};
use crate::client::Client;
use crate::fleet::{Fleet, Setup};
use crate::generator::{Generator, Pace, Window};
use crate::kafka::{self, Kafka};
use crate::progress;
use crate::under_load::UnderLoad;

pub(super) const APP: &str = "soak";
/// Two have a stable name, so that a restart goes on at once; the third comes and goes, and has none.
const INSTANCES: [Option<&str>; 3] = [Some("left"), Some("right"), None];
/// Lives through all swaps.
pub(super) const STAYING: usize = 0;
/// Is killed now and then.
const KILLED: usize = 1;
const GUEST: usize = 2;
/// Bursts of inputs, each second at most.
const BURSTS: usize = 100;
/// At least this many inputs are settled between the begin of a swap and that of the next.
pub(super) const A_SWAP: u64 = 2 * load::TENANTS as u64;
const ARGUMENTS: [&str; 6] = ["--tenant-header", "TENANT=text", "--shards", "8", "--session-timeout-ms", "6000"];

pub(super) struct World {
    random: Rng,
    load: UnderLoad<Input>,
    /// The most inputs a second.
    rate: u64,
    client: Client,
    watch: Watch,
    swaps: Swaps,
    awaited: Vec<Awaited>,
}

impl World {
    /// Starts everything; inputs are settled already when this returns.
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
            arguments: ARGUMENTS.map(str::to_owned).to_vec(),
        };
        let mut fleet = Fleet::new(setup, &INSTANCES)?;
        fleet.start(STAYING)?;
        fleet.start(KILLED)?;
        let topics = Topics {
            lines: "LINES".to_owned(),
            partitions: PARTITIONS,
            letters: format!("{APP}-switchboard-dead-letters"),
            control: format!("{APP}-switchboard-control"),
        };
        for topic in [&topics.letters, &topics.control] {
            client.wait_for_topic(topic, true).context("waiting for the hosts to create their topics")?;
        }
        let watch = Watch::start(kafka.bootstrap(), &topics)?;
        let every = Duration::from_secs(1) / u32::try_from(BURSTS)?;
        let pace = Pace { burst: options.rate / BURSTS, every };
        let settled = watch.witness.settled();
        let rate = options.rate as u64;
        // What comes in half a second at that rate.
        let window = Window { settled: settled.clone(), in_flight: rate / 2 };
        let generator = Generator::start_closed(kafka.bootstrap(), "IN", load::inputs(), pace, window)?;
        let swaps = Swaps::new(APP, kafka.bootstrap(), artifacts, options.seed, options.fresh);
        let random = Rng::with_seed(!options.seed);
        let mut load = UnderLoad { fleet, kafka, generator, settled };
        load.settle_more(rate)?;
        Ok(Self { random, load, rate, client, watch, swaps, awaited: Vec::new() })
    }

    /// One command.
    pub(super) fn swap(&mut self) -> Result<()> {
        let running = self.swaps.begin()?;
        self.finish_swap(running)
    }

    /// One command, and that all that was sent is settled afterwards by what it has come to.
    pub(super) fn last_swap(&mut self) -> Result<()> {
        let running = self.swaps.begin_with(Kind::DeployAndWait)?;
        self.finish_swap(running)?;
        self.load.settle_more(self.rate)?;
        self.settle().map(drop)
    }

    /// One command; while it runs a host is killed, and started again.
    pub(super) fn swap_in_spite_of_a_kill(&mut self) -> Result<()> {
        let running = self.swaps.begin()?;
        self.pass_up_to(300)?;
        self.load.fleet.kill(KILLED)?;
        self.pass_up_to(300)?;
        self.load.fleet.start(KILLED)?;
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

    /// A further host starts.
    pub(super) fn join(&mut self) -> Result<()> {
        self.load.fleet.start(GUEST)
    }

    /// It ends, once it has taken part.
    pub(super) fn leave(&mut self) -> Result<()> {
        self.load.wait_for_hosts()?;
        self.load.fleet.terminate(GUEST);
        self.load.fleet.wait(GUEST)
    }

    /// Resident memory of the two hosts that always run, in bytes.
    pub(super) fn memory(&self) -> Result<Vec<u64>> {
        [STAYING, KILLED].iter().map(|host| self.load.fleet.memory(*host)).collect()
    }

    /// Lets a time pass that the seed has, in milliseconds: for how long a fault lasts.
    fn pass_up_to(&mut self, most: u64) -> Result<()> {
        let time = Duration::from_millis(self.random.u64(0..most));
        self.load.pass(time)
    }

    /// Inputs that are settled so far.
    pub(super) fn settled(&self) -> u64 {
        self.load.settled.count()
    }

    /// Waits until further inputs are settled: as many as the seed has, and [`A_SWAP`] at least since `begin` were settled.
    pub(super) fn rest(&mut self, begin: u64) -> Result<()> {
        let drawn = self.random.u64(0..self.rate / 5);
        let owed = (begin + A_SWAP).saturating_sub(self.settled());
        self.load.settle_more(drawn.max(owed))
    }

    /// Waits until all that was sent up to now is settled, and returns how long that took.
    pub(super) fn settle(&mut self) -> Result<Duration> {
        self.load.settle()
    }

    /// Stops the generator, waits until all is settled, ends the hosts, and gathers what is there. Told is what is not as it
    /// must be beyond that.
    pub(super) fn finish(mut self) -> Result<(Evidence, Swaps, Fleet, Vec<String>)> {
        let sent = self.load.stop()?.len() as u64;
        self.load.end_hosts()?;
        let ran = ran(&self.client)?;
        let mut seen = self.watch.seen();
        let wrong = std::mem::take(&mut seen.wrong);
        let evidence = Evidence {
            sent,
            outputs: std::mem::take(&mut seen.outputs),
            versions: std::mem::take(&mut seen.versions.list),
            releases: self.swaps.artifacts.digests().to_vec(),
            base: 0,
            awaited: self.awaited,
            ran,
        };
        drop(seen);
        Ok((evidence, self.swaps, self.load.fleet, wrong))
    }
}

/// What each tenant ran under last, by its changelog.
fn ran(client: &Client) -> Result<BTreeMap<usize, LastRun>> {
    let mut ran = BTreeMap::new();
    for record in client.read_all(&format!("{APP}-switchboard-changelog"))? {
        let key = String::from_utf8_lossy(record.key.as_deref().unwrap_or_default()).into_owned();
        let Some((tenant, key)) = key.split_once('\0') else { continue };
        if let (Some(tenant), LastRun::KEY, Some(value)) = (load::tenant(tenant), key, record.value) {
            ran.insert(
                tenant,
                LastRun::decode(&value).with_context(|| format!("the entry of {}", load::name(tenant)))?,
            );
        }
    }
    Ok(ran)
}
