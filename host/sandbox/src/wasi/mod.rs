//! WASI 0.2, so that components of `wasm32-wasip2` instantiate; nothing of the world is behind it.
//!
//! | interface | what a plugin gets |
//! |---|---|
//! | `cli/environment` | no arguments, no variables, no directory |
//! | `cli/exit` | ends the call, as a trap does |
//! | `cli/stdin` | is at its end |
//! | `cli/stdout`, `cli/stderr` | lines become the host's log lines |
//! | `cli/terminal-*` | there is none |
//! | `clocks/*` | the message's timestamp, which stands still; waiting for a later time traps |
//! | `random/*` | bytes seeded by the record's coordinates; `insecure-seed` is constant |
//! | `io/*` | the streams above; every pollable is ready, so nothing ever waits |
//! | `filesystem/*`, `sockets/*` | no directory is open, everything else traps |
//!
//! Only wasmtime-wasi's bindings are used, not its implementations: these wait, read the host's clocks and start a
//! tokio runtime. A handle's number says which stream it is, so there is no table of resources; how many handles a
//! guest holds is bounded by its store.

mod denied;
mod io;

use std::time::Duration;

use wasmtime::component::{Linker, Resource};
use wasmtime::{Result, bail};
use wasmtime_wasi::p2::bindings::cli::terminal_input::TerminalInput;
use wasmtime_wasi::p2::bindings::cli::terminal_output::TerminalOutput;
use wasmtime_wasi::p2::bindings::clocks::wall_clock::Datetime;
use wasmtime_wasi::p2::bindings::sync::io::{error, poll, streams};
use wasmtime_wasi::p2::bindings::{cli, clocks, random};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, DynPollable};

pub(super) use denied::deny;

use super::guest::{Guest, HasGuest};
use super::trap::HostTrap;

/// What a Rust program's maps are seeded with, once an instance: so it cannot follow the message.
const INSECURE_SEED: (u64, u64) = (0x7377_6974_6368_626f, 0x6172_6420_7365_6564);
/// Timestamps are in milliseconds.
const RESOLUTION: Duration = Duration::from_millis(1);

/// Links all that answers; `deny` does the rest.
pub(super) fn add_to_linker(l: &mut Linker<Guest>) -> Result<()> {
    fn same(guest: &mut Guest) -> &mut Guest {
        guest
    }
    cli::environment::add_to_linker::<_, HasGuest>(l, same)?;
    cli::exit::add_to_linker::<_, HasGuest>(l, same)?;
    cli::stdin::add_to_linker::<_, HasGuest>(l, same)?;
    cli::stdout::add_to_linker::<_, HasGuest>(l, same)?;
    cli::stderr::add_to_linker::<_, HasGuest>(l, same)?;
    cli::terminal_input::add_to_linker::<_, HasGuest>(l, same)?;
    cli::terminal_output::add_to_linker::<_, HasGuest>(l, same)?;
    cli::terminal_stdin::add_to_linker::<_, HasGuest>(l, same)?;
    cli::terminal_stdout::add_to_linker::<_, HasGuest>(l, same)?;
    cli::terminal_stderr::add_to_linker::<_, HasGuest>(l, same)?;
    clocks::monotonic_clock::add_to_linker::<_, HasGuest>(l, same)?;
    clocks::wall_clock::add_to_linker::<_, HasGuest>(l, same)?;
    error::add_to_linker::<_, HasGuest>(l, same)?;
    poll::add_to_linker::<_, HasGuest>(l, same)?;
    streams::add_to_linker::<_, HasGuest>(l, same)?;
    random::random::add_to_linker::<_, HasGuest>(l, same)?;
    random::insecure::add_to_linker::<_, HasGuest>(l, same)?;
    random::insecure_seed::add_to_linker::<_, HasGuest>(l, same)
}

impl cli::environment::Host for Guest {
    fn get_environment(&mut self) -> Result<Vec<(String, String)>> {
        self.pay(0)?;
        Ok(vec![])
    }

    fn get_arguments(&mut self) -> Result<Vec<String>> {
        self.pay(0)?;
        Ok(vec![])
    }

    fn initial_cwd(&mut self) -> Result<Option<String>> {
        self.pay(0)?;
        Ok(None)
    }
}

impl cli::exit::Host for Guest {
    fn exit(&mut self, status: std::result::Result<(), ()>) -> Result<()> {
        bail!(HostTrap::Exit(status.is_err().into()))
    }

    fn exit_with_code(&mut self, code: u8) -> Result<()> {
        bail!(HostTrap::Exit(code))
    }
}

impl cli::stdin::Host for Guest {
    fn get_stdin(&mut self) -> Result<Resource<DynInputStream>> {
        self.pay(0)?;
        Ok(io::stdin())
    }
}

impl cli::stdout::Host for Guest {
    fn get_stdout(&mut self) -> Result<Resource<DynOutputStream>> {
        self.pay(0)?;
        Ok(io::stdout())
    }
}

impl cli::stderr::Host for Guest {
    fn get_stderr(&mut self) -> Result<Resource<DynOutputStream>> {
        self.pay(0)?;
        Ok(io::stderr())
    }
}

impl cli::terminal_input::Host for Guest {}

impl cli::terminal_input::HostTerminalInput for Guest {
    fn drop(&mut self, _: Resource<TerminalInput>) -> Result<()> {
        Ok(())
    }
}

impl cli::terminal_output::Host for Guest {}

impl cli::terminal_output::HostTerminalOutput for Guest {
    fn drop(&mut self, _: Resource<TerminalOutput>) -> Result<()> {
        Ok(())
    }
}

impl cli::terminal_stdin::Host for Guest {
    fn get_terminal_stdin(&mut self) -> Result<Option<Resource<TerminalInput>>> {
        self.pay(0)?;
        Ok(None)
    }
}

impl cli::terminal_stdout::Host for Guest {
    fn get_terminal_stdout(&mut self) -> Result<Option<Resource<TerminalOutput>>> {
        self.pay(0)?;
        Ok(None)
    }
}

impl cli::terminal_stderr::Host for Guest {
    fn get_terminal_stderr(&mut self) -> Result<Option<Resource<TerminalOutput>>> {
        self.pay(0)?;
        Ok(None)
    }
}

impl clocks::wall_clock::Host for Guest {
    fn now(&mut self) -> Result<Datetime> {
        self.pay(0)?;
        Ok(datetime(self.time()))
    }

    fn resolution(&mut self) -> Result<Datetime> {
        self.pay(0)?;
        Ok(datetime(RESOLUTION))
    }
}

fn datetime(time: Duration) -> Datetime {
    Datetime { seconds: time.as_secs(), nanoseconds: time.subsec_nanos() }
}

impl clocks::monotonic_clock::Host for Guest {
    fn now(&mut self) -> Result<u64> {
        self.pay(0)?;
        Ok(nanoseconds(self.time()))
    }

    fn resolution(&mut self) -> Result<u64> {
        self.pay(0)?;
        Ok(nanoseconds(RESOLUTION))
    }

    fn subscribe_instant(&mut self, when: u64) -> Result<Resource<DynPollable>> {
        self.pay(0)?;
        if when > nanoseconds(self.time()) {
            bail!(HostTrap::Waits);
        }
        Ok(io::ready())
    }

    fn subscribe_duration(&mut self, duration: u64) -> Result<Resource<DynPollable>> {
        self.pay(0)?;
        if duration > 0 {
            bail!(HostTrap::Waits);
        }
        Ok(io::ready())
    }
}

/// The year 2554 is the last.
fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl random::random::Host for Guest {
    fn get_random_bytes(&mut self, length: u64) -> Result<Vec<u8>> {
        let length = self.check_length(length)?;
        self.pay(length)?;
        Ok(self.random().bytes(length))
    }

    fn get_random_u64(&mut self) -> Result<u64> {
        self.pay(0)?;
        Ok(self.random().next())
    }
}

impl random::insecure::Host for Guest {
    fn get_insecure_random_bytes(&mut self, length: u64) -> Result<Vec<u8>> {
        random::random::Host::get_random_bytes(self, length)
    }

    fn get_insecure_random_u64(&mut self) -> Result<u64> {
        random::random::Host::get_random_u64(self)
    }
}

impl random::insecure_seed::Host for Guest {
    fn insecure_seed(&mut self) -> Result<(u64, u64)> {
        self.pay(0)?;
        Ok(INSECURE_SEED)
    }
}
