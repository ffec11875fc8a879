//! What it costs to change a tenant's release: the pause of its outputs, the time until all hosts have changed over, and
//! what other tenants notice.

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
use switchboard_tests::soak::watch::{Output, Topics, Watch};
use tempfile::TempDir;

use crate::Args;
use crate::clients::LONG;

/// The busy tenant, which changes its release.
const BUSY: usize = 0;
/// Around the moment at which a tenant changes its release, and as long without one.
const AROUND: Duration = Duration::from_millis(250);
/// Time for all to come to rest between two measurements.
const REST: Duration = Duration::from_millis(700);
const SECOND: Duration = Duration::from_secs(1);
/// Commands are run elsewhere than hosts and brokers; here they share the processors, and take what these leave.
const ELSEWHERE: [&str; 3] = ["nice", "-n", "19"];

pub(crate) fn run(args: &Args) -> Result<()> {
    let kafka = Kafka::start_with(&Options { heap_mib: 1024, optimised: true, ..Options::default() })?;
    println!();
    println!("{:<66} {:>9} {:>9} {:>9}", format!("{} swaps, two hosts", args.swaps), "p50", "p99", "worst");
    pause(&kafka, args)?;
    rollout(&kafka, args)?;
    saturated(&kafka, args)
}

/// An input of which everything follows from the id: every other one is the busy tenant's.
struct Input(u64);

impl generator::Input for Input {
    fn tenant(&self) -> String {
        load::name(if self.0.is_multiple_of(2) { BUSY } else { load::Input(self.0 / 2).tenant() })
    }

    fn partition(&self) -> i32 {
        load::Input(self.0).partition()
    }

    fn value(&self) -> String {
        format!("{} line", self.0)
    }
}

/// An application of the ledger on two hosts.
struct Stage {
    app: App,
    artifacts: Artifacts,
    watch: Watch,
    hosts: Vec<Host>,
    _directory: TempDir,
}

/// One deployment that was waited for.
struct Deployed {
    release: usize,
    began: Instant,
    ended: Instant,
    /// From its beginning until the brokers had its record.
    written: Duration,
}

impl Stage {
    /// The hosts do not run yet.
    fn new(kafka: &Kafka, name: &str) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut artifacts = Artifacts::new(directory.path())?;
        let base = artifacts.make()?;
        let plugin = artifacts.path(base).display().to_string();
        let app = App::on(kafka, name, &["IN", "LINES", "AUDIT"], PARTITIONS)?;
        let app = app.arg("--plugin", &plugin).arg("--tenant-header", "TENANT=text");
        let mut first = app.start("first", &[])?;
        let topics = Topics {
            lines: app.topic("LINES").to_owned(),
            partitions: PARTITIONS,
            letters: app.dead_letters(),
            control: format!("{}-switchboard-control", app.name),
        };
        first.wait_for("its topics", LONG, |line| line.contains("host is running"))?;
        first.terminate(LONG)?;
        let watch = Watch::start(kafka.bootstrap(), &topics)?;
        Ok(Self { app, artifacts, watch, hosts: Vec::new(), _directory: directory })
    }

    fn start(&mut self, args: &Args) -> Result<()> {
        let workers = args.workers.to_string();
        for name in ["left", "right"] {
            let mut flags = vec!["--workers", &workers, "--instance", name];
            flags.extend(args.with.iter().map(String::as_str));
            self.hosts.push(self.app.start(name, &flags)?);
        }
        for host in &self.hosts {
            host.wait_for("its partitions", LONG, |line| line.contains("assigned"))?;
        }
        Ok(())
    }

    /// Deploys an artifact that was never there, and waits until both hosts go by it.
    fn deploy(&mut self, runner: &[&str], arguments: &[&str]) -> Result<Deployed> {
        let release = self.artifacts.make()?;
        let path = self.artifacts.path(release).display().to_string();
        let clock = || std::time::UNIX_EPOCH.elapsed().map(|time| time.as_millis()).unwrap_or_default();
        let (began, clock) = (Instant::now(), clock());
        let arguments = [&["--wait", "--json"], arguments].concat();
        let entry = self.app.begin_by(runner, &["deploy", &path], &arguments)?.end()?.json()?;
        let ended = Instant::now();
        ensure!(entry["rollout"]["result"] == "done", "{entry}");
        // The broker runs on the same machine.
        let written = u128::from(entry["timestamp"].as_u64().context("no timestamp")?).saturating_sub(clock);
        let written = Duration::from_millis(u64::try_from(written)?);
        Ok(Deployed { release, began, ended, written })
    }

    /// Waits until a tenant has had an output by this release since then; gives when the one before was read, and that one.
    fn changeover(&self, tenant: usize, release: usize, since: Instant) -> Result<(Instant, Instant)> {
        let began = Instant::now();
        loop {
            let seen = self.watch.seen();
            let outputs = &seen.outputs[tenant];
            let recent = outputs.len() - outputs.iter().rev().take_while(|output| output.at >= since).count();
            if let Some(at) = outputs[recent..].iter().position(|output| output.release == release) {
                let before = (recent + at).checked_sub(1).context("it has had no outputs before")?;
                return Ok((outputs[before].at, outputs[recent + at].at));
            }
            drop(seen);
            ensure!(began.elapsed() < LONG, "{} has no output by release {release}", load::name(tenant));
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The longest time between two outputs of the busy tenant in a span of time.
    fn gap(&self, from: Instant, to: Instant) -> Duration {
        let seen = self.watch.seen();
        let recent =
            seen.outputs[BUSY].iter().rev().skip_while(|output| output.at > to).take_while(|output| output.at >= from);
        let mut last: Option<&Output> = None;
        recent.filter_map(|output| last.replace(output).map(|later| later.at - output.at)).max().unwrap_or(to - from)
    }

    /// Outputs of all but the busy tenant in the second from then on.
    fn others(&self, from: Instant) -> usize {
        let seen = self.watch.seen();
        let others = seen.outputs.iter().enumerate().filter(|(tenant, _)| *tenant != BUSY);
        let in_time = |output: &&Output| (from..from + SECOND).contains(&output.at);
        others
            .map(|(_, outputs)| outputs.iter().rev().take_while(|output| output.at >= from).filter(in_time).count())
            .sum()
    }

    fn finish(mut self, sent: u64) -> Result<()> {
        let witness = &self.watch.witness;
        let mut stall = Stall::with_limit(witness.count(), LONG);
        while !witness.wait_for(sent, SECOND) {
            stall
                .check(witness.count())
                .with_context(|| format!("{} of {sent} inputs are settled", witness.count()))?;
        }
        self.hosts.iter_mut().try_for_each(|host| host.terminate(LONG).map(drop))?;
        let twice = self.watch.witness.twice();
        let wrong = &self.watch.seen().wrong;
        ensure!(twice.is_empty() && wrong.is_empty(), "{twice:?} {wrong:?}");
        Ok(())
    }
}

/// The busy tenant's outputs when its route is changed, between two releases that are there, and to one that is new.
fn pause(kafka: &Kafka, args: &Args) -> Result<()> {
    let mut stage = Stage::new(kafka, "pause")?;
    stage.start(args)?;
    // 1,000 messages a second of the busy tenant, as many of all others.
    let pace = Pace { burst: 10, every: Duration::from_millis(5) };
    let mut generator = Generator::start(kafka.bootstrap(), stage.app.topic("IN"), (0..).map(Input), pace)?;
    let tenant = load::name(BUSY);
    let two = [
        stage.deploy(&ELSEWHERE, &["--tenant", &tenant])?.release,
        stage.deploy(&ELSEWHERE, &["--tenant", &tenant])?.release,
    ];
    thread::sleep(5 * SECOND);
    let (mut calm, mut swapped, mut moments) = (Vec::new(), Vec::new(), Vec::new());
    for swap in 0..args.swaps {
        thread::sleep(REST);
        let now = Instant::now();
        calm.push(stage.gap(before(now, 2 * AROUND), now));
        let release = two[swap % 2];
        let digest = stage.artifacts.digests()[release].to_string();
        let from = Instant::now();
        let arguments = ["--tenant", &tenant, "--json"];
        stage.app.begin_by(&ELSEWHERE, &["route", "set", &digest], &arguments)?.end()?.json()?;
        let (old, after) = stage.changeover(BUSY, release, from)?;
        thread::sleep(AROUND);
        moments.push(after - old);
        swapped.push(stage.gap(before(after, AROUND), after + AROUND));
    }
    let usual = row("longest gap of a busy tenant's outputs in half a second, no swap", &mut calm)?;
    let routed = row("  and around its swap to a release that is there (route set)", &mut swapped)?;
    row("  from the last output of the old release to the first of the new", &mut moments)?;
    let (mut swapped, mut moments, mut whole, mut calm) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..args.swaps {
        thread::sleep(REST);
        let now = Instant::now();
        let deployed = stage.deploy(&ELSEWHERE, &["--tenant", &tenant])?;
        let (old, after) = stage.changeover(BUSY, deployed.release, deployed.began)?;
        thread::sleep(AROUND);
        moments.push(after - old);
        swapped.push(stage.gap(before(after, AROUND), after + AROUND));
        whole.push(stage.gap(deployed.began, deployed.ended));
        calm.push(stage.gap(before(now, REST), now));
    }
    let deployed = row("  and around its swap to a new artifact (deploy)", &mut swapped)?;
    row("  from the last output of the old release to the first of the new", &mut moments)?;
    row("  and all the while that it is deployed and compiled", &mut whole)?;
    row("  as long before that", &mut calm)?;
    let more = |around: Duration| (around.as_secs_f64() - usual.as_secs_f64()) * 1e3;
    println!(
        "pause, p99 more than without a swap: route set {:.1} ms, deploy {:.1} ms (goal: below 10 ms)",
        more(routed),
        more(deployed)
    );
    let sent = generator.stop()?.len() as u64;
    stage.finish(sent)
}

/// From the start of a deployment for all tenants to the last host that has changed over, under a steady stream; and what
/// the others notice of one tenant's.
fn rollout(kafka: &Kafka, args: &Args) -> Result<()> {
    let mut stage = Stage::new(kafka, "rollout")?;
    stage.start(args)?;
    let pace = Pace { burst: 50, every: Duration::from_millis(10) };
    let mut generator = Generator::start(kafka.bootstrap(), stage.app.topic("IN"), load::inputs(), pace)?;
    stage.deploy(&[], &[])?;
    thread::sleep(3 * SECOND);
    let (mut written, mut waited, mut first, mut last) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..args.swaps {
        thread::sleep(REST);
        let deployed = stage.deploy(&[], &[])?;
        written.push(deployed.written);
        waited.push(deployed.ended - deployed.began);
        let moments = (0..TENANTS)
            .map(|tenant| Ok(stage.changeover(tenant, deployed.release, deployed.began)?.1 - deployed.began));
        let moments = moments.collect::<Result<Vec<_>>>()?;
        first.push(moments.iter().min().copied().unwrap_or_default());
        last.push(moments.iter().max().copied().unwrap_or_default());
    }
    println!(
        "deploy of a new artifact of {} KB under 5,000 messages/s, from the command's start",
        stage.artifacts.size() / 1000
    );
    row("  until the brokers have it", &mut written)?;
    row("  until the first tenant's first output by it", &mut first)?;
    row("  until every tenant has an output by it (goal: below 1 s)", &mut last)?;
    row("  until --wait has said that both hosts go by it, and ended", &mut waited)?;
    let ratios = (0..args.swaps.min(30)).map(|_| stage.ratio()).collect::<Result<Vec<_>>>()?;
    ratio("outputs of others in the second of a deploy, of those before", ratios)?;
    println!("  (goal: at least 95 %)");
    let sent = generator.stop()?.len() as u64;
    stage.finish(sent)
}

/// The same while all have more to do than they can.
fn saturated(kafka: &Kafka, args: &Args) -> Result<()> {
    let mut stage = Stage::new(kafka, "saturated")?;
    let pace = Pace { burst: 1000, every: Duration::from_millis(10) };
    let mut generator = Generator::start(kafka.bootstrap(), stage.app.topic("IN"), load::inputs(), pace)?;
    while generator.sent() < args.backlog {
        thread::sleep(SECOND);
    }
    let sent = generator.stop()?.len() as u64;
    stage.start(args)?;
    let settled = |stage: &Stage| stage.watch.seen().outputs.iter().map(Vec::len).sum::<usize>() as u64;
    while settled(&stage) < sent / 10 {
        thread::sleep(REST);
    }
    let (began, before) = (Instant::now(), settled(&stage));
    let mut ratios = Vec::new();
    while settled(&stage) < sent / 10 * 8 {
        ratios.push(stage.ratio()?);
    }
    let rate = crate::clients::per_second(usize::try_from(settled(&stage) - before)?, began.elapsed())?;
    println!("the same in a backlog of which {rate:.0} a second are done, {} times", ratios.len());
    ratio("  outputs of others in the second of a deploy, of those before", ratios)?;
    stage.finish(sent)
}

impl Stage {
    /// Deploys an artifact to one tenant; outputs of the others in the second from then on, as a part of those in the second
    /// before.
    fn ratio(&mut self) -> Result<f64> {
        thread::sleep(2 * SECOND);
        let deployed = self.deploy(&ELSEWHERE, &["--tenant", &load::name(BUSY)])?;
        thread::sleep((deployed.began + SECOND + AROUND).saturating_duration_since(Instant::now()));
        let (usual, during) = (self.others(before(deployed.began, SECOND)), self.others(deployed.began));
        ensure!(usual > 0, "there were no outputs");
        Ok(f64::from(u32::try_from(during)?) / f64::from(u32::try_from(usual)?))
    }
}

fn before(moment: Instant, time: Duration) -> Instant {
    moment.checked_sub(time).unwrap_or(moment)
}

/// Prints times; gives the one that 99 % of them do not exceed.
fn row(what: &str, times: &mut [Duration]) -> Result<Duration> {
    times.sort_unstable();
    let at = |percent: usize| times.get(times.len().saturating_sub(1) * percent / 100).copied();
    let told = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
    let [median, most, worst] = [at(50), at(99), at(100)].map(|time| time.context("nothing was measured"));
    let most = most?;
    println!("{what:<66} {:>9} {:>9} {:>9}", told(median?), told(most), told(worst?));
    Ok(most)
}

fn ratio(what: &str, mut ratios: Vec<f64>) -> Result<()> {
    ratios.sort_by(|one, other| other.total_cmp(one));
    let at =
        |percent: usize| ratios.get(ratios.len().saturating_sub(1) * percent / 100).context("nothing was measured");
    let told = |ratio: &f64| format!("{:.1} %", ratio * 100.0);
    println!("{what:<66} {:>9} {:>9} {:>9}", told(at(50)?), told(at(99)?), told(at(100)?));
    Ok(())
}
