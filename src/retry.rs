//! The one loop that sleeps.
//!
//! Whether an error is worth another try is decided by [`ErrorKind::retry`](crate::error::ErrorKind::retry);
//! here it is carried out: a growing, jittered pause, or the pause the server asked for, which then
//! holds for all tasks of that destination.

pub mod rhythm;
pub mod window;

use std::pin::pin;
use std::sync::Mutex;
use std::time::Duration;

use chrono::{Local, TimeDelta};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::{Error, Retry};
use crate::units::Span;

/// The first pause is at most this long; each further one twice the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// No pause of our own is longer.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// A question whose answer somebody waits for is not asked again for longer.
pub const SHORT_PATIENCE: Duration = Duration::from_mins(1);

/// A pause that all tasks of one destination keep together.
#[derive(Debug)]
pub struct Pause {
    until: watch::Sender<Instant>,
}

impl Default for Pause {
    fn default() -> Pause {
        Pause {
            until: watch::Sender::new(Instant::now()),
        }
    }
}

impl Pause {
    /// Nobody goes on for so long: a reply asked for it that no loop of ours has seen yet.
    pub fn ask_for(&self, wait: Duration) {
        self.extend(Instant::now() + wait);
    }

    /// How long it still is.
    pub fn left(&self) -> Duration {
        self.until
            .borrow()
            .saturating_duration_since(Instant::now())
    }

    /// Nobody goes on before `until`.
    fn extend(&self, until: Instant) {
        self.until.send_if_modified(|current| {
            let later = until > *current;
            if later {
                *current = until;
            }
            later
        });
    }

    /// Returns when no pause is on.
    pub async fn over(&self) {
        loop {
            let until = *self.until.borrow();
            if until <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}

/// How long something may go without progress, waits included; each success renews it.
#[derive(Debug)]
pub struct Patience {
    allowed: Duration,
    since: Mutex<Instant>,
}

impl Patience {
    /// Starts now.
    pub fn new(allowed: Duration) -> Patience {
        Patience {
            allowed,
            since: Mutex::new(Instant::now()),
        }
    }

    /// For what somebody waits for in front of a terminal: a minute, or what is allowed if that is less.
    pub fn short(allowed: Duration) -> Patience {
        Patience::new(allowed.min(SHORT_PATIENCE))
    }

    /// Another one of the same length, which begins now.
    #[must_use]
    pub fn again(&self) -> Patience {
        Patience::new(self.allowed)
    }

    /// Something was achieved: the time starts anew.
    pub fn renew(&self) {
        if let Ok(mut since) = self.since.lock() {
            *since = Instant::now();
        }
    }

    fn left(&self) -> Duration {
        let since = self
            .since
            .lock()
            .map_or_else(|poisoned| *poisoned.into_inner(), |since| *since);
        self.allowed.saturating_sub(since.elapsed())
    }
}

/// Repeats `operation` until it succeeds, fails for good, or patience ends.
pub async fn retry<T>(
    pause: &Pause,
    patience: &Patience,
    mut operation: impl AsyncFnMut() -> Result<T, Error>,
) -> Result<T, Error> {
    let mut longest = FIRST_PAUSE;
    loop {
        pause.over().await;
        let error = match pin!(operation()).await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let left = patience.left();
        match error.kind().retry() {
            Retry::Never => return Err(error),
            Retry::After(wait) if wait > left => {
                let again = TimeDelta::from_std(wait)
                    .ok()
                    .and_then(|wait| Local::now().checked_add_signed(wait));
                let again = again.map_or("much later".to_owned(), |t| {
                    t.format("after %Y-%m-%d %H:%M").to_string()
                });
                return Err(error.hint(format!(
                    "the server asks to wait {}, longer than `upload.retry_for` leaves; run it again {again}",
                    Span(wait)
                )));
            }
            Retry::After(wait) => {
                tracing::info!("{error}; waiting {} as the server asks", Span(wait));
                pause.extend(Instant::now() + wait);
            }
            Retry::Backoff if left.is_zero() => {
                return Err(error.hint(format!(
                    "tried again for {}, in vain",
                    Span(patience.allowed)
                )));
            }
            Retry::Backoff => {
                let wait = jitter(longest).min(left);
                tracing::info!("{error}; trying again in {:.1} s", wait.as_secs_f32());
                tokio::time::sleep(wait).await;
                longest = (longest * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// Between a tenth of `longest` and all of it, so that many clients do not knock together.
fn jitter(longest: Duration) -> Duration {
    let mut byte = [0; 1];
    // Without a random source there is simply no jitter.
    let _ = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut byte);
    longest.mul_f32(0.1 + 0.9 * f32::from(byte[0]) / 255.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("runtime")
            .block_on(future)
    }

    fn failing(kinds: &[ErrorKind]) -> impl AsyncFnMut() -> Result<(), Error> {
        let mut kinds = kinds.iter().copied();
        async move || {
            kinds
                .next()
                .map_or(Ok(()), |kind| Err(Error::new(kind, "a", "b")))
        }
    }

    #[test]
    fn a_pause_asked_for_is_kept_exactly_and_holds_for_others() {
        run(async {
            let (pause, patience) = (Pause::default(), Patience::new(Duration::from_mins(1)));
            let start = Instant::now();
            let limited = ErrorKind::RateLimited(Some(Duration::from_secs(7)));
            retry(&pause, &patience, failing(&[limited, limited]))
                .await
                .expect("success in the end");
            assert_eq!(start.elapsed().as_secs(), 14);
            pause.extend(Instant::now() + Duration::from_secs(3));
            retry(&pause, &patience, failing(&[]))
                .await
                .expect("success after the pause of another task");
            assert_eq!(start.elapsed().as_secs(), 17);
        });
    }

    #[test]
    fn short_patience_is_never_longer_than_what_is_allowed() {
        run(async {
            for (allowed, left) in [(3_600, 60), (60, 60), (5, 5), (0, 0)] {
                let patience = Patience::short(Duration::from_secs(allowed));
                assert_eq!(patience.left(), Duration::from_secs(left));
            }
        });
    }

    #[test]
    fn a_pause_longer_than_patience_fails_at_once() {
        run(async {
            let (pause, patience) = (Pause::default(), Patience::new(Duration::from_mins(1)));
            let start = Instant::now();
            let limited = ErrorKind::RateLimited(Some(Duration::from_mins(5)));
            let error = retry(&pause, &patience, failing(&[limited]))
                .await
                .expect_err("too long");
            assert!(
                error.to_string().contains("run it again after 20"),
                "{error}"
            );
            let absurd = ErrorKind::RateLimited(Some(Duration::from_secs(u64::MAX)));
            let error = retry(&pause, &patience, failing(&[absurd]))
                .await
                .expect_err("too long");
            assert!(
                error.to_string().contains("run it again much later"),
                "{error}"
            );
            assert_eq!(start.elapsed().as_secs(), 0);
        });
    }

    #[test]
    fn backoff_ends_with_patience_and_progress_renews_it() {
        run(async {
            let (pause, patience) = (Pause::default(), Patience::new(Duration::from_secs(100)));
            let start = Instant::now();
            let error = retry(&pause, &patience, failing(&[ErrorKind::Unavailable; 99])).await;
            assert!(
                error
                    .expect_err("gave up")
                    .to_string()
                    .contains("tried again for 1m 40s")
            );
            assert_eq!(start.elapsed().as_secs(), 100);
            patience.renew();
            retry(&pause, &patience, failing(&[ErrorKind::Unavailable; 3]))
                .await
                .expect("success");
        });
    }

    #[test]
    fn what_cannot_succeed_is_not_tried_again() {
        run(async {
            let (pause, patience) = (Pause::default(), Patience::new(Duration::from_secs(100)));
            retry(&pause, &patience, failing(&[ErrorKind::Invalid]))
                .await
                .expect_err("at once");
        });
    }
}
