//! The latency of other tenants while one tenant keeps a core busy.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use switchboard_tests::app::App;
use switchboard_tests::client::Record;
use switchboard_tests::host::Host;
use switchboard_tests::kafka::Kafka;

use crate::Args;
use crate::clients::STALL_LIMIT;
use crate::comparison::{Comparison, Figure, in_turn, median};
use crate::engine::Engine;
use crate::stream::{Stream, counting};

/// The number of other tenants. Together they have 200 messages a second.
const OTHERS: usize = 100;
/// The time between two messages of any of them.
const INPUT_INTERVAL: Duration = Duration::from_millis(5);
/// How long the others have messages before anything is measured: each of them has a warm wasm instance then.
const WARM_UP: Duration = Duration::from_secs(10);

/// The tenant that keeps a core busy.
const BUSY: &str = "busy";
/// The CPU time of each of its messages.
const BUSY_CPU_TIME: Duration = Duration::from_millis(900);
/// The time between two of its messages.
const BUSY_INTERVAL: Duration = Duration::from_secs(1);
/// Room for measurements of CPU time that are not exact. By default a message may use a second.
const BUSY_LIMITS: [&str; 4] = ["--max-fuel", "1000000000000", "--max-cpu-time-ms", "10000"];

/// The ratio of the others' p99 with and without the busy tenant that is not to be exceeded.
const MOST_RATIO: f64 = 1.5;

pub(crate) fn run(kafka: &Kafka, args: &Args) -> Result<()> {
    if let Some(former) = &args.against {
        return compare(kafka, args, former);
    }
    let rounds = measure(kafka, &Engine::new()?, args, args.rounds)?;
    let of =
        |figure: fn(&Round) -> f64| median(&mut rounds.iter().map(figure).collect::<Vec<_>>()).context("no rounds");
    let without = Latency { p50: of(|round| round.without.p50)?, p99: of(|round| round.without.p99)? };
    let with = Latency { p50: of(|round| round.with.p50)?, p99: of(|round| round.with.p99)? };
    println!();
    println!("fairness: {OTHERS} tenants, 200 messages/s; the busy tenant uses {BUSY_CPU_TIME:?} of CPU time a second");
    for (what, Latency { p50, p99 }) in [("alone", without), ("with the busy tenant", with)] {
        println!("{:<62} {p50:>10.1} ms", format!("latency of the others {what}, p50"));
        println!("{:<62} {p99:>10.1} ms", "  p99");
    }
    let ratio = of(Round::ratio)?;
    println!("{:<62} {ratio:>10.2}    goal: at most {MOST_RATIO}", "p99 with / without, median of the rounds");
    Ok(())
}

/// Measures two binaries in turn.
fn compare(kafka: &Kafka, args: &Args, former: &Path) -> Result<()> {
    let engines = Engine::both(former)?;
    let mut comparison = Comparison::default();
    for engine in in_turn(&engines, args.rounds) {
        println!("  {}:", engine.side);
        for round in measure(kafka, engine, args, 1)? {
            comparison.add(engine.side, &round.figures());
        }
    }
    comparison.print(&format!("fairness, {} rounds", args.rounds));
    Ok(())
}

/// The time from the call that sends a message until its output is read, in ms.
#[derive(Debug, Clone, Copy)]
struct Latency {
    p50: f64,
    p99: f64,
}

/// The latency of the others.
struct Round {
    without: Latency,
    with: Latency,
}

impl Round {
    fn ratio(&self) -> f64 {
        self.with.p99 / self.without.p99
    }

    fn figures(&self) -> [Figure; 5] {
        [
            ("others alone, p50, ms", self.without.p50),
            ("others alone, p99, ms", self.without.p99),
            ("others with the busy tenant, p50, ms", self.with.p50),
            ("others with the busy tenant, p99, ms", self.with.p99),
            ("p99 with / without", self.ratio()),
        ]
        .map(|(name, value)| Figure { name, value })
    }
}

/// Measures without and with the busy tenant in turn, on one host. Every second round begins with
/// it.
fn measure(kafka: &Kafka, engine: &Engine, args: &Args, rounds: u32) -> Result<Vec<Round>> {
    let app = engine.runs(counting(kafka, "fairness")?);
    let flags = engine.flags(args);
    let flags: Vec<_> = flags.iter().map(String::as_str).chain(BUSY_LIMITS).collect();
    let mut host = app.run("host", &flags)?;
    host.wait_for("its partitions", STALL_LIMIT, |line| line.contains("assigned"))?;
    let mut busy = BusyTenant::measured(&app, &host)?;
    let stream = Stream::of(OTHERS, kafka, &app, INPUT_INTERVAL)?;
    stream.settle(WARM_UP)?;
    let time = Duration::from_secs(args.fairness_seconds);
    let mut spans = Vec::new();
    for round in 0..rounds {
        let both = if round.is_multiple_of(2) { [false, true] } else { [true, false] };
        let mut of_round = [None; 2];
        for is_busy in both {
            let from = Instant::now();
            if is_busy {
                busy.burn_for(time)?;
            } else {
                thread::sleep(time);
            }
            of_round[usize::from(is_busy)] = Some((from, Instant::now()));
            // The next measurement begins without messages of the busy tenant.
            stream.wait_for_foreign(busy.sent)?;
        }
        spans.push(of_round);
    }
    let history = stream.finish()?;
    host.terminate(STALL_LIMIT)?;
    let latency = |span: Option<(Instant, Instant)>| {
        let (from, to) = span.context("each round measures both")?;
        let mut waits: Vec<_> = history.waits(from, to).collect();
        waits.sort_unstable();
        let percentile = |percent: usize| {
            let wait = waits.get(waits.len() * percent / 100).context("nothing was measured")?;
            anyhow::Ok(wait.as_secs_f64() * 1e3)
        };
        anyhow::Ok(Latency { p50: percentile(50)?, p99: percentile(99)? })
    };
    let mut rounds = Vec::new();
    for [without, with] in spans {
        let round = Round { without: latency(without)?, with: latency(with)? };
        let text = |Latency { p50, p99 }| format!("p50 {p50:.1} ms, p99 {p99:.1} ms");
        println!("  without: {}; with: {}; ratio {:.2}", text(round.without), text(round.with), round.ratio());
        rounds.push(round);
    }
    Ok(rounds)
}

/// The tenant that keeps a core busy, and what it sends.
struct BusyTenant<'a> {
    app: &'a App,
    message: Record,
    /// The number of messages so far.
    sent: usize,
}

impl<'a> BusyTenant<'a> {
    /// Finds the message that uses [`BUSY_CPU_TIME`] on this machine. The host must be idle.
    fn measured(app: &'a App, host: &Host) -> Result<Self> {
        let mut busy = Self { app, message: Record::default(), sent: 0 };
        let mut thousands = 10_000;
        // The first one also starts the wasm instance.
        busy.burn(thousands, host)?;
        loop {
            let took = busy.burn(thousands, host)?;
            // The clock of a process's CPU time has steps of 10 ms.
            if took >= BUSY_CPU_TIME / 4 {
                let wanted = f64::from(thousands) * BUSY_CPU_TIME.as_secs_f64() / took.as_secs_f64();
                busy.message = busy.word(&format!("burn {wanted:.0}"));
                println!("  the busy tenant's messages take {BUSY_CPU_TIME:?}: {wanted:.0} thousand turns of a loop");
                return Ok(busy);
            }
            thousands *= 2;
        }
    }

    /// The CPU time of a message with this many thousand turns of a loop.
    fn burn(&mut self, thousands: u32, host: &Host) -> Result<Duration> {
        let before = host.cpu_time()?;
        self.message = self.word(&format!("burn {thousands}"));
        self.send()?;
        self.app.wait_for("OUT", self.sent)?;
        Ok(host.cpu_time()?.saturating_sub(before))
    }

    /// The busy tenant's messages are in one partition, between those of others.
    fn word(&self, word: &str) -> Record {
        Record { partition: Some(0), ..self.app.word(BUSY, word) }
    }

    fn send(&mut self) -> Result<()> {
        self.app.client.produce(std::slice::from_ref(&self.message))?;
        self.sent += 1;
        Ok(())
    }

    /// Sends a message each [`BUSY_INTERVAL`], for this time.
    fn burn_for(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        let mut due = Instant::now();
        while due < end {
            self.send()?;
            due += BUSY_INTERVAL;
            thread::sleep(due.min(end).saturating_duration_since(Instant::now()));
        }
        Ok(())
    }
}
