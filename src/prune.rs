//! Deletes old backups: the plan first, with reasons, then what it says.
//!
//! A backup's manifest goes first, so that an interruption never leaves something that looks whole. What is
//! to be deleted stands in a journal before the first deletion, and the next pruning finishes it. Each file is
//! deleted only as the very content that was listed. What the program does not know, it never touches.

mod journal;
mod local;

use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, TimeZone, Utc};
use serde::Serialize;

use crate::archive::{ArchiveKind, Form};
use crate::catalog::{Catalog, StoredBackup, StoredFile};
use crate::destination::Destination;
use crate::error::Error;
use crate::gitlab::host::Settings;
use crate::local::find_archives;
use crate::manifest::Proof;
use crate::recovery;
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
        // Its manifest is gone already. Without a complete backup, nothing goes any more.
        if backup.is_unmanaged() && left.names(&backup.id) && catalog.newest_complete().is_some() {
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

/// The files of all backups that go: all manifests first, so that nothing looks whole from then on, then
/// what else is ours, then the data, then the keys to it; of each the oldest backup first. What a backup that
/// stays refers to is not among them, nor what an interrupted pruning did not want to delete.
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
    let mut ranked: Vec<(u8, Doomed)> = Vec::new();
    for backup in catalog.backups.iter().rev().filter(goes) {
        let resumed = backup.is_unmanaged() && left.names(&backup.id);
        let own = backup.own_files.iter().enumerate();
        let own = own.map(|(number, file)| {
            let is_manifest = number == 0 && backup.manifest.is_some();
            (u8::from(!is_manifest), file)
        });
        let archive = |kind| backup.archive(kind)?.found.as_ref();
        let data = archive(ArchiveKind::Data).map(|file| (2, file));
        let config = archive(ArchiveKind::Config).map(|file| (3, file));
        for (rank, file) in own.chain(data).chain(config) {
            let known = ranked.iter().any(|(_, known)| known.file.path == file.path);
            let wanted = !resumed || left.has(file);
            if wanted && !known && !needed.contains(&file.path.as_str()) {
                let backup_id = backup.id.clone();
                ranked.push((
                    rank,
                    Doomed {
                        backup_id,
                        file: file.clone(),
                    },
                ));
            }
        }
    }
    ranked.sort_by_key(|(rank, _)| *rank);
    let mut doomed: Vec<_> = ranked.into_iter().map(|(_, doomed)| doomed).collect();
    // What an interrupted pruning left of backups that are no longer to be seen as such.
    let rest = catalog.unknown.iter().chain(&catalog.spare_configs);
    for file in rest.filter(|file| left.has(file)) {
        let backup_id = left.backup_of(file);
        doomed.push(Doomed {
            backup_id,
            file: file.clone(),
        });
    }
    doomed
}

/// Deletes what the plan says, and notes what is deleted in `pruned`; what an error keeps it from stands in
/// the journal.
async fn carry_out(
    plan: &Plan,
    destination: &Destination,
    state: &StateDir,
    patience: &Patience,
    pruned: &mut Vec<Pruned>,
) -> Result<(), Error> {
    if !plan.doomed.is_empty() {
        Journal::write(state, destination.name(), &plan.doomed)?;
    }
    for doomed in &plan.doomed {
        let file = &doomed.file;
        destination.delete(&file.path, &file.rev, patience).await?;
        patience.renew();
        tracing::info!("deleted {}:{}", destination.name(), file.path);
        pruned.push(Pruned {
            destination: destination.name().to_owned(),
            path: file.path.clone(),
            size: file.size,
        });
    }
    Journal::remove(state, destination.name())
}

/// What is asked for.
pub struct Request<'a> {
    /// `[retention]`.
    pub policy: &'a RetentionPolicy,
    /// Journals and cache.
    pub state: &'a StateDir,
    /// `[gitlab]`: where the archives on this machine are.
    pub gitlab: &'a Settings,
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
    /// Why nothing may be deleted somewhere now.
    pub refused: Vec<String>,
    /// What went wrong.
    pub errors: Vec<String>,
}

/// Applies the policy everywhere, and notes in `outcome` what is done as it is done: the caller may stop
/// waiting at any moment. Days are those of the zone of `now`.
pub async fn prune<Tz: TimeZone>(
    destinations: &[&Destination],
    request: &Request<'_>,
    now: &DateTime<Tz>,
    outcome: &mut Outcome,
) {
    let mut catalogs = Vec::new();
    for destination in destinations {
        let patience = destination.patience(request.patience);
        match prune_at(destination, request, outcome, &patience, now).await {
            Ok(catalog) => catalogs.push(catalog),
            Err(error) if destination.is_optional() && error.is_absent() => {
                let name = destination.name();
                tracing::warn!("{name} is not there, and need not be (`optional`): {error}");
            }
            Err(error) => outcome.errors.push(error.to_string()),
        }
    }
    let Some(keep) = request.policy.local else {
        return;
    };
    // What forbids deleting there forbids it here as well.
    let refused = outcome.refused.first().map(|why| first_line(why));
    if !request.dry_run {
        let left = local::finish(&request.gitlab.data_dir);
        outcome.errors.extend(left);
    }
    for kind in ArchiveKind::ALL {
        // Where GitLab is not, there is nothing to delete.
        let mut archives = find_archives(request.gitlab, kind).unwrap_or_default();
        archives.retain(|archive| archive.form != Form::Parts);
        let plan = local::plan(
            &archives,
            keep,
            &catalogs,
            request,
            refused.as_deref(),
            now.to_utc(),
        );
        outcome.rows.extend(plan.rows.iter().cloned());
        if !request.dry_run {
            let deleting = tokio::task::spawn_blocking(move || local::carry_out(&plan));
            let (pruned, errors) = deleting.await.unwrap_or_default();
            outcome.pruned.extend(pruned);
            outcome.errors.extend(errors);
        }
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
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
        accept_shrink(destination, &mut catalog, request, patience, now.to_utc()).await?;
    }
    let plan = plan(&catalog, request.policy, request.state, now);
    outcome.rows.extend(plan.rows.iter().cloned());
    outcome.refused.extend(plan.refused.clone());
    if !request.dry_run && plan.refused.is_none() {
        carry_out(
            &plan,
            destination,
            request.state,
            patience,
            &mut outcome.pruned,
        )
        .await?;
    }
    let goes = |backup: &StoredBackup| {
        plan.rows
            .iter()
            .any(|row| row.backup_id == backup.id && row.action == Action::Delete)
    };
    catalog.backups.retain(|backup| !goes(backup));
    if !request.dry_run {
        // With the names that are there now; the next run writes it again if this fails.
        recovery::store(destination, &catalog, request.state, patience).await?;
    }
    Ok(catalog)
}

/// Notes that what has shrunk is right.
async fn accept_shrink(
    destination: &Destination,
    catalog: &mut Catalog,
    request: &Request<'_>,
    patience: &Patience,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let frozen = |backup: &&mut StoredBackup| backup.is_frozen();
    for backup in catalog.backups.iter_mut().filter(frozen) {
        if !request.dry_run {
            let accept = |proof: &mut Proof| proof.shrink_accepted_at = Some(now);
            note_proof(destination, backup, request.state, patience, accept).await?;
        }
        backup.proof.shrink_accepted_at = Some(now);
    }
    Ok(())
}
