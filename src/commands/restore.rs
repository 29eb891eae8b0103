//! `restore`

mod project;

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};
use std::time::Duration;

use chrono::Utc;

use super::identity::identities;
use super::setup::{Failure, Setup};
use super::{ExitStatus, USAGE, complain, tell};
use crate::catalog::Wanted;
use crate::cli::{Global, LogFormat, RestoreArgs};
use crate::restore::report::RestoreReport;
use crate::restore::runbook::RunbookStep;
use crate::restore::{self, Job};

/// Fetches a backup, tells how to restore it, or restores it; or imports one project.
pub fn run(global: &Global, arguments: &RestoreArgs) -> Result<ExitStatus, Failure> {
    if let Some(project) = &arguments.project {
        return project::run(global, arguments, project);
    }
    if arguments.apply && !arguments.yes && !io::stdin().is_terminal() {
        let message = "`--apply` asks before each step, and standard input is no terminal\n  \
            run it on one, or answer everything beforehand with --yes";
        return Err((USAGE, message.to_owned()));
    }
    let loaded = Setup::load(global, arguments.destination.as_slice())?;
    let report = Setup::carry_out(global, loaded, async |setup| {
        carry_out(&setup, global, arguments).await
    })?;
    tell(global, &report, || report.text());
    if let Some(error) = &report.error {
        complain(error);
    }
    Ok(report.exit_status())
}

async fn carry_out(
    setup: &Setup,
    global: &Global,
    arguments: &RestoreArgs,
) -> Result<RestoreReport, Failure> {
    // A plan decrypts nothing: its key may be on the machine that it is printed for.
    let key = arguments.identity.as_deref().filter(|_| !arguments.plan);
    let identities = identities(key, &setup.stop).await?;
    let job = Job {
        gitlab: &setup.gitlab,
        destinations: setup.taking_part().collect(),
        retry_for: setup.upload.retry_for,
        state: &setup.state,
        wanted: Wanted::new(arguments.backup.as_deref()),
        identities: identities.as_ref(),
        identity: arguments.identity.as_deref(),
        show: setup.show,
        stop: &setup.stop,
    };
    // Reports and hints name it from the root on.
    let to = arguments.to.as_deref().map(std::path::absolute).transpose();
    let to = to.map_err(|error| (1, format!("--to: {error}")))?;
    let to = to.as_deref();
    if arguments.plan {
        return Ok(restore::plan(&job, to, Utc::now()).await);
    }
    let wait = arguments.wait.map_or(Duration::ZERO, |wait| wait.0);
    let _lock = setup.lock(wait).await?;
    if !arguments.apply {
        return Ok(restore::fetch(&job, to, arguments.only).await);
    }
    let mut ask = !arguments.yes;
    let confirm = async |step: &RunbookStep, number: usize, count: usize| {
        show(global, step, number, count, ask);
        if !ask {
            return true;
        }
        match answer().await.as_str() {
            "y" | "yes" => true,
            "a" | "all" => {
                ask = false;
                true
            }
            _ => false,
        }
    };
    Ok(restore::apply(&job, Utc::now(), confirm).await)
}

/// Shows a step before it is done.
fn show(global: &Global, step: &RunbookStep, number: usize, count: usize, ask: bool) {
    if global.log_format == LogFormat::Json && !ask {
        tracing::info!("step {number} of {count}: {}", step.title);
        return;
    }
    if global.quiet && !ask {
        return;
    }
    let mut text = format!("step {number} of {count}: {}\n", step.title);
    if ask {
        let command = step.shell().map(|command| format!("    {command}\n"));
        text += &command.unwrap_or_default();
        for note in &step.notes {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "  {note}");
        }
        text += "go on? [y]es, [n]o, yes to [a]ll: ";
    }
    // A closed standard error changes nothing.
    let _ = io::stderr().write_all(text.as_bytes());
}

/// A line from the terminal; its end is no answer. Read on a thread of its own, so that a signal is heard
/// meanwhile.
async fn answer() -> String {
    let reading = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        io::stdin().read_line(&mut line).map(|_| line)
    });
    let line = reading
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)));
    line.unwrap_or_default().trim().to_ascii_lowercase()
}
