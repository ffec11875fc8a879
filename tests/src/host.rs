//! The host under test: the release binary as a child process. Tests control it as an operator does, by arguments,
//! environment and signals, and they watch its log.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use rustix::process::{Pid, Signal};

use crate::process::{Process, leashed};

/// A command for [`Host::start`]: the binary, without arguments yet.
pub fn switchboard() -> Result<Command> {
    Ok(leashed(binary()?, None))
}

/// The binary.
pub fn binary() -> Result<PathBuf> {
    built("release/switchboard")
}

/// The environment variable that names the mutation of a mutant.
const MUTATION_VARIABLE: &str = "SWITCHBOARD_MUTATION";

/// A command like [`switchboard`] for a mutant: the binary that has all mutations compiled in, with this one switched
/// on. Tests never build it, because a compiler would take the processors that they need.
pub fn mutant(name: &str) -> Result<Command> {
    let mut command = leashed(built_by("tools/build-mutants", "release/mutant-host")?, None);
    command.env(MUTATION_VARIABLE, name);
    Ok(command)
}

/// The messenger's component.
pub fn messenger() -> Result<PathBuf> {
    built("wasm32-wasip2/release/messenger.wasm")
}

/// The component of the hostile plugin, which does what its message says.
pub fn hostile() -> Result<PathBuf> {
    built("wasm32-wasip2/release/hostile.wasm")
}

/// The component of the ledger plugin, which numbers each tenant's messages.
pub fn ledger() -> Result<PathBuf> {
    built("wasm32-wasip2/release/ledger.wasm")
}

/// A component of the crate `releases`, such as `messenger_2`. The crate's documentation lists them.
pub fn release(name: &str) -> Result<PathBuf> {
    built(&format!("wasm32-wasip2/guests/examples/{name}.wasm"))
}

fn built(name: &str) -> Result<PathBuf> {
    built_by("make build", name)
}

/// A file in the target directory. `command` builds it.
fn built_by(command: &str, name: &str) -> Result<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or("target".into(), PathBuf::from);
    let path = workspace.join(target).join(name);
    ensure!(path.is_file(), "{} is missing: run `{command}` first", path.display());
    Ok(path.canonicalize()?)
}

/// A running host. Dropping it kills it.
///
/// Its log (both outputs) is printed with its name in front of each line, so a failing test shows it.
#[derive(Debug)]
pub struct Host {
    name: String,
    process: Process,
    log: Arc<Log>,
}

impl Host {
    /// Starts a command that [`switchboard`] has made. `name` is for people.
    pub fn start(name: &str, command: &mut Command) -> Result<Self> {
        let (output, held) = std::io::pipe()?;
        command.stdout(held.try_clone()?).stderr(held);
        let process = Process::start(command)?;
        // The command holds the pipe's write end too, and would keep the log from ending.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let log = Arc::new(Log::default());
        let shared = Arc::clone(&log);
        let prefix = name.to_owned();
        thread::spawn(move || shared.fill(&prefix, output));
        Ok(Self { name: name.to_owned(), process, log })
    }

    /// Waits for the first line of the log that meets `condition`, earlier lines included, and returns it. Fails when
    /// `within` has passed or the host has ended. `what` names the line in the error.
    pub fn wait_for(&self, what: &str, within: Duration, condition: impl Fn(&str) -> bool) -> Result<String> {
        let deadline = Instant::now() + within;
        let mut seen = 0;
        let mut lines = self.log.lines();
        loop {
            if let Some(line) = lines.text[seen..].iter().find(|line| condition(line)) {
                return Ok(line.clone());
            }
            seen = lines.text.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if lines.ended || left.is_zero() {
                let last = lines.text.last().map_or("", String::as_str);
                let why = if lines.ended { "it ended".into() } else { format!("{within:?} passed") };
                bail!("{}: {why} before {what} ({seen} lines of log, the last: {last:?})", self.name);
            }
            lines = self.log.more.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The log so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lines().text.clone()
    }

    /// The last value that `find` gets from a line of the log so far.
    pub fn last<T>(&self, find: impl Fn(&str) -> Option<T>) -> Option<T> {
        self.log.lines().text.iter().rev().find_map(|line| find(line))
    }

    /// Asks the host to end (SIGTERM), and waits for its end.
    pub fn terminate(&mut self, within: Duration) -> Result<ExitStatus> {
        self.process.signal(Signal::TERM);
        self.process.wait(within)
    }

    /// Waits until the host ends by itself.
    pub fn wait(&mut self, within: Duration) -> Result<ExitStatus> {
        self.process.wait(within)
    }

    /// Waits until the host ends by itself, and returns its exit status and whole log.
    pub fn end(mut self, within: Duration) -> Result<(ExitStatus, Vec<String>)> {
        let status = self.process.wait(within)?;
        let mut lines = self.log.lines();
        while !lines.ended {
            lines = self.log.more.wait(lines).unwrap_or_else(PoisonError::into_inner);
        }
        Ok((status, lines.text.clone()))
    }

    /// Kills the host (SIGKILL). It flushes nothing, and does not leave its group.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.process.kill()
    }

    /// Its resident memory now and at its peak, in bytes.
    pub fn memory(&self) -> Result<(u64, u64)> {
        self.process.memory()
    }

    /// The CPU time that it has used so far.
    pub fn cpu_time(&self) -> Result<Duration> {
        self.process.cpu_time()
    }

    /// The number of its threads.
    pub fn threads(&self) -> Result<usize> {
        self.process.threads()
    }

    /// The number of its open TCP connections to this port.
    pub fn connections(&self, port: u16) -> Result<usize> {
        self.process.connections(port)
    }

    /// Its pid, which is valid until it has ended.
    pub fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// Freezes the host (SIGSTOP). Its connections stay open, and it answers nothing.
    pub fn pause(&self) {
        self.process.signal(Signal::STOP);
    }

    /// Lets the host continue after [`Host::pause`] (SIGCONT).
    pub fn resume(&self) {
        self.process.signal(Signal::CONT);
    }
}

#[derive(Debug, Default)]
struct Log {
    lines: Mutex<Lines>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Lines {
    text: Vec<String>,
    ended: bool,
}

impl Log {
    fn fill(&self, name: &str, output: impl Read) {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            eprintln!("{name} | {line}");
            self.lines().text.push(line);
            self.more.notify_all();
        }
        self.lines().ended = true;
        self.more.notify_all();
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        // A `condition` that panics is a failed assertion of a test.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;
    use crate::progress::NO_PROGRESS_LIMIT as WAIT_LIMIT;

    /// A shell script instead of the host.
    fn script(script: &str) -> Result<Host> {
        Host::start("script", leashed("sh", None).args(["-c", script]))
    }

    #[test]
    fn lines_of_both_outputs_are_waited_for() -> Result<()> {
        let host = script("echo one; echo two >&2; exec tail -f /dev/null")?;
        assert_eq!(host.wait_for("two", WAIT_LIMIT, |line| line.starts_with("tw"))?, "two");
        assert_eq!(host.wait_for("one, which came earlier", WAIT_LIMIT, |line| line == "one")?, "one");
        assert_eq!(host.log(), ["one", "two"]);
        assert_eq!(host.last(|line| line.contains('o').then(|| line.to_owned())), Some("two".to_owned()));
        Ok(())
    }

    #[test]
    fn an_end_is_seen_while_waiting_for_a_line() -> Result<()> {
        let mut host = script("echo cannot go on; exit 3")?;
        let error = host.wait_for("readiness", WAIT_LIMIT, |line| line == "ready").unwrap_err().to_string();
        assert_eq!(error, "script: it ended before readiness (1 lines of log, the last: \"cannot go on\")");
        assert_eq!(host.wait(WAIT_LIMIT)?.code(), Some(3));
        Ok(())
    }

    #[test]
    fn a_missing_line_is_an_error_that_names_it() -> Result<()> {
        let host = script("exec tail -f /dev/null")?;
        let error = host.wait_for("readiness", Duration::from_millis(1), |_| true).unwrap_err().to_string();
        assert_eq!(error, "script: 1ms passed before readiness (0 lines of log, the last: \"\")");
        Ok(())
    }

    #[test]
    fn a_paused_host_gets_a_signal_when_it_resumes() -> Result<()> {
        let mut host = script("trap 'echo leaving; exit 0' TERM; echo up; tail -f /dev/null & wait")?;
        host.wait_for("its start", WAIT_LIMIT, |line| line == "up")?;
        host.pause();
        host.terminate(Duration::from_millis(1)).unwrap_err();
        host.resume();
        assert_eq!(host.wait(WAIT_LIMIT)?.code(), Some(0));
        assert_eq!(host.wait_for("its last word", WAIT_LIMIT, |line| line == "leaving")?, "leaving");
        Ok(())
    }

    #[test]
    fn a_killed_host_logs_nothing() -> Result<()> {
        let mut host = script("trap 'echo leaving' TERM; echo up; exec tail -f /dev/null")?;
        host.wait_for("its start", WAIT_LIMIT, |line| line == "up")?;
        assert_eq!(host.kill()?.signal(), Some(Signal::KILL.as_raw()));
        assert_eq!(host.log(), ["up"]);
        Ok(())
    }
}
