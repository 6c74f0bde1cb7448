//! Logs: to standard error, for people or as JSON.
//!
//! Records of the `log` crate are not taken in: with them the database driver shows the parameters of statements, which
//! are values of rows.

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
    // Fails only where somebody logs already, and then somebody logs.
    let _ = match global.log_format {
        LogFormat::Human => {
            tracing::subscriber::set_global_default(subscriber.with_ansi(colours).with_target(false).finish())
        }
        LogFormat::Json => {
            let subscriber = subscriber.json().flatten_event(true).with_ansi(false);
            tracing::subscriber::set_global_default(subscriber.finish())
        }
    };
}
