//! SIGTERM and SIGINT ask for a stop.

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use switchboard_kafka::Shutdown;

/// SIGTERM and SIGINT ask for a stop; a second one ends the process at once.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn stop_on_signals(stop: &Shutdown) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let stop = stop.clone();
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            if stop.is_asked() {
                std::process::exit(128 + signal);
            }
            stop.ask();
        }
    })?;
    Ok(())
}
