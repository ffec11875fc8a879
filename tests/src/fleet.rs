//! Several hosts and their supervisor, which restarts a host that has ended by itself.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::host::switchboard;
use crate::process::Process;
use crate::progress::NO_PROGRESS_LIMIT;

/// More ends than this are not a consequence of the faults.
const MAX_UNEXPECTED_ENDS: usize = 200;
/// A host logs this text when the group has assigned it partitions.
const ASSIGNED_LOG: &str = " shards assigned";

/// The settings of all hosts.
#[derive(Debug)]
pub struct Setup {
    /// The application's name.
    pub app: String,
    /// The brokers.
    pub bootstrap: String,
    /// The file of the plugin's artifact.
    pub plugin: PathBuf,
    /// For logs and temporary files.
    pub directory: PathBuf,
    /// Further flags.
    pub arguments: Vec<String>,
}

/// The hosts by number. A host may be running or stopped.
#[derive(Debug)]
pub struct Fleet {
    setup: Setup,
    hosts: Vec<Member>,
    /// Why hosts ended by themselves, each time.
    ended: Vec<String>,
}

#[derive(Debug)]
struct Member {
    /// Its `--instance`. Without, the host takes a free slot number.
    instance: Option<String>,
    process: Option<Process>,
    /// Whether the test has asked it to end.
    leaving: bool,
    log: PathBuf,
    /// The position in the log file where the log of the running process begins.
    begin: u64,
    /// Whether it has been assigned partitions since it was started.
    takes_part: bool,
}

impl Member {
    fn takes_part(&mut self) -> Result<bool> {
        if self.process.is_some() && !self.takes_part {
            let mut log = File::open(&self.log)?;
            log.seek(SeekFrom::Start(self.begin))?;
            let mut bytes = Vec::new();
            log.read_to_end(&mut bytes)?;
            self.takes_part = String::from_utf8_lossy(&bytes).contains(ASSIGNED_LOG);
        }
        Ok(self.process.is_none() || self.takes_part)
    }
}

impl Fleet {
    /// Hosts with these process instances, all of them stopped.
    pub fn new(setup: Setup, instances: &[Option<&str>]) -> Result<Self> {
        fs::create_dir_all(&setup.directory)?;
        let mut hosts = Vec::new();
        for (number, instance) in instances.iter().enumerate() {
            let log = setup.directory.join(format!("host-{number}.log"));
            let instance = instance.map(str::to_owned);
            hosts.push(Member { instance, process: None, leaving: false, log, begin: 0, takes_part: false });
        }
        Ok(Self { setup, hosts, ended: Vec::new() })
    }

    /// The number of hosts, running or not.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.hosts.len()
    }

    /// Whether a host runs.
    pub fn runs(&self, host: usize) -> bool {
        self.hosts[host].process.is_some()
    }

    /// Whether all hosts that run have been assigned partitions since they were started.
    pub fn all_take_part(&mut self) -> Result<bool> {
        for member in &mut self.hosts {
            if !member.takes_part()? {
                return Ok(false);
            }
        }
        Ok(true)
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
        member.begin = log.metadata()?.len();
        member.takes_part = false;
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

    /// Asks a running host to end (SIGTERM). [`Self::wait`] waits for the end.
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

    /// Waits for the end of a host that was asked to end. A host that ends with an error is recorded and accepted,
    /// because another one may have fenced it at that moment.
    pub fn wait(&mut self, host: usize) -> Result<()> {
        if let Some(mut process) = self.hosts[host].process.take() {
            let status = process.wait(NO_PROGRESS_LIMIT).with_context(|| format!("host {host} was sent SIGTERM"))?;
            if !status.success() {
                self.ended.push(format!("host {host} after SIGTERM, {status}: {}", last_line(&self.hosts[host].log)));
            }
        }
        Ok(())
    }

    /// Restarts the hosts that have ended by themselves.
    pub fn supervise(&mut self) -> Result<()> {
        for host in 0..self.hosts.len() {
            let member = &mut self.hosts[host];
            let Some(process) = member.process.as_mut().filter(|_| !member.leaving) else { continue };
            let Some(status) = process.ended()? else { continue };
            member.process = None;
            self.ended.push(format!("host {host}, {status}: {}", last_line(&member.log)));
            if self.ended.len() > MAX_UNEXPECTED_ENDS {
                bail!("hosts end by themselves repeatedly, the last one: {}", self.ended[MAX_UNEXPECTED_ENDS]);
            }
            self.start(host)?;
        }
        Ok(())
    }

    /// Why hosts ended by themselves, each time.
    pub fn ended(&self) -> &[String] {
        &self.ended
    }

    /// The number of lines in the hosts' logs that contain this text.
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
