//! All that swaps are made in: a broker, hosts, inputs, a reader, and who types the commands.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
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
use crate::generator::{Generator, Pace};
use crate::kafka::{self, Kafka};

pub(super) const APP: &str = "soak";
/// Two have a stable name, so that a restart goes on at once; the third comes and goes, and has none.
const INSTANCES: [Option<&str>; 3] = [Some("left"), Some("right"), None];
/// Lives through all swaps.
pub(super) const STAYING: usize = 0;
/// Is killed now and then.
const KILLED: usize = 1;
const GUEST: usize = 2;
/// How long everything may take to be settled.
const PATIENCE: Duration = Duration::from_mins(2);
/// Between two looks at whether all hosts live.
const LOOK: Duration = Duration::from_millis(50);
/// Bursts of inputs.
const BURSTS: usize = 100;
const ARGUMENTS: [&str; 6] = ["--tenant-header", "TENANT=text", "--shards", "8", "--session-timeout-ms", "6000"];

pub(super) struct World {
    random: Rng,
    fleet: Fleet,
    kafka: Kafka,
    client: Client,
    generator: Generator<Input>,
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
        let generator = Generator::start(kafka.bootstrap(), "IN", load::inputs(), pace)?;
        let swaps = Swaps::new(APP, kafka.bootstrap(), artifacts, options.seed, options.fresh);
        let random = Rng::with_seed(!options.seed);
        let mut world = Self { random, fleet, kafka, client, generator, watch, swaps, awaited: Vec::new() };
        world.pass(Duration::from_secs(1))?;
        world.settle()?;
        Ok(world)
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
        self.pass(Duration::from_secs(1))?;
        self.settle().map(drop)
    }

    /// One command; while it runs a host is killed, and started again.
    pub(super) fn swap_in_spite_of_a_kill(&mut self) -> Result<()> {
        let running = self.swaps.begin()?;
        self.pass_up_to(300)?;
        self.fleet.kill(KILLED)?;
        self.pass_up_to(300)?;
        self.fleet.start(KILLED)?;
        self.finish_swap(running)
    }

    fn finish_swap(&mut self, running: Running) -> Result<()> {
        match self.swaps.end(running)? {
            End::Done => {}
            End::Awaited(change) => self.awaited.push(Awaited { id: self.generator.sent(), change }),
            End::Failed => {
                self.settle()?;
                self.swaps.learn(&self.watch.seen().versions.control)?;
            }
        }
        self.look()
    }

    /// A further host starts.
    pub(super) fn join(&mut self) -> Result<()> {
        self.fleet.start(GUEST)
    }

    /// It ends.
    pub(super) fn leave(&mut self) -> Result<()> {
        self.fleet.terminate(GUEST);
        self.fleet.wait(GUEST)
    }

    /// Resident memory of the two hosts that always run, in bytes.
    pub(super) fn memory(&self) -> Result<Vec<u64>> {
        [STAYING, KILLED].iter().map(|host| self.fleet.memory(*host)).collect()
    }

    /// Lets a time pass that the seed has, in milliseconds.
    pub(super) fn pass_up_to(&mut self, most: u64) -> Result<()> {
        let time = Duration::from_millis(self.random.u64(0..most));
        self.pass(time)
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
        while !self.watch.witness.wait_for(sent, LOOK) {
            self.look()?;
            if started.elapsed() > PATIENCE {
                let missing = self.watch.witness.missing(sent);
                let (count, few) = (missing.len(), &missing[..missing.len().min(5)]);
                bail!("{count} of {sent} inputs are not settled after {PATIENCE:?}: {few:?} ...");
            }
        }
        Ok(started.elapsed())
    }

    fn look(&mut self) -> Result<()> {
        self.fleet.supervise()?;
        self.kafka.check()?;
        let twice = self.watch.witness.twice();
        ensure!(twice.is_empty(), "{}", twice.join("; "));
        Ok(())
    }

    /// Stops the generator, waits until all is settled, ends the hosts, and gathers what is there. Told is what is not as it
    /// must be beyond that.
    pub(super) fn finish(mut self) -> Result<(Evidence, Swaps, Fleet, Vec<String>)> {
        let sent = self.generator.stop()?.len() as u64;
        let started = Instant::now();
        while !self.watch.witness.wait_for(sent, LOOK) {
            self.fleet.supervise()?;
            ensure!(started.elapsed() < PATIENCE, "the last of {sent} inputs are not settled after {PATIENCE:?}");
        }
        for host in [STAYING, KILLED, GUEST] {
            self.fleet.terminate(host);
        }
        for host in [STAYING, KILLED, GUEST] {
            self.fleet.wait(host)?;
        }
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
        Ok((evidence, self.swaps, self.fleet, wrong))
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
