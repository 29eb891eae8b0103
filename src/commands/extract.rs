//! `extract`

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::identity::identities;
use super::setup::{Failure, Setup};
use super::{ExitStatus, USAGE, complain, tell};
use crate::catalog::{Wanted, find};
use crate::cli::{ExtractArgs, Global};
use crate::extract::report::{ExtractReport, ListReport};
use crate::extract::{Job, extract, list};
use crate::report::Status;
use crate::retry::Patience;

enum Report {
    Extracted(ExtractReport),
    Listed(ListReport),
}

/// Brings one project's repositories out of a stored backup, or tells which there are.
pub fn run(global: &Global, arguments: &ExtractArgs) -> Result<ExitStatus, Failure> {
    if arguments.list
        && arguments.project.is_some()
        && arguments.backup.as_deref() != Some("latest")
    {
        let message = "`--list` shows all projects of a backup\n  name only the backup: extract --list BACKUP";
        return Err((USAGE, message.to_owned()));
    }
    let loaded = Setup::load(global, arguments.destination.as_slice())?;
    let stop = Arc::new(AtomicBool::new(false));
    let report = Setup::carry_out(global, loaded, async |setup| {
        tokio::select! {
            report = carry_out(&setup, arguments, stop.clone()) => report,
            signal = setup.stop.requested() => {
                stop.store(true, Ordering::Relaxed);
                let message = format!("stopped by {}; nothing was made", signal.name());
                Err((signal.exit_status(), message))
            }
        }
    })?;
    let (status, error) = match &report {
        Report::Extracted(report) => {
            tell(global, report, || report.text());
            (report.status, &report.error)
        }
        Report::Listed(report) => {
            tell(global, report, || report.text());
            (report.status, &report.error)
        }
    };
    if let Some(error) = error {
        complain(error);
    }
    Ok(ExitStatus::from(status != Status::Ok))
}

async fn carry_out(
    setup: &Setup,
    arguments: &ExtractArgs,
    stop: Arc<AtomicBool>,
) -> Result<Report, Failure> {
    // With --list the first argument is the backup's.
    let (project, backup) = match (&arguments.project, arguments.list) {
        (Some(backup), true) => (None, Some(backup)),
        (project, _) => (project.as_deref(), arguments.backup.as_ref()),
    };
    let identities = identities(arguments.identity.as_deref(), &setup.stop).await?;
    let wanted = Wanted::new(backup.map(String::as_str));
    let found = find(setup.taking_part(), &wanted, &setup.state, || {
        setup.short_patience()
    });
    let found = found.await.map_err(|error| (1, error.to_string()))?;
    let patience = Patience::new(setup.upload.retry_for);
    let job = Job {
        found: &found,
        identities: identities.as_ref(),
        patience: &patience,
        show: setup.show,
        stop,
    };
    let to = arguments.to.as_deref().map(std::path::absolute).transpose();
    let to = to.map_err(|error| (1, format!("--to: {error}")))?;
    Ok(match (project, to) {
        (Some(project), Some(to)) => Report::Extracted(extract(&job, project, &to).await),
        _ => Report::Listed(list(&job).await),
    })
}
