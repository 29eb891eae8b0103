//! Exports of projects: GitLab makes one of each project that is selected, and each goes to the destination, where
//! any GitLab can import it.
//!
//! ```text
//! select ─ what is stored of today is looked up and left alone
//!        ─ for each other project, `concurrency` at a time:
//!            note ─ ask GitLab, within its limits ─ look until it is made
//!            direct:  GitLab puts it to a presigned address ─ look at the destination; did it not come: once through
//!            through: download into the one spool ─ read it whole ─ send it ─ look at the destination ─ remove it here
//!        ─ what failed once more ─ prune
//! ```
//!
//! Nothing is asked for before the journal says so on the disk, and what the journal says is looked up before
//! anything is asked for again: a crash at any moment costs no second export.

pub mod capacity;
pub mod import;
mod journal;
mod made;
pub mod name;
mod preflight;
pub mod prune;
mod receive;
pub mod report;
mod retained;
mod run;
pub mod select;
pub mod settings;
mod spool;
pub mod stored;
mod through;
mod whole;

use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use crate::archive::ArchiveKind;
use crate::destination::{Destination, Options};
use crate::error::Error;
use crate::gitlab::api::Api;
use crate::progress::{Ending, Show, Tally};
use crate::projects::journal::{Event, Journal, Stored, Way};
use crate::projects::report::{ExportReport, ProjectReport, ProjectStatus};
use crate::projects::run::{Failure, Item, Next, Run};
use crate::projects::spool::Spool;
use crate::retention::RetentionPolicy;
use crate::retry::Patience;
use crate::seal::{Encryption, Recipients, SUFFIX};
use crate::state::StateDir;
use crate::stop::Stop;
use crate::units::Percent;

pub use self::settings::Settings;

/// GitLab may put an export to an address for so long: its queue, the export and its way take their time.
const PRESIGNED: Duration = Duration::from_hours(24);

/// Everything an export needs.
pub struct Job<'a> {
    /// `[projects]`.
    pub settings: &'a Settings,
    /// GitLab.
    pub api: &'a Api,
    /// Whether GitLab runs on this very machine.
    pub gitlab_is_here: bool,
    /// Where the exports go.
    pub destination: &'a Destination,
    /// `[encryption]`, if anything is encrypted.
    pub encryption: Option<&'a Encryption>,
    /// `[retention]`, if there is one.
    pub retention: Option<&'a RetentionPolicy>,
    /// By how much an export may be smaller than the one before, and older ones are deleted nevertheless.
    pub shrink: Percent,
    /// How exports are sent that come through this machine.
    pub upload: &'a Options,
    /// What has been exported, and the one file that is on its way.
    pub state: &'a StateDir,
    /// Who is told how far it is.
    pub show: Show,
    /// Whether the program has been asked to stop.
    pub stop: &'a Stop,
    /// Whether only to tell what would be exported.
    pub dry_run: bool,
}

impl Job<'_> {
    /// Who can decrypt the exports; none if they are not encrypted.
    fn recipients(&self) -> Option<&Recipients> {
        self.encryption.and_then(|all| all.of(ArchiveKind::Data))
    }

    /// From where to where its exports go.
    fn way(&self) -> Way {
        Way {
            gitlab: self.api.address().to_owned(),
            destination: self.destination.name().to_owned(),
            name: self.settings.name.as_str().to_owned(),
            encrypted: self.recipients().is_some(),
        }
    }

    /// Where the export of a project goes that a run makes which began at `time`.
    fn key(&self, path: &str, id: u64, time: DateTime<Utc>) -> String {
        let key = self.settings.name.key(path, id, time);
        let suffix = self.recipients().map_or("", |_| SUFFIX);
        key + suffix
    }

    /// Whether GitLab is to send exports to the destination by itself, as this one.
    async fn is_direct(&self, key: &str) -> Result<bool, Error> {
        if !self.settings.direct || self.recipients().is_some() {
            return Ok(false);
        }
        let upload = self.destination.presigned_put(key, PRESIGNED).await?;
        Ok(upload.is_some())
    }
}

/// Exports the projects that are selected. `run_id` names this in the history.
pub async fn export(job: &Job<'_>, run_id: String, now: DateTime<Utc>) -> ExportReport {
    let start = Instant::now();
    let mut report = ExportReport::begin(run_id, job.destination.name().to_owned(), now);
    report.dry_run = job.dry_run;
    if let Err(error) = carry_out(job, now, &mut report).await {
        report.error.get_or_insert(error);
    }
    report.stopped = job.stop.signal();
    report.projects.sort_by(|a, b| a.path.cmp(&b.path));
    report.conclude(now + TimeDelta::from_std(start.elapsed()).unwrap_or_default())
}

/// The error says why nothing could be done.
async fn carry_out(
    job: &Job<'_>,
    now: DateTime<Utc>,
    report: &mut ExportReport,
) -> Result<(), String> {
    let warnings = tokio::select! {
        checked = preflight::preflight(job, now) => checked?,
        _ = job.stop.requested() => return Ok(()),
    };
    report.warnings.extend(warnings);
    let way = job.way();
    let opened = if job.dry_run {
        Journal::look(job.state, &way, now)
    } else {
        Journal::open(job.state, &way, now)
    };
    let (journal, known) = opened.map_err(|error| unusable(job, &error))?;
    let selection = tokio::select! {
        selection = select::select(job, journal.time) => selection,
        _ = job.stop.requested() => return Ok(()),
    };
    report.error = selection.error;
    report.warnings.extend(selection.warnings);
    report.projects.extend(selection.failed);
    let mut rows = Vec::with_capacity(selection.projects.len());
    for project in &selection.projects {
        rows.push(ProjectReport {
            id: project.id,
            path: project.path_with_namespace.clone(),
            status: ProjectStatus::WouldExport,
            key: Some(job.key(&project.path_with_namespace, project.id, journal.time)),
            size: None,
            direct: false,
            seconds: 0.0,
            error: None,
        });
    }
    drop(selection.projects);
    let Some(sample) = rows.first().and_then(|row| row.key.as_deref()) else {
        return Ok(());
    };
    // That there is no such bucket is told once, and not by every project.
    let direct = job.is_direct(sample).await;
    let direct = direct.map_err(|error| error.to_string())?;
    for row in &mut rows {
        row.direct = direct;
    }
    if job.dry_run {
        for row in &mut rows {
            if let Some(stored) = known.stored.get(&row.id) {
                is_done(row, stored, ProjectStatus::AlreadyDone);
            }
        }
        report.projects.extend(rows);
        return Ok(());
    }
    let spool = Spool::open(job.state).map_err(|error| unusable(job, &error))?;
    let begun = journal.begin(&way);
    begun.map_err(|error| unusable(job, &error))?;
    let run = Run::new(job, (journal, known), spool, direct, now);
    let mut crew = Crew::new(&run, rows);
    crew.work().await;
    report.projects.append(&mut crew.rows);
    report.warnings.append(&mut run.warnings.borrow_mut());
    report.pruned.append(&mut run.pruned.borrow_mut());
    if let Some(error) = run.trouble.take() {
        report.error.get_or_insert(error);
    }
    // What was stopped, or could not go on, is continued by the next run.
    if job.stop.signal().is_none() && crew.halted.is_none() {
        run.note(Event::Ended).map_err(|failure| failure.error)?;
    }
    Ok(())
}

fn unusable(job: &Job<'_>, error: &std::io::Error) -> String {
    let folder = job.state.path().display();
    format!(
        "using the state folder {folder}: {error}\n  run as root, or set `state_dir` to a folder you may write"
    )
}

fn is_done(row: &mut ProjectReport, stored: &Stored, status: ProjectStatus) {
    row.status = status;
    row.path.clone_from(&stored.path);
    row.key = Some(stored.key.clone());
    row.size = Some(stored.size);
    row.direct = stored.direct;
    row.error = None;
}

/// All projects, so many at a time.
struct Crew<'r, 'a> {
    run: &'r Run<'a>,
    rows: Vec<ProjectReport>,
    /// How many are on their way at most.
    most: usize,
    /// How all others end, and why none would fare better.
    halted: Option<(ProjectStatus, String)>,
    tally: Rc<Tally>,
    /// What is worth another try.
    again: VecDeque<usize>,
}

impl<'r, 'a> Crew<'r, 'a> {
    fn new(run: &'r Run<'a>, rows: Vec<ProjectReport>) -> Crew<'r, 'a> {
        let job = run.job;
        let most = capacity::at_a_time(job.settings.concurrency, job.gitlab_is_here);
        for row in &rows {
            run.claim(row.id, row.key.as_deref().unwrap_or_default());
        }
        Crew {
            run,
            most,
            halted: None,
            tally: Rc::new(Tally::new(job.show, "projects", rows.len() as u64)),
            rows,
            again: VecDeque::new(),
        }
    }

    async fn work(&mut self) {
        let mut order = self.order();
        // Only one file is on this machine: what an earlier process left there goes first.
        if let Some(owner) = self.owner_of_the_spool().await {
            order.retain(|index| *index != owner);
            self.round([owner].into(), false).await;
        }
        self.round(order, false).await;
        let again = std::mem::take(&mut self.again);
        self.round(again, true).await;
        for row in &mut self.rows {
            if row.status == ProjectStatus::WouldExport {
                // Only its old exports were still being looked at.
                if let Some(stored) = self.run.done(row.id) {
                    is_done(row, &stored, ProjectStatus::Exported);
                    continue;
                }
                row.direct = false;
                let (status, why) = match (&self.halted, self.run.job.stop.signal()) {
                    (_, Some(signal)) => {
                        let why = format!("stopped by {}", signal.name());
                        (ProjectStatus::Failed, why)
                    }
                    (Some((status, why)), None) => (*status, format!("not tried: {why}")),
                    (None, None) => (ProjectStatus::Failed, "not tried".to_owned()),
                };
                row.status = status;
                row.error = Some(why);
            }
        }
    }

    /// By their paths where GitLab sends by itself; else the namespaces take turns, since each may be downloaded
    /// from only now and then.
    fn order(&self) -> VecDeque<usize> {
        let mut order: Vec<_> = (0..self.rows.len()).collect();
        if !self.run.is_direct() {
            let mut seen: HashMap<&str, usize> = HashMap::new();
            let turns = self.rows.iter().map(|row| {
                let namespace = row.path.rsplit_once('/').map_or("", |(groups, _)| groups);
                let turn = seen.entry(namespace).or_default();
                *turn += 1;
                *turn
            });
            let turns: Vec<usize> = turns.collect();
            order.sort_by_key(|index| turns[*index]);
        }
        order.into()
    }

    /// Whose download an earlier process left; what nobody goes on with is removed.
    async fn owner_of_the_spool(&self) -> Option<usize> {
        let spool = self.run.spool.lock().await;
        let label = spool.label();
        let left = &self.run.known.left;
        let owner = label.and_then(|label| {
            let left = left
                .get(&label.id)
                .filter(|left| label.is_of(label.id, &left.asked))?;
            let key = Some(&left.asked.key);
            let mut rows = self.rows.iter();
            rows.position(|row| row.id == label.id && row.key.as_ref() == key)
        });
        if owner.is_none() {
            // What stays is in nobody's way but the disk's.
            let _ = spool.clear();
        }
        owner
    }

    async fn round(&mut self, mut waiting: VecDeque<usize>, again: bool) {
        let run = self.run;
        let mut flying = FuturesUnordered::new();
        let tally = self.tally.clone();
        let mut telling = pin!(tally.tell_now_and_then());
        loop {
            while self.halted.is_none() && flying.len() < self.most {
                let Some(index) = waiting.pop_front() else {
                    break;
                };
                if again {
                    self.tally.reopened();
                }
                let row = &self.rows[index];
                let item = Item {
                    id: row.id,
                    path: row.path.clone(),
                    key: row.key.clone().unwrap_or_default(),
                };
                flying.push(async move {
                    let start = Instant::now();
                    let outcome = one(run, &item, again).await;
                    (index, start.elapsed(), outcome)
                });
            }
            let done = tokio::select! {
                done = flying.next() => done,
                () = &mut telling => unreachable!("it goes on for ever"),
                _ = run.job.stop.requested() => return,
            };
            let Some((index, took, outcome)) = done else {
                return;
            };
            self.settle(index, took, outcome, again);
        }
    }

    fn settle(
        &mut self,
        index: usize,
        took: Duration,
        outcome: Result<(Stored, ProjectStatus), Failure>,
        again: bool,
    ) {
        let mut rows = self.rows.iter();
        let others = rows.any(|row| row.status == ProjectStatus::Exported);
        let row = &mut self.rows[index];
        row.seconds += (took.as_secs_f64() * 1_000.0).round() / 1_000.0;
        let mut failure = match outcome {
            Ok((stored, status)) => {
                is_done(row, &stored, status);
                self.tally.ended(match status {
                    ProjectStatus::AlreadyDone => Ending::AtOnce,
                    _ => Ending::Done,
                });
                return;
            }
            Err(failure) => failure,
        };
        row.direct = false;
        row.status = ProjectStatus::Failed;
        self.tally.ended(Ending::Failed);
        // The report names the first few of each kind; a thousand lines more would only bury them.
        match failure.next {
            Next::Again if !again => {
                tracing::info!("{}; it is tried again at the end", failure.error);
                self.again.push_back(index);
            }
            Next::Skipped => {
                tracing::info!("{}: skipped: {}", row.path, failure.error);
                row.status = ProjectStatus::Skipped;
            }
            // What GitLab has just done for another project it does not refuse to all.
            Next::SkipAll if others => {
                failure.error = format!(
                    "{}: GitLab says that it is not there, and exports other projects\n  \
                     the next run tries again",
                    row.path
                );
            }
            Next::SkipAll => {
                row.status = ProjectStatus::Skipped;
                let why = failure.error.clone();
                self.halted.get_or_insert((ProjectStatus::Skipped, why));
            }
            Next::Halt => {
                tracing::info!("{}", failure.error);
                let why = failure.error.clone();
                self.halted.get_or_insert((ProjectStatus::Failed, why));
            }
            Next::Again | Next::Later => tracing::info!("{}", failure.error),
        }
        row.error = Some(failure.error);
    }
}

/// One project: what is stored of today stays, everything else is exported.
async fn one(run: &Run<'_>, item: &Item, again: bool) -> Result<(Stored, ProjectStatus), Failure> {
    if let Some(stored) = run.known.stored.get(&item.id).filter(|_| !again) {
        let patience = Patience::new(run.job.upload.retry_for);
        let found = run.destination().stat(&stored.key, &patience).await;
        let found = found.map_err(|error| Failure::of_place(&error))?;
        let file = found.and_then(|entry| entry.file);
        if file.is_some_and(|file| file.size == stored.size) {
            return Ok((stored.clone(), ProjectStatus::AlreadyDone));
        }
    }
    let stored = run.bring(item, again).await?;
    run.prune(item, &stored).await;
    Ok((stored, ProjectStatus::Exported))
}
