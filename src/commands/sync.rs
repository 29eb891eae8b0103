//! `sync`

use std::fmt::Write as _;
use std::time::Duration;

use chrono::Utc;

use super::setup::{Failure, Setup};
use super::{ExitStatus, tell};
use crate::cli::{Global, SyncArgs};
use crate::restore::unfinished;
use crate::sync::{Sync, SyncReport, sync};
use crate::units::Size;

/// Sends what complete local backups a destination still lacks.
pub fn run(global: &Global, arguments: &SyncArgs) -> Result<ExitStatus, Failure> {
    let loaded = Setup::load(global, &arguments.destination)?;
    let encryption = Setup::encryption(&loaded.0)?;
    let wait = arguments.wait.map_or(Duration::ZERO, |wait| wait.0);
    let report = Setup::carry_out(global, loaded, async |setup| {
        let _lock = setup.lock(wait).await?;
        if let Some(restore) = unfinished(&setup.state) {
            return Err((1, format!("nothing is sent: {restore}")));
        }
        let parts = Sync {
            gitlab: &setup.gitlab,
            guard: &setup.guard,
            hooks: &setup.hooks,
            encryption: encryption.as_ref(),
            retention: setup.retention.as_ref(),
            destinations: &setup.destinations,
            selected: &setup.selected,
            upload: &setup.upload,
            state: &setup.state,
            show: setup.show,
            stop: &setup.stop,
        };
        Ok(sync(&parts, Utc::now()).await)
    })?;
    tell(global, &report, || text(&report));
    Ok(report.exit_status())
}

fn text(report: &SyncReport) -> String {
    let mut text = String::new();
    for archive in &report.archives {
        for upload in &archive.uploads {
            // Writing to a string cannot fail, here and below.
            let _ = writeln!(
                text,
                "{}:{}  {}, {}",
                upload.destination,
                upload.path,
                Size(archive.size),
                upload.outcome()
            );
        }
    }
    for passed_over in &report.passed_over {
        let _ = writeln!(
            text,
            "{} is not sent: {}",
            passed_over.backup_id, passed_over.reason
        );
    }
    for absent in &report.absent {
        let _ = writeln!(text, "{} is not there, and need not be", absent.destination);
    }
    let nothing = report.archives.is_empty() && report.passed_over.is_empty();
    let _ = match (&report.error, nothing) {
        (None, true) if report.absent.is_empty() => {
            writeln!(text, "ok: no destination lacks a backup of this machine")
        }
        (None, true) => writeln!(text, "ok: nothing was to be sent"),
        (None, false) => writeln!(text, "ok: {} archives were brought", report.archives.len()),
        (Some(error), _) => writeln!(text, "FAILED: {}", error.lines().next().unwrap_or_default()),
    };
    text
}
