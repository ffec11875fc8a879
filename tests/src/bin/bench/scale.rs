//! Throughput of one application on one, two and three hosts, and what each host owns.
//!
//! Each host is held to a part of a core, so that the machine is not the limit.

use std::iter;
use std::time::Duration;

use anyhow::{Context as _, Result};
use switchboard_tests::app::App;
use switchboard_tests::host::Host;
use switchboard_tests::kafka::Kafka;

use crate::Args;
use crate::clients::{STALL_LIMIT, per_second};
use crate::comparison::median;
use crate::distribution;
use crate::engine::Engine;
use crate::feed::{Feed, Keys};
use crate::ownership::{Distribution, Layout};
use crate::quota::{Quota, Quotas};

const MOST_HOSTS: usize = 3;
/// As many partitions of each topic as shards.
const LAYOUT: Layout = Layout { shards: 16, partitions: 16, topics: 3 };
/// The share of a core that a host may use.
const CPU_SHARE: f64 = 0.25;
/// A host that used more was not held.
const MOST_CPU_SHARE: f64 = 1.2 * CPU_SHARE;
/// A host that used less was not the limit.
const LEAST_CPU_SHARE: f64 = 0.8 * CPU_SHARE;
/// The number of commands of each tenant in flight: enough for each host, whatever the others do.
const WINDOW: u64 = 1000;

pub(crate) fn run(kafka: &Kafka, args: &Args) -> Result<()> {
    println!();
    let quotas = Quotas::find();
    match &quotas {
        Ok(_) => println!("scale: each host is held to {CPU_SHARE} of a core"),
        Err(reason) => {
            println!("scale: NO CPU QUOTA can be set, so the machine limits the figures of several hosts ({reason:#})");
        }
    }
    let quotas = quotas.ok();
    for (name, keys) in [("keyed by tenant", Keys::Tenant), ("keyed by character", Keys::Character)] {
        println!();
        println!("{name}, {LAYOUT}; per host: shards/sources by topic, and cores used");
        println!(
            "{:>5} {:>12} {:>6} {:>12} {:>13}  hosts",
            "hosts", "settled", "ratio", "least shards", "least sources"
        );
        let mut ratios = vec![Vec::new(); MOST_HOSTS];
        for _ in 0..args.rounds {
            let rates = grow(kafka, keys, quotas.as_ref(), args)?;
            for (ratios, rate) in ratios.iter_mut().zip(&rates) {
                ratios.push(rate / rates[0]);
            }
        }
        for (hosts, ratios) in (1..).zip(&mut ratios).skip(1) {
            let ratio = median(ratios).context("no rounds")?;
            println!("{name}: {hosts} hosts do {ratio:.2} times the work of one (median of {})", args.rounds);
        }
    }
    distribution::run(args)
}

/// A host and its quota. The host ends first.
struct Held {
    host: Host,
    _quota: Option<Quota>,
}

/// Starts one host after the other while the load runs, and measures after each. Returns the records per second.
fn grow(kafka: &Kafka, keys: Keys, quotas: Option<&Quotas>, args: &Args) -> Result<Vec<f64>> {
    let engine = Engine::new()?;
    let app = App::messenger_on(kafka, "scale", LAYOUT.partitions)?.arg("--shards", &LAYOUT.shards.to_string());
    let app = engine.runs(app);
    let flags = engine.single_member_flags(args);
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let start = |number: usize| {
        let host = app.start(&format!("host-{number}"), &flags)?;
        let quota = quotas.map(|quotas| quotas.hold(&host, CPU_SHARE)).transpose()?;
        host.wait_for("it runs", STALL_LIMIT, |line| line.contains("host is running"))?;
        anyhow::Ok(Held { host, _quota: quota })
    };
    let mut hosts = vec![start(1)?];
    let feed = Feed::start(kafka, &app, LAYOUT, keys, WINDOW)?;
    let mut rates = Vec::new();
    while rates.len() < MOST_HOSTS {
        if !rates.is_empty() {
            hosts.push(start(hosts.len() + 1)?);
        }
        let distribution = Distribution::settled(&hosts.iter().map(|held| &held.host).collect::<Vec<_>>(), LAYOUT)?;
        // Caches are warm, and what a rebalance has held up is done.
        feed.settle(args.scale_records / 4)?;
        let before = cpu_times(&hosts)?;
        let time = feed.settle(args.scale_records)?;
        let used = cpu_times(&hosts)?.into_iter().zip(before).map(|(after, before)| after.saturating_sub(before));
        let cores: Vec<_> = used.map(|used| used.as_secs_f64() / time.as_secs_f64()).collect();
        let rate = per_second(usize::try_from(args.scale_records)?, time)?;
        rates.push(rate);
        report(&distribution, &rates, &cores)?;
        warn(&cores, quotas.is_some());
    }
    feed.stop()?;
    for held in &mut hosts {
        held.host.terminate(STALL_LIMIT)?;
    }
    Ok(rates)
}

fn cpu_times(hosts: &[Held]) -> Result<Vec<Duration>> {
    hosts.iter().map(|held| held.host.cpu_time()).collect()
}

/// Prints the row of the last rate.
fn report(distribution: &Distribution, rates: &[f64], cores: &[f64]) -> Result<()> {
    let rate = rates[rates.len() - 1];
    let (shards, sources) = distribution.least_shares(LAYOUT)?;
    let cores: Vec<_> = cores.iter().map(|cores| format!("{cores:.2}")).collect();
    println!(
        "{:>5} {rate:>10.0}/s {:>6.2} {shards:>12.2} {sources:>13.2}  {distribution} cores {}",
        rates.len(),
        rate / rates[0],
        cores.join(" ")
    );
    Ok(())
}

/// Says when something else than the hosts' quotas was the limit.
fn warn(cores: &[f64], is_held: bool) {
    if !is_held {
        return;
    }
    for (number, cores) in iter::zip(1.., cores) {
        if *cores > MOST_CPU_SHARE {
            println!("      host {number} used {cores:.2} cores: its quota did not hold it");
        } else if *cores < LEAST_CPU_SHARE {
            println!("      host {number} used only {cores:.2} cores: its quota was not the limit");
        }
    }
}
