//! `run`

use std::io::{self, IsTerminal};
use std::time::Duration;

use anyhow::Context;
use chrono::{DateTime, Utc};

use super::{ExitStatus, LOCKED, USAGE, print};
use crate::archive::ArchiveKind;
use crate::backup::{self, Job, Request};
use crate::cli::{Global, RunArgs};
use crate::config::{self, Config};
use crate::destination::{Destination, Settings};
use crate::history;
use crate::progress::Show;
use crate::report::RunReport;
use crate::state::{LockError, RunLock, StateDir};
use crate::stop::Stop;

/// Why the run did not come about: an exit status, and a message that the caller tells.
type Failure = (ExitStatus, String);

/// Makes the backups and brings them to the destinations.
pub fn run(global: &Global, arguments: &RunArgs) -> Result<ExitStatus, Failure> {
    let path = config::path(global.config.clone());
    let config = config::load(&path).map_err(|message| (USAGE, message))?;
    let selected = select(&config, &arguments.destination).map_err(|message| (USAGE, message))?;
    let kinds = kinds(&config, &selected, arguments).map_err(|message| (USAGE, message))?;
    let request = Request {
        dry_run: arguments.dry_run,
        skip_create: arguments.skip_create,
        kinds,
    };
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Hashing takes a processor each, reading a disk; more threads would only take memory.
        .max_blocking_threads(processors + 2)
        .thread_keep_alive(Duration::from_mins(1))
        .build()
        .context("starting the I/O thread")
        .map_err(|error| host_failure(&error))?;
    let wait = arguments.wait.map_or(Duration::ZERO, |wait| wait.0);
    let report = runtime.block_on(carry_out(
        global, config, &selected, request, wait, processors,
    ));
    // A read that hangs on a dead disk must not keep the program from ending.
    runtime.shutdown_timeout(Duration::from_millis(200));
    let report = report?;
    tell(global, &report);
    Ok(report.exit_status())
}

async fn carry_out(
    global: &Global,
    config: Config,
    selected: &[String],
    request: Request,
    wait: Duration,
    processors: usize,
) -> Result<RunReport, Failure> {
    let stop = Stop::listen()
        .context("listening for signals")
        .map_err(|error| host_failure(&error))?;
    let state = StateDir::new(&config.state_dir);
    let dry_run = request.dry_run;
    let _lock = if dry_run {
        None
    } else {
        Some(lock(&state, wait, &stop).await?)
    };
    let stall = config.upload.stall_timeout;
    let settings = config.destinations.into_iter();
    let destinations: Vec<_> = settings
        .map(|settings| Destination::new(settings, stall, processors))
        .collect();
    let now = Utc::now();
    let job = Job {
        gitlab: &config.gitlab,
        destinations: &destinations,
        selected,
        upload: &config.upload.options,
        state: &state,
        request,
        show: show(global),
        stop: &stop,
    };
    let report = backup::run(&job, run_id(now), now).await;
    if !dry_run && let Err(error) = history::record(&state, &report) {
        let folder = state.path().display();
        tracing::warn!("the run cannot be added to the history in {folder}: {error}");
    }
    Ok(report)
}

/// What the machine does not let us do.
fn host_failure(error: &anyhow::Error) -> Failure {
    (1, format!("{error:#}"))
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

/// The names that take part: those given, or all.
fn select(config: &Config, given: &[String]) -> Result<Vec<String>, String> {
    let known: Vec<_> = config
        .destinations
        .iter()
        .map(|settings| settings.name.clone())
        .collect();
    match given.iter().find(|name| !known.contains(name)) {
        Some(unknown) => Err(format!(
            "no destination is named `{unknown}`\n  the configuration knows: {}",
            known.join(", ")
        )),
        None if given.is_empty() => Ok(known),
        None => Ok(given.to_vec()),
    }
}

async fn lock(state: &StateDir, wait: Duration, stop: &Stop) -> Result<RunLock, Failure> {
    let locked = tokio::select! {
        locked = state.lock(wait) => locked,
        signal = stop.requested() => {
            let message = format!("stopped by {} while waiting for the lock", signal.name());
            return Err((signal.exit_status(), message));
        }
    };
    locked.map_err(|error| match error {
        LockError::Held(message) => {
            let hint = "wait for it to end, or let this one wait with --wait 30m";
            (LOCKED, format!("{message}\n  {hint}"))
        }
        LockError::Unusable(error) => {
            let folder = state.path().display();
            let hint = "run as root, or set `state_dir` to a folder you may write";
            (
                1,
                format!("using the state folder {folder}: {error}\n  {hint}"),
            )
        }
    })
}

fn show(global: &Global) -> Show {
    let terminal = io::stderr().is_terminal();
    match (terminal, global.no_progress || global.quiet) {
        (true, false) => Show::Bar,
        (true, true) => Show::Nothing,
        (false, _) => Show::Log,
    }
}

fn tell(global: &Global, report: &RunReport) {
    if global.json {
        // A report holds nothing that cannot be written as JSON.
        print(&(serde_json::to_string(report).unwrap_or_default() + "\n"));
    } else if !global.quiet {
        print(&report.text(Utc::now()));
    }
    if let (Some(error), false) = (&report.error, report.exit_status() == 0) {
        tracing::debug!("ended with exit status {}: {error}", report.exit_status());
    }
}

/// Sorts by time, and is told from another run of the same second.
fn run_id(now: DateTime<Utc>) -> String {
    format!("{}-{:x}", now.format("%Y%m%dT%H%M%SZ"), std::process::id())
}
