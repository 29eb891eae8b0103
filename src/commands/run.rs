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
use crate::destination::Destination;
use crate::history;
use crate::progress::Show;
use crate::report::RunReport;
use crate::state::{LockError, StateDir};
use crate::stop::Stop;

/// Makes the backups and brings them to the destinations. The error is told by the caller.
pub fn run(global: &Global, arguments: &RunArgs) -> Result<ExitStatus, (ExitStatus, String)> {
    let config =
        config::load(&config::path(global.config.clone())).map_err(|message| (USAGE, message))?;
    let selected = select(&config, &arguments.destination).map_err(|message| (USAGE, message))?;
    let state = StateDir::new(&config.state_dir);
    let _lock = if arguments.dry_run {
        None
    } else {
        Some(lock(
            &state,
            arguments.wait.map_or(Duration::ZERO, |wait| wait.0),
        )?)
    };
    let kinds = ArchiveKind::ALL
        .into_iter()
        .filter(|kind| arguments.only.is_empty() || arguments.only.contains(kind));
    let request = Request {
        dry_run: arguments.dry_run,
        skip_create: arguments.skip_create,
        kinds: kinds.collect(),
    };
    let report = carry_out(global, config, &selected, &state, request)
        .map_err(|error| (1, format!("{error:#}")))?;
    if !arguments.dry_run
        && let Err(error) = history::record(&state, &report)
    {
        tracing::warn!(
            "the run cannot be added to the history in {}: {error}",
            state.path().display()
        );
    }
    tell(global, &report);
    Ok(report.exit_status())
}

fn carry_out(
    global: &Global,
    config: Config,
    selected: &[String],
    state: &StateDir,
    request: Request,
) -> anyhow::Result<RunReport> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Hashing takes a processor each, reading a disk; more threads would only take memory.
        .max_blocking_threads(processors + 2)
        .thread_keep_alive(Duration::from_mins(1))
        .build()
        .context("starting the I/O thread")?;
    let stall = config.upload.stall_timeout;
    let destinations: Vec<_> = config
        .destinations
        .into_iter()
        .map(|settings| Destination::new(settings, stall, processors))
        .collect();
    let now = Utc::now();
    let report = runtime.block_on(async {
        let job = Job {
            gitlab: &config.gitlab,
            destinations: &destinations,
            selected,
            upload: &config.upload.options,
            state,
            request,
            show: show(global),
            stop: &Stop::listen().context("listening for signals")?,
        };
        anyhow::Ok(backup::run(&job, run_id(now), now).await)
    });
    // A read that hangs on a dead disk must not keep the program from ending.
    runtime.shutdown_timeout(Duration::from_millis(200));
    report
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

fn lock(state: &StateDir, wait: Duration) -> Result<crate::state::RunLock, (ExitStatus, String)> {
    state.lock(wait).map_err(|error| match error {
        LockError::Held(message) => {
            (LOCKED, format!("{message}\n  wait for it to end, or let this one wait with --wait 30m"))
        }
        LockError::Unusable(error) => (
            1,
            format!(
                "using the state folder {}: {error}\n  run as root, or set `state_dir` to a folder you may write",
                state.path().display()
            ),
        ),
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
