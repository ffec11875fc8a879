//! Child processes that end with their [`Process`], and with the test process, even if a signal kills the test process.
//!
//! A pipe, the leash, does this. The child's shell starts a watcher that reads from the pipe, and then executes the
//! program. Nobody writes to the pipe, so the read returns when the write end closes. The kernel closes it for a killed
//! process too. Rust does not drop statics, so the broker that all tests share always ends this way.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};

/// Linux counts the CPU time of a process in ticks of this many a second, on every usual architecture.
const TICKS_PER_SECOND: u64 = 100;

/// `$$` is the program's pid, also in the watcher, and the id of their process group. The kernel does not reuse it while the
/// watcher lives. The second `rm` removes a file that a dying thread created during the first.
const LEASH_SCRIPT: &str = r#"
scratch=$1; shift
exec 3<&0 </dev/null
{
    read -r _ <&3
    kill -KILL $$
    [ -z "$scratch" ] || rm -rf "$scratch" || rm -rf "$scratch"
} >/dev/null 2>&1 &
exec "$@" 3<&-
"#;

/// A command for [`Process::start`]. The caller adds arguments, environment and outputs. The watcher removes the
/// directory
/// `scratch` when the test process dies without dropping the [`Process`].
pub fn leashed(program: impl AsRef<OsStr>, scratch: Option<&Path>) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", LEASH_SCRIPT, "leash"]).arg(scratch.unwrap_or(Path::new(""))).arg(program);
    command
}

/// A running child in a process group of its own, so that Ctrl-C at the terminal does not reach it. Dropping it kills
/// the child.
#[derive(Debug)]
pub struct Process {
    /// Its standard input is the leash.
    child: Child,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts a [`leashed`] command. A program that does not exist shows as exit status 127.
    pub fn start(command: &mut Command) -> Result<Self> {
        let child = command.stdin(Stdio::piped()).process_group(0).spawn().context("sh cannot be started")?;
        Ok(Self { child, status: None })
    }

    /// Sends the program a signal. Does nothing when it has ended.
    pub fn signal(&self, signal: Signal) {
        if self.status.is_none() {
            // The program is not reaped yet, so the pid is still its own. The only error left is one of permission.
            let _ = kill_process(self.pid(), signal);
        }
    }

    /// The exit status of a program that has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
            if waitid(WaitId::Pid(self.pid()), options)?.is_some() {
                self.reap()?;
            }
        }
        Ok(self.status)
    }

    /// Waits until the program ends by itself. Fails when it still runs after `within`.
    pub fn wait(&mut self, within: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        let pid = self.pid();
        let (exited, exit) = mpsc::channel();
        // `waitid` has no time-out. After one, this thread ends with the program.
        thread::spawn(move || {
            let _ = exited.send(waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT));
        });
        exit.recv_timeout(within)
            .with_context(|| format!("process {} still runs after {within:?}", self.child.id()))??;
        self.reap()
    }

    /// Kills the program (SIGKILL), if it still runs, and waits for its end.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        match self.status {
            Some(status) => Ok(status),
            None => self.reap(),
        }
    }

    /// Kills the rest of the process group, at least the watcher, before the kernel may reuse the pid.
    fn reap(&mut self) -> Result<ExitStatus> {
        let _ = kill_process_group(self.pid(), Signal::KILL);
        let status = self.child.wait()?;
        self.status = Some(status);
        Ok(status)
    }

    /// The program's pid, which is valid until the program is reaped.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// The program's resident memory now and at its peak, in bytes.
    pub fn memory(&self) -> Result<(u64, u64)> {
        let path = format!("/proc/{}/status", self.pid().as_raw_pid());
        let status = fs::read_to_string(&path).with_context(|| path.clone())?;
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix("kB"));
            let kib = line.with_context(|| format!("{name} is not in {path}"))?.trim().parse::<u64>()?;
            anyhow::Ok(kib << 10)
        };
        Ok((kib("VmRSS:")?, kib("VmHWM:")?))
    }

    /// The CPU time that the program has used so far: all its threads, in user and kernel mode.
    pub fn cpu_time(&self) -> Result<Duration> {
        let path = format!("/proc/{}/stat", self.pid().as_raw_pid());
        let stat = fs::read_to_string(&path).with_context(|| path.clone())?;
        cpu_time_in(&stat).with_context(|| format!("no CPU time in {path}: {stat}"))
    }

    /// The number of the program's threads.
    pub fn threads(&self) -> Result<usize> {
        let path = format!("/proc/{}/task", self.pid().as_raw_pid());
        Ok(fs::read_dir(&path).with_context(|| path.clone())?.count())
    }

    /// The number of the program's open TCP connections to this port, on any host.
    pub fn connections(&self, port: u16) -> Result<usize> {
        let process = format!("/proc/{}", self.pid().as_raw_pid());
        let mut own = BTreeSet::new();
        for descriptor in fs::read_dir(format!("{process}/fd"))? {
            // Err: it was closed in between.
            let Ok(target) = fs::read_link(descriptor?.path()) else { continue };
            let inode = target.to_str().and_then(|target| target.strip_prefix("socket:[")?.strip_suffix(']'));
            own.extend(inode.and_then(|inode| inode.parse::<u64>().ok()));
        }
        let mut connections = 0;
        for table in ["tcp", "tcp6"] {
            // Err: the kernel does not have this protocol.
            let Ok(table) = fs::read_to_string(format!("{process}/net/{table}")) else { continue };
            connections += connections_in(&table, port).filter(|inode| own.contains(inode)).count();
        }
        Ok(connections)
    }
}

/// The inodes of the established connections to a port in a `/proc/PID/net/tcp`, which has those of all programs. The fields
/// of a line: number, local address, remote address (`0100007F:1F90`, hexadecimal), state (`01` is established), ..., inode.
fn connections_in(table: &str, port: u16) -> impl Iterator<Item = u64> {
    table.lines().skip(1).filter_map(move |line| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let (_, remote_port) = fields.get(2)?.rsplit_once(':')?;
        let is_open = u16::from_str_radix(remote_port, 16) == Ok(port) && fields.get(3) == Some(&"01");
        is_open.then(|| fields.get(9)?.parse().ok()).flatten()
    })
}

/// The sum of the fields 14 and 15 (`utime` and `stime`) of a `/proc/PID/stat`. Field 2 is the program's name in
/// parentheses, which may contain spaces and parentheses itself.
fn cpu_time_in(stat: &str) -> Option<Duration> {
    let (_, from_field_3) = stat.rsplit_once(')')?;
    let mut ticks = from_field_3.split_ascii_whitespace().skip(14 - 3).map(str::parse::<u64>);
    let ticks = ticks.next()?.ok()? + ticks.next()?.ok()?;
    Some(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::process::ExitStatusExt;

    use super::*;
    use crate::progress::{self, NO_PROGRESS_LIMIT as WAIT_LIMIT};

    /// A running program that never ends by itself, and its output, which closes when the program is gone.
    fn endless(scratch: Option<&Path>) -> Result<(Process, impl Read)> {
        let (mut output, held) = std::io::pipe()?;
        let mut command = leashed("sh", scratch);
        command.args(["-c", "echo up; exec tail -f /dev/null"]).stdout(held);
        let process = Process::start(&mut command)?;
        output.read_exact(&mut [0; 3])?;
        Ok((process, output))
    }

    #[test]
    fn an_exit_status_is_seen() -> Result<()> {
        let mut process = Process::start(leashed("sh", None).args(["-c", "exit 7"]))?;
        assert_eq!(process.wait(WAIT_LIMIT)?.code(), Some(7));
        assert_eq!(process.ended()?.and_then(|status| status.code()), Some(7));
        Ok(())
    }

    #[test]
    fn the_cpu_time_is_read_behind_a_name_with_spaces_and_parentheses() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194304 103 0 0 0 250 31 0 0 20 0 1 0 12 0 0";
        assert_eq!(cpu_time_in(stat), Some(Duration::from_millis(2810)));
        assert_eq!(cpu_time_in("7 (a) S 1 7"), None);
    }

    #[test]
    fn established_connections_to_a_port_are_found() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11 1 0 100 0 0 10 0
   1: 0100007F:9C40 0100007F:1F90 01 00000000:00000000 02:00000B5A 00000000     0        0 12 2 0 20 4 0 10 -1
   2: 0100007F:9C42 0100007F:1F90 06 00000000:00000000 03:00000B5A 00000000     0        0 0 3 0
   3: 0100007F:9C44 0100007F:1F91 01 00000000:00000000 02:00000B5A 00000000     0        0 13 2 0 20 4 0 10 -1
";
        assert_eq!(connections_in(table, 8080).collect::<Vec<_>>(), [12]);
    }

    #[test]
    fn own_threads_and_connections_are_counted() -> Result<()> {
        let (process, _output) = endless(None)?;
        assert_eq!((process.threads()?, process.connections(1)?), (1, 0));
        Ok(())
    }

    #[test]
    fn a_wait_times_out_and_the_program_continues() -> Result<()> {
        let (mut process, _output) = endless(None)?;
        let error = process.wait(Duration::from_millis(1)).unwrap_err();
        assert!(error.to_string().contains("still runs after 1ms"), "{error}");
        assert_eq!(process.ended()?, None);
        process.signal(Signal::TERM);
        assert_eq!(process.wait(WAIT_LIMIT)?.signal(), Some(Signal::TERM.as_raw()));
        Ok(())
    }

    #[test]
    fn dropping_a_process_kills_it() -> Result<()> {
        let scratch = tempfile::tempdir()?;
        let (process, mut output) = endless(Some(scratch.path()))?;
        drop(process);
        assert_eq!(output.read(&mut [0; 1])?, 0, "the program is gone");
        assert!(scratch.path().exists(), "the directory is left to its owner");
        Ok(())
    }

    #[test]
    fn the_child_ends_with_the_test_process() -> Result<()> {
        let scratch = tempfile::tempdir()?;
        std::fs::write(scratch.path().join("data"), "data")?;
        let (mut process, mut output) = endless(Some(scratch.path()))?;
        drop(process.child.stdin.take());
        assert_eq!(output.read(&mut [0; 1])?, 0, "the program is gone");
        progress::wait_until("its directory to be removed", || Ok(!scratch.path().exists()))?;
        assert_eq!(process.wait(WAIT_LIMIT)?.signal(), Some(Signal::KILL.as_raw()));
        Ok(())
    }
}
