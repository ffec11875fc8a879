//! `switchboard demo`: a real host on an embedded broker. A script sends messages, then the user types them.

mod format;
mod play;
mod swap;

use std::io::{BufRead as _, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anyhow::Context as _;
use switchboard_core::record::Tenant;
use switchboard_core::worker::{LookupError, Lookups, Query};
use switchboard_kafka::{ClientOptions, EmbeddedBroker, GroupProtocol, Shutdown, Topology};
use switchboard_sandbox::InstancePool;

use self::format::Demo;
use self::play::{Player, VerdictObserver};
use self::swap::DemoReleases;
use super::Outcome;
use crate::config::{LogFormat, Settings};
use crate::host::{Host, HostSetup};
use crate::signals::stop_on_signals;
use crate::{telemetry, wiring};

/// The demo's shards.
const SHARDS: u32 = 4;
/// The partitions of each of the demo's topics.
const SOURCE_PARTITIONS: i32 = 2;

/// Plays the demo's script, then processes lines from standard input until its end or Ctrl-C. If a `script` is given,
/// plays that instead and ends. `others`: further releases, which `swap` gives to a tenant in turn.
///
/// # Errors
/// When a file cannot be used, a line of the script is not understood, or the host fails.
pub fn demo(plugin: &Path, file: &Path, others: &[PathBuf], script: Option<&Path>) -> anyhow::Result<Outcome> {
    if std::env::var_os("RUST_LOG").is_some() {
        telemetry::init_logs(LogFormat::Text);
    }
    let demo = Arc::new(Demo::load(file)?);
    let own_script = script.map(|path| {
        std::fs::read_to_string(path).with_context(|| format!("the script {} cannot be read", path.display()))
    });
    let own_script = own_script.transpose()?;

    let settings = Settings {
        app: "demo".into(),
        tenant_headers: demo.tenant_headers.clone(),
        carry_headers: demo.carry_headers.clone(),
        ..Settings::default()
    };
    let sandbox = wiring::sandbox(&settings)?;
    let limits = *sandbox.limits();
    let artifact = Arc::new(sandbox.load_file(plugin)?);
    let mut releases = vec![Arc::clone(&artifact)];
    for other in others {
        releases.push(Arc::new(sandbox.load_file(other)?));
    }
    let config = wiring::worker_config(&settings, SHARDS);
    let releases = DemoReleases::new(releases, config.tenants.clone());
    // No environment variable renames a topic: the embedded broker has only the demo's topics.
    let topology = Topology::new(&config.app, settings.topics.clone(), |_| None);
    let consumes = switchboard_core::routing::aliases(&artifact.manifest().consumes);
    let topology = Arc::new(topology.with(&*consumes, &artifact.release().produces)?);

    let broker = EmbeddedBroker::start().context("starting the embedded broker")?;
    broker.create_topics(&topology, SHARDS, SOURCE_PARTITIONS).context("creating topics on the embedded broker")?;
    let options = ClientOptions {
        bootstrap_servers: broker.bootstrap_servers(),
        app: config.app.clone(),
        instance: "demo".into(),
        static_members: false,
        // With the classic protocol the first join takes 3 s on the mock broker.
        group_protocol: GroupProtocol::Consumer,
        session_timeout_ms: settings.session_timeout_ms,
        // The mock broker answers a fetch only after its full wait time, even if records arrive before.
        properties: [("fetch.wait.max.ms".to_owned(), "2".to_owned())].into(),
    };

    let stop = Shutdown::default();
    stop_on_signals(&stop).context("handling signals")?;
    let (report, reports) = mpsc::channel();
    let lookups = DemoLookups(Arc::clone(&demo));
    let setup = HostSetup { config, options, topology, lookups, members: 1, threads: 1, state_dir: None };
    let plugins = || InstancePool::subscribed(releases.routing_watch(), limits);
    let host = Host::start(&setup, plugins, || VerdictObserver::new(report.clone()), &stop)?;

    let mut player = Player::new(&demo, &broker, &reports, releases, &stop);
    println!("{}\n", demo.title);
    println!(
        "Plugin: {} {}, embedded broker at {}.\n",
        artifact.manifest().name,
        artifact.manifest().version,
        broker.bootstrap_servers()
    );
    let played = player.play_script(own_script.as_deref().unwrap_or(&demo.script));
    let played = match own_script {
        Some(_) => played,
        None => played.and_then(|()| play_typed_lines(&mut player, &stop)),
    };
    stop.ask();
    host.join()?;
    played?;
    Ok(Outcome::Success)
}

/// Plays lines from standard input until its end, `quit` or a stop. A line that is not understood is reported and
/// skipped.
fn play_typed_lines(player: &mut Player<'_>, stop: &Shutdown) -> anyhow::Result<()> {
    let interactive = std::io::stdin().is_terminal();
    if interactive {
        println!("\nYour turn: type a line as above, `help` for the words, or Ctrl-C to end.");
    }
    // A thread of its own: reading blocks, and a stop does not wait for a line.
    let (line, lines) = mpsc::channel();
    std::thread::Builder::new().name("stdin".into()).spawn(move || {
        for read in std::io::stdin().lock().lines() {
            let Ok(read) = read else { break };
            if line.send(read).is_err() {
                break;
            }
        }
    })?;
    while !stop.is_asked() {
        match lines.recv_timeout(Duration::from_millis(100)) {
            Ok(line) if line.trim() == "quit" => break,
            Ok(line) => match player.play_line(&line) {
                Err(play::Problem::Line(problem)) => println!("      {problem}"),
                result => result?,
            },
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    Ok(())
}

/// The demo's lookup sources: they know the names of the demo file.
#[derive(Clone)]
struct DemoLookups(Arc<Demo>);

impl Lookups for DemoLookups {
    fn known(&self, _: &Tenant, query: &Query) -> Option<Option<Vec<u8>>> {
        Some(self.0.answer(&query.source, &query.key))
    }

    fn fetch(&self, _: &Tenant, query: &Query, _: u32, _: Duration) -> Result<Option<Vec<u8>>, LookupError> {
        Ok(self.0.answer(&query.source, &query.key))
    }
}
