//! Looking again and again whether something that takes its time is done.

use std::time::Duration;

use tokio::time::Instant;

/// The first pause: what is quick is done by then.
const FIRST: Duration = Duration::from_secs(1);
/// No pause is longer: what takes hours is noticed soon enough so.
const LONGEST: Duration = Duration::from_secs(30);

/// Pauses that grow from a second to half a minute.
#[derive(Debug)]
pub struct Rhythm {
    next: Duration,
    since: Instant,
}

impl Default for Rhythm {
    fn default() -> Rhythm {
        Rhythm {
            next: FIRST,
            since: Instant::now(),
        }
    }
}

impl Rhythm {
    /// Waits until it is time to look again, but not beyond `left`.
    pub async fn beat(&mut self, left: Duration) {
        tokio::time::sleep(self.next.min(left)).await;
        self.next = (self.next * 3 / 2).min(LONGEST);
    }

    /// How long it has been going on.
    pub fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }

    /// Something moved: it will be worth looking soon.
    pub fn quicken(&mut self) {
        self.next = FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_to_half_a_minute_and_end_with_what_is_left() {
        let mut rhythm = Rhythm::default();
        let mut beats = 0;
        while rhythm.elapsed() < Duration::from_mins(10) {
            rhythm.beat(Duration::MAX).await;
            beats += 1;
        }
        assert!((20..=35).contains(&beats), "{beats}");
        let before = rhythm.elapsed();
        rhythm.beat(Duration::from_secs(2)).await;
        assert_eq!(rhythm.elapsed().saturating_sub(before).as_secs(), 2);
        rhythm.quicken();
        let before = rhythm.elapsed();
        rhythm.beat(Duration::MAX).await;
        assert_eq!(rhythm.elapsed().saturating_sub(before), FIRST);
    }
}
