//! The way back: the stored export of a project becomes a project again, in an empty place of a GitLab.
//!
//! Nothing that is in GitLab is ever changed: before the export is sent, nothing may have its path, and GitLab is
//! never asked to overwrite. What is sent has been read to its end before. Whatever is interrupted goes on where it
//! stopped when the same command is called again: the fetching, and, since the import's number is on the disk,
//! following what GitLab makes of it.
//!
//! [`report`] what is told at the end · `find` which export · `spool` the one file it is fetched into · `pace` so many a
//! minute · `journal` how far an import is, on the disk.

mod find;
mod journal;
mod pace;
pub mod report;
mod spool;

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};

use crate::destination::{Destination, Options};
use crate::error::{Error, ErrorKind};
use crate::gitlab::api::Api;
use crate::gitlab::api::imports::{Import, ImportStatus, NewImport};
use crate::progress::Show;
use crate::projects::import::journal::Journal;
use crate::projects::import::report::{ImportReport, Step};
use crate::projects::import::spool::{Reading, Spool};
use crate::projects::name::Template;
use crate::retry::Patience;
use crate::retry::rhythm::Rhythm;
use crate::seal::Identities;
use crate::source::file::FileSource;
use crate::state::StateDir;
use crate::stop::{Stop, StopSignal};
use crate::units::{Quota, Span};

pub use self::find::Wanted;

/// What was sent so long ago and has not become a project never will.
const FORGOTTEN: TimeDelta = TimeDelta::hours(24);

/// Everything an import needs.
pub struct Job<'a> {
    /// GitLab.
    pub api: &'a Api,
    /// Where the export is stored.
    pub destination: &'a Destination,
    /// What exports are called there.
    pub name: &'a Template,
    /// Whose export it is: `group/app`.
    pub project: &'a str,
    /// What it becomes: `group/app`.
    pub to: &'a str,
    /// Which export.
    pub wanted: Wanted,
    /// What decrypts encrypted exports.
    pub identities: Option<&'a Identities>,
    /// How far it is, and the file that is on its way.
    pub state: &'a StateDir,
    /// How it is sent.
    pub upload: &'a Options,
    /// How many imports GitLab takes of one user.
    pub limit: Quota,
    /// So long GitLab may take.
    pub timeout: Duration,
    /// Who is told how far it is.
    pub show: Show,
    /// Whether the program has been asked to stop.
    pub stop: &'a Stop,
}

/// Why an import ends early.
#[derive(Debug)]
enum Halt {
    /// Another call could go on from here.
    Later(String),
    /// It cannot succeed as it is.
    Failed(String),
    /// By a signal.
    Stopped(StopSignal),
}

impl From<Error> for Halt {
    fn from(error: Error) -> Halt {
        match error.kind() {
            ErrorKind::Unavailable | ErrorKind::RateLimited(_) | ErrorKind::NoSpace => {
                Halt::Later(error.to_string())
            }
            _ => Halt::Failed(error.to_string()),
        }
    }
}

/// Imports the stored export of a project.
pub async fn import(job: &Job<'_>, now: DateTime<Utc>) -> ImportReport {
    let mut report = ImportReport::begin(job.destination.name(), job.project, job.to);
    let clock = (now, Instant::now());
    let work = carry_out(job, &clock, &mut report);
    let result = tokio::select! {
        done = work => done,
        signal = job.stop.requested() => Err(Halt::Stopped(signal)),
    };
    if matches!(result, Err(Halt::Failed(_))) {
        // Nothing of it would be of use to another call.
        spool::remove(job.state, job.to);
        Journal::forget_unsent(job.state, job.api.host(), job.to);
    }
    report.conclude(result)
}

async fn carry_out(
    job: &Job<'_>,
    (now, started): &(DateTime<Utc>, Instant),
    report: &mut ImportReport,
) -> Result<(), Halt> {
    let earlier = Journal::load(job.state, job.api.host(), job.to).map_err(Halt::Failed)?;
    let is_wanted =
        |journal: &Journal| journal.from == job.project && job.wanted.is(journal.stored.time);
    // What has been sent is GitLab's, whatever is stored by now.
    let mut sent_at = None;
    if let Some(journal) = earlier.filter(is_wanted) {
        let recently = |sent: &DateTime<Utc>| *now - *sent < FORGOTTEN;
        // Longer ago, what has no number by now is somebody else's.
        let counts = journal.id.is_some() || journal.sent_at.as_ref().is_some_and(recently);
        let import = if counts {
            sent_before(job, &journal).await?
        } else {
            None
        };
        if let Some(import) = import {
            report.describe(&journal.stored);
            report.resumed();
            return follow(job, journal, import, report).await;
        }
        // It may arrive even now.
        sent_at = journal.sent_at.filter(recently);
    }
    report.step(Step::Find);
    let stored = find::find(job).await?;
    report.describe(&stored);
    report.done();

    report.step(Step::Look);
    look(job).await?;
    report.done();

    report.step(Step::Fetch);
    let spool = Spool::open(job.state, job.to).map_err(Halt::Failed)?;
    let resumed = Journal::resumable(job.state, job.api.host(), job.to, &stored);
    let mut journal = Journal::new(job.api.host(), job.to, job.project, &stored);
    journal.sent_at = sent_at;
    journal.save(job.state).map_err(Halt::Later)?;
    let fetched = spool.bring(job, &stored, resumed).await?;
    report.fetched(&fetched);
    report.done();

    report.step(Step::Upload);
    let pace = pace::await_turn(job.state, job.limit, *now + started.elapsed());
    pace.await.map_err(|error| {
        let folder = job.state.path().display();
        Halt::Later(format!(
            "noting in {folder} when an import was sent: {error}"
        ))
    })?;
    // Fetching may have taken hours.
    let namespace = look(job).await?;
    let clock = job.api.clock(*now + started.elapsed());
    let since = *journal.sent_at.get_or_insert(clock);
    journal.save(job.state).map_err(Halt::Later)?;
    let import = match send(job, &spool, namespace, since, sent_at.is_some()).await {
        Ok(import) => import,
        Err(error) => {
            if sent_at.is_none() && is_refusal(&error) {
                // Nothing has arrived.
                journal.sent_at = None;
                journal.save(job.state).map_err(Halt::Later)?;
            }
            return Err(error.into());
        }
    };
    report.done();
    follow(job, journal, import, report).await
}

/// What came of an export that an earlier call sent, if it arrived.
async fn sent_before(job: &Job<'_>, journal: &Journal) -> Result<Option<Import>, Halt> {
    let patience = Patience::new(job.upload.retry_for);
    if let Some(id) = journal.id {
        let import = job.api.import_status(id, &patience).await?;
        if import.is_none() {
            // Somebody has deleted the project: the place is free again.
            Journal::remove(job.state, job.to);
        }
        return Ok(import);
    }
    let Some(since) = journal.sent_at else {
        return Ok(None);
    };
    Ok(job.api.earlier_import(job.to, since, &patience).await?)
}

/// Looks whether the place is there and empty; the number of the namespace.
async fn look(job: &Job<'_>) -> Result<u64, Halt> {
    let patience = Patience::new(job.upload.retry_for);
    let (parent, _) = job.to.rsplit_once('/').unwrap_or(("", job.to));
    let namespace = existing(job.api.namespace(parent, &patience).await)?;
    let Some(namespace) = namespace.filter(|found| is_same(&found.full_path, parent)) else {
        return Err(Halt::Failed(format!(
            "importing the project {}: there is no group or user {parent} at {} that the token's user can see\n  \
             create the group first, or give another place with --as NEW/PATH",
            job.to,
            job.api.host()
        )));
    };
    let taken = |what: &str| {
        Halt::Failed(format!(
            "importing the project {}: at {} there is {what} already; nothing is ever imported over it\n  \
             give another place with --as NEW/PATH, or delete it in GitLab if it is not wanted",
            job.to,
            job.api.host()
        ))
    };
    if let Some(project) = job.api.project_at(job.to, &patience).await? {
        return Err(taken(&format!("a project {}", project.path_with_namespace)));
    }
    let group = existing(job.api.namespace(job.to, &patience).await)?;
    if let Some(group) = group.filter(|found| is_same(&found.full_path, job.to)) {
        return Err(taken(&format!("a group {}", group.full_path)));
    }
    Ok(namespace.id)
}

/// What is not there is none.
fn existing<T>(asked: Result<T, Error>) -> Result<Option<T>, Error> {
    match asked {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        asked => asked.map(Some),
    }
}

/// GitLab takes paths for the same whatever their case.
fn is_same(one: &str, other: &str) -> bool {
    one.to_lowercase() == other.to_lowercase()
}

/// Whether GitLab has said no, so that nothing of what was sent will ever become a project.
fn is_refusal(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::NotFound
        | ErrorKind::AlreadyExists
        | ErrorKind::Unauthorized
        | ErrorKind::NoSpace
        | ErrorKind::Invalid
        | ErrorKind::RateLimited(_)
        | ErrorKind::SourceChanged => true,
        ErrorKind::Unavailable | ErrorKind::Corrupt | ErrorKind::Unexpected => false,
    }
}

async fn send(
    job: &Job<'_>,
    spool: &Spool,
    namespace: u64,
    since: DateTime<Utc>,
    again: bool,
) -> Result<Import, Error> {
    let file = FileSource::open(spool.path()).map_err(|error| {
        let action = format!("reading {}", spool.path().display());
        Error::new(ErrorKind::SourceChanged, action, error.to_string())
    })?;
    let reading = Reading::new(file, job.show, format!("{} to {}", job.to, job.api.host()));
    let progress = reading.progress();
    let (_, path) = job.to.rsplit_once('/').unwrap_or(("", job.to));
    let new = NewImport {
        namespace,
        path,
        full_path: job.to,
        file: Arc::new(reading),
        bandwidth: job.upload.bandwidth.clone(),
        since,
        again,
        minute: job.limit.0.map(|(_, minute)| minute),
    };
    let patience = Patience::new(job.upload.retry_for);
    tokio::select! {
        import = job.api.import(&new, &patience) => import,
        () = progress.log_now_and_then() => std::future::pending().await,
    }
}

/// Waits for what GitLab makes of it.
async fn follow(
    job: &Job<'_>,
    mut journal: Journal,
    mut import: Import,
    report: &mut ImportReport,
) -> Result<(), Halt> {
    report.step(Step::Import);
    report.project.id = Some(import.id);
    journal.id = Some(import.id);
    journal.save(job.state).map_err(Halt::Later)?;
    // GitLab has it.
    spool::remove(job.state, job.to);
    let mut rhythm = Rhythm::default();
    let mut told = None;
    loop {
        report.followed(&import);
        match import.import_status {
            ImportStatus::Finished => break,
            ImportStatus::Failed | ImportStatus::Canceled | ImportStatus::None => {
                Journal::remove(job.state, job.to);
                return Err(refused(job, &import));
            }
            ImportStatus::Scheduled | ImportStatus::Started | ImportStatus::Other => {}
        }
        if told != Some(import.import_status) {
            told = Some(import.import_status);
            tracing::info!("{}: the import is {}", job.to, report.import_status());
            rhythm.quicken();
        }
        let left = job.timeout.saturating_sub(rhythm.elapsed());
        if left.is_zero() {
            return Err(Halt::Later(format!(
                "importing the project {}: GitLab has not finished it in {}; it goes on there\n  \
                 run the same command again to go on following it; `projects.timeout` says for how long",
                job.to,
                Span(job.timeout)
            )));
        }
        rhythm.beat(left).await;
        let patience = Patience::new(job.upload.retry_for);
        let Some(next) = job.api.import_status(import.id, &patience).await? else {
            Journal::remove(job.state, job.to);
            return Err(Halt::Failed(format!(
                "importing the project {}: GitLab no longer knows the project {}: somebody has deleted it\n  \
                 run the same command again to import it anew",
                job.to, import.id
            )));
        };
        import = next;
    }
    Journal::remove(job.state, job.to);
    report.done();
    Ok(())
}

fn refused(job: &Job<'_>, import: &Import) -> Halt {
    let why = match (&import.import_error, import.import_status) {
        (Some(error), _) if !error.trim().is_empty() => error.trim().to_owned(),
        (_, ImportStatus::Canceled) => "it was cancelled".to_owned(),
        _ => "it tells no reason".to_owned(),
    };
    let error = Error::new(
        ErrorKind::Invalid,
        format!("importing the project {}: GitLab failed", job.to),
        why,
    );
    let hint = format!(
        "GitLab's log says more (`importer.log`, `sidekiq`); what it began is the project {}: delete it there before the next try",
        import.id
    );
    Halt::Failed(error.hint(hint).to_string())
}
