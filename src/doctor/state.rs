//! What this program keeps on this machine: its folder, the lock of a run, a restore that was begun.

use std::fs;
use std::io;
use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};

use super::disk::{existing, way_out};
use super::schedule::Plan;
use super::{Check, Past};
use crate::destination::dropbox::{JOURNALS, unfinished as journals};
use crate::job::Job;
use crate::restore::unfinished;
use crate::state::{LockHolder, StateDir, can_make_files};
use crate::units::Span;

/// Without a schedule a run that is at work for longer does not get to its end.
const LONGEST_RUN: Duration = Duration::from_hours(4 * 24);

pub(super) fn checks(
    state: &StateDir,
    past: &Past,
    holder: io::Result<Option<LockHolder>>,
    plan: Option<&Plan>,
    now: DateTime<Utc>,
) -> Vec<Check> {
    let gap = plan
        .and_then(|plan| plan.longest_gap)
        .unwrap_or(LONGEST_RUN);
    vec![
        folder(state, past),
        lock(state, holder, gap, now.into()),
        restore(state),
    ]
}

fn folder(state: &StateDir, past: &Past) -> Check {
    const NAME: &str = "state";
    let path = state.path();
    let shown = path.display();
    let there = existing(path);
    let fault = |error: &io::Error| {
        Check::failed(NAME, &format!("{}: {error}", there.display())).hint(match error.kind() {
            io::ErrorKind::NotADirectory => {
                "delete what is in its place, or set `state_dir` to another folder"
            }
            _ => way_out(error),
        })
    };
    if !there.is_dir() {
        return fault(&io::ErrorKind::NotADirectory.into());
    }
    if let Err(error) = can_make_files(there) {
        return fault(&error);
    }
    if there != path {
        return Check::ok(NAME, format!("{shown} is made by the first run"));
    }
    if let Some(fault) = &past.fault {
        return Check::failed(
            NAME,
            &format!("{shown}: the history cannot be read: {fault}"),
        )
        .hint("delete history.jsonl in it to begin anew; the backups are not touched");
    }
    let folder = path.join(JOURNALS);
    let left = match journals(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            return Check::failed(
                NAME,
                &format!(
                    "{}: the journals of uploads cannot be read: {error}",
                    folder.display()
                ),
            )
            .hint(way_out(&error));
        }
        Ok(left) => left,
    };
    let damaged = match past.damaged {
        0 => String::new(),
        lines => format!(", damaged lines of the history: {lines}"),
    };
    let of = |count: usize, noun: &str| match count {
        0 => None,
        1 => Some(format!("one {noun}")),
        count => Some(format!("{count} {noun}s")),
    };
    let jobs = [
        of(past.runs.len(), Job::Run.noun()),
        of(past.exports.len(), Job::Projects.noun()),
    ];
    let jobs: Vec<_> = jobs.into_iter().flatten().collect();
    let runs = if jobs.is_empty() {
        "no run yet".to_owned()
    } else {
        jobs.join(", ")
    } + &damaged;
    let unusable = left.iter().filter(|left| left.content.is_err()).count();
    match (left.len() - unusable, unusable) {
        (0, 0) => Check::ok(NAME, format!("{shown}: {runs}")),
        (whole, 0) => Check::ok(
            NAME,
            format!("{shown}: {runs}, unfinished uploads: {whole}"),
        )
        .hint("the next run goes on with them: sudo gitlab-pi-backup run --skip-create"),
        (_, unusable) => Check::ok(
            NAME,
            format!("{shown}: {runs}, journals that cannot be used: {unusable}"),
        )
        .hint("the next run puts them aside, and sends those archives from the beginning"),
    }
}

/// `longest`: a run that is at work for longer keeps the next one from starting.
fn lock(
    state: &StateDir,
    holder: io::Result<Option<LockHolder>>,
    longest: Duration,
    now: SystemTime,
) -> Check {
    const NAME: &str = "lock";
    let shown = state.path().join("lock");
    let shown = shown.display();
    match holder {
        Ok(None) => Check::ok(NAME, "free"),
        Ok(Some(holder)) => {
            let age = now.duration_since(holder.since).unwrap_or_default();
            let what = format!("held by process {} for {}", holder.process, Span(age));
            if age > longest {
                Check::failed(NAME, &format!("{what}: the next run cannot start")).hint(format!(
                    "look at what it does, and end it: sudo kill {}; nothing is lost by that",
                    holder.process
                ))
            } else {
                Check::ok(NAME, format!("{what}: a run is at work"))
            }
        }
        Err(error)
            if error.kind() == io::ErrorKind::NotADirectory
                || error.kind() == io::ErrorKind::PermissionDenied =>
        {
            Check::skipped(NAME, "needs the state folder")
        }
        Err(error) => Check::failed(NAME, &format!("{shown}: {error}"))
            .hint("no run can take it: delete it when no run is at work"),
    }
}

fn restore(state: &StateDir) -> Check {
    const NAME: &str = "unfinished";
    if fs::metadata(state.path()).is_ok_and(|state| !state.is_dir()) {
        return Check::skipped(NAME, "needs the state folder");
    }
    unfinished(state).map_or_else(
        || Check::ok(NAME, "no restore was left unfinished"),
        |message| Check::failed(NAME, &message),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::CheckStatus;

    #[test]
    fn a_lock_may_be_held_as_long_as_a_run_may_take() {
        let state = StateDir::new(std::path::Path::new("/x"));
        let held = |hours: u64| {
            let since = SystemTime::UNIX_EPOCH;
            let holder = Ok(Some(LockHolder { process: 7, since }));
            let check = lock(
                &state,
                holder,
                LONGEST_RUN,
                since + Duration::from_hours(hours),
            );
            (check.status, check.detail, check.hint)
        };
        assert_eq!(
            held(90),
            (
                CheckStatus::Ok,
                "held by process 7 for 3d 18h: a run is at work".to_owned(),
                None
            )
        );
        let hint = "look at what it does, and end it: sudo kill 7; nothing is lost by that";
        assert_eq!(
            held(97),
            (
                CheckStatus::Failed,
                "held by process 7 for 4d 1h: the next run cannot start".to_owned(),
                Some(hint.to_owned())
            )
        );
    }
}
