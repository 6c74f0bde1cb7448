//! Logs: to standard error, for people or as JSON.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::arguments::{Global, LogFormat};

/// Begins to log. A process says what it does; a command only what is out of order, unless asked.
pub(crate) fn start(global: &Global, is_process: bool) {
    let level = match (global.verbose, is_process) {
        (0, false) => "warn",
        (0, true) => "info",
        (1, _) => "debug",
        _ => "trace",
    };
    let filter = match std::env::var("IRONGATE_LOG") {
        Ok(given) if !given.is_empty() => EnvFilter::new(given),
        _ => EnvFilter::new(format!("warn,irongate={level}")),
    };
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match global.log_format {
        LogFormat::Human => subscriber.with_ansi(colours).with_target(false).init(),
        LogFormat::Json => subscriber.json().flatten_event(true).with_ansi(false).init(),
    }
}
