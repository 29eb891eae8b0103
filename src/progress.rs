//! How far an upload is, or a number of things, and who is told: nobody, a terminal, or a log line every 30 seconds.

use std::cell::Cell;
use std::fmt::Write as _;
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

/// How many of a number of things are done, each of which takes its time: exports of projects.
#[derive(Debug)]
pub struct Tally {
    label: String,
    total: u64,
    counts: Cell<Counts>,
    started: Instant,
    bar: Option<ProgressBar>,
    show: Show,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    done: u64,
    /// Of these.
    failed: u64,
    /// Of these: took no time, and says nothing about the others.
    at_once: u64,
}

/// How one of them ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It is done.
    Done,
    /// There was nothing to do.
    AtOnce,
    /// It failed.
    Failed,
}

impl Tally {
    /// Of `total` things, none yet.
    pub fn new(show: Show, label: impl Into<String>, total: u64) -> Tally {
        let bar = (show == Show::Bar).then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{wide_bar} {msg}") {
                bar.set_style(style);
            }
            bar
        });
        let tally = Tally {
            label: label.into(),
            total,
            counts: Cell::default(),
            started: Instant::now(),
            bar,
            show,
        };
        tally.draw();
        tally
    }

    /// One more has ended.
    pub fn ended(&self, ending: Ending) {
        let mut counts = self.counts.get();
        counts.done += 1;
        match ending {
            Ending::Done => {}
            Ending::AtOnce => counts.at_once += 1,
            Ending::Failed => counts.failed += 1,
        }
        self.counts.set(counts);
        self.draw();
    }

    /// One that failed is tried again.
    pub fn reopened(&self) {
        let mut counts = self.counts.get();
        counts.done = counts.done.saturating_sub(1);
        counts.failed = counts.failed.saturating_sub(1);
        self.counts.set(counts);
        self.draw();
    }

    /// Tells how far it is, for ever: on a terminal every second, as the time left gets less; in the log every
    /// 30 seconds; where nobody reads it, nothing.
    pub async fn tell_now_and_then(&self) {
        loop {
            match self.show {
                Show::Bar => {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    self.draw();
                }
                Show::Log | Show::Nothing => {
                    tokio::time::sleep(LOG_EVERY).await;
                    if self.show == Show::Log {
                        tracing::info!("{}", self.line());
                    }
                }
            }
        }
    }

    fn draw(&self) {
        if let Some(bar) = &self.bar {
            bar.set_position(self.counts.get().done);
            bar.set_message(self.line());
        }
    }

    fn line(&self) -> String {
        let counts = self.counts.get();
        let mut line = format!("{}: {} of {}", self.label, counts.done, self.total);
        if counts.failed > 0 {
            // Writing to a string cannot fail.
            let _ = write!(line, ", {} failed", counts.failed);
        }
        let timed = u32::try_from(counts.done - counts.at_once).unwrap_or(u32::MAX);
        let open = u32::try_from(self.total.saturating_sub(counts.done)).unwrap_or(u32::MAX);
        if timed > 0 && open > 0 {
            let left = self.started.elapsed().saturating_mul(open) / timed;
            let _ = write!(line, ", {} left", Span(left));
        }
        line
    }
}

impl Drop for Tally {
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

    #[tokio::test(start_paused = true)]
    async fn a_tally_tells_the_time_left_by_those_that_took_some() {
        let tally = Tally::new(Show::Log, "projects", 10);
        assert_eq!(tally.line(), "projects: 0 of 10");
        tally.ended(Ending::AtOnce);
        tally.ended(Ending::AtOnce);
        assert_eq!(tally.line(), "projects: 2 of 10");
        tokio::time::advance(Duration::from_mins(1)).await;
        tally.ended(Ending::Done);
        tally.ended(Ending::Failed);
        assert_eq!(tally.line(), "projects: 4 of 10, 1 failed, 3m left");
        tally.reopened();
        tally.ended(Ending::Done);
        for _ in 0..6 {
            tally.ended(Ending::Done);
        }
        assert_eq!(tally.line(), "projects: 10 of 10");
    }
}
