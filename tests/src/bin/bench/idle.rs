//! What a host uses that has nothing to do.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rdkafka::producer::Producer as _;
use switchboard_tests::app::{App, MESSENGER};
use switchboard_tests::host::Host;
use switchboard_tests::kafka::{Kafka, Options};

use crate::Args;
use crate::clients::{PARTITIONS, Random, STALL_LIMIT, command, login, producer, send};
use crate::comparison::{Comparison, Figure, in_turn};
use crate::engine::Engine;

/// How long the host is left alone before it is measured.
const SETTLE_TIME: Duration = Duration::from_secs(10);
/// How long its CPU time is measured.
const CPU_SPAN: Duration = Duration::from_secs(20);
/// The number of tenants whose messages the host then gets, ...
const TENANTS: usize = 1000;
/// ... and the number of commands of each.
const COMMANDS: usize = 3;
/// The character that sends them.
const ACTOR: usize = 1;

pub(crate) fn run(args: &Args) -> Result<()> {
    let kafka = Kafka::start_with(&Options { heap_mib: 1024, optimised: true, ..Options::default() })?;
    if let Some(former) = &args.against {
        return compare(&kafka, args, former);
    }
    let used = measure(&kafka, &Engine::new()?, args)?;
    println!();
    println!("an idle host with one broker, {} threads for plugins", args.threads);
    for (Figure { name, value }, most) in used.figures().into_iter().zip(Used::MOST) {
        println!("{name:<62} {value:>10.2}    goal: at most {most}");
    }
    Ok(())
}

/// Measures two binaries in turn.
fn compare(kafka: &Kafka, args: &Args, former: &Path) -> Result<()> {
    let engines = Engine::both(former)?;
    let mut comparison = Comparison::default();
    for engine in in_turn(&engines, args.rounds) {
        let figures = measure(kafka, engine, args)?.figures();
        let text: Vec<_> = figures.iter().map(|Figure { name, value }| format!("{name} {value:.2}")).collect();
        println!("  {}: {}", engine.side, text.join("; "));
        comparison.add(engine.side, &figures);
    }
    comparison.print(&format!("idle, {} rounds", args.rounds));
    Ok(())
}

/// What a host uses.
struct Used {
    /// The share of a core, in per cent.
    cpu: f64,
    threads: f64,
    /// Connections to the broker.
    connections: f64,
    /// Resident memory before it has handled a message, in MiB.
    resident: f64,
    /// Resident memory after messages of [`TENANTS`] tenants, in MiB.
    resident_with_tenants: f64,
}

impl Used {
    /// What each of the [`figures`](Self::figures) is not to exceed. The goal for memory is the one with tenants.
    const MOST: [f64; 5] = [0.5, 25.0, 12.0, 170.0, 170.0];

    fn figures(&self) -> [Figure; 5] {
        [
            ("CPU, % of a core", self.cpu),
            ("threads", self.threads),
            ("connections to the broker", self.connections),
            ("resident memory, MiB", self.resident),
            ("resident memory, 1,000 tenants, MiB", self.resident_with_tenants),
        ]
        .map(|(name, value)| Figure { name, value })
    }
}

fn measure(kafka: &Kafka, engine: &Engine, args: &Args) -> Result<Used> {
    let app = engine.runs(App::messenger_on(kafka, "idle", PARTITIONS)?);
    let flags = engine.flags(args);
    let mut host = app.run("host", &flags.iter().map(String::as_str).collect::<Vec<_>>())?;
    host.wait_for("its partitions", STALL_LIMIT, |line| line.contains("assigned"))?;
    thread::sleep(SETTLE_TIME);
    let (began, before) = (Instant::now(), host.cpu_time()?);
    thread::sleep(CPU_SPAN);
    let cpu = host.cpu_time()?.saturating_sub(before).as_secs_f64() / began.elapsed().as_secs_f64();
    let (_, port) = kafka.bootstrap().rsplit_once(':').context("an address without a port")?;
    let count = |count: usize| anyhow::Ok(f64::from(u32::try_from(count)?));
    let (threads, connections) = (count(host.threads()?)?, count(host.connections(port.parse()?)?)?);
    let resident = resident_mib(&host)?;
    send_some(kafka, &app)?;
    thread::sleep(SETTLE_TIME);
    let resident_with_tenants = resident_mib(&host)?;
    host.terminate(STALL_LIMIT)?;
    Ok(Used { cpu: 100.0 * cpu, threads, connections, resident, resident_with_tenants })
}

fn resident_mib(host: &Host) -> Result<f64> {
    let (resident, _) = host.memory()?;
    Ok(f64::from(u32::try_from(resident >> 10)?) / 1024.0)
}

/// Lets a character of each tenant log in and send a few commands. Waits until all are settled.
fn send_some(kafka: &Kafka, app: &App) -> Result<()> {
    let producer = producer(kafka)?;
    let mut random = Random::default();
    let mut letters = app.client.reader(&[&app.dead_letters()])?;
    let (logins, commands) = (app.topic(MESSENGER[1]), app.topic(MESSENGER[0]));
    // The last record of each tenant in a topic is not JSON: its dead letter shows that those before it are settled.
    for tenant in 0..TENANTS {
        send(&producer, logins, tenant, ACTOR, &login(ACTOR))?;
        send(&producer, logins, tenant, 0, "the end")?;
    }
    producer.flush(STALL_LIMIT)?;
    letters.until("the logins", STALL_LIMIT, |letters| letters.len() >= TENANTS)?;
    for tenant in 0..TENANTS {
        for _ in 0..COMMANDS {
            send(&producer, commands, tenant, ACTOR, &command(ACTOR, &mut random))?;
        }
        send(&producer, commands, tenant, 0, "the end")?;
    }
    producer.flush(STALL_LIMIT)?;
    letters.until("the commands", STALL_LIMIT, |letters| letters.len() >= 2 * TENANTS)?;
    Ok(())
}
