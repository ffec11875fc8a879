use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use switchboard_core::record::Record;
use switchboard_core::routing::Manifest;
use switchboard_core::worker::{Observer, Settled, Verdict};

use super::format::{Demo, DemoTenant};
use super::swap::{Stage, Swapped};
use switchboard_kafka::EmbeddedBroker;
use switchboard_kafka::Shutdown;

/// How long a record may take before the demo gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Tells each verdict once its transaction is committed.
pub(super) struct Reporter {
    report: Sender<Verdict>,
    open: Vec<Verdict>,
}

impl Reporter {
    pub(super) fn new(report: Sender<Verdict>) -> Self {
        Self { report, open: Vec::new() }
    }
}

impl Observer for Reporter {
    fn settled(&mut self, message: Settled<'_>) {
        self.open.push(message.verdict.clone());
    }

    fn committed(&mut self) {
        for verdict in self.open.drain(..) {
            // Err: the demo has ended.
            let _ = self.report.send(verdict);
        }
    }

    fn aborted(&mut self) {
        self.open.clear();
    }
}

/// What ends a line without its record.
#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
    #[error("{0}")]
    Line(String),
    #[error("the embedded broker: {0}")]
    Broker(String),
    #[error("the host did not settle the record within {} s (RUST_LOG=debug tells more)", PATIENCE.as_secs())]
    NoVerdict,
}

/// Sends one line's record at a time and shows what it caused.
pub(super) struct Play<'a> {
    demo: &'a Demo,
    broker: &'a EmbeddedBroker,
    verdicts: &'a Receiver<Verdict>,
    stop: &'a Shutdown,
    stage: Stage,
    /// The tenant of the last line: a line may leave it out.
    tenant: &'a DemoTenant,
    /// How long the last message of each tenant took, by the tenant's name.
    took: BTreeMap<&'a str, Duration>,
    /// Tenants whose next message is the first of another release.
    swapped: BTreeSet<&'a str>,
}

impl<'a> Play<'a> {
    /// # Panics
    /// When the demo has no tenant; `Demo::load` refuses that.
    pub(super) fn new(
        demo: &'a Demo,
        broker: &'a EmbeddedBroker,
        verdicts: &'a Receiver<Verdict>,
        stage: Stage,
        stop: &'a Shutdown,
    ) -> Self {
        let tenant = &demo.tenants[0];
        Self { demo, broker, verdicts, stop, stage, tenant, took: BTreeMap::new(), swapped: BTreeSet::new() }
    }

    /// Plays all lines; ends early when a stop is asked for.
    pub(super) fn script(&mut self, script: &str) -> anyhow::Result<()> {
        for (number, line) in script.lines().enumerate() {
            if self.stop.is_asked() {
                break;
            }
            self.line(line).map_err(|problem| match problem {
                Problem::Line(problem) => anyhow::anyhow!("line {} of the script, {line:?}: {problem}", number + 1),
                problem => problem.into(),
            })?;
        }
        Ok(())
    }

    /// Plays one line.
    pub(super) fn line(&mut self, line: &str) -> Result<(), Problem> {
        let line = line.trim();
        if let Some(told) = line.strip_prefix('#') {
            println!("\n{}", told.trim());
            return Ok(());
        }
        let mut words: Vec<_> = line.split_whitespace().collect();
        let tenants = &self.demo.tenants;
        if let Some(tenant) =
            tenants.iter().find(|t| words.first().is_some_and(|word| t.name.eq_ignore_ascii_case(word)))
        {
            self.tenant = tenant;
            words.remove(0);
        }
        match &words[..] {
            [] => Ok(()),
            ["help"] => {
                self.help();
                Ok(())
            }
            ["swap"] => self.swap(),
            words => self.send(words),
        }
    }

    fn swap(&mut self) -> Result<(), Problem> {
        let name = &self.tenant.name;
        if !self.stage.has_others() {
            println!(
                "{name:<5} swap\n        -> (there is no other release: start the demo with --release OTHER.wasm)"
            );
            return Ok(());
        }
        let Swapped { artifact, taken } = self.stage.swap(self.demo, self.tenant).map_err(Problem::Line)?;
        let Manifest { name: plugin, version, .. } = artifact.manifest();
        println!("{name:<5} swap");
        let line = format!("from its next message on {name} runs {plugin} {version}; nobody waited for that");
        println!("        -> {line:<76} {:>6.1} ms", taken.as_secs_f64() * 1e3);
        self.swapped.insert(name);
        Ok(())
    }

    fn send(&mut self, words: &[&str]) -> Result<(), Problem> {
        let input = self.demo.input(words).map_err(Problem::Line)?;
        let headers = self.demo.headers(self.tenant).map_err(Problem::Line)?;
        println!("{:<5} {}", self.tenant.name, words.join(" "));
        let started = Instant::now();
        let record = Record { key: input.key, value: Some(input.value), headers, timestamp: None };
        self.broker.send(&input.alias, &record).map_err(|error| Problem::Broker(error.to_string()))?;
        // A stop leaves the line without its verdict.
        let Some(verdict) = self.verdict(started)? else { return Ok(()) };
        let lines = match verdict {
            Verdict::Outputs(outputs) if outputs.is_empty() => vec!["(nothing)".to_owned()],
            Verdict::Outputs(outputs) => outputs.iter().map(|output| self.demo.read(output)).collect(),
            Verdict::DeadLetter(letter) => vec![format!("dead letter ({letter})")],
            Verdict::Waits(_) => Vec::new(),
        };
        let latency = started.elapsed();
        for (number, line) in lines.iter().enumerate() {
            let time = if number == 0 { format!("{:.1} ms", latency.as_secs_f64() * 1e3) } else { String::new() };
            println!("        -> {line:<76} {time:>9}");
        }
        let name = self.tenant.name.as_str();
        let before = self.took.insert(name, latency);
        if self.swapped.remove(name)
            && let Some(before) = before
        {
            let pause = latency.saturating_sub(before).as_secs_f64() * 1e3;
            println!(
                "        (pause: the first message after the swap took {pause:.1} ms longer than the last one before it)"
            );
        }
        Ok(())
    }

    fn verdict(&self, started: Instant) -> Result<Option<Verdict>, Problem> {
        loop {
            match self.verdicts.recv_timeout(Duration::from_millis(100)) {
                Ok(verdict) => return Ok(Some(verdict)),
                Err(_) if self.stop.is_asked() => return Ok(None),
                Err(RecvTimeoutError::Timeout) if started.elapsed() < PATIENCE => {}
                Err(_) => return Err(Problem::NoVerdict),
            }
        }
    }

    fn help(&self) {
        println!(
            "A line is: [tenant] word arguments. The tenant may be left out: then it is the last one, {}.\n",
            self.tenant.name
        );
        for word in &self.demo.words {
            println!("  {:<28} {}", word.usage(), word.help);
        }
        println!("  {:<28} changes the tenant to another release of the plugin, and back", "swap");
        println!("  {:<28} ends the demo, as Ctrl-C does", "quit");
        let tenants: Vec<_> = self.demo.tenants.iter().map(|tenant| tenant.name.as_str()).collect();
        println!("\nTenants: {}.", tenants.join(", "));
        for (kind, names) in &self.demo.names {
            println!("Each {kind}: {}, or a number.", names.keys().map(String::as_str).collect::<Vec<_>>().join(", "));
        }
    }
}
