//! How far an upload is, and who is told: nobody, a terminal, or a log line every 30 seconds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

use crate::units::{Size, Span};

/// How often a log line tells how far an upload is.
const LOG_EVERY: Duration = Duration::from_secs(30);

/// Who is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    /// A bar on the terminal.
    Bar,
    /// A log line every 30 seconds.
    Log,
    /// Nobody.
    Nothing,
}

/// How far one upload is.
#[derive(Clone, Debug)]
pub struct Progress(Arc<State>);

#[derive(Debug)]
struct State {
    label: String,
    total: u64,
    done: AtomicU64,
    started: Instant,
    resumed: AtomicU64,
    bar: Option<ProgressBar>,
    show: Show,
}

impl Progress {
    /// Of `total` bytes, nothing yet.
    pub fn new(show: Show, label: impl Into<String>, total: u64) -> Progress {
        let label = label.into();
        let started = Instant::now();
        let bar = (show == Show::Bar).then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            let template = "{msg}\n{wide_bar} {percent:>3} %  {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.set_message(label.clone());
            bar
        });
        let (done, resumed) = (AtomicU64::new(0), AtomicU64::new(0));
        Progress(Arc::new(State {
            label,
            total,
            done,
            started,
            resumed,
            bar,
            show,
        }))
    }

    /// So many bytes had arrived in an earlier run; they do not count for the rate.
    pub fn resumed(&self, bytes: u64) {
        self.0.resumed.store(bytes, Ordering::Relaxed);
        self.0.done.store(bytes, Ordering::Relaxed);
        if let Some(bar) = &self.0.bar {
            bar.set_position(bytes);
            bar.reset_eta();
        }
    }

    /// Bytes this run and earlier ones had acknowledged.
    pub fn sent_and_resumed(&self) -> (u64, u64) {
        let resumed = self.0.resumed.load(Ordering::Relaxed);
        (
            self.0.done.load(Ordering::Relaxed).saturating_sub(resumed),
            resumed,
        )
    }

    /// Nothing of what had arrived counts any more.
    pub fn begin_again(&self) {
        self.resumed(0);
    }

    /// So many more bytes have been acknowledged.
    pub fn add(&self, bytes: u64) {
        let done = self.0.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if let Some(bar) = &self.0.bar {
            bar.set_position(done);
        }
    }

    /// Logs how far it is every 30 seconds, for ever; where nobody reads the log, nothing.
    pub async fn log_now_and_then(&self) {
        loop {
            tokio::time::sleep(LOG_EVERY).await;
            if self.0.show == Show::Log {
                tracing::info!("{}", self.line(self.0.done.load(Ordering::Relaxed)));
            }
        }
    }

    fn line(&self, done: u64) -> String {
        let state = &*self.0;
        let sent = u128::from(done - state.resumed.load(Ordering::Relaxed).min(done));
        let millis = state.started.elapsed().as_millis().max(1);
        let rate = u64::try_from(sent * 1_000 / millis).unwrap_or(u64::MAX);
        let left = Duration::from_secs((state.total - done.min(state.total)) / rate.max(1));
        format!(
            "{}: {} of {}, {}/s, {} left",
            state.label,
            Size(done),
            Size(state.total),
            Size(rate),
            Span(left)
        )
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_line_tells_rate_and_time_left_without_what_was_resumed() {
        let progress = Progress::new(Show::Log, "a.tar", 100 << 20);
        progress.resumed(20 << 20);
        tokio::time::advance(Duration::from_secs(10)).await;
        progress.add(40 << 20);
        assert_eq!(
            progress.line(60 << 20),
            "a.tar: 60.0 MiB of 100.0 MiB, 4.0 MiB/s, 10s left"
        );
    }
}
