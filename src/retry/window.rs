//! So many in so long: a limit that is kept before anybody has to ask for it.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::units::Quota;

/// A sliding window. However the other side counts, in minutes of its own or in sliding ones, it never counts more.
#[derive(Debug)]
pub struct Window {
    quota: Quota,
    /// When the slots that still count were given back, the oldest first.
    used: Mutex<VecDeque<Instant>>,
}

impl Window {
    /// None has been used yet.
    pub fn new(quota: Quota) -> Window {
        Window {
            quota,
            used: Mutex::default(),
        }
    }

    /// Waits until there is room for one more, and takes it. It counts from now on.
    pub async fn take(&self) {
        let Some((count, period)) = self.quota.0 else {
            return;
        };
        let mut used = self.used.lock().await;
        while used.len() >= count as usize {
            if let Some(oldest) = used.pop_front() {
                tokio::time::sleep_until(oldest + period).await;
            }
        }
        used.push_back(Instant::now());
    }

    /// One was used so long ago, by an earlier process.
    pub async fn used_before(&self, ago: Duration) {
        if let Some(at) = Instant::now().checked_sub(ago) {
            self.used.lock().await.push_front(at);
        }
    }
}
