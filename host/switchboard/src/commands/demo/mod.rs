//! `switchboard demo`: the real host on an embedded broker, played by a script and by what is typed.

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

use self::format::Demo;
use self::play::{Play, Reporter};
use self::swap::Stage;
use super::run::{aliases, rules, sandbox};
use crate::config::{LogFormat, Settings};
use crate::host::{Host, Plan};
use crate::signals::stop_on_signals;
use crate::telemetry;
use switchboard_kafka::Shutdown;
use switchboard_kafka::{ClientOptions, EmbeddedBroker, GroupProtocol, Topology};
use switchboard_sandbox::InstancePool;

/// Plays the demo's script, or the one given, then takes lines from standard input until its end or Ctrl-C. With a
/// script of one's own it ends after it. `others`: releases that `swap` changes a tenant to, one after the other.
///
/// # Errors
/// When a file cannot be used, a line of a script is not understood, or the host cannot go on.
pub fn demo(plugin: &Path, file: &Path, others: &[PathBuf], script: Option<&Path>) -> anyhow::Result<()> {
    if std::env::var_os("RUST_LOG").is_some() {
        telemetry::logs(LogFormat::Text);
    }
    let demo = Arc::new(Demo::load(file)?);
    let own_script = script.map(|path| {
        std::fs::read_to_string(path).with_context(|| format!("the script {} cannot be read", path.display()))
    });
    let own_script = own_script.transpose()?;

    let settings = Settings {
        app: "demo".into(),
        shards: 4,
        tenant_headers: demo.tenant_headers.clone(),
        carry_headers: demo.carry_headers.clone(),
        ..Settings::default()
    };
    let sandbox = sandbox(&settings)?;
    let limits = *sandbox.limits();
    let artifact = Arc::new(sandbox.load_file(plugin)?);
    let mut releases = vec![Arc::clone(&artifact)];
    for other in others {
        releases.push(Arc::new(sandbox.load_file(other)?));
    }
    let rules = rules(&settings);
    let stage = Stage::new(releases, rules.tenants.clone());
    // Aliases as they are: the demo's broker has only its own topics.
    let topology = Topology::new(&rules.app, settings.topics.clone(), |_| None, rules.shards);
    let consumes = aliases(&artifact.manifest().consumes);
    let topology = Arc::new(topology.with(&*consumes, &artifact.release().produces)?);

    let broker = EmbeddedBroker::start().context("starting the embedded broker")?;
    broker.create_topics(&topology, 2).context("creating topics on the embedded broker")?;
    let options = ClientOptions {
        bootstrap_servers: broker.bootstrap_servers(),
        app: rules.app.clone(),
        instance: "demo".into(),
        static_members: false,
        // A first join of the classic protocol takes the mock 3 s.
        group_protocol: GroupProtocol::Consumer,
        session_timeout_ms: settings.session_timeout_ms,
        // The mock lets a fetch wait for its whole time, whatever comes meanwhile.
        properties: [("fetch.wait.max.ms".to_owned(), "2".to_owned())].into(),
    };

    let stop = Shutdown::default();
    stop_on_signals(&stop).context("handling signals")?;
    let (report, reports) = mpsc::channel();
    let plan = Plan { rules, options, topology, lookups: NamesOnly(Arc::clone(&demo)), workers: 1, state_dir: None };
    let plugins = || InstancePool::subscribed(stage.board(), limits);
    let host = Host::start(&plan, plugins, || Reporter::new(report.clone()), &stop)?;

    let mut play = Play::new(&demo, &broker, &reports, stage, &stop);
    println!("{}\n", demo.title);
    println!(
        "Plugin: {} {}, embedded broker at {}.\n",
        artifact.manifest().name,
        artifact.manifest().version,
        broker.bootstrap_servers()
    );
    let played = play.script(own_script.as_deref().unwrap_or(&demo.script));
    let played = match own_script {
        Some(_) => played,
        None => played.and_then(|()| typed(&mut play, &stop)),
    };
    stop.ask();
    host.join()?;
    played
}

/// Takes lines from standard input until its end, `quit` or a stop. A line that is not understood is told, not an end.
fn typed(play: &mut Play<'_>, stop: &Shutdown) -> anyhow::Result<()> {
    let interactive = std::io::stdin().is_terminal();
    if interactive {
        println!("\nYour turn: type a line as above, `help` for the words, Ctrl-C to end.");
    }
    // Reading blocks, and a stop must not wait for a line.
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
            Ok(line) => match play.line(&line) {
                Err(play::Problem::Line(problem)) => println!("      {problem}"),
                result => result?,
            },
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    Ok(())
}

/// The demo's lookup sources: the names of its file.
#[derive(Clone)]
struct NamesOnly(Arc<Demo>);

impl Lookups for NamesOnly {
    fn known(&mut self, _: &Tenant, query: &Query) -> Option<Option<Vec<u8>>> {
        Some(self.0.answer(&query.source, &query.key))
    }

    fn fetch(&mut self, _: &Tenant, query: &Query, _: u32, _: Duration) -> Result<Option<Vec<u8>>, LookupError> {
        Ok(self.0.answer(&query.source, &query.key))
    }
}
