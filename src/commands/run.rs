//! `run`

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::setup::{Failure, Setup};
use super::{ExitStatus, USAGE, report, tell};
use crate::archive::ArchiveKind;
use crate::backup::{self, Job, Request};
use crate::cli::{Global, RunArgs};
use crate::config::Config;
use crate::destination::Settings;
use crate::history;
use crate::report::RunReport;

/// Makes the backups and brings them to the destinations.
pub fn run(global: &Global, arguments: &RunArgs) -> Result<ExitStatus, Failure> {
    let loaded = Setup::load(global, &arguments.destination)?;
    let kinds = kinds(&loaded.0, &loaded.1, arguments).map_err(|message| (USAGE, message))?;
    let request = Request {
        dry_run: arguments.dry_run,
        skip_create: arguments.skip_create,
        kinds,
    };
    let wait = arguments.wait.map_or(Duration::ZERO, |wait| wait.0);
    let report = Setup::carry_out(global, loaded, async |setup| {
        carry_out(&setup, request, arguments.no_prune, wait).await
    })?;
    tell(global, &report, || report.text(Utc::now()));
    Ok(report.exit_status())
}

async fn carry_out(
    setup: &Setup,
    request: Request,
    no_prune: bool,
    wait: Duration,
) -> Result<RunReport, Failure> {
    let dry_run = request.dry_run;
    let _lock = if dry_run {
        None
    } else {
        Some(setup.lock(wait).await?)
    };
    let now = Utc::now();
    let job = Job {
        gitlab: &setup.gitlab,
        guard: &setup.guard,
        retention: setup.retention.as_ref().filter(|_| !no_prune),
        destinations: &setup.destinations,
        selected: &setup.selected,
        upload: &setup.upload,
        state: &setup.state,
        request,
        show: setup.show,
        stop: &setup.stop,
    };
    let report = backup::run(&job, run_id(now), now).await;
    if !dry_run && let Err(error) = history::record(&setup.state, &report) {
        let folder = setup.state.path().display();
        tracing::warn!("the run cannot be added to the history in {folder}: {error}");
    }
    if !dry_run {
        report::refresh(setup);
    }
    Ok(report)
}

/// The kinds that are asked for, of which at least one goes somewhere.
fn kinds(
    config: &Config,
    selected: &[String],
    arguments: &RunArgs,
) -> Result<Vec<ArchiveKind>, String> {
    let only = &arguments.only;
    let asked = ArchiveKind::ALL
        .into_iter()
        .filter(|kind| only.is_empty() || only.contains(kind));
    let asked: Vec<_> = asked.collect();
    let taking_part = config
        .destinations
        .iter()
        .filter(|known| selected.contains(&known.name));
    let goes_somewhere = taking_part
        .flat_map(Settings::kinds)
        .any(|kind| asked.contains(kind));
    if goes_somewhere {
        return Ok(asked);
    }
    let names: Vec<_> = asked.iter().map(|kind| kind.as_str()).collect();
    Err(format!(
        "none of the destinations {} gets the kind {}\n  see `kinds` in the configuration",
        selected.join(", "),
        names.join(", ")
    ))
}

/// Sorts by time, and is told from another run of the same second.
fn run_id(now: DateTime<Utc>) -> String {
    format!("{}-{:x}", now.format("%Y%m%dT%H%M%SZ"), std::process::id())
}
