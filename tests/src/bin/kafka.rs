//! The tests' broker in the foreground, for people who want to try things: `make kafka PORT=19092`.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use switchboard_tests::kafka::{Kafka, Options};

/// Runs a single Apache Kafka broker until Ctrl-C. Topics are not created by themselves.
#[derive(Parser)]
#[command(name = "kafka")]
struct Arguments {
    /// The port to listen on (127.0.0.1); 0 means a free one.
    #[arg(long, default_value_t = 19092)]
    port: u16,
    /// Keeps the data here, and goes on with what is there; without it, the data is gone at the end.
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
    eprintln!("Ready. Point clients at it:\n");
    eprintln!("    export BOOTSTRAP_SERVERS={}\n", kafka.bootstrap());
    eprintln!("Its warnings are in {}. Ctrl-C ends it.", kafka.logs()[0].display());
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
