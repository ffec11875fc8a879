//! WASI 0.2 for plugins: enough that components of `wasm32-wasip2` and of other languages instantiate, and nothing that
//! reaches the outside world.
//!
//! | interface | what a plugin gets |
//! |---|---|
//! | `cli/environment` | no arguments, no variables, no directory |
//! | `cli/exit` | the call ends, as with a trap |
//! | `cli/stdin` | an input that is at its end |
//! | `cli/stdout`, `cli/stderr` | each line becomes a line of the host's log |
//! | `cli/terminal-*` | no terminal |
//! | `clocks/monotonic-clock`, `clocks/wall-clock` | the message's timestamp, which stands still; waiting for a later time traps |
//! | `random/*` | numbers seeded by the record's coordinates; `insecure-seed` is constant |
//! | `io/*` | the streams above; every pollable is ready, so nothing waits |
//! | `filesystem/*`, `sockets/*` | no open directory; every other function traps |
//!
//! Any other interface is refused when the artifact is loaded.
//!
//! `wasmtime-wasi` is not used: its functions wait, read the host's clocks and start a tokio runtime. The interfaces are
//! written down in `host/sandbox/wit/wasi.wit`. wasmtime resolves an import of any version 0.2.x to them.

mod denied;
mod io;

pub(crate) use denied::deny;

use std::time::Duration;

use wasmtime::component::{Linker, Resource};
use wasmtime::{Result, bail};

use crate::bindings::wasi::Granted;
use crate::bindings::wasi::wasi::cli::terminal_input::{self, TerminalInput};
use crate::bindings::wasi::wasi::cli::terminal_output::{self, TerminalOutput};
use crate::bindings::wasi::wasi::cli::{environment, exit, stderr, stdin, stdout};
use crate::bindings::wasi::wasi::cli::{terminal_stderr, terminal_stdin, terminal_stdout};
use crate::bindings::wasi::wasi::clocks::monotonic_clock;
use crate::bindings::wasi::wasi::clocks::wall_clock::{self, Datetime};
use crate::bindings::wasi::wasi::io::poll::Pollable;
use crate::bindings::wasi::wasi::io::streams::{InputStream, OutputStream};
use crate::bindings::wasi::wasi::random::{insecure, insecure_seed, random};
use crate::guest::{Guest, HasGuest};
use crate::trap::HostTrap;

/// Seeds the hash maps of Rust programs. A program reads it once an instance, so it must not depend on the message.
const INSECURE_SEED: (u64, u64) = (0x7377_6974_6368_626f, 0x6172_6420_7365_6564);
/// Kafka's timestamps have milliseconds.
const CLOCK_RESOLUTION: Duration = Duration::from_millis(1);

/// Links the granted interfaces. `deny` links the denied ones.
pub(crate) fn add_to_linker(linker: &mut Linker<Guest>) -> Result<()> {
    Granted::add_to_linker::<_, HasGuest>(linker, |guest| guest)
}

impl environment::Host for Guest {
    fn get_environment(&mut self) -> Result<Vec<(String, String)>> {
        self.charge_fuel(0)?;
        Ok(vec![])
    }

    fn get_arguments(&mut self) -> Result<Vec<String>> {
        self.charge_fuel(0)?;
        Ok(vec![])
    }

    fn initial_cwd(&mut self) -> Result<Option<String>> {
        self.charge_fuel(0)?;
        Ok(None)
    }
}

impl exit::Host for Guest {
    fn exit(&mut self, status: std::result::Result<(), ()>) -> Result<()> {
        bail!(HostTrap::Exit(status.is_err().into()))
    }

    fn exit_with_code(&mut self, code: u8) -> Result<()> {
        bail!(HostTrap::Exit(code))
    }
}

impl stdin::Host for Guest {
    fn get_stdin(&mut self) -> Result<Resource<InputStream>> {
        self.charge_fuel(0)?;
        Ok(io::stdin())
    }
}

impl stdout::Host for Guest {
    fn get_stdout(&mut self) -> Result<Resource<OutputStream>> {
        self.charge_fuel(0)?;
        Ok(io::stdout())
    }
}

impl stderr::Host for Guest {
    fn get_stderr(&mut self) -> Result<Resource<OutputStream>> {
        self.charge_fuel(0)?;
        Ok(io::stderr())
    }
}

impl terminal_input::Host for Guest {}

impl terminal_input::HostTerminalInput for Guest {
    fn drop(&mut self, _: Resource<TerminalInput>) -> Result<()> {
        Ok(())
    }
}

impl terminal_output::Host for Guest {}

impl terminal_output::HostTerminalOutput for Guest {
    fn drop(&mut self, _: Resource<TerminalOutput>) -> Result<()> {
        Ok(())
    }
}

impl terminal_stdin::Host for Guest {
    fn get_terminal_stdin(&mut self) -> Result<Option<Resource<TerminalInput>>> {
        self.charge_fuel(0)?;
        Ok(None)
    }
}

impl terminal_stdout::Host for Guest {
    fn get_terminal_stdout(&mut self) -> Result<Option<Resource<TerminalOutput>>> {
        self.charge_fuel(0)?;
        Ok(None)
    }
}

impl terminal_stderr::Host for Guest {
    fn get_terminal_stderr(&mut self) -> Result<Option<Resource<TerminalOutput>>> {
        self.charge_fuel(0)?;
        Ok(None)
    }
}

impl wall_clock::Host for Guest {
    fn now(&mut self) -> Result<Datetime> {
        self.charge_fuel(0)?;
        Ok(datetime(self.time()))
    }

    fn resolution(&mut self) -> Result<Datetime> {
        self.charge_fuel(0)?;
        Ok(datetime(CLOCK_RESOLUTION))
    }
}

fn datetime(time: Duration) -> Datetime {
    Datetime { seconds: time.as_secs(), nanoseconds: time.subsec_nanos() }
}

impl monotonic_clock::Host for Guest {
    fn now(&mut self) -> Result<u64> {
        self.charge_fuel(0)?;
        Ok(nanoseconds(self.time()))
    }

    fn resolution(&mut self) -> Result<u64> {
        self.charge_fuel(0)?;
        Ok(nanoseconds(CLOCK_RESOLUTION))
    }

    fn subscribe_instant(&mut self, when: u64) -> Result<Resource<Pollable>> {
        self.charge_fuel(0)?;
        if when > nanoseconds(self.time()) {
            bail!(HostTrap::WaitsForClock);
        }
        Ok(io::ready())
    }

    fn subscribe_duration(&mut self, duration: u64) -> Result<Resource<Pollable>> {
        self.charge_fuel(0)?;
        if duration > 0 {
            bail!(HostTrap::WaitsForClock);
        }
        Ok(io::ready())
    }
}

/// Saturates in the year 2554.
fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl random::Host for Guest {
    fn get_random_bytes(&mut self, length: u64) -> Result<Vec<u8>> {
        let length = self.check_length(length)?;
        self.charge_fuel(length)?;
        Ok(self.random().bytes(length))
    }

    fn get_random_u64(&mut self) -> Result<u64> {
        self.charge_fuel(0)?;
        Ok(self.random().next())
    }
}

impl insecure::Host for Guest {
    fn get_insecure_random_bytes(&mut self, length: u64) -> Result<Vec<u8>> {
        random::Host::get_random_bytes(self, length)
    }

    fn get_insecure_random_u64(&mut self) -> Result<u64> {
        random::Host::get_random_u64(self)
    }
}

impl insecure_seed::Host for Guest {
    fn insecure_seed(&mut self) -> Result<(u64, u64)> {
        self.charge_fuel(0)?;
        Ok(INSECURE_SEED)
    }
}
