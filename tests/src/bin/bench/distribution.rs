//! What each host owns after hosts have joined, left, been killed and been restarted, under load.

use std::time::Instant;

use anyhow::Result;
use switchboard_tests::app::App;
use switchboard_tests::host::Host;
use switchboard_tests::kafka::{Kafka, Options};

use crate::Args;
use crate::clients::STALL_LIMIT;
use crate::engine::Engine;
use crate::feed::{Feed, Keys};
use crate::ownership::{Distribution, Layout};

/// The values of the brokers' `group.initial.rebalance.delay.ms`: that of tests, and Kafka's default.
const DELAYS_MS: [&str; 2] = ["0", "3000"];
const PROTOCOLS: [&str; 2] = ["classic", "consumer"];
const LAYOUTS: [Layout; 2] =
    [Layout { shards: 8, partitions: 8, topics: 3 }, Layout { shards: 16, partitions: 16, topics: 3 }];
/// The number of commands of each tenant in flight: the hosts are busy, and the machine is not.
const WINDOW: u64 = 2;
/// A host is busy when this many commands were settled.
const BUSY: u64 = 1000;

pub(crate) fn run(args: &Args) -> Result<()> {
    println!();
    println!(
        "{:<80} {:>9} {:>12} {:>13}  hosts: shards/sources by topic",
        "distribution", "after", "least shards", "least sources"
    );
    for delay in DELAYS_MS {
        let kinds = PROTOCOLS.iter().flat_map(|protocol| LAYOUTS.map(|layout| (*protocol, layout)));
        let kinds =
            kinds.map(|(protocol, layout)| (format!("{protocol}, delay {delay} ms, {layout}"), protocol, layout));
        let kinds: Vec<_> = kinds.filter(|(name, ..)| name.contains(&args.way)).collect();
        if kinds.is_empty() {
            continue;
        }
        let properties = vec![("group.initial.rebalance.delay.ms".to_owned(), delay.to_owned())];
        let kafka = Kafka::start_with(&Options { properties, ..Options::default() })?;
        for (name, protocol, layout) in kinds {
            Situations::start(&kafka, name, protocol, layout, args)?.run(&kafka)?;
        }
    }
    Ok(())
}

/// An application whose hosts come and go.
struct Situations {
    name: String,
    layout: Layout,
    app: App,
    flags: Vec<String>,
    hosts: Vec<Host>,
    /// The number of hosts that were started.
    started: usize,
    /// When hosts changed last.
    changed: Instant,
}

impl Situations {
    fn start(kafka: &Kafka, name: String, protocol: &str, layout: Layout, args: &Args) -> Result<Self> {
        let engine = Engine::new()?;
        let app = App::messenger_on(kafka, "spread", layout.partitions)?.arg("--shards", &layout.shards.to_string());
        let app = engine.runs(app).arg("--group-protocol", protocol);
        let flags = engine.single_member_flags(args);
        let mut situations = Self { name, layout, app, flags, hosts: Vec::new(), started: 0, changed: Instant::now() };
        situations.join()?;
        Ok(situations)
    }

    fn run(mut self, kafka: &Kafka) -> Result<()> {
        self.report("the first host starts")?;
        let feed = Feed::start(kafka, &self.app, self.layout, Keys::Character, WINDOW)?;
        feed.settle(BUSY)?;
        self.join()?;
        self.report("a second host joins")?;
        feed.settle(BUSY)?;
        self.join()?;
        self.report("a third host joins")?;
        feed.settle(BUSY)?;
        self.leave(1)?;
        self.report("one host leaves")?;
        feed.settle(BUSY)?;
        self.join()?;
        self.report("and another one joins")?;
        feed.settle(BUSY)?;
        self.changed = Instant::now();
        self.hosts.remove(0).kill()?;
        self.join()?;
        self.report("one is killed and started again")?;
        feed.settle(BUSY)?;
        for _ in 0..self.hosts.len() {
            self.leave(0)?;
            self.join()?;
            let newest = &self.hosts[self.hosts.len() - 1];
            newest.wait_for("it runs", STALL_LIMIT, |line| line.contains("host is running"))?;
        }
        self.report("each is restarted in turn")?;
        feed.settle(BUSY)?;
        feed.stop()?;
        let count = self.hosts.len();
        while !self.hosts.is_empty() {
            self.leave(0)?;
        }
        for _ in 0..count {
            self.join()?;
        }
        self.report("all start together")?;
        while !self.hosts.is_empty() {
            self.leave(0)?;
        }
        Ok(())
    }

    /// Starts a host, and does not wait for it.
    fn join(&mut self) -> Result<()> {
        self.started += 1;
        self.changed = Instant::now();
        let flags: Vec<_> = self.flags.iter().map(String::as_str).collect();
        self.hosts.push(self.app.start(&format!("host-{}", self.started), &flags)?);
        Ok(())
    }

    /// Ends a host (SIGTERM).
    fn leave(&mut self, index: usize) -> Result<()> {
        self.changed = Instant::now();
        self.hosts.remove(index).terminate(STALL_LIMIT).map(drop)
    }

    /// Waits for the final distribution, and prints a row.
    fn report(&self, situation: &str) -> Result<()> {
        let distribution = Distribution::settled(&self.hosts.iter().collect::<Vec<_>>(), self.layout)?;
        let (shards, sources) = distribution.least_shares(self.layout)?;
        println!(
            "{:<80} {:>7.1} s {shards:>12.2} {sources:>13.2}  {distribution}",
            format!("{}: {situation}", self.name),
            self.changed.elapsed().as_secs_f64()
        );
        Ok(())
    }
}
