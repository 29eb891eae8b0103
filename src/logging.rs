//! Log lines: to standard error, for people or as JSON.

use std::io::{self, IsTerminal};

use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

use crate::cli::{Global, LogFormat};

/// Starts logging. Only our own lines are shown, at any level: those of the HTTP libraries would hold
/// headers, and with them tokens. Without a terminal a good run says nothing, so that cron's mail is short.
pub fn start(global: &Global) {
    let level = match (global.quiet, global.verbose) {
        (true, _) => Level::ERROR,
        (false, 0) if io::stderr().is_terminal() => Level::INFO,
        (false, 0) => Level::WARN,
        (false, 1) => Level::DEBUG,
        (false, _) => Level::TRACE,
    };
    let ours = Targets::new().with_target(env!("CARGO_CRATE_NAME"), level);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .log_internal_errors(false);
    match global.log_format {
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true);
            tracing_subscriber::registry()
                .with(lines.with_filter(ours))
                .init();
        }
        LogFormat::Text => {
            let lines = lines
                .with_target(false)
                .with_ansi(io::stderr().is_terminal())
                .without_time();
            tracing_subscriber::registry()
                .with(lines.with_filter(ours))
                .init();
        }
    }
}
