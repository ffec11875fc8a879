//! `make kafka PORT=19092`: runs the tests' broker in the foreground, for manual experiments.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use switchboard_tests::kafka::{Kafka, Options};

/// Runs a single Apache Kafka broker until Ctrl-C. The broker does not create topics automatically.
#[derive(Parser)]
#[command(name = "kafka")]
struct Arguments {
    /// The port to listen on (127.0.0.1). 0 means a free port.
    #[arg(long, default_value_t = 19092)]
    port: u16,
    /// The directory of the data. An existing one is reused. Without, the broker deletes its data at the end.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(Arguments { port, data }: Arguments) -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGCHLD])?;
    eprintln!("Starting Apache Kafka ...");
    let mut kafka =
        Kafka::start_with(&Options { port: Some(port).filter(|port| *port != 0), data, ..Options::default() })?;
    println!("{}", kafka.bootstrap());
    eprintln!("Ready. Connect clients with:\n");
    eprintln!("    export BOOTSTRAP_SERVERS={}\n", kafka.bootstrap());
    eprintln!("The broker logs warnings to {}. Ctrl-C stops it.", kafka.logs()[0].display());
    for signal in signals.forever() {
        if signal == SIGCHLD {
            kafka.check()?;
        } else {
            break;
        }
    }
    eprintln!("Stopping ...");
    kafka.stop()
}
