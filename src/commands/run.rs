//! `run`

use std::time::Duration;

use chrono::Utc;

use super::setup::{Failure, NO_BACKUPS, Setup};
use super::{ExitStatus, USAGE, doctor, job, tell};
use crate::archive::ArchiveKind;
use crate::backup::{self, Request};
use crate::cli::{Global, RunArgs};
use crate::config::Config;
use crate::destination::Settings;
use crate::history;
use crate::history::past;
use crate::job::Job;
use crate::logging::Tail;
use crate::report::{RunReport, Status};
use crate::schedule;
use crate::seal::Encryption;
use crate::state::StateDir;

/// Makes the backups and brings them to the destinations.
pub fn run(global: &Global, arguments: &RunArgs, log: &Tail) -> Result<ExitStatus, Failure> {
    let loaded = Setup::load(global, &arguments.destination)?;
    let kinds = kinds(&loaded.0, &loaded.1, arguments).map_err(|message| (USAGE, message))?;
    let request = Request {
        dry_run: arguments.dry_run,
        skip_create: arguments.skip_create,
        kinds,
    };
    let encryption = Setup::encryption(&loaded.0)?;
    let wait = arguments.wait.map_or(Duration::ZERO, |wait| wait.0);
    let state = StateDir::new(&loaded.0.state_dir);
    let report = Setup::carry_out(global, loaded, async |setup| {
        let prune = !arguments.no_prune;
        carry_out(&setup, request, encryption.as_ref(), prune, wait, log).await
    })?;
    tell(global, &report, || {
        let next = next_step(&report, &state);
        let next = next.map(|next| format!("next: {} {next}\n", doctor::program(global)));
        report.text(Utc::now()) + &next.unwrap_or_default()
    });
    Ok(report.exit_status())
}

/// After the first good run of a machine: that it is not to be the last.
fn next_step(report: &RunReport, state: &StateDir) -> Option<&'static str> {
    if report.status != Status::Ok {
        return None;
    }
    let runs = past::runs(&history::read_recent(state).ok()?);
    let good = runs.iter().filter(|run| run.status == "ok").count();
    let is_started_by_hand = good == 1 && schedule::installed().is_ok_and(|found| found.is_empty());
    is_started_by_hand.then_some("schedule install")
}

async fn carry_out(
    setup: &Setup,
    request: Request,
    encryption: Option<&Encryption>,
    prune: bool,
    wait: Duration,
    log: &Tail,
) -> Result<RunReport, Failure> {
    let dry_run = request.dry_run;
    let notifier = job::notifier(setup, Job::Run);
    let _lock = if dry_run {
        None
    } else {
        Some(job::lock(setup, (Job::Run, &notifier), wait, log).await?)
    };
    let now = Utc::now();
    let id = job::run_id(now);
    let parts = backup::Job {
        gitlab: &setup.gitlab,
        guard: &setup.guard,
        hooks: &setup.hooks,
        encryption,
        retention: setup.retention.as_ref().filter(|_| prune),
        destinations: &setup.destinations,
        selected: &setup.selected,
        upload: &setup.upload,
        state: &setup.state,
        request,
        show: setup.show,
        stop: &setup.stop,
    };
    if dry_run {
        return Ok(backup::run(&parts, id, now).await);
    }
    let running = backup::run(&parts, id.clone(), now);
    let mut report = job::carry_out(&notifier, &id, running).await;
    job::run_ended(setup, &notifier, &mut report, log).await;
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
    if selected.is_empty() {
        return Err(NO_BACKUPS.to_owned());
    }
    let names: Vec<_> = asked.iter().map(|kind| kind.as_str()).collect();
    Err(format!(
        "none of the destinations {} gets the kind {}\n  see `kinds` in the configuration",
        selected.join(", "),
        names.join(", ")
    ))
}
