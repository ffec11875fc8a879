//! Several hosts, and their supervisor: one that ended by itself is started again.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::host::switchboard;
use crate::process::Process;

/// How long a host may take to end after SIGTERM, with all brokers there.
const END: Duration = Duration::from_mins(1);
/// So many ends by itself are no consequence of faults any more.
const TOO_MANY: usize = 200;

/// How all hosts are run.
#[derive(Debug)]
pub struct Setup {
    /// The application's name.
    pub app: String,
    /// The brokers.
    pub bootstrap: String,
    /// The artifact on file.
    pub plugin: PathBuf,
    /// For logs and temporary files.
    pub directory: PathBuf,
    /// Further flags.
    pub arguments: Vec<String>,
}

/// The hosts; each has a place, running or not.
#[derive(Debug)]
pub struct Fleet {
    setup: Setup,
    hosts: Vec<Member>,
    /// Why hosts ended by themselves, each time.
    ended: Vec<String>,
}

#[derive(Debug)]
struct Member {
    /// Its stable instance id; none: it takes a free slot number.
    instance: Option<String>,
    process: Option<Process>,
    /// It was asked to end.
    leaving: bool,
    log: PathBuf,
}

impl Fleet {
    /// Places for hosts with these instance ids; none runs yet.
    pub fn new(setup: Setup, instances: &[Option<&str>]) -> Result<Self> {
        fs::create_dir_all(&setup.directory)?;
        let mut hosts = Vec::new();
        for (number, instance) in instances.iter().enumerate() {
            let log = setup.directory.join(format!("host-{number}.log"));
            hosts.push(Member { instance: instance.map(str::to_owned), process: None, leaving: false, log });
        }
        Ok(Self { setup, hosts, ended: Vec::new() })
    }

    /// How many places there are.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.hosts.len()
    }

    /// Whether a host runs.
    pub fn runs(&self, host: usize) -> bool {
        self.hosts[host].process.is_some()
    }

    /// A running host's resident memory, in bytes.
    pub fn memory(&self, host: usize) -> Result<u64> {
        let process = self.hosts[host].process.as_ref().with_context(|| format!("host {host} does not run"))?;
        Ok(process.memory()?.0)
    }

    /// Starts a host, unless it runs.
    pub fn start(&mut self, host: usize) -> Result<()> {
        let Self { setup, hosts, .. } = self;
        let member = &mut hosts[host];
        if member.process.is_some() {
            return Ok(());
        }
        let log = File::options().create(true).append(true).open(&member.log)?;
        let mut command = switchboard()?;
        command
            .args(["run", "--app", &setup.app, "--plugin"])
            .arg(&setup.plugin)
            .args(&setup.arguments)
            .args(member.instance.iter().flat_map(|instance| ["--instance", instance]))
            .env("BOOTSTRAP_SERVERS", &setup.bootstrap)
            // Where slot numbers are claimed.
            .env("TMPDIR", &setup.directory)
            .stdout(log.try_clone()?)
            .stderr(log);
        member.process = Some(Process::start(&mut command)?);
        member.leaving = false;
        Ok(())
    }

    /// Asks a running host to end (SIGTERM); [`Self::wait`] waits for it.
    pub fn terminate(&mut self, host: usize) {
        self.hosts[host].leaving = true;
        self.signal(host, Signal::TERM);
    }

    /// Sends a running host a signal.
    pub fn signal(&self, host: usize, signal: Signal) {
        if let Some(process) = &self.hosts[host].process {
            process.signal(signal);
        }
    }

    /// Kills a host (SIGKILL).
    pub fn kill(&mut self, host: usize) -> Result<()> {
        if let Some(mut process) = self.hosts[host].process.take() {
            process.kill()?;
        }
        Ok(())
    }

    /// Waits for the end of a host that was asked to end. One that could not end well is told, but may have been fenced
    /// just then.
    pub fn wait(&mut self, host: usize) -> Result<()> {
        if let Some(mut process) = self.hosts[host].process.take() {
            let status = process.wait(END).with_context(|| format!("host {host} was sent SIGTERM"))?;
            if !status.success() {
                self.ended.push(format!("host {host} after SIGTERM, {status}: {}", last_line(&self.hosts[host].log)));
            }
        }
        Ok(())
    }

    /// Starts those again that have ended by themselves.
    pub fn supervise(&mut self) -> Result<()> {
        for host in 0..self.hosts.len() {
            let member = &mut self.hosts[host];
            let Some(process) = member.process.as_mut().filter(|_| !member.leaving) else { continue };
            let Some(status) = process.ended()? else { continue };
            member.process = None;
            self.ended.push(format!("host {host}, {status}: {}", last_line(&member.log)));
            if self.ended.len() > TOO_MANY {
                bail!("hosts end by themselves again and again, last {}", self.ended[TOO_MANY]);
            }
            self.start(host)?;
        }
        Ok(())
    }

    /// Why hosts ended by themselves, each time.
    pub fn ended(&self) -> &[String] {
        &self.ended
    }

    /// In how many lines of the hosts' logs this text is.
    pub fn count(&self, text: &str) -> usize {
        let lines = |member: &Member| {
            let log = fs::read(&member.log).unwrap_or_default();
            String::from_utf8_lossy(&log).lines().filter(|line| line.contains(text)).count()
        };
        self.hosts.iter().map(lines).sum()
    }
}

fn last_line(log: &Path) -> String {
    let log = fs::read(log).unwrap_or_default();
    String::from_utf8_lossy(&log).lines().next_back().unwrap_or_default().to_owned()
}
