//! How far GitLab is with an export: looked at again and again, until there is one or there will be none.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::journal::Asked;
use super::run::{Failure, Item, Next, Run};
use super::select::is_usable;
use crate::destination::FileEntry;
use crate::error::{Error, ErrorKind};
use crate::gitlab::api::exports::{ExportState, ExportStatus};
use crate::retry::Patience;
use crate::retry::rhythm::Rhythm;
use crate::units::Span;

/// What was before an export is told until GitLab's queue has come to it. For longer that is not believed.
const LATEST_START: Duration = Duration::from_mins(5);

/// Where nothing was before, nothing is told in the queue. What is asked for a second time too early is made twice, so
/// that a long queue is waited for, but not as long as an export may take: older versions tell nothing of a failure.
const LONGEST_QUEUE: Duration = Duration::from_hours(1);

/// So often an answer that is none of GitLab's is taken for an accident.
const ODD_ANSWERS: u32 = 3;

/// GitLab removes an older export when it is asked for a new one, or says that it is made anew; for longer it is not
/// believed that what can be downloaded is the older one.
const LATEST_REPLACED: Duration = Duration::from_secs(20);

/// What became of an export that GitLab was asked for.
pub(super) enum Made {
    /// GitLab has brought it to its place.
    Arrived(FileEntry),
    /// It can be downloaded.
    Ready,
    /// There is none; why, as far as GitLab tells.
    Gone(&'static str),
}

impl Run<'_> {
    /// Waits until GitLab makes no export of a project that somebody else asked for; what is there then, and the
    /// project where it is now: it may have moved since it was listed.
    pub(super) async fn idle(&self, item: &Item) -> Result<(Item, ExportStatus), Failure> {
        let mut rhythm = Rhythm::default();
        loop {
            let state = self.state(item).await?;
            if !is_under_way(state.status) {
                let path = state.path.unwrap_or_else(|| item.path.clone());
                return Ok((self.moved(item, path)?, state.status));
            }
            let left = self.time_left(item, state.status, &rhythm)?;
            rhythm.beat(left).await;
        }
    }

    fn moved(&self, item: &Item, path: String) -> Result<Item, Failure> {
        if path == item.path {
            return Ok(item.clone());
        }
        if !is_usable(&path) {
            let what = format!("{} moved to a path that cannot be one", item.path);
            let hint = "is `gitlab.url` the address of a GitLab? the next run looks again";
            return Err(Failure::new(Next::Later, format!("{what}\n  {hint}")));
        }
        let key = self.job.key(&path, item.id, self.journal.time);
        if let Some(refusal) = self.destination().refusal_of(&key) {
            let what = format!("{} moved to {path}: {refusal}", item.path);
            let hint = "shorten its path in GitLab, or `projects.name`";
            return Err(Failure::new(Next::Later, format!("{what}\n  {hint}")));
        }
        let item = Item { path, key, ..*item };
        if !self.claim(item.id, &item.key) {
            // Nothing says which of the two would win.
            let what = format!(
                "its project moved to {} while this ran, where the export of another one is stored as {}\n  \
                 the next run exports it by its new path",
                item.path, item.key
            );
            return Err(Failure::new(Next::Later, what));
        }
        tracing::info!("the project {} has moved to {}", item.id, item.path);
        Ok(item)
    }

    /// Waits until an export is no longer being made.
    pub(super) async fn made(&self, item: &Item, asked: &Asked) -> Result<Made, Failure> {
        let latest_start = (self.job.settings.timeout / 12).min(LATEST_START);
        let longest_queue = (self.job.settings.timeout / 6).min(LONGEST_QUEUE);
        let mut rhythm = Rhythm::default();
        let (mut begun, mut is_first) = (false, true);
        loop {
            let status = self.status(item).await?;
            // Before its queue comes to it GitLab tells what was before.
            let latest = match status {
                ExportStatus::None => longest_queue,
                _ => latest_start,
            };
            let is_over = begun || rhythm.elapsed() > latest;
            match status {
                _ if is_under_way(status) => begun = true,
                ExportStatus::Finished if !asked.direct && (is_over || !asked.stale) => {
                    return Ok(Made::Ready);
                }
                ExportStatus::Failed if is_over || !asked.stale => {
                    return Ok(Made::Gone("GitLab could not make the export"));
                }
                _ => {
                    if asked.direct
                        && (is_over || !is_first)
                        && let Some(found) = self.arrived(item, asked).await?
                    {
                        return Ok(Made::Arrived(found));
                    }
                    let is_stale =
                        status == ExportStatus::Finished && rhythm.elapsed() > LATEST_REPLACED;
                    if is_over || (is_stale && !asked.direct) {
                        return Ok(match (status, asked.direct) {
                            (ExportStatus::Finished, _) => Made::Ready,
                            (_, true) => Made::Gone("it did not arrive"),
                            (_, false) => Made::Gone("GitLab could not make the export"),
                        });
                    }
                }
            }
            is_first = false;
            let left = self.time_left(item, status, &rhythm)?;
            rhythm.beat(left).await;
        }
    }

    /// How much longer an export may take.
    fn time_left(
        &self,
        item: &Item,
        status: ExportStatus,
        rhythm: &Rhythm,
    ) -> Result<Duration, Failure> {
        let timeout = self.job.settings.timeout;
        let left = timeout.saturating_sub(rhythm.elapsed());
        if !left.is_zero() {
            return Ok(left);
        }
        let what = format!(
            "waiting for the export of {}: GitLab has not made it within {}, it is {}\n  \
             is Sidekiq running there? `projects.timeout` allows more",
            item.path,
            Span(timeout),
            in_words(status)
        );
        Err(Failure::new(Next::Later, what))
    }

    pub(super) async fn state(&self, item: &Item) -> Result<ExportState, Failure> {
        let mut rhythm = Rhythm::default();
        let mut odd = 0;
        loop {
            // Nobody waits long for one project whose answers are errors: whether it is GitLab is asked then.
            let patience = Patience::short(self.job.upload.retry_for);
            let mut state = self.job.api.export_state(item.id, &patience).await;
            if let Err(error) = &state
                && matches!(error.kind(), ErrorKind::RateLimited(_))
            {
                state = self.job.api.export_state(item.id, &self.patience()).await;
            }
            let error = match state {
                Ok(state) => return Ok(state),
                Err(error) => error,
            };
            if error.kind() != ErrorKind::Unexpected || odd == ODD_ANSWERS {
                return Err(self.of_gitlab(&error).await);
            }
            tracing::info!("{error}; it is asked again");
            odd += 1;
            rhythm.beat(Duration::MAX).await;
        }
    }

    /// GitLab answered so, or not at all. Where it answers everything else, it is about one project alone; where it
    /// answers nothing, it is waited for.
    pub(super) async fn of_gitlab(&self, error: &Error) -> Failure {
        let failure = Failure::of_gitlab(error);
        let may_pass = matches!(
            error.kind(),
            ErrorKind::Unavailable | ErrorKind::RateLimited(_)
        );
        if !may_pass {
            return failure;
        }
        match self.job.api.version(&self.patience()).await {
            Ok(Some(_)) => Failure::new(Next::Again, failure.error),
            _ => failure,
        }
    }

    pub(super) async fn status(&self, item: &Item) -> Result<ExportStatus, Failure> {
        self.state(item).await.map(|state| state.status)
    }

    /// What lies where an export goes, if it came there after it had been asked for.
    pub(super) async fn arrived(
        &self,
        item: &Item,
        asked: &Asked,
    ) -> Result<Option<FileEntry>, Failure> {
        let patience = self.patience();
        let found = self.destination().stat(&item.key, &patience).await;
        let found = found.map_err(|error| Failure::of_place(&error))?;
        let file = found.and_then(|entry| entry.file);
        let asked = self.by_the_clock_of(self.destination().clock_lag(), asked);
        Ok(file.filter(|file| file.size > 0 && is_newer(file.modified, asked)))
    }

    /// When something was asked for, by a clock that ours is behind by `lag` now.
    pub(super) fn by_the_clock_of(&self, lag: Option<TimeDelta>, asked: &Asked) -> DateTime<Utc> {
        translated(asked.at, self.now(), Utc::now(), lag)
    }

    /// The size of what GitLab has put there by itself after all, when nobody waited for it any more.
    pub(super) async fn came_late(&self, item: &Item) -> Result<Option<u64>, Failure> {
        let Some(asked) = self.given_up(item) else {
            return Ok(None);
        };
        let found = self.arrived(item, &asked).await?;
        Ok(found.map(|file| file.size))
    }
}

/// `at` was told by the clock of this run, which goes on evenly whatever is done to the machine's: what that was set by
/// since then is in the lag, and not in `at`.
fn translated(
    at: DateTime<Utc>,
    of_run: DateTime<Utc>,
    of_machine: DateTime<Utc>,
    lag: Option<TimeDelta>,
) -> DateTime<Utc> {
    lag.map_or(at, |lag| at + (of_machine - of_run) + lag)
}

/// Whether something that came at `modified` came after `asked`, by the same clock. Some count whole seconds.
fn is_newer(modified: Option<DateTime<Utc>>, asked: DateTime<Utc>) -> bool {
    modified.is_none_or(|modified| modified >= asked - TimeDelta::seconds(2))
}

/// Whether GitLab is at it, or in a state that this program does not know.
pub(super) fn is_under_way(status: ExportStatus) -> bool {
    status.is_under_way() || status == ExportStatus::Other
}

fn in_words(status: ExportStatus) -> &'static str {
    match status {
        ExportStatus::None => "not begun",
        ExportStatus::Queued => "queued",
        ExportStatus::Started => "begun",
        ExportStatus::RegenerationInProgress => "being made anew",
        ExportStatus::Finished => "finished",
        ExportStatus::Failed => "failed",
        ExportStatus::Other => "in a state that this program does not know",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_came_after_it_was_asked_for_counts() {
        let at =
            |seconds: i64| DateTime::from_timestamp(1_800_000_000 + seconds, 0).expect("a time");
        for (modified, expected) in [
            (None, true),
            (Some(at(5)), true),
            (Some(at(-1)), true),
            (Some(at(-3)), false),
            (Some(at(-86_400)), false),
        ] {
            assert_eq!(is_newer(modified, at(0)), expected, "{modified:?}");
        }
    }

    #[test]
    fn a_clock_that_was_set_meanwhile_moves_nothing() {
        let at =
            |seconds: i64| DateTime::from_timestamp(1_800_000_000 + seconds, 0).expect("a time");
        let lag = |seconds: i64| Some(TimeDelta::seconds(seconds));
        // Asked for 100 seconds into the run, looked at after 160, by a clock that is right.
        for (run, machine, lag, asked) in [
            (160, 160, None, 100),
            (160, 160, lag(0), 100),
            (160, 160, lag(7), 107),
            // Ours was ten minutes fast, and was set right.
            (160, -440, lag(0), -500),
            // It still is.
            (160, 160, lag(-600), -500),
            // It was right, and was set an hour forward.
            (160, 3_760, lag(-3_600), 100),
        ] {
            let told = translated(at(100), at(run), at(machine), lag);
            assert_eq!(told, at(asked), "{run} {machine} {lag:?}");
        }
    }
}
