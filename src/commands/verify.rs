//! `verify`

use std::fmt::Write as _;

use chrono::Utc;
use serde::Serialize;

use super::list::local;
use super::setup::{Failure, NO_BACKUPS, Setup, is_passed_over};
use super::{ExitStatus, USAGE, tell};
use crate::archive::ArchiveKind;
use crate::catalog::{Catalog, FileStatus};
use crate::cli::{Global, VerifyArgs};
use crate::destination::Destination;
use crate::history;
use crate::report::Status;
use crate::verify::{BY_SIZE, Known, VerifiedFile, compare, is_whole, note_verified};

/// What `--json` shows.
#[derive(Serialize)]
struct Verification {
    command: &'static str,
    status: Status,
    archives: Vec<VerifiedFile>,
    error: Option<String>,
}

/// Compares what is stored with the manifests.
pub fn run(global: &Global, arguments: &VerifyArgs) -> Result<ExitStatus, Failure> {
    let loaded = Setup::load(global, &arguments.destination)?;
    if loaded.1.is_empty() {
        return Err((USAGE, NO_BACKUPS.to_owned()));
    }
    let (verification, stopped) = Setup::carry_out(global, loaded, async |setup| {
        tokio::select! {
            verification = verify(&setup, arguments.backup.as_deref()) => Ok((verification, None)),
            signal = setup.stop.requested() => {
                let failed = Verification {
                    command: "verify",
                    status: Status::Failed,
                    archives: Vec::new(),
                    error: Some(format!("stopped by {}", signal.name())),
                };
                Ok((failed, Some(signal.exit_status())))
            }
        }
    })?;
    tell(global, &verification, || text(&verification));
    let failed = ExitStatus::from(verification.status != Status::Ok);
    Ok(stopped.unwrap_or(failed))
}

async fn verify(setup: &Setup, wanted: Option<&str>) -> Verification {
    let known = Known {
        local: ArchiveKind::ALL
            .iter()
            .flat_map(|kind| local(setup, *kind))
            .collect(),
        runs: history::read(&setup.state).unwrap_or_default(),
    };
    let mut catalogs = Vec::new();
    let (mut errors, mut absent) = (Vec::new(), Vec::new());
    for destination in setup.taking_part() {
        let patience = destination.patience(setup.short());
        match Catalog::read(destination, &setup.state, &patience).await {
            Ok(catalog) => catalogs.push((destination, catalog)),
            Err(error) if is_passed_over(destination, &error) => absent.push(destination.name()),
            Err(error) => errors.push(error.to_string()),
        }
    }
    let mut archives = Vec::new();
    for (destination, catalog) in &catalogs {
        let id = match wanted {
            Some("latest") => {
                if let Some(backup) = catalog.newest_complete() {
                    Some(backup.id.as_str())
                } else {
                    let name = destination.name();
                    errors.push(format!("{name}: no backup is complete\n  `gitlab-pi-backup list` shows what is there"));
                    continue;
                }
            }
            wanted => wanted,
        };
        archives.extend(compare(catalog, id, &known));
        note_verified(
            destination,
            catalog,
            id,
            &setup.state,
            &setup.short_patience(),
            Utc::now(),
        )
        .await;
    }
    if archives.is_empty() && errors.is_empty() {
        let names: Vec<_> = catalogs
            .iter()
            .map(|(destination, _): &(&Destination, _)| destination.name())
            .collect();
        let names = names.join(", ");
        errors.push(match wanted {
            _ if catalogs.is_empty() => format!(
                "nothing could be verified: {} is not there\n  connect it, or name another with --destination",
                absent.join(", ")
            ),
            Some(id) => format!(
                "{names}: there is no backup {id}\n  `gitlab-pi-backup list` shows what is there"
            ),
            None => format!("{names}: there is no backup\n  make one: gitlab-pi-backup run"),
        });
    }
    if errors.is_empty() && !is_whole(&archives) {
        let bad = archives
            .iter()
            .filter(|file| !is_whole(std::slice::from_ref(file)))
            .count();
        errors.push(format!(
            "{bad} of {} files are not as they should be\n  a complete backup is made by: gitlab-pi-backup run",
            archives.len()
        ));
    }
    for error in &errors {
        tracing::error!("{error}");
    }
    Verification {
        command: "verify",
        status: if errors.is_empty() {
            Status::Ok
        } else {
            Status::Failed
        },
        archives,
        error: errors.into_iter().next(),
    }
}

fn text(verification: &Verification) -> String {
    let mut text = String::new();
    let count = |status| {
        verification
            .archives
            .iter()
            .filter(|file| file.status == status)
            .count()
    };
    for file in verification
        .archives
        .iter()
        .filter(|file| file.status != FileStatus::Ok)
    {
        let what = match file.status {
            FileStatus::Ok => "ok",
            FileStatus::Missing => "MISSING",
            FileStatus::Size => "WRONG SIZE",
            FileStatus::Hash => "WRONG CONTENT",
            FileStatus::Stray => "stray",
        };
        let detail = file
            .detail
            .as_deref()
            .map(|detail| format!(" ({detail})"))
            .unwrap_or_default();
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:<13} {}:{}{detail}",
            what, file.destination, file.path
        );
    }
    let _ = match verification.status {
        Status::Ok => writeln!(
            text,
            "ok: {} archives are as they should be",
            count(FileStatus::Ok)
        ),
        _ => writeln!(
            text,
            "FAILED: {} archives are as they should be, {} files are not",
            count(FileStatus::Ok),
            verification.archives.len() - count(FileStatus::Ok) - count(FileStatus::Stray)
        ),
    };
    let by_size = verification
        .archives
        .iter()
        .filter(|file| file.status == FileStatus::Ok && file.detail.as_deref() == Some(BY_SIZE));
    match by_size.count() {
        0 => {}
        count => {
            let _ = writeln!(
                text,
                "of {count} of them the size is all that their destinations tell: `gitlab-pi-backup rehearse` reads them"
            );
        }
    }
    text
}
