//! GitLab takes so many imports of one user in a minute
//! (<https://docs.gitlab.com/administration/settings/import_export_rate_limits/>), counts refused ones, too, and has taken
//! the whole file before it refuses. So the calls of this machine keep to that together: `state_dir/imports/sent.json`.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;

use super::journal::FOLDER;
use crate::retry::window::Window;
use crate::state::{StateDir, replace};
use crate::units::{Quota, Span};

/// Waits for the turn of one more import, and notes it. `now` is when this was called.
pub(super) async fn await_turn(
    state: &StateDir,
    limit: Quota,
    now: DateTime<Utc>,
) -> io::Result<()> {
    let Some((most, period)) = limit.0 else {
        return Ok(());
    };
    let started = Instant::now();
    let mut sent = earlier(state, period, now);
    let window = Window::new(limit);
    for sent in &sent {
        window.used_before((now - *sent).to_std().unwrap_or_default());
    }
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    if sent.len() >= most {
        tracing::info!(
            "GitLab takes {most} imports in {} (`projects.import_limit`); waiting for the next turn",
            Span(period)
        );
    }
    drop(window.take().await);
    sent.push(now + TimeDelta::from_std(started.elapsed()).unwrap_or_default());
    let text = serde_json::to_vec(&sent).expect("times can be written");
    state.folder(FOLDER)?;
    replace(&path(state), text)
}

/// When imports were sent that still count.
fn earlier(state: &StateDir, period: Duration, now: DateTime<Utc>) -> Vec<DateTime<Utc>> {
    // It is a courtesy: what cannot be read counts for nothing, and GitLab would say so.
    let text = fs::read(path(state)).unwrap_or_default();
    let mut sent: Vec<DateTime<Utc>> = serde_json::from_slice(&text).unwrap_or_default();
    let period = TimeDelta::from_std(period).unwrap_or(TimeDelta::MAX);
    // A clock that was set back makes nobody wait for hours.
    sent.retain(|sent| *sent <= now && now - *sent < period);
    sent
}

fn path(state: &StateDir) -> PathBuf {
    state.path().join(FOLDER).join("sent.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);
    const LIMIT: Quota = Quota(Some((6, MINUTE)));

    #[tokio::test(start_paused = true)]
    async fn the_seventh_in_a_minute_waits_for_the_first_to_be_over() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let state = StateDir::new(dir.path());
        let begin = DateTime::<Utc>::from_timestamp(1_700_000_000, 0).expect("a time");
        let start = Instant::now();
        // Each of them is a process of its own, five seconds after the one before.
        for number in 0..6 {
            let now = begin + TimeDelta::seconds(5 * number);
            await_turn(&state, LIMIT, now).await.expect("noted");
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        let now = begin + TimeDelta::seconds(40);
        await_turn(&state, LIMIT, now).await.expect("noted");
        assert_eq!(start.elapsed().as_secs(), 20);
        assert_eq!(
            earlier(&state, MINUTE, begin + TimeDelta::seconds(61)).len(),
            6
        );
        assert_eq!(
            earlier(&state, MINUTE, begin + TimeDelta::seconds(600)).len(),
            0
        );
        assert_eq!(
            earlier(&state, MINUTE, begin - TimeDelta::seconds(600)).len(),
            0
        );
        fs::write(path(&state), "{").expect("written");
        assert_eq!(earlier(&state, MINUTE, begin).len(), 0);
    }
}
