//! `restore`

use std::time::Duration;

use chrono::Utc;

use super::setup::{Failure, Setup};
use super::{ExitStatus, tell};
use crate::catalog::Wanted;
use crate::cli::{Global, RestoreArgs};
use crate::restore::report::RestoreReport;
use crate::restore::{self, Job};

/// Fetches a backup, tells how to restore it, or restores it.
pub fn run(global: &Global, arguments: &RestoreArgs) -> Result<ExitStatus, Failure> {
    let loaded = Setup::load(global, arguments.destination.as_slice())?;
    let report = Setup::carry_out(global, loaded, async |setup| {
        carry_out(&setup, arguments).await
    })?;
    tell(global, &report, || report.text());
    if let Some(error) = &report.error {
        super::complain(error);
    }
    Ok(report.exit_status())
}

async fn carry_out(setup: &Setup, arguments: &RestoreArgs) -> Result<RestoreReport, Failure> {
    let job = Job {
        gitlab: &setup.gitlab,
        destinations: setup.taking_part().collect(),
        retry_for: setup.upload.retry_for,
        state: &setup.state,
        wanted: Wanted::new(arguments.backup.as_deref()),
        show: setup.show,
        stop: &setup.stop,
    };
    let to = arguments.to.as_deref();
    if arguments.plan {
        return Ok(restore::plan(&job, to, Utc::now()).await);
    }
    let wait = arguments.wait.map_or(Duration::ZERO, |wait| wait.0);
    let _lock = setup.lock(wait).await?;
    Ok(restore::fetch(&job, to, arguments.only).await)
}
