//! So many in so long: a limit that is kept before anybody has to ask for it.
//!
//! A slot counts from when it is taken until a whole period after it is given back. What was asked reaches the other
//! side somewhere between the two, so that side never counts more than the limit in any period, however it counts: in
//! minutes of its own clock or in sliding ones, at the beginning of a request or at its end.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::units::Quota;

/// A sliding window over what one limit allows.
#[derive(Debug)]
pub struct Window {
    quota: Quota,
    slots: Mutex<Slots>,
    /// Whose turn it is to wait for a slot; the others stand in line behind it.
    turn: tokio::sync::Mutex<()>,
    /// A slot was given back.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Slots {
    in_use: usize,
    /// When those that still count were given back, the oldest first.
    used: VecDeque<Instant>,
}

/// One of those that the limit allows. Hold it until the answer is there; it goes on counting for a period after it
/// is dropped.
#[derive(Debug)]
pub struct Slot<'w> {
    window: Option<&'w Window>,
}

impl Window {
    /// None has been used yet.
    pub fn new(quota: Quota) -> Window {
        Window {
            quota,
            slots: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// Waits until there is room for one more, and takes it; first come, first served. Who stops waiting has taken
    /// none.
    pub async fn take(&self) -> Slot<'_> {
        let Some((count, period)) = self.quota.0 else {
            return Slot { window: None };
        };
        let _turn = self.turn.lock().await;
        loop {
            let room = match self.room(count, period) {
                Ok(slot) => return slot,
                Err(room) => room,
            };
            let changed = self.changed.notified();
            match room {
                Some(room) => tokio::select! {
                    () = tokio::time::sleep_until(room) => {}
                    () = changed => {}
                },
                None => changed.await,
            }
        }
    }

    /// Takes one if there is room now, whoever waits for some: for those who cannot wait.
    pub fn try_take(&self) -> Option<Slot<'_>> {
        match self.quota.0 {
            None => Some(Slot { window: None }),
            Some((count, period)) => self.room(count, period).ok(),
        }
    }

    /// One, or when the next one will be free, as far as that is known.
    fn room(&self, count: u32, period: Duration) -> Result<Slot<'_>, Option<Instant>> {
        let mut slots = self.slots();
        let now = Instant::now();
        while slots.used.front().is_some_and(|at| *at + period <= now) {
            slots.used.pop_front();
        }
        if slots.in_use + slots.used.len() < count as usize {
            slots.in_use += 1;
            return Ok(Slot { window: Some(self) });
        }
        Err(slots.used.front().map(|at| *at + period))
    }

    /// One was used so long ago, by an earlier process.
    pub fn used_before(&self, ago: Duration) {
        if let Some(at) = Instant::now().checked_sub(ago) {
            let mut slots = self.slots();
            let place = slots.used.partition_point(|other| *other <= at);
            slots.used.insert(place, at);
        }
    }

    /// How long the limit counts; none: it has no end.
    pub fn period(&self) -> Option<Duration> {
        self.quota.0.map(|(_, period)| period)
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        // Nothing panics while it is held, and if something did, the numbers would still be right.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot<'_> {
    /// Gives it back as if it had never been taken: nothing was asked, and the other side has counted nothing.
    pub fn unused(mut self) {
        if let Some(window) = self.window.take() {
            window.slots().in_use -= 1;
            window.changed.notify_one();
        }
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        if let Some(window) = self.window {
            let mut slots = window.slots();
            slots.in_use -= 1;
            slots.used.push_back(Instant::now());
            drop(slots);
            window.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::cell::RefCell;

    use futures_util::future::join_all;

    const SECOND: Duration = Duration::from_secs(1);

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("runtime")
            .block_on(future)
    }

    fn window(count: u32, seconds: u32) -> Window {
        Window::new(Quota(Some((count, SECOND * seconds))))
    }

    #[test]
    fn no_period_ever_holds_more_wherever_it_begins_and_whenever_a_request_arrives() {
        run(async {
            let (window, start) = (window(6, 60), Instant::now());
            let told = RefCell::new(Vec::new());
            join_all((0..60_u64).map(async |i| {
                let _slot = window.take().await;
                // It arrives after this long, and its answer comes after as long again.
                let way = Duration::from_millis((i * 7_919) % 4_000);
                tokio::time::sleep(way).await;
                told.borrow_mut().push(start.elapsed());
                tokio::time::sleep(way).await;
            }))
            .await;
            let mut told = told.into_inner();
            told.sort();
            assert_eq!(told.len(), 60);
            for seven in told.windows(7) {
                assert!(seven[6] >= seven[0] + SECOND * 60, "{told:?}");
            }
            // Minutes of a clock that began at any second.
            for offset in 0..60 {
                for minute in 0..20 {
                    let from = SECOND * (minute * 60 + offset);
                    let in_it = |at: &&Duration| **at >= from && **at < from + SECOND * 60;
                    assert!(told.iter().filter(in_it).count() <= 6);
                }
            }
        });
    }

    #[test]
    fn it_takes_no_longer_than_the_limit_itself() {
        run(async {
            let (window, start) = (window(6, 60), Instant::now());
            for _ in 0..60 {
                drop(window.take().await);
            }
            assert_eq!(start.elapsed().as_secs(), 9 * 60);
        });
    }

    #[test]
    fn who_comes_first_is_served_first() {
        run(async {
            let (window, order) = (window(2, 10), RefCell::new(Vec::new()));
            join_all((0..20).map(async |i| {
                let _slot = window.take().await;
                order.borrow_mut().push(i);
            }))
            .await;
            assert_eq!(order.into_inner(), (0..20).collect::<Vec<_>>());
        });
    }

    #[test]
    fn who_stops_waiting_has_taken_none_and_holds_nobody_up() {
        run(async {
            let (window, start) = (window(1, 10), Instant::now());
            drop(window.take().await);
            let given_up = tokio::time::timeout(SECOND, window.take()).await;
            assert!(given_up.is_err());
            drop(window.take().await);
            assert_eq!(start.elapsed().as_secs(), 10);
            // And who stops after it was taken has used it.
            let stopped = tokio::time::timeout(SECOND * 12, async {
                let _slot = window.take().await;
                std::future::pending::<()>().await;
            });
            assert!(stopped.await.is_err());
            drop(window.take().await);
            assert_eq!(start.elapsed().as_secs(), 10 + 12 + 10);
        });
    }

    #[test]
    fn what_was_never_asked_does_not_count() {
        run(async {
            let (window, start) = (window(1, 10), Instant::now());
            for _ in 0..5 {
                window.take().await.unused();
            }
            // Also for one who waits already.
            let slot = window.take().await;
            let (_, ()) = tokio::join!(window.take(), async {
                tokio::time::sleep(SECOND).await;
                slot.unused();
            });
            assert_eq!(start.elapsed().as_secs(), 1);
        });
    }

    #[test]
    fn who_cannot_wait_is_told_so() {
        run(async {
            let window = window(2, 10);
            let slots = [window.try_take(), window.try_take()];
            assert!(slots.iter().all(Option::is_some));
            assert!(window.try_take().is_none(), "two are in use");
            drop(slots);
            assert!(window.try_take().is_none(), "they go on counting");
            tokio::time::sleep(SECOND * 10).await;
            assert!(window.try_take().is_some());
            assert!(Window::new(Quota(None)).try_take().is_some());
        });
    }

    #[test]
    fn a_restart_forgets_nothing() {
        run(async {
            let (window, start) = (window(3, 60), Instant::now());
            for ago in [5, 50, 20, 61] {
                window.used_before(SECOND * ago);
            }
            for (i, expected) in [(0, 10), (1, 40), (2, 55)] {
                drop(window.take().await);
                assert_eq!(start.elapsed().as_secs(), expected, "{i}");
            }
        });
    }

    #[test]
    fn without_a_limit_nobody_waits() {
        run(async {
            let (window, start) = (Window::new(Quota(None)), Instant::now());
            let slots = join_all((0..1_000).map(|_| window.take())).await;
            assert_eq!((slots.len(), start.elapsed()), (1_000, Duration::ZERO));
        });
    }
}
