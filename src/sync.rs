//! Brings a destination that was away, or is new, up to date: what lies on this machine as a whole, undoubted
//! backup and is not whole there is sent, the newest first, as that is what is missed most should the place
//! fill up. What retention would delete there at once is not sent.

use std::io;

use chrono::{DateTime, Local, SubsecRound as _, TimeDelta, Utc};
use futures_util::future::join_all;
use serde::Serialize;
use tokio::time::Instant;

use crate::archive::{Archive, ArchiveKind, belonging};
use crate::backup::again::{Brought, bring};
use crate::backup::record::Record;
use crate::backup::{Job, Request};
use crate::catalog::{Catalog, StoredBackup};
use crate::destination::{Destination, Options};
use crate::gitlab::host;
use crate::guard;
use crate::hooks;
use crate::local::find_archives;
use crate::progress::Show;
use crate::report::{AbsentReport, ArchiveReport, ManifestReport, ManifestStatus, Status, rfc3339};
use crate::retention::{Action, Candidate, RetentionPolicy, State};
use crate::retry::SHORT_PATIENCE;
use crate::seal::Encryption;
use crate::state::StateDir;
use crate::stop::Stop;

/// Everything it needs.
pub struct Sync<'a> {
    /// `[gitlab]`.
    pub gitlab: &'a host::Settings,
    /// `[guard]`.
    pub guard: &'a guard::Settings,
    /// `[hooks]`, which belong to runs: none of them is started.
    pub hooks: &'a hooks::Settings,
    /// `[encryption]`, if anything is encrypted.
    pub encryption: Option<&'a Encryption>,
    /// `[retention]`, if there is one.
    pub retention: Option<&'a RetentionPolicy>,
    /// All configured destinations.
    pub destinations: &'a [Destination],
    /// The names of those that are brought up to date.
    pub selected: &'a [String],
    /// How archives are sent.
    pub upload: &'a Options,
    /// Records and cache.
    pub state: &'a StateDir,
    /// Who is told how far an upload is.
    pub show: Show,
    /// Whether the program has been asked to stop.
    pub stop: &'a Stop,
}

/// What was done.
#[derive(Debug, Serialize)]
pub struct SyncReport {
    /// Always `sync`.
    pub command: &'static str,
    /// The outcome.
    pub status: Status,
    /// When it began.
    #[serde(serialize_with = "rfc3339")]
    pub started_at: DateTime<Utc>,
    /// When it ended.
    #[serde(serialize_with = "rfc3339")]
    pub finished_at: DateTime<Utc>,
    /// One row for each archive of a backup that some destination lacked, as in a run.
    pub archives: Vec<ArchiveReport>,
    /// One row for each manifest.
    pub manifests: Vec<ManifestReport>,
    /// Backups of this machine that some destination lacks and that are not sent.
    pub passed_over: Vec<PassedOver>,
    /// Destinations that may be absent, and are.
    pub absent: Vec<AbsentReport>,
    /// The first thing that made it fail.
    pub error: Option<String>,
    #[serde(skip)]
    exit: u8,
}

/// A backup that is not sent.
#[derive(Debug, Serialize)]
pub struct PassedOver {
    /// GitLab's ID.
    pub backup_id: String,
    /// Why.
    pub reason: String,
}

impl SyncReport {
    /// The exit status of the program.
    pub fn exit_status(&self) -> u8 {
        self.exit
    }
}

/// A backup on this machine.
struct LocalBackup {
    id: String,
    data: Archive,
    config: Option<Archive>,
}

impl LocalBackup {
    fn archive(&self, kind: ArchiveKind) -> Option<&Archive> {
        match kind {
            ArchiveKind::Config => self.config.as_ref(),
            ArchiveKind::Data => Some(&self.data),
        }
    }
}

/// Does it, and tells what came of it.
pub async fn sync(sync: &Sync<'_>, now: DateTime<Utc>) -> SyncReport {
    let start = Instant::now();
    let mut report = SyncReport {
        command: "sync",
        status: Status::Failed,
        started_at: now,
        finished_at: now,
        archives: Vec::new(),
        manifests: Vec::new(),
        passed_over: Vec::new(),
        absent: Vec::new(),
        error: None,
        exit: 1,
    };
    let mut outcomes = Outcomes::default();
    match local_backups(sync, now) {
        Err(error) => outcomes.fail(None, error),
        Ok(backups) => carry_out(sync, &backups, now, &mut report, &mut outcomes).await,
    }
    outcomes.conclude(sync, &mut report);
    let took = TimeDelta::from_std(start.elapsed()).unwrap_or_default();
    report.finished_at = (now + took).trunc_subsecs(3);
    report
}

async fn carry_out(
    sync: &Sync<'_>,
    backups: &[LocalBackup],
    now: DateTime<Utc>,
    report: &mut SyncReport,
    outcomes: &mut Outcomes,
) {
    let selected =
        |destination: &&Destination| sync.selected.iter().any(|name| name == destination.name());
    let asked = sync
        .destinations
        .iter()
        .filter(selected)
        .map(async |destination| {
            let patience = destination.patience(sync.upload.retry_for.min(SHORT_PATIENCE));
            let catalog = Catalog::read(destination, sync.state, &patience).await;
            (destination, catalog)
        });
    let answers = tokio::select! {
        answers = join_all(asked) => answers,
        _ = sync.stop.requested() => return,
    };
    let mut catalogs = Vec::new();
    for (destination, answer) in answers {
        match answer {
            Ok(catalog) => catalogs.push((destination, catalog)),
            Err(error) if destination.is_optional() && error.is_absent() => {
                let (name, why) = (destination.name(), error.to_string());
                tracing::warn!("{name} is not there, and need not be (`optional`): {why}");
                report.absent.push(AbsentReport {
                    destination: name.to_owned(),
                    error: why.lines().next().unwrap_or_default().to_owned(),
                });
            }
            Err(error) => outcomes.fail(Some(destination.name()), error.to_string()),
        }
    }
    let wanted: Vec<_> = catalogs
        .iter()
        .map(|(destination, catalog)| (*destination, wanted(sync, catalog, backups, now)))
        .collect();
    for backup in backups {
        if sync.stop.signal().is_some() {
            return;
        }
        let lacking = wanted
            .iter()
            .filter(|(_, ids)| ids.contains(&backup.id.as_str()));
        let lacking: Vec<_> = lacking.map(|(destination, _)| *destination).collect();
        if !lacking.is_empty() {
            let doubts = doubts_elsewhere(&catalogs, &backup.id);
            send(sync, backup, &lacking, &doubts, now, report, outcomes).await;
        }
    }
}

/// Sends a backup to the destinations that lack it.
async fn send(
    sync: &Sync<'_>,
    backup: &LocalBackup,
    lacking: &[&Destination],
    doubts: &[String],
    now: DateTime<Utc>,
    report: &mut SyncReport,
    outcomes: &mut Outcomes,
) {
    let mut pass_over = |reason: String| {
        tracing::warn!("{} is not sent: {reason}", backup.id);
        report.passed_over.push(PassedOver {
            backup_id: backup.id.clone(),
            reason,
        });
    };
    if let Some(doubt) = doubts.first() {
        return pass_over(format!("it is doubtful: {doubt}"));
    }
    let kinds = ArchiveKind::ALL.into_iter();
    let kinds: Vec<_> = kinds
        .filter(|kind| lacking.iter().any(|destination| destination.takes(*kind)))
        .collect();
    let archives: Vec<_> = kinds
        .iter()
        .filter_map(|kind| backup.archive(*kind))
        .cloned()
        .collect();
    if archives.len() < kinds.len() {
        return pass_over("its config archive is not on this machine".to_owned());
    }
    let selected: Vec<_> = lacking
        .iter()
        .map(|destination| destination.name().to_owned())
        .collect();
    let job = Job {
        gitlab: sync.gitlab,
        guard: sync.guard,
        hooks: sync.hooks,
        encryption: sync.encryption,
        retention: None,
        destinations: sync.destinations,
        selected: &selected,
        upload: sync.upload,
        state: sync.state,
        request: Request {
            dry_run: false,
            skip_create: true,
            kinds,
        },
        show: sync.show,
        stop: sync.stop,
    };
    match bring(&job, archives, now).await {
        Brought::PassedOver(reason) => pass_over(reason),
        Brought::Sent(run) => {
            for name in &selected {
                let uploads = run.archives.iter().flat_map(|archive| &archive.uploads);
                let uploads = uploads.filter(|upload| upload.destination == *name);
                let failed = uploads.filter(|upload| !upload.status.is_stored());
                let manifests = run.manifests.iter().filter(|row| row.destination == *name);
                let unwritten = manifests.filter(|row| row.status == ManifestStatus::Failed);
                let errors = failed.filter_map(|row| row.error.clone());
                for error in errors.chain(unwritten.filter_map(|row| row.error.clone())) {
                    outcomes.fail(Some(name), error);
                }
            }
            for error in run.warnings {
                outcomes.warnings.push(error);
            }
            report.archives.extend(run.archives);
            report.manifests.extend(run.manifests);
            for absent in run.absent {
                if report
                    .absent
                    .iter()
                    .all(|known| known.destination != absent.destination)
                {
                    report.absent.push(absent);
                }
            }
        }
    }
}

/// The data archives of this machine, each with the config archive that belongs to it, the newest first.
fn local_backups(sync: &Sync<'_>, now: DateTime<Utc>) -> Result<Vec<LocalBackup>, String> {
    let find = |kind: ArchiveKind| match find_archives(sync.gitlab, kind) {
        Ok(archives) => Ok(archives),
        // GitLab makes it with the first backup.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(format!(
            "looking for {kind} archives in {}: {error}\n  check `gitlab.{kind}_dir`",
            sync.gitlab.folder(kind).display()
        )),
    };
    let configs = find(ArchiveKind::Config)?;
    let records = Record::all(sync.state);
    let config_of = |data: &Archive| {
        let id = data.name.backup_id()?;
        // What was made together is known; else the nearest in time.
        let record = records.iter().find(|record| record.backup_id == id);
        let noted = record.and_then(|record| record.archive(ArchiveKind::Config));
        let noted = noted.and_then(|noted| {
            configs
                .iter()
                .find(|config| config.name.as_str() == noted.name)
        });
        let nearest = || belonging(&data.name, &configs, |config| &config.name);
        noted.or_else(nearest).cloned()
    };
    let mut backups: Vec<_> = find(ArchiveKind::Data)?
        .into_iter()
        .filter(|data| !data.name.is_from_the_future(now))
        .filter_map(|data| {
            let id = data.name.backup_id()?.to_owned();
            let config = config_of(&data);
            Some(LocalBackup { id, data, config })
        })
        .collect();
    backups.sort_by(|a, b| b.data.name.age_order(&a.data.name));
    Ok(backups)
}

/// The backups of this machine that a destination lacks and is to have.
fn wanted<'b>(
    sync: &Sync<'_>,
    catalog: &Catalog,
    backups: &'b [LocalBackup],
    now: DateTime<Utc>,
) -> Vec<&'b str> {
    let lacks = |backup: &&LocalBackup| {
        catalog
            .backup(&backup.id)
            .is_none_or(|there| !there.missing.is_empty())
    };
    let lacking: Vec<_> = backups.iter().filter(lacks).collect();
    let kept = sync.retention.and_then(|policy| {
        let there = catalog
            .backups
            .iter()
            .filter(|there| lacking.iter().all(|backup| backup.id != there.id));
        let there = there.map(candidate);
        let here = lacking.iter().map(|backup| Candidate {
            id: backup.id.clone(),
            created_at: backup.data.name.created_at(),
            stamp: backup.data.name.stamp,
            state: State::Complete,
            rehearsed_at: None,
        });
        let all: Vec<_> = there.chain(here).collect();
        // Under a clock that is behind nothing is deleted, so all of it would stay.
        let plan = policy.plan(&all, &now.with_timezone(&Local)).ok()?;
        let kept = plan
            .backups
            .into_iter()
            .filter(|planned| planned.action == Action::Keep);
        Some(kept.map(|planned| planned.id).collect::<Vec<_>>())
    });
    let stays = |id: &str| {
        kept.as_ref()
            .is_none_or(|kept| kept.iter().any(|kept| kept == id))
    };
    let ids = lacking.into_iter().map(|backup| backup.id.as_str());
    ids.filter(|id| {
        let stays = stays(id);
        if !stays {
            tracing::info!(
                "{}: {id} is not sent: [retention] would delete it at once",
                catalog.destination
            );
        }
        stays
    })
    .collect()
}

fn candidate(backup: &StoredBackup) -> Candidate {
    let state = if backup.is_complete() {
        State::Complete
    } else if backup.is_unmanaged() {
        State::Unmanaged
    } else {
        State::Incomplete(String::new())
    };
    Candidate {
        id: backup.id.clone(),
        created_at: backup.created_at(),
        stamp: backup.data_name.stamp,
        state,
        rehearsed_at: backup.proof.rehearsed_at,
    }
}

/// What the destinations say against a backup that they have.
fn doubts_elsewhere(catalogs: &[(&Destination, Catalog)], id: &str) -> Vec<String> {
    let there = catalogs
        .iter()
        .filter_map(|(_, catalog)| catalog.backup(id));
    there.flat_map(StoredBackup::doubts).collect()
}

/// What went wrong, where.
#[derive(Default)]
struct Outcomes {
    failed: Vec<String>,
    /// Not at one destination alone.
    everywhere: bool,
    errors: Vec<String>,
    warnings: Vec<String>,
}

impl Outcomes {
    fn fail(&mut self, destination: Option<&str>, error: String) {
        tracing::error!("{error}");
        match destination {
            Some(name) => self.failed.push(name.to_owned()),
            None => self.everywhere = true,
        }
        self.errors.push(error);
    }

    fn conclude(mut self, sync: &Sync<'_>, report: &mut SyncReport) {
        let is_absent = |name: &String| {
            let mut absent = report.absent.iter();
            absent.any(|absent| absent.destination == *name)
        };
        let is_well = |name: &&String| !self.failed.contains(name) && !is_absent(name);
        let some_is_well = sync.selected.iter().any(|name| is_well(&name));
        (report.status, report.exit) = match (self.errors.is_empty(), some_is_well) {
            (true, _) if self.warnings.is_empty() => (Status::Ok, 0),
            (false, false) => (Status::Failed, 1),
            (false, true) if self.everywhere => (Status::Failed, 1),
            _ => (Status::Partial, 3),
        };
        if let Some(signal) = sync.stop.signal() {
            (report.status, report.exit) = (Status::Failed, signal.exit_status());
            let what = format!("stopped by {}; the next one goes on there", signal.name());
            self.errors.insert(0, what);
        }
        report.error = self.errors.into_iter().chain(self.warnings).next();
    }
}
