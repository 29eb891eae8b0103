//! Deletes old backups: the plan first, with reasons, then what it says.
//!
//! A backup's manifest goes first, so that an interruption never leaves something that looks whole. What is
//! to be deleted stands in a journal before the first deletion, and the next pruning finishes it. Each file is
//! deleted only as the very content that was listed. What the program does not know, it never touches.

mod journal;
mod local;

use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, TimeZone};
use serde::Serialize;

use crate::archive::{ArchiveKind, find_archives};
use crate::catalog::{Catalog, StoredBackup, StoredFile};
use crate::destination::Destination;
use crate::error::Error;
use crate::report::Pruned;
use crate::retention::{Action, Candidate, RetentionPolicy, State};
use crate::retry::Patience;
use crate::state::StateDir;
use crate::verify::note_proof;

use self::journal::Journal;

/// What happens to a backup, and why.
#[derive(Clone, Debug, Serialize)]
pub struct PlanRow {
    /// The destination's name, or `local` for this machine.
    pub destination: String,
    /// GitLab's ID; for a config archive on this machine its name.
    pub backup_id: String,
    /// Whether it stays.
    pub action: Action,
    /// Why; at least one reason.
    pub reasons: Vec<String>,
}

/// What is to happen at one destination.
#[derive(Debug)]
struct Plan {
    /// A row for each backup, the newest first.
    rows: Vec<PlanRow>,
    /// What goes, in this order.
    doomed: Vec<Doomed>,
    /// Why nothing may be deleted there now.
    refused: Option<String>,
}

/// A file that goes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Doomed {
    backup_id: String,
    file: StoredFile,
}

/// Applies the policy to what a destination has. Days are those of the zone of `now`.
fn plan<Tz: TimeZone>(
    catalog: &Catalog,
    policy: &RetentionPolicy,
    state: &StateDir,
    now: &DateTime<Tz>,
) -> Plan {
    let row = |backup: &StoredBackup, action, reasons| PlanRow {
        destination: catalog.destination.clone(),
        backup_id: backup.id.clone(),
        action,
        reasons,
    };
    let refuse = |why: String| Plan {
        rows: catalog
            .backups
            .iter()
            .map(|backup| {
                row(
                    backup,
                    Action::Keep,
                    vec![why.lines().next().unwrap_or_default().to_owned()],
                )
            })
            .collect(),
        doomed: Vec::new(),
        refused: Some(format!("{}: {why}", catalog.destination)),
    };
    if let Some(shrunk) = catalog.backups.iter().find(|backup| backup.is_frozen()) {
        let manifest = shrunk.readable_manifest();
        let what = manifest
            .map(|manifest| manifest.shrunk.join("; "))
            .unwrap_or_default();
        return refuse(format!(
            "pruning is frozen, since {} has shrunk: {what}\n  if that is right: gitlab-pi-backup prune --accept-shrink",
            shrunk.id
        ));
    }
    let candidates: Vec<_> = catalog.backups.iter().map(candidate).collect();
    let planned = match policy.plan(&candidates, now) {
        Ok(planned) => planned,
        Err(behind) => return refuse(behind.to_string()),
    };
    let left = Journal::read(state, &catalog.destination);
    let rows = planned.backups.iter().filter_map(|planned| {
        let backup = catalog.backup(&planned.id)?;
        // Its manifest is gone already.
        if backup.is_unmanaged() && left.names(&backup.id) {
            let reason = "an earlier pruning was interrupted here".to_owned();
            return Some(row(backup, Action::Delete, vec![reason]));
        }
        Some(row(backup, planned.action, planned.reasons.clone()))
    });
    let rows: Vec<_> = rows.collect();
    let doomed = doomed(catalog, &rows, &left);
    Plan {
        rows,
        doomed,
        refused: None,
    }
}

fn candidate(backup: &StoredBackup) -> Candidate {
    let state = if backup.is_complete() {
        State::Complete
    } else if backup.is_unmanaged() {
        State::Unmanaged
    } else {
        let missing = backup.missing.iter().map(|missing| missing.why.clone());
        State::Incomplete(
            missing
                .chain(backup.doubts())
                .collect::<Vec<_>>()
                .join("; "),
        )
    };
    Candidate {
        id: backup.id.clone(),
        created_at: backup.created_at(),
        stamp: backup.data_name.stamp,
        state,
        rehearsed_at: backup.proof.rehearsed_at,
    }
}

/// The files of all backups that go, the oldest backup first, and of each the manifest first. What a backup
/// that stays refers to is not among them.
fn doomed(catalog: &Catalog, rows: &[PlanRow], left: &Journal) -> Vec<Doomed> {
    let goes = |backup: &&StoredBackup| {
        rows.iter()
            .any(|row| row.backup_id == backup.id && row.action == Action::Delete)
    };
    let kept = catalog.backups.iter().filter(|backup| !goes(backup));
    let needed: Vec<_> = kept
        .flat_map(|backup| &backup.archives)
        .map(|archive| archive.path.as_str())
        .collect();
    let mut doomed: Vec<Doomed> = Vec::new();
    for backup in catalog.backups.iter().rev().filter(goes) {
        // Data before the keys to it.
        let archives = [ArchiveKind::Data, ArchiveKind::Config].into_iter();
        let archives = archives.filter_map(|kind| backup.archive(kind)?.found.as_ref());
        for file in backup.own_files.iter().chain(archives) {
            let known = doomed.iter().any(|doomed| doomed.file.path == file.path);
            if !known && !needed.contains(&file.path.as_str()) {
                doomed.push(Doomed {
                    backup_id: backup.id.clone(),
                    file: file.clone(),
                });
            }
        }
    }
    // What an interrupted pruning left of backups that are no longer to be seen as such.
    let rest = catalog.unknown.iter().chain(&catalog.spare_configs);
    for file in rest.filter(|file| left.has(file)) {
        doomed.push(Doomed {
            backup_id: left.backup_of(file),
            file: file.clone(),
        });
    }
    doomed
}

/// Deletes what the plan says. On an error what was deleted before comes back with it; the rest stands in the
/// journal.
async fn carry_out(
    plan: &Plan,
    destination: &Destination,
    state: &StateDir,
    patience: &Patience,
) -> (Vec<Pruned>, Result<(), Error>) {
    let mut pruned = Vec::new();
    if plan.doomed.is_empty() {
        return (pruned, Journal::remove(state, destination.name()));
    }
    if let Err(error) = Journal::write(state, destination.name(), &plan.doomed) {
        return (pruned, Err(error));
    }
    for doomed in &plan.doomed {
        let file = &doomed.file;
        match destination.delete(&file.path, &file.rev, patience).await {
            Ok(_) => {
                patience.renew();
                tracing::info!("deleted {}:{}", destination.name(), file.path);
                pruned.push(Pruned {
                    destination: destination.name().to_owned(),
                    path: file.path.clone(),
                    size: file.size,
                });
            }
            Err(error) => return (pruned, Err(error)),
        }
    }
    (pruned, Journal::remove(state, destination.name()))
}

/// What is asked for.
pub struct Request<'a> {
    /// `[retention]`.
    pub policy: &'a RetentionPolicy,
    /// Journals and cache.
    pub state: &'a StateDir,
    /// The folders of the archives on this machine, by kind.
    pub folders: [(ArchiveKind, &'a Path); 2],
    /// Files that an unfinished upload still reads.
    pub awaited: Vec<PathBuf>,
    /// Only plan.
    pub dry_run: bool,
    /// Somebody says that what has shrunk is right.
    pub accept_shrink: bool,
    /// How long one destination may go without progress.
    pub patience: Duration,
}

/// What was planned, and what came of it.
#[derive(Default)]
pub struct Outcome {
    /// A row for each backup and place.
    pub rows: Vec<PlanRow>,
    /// What was deleted.
    pub pruned: Vec<Pruned>,
    /// What went wrong, and what was refused.
    pub errors: Vec<String>,
}

/// Applies the policy everywhere. Days are those of the zone of `now`.
pub async fn prune<Tz: TimeZone>(
    destinations: &[&Destination],
    request: &Request<'_>,
    now: &DateTime<Tz>,
) -> Outcome {
    let mut outcome = Outcome::default();
    let mut catalogs = Vec::new();
    for destination in destinations {
        let patience = Patience::new(request.patience);
        match prune_at(destination, request, &mut outcome, &patience, now).await {
            Ok(catalog) => catalogs.push(catalog),
            Err(error) => outcome.errors.push(error.to_string()),
        }
    }
    if let Some(keep) = request.policy.local {
        for (kind, folder) in request.folders {
            // Where GitLab is not, there is nothing to delete.
            let archives = find_archives(folder, kind).unwrap_or_default();
            let plan = local::plan(&archives, keep, &catalogs, &request.awaited, now.to_utc());
            outcome.rows.extend(plan.rows.iter().cloned());
            if !request.dry_run {
                let deleting = tokio::task::spawn_blocking(move || local::carry_out(&plan));
                let (pruned, errors) = deleting.await.unwrap_or_default();
                outcome.pruned.extend(pruned);
                outcome.errors.extend(errors);
            }
        }
    }
    outcome
}

/// Returns what is there afterwards.
async fn prune_at<Tz: TimeZone>(
    destination: &Destination,
    request: &Request<'_>,
    outcome: &mut Outcome,
    patience: &Patience,
    now: &DateTime<Tz>,
) -> Result<Catalog, Error> {
    let mut catalog = Catalog::read(destination, request.state, patience).await?;
    if request.accept_shrink {
        for backup in catalog
            .backups
            .iter_mut()
            .filter(|backup| backup.is_frozen())
        {
            let accepted = Some(now.to_utc());
            if !request.dry_run {
                note_proof(destination, backup, request.state, patience, |proof| {
                    proof.shrink_accepted_at = accepted;
                })
                .await?;
            }
            backup.proof.shrink_accepted_at = accepted;
        }
    }
    let plan = plan(&catalog, request.policy, request.state, now);
    outcome.rows.extend(plan.rows.iter().cloned());
    outcome.errors.extend(plan.refused.clone());
    if !request.dry_run && plan.refused.is_none() {
        let (pruned, result) = carry_out(&plan, destination, request.state, patience).await;
        outcome.pruned.extend(pruned);
        result?;
    }
    let goes = |backup: &StoredBackup| {
        plan.rows
            .iter()
            .any(|row| row.backup_id == backup.id && row.action == Action::Delete)
    };
    catalog.backups.retain(|backup| !goes(backup));
    Ok(catalog)
}
