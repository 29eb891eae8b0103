//! GitLab takes six imports a minute of one user
//! (<https://docs.gitlab.com/administration/settings/import_export_rate_limits/>), counts refused ones, too, and has taken
//! the whole file before it refuses. So the calls of this machine keep to that together: `state_dir/imports/sent.json`.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::journal::FOLDER;
use crate::retry::window::Window;
use crate::state::{StateDir, replace};
use crate::units::Quota;

/// So many …
const MOST: u32 = 6;
/// … in so long.
const PERIOD: Duration = Duration::from_mins(1);

/// Waits for the turn of one more import, and notes it. `now` is when this was called.
pub(super) async fn await_turn(state: &StateDir, now: DateTime<Utc>) -> io::Result<()> {
    let started = tokio::time::Instant::now();
    let earlier = earlier(state, now);
    let window = Window::new(Quota(Some((MOST, PERIOD))));
    // The newest first: each goes before those that are there.
    for sent in earlier.iter().rev() {
        window.used_before((now - *sent).to_std().unwrap_or_default());
    }
    if earlier.len() >= MOST as usize {
        tracing::info!("GitLab takes {MOST} imports a minute; waiting for the next turn");
    }
    drop(window.take().await);
    let waited = TimeDelta::from_std(started.elapsed()).unwrap_or_default();
    let mut sent = earlier;
    sent.push(now + waited);
    let keep = sent.len().saturating_sub(MOST as usize);
    let text = serde_json::to_vec(&sent[keep..]).expect("times can be written");
    state.folder(FOLDER)?;
    replace(&path(state), text)
}

/// When imports were sent that still count, the oldest first.
fn earlier(state: &StateDir, now: DateTime<Utc>) -> Vec<DateTime<Utc>> {
    // It is a courtesy: what cannot be read counts for nothing, and GitLab would say so.
    let text = fs::read(path(state)).unwrap_or_default();
    let mut sent: Vec<DateTime<Utc>> = serde_json::from_slice(&text).unwrap_or_default();
    let period = TimeDelta::from_std(PERIOD).unwrap_or_default();
    // A clock that was set back makes nobody wait for hours.
    sent.retain(|sent| *sent <= now && now - *sent < period);
    sent.sort_unstable();
    let keep = sent.len().saturating_sub(MOST as usize);
    sent.split_off(keep)
}

fn path(state: &StateDir) -> PathBuf {
    state.path().join(FOLDER).join("sent.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_seventh_in_a_minute_waits_for_the_first_to_be_over() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let state = StateDir::new(dir.path());
        let begin = DateTime::<Utc>::from_timestamp(1_700_000_000, 0).expect("a time");
        let start = tokio::time::Instant::now();
        // Each of them is a process of its own, five seconds after the one before.
        for number in 0..6 {
            let now = begin + TimeDelta::seconds(5 * number);
            await_turn(&state, now).await.expect("noted");
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        let now = begin + TimeDelta::seconds(40);
        await_turn(&state, now).await.expect("noted");
        assert_eq!(start.elapsed().as_secs(), 20);
        assert_eq!(earlier(&state, begin + TimeDelta::seconds(61)).len(), 6);
        assert_eq!(earlier(&state, begin + TimeDelta::seconds(600)).len(), 0);
        assert_eq!(earlier(&state, begin - TimeDelta::seconds(600)).len(), 0);
        fs::write(path(&state), "{").expect("written");
        assert_eq!(earlier(&state, begin).len(), 0);
    }
}
