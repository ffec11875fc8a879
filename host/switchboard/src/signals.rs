//! SIGTERM and SIGINT shut the process down.

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use switchboard_kafka::Shutdown;

/// The first SIGTERM or SIGINT asks for an orderly stop, the second one ends the process at once.
///
/// # Errors
/// When the handlers cannot be installed.
pub(crate) fn stop_on_signals(stop: &Shutdown) -> std::io::Result<()> {
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
