//! `prune`

use std::fmt::Write as _;
use std::time::Duration;

use chrono::Local;
use serde::Serialize;

use super::setup::{Failure, Setup};
use super::{ExitStatus, tell};
use crate::cli::{Global, PruneArgs};
use crate::destination::dropbox;
use crate::prune::{Outcome, PlanRow, Request, prune};
use crate::report::{Pruned, Status};
use crate::restore::unfinished;
use crate::retention::Action;
use crate::stop::StopSignal;

/// What `--json` shows.
#[derive(Serialize)]
struct Pruning {
    command: &'static str,
    status: Status,
    plan: Vec<PlanRow>,
    pruned: Vec<Pruned>,
    error: Option<String>,
    #[serde(skip)]
    exit: ExitStatus,
}

/// Applies the retention policy.
pub fn run(global: &Global, arguments: &PruneArgs) -> Result<ExitStatus, Failure> {
    let loaded = Setup::load(global, &arguments.destination)?;
    let pruning = Setup::carry_out(global, loaded, async |setup| {
        carry_out(&setup, arguments).await
    })?;
    tell(global, &pruning, || text(&pruning));
    Ok(pruning.exit)
}

async fn carry_out(setup: &Setup, arguments: &PruneArgs) -> Result<Pruning, Failure> {
    let Some(policy) = &setup.retention else {
        let message = "the configuration has no [retention]: nothing is ever deleted\n  \
            config.example.toml shows how to keep, for example, the last 7 days and 4 weeks";
        return Err((super::USAGE, message.to_owned()));
    };
    let wait = arguments.wait.map_or(Duration::ZERO, |wait| wait.0);
    let _lock = if arguments.dry_run {
        None
    } else {
        Some(setup.lock(wait).await?)
    };
    if let Some(restore) = unfinished(&setup.state) {
        return Err((1, format!("nothing is pruned: {restore}")));
    }
    let request = Request {
        policy,
        state: &setup.state,
        gitlab: &setup.gitlab,
        awaited: dropbox::awaited(&setup.state.path().join(dropbox::JOURNALS)),
        dry_run: arguments.dry_run,
        accept_shrink: arguments.accept_shrink,
        patience: setup.upload.retry_for,
    };
    let destinations: Vec<_> = setup.taking_part().collect();
    let now = Local::now();
    let mut outcome = Outcome::default();
    let stopped = tokio::select! {
        () = prune(&destinations, &request, &now, &mut outcome) => None,
        signal = setup.stop.requested() => Some(signal),
    };
    if let Some(signal) = stopped {
        let what = format!(
            "stopped by {}; the next pruning goes on there",
            signal.name()
        );
        outcome.errors.insert(0, what);
    }
    for error in outcome.errors.iter().chain(&outcome.refused) {
        tracing::error!("{error}");
    }
    let dry_run = arguments.dry_run;
    let failed = !outcome.errors.is_empty();
    let refused = !outcome.refused.is_empty() && !dry_run;
    let (status, exit) = match (dry_run, failed || refused) {
        (true, false) => (Status::DryRun, 0),
        // Dead credentials.
        (true, true) => (Status::Failed, 1),
        (false, true) => (Status::Partial, 3),
        (false, false) => (Status::Ok, 0),
    };
    Ok(Pruning {
        command: "prune",
        status: if stopped.is_some() {
            Status::Failed
        } else {
            status
        },
        exit: stopped.map_or(exit, StopSignal::exit_status),
        plan: outcome.rows,
        pruned: outcome.pruned,
        error: outcome
            .errors
            .into_iter()
            .chain(outcome.refused)
            .next()
            .filter(|_| failed || refused),
    })
}

fn text(pruning: &Pruning) -> String {
    let mut text = String::new();
    for row in &pruning.plan {
        let action = match row.action {
            Action::Keep => "keep",
            Action::Delete => "delete",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{action:<6} {}:{}  {}",
            row.destination,
            row.backup_id,
            row.reasons.join(", ")
        );
    }
    let count = |action| {
        pruning
            .plan
            .iter()
            .filter(|row| row.action == action)
            .count()
    };
    let (kept, gone) = (count(Action::Keep), count(Action::Delete));
    let _ = match pruning.status {
        Status::DryRun => writeln!(text, "dry run: {kept} would be kept, {gone} deleted"),
        Status::Ok => writeln!(
            text,
            "ok: {kept} kept, {gone} deleted ({} files)",
            pruning.pruned.len()
        ),
        Status::Partial | Status::Failed => {
            writeln!(text, "FAILED: {} files were deleted", pruning.pruned.len())
        }
    };
    text
}
