//! Logs: `tracing` to standard error. RUST_LOG sets the levels (default: info).

use std::io::IsTerminal as _;

use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{LevelFilter, ParseError, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::LogFormat;

/// Starts to write log lines. A second call has no effect.
pub(crate) fn init_logs(format: LogFormat) {
    let variable = std::env::var("RUST_LOG").unwrap_or_default();
    let levels = levels(&variable);
    let (filter, problem) = match levels {
        Ok(filter) => (filter, None),
        Err(error) => (default_levels(), Some(error)),
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    // Err: this is the second call.
    let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
    if let Some(error) = problem {
        tracing::warn!(value = variable, %error, "RUST_LOG is not a list of levels such as info,switchboard=debug; info is used");
    }
}

fn default_levels() -> Targets {
    Targets::new().with_default(LevelFilter::INFO)
}

/// A level for all targets, or a list of `target=level`; nothing: info.
fn levels(variable: &str) -> Result<Targets, ParseError> {
    if variable.is_empty() { Ok(default_levels()) } else { variable.parse() }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn levels_are_for_all_targets_or_for_those_that_begin_with_a_name() {
        let enabled = |variable, target, level| levels(variable).unwrap().would_enable(target, &level);
        assert!(enabled("", "switchboard_kafka", Level::INFO) && !enabled("", "switchboard_kafka", Level::DEBUG));
        assert!(enabled("debug", "plugin", Level::DEBUG));
        assert!(enabled("switchboard=debug", "switchboard_core::worker", Level::DEBUG));
        assert!(!enabled("info,plugin=warn", "plugin", Level::INFO));
        assert!(levels("switchboard=loud").is_err());
    }
}
