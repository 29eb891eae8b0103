//! `list`

use std::fmt::Write as _;
use std::io;

use chrono::Utc;
use serde::Serialize;

use super::setup::{Failure, Setup, is_passed_over};
use super::{ExitStatus, tell};
use crate::archive::{Archive, ArchiveKind};
use crate::catalog::Catalog;
use crate::cli::{Global, ListArgs};
use crate::history;
use crate::listing::{self, Row};
use crate::local::find_archives;
use crate::report::Status;

/// What `--json` shows.
#[derive(Serialize)]
struct Listing {
    command: &'static str,
    status: Status,
    backups: Vec<Row>,
    unknown: Vec<Unknown>,
    error: Option<String>,
    #[serde(skip)]
    exit: ExitStatus,
}

/// A file in one of our folders that belongs to no backup.
#[derive(Serialize)]
struct Unknown {
    destination: String,
    path: String,
    size: u64,
}

/// Shows all backups.
pub fn run(global: &Global, arguments: &ListArgs) -> Result<ExitStatus, Failure> {
    let loaded = Setup::load(global, &arguments.destination)?;
    let listing = Setup::carry_out(global, loaded, async |setup| {
        Ok(list(&setup, arguments).await)
    })?;
    let text = || {
        let mut text = listing::text(&listing.backups, Utc::now());
        for file in &listing.unknown {
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "{}:{} belongs to no backup",
                file.destination, file.path
            );
        }
        text
    };
    tell(global, &listing, text);
    Ok(listing.exit)
}

async fn list(setup: &Setup, arguments: &ListArgs) -> Listing {
    let mut catalogs = Vec::new();
    let mut errors = Vec::new();
    let mut stopped = None;
    let asked = setup.taking_part().filter(|_| !arguments.local);
    for destination in asked {
        let patience = destination.patience(setup.short());
        tokio::select! {
            read = Catalog::read(destination, &setup.state, &patience) => match read {
                Ok(catalog) => catalogs.push(catalog),
                Err(error) if is_passed_over(destination, &error) => {}
                Err(error) => {
                    tracing::error!("{error}");
                    errors.push(error.to_string());
                }
            },
            signal = setup.stop.requested() => {
                errors.insert(0, format!("stopped by {}", signal.name()));
                stopped = Some(signal);
                break;
            }
        }
    }
    let mut backups = listing::rows(&catalogs);
    if arguments.destination.is_empty() {
        backups.extend(listing::local_rows(
            &local(setup, ArchiveKind::Data),
            &local(setup, ArchiveKind::Config),
            &history::read(&setup.state).unwrap_or_default(),
        ));
        listing::sort(&mut backups);
    }
    let unknown = catalogs.iter().flat_map(|catalog| {
        let files = catalog.spare_configs.iter().chain(&catalog.unknown);
        files.map(|file| Unknown {
            destination: catalog.destination.clone(),
            path: file.path.clone(),
            size: file.size,
        })
    });
    let unknown = unknown.collect();
    let (status, exit) = match (stopped, errors.is_empty(), catalogs.is_empty()) {
        (Some(signal), ..) => (Status::Failed, signal.exit_status()),
        (None, true, _) => (Status::Ok, 0),
        (None, false, false) => (Status::Partial, 3),
        (None, false, true) => (Status::Failed, 1),
    };
    Listing {
        command: "list",
        status,
        exit,
        backups,
        unknown,
        error: errors.into_iter().next(),
    }
}

/// The archives of a kind on this machine; on one without GitLab there are none.
pub fn local(setup: &Setup, kind: ArchiveKind) -> Vec<Archive> {
    let folder = setup.gitlab.folder(kind);
    find_archives(&setup.gitlab, kind).unwrap_or_else(|error| {
        if error.kind() != io::ErrorKind::NotFound {
            tracing::warn!(
                "looking for {kind} archives in {}: {error}",
                folder.display()
            );
        }
        Vec::new()
    })
}
