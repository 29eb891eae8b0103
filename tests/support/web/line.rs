//! A line that is slower than loopback, and waiting that ends when the server does.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Waits shorter than this are saved up: sleeping costs more than it brings.
const WORTH_SLEEPING: Duration = Duration::from_millis(2);

/// How slow the line is.
#[derive(Debug, Clone, Default)]
pub struct Line {
    /// A fixed cost of every append, on top of its bytes.
    pub append_latency: Duration,
    /// Bytes per second of one connection, upwards; 0 is without limit.
    pub per_connection: u64,
    /// Bytes per second of all connections together, upwards; 0 is without limit.
    pub whole: u64,
}

/// Hands out the bytes per second of one line to whoever shares it.
#[derive(Debug)]
pub struct Pace {
    rate: u64,
    free_at: Mutex<Instant>,
}

impl Pace {
    /// A line of `rate` bytes per second; 0 is without limit.
    pub fn new(rate: u64) -> Self {
        Self {
            rate,
            free_at: Mutex::new(Instant::now()),
        }
    }

    /// Takes `bytes` from the line and says how long that lasts, others' turns included.
    pub fn take(&self, bytes: u64) -> Duration {
        if self.rate == 0 {
            return Duration::ZERO;
        }
        let now = Instant::now();
        let cost = Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / self.rate);
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        *free_at = (*free_at).max(now) + cost;
        let wait = *free_at - now;
        if wait < WORTH_SLEEPING {
            Duration::ZERO
        } else {
            wait
        }
    }

    /// How much to read at once, so that a slow line moves steadily and not in leaps.
    pub fn stride(&self) -> u64 {
        if self.rate == 0 {
            u64::MAX
        } else {
            (self.rate / 50).max(1)
        }
    }
}

/// Tells all threads of a server that it ends.
#[derive(Debug, Default)]
pub struct End {
    ended: Mutex<bool>,
    told: Condvar,
}

impl End {
    /// Wakes everybody.
    pub fn declare(&self) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.told.notify_all();
    }

    /// Whether it has come.
    pub fn has_come(&self) -> bool {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps for `time`, or until the end if there is no time given; true if the end has come.
    pub fn wait(&self, time: Option<Duration>) -> bool {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        match time {
            Some(time) => {
                *self
                    .told
                    .wait_timeout_while(ended, time, |ended| !*ended)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0
            }
            None => *self
                .told
                .wait_while(ended, |ended| !*ended)
                .unwrap_or_else(PoisonError::into_inner),
        }
    }
}
