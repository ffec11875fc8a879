//! The cost of a change of a tenant's release: the pause of its outputs, the time until all hosts have changed over,
//! and the effect on other tenants.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use switchboard_tests::app::App;
use switchboard_tests::generator::{self, Generator, Pace};
use switchboard_tests::host::Host;
use switchboard_tests::kafka::{Kafka, Options};
use switchboard_tests::progress::Stall;
use switchboard_tests::soak::artifacts::Artifacts;
use switchboard_tests::soak::load::{self, PARTITIONS, TENANTS};
use switchboard_tests::soak::watch::{Output, TopicWatch, WatchedTopics};
use tempfile::TempDir;

use crate::Args;
use crate::clients::STALL_LIMIT;

/// The number of the busy tenant, whose release changes.
const BUSY_TENANT: usize = 0;
/// Half the span of time around a change of a release in which gaps are measured.
const HALF_GAP_SPAN: Duration = Duration::from_millis(250);
/// The pause between two measurements.
const PAUSE_BETWEEN_SWAPS: Duration = Duration::from_millis(700);
const SECOND: Duration = Duration::from_secs(1);
/// The runner of commands. In production they run on other machines than hosts and brokers. Here they get a low
/// priority.
const LOW_PRIORITY: [&str; 3] = ["nice", "-n", "19"];

pub(crate) fn run(args: &Args) -> Result<()> {
    let kafka = Kafka::start_with(&Options { heap_mib: 1024, optimised: true, ..Options::default() })?;
    println!();
    println!("{:<66} {:>9} {:>9} {:>9}", format!("{} swaps, two hosts", args.swaps), "p50", "p99", "worst");
    pause(&kafka, args)?;
    rollout(&kafka, args)?;
    saturated(&kafka, args)
}

/// An input. Its id determines everything else about it. Every second input belongs to the busy tenant.
struct Input(u64);

impl generator::Input for Input {
    fn tenant(&self) -> String {
        load::name(if self.0.is_multiple_of(2) { BUSY_TENANT } else { load::Input(self.0 / 2).tenant() })
    }

    fn partition(&self) -> i32 {
        load::Input(self.0).partition()
    }

    fn value(&self) -> String {
        format!("{} line", self.0)
    }
}

/// An application of the ledger on two hosts.
struct LedgerApp {
    app: App,
    artifacts: Artifacts,
    watch: TopicWatch,
    hosts: Vec<Host>,
    _directory: TempDir,
}

/// A deployment with `--wait`.
struct Deployed {
    release: usize,
    began: Instant,
    ended: Instant,
    /// The time from its beginning until the brokers had its record.
    written: Duration,
}

impl LedgerApp {
    /// Creates topics and artifacts. Starts no hosts yet.
    fn new(kafka: &Kafka, name: &str) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut artifacts = Artifacts::new(directory.path())?;
        let base = artifacts.make()?;
        let plugin = artifacts.path(base).display().to_string();
        let app = App::on(kafka, name, &["IN", "LINES", "AUDIT"], PARTITIONS)?;
        let app = app.arg("--plugin", &plugin).arg("--tenant-header", "TENANT=text");
        let mut first = app.start("first", &[])?;
        let topics = WatchedTopics {
            lines: app.topic("LINES").to_owned(),
            partitions: PARTITIONS,
            dead_letters: app.dead_letters(),
            control: format!("{}-switchboard-control", app.name),
        };
        first.wait_for("its topics", STALL_LIMIT, |line| line.contains("host is running"))?;
        first.terminate(STALL_LIMIT)?;
        let watch = TopicWatch::start(kafka.bootstrap(), &topics)?;
        Ok(Self { app, artifacts, watch, hosts: Vec::new(), _directory: directory })
    }

    fn start(&mut self, args: &Args) -> Result<()> {
        let threads = args.threads.to_string();
        for name in ["left", "right"] {
            let mut flags = vec!["--threads", &threads, "--instance", name];
            flags.extend(args.with.iter().map(String::as_str));
            self.hosts.push(self.app.start(name, &flags)?);
        }
        for host in &self.hosts {
            host.wait_for("its partitions", STALL_LIMIT, |line| line.contains("assigned"))?;
        }
        Ok(())
    }

    /// Deploys a new artifact, and waits until both hosts apply the change.
    fn deploy(&mut self, runner: &[&str], arguments: &[&str]) -> Result<Deployed> {
        let release = self.artifacts.make()?;
        let path = self.artifacts.path(release).display().to_string();
        let clock = || std::time::UNIX_EPOCH.elapsed().map(|time| time.as_millis()).unwrap_or_default();
        let began = Instant::now();
        let clock = clock();
        let arguments = [&["--wait", "--json"], arguments].concat();
        let entry = self.app.start_command_by(runner, &["deploy", &path], &arguments)?.end()?.json()?;
        let ended = Instant::now();
        ensure!(entry["rollout"]["result"] == "done", "{entry}");
        // The broker runs on the same machine.
        let written = u128::from(entry["timestamp"].as_u64().context("no timestamp")?).saturating_sub(clock);
        let written = Duration::from_millis(u64::try_from(written)?);
        Ok(Deployed { release, began, ended, written })
    }

    /// Waits until a tenant has an output by this release since then. Returns when the output before it was read, and
    /// when the output itself was.
    fn changeover(&self, tenant: usize, release: usize, since: Instant) -> Result<(Instant, Instant)> {
        let began = Instant::now();
        loop {
            let seen = self.watch.seen();
            let outputs = &seen.outputs[tenant];
            let recent = outputs.len() - outputs.iter().rev().take_while(|output| output.at >= since).count();
            if let Some(at) = outputs[recent..].iter().position(|output| output.release == release) {
                let before = (recent + at).checked_sub(1).context("the tenant had no outputs before")?;
                return Ok((outputs[before].at, outputs[recent + at].at));
            }
            drop(seen);
            ensure!(began.elapsed() < STALL_LIMIT, "{} has no output by release {release}", load::name(tenant));
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The longest time between two outputs of the busy tenant in a span of time.
    fn gap(&self, from: Instant, to: Instant) -> Duration {
        let seen = self.watch.seen();
        let recent = seen.outputs[BUSY_TENANT]
            .iter()
            .rev()
            .skip_while(|output| output.at > to)
            .take_while(|output| output.at >= from);
        let mut last: Option<&Output> = None;
        recent.filter_map(|output| last.replace(output).map(|later| later.at - output.at)).max().unwrap_or(to - from)
    }

    /// The number of outputs of all tenants but the busy one in the second from then on.
    fn others(&self, from: Instant) -> usize {
        let seen = self.watch.seen();
        let others = seen.outputs.iter().enumerate().filter(|(tenant, _)| *tenant != BUSY_TENANT);
        let in_time = |output: &&Output| (from..from + SECOND).contains(&output.at);
        others
            .map(|(_, outputs)| outputs.iter().rev().take_while(|output| output.at >= from).filter(in_time).count())
            .sum()
    }

    fn finish(mut self, sent: u64) -> Result<()> {
        let witness = &self.watch.witness;
        let mut stall = Stall::with_limit(witness.count(), STALL_LIMIT);
        while !witness.wait_for(sent, SECOND) {
            stall
                .check(witness.count())
                .with_context(|| format!("{} of {sent} inputs are settled", witness.count()))?;
        }
        self.hosts.iter_mut().try_for_each(|host| host.terminate(STALL_LIMIT).map(drop))?;
        let twice = self.watch.witness.twice();
        let wrong = &self.watch.seen().wrong;
        ensure!(twice.is_empty() && wrong.is_empty(), "{twice:?} {wrong:?}");
        Ok(())
    }
}

/// Measures the gaps of the busy tenant's outputs when its route changes between two known releases, and to a new one.
fn pause(kafka: &Kafka, args: &Args) -> Result<()> {
    let mut ledgers = LedgerApp::new(kafka, "pause")?;
    ledgers.start(args)?;
    // 1,000 messages a second of the busy tenant, and 1,000 of all others.
    let pace = Pace { burst: 10, every: Duration::from_millis(5) };
    let mut generator = Generator::start(kafka.bootstrap(), ledgers.app.topic("IN"), (0..).map(Input), pace)?;
    let tenant = load::name(BUSY_TENANT);
    let two = [
        ledgers.deploy(&LOW_PRIORITY, &["--tenant", &tenant])?.release,
        ledgers.deploy(&LOW_PRIORITY, &["--tenant", &tenant])?.release,
    ];
    thread::sleep(5 * SECOND);
    let mut calm = Vec::new();
    let mut swapped = Vec::new();
    let mut moments = Vec::new();
    for swap in 0..args.swaps {
        thread::sleep(PAUSE_BETWEEN_SWAPS);
        let now = Instant::now();
        calm.push(ledgers.gap(before(now, 2 * HALF_GAP_SPAN), now));
        let release = two[swap % 2];
        let digest = ledgers.artifacts.digests()[release].to_string();
        let from = Instant::now();
        let arguments = ["--tenant", &tenant, "--json"];
        ledgers.app.start_command_by(&LOW_PRIORITY, &["route", "set", &digest], &arguments)?.end()?.json()?;
        let (old, after) = ledgers.changeover(BUSY_TENANT, release, from)?;
        thread::sleep(HALF_GAP_SPAN);
        moments.push(after - old);
        swapped.push(ledgers.gap(before(after, HALF_GAP_SPAN), after + HALF_GAP_SPAN));
    }
    let usual = row("longest gap of a busy tenant's outputs in half a second, no swap", &mut calm)?;
    let known = row("  and around its swap to a known release (route set)", &mut swapped)?;
    row("  from the last output of the old release to the first of the new", &mut moments)?;
    let mut swapped = Vec::new();
    let mut moments = Vec::new();
    let mut whole = Vec::new();
    let mut calm = Vec::new();
    for _ in 0..args.swaps {
        thread::sleep(PAUSE_BETWEEN_SWAPS);
        let now = Instant::now();
        let deployed = ledgers.deploy(&LOW_PRIORITY, &["--tenant", &tenant])?;
        let (old, after) = ledgers.changeover(BUSY_TENANT, deployed.release, deployed.began)?;
        thread::sleep(HALF_GAP_SPAN);
        moments.push(after - old);
        swapped.push(ledgers.gap(before(after, HALF_GAP_SPAN), after + HALF_GAP_SPAN));
        whole.push(ledgers.gap(deployed.began, deployed.ended));
        calm.push(ledgers.gap(before(now, PAUSE_BETWEEN_SWAPS), now));
    }
    let deployed = row("  and around its swap to a new artifact (deploy)", &mut swapped)?;
    row("  from the last output of the old release to the first of the new", &mut moments)?;
    row("  and during the whole deployment and compilation", &mut whole)?;
    row("  and before the deployment", &mut calm)?;
    let more = |around: Duration| (around.as_secs_f64() - usual.as_secs_f64()) * 1e3;
    println!(
        "pause, p99, in addition to the gap without a swap: route set {:.1} ms, deploy {:.1} ms (goal: below 10 ms)",
        more(known),
        more(deployed)
    );
    let sent = generator.stop()?.len() as u64;
    ledgers.finish(sent)
}

/// Measures the time from the start of a deployment for all tenants until the last host has changed over, under a
/// steady stream. Also measures the effect of one tenant's deployment on the others.
fn rollout(kafka: &Kafka, args: &Args) -> Result<()> {
    let mut ledgers = LedgerApp::new(kafka, "rollout")?;
    ledgers.start(args)?;
    let pace = Pace { burst: 50, every: Duration::from_millis(10) };
    let mut generator = Generator::start(kafka.bootstrap(), ledgers.app.topic("IN"), load::inputs(), pace)?;
    ledgers.deploy(&[], &[])?;
    thread::sleep(3 * SECOND);
    let mut written = Vec::new();
    let mut waited = Vec::new();
    let mut first = Vec::new();
    let mut last = Vec::new();
    for _ in 0..args.swaps {
        thread::sleep(PAUSE_BETWEEN_SWAPS);
        let deployed = ledgers.deploy(&[], &[])?;
        written.push(deployed.written);
        waited.push(deployed.ended - deployed.began);
        let moments = (0..TENANTS)
            .map(|tenant| Ok(ledgers.changeover(tenant, deployed.release, deployed.began)?.1 - deployed.began));
        let moments = moments.collect::<Result<Vec<_>>>()?;
        first.push(moments.iter().min().copied().unwrap_or_default());
        last.push(moments.iter().max().copied().unwrap_or_default());
    }
    println!(
        "deploy of a new artifact of {} KB under 5,000 messages/s, from the command's start",
        ledgers.artifacts.size() / 1000
    );
    row("  until the brokers have it", &mut written)?;
    row("  until the first tenant's first output by it", &mut first)?;
    row("  until every tenant has an output by it (goal: below 1 s)", &mut last)?;
    row("  until --wait has reported both hosts, and ended", &mut waited)?;
    let ratios = (0..args.swaps.min(30)).map(|_| ledgers.ratio()).collect::<Result<Vec<_>>>()?;
    ratio("outputs of others in the second of a deploy, of those before", ratios)?;
    println!("  (goal: at least 95 %)");
    let sent = generator.stop()?.len() as u64;
    ledgers.finish(sent)
}

/// The same in a backlog, when the hosts have more work than they can do.
fn saturated(kafka: &Kafka, args: &Args) -> Result<()> {
    let mut ledgers = LedgerApp::new(kafka, "saturated")?;
    let pace = Pace { burst: 1000, every: Duration::from_millis(10) };
    let mut generator = Generator::start(kafka.bootstrap(), ledgers.app.topic("IN"), load::inputs(), pace)?;
    while generator.sent() < args.backlog {
        thread::sleep(SECOND);
    }
    let sent = generator.stop()?.len() as u64;
    ledgers.start(args)?;
    let settled = |ledgers: &LedgerApp| ledgers.watch.seen().outputs.iter().map(Vec::len).sum::<usize>() as u64;
    while settled(&ledgers) < sent / 10 {
        thread::sleep(PAUSE_BETWEEN_SWAPS);
    }
    let began = Instant::now();
    let before = settled(&ledgers);
    let mut ratios = Vec::new();
    while settled(&ledgers) < sent / 10 * 8 {
        ratios.push(ledgers.ratio()?);
    }
    let rate = crate::clients::per_second(usize::try_from(settled(&ledgers) - before)?, began.elapsed())?;
    println!("the same in a backlog, at {rate:.0} messages a second, {} times", ratios.len());
    ratio("  outputs of others in the second of a deploy, of those before", ratios)?;
    ledgers.finish(sent)
}

impl LedgerApp {
    /// Deploys an artifact to one tenant. Returns the ratio of the other tenants' outputs in the second from then on to
    /// those in the second before.
    fn ratio(&mut self) -> Result<f64> {
        thread::sleep(2 * SECOND);
        let deployed = self.deploy(&LOW_PRIORITY, &["--tenant", &load::name(BUSY_TENANT)])?;
        thread::sleep((deployed.began + SECOND + HALF_GAP_SPAN).saturating_duration_since(Instant::now()));
        let usual = self.others(before(deployed.began, SECOND));
        let during = self.others(deployed.began);
        ensure!(usual > 0, "there were no outputs");
        Ok(f64::from(u32::try_from(during)?) / f64::from(u32::try_from(usual)?))
    }
}

fn before(moment: Instant, time: Duration) -> Instant {
    moment.checked_sub(time).unwrap_or(moment)
}

/// Prints the percentiles of times. Returns p99.
fn row(what: &str, times: &mut [Duration]) -> Result<Duration> {
    times.sort_unstable();
    let at = |percent: usize| times.get(times.len().saturating_sub(1) * percent / 100).copied();
    let text = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
    let [median, most, worst] = [at(50), at(99), at(100)].map(|time| time.context("nothing was measured"));
    let most = most?;
    println!("{what:<66} {:>9} {:>9} {:>9}", text(median?), text(most), text(worst?));
    Ok(most)
}

fn ratio(what: &str, mut ratios: Vec<f64>) -> Result<()> {
    ratios.sort_by(|one, other| other.total_cmp(one));
    let at =
        |percent: usize| ratios.get(ratios.len().saturating_sub(1) * percent / 100).context("nothing was measured");
    let text = |ratio: &f64| format!("{:.1} %", ratio * 100.0);
    println!("{what:<66} {:>9} {:>9} {:>9}", text(at(50)?), text(at(99)?), text(at(100)?));
    Ok(())
}
