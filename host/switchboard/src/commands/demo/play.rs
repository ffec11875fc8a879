//! Plays lines: sends the record of each line, waits for its verdict, and prints the outputs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use switchboard_core::record::Record;
use switchboard_core::routing::Manifest;
use switchboard_core::worker::{Observer, Settled, Verdict};
use switchboard_kafka::{EmbeddedBroker, Shutdown};

use super::format::{Demo, DemoTenant};
use super::swap::{DemoReleases, Swap};

/// How long the demo waits for the verdict of a record.
const VERDICT_TIMEOUT: Duration = Duration::from_secs(30);

/// Sends each verdict to the player when its transaction is committed.
pub(super) struct VerdictObserver {
    report: Sender<Verdict>,
    uncommitted: Vec<Verdict>,
}

impl VerdictObserver {
    pub(super) fn new(report: Sender<Verdict>) -> Self {
        Self { report, uncommitted: Vec::new() }
    }
}

impl Observer for VerdictObserver {
    fn settled(&mut self, message: Settled<'_>) {
        self.uncommitted.push(message.verdict.clone());
    }

    fn committed(&mut self) {
        for verdict in self.uncommitted.drain(..) {
            // Err: the demo has ended.
            let _ = self.report.send(verdict);
        }
    }

    fn aborted(&mut self) {
        self.uncommitted.clear();
    }
}

/// Why a line was not played.
#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
    #[error("{0}")]
    Line(String),
    #[error("the embedded broker: {0}")]
    Broker(String),
    #[error("the host did not process the record within {} s (set RUST_LOG=debug for details)", VERDICT_TIMEOUT.as_secs())]
    NoVerdict,
}

/// Plays one line at a time.
pub(super) struct Player<'a> {
    demo: &'a Demo,
    broker: &'a EmbeddedBroker,
    verdicts: &'a Receiver<Verdict>,
    stop: &'a Shutdown,
    releases: DemoReleases,
    /// The tenant of the last line, for a line without a tenant.
    tenant: &'a DemoTenant,
    /// How long the last message of each tenant took, by the tenant's name.
    latencies: BTreeMap<&'a str, Duration>,
    /// Tenants whose next message is the first one of another release.
    swapped: BTreeSet<&'a str>,
}

impl<'a> Player<'a> {
    /// # Panics
    /// When the demo has no tenant; `Demo::load` refuses that.
    pub(super) fn new(
        demo: &'a Demo,
        broker: &'a EmbeddedBroker,
        verdicts: &'a Receiver<Verdict>,
        releases: DemoReleases,
        stop: &'a Shutdown,
    ) -> Self {
        let tenant = &demo.tenants[0];
        Self { demo, broker, verdicts, stop, releases, tenant, latencies: BTreeMap::new(), swapped: BTreeSet::new() }
    }

    /// Plays all lines; ends early when the demo is stopped.
    pub(super) fn play_script(&mut self, script: &str) -> anyhow::Result<()> {
        for (number, line) in script.lines().enumerate() {
            if self.stop.is_asked() {
                break;
            }
            self.play_line(line).map_err(|problem| match problem {
                Problem::Line(problem) => anyhow::anyhow!("line {} of the script, {line:?}: {problem}", number + 1),
                problem => problem.into(),
            })?;
        }
        Ok(())
    }

    /// Plays one line.
    pub(super) fn play_line(&mut self, line: &str) -> Result<(), Problem> {
        let line = line.trim();
        if let Some(comment) = line.strip_prefix('#') {
            println!("\n{}", comment.trim());
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
        if !self.releases.has_others() {
            println!("{name:<5} swap\n        -> (there is no other release: start the demo with --release FILE)");
            return Ok(());
        }
        let Swap { artifact, duration } = self.releases.swap(self.demo, self.tenant).map_err(Problem::Line)?;
        let Manifest { name: plugin, version, .. } = artifact.manifest();
        println!("{name:<5} swap");
        let line = format!("{name} runs {plugin} {version} from its next message on; no tenant had to wait");
        println!("        -> {line:<76} {:>6.1} ms", duration.as_secs_f64() * 1e3);
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
        // `None`: the demo is stopped.
        let Some(verdict) = self.verdict(started)? else { return Ok(()) };
        let lines = match verdict {
            Verdict::Outputs(outputs) if outputs.is_empty() => vec!["(nothing)".to_owned()],
            Verdict::Outputs(outputs) => outputs.iter().map(|output| self.demo.describe(output)).collect(),
            Verdict::DeadLetter(letter) => vec![format!("dead letter ({letter})")],
            Verdict::Waits(_) => Vec::new(),
        };
        let latency = started.elapsed();
        for (number, line) in lines.iter().enumerate() {
            let time = if number == 0 { format!("{:.1} ms", latency.as_secs_f64() * 1e3) } else { String::new() };
            println!("        -> {line:<76} {time:>9}");
        }
        let name = self.tenant.name.as_str();
        let before = self.latencies.insert(name, latency);
        if self.swapped.remove(name)
            && let Some(before) = before
        {
            let pause = latency.saturating_sub(before).as_secs_f64() * 1e3;
            println!(
                "        (pause: the first message after the swap took {pause:.1} ms longer than the last message before it)"
            );
        }
        Ok(())
    }

    fn verdict(&self, started: Instant) -> Result<Option<Verdict>, Problem> {
        loop {
            match self.verdicts.recv_timeout(Duration::from_millis(100)) {
                Ok(verdict) => return Ok(Some(verdict)),
                Err(_) if self.stop.is_asked() => return Ok(None),
                Err(RecvTimeoutError::Timeout) if started.elapsed() < VERDICT_TIMEOUT => {}
                Err(_) => return Err(Problem::NoVerdict),
            }
        }
    }

    fn help(&self) {
        println!(
            "A line is: [tenant] word arguments. Without a tenant, the line is for the last one: {}.\n",
            self.tenant.name
        );
        for word in &self.demo.words {
            println!("  {:<28} {}", word.usage(), word.help);
        }
        println!("  {:<28} gives the tenant another release of the plugin, and back", "swap");
        println!("  {:<28} ends the demo, like Ctrl-C", "quit");
        let tenants: Vec<_> = self.demo.tenants.iter().map(|tenant| tenant.name.as_str()).collect();
        println!("\nTenants: {}.", tenants.join(", "));
        for (kind, names) in &self.demo.names {
            println!("Each {kind}: {}, or a number.", names.keys().map(String::as_str).collect::<Vec<_>>().join(", "));
        }
    }
}
