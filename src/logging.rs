//! Log lines: to standard error, for people or as JSON; and the last of them into memory, for whoever is told how
//! a run ended.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

use crate::cli::{Global, LogFormat};

/// As much of the end of the log is kept, in bytes: what a health check takes.
const KEPT: usize = 100_000;

/// The end of the log: what a terminal would have shown, whatever is shown.
#[derive(Clone, Debug, Default)]
pub struct Tail(Arc<Mutex<Vec<u8>>>);

impl Tail {
    /// Whole lines, at most about `KEPT` bytes of them.
    pub fn text(&self) -> String {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(last_lines(&kept)).into_owned()
    }
}

impl Write for Tail {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend_from_slice(bytes);
        // Not at every line: moving them costs more than keeping some.
        if kept.len() > 2 * KEPT {
            *kept = last_lines(&kept).to_vec();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn last_lines(text: &[u8]) -> &[u8] {
    let Some(cut) = text.len().checked_sub(KEPT).filter(|cut| *cut > 0) else {
        return text;
    };
    let begin = text[cut..].iter().position(|byte| *byte == b'\n');
    begin.map_or(&[], |begin| &text[cut + begin + 1..])
}

/// Starts logging. Only our own lines are shown, at any level: those of the HTTP libraries would hold
/// headers, and with them tokens. Without a terminal a good run says nothing, so that cron's mail is short.
pub fn start(global: &Global) -> Tail {
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
    let tail = Tail::default();
    let kept = tail.clone();
    let end = tracing_subscriber::fmt::layer()
        .with_writer(move || kept.clone())
        .log_internal_errors(false)
        .with_target(false)
        .with_ansi(false)
        .with_filter(Targets::new().with_target(env!("CARGO_CRATE_NAME"), Level::INFO));
    match global.log_format {
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true);
            tracing_subscriber::registry()
                .with(end)
                .with(lines.with_filter(ours))
                .init();
        }
        LogFormat::Text => {
            let lines = lines
                .with_target(false)
                .with_ansi(io::stderr().is_terminal())
                .without_time();
            tracing_subscriber::registry()
                .with(end)
                .with(lines.with_filter(ours))
                .init();
        }
    }
    tail
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_the_log_is_bounded_and_whole() {
        let mut tail = Tail::default();
        for number in 0..50_000 {
            writeln!(tail, "line {number} ä").expect("kept");
        }
        let kept = tail.0.lock().expect("not poisoned").capacity();
        let text = tail.text();
        assert!(
            text.len() <= KEPT && text.len() > KEPT - 100 && kept < 8 * KEPT,
            "{kept}"
        );
        assert!(text.starts_with("line ") && text.ends_with("line 49999 ä\n"));
        let endless = "x".repeat(KEPT) + "\n";
        tail.write_all(endless.as_bytes()).expect("kept");
        assert_eq!(tail.text(), "");
    }
}
