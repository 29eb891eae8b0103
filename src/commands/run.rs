//! `run`

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::setup::{Failure, Setup};
use super::{ExitStatus, LOCKED, USAGE, doctor, report, tell};
use crate::archive::ArchiveKind;
use crate::backup::{self, Job, Request};
use crate::cli::{Global, RunArgs};
use crate::config::Config;
use crate::destination::Settings;
use crate::history;
use crate::history::past;
use crate::logging::Tail;
use crate::notify::Notifier;
use crate::notify::message::Message;
use crate::report::{RunReport, Status};
use crate::schedule;
use crate::seal::Encryption;
use crate::state::{RunLock, StateDir};

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
    let is_started_by_hand = good == 1 && matches!(schedule::installed(), Ok(None));
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
    let notifier = Notifier::new(setup.notify.clone());
    let _lock = if dry_run {
        None
    } else {
        Some(lock(setup, &notifier, wait, log).await?)
    };
    let now = Utc::now();
    let id = run_id(now);
    let job = Job {
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
        return Ok(backup::run(&job, id, now).await);
    }
    let mut running = Box::pin(backup::run(&job, id.clone(), now));
    let started = notifier.started(&id);
    tokio::pin!(started);
    // The run waits for nobody who is told that it begins.
    let mut report = tokio::select! {
        report = &mut running => report,
        () = &mut started => running.await,
    };
    let folder = setup.state.path().display();
    let history = history::read_recent(&setup.state).unwrap_or_else(|error| {
        tracing::warn!("the history in {folder} cannot be read: {error}");
        Vec::new()
    });
    // Before anybody is told: that may take its time, and what happens meanwhile takes no run out of the history.
    if let Err(error) = history::record(&setup.state, &report) {
        tracing::warn!("the run cannot be added to the history in {folder}: {error}");
    }
    let known = setup.known();
    let told = notifier.ended(
        &mut report,
        (&history, &known),
        log.text(),
        Utc::now(),
        &setup.stop,
    );
    told.await;
    report::refresh(setup).await;
    Ok(report)
}

/// Takes the lock; a run that cannot begin is told like one that failed. That another run is at work is no failure.
async fn lock(
    setup: &Setup,
    notifier: &Notifier,
    wait: Duration,
    log: &Tail,
) -> Result<RunLock, Failure> {
    let locked = setup.lock(wait).await;
    if let Err((status, error)) = &locked
        && *status != LOCKED
    {
        let message = Message::not_begun(&run_id(Utc::now()), error, log.text());
        notifier.tell(&message, &setup.stop).await;
    }
    locked
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
pub(super) fn run_id(now: DateTime<Utc>) -> String {
    format!("{}-{:x}", now.format("%Y%m%dT%H%M%SZ"), std::process::id())
}
