//! `rehearse`

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;

use super::identity::identities;
use super::job::known;
use super::list::local;
use super::setup::{Failure, Setup};
use super::{ExitStatus, USAGE, report, tell};
use crate::archive::{Archive, ArchiveKind, ArchiveName, belonging, newest};
use crate::backup::record::Record;
use crate::catalog::{Wanted, find};
use crate::cli::{Global, RehearseArgs};
use crate::history;
use crate::notify::message::Message;
use crate::notify::{self, Notifier};
use crate::rehearse::backup::{LocalBackup, Method, Rehearsal, rehearse_local, rehearse_stored};
use crate::rehearse::verdict::PartStatus;
use crate::rehearse::{Expected, GitCheck};
use crate::report::Status;
use crate::retry::Patience;
use crate::verify::note_proof;

/// What `--json` shows.
#[derive(Serialize)]
struct Report {
    command: &'static str,
    status: Status,
    #[serde(flatten)]
    rehearsal: Rehearsal,
    #[serde(skip)]
    exit: ExitStatus,
}

/// Reads a whole backup and proves that it would restore.
pub fn run(global: &Global, arguments: &RehearseArgs) -> Result<ExitStatus, Failure> {
    let given: Vec<_> = arguments.destination.iter().cloned().collect();
    let loaded = Setup::load(global, &given)?;
    let stop = Arc::new(AtomicBool::new(false));
    let git = match (&arguments.scratch, arguments.git) {
        (Some(scratch), true) if scratch.is_dir() => Some(GitCheck {
            scratch: scratch.clone(),
            stop: stop.clone(),
        }),
        (Some(scratch), true) => {
            let message = format!(
                "--scratch {}: is no folder\n  make it first: it needs room for the largest repository",
                scratch.display()
            );
            return Err((USAGE, message));
        }
        _ => None,
    };
    let report = Setup::carry_out(global, loaded, async |setup| {
        let wanted = Wanted::new(arguments.backup.as_deref());
        tokio::select! {
            report = rehearse(&setup, &wanted, arguments, git, stop.clone()) => report,
            signal = setup.stop.requested() => {
                stop.store(true, Ordering::Relaxed);
                Err((signal.exit_status(), format!("stopped by {}", signal.name())))
            }
        }
    })?;
    if let Some(error) = &report.rehearsal.error {
        tracing::error!("{error}");
    }
    tell(global, &report, || text(&report.rehearsal));
    Ok(report.exit)
}

async fn rehearse(
    setup: &Setup,
    wanted: &Wanted,
    arguments: &RehearseArgs,
    git: Option<GitCheck>,
    stop: Arc<AtomicBool>,
) -> Result<Report, Failure> {
    let identities = identities(arguments.identity.as_deref(), &setup.stop).await?;
    let method = Method {
        git,
        stop,
        identities: identities.as_ref(),
        guard: &setup.guard,
        show: setup.show,
    };
    let now = Utc::now();
    let mut rehearsal = if arguments.local {
        rehearse_local(local_backup(setup, wanted, now)?, &method).await
    } else {
        let found = find(setup.taking_part(), wanted, &setup.state, || {
            setup.short_patience()
        })
        .await;
        let found = found.map_err(|error| (1, error.to_string()))?;
        let patience = Patience::new(setup.upload.retry_for);
        let rehearsal = rehearse_stored(&found, &method, &patience).await;
        if let Some(restorable) = rehearsal.restorable {
            let patience = setup.short_patience();
            let noted = note_proof(
                found.destination,
                &found.backup,
                &setup.state,
                &patience,
                |proof| {
                    if restorable {
                        proof.rehearsed_at = Some(now);
                        proof.failed_rehearsal_at = None;
                    } else {
                        proof.failed_rehearsal_at = Some(now);
                    }
                },
            );
            if let Err(error) = noted.await {
                tracing::warn!("{error}\n  that it was rehearsed now is not remembered there");
            }
        }
        rehearsal
    };
    if let Err(error) = history::record_rehearsal(
        &setup.state,
        &rehearsal.backup_id,
        &rehearsal.destination,
        rehearsal.restorable,
        now,
    ) {
        let folder = setup.state.path().display();
        tracing::warn!("the rehearsal cannot be added to the history in {folder}: {error}");
    }
    let history = history::read(&setup.state).unwrap_or_default();
    let destinations = setup.known();
    notify::measure(&setup.notify, known(setup, &history, &destinations)).await;
    report::refresh(setup).await;
    let restorable = rehearsal.restorable == Some(true);
    if !restorable && rehearsal.error.is_none() {
        rehearsal.error = first_failure(&rehearsal);
    }
    let report = Report {
        command: "rehearse",
        status: if restorable {
            Status::Ok
        } else {
            Status::Failed
        },
        exit: ExitStatus::from(!restorable),
        rehearsal,
    };
    if !restorable {
        tell_of_failure(setup, &report).await;
    }
    Ok(report)
}

/// A backup that would not restore is found out by whoever starts rehearsals: cron, as a rule, and nobody looks.
async fn tell_of_failure(setup: &Setup, report: &Report) {
    let rehearsal = &report.rehearsal;
    let error = rehearsal
        .error
        .as_deref()
        .map(|error| format!("{error}\n\n"));
    let words = error.unwrap_or_default() + &text(rehearsal);
    // A report holds nothing that cannot be written as JSON.
    let document = serde_json::to_value(report).unwrap_or_default();
    let message = Message::of_rehearsal(rehearsal.restorable, words, document);
    let notifier = Notifier::new(setup.notify.clone());
    notifier.rehearsed(&message, &setup.stop).await;
}

/// What makes a backup one that would not restore: the first thing, where there are several.
fn first_failure(rehearsal: &Rehearsal) -> Option<String> {
    let mut parts = rehearsal.parts.iter();
    let part = parts.find(|part| part.verdict.status == PartStatus::Failed)?;
    let (id, place, verdict) = (&rehearsal.backup_id, &rehearsal.destination, &part.verdict);
    Some(format!(
        "rehearsing {id} at {place}: it would not restore: {}, {}: {}\n  \
         `gitlab-pi-backup list` shows what is whole; make a new backup: gitlab-pi-backup run",
        part.archive, verdict.part, verdict.detail
    ))
}

/// The backup on this machine that is asked for.
fn local_backup(
    setup: &Setup,
    wanted: &Wanted,
    now: DateTime<Utc>,
) -> Result<LocalBackup, Failure> {
    let data = local(setup, ArchiveKind::Data);
    let configs = local(setup, ArchiveKind::Config);
    let folder = setup.gitlab.data_dir.display();
    let archive = match wanted {
        Wanted::Latest => newest(&data, now).0.ok_or_else(|| {
            format!("there is no data archive in {folder}\n  make one: gitlab-pi-backup run")
        }),
        Wanted::Id(id) => data.iter().find(|archive| archive.name.backup_id() == Some(id)).ok_or_else(|| {
            format!("there is no backup {id} in {folder}\n  `gitlab-pi-backup list --local` shows what is there")
        }),
    };
    let archive = archive.map_err(|message| (1, message))?;
    let runs = history::read(&setup.state).unwrap_or_default();
    let records = Record::all(&setup.state);
    let config = belonging(&archive.name, &configs, |config| &config.name);
    let older = records
        .iter()
        .rev()
        .filter_map(|record| record.archive(ArchiveKind::Data));
    let older = older.filter(|older| {
        let name = ArchiveName::parse(&older.name);
        name.is_some_and(|name| name.age_order(&archive.name).is_lt())
    });
    let mut older = older.filter(|older| older.doubts.is_empty());
    Ok(LocalBackup {
        id: archive.name.backup_id().unwrap_or_default().to_owned(),
        data: (archive.clone(), expected(archive, &records, &runs)),
        config: config.map(|config| (config.clone(), expected(config, &records, &runs))),
        previous: older
            .next()
            .map(|older| (older.name.clone(), older.contents.clone())),
    })
}

/// What an archive was when it was made or stored, as far as this machine remembers.
fn expected(archive: &Archive, records: &[Record], runs: &[Value]) -> Option<Expected> {
    let name = archive.name.as_str();
    let mut all = records.iter().rev().flat_map(|record| &record.archives);
    let recorded = all.find(|recorded| recorded.name == name);
    let hash = recorded.and_then(|recorded| recorded.content_hash);
    let contents = recorded.map(|recorded| recorded.contents.clone());
    Some(Expected {
        size: recorded.map_or(archive.size, |recorded| recorded.size),
        content_hash: hash.or_else(|| history::content_hash(runs, name))?,
        contents: contents.filter(|_| archive.name.kind == ArchiveKind::Data),
    })
}

fn text(rehearsal: &Rehearsal) -> String {
    let mut text = String::new();
    let mut archive = "";
    for part in &rehearsal.parts {
        // Writing to a string cannot fail, here and below.
        if part.archive != archive {
            archive = &part.archive;
            let _ = writeln!(text, "{archive}");
        }
        let status = match part.verdict.status {
            PartStatus::Ok => "ok",
            PartStatus::Failed => "FAILED",
            PartStatus::Skipped => "skipped",
            PartStatus::Warning => "WARNING",
            PartStatus::Unknown => "UNKNOWN",
        };
        let _ = writeln!(
            text,
            "  {status:<8} {:<16} {}",
            part.verdict.part, part.verdict.detail
        );
    }
    let (id, place) = (&rehearsal.backup_id, &rehearsal.destination);
    let _ = match rehearsal.restorable {
        Some(true) => writeln!(text, "restorable: {id} at {place}"),
        Some(false) => writeln!(text, "NOT RESTORABLE: {id} at {place}"),
        None => writeln!(
            text,
            "not proved: {id} at {place} could not be read to its end"
        ),
    };
    text
}
