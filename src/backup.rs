//! The run: GitLab's commands, then every archive to every destination.
//!
//! In this order, and each for a reason: run what the user wants to be run before; look whether the destinations answer, so that what is wrong is
//! said at once; finish what an earlier run left, because those archives are nowhere else yet; make the
//! backups, even if a destination is down, since they are worth something on this disk too; send only
//! what this run made, so that an old archive never passes for today's. What fails is a row in the
//! report and stops nothing else.

pub mod again;
mod finish;
mod hooks;
mod leftover;
mod look;
mod members;
mod parts;
mod preflight;
mod present;
mod prune;
pub mod record;
mod sealed;
mod seals;
mod send;

use std::io;
use std::time::{Duration, SystemTime};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;

use self::look::READINGS;
use self::record::StoredAs;
use self::seals::Seals;
use crate::archive::{Archive, ArchiveKind, made_since, newest, written_since};
use crate::destination::{Destination, Options};
use crate::gitlab::cli::Unfinished;
use crate::gitlab::host::{self, make_archive};
use crate::gitlab::parts::{Found, look as look_at_parts};
use crate::guard;
use crate::hooks::Settings as Hooks;
use crate::local::{find_archives, half_made};
use crate::progress::Show;
use crate::report::{
    AbsentReport, ArchiveReport, Outcome, RunReport, Step, StepReport, StepStatus, UploadStatus,
};
use crate::restore::unfinished;
use crate::retention::RetentionPolicy;
use crate::seal::Encryption;
use crate::state::StateDir;
use crate::stop::Stop;

/// Everything a run needs.
pub struct Job<'a> {
    /// `[gitlab]`.
    pub gitlab: &'a host::Settings,
    /// `[guard]`.
    pub guard: &'a guard::Settings,
    /// `[hooks]`.
    pub hooks: &'a Hooks,
    /// `[encryption]`, if anything is encrypted.
    pub encryption: Option<&'a Encryption>,
    /// `[retention]`, unless nothing is to be pruned.
    pub retention: Option<&'a RetentionPolicy>,
    /// All configured destinations.
    pub destinations: &'a [Destination],
    /// The names of those that take part.
    pub selected: &'a [String],
    /// How archives are sent.
    pub upload: &'a Options,
    /// Journals and history.
    pub state: &'a StateDir,
    /// What is asked for.
    pub request: Request,
    /// Who is told how far an upload is.
    pub show: Show,
    /// Whether the program has been asked to stop.
    pub stop: &'a Stop,
}

/// What is asked for on the command line.
#[derive(Clone, Debug)]
pub struct Request {
    /// Only tell what would be done.
    pub dry_run: bool,
    /// Send what is there instead of making it.
    pub skip_create: bool,
    /// The kinds to make and send.
    pub kinds: Vec<ArchiveKind>,
}

impl Job<'_> {
    /// The destinations that take part.
    fn taking_part(&self) -> impl Iterator<Item = &Destination> {
        self.destinations
            .iter()
            .filter(|destination| self.selected.iter().any(|name| name == destination.name()))
    }

    fn is_stopped(&self) -> bool {
        self.stop.signal().is_some()
    }
}

/// An archive that is to be sent.
struct Chosen {
    archive: Archive,
    made_by_this_run: bool,
    doubts: Vec<String>,
}

/// The report as it grows.
struct Run<'a> {
    job: &'a Job<'a>,
    now: DateTime<Utc>,
    report: RunReport,
    failures: Vec<String>,
    /// Destinations that did not answer when they were asked for what earlier runs left.
    silent: Vec<String>,
    /// What this run found or stored where places tell no hash, by the archive's name.
    stored: Vec<(String, StoredAs)>,
    /// A restore that is not finished, in words.
    restoring: Option<String>,
    /// What is known of encrypted archives.
    seals: Seals<'a>,
}

/// Does everything, in order, and tells what came of it.
pub async fn run(job: &Job<'_>, run_id: String, now: DateTime<Utc>) -> RunReport {
    let start = Instant::now();
    let mut run = Run::new(job, run_id, now);
    if !run.before().await {
        return run.conclude(start, Depth::Nothing).await;
    }
    run.preflight().await;
    run.skip_commands();
    let upload_start = Instant::now();
    run.finish_removals().await;
    run.finish_what_was_left().await;
    run.settle_seals().await;
    run.finish_old_records().await;
    let mut uploading = upload_start.elapsed();
    let chosen = if job.request.skip_create || job.request.dry_run {
        run.choose()
    } else if run.send_parts_first().await {
        run.make().await
    } else {
        Vec::new()
    };
    if let Some(data) = chosen
        .iter()
        .find(|chosen| chosen.archive.name.kind == ArchiveKind::Data)
    {
        run.report.backup_id = data.archive.name.backup_id().map(str::to_owned);
        run.report.gitlab_version = data.archive.name.version.clone();
    }
    let upload_start = Instant::now();
    let mut ready = Vec::new();
    for chosen in chosen {
        if !job.is_stopped() {
            ready.push(run.look(chosen).await);
        }
    }
    let mut record = if job.request.dry_run {
        None
    } else {
        run.record(&ready).await
    };
    for index in 0..ready.len() {
        if job.is_stopped() {
            break;
        }
        run.send(&ready[index]).await;
        for _ in 1..READINGS {
            let Some(chosen) = run.must_be_read_again(&ready[index]).await else {
                break;
            };
            ready[index] = run.look(chosen).await;
            record = run.record(&ready).await;
            run.send(&ready[index]).await;
        }
    }
    uploading += upload_start.elapsed();
    run.step_uploads(uploading);
    run.write_manifests(record).await;
    run.remove_parts(&ready).await;
    run.conclude(start, Depth::Everything).await
}

/// How far a run got.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// It was stopped before it began: no destination is touched.
    Nothing,
    Everything,
}

impl<'a> Run<'a> {
    fn new(job: &'a Job<'a>, run_id: String, now: DateTime<Utc>) -> Run<'a> {
        Run {
            job,
            now,
            report: RunReport::begin(run_id, now),
            failures: Vec::new(),
            silent: Vec::new(),
            stored: Vec::new(),
            restoring: unfinished(job.state),
            seals: Seals::new(job.state),
        }
    }
}

impl Run<'_> {
    /// Tells of the commands that are not asked for.
    fn skip_commands(&mut self) {
        let request = &self.job.request;
        if request.skip_create || request.dry_run {
            for kind in ArchiveKind::ALL {
                self.step(step_of(kind), StepStatus::Skipped, Duration::ZERO, None);
            }
        }
    }

    /// Runs GitLab's commands; what they made is what will be sent.
    async fn make(&mut self) -> Vec<Chosen> {
        let mut chosen = Vec::new();
        for kind in ArchiveKind::ALL {
            let asked = self.job.request.kinds.contains(&kind);
            if !asked || self.job.is_stopped() {
                self.step(step_of(kind), StepStatus::Skipped, Duration::ZERO, None);
                continue;
            }
            let start = Instant::now();
            let folder = self.job.gitlab.folder(kind);
            let before = find_archives(self.job.gitlab, kind);
            let begun = SystemTime::now();
            let result = make_archive(self.job.gitlab, kind, self.job.stop).await;
            let found = match (before, find_archives(self.job.gitlab, kind)) {
                (Ok(before), Ok(after)) => Ok(made_since(&before, &after).cloned()),
                // GitLab has made the folder itself: new is what was written since.
                (Err(error), Ok(after)) if error.kind() == io::ErrorKind::NotFound => {
                    Ok(written_since(begun, &after).cloned())
                }
                // What was there before is not known, so nothing can be told to be new.
                (Err(error), _) | (_, Err(error)) => Err(error),
            };
            let unknown = |error: &io::Error| {
                format!(
                    "looking for the new {kind} archive in {}: {error}\n  check `gitlab.{kind}_dir`",
                    folder.display()
                )
            };
            let missing = || {
                let refused = (kind == ArchiveKind::Data).then(|| refused_parts(self.job.gitlab));
                refused.flatten().unwrap_or_else(|| {
                    let folder = folder.display();
                    let half = self.unfinished_now(kind).map_or_else(String::new, |half| {
                        format!(": {} {}", half.path.display(), half.why)
                    });
                    format!(
                        "the {kind} backup command ended well, but left no new archive in {folder}{half}\n  \
                         check `gitlab.{kind}_dir`, and GitLab's own setting for that folder"
                    )
                })
            };
            let (error, mut doubts) = match (&result, &found) {
                (Err(failure), _) => (Some(failure.message.clone()), vec![failure.doubt.clone()]),
                (Ok(()), Err(error)) => (Some(unknown(error)), Vec::new()),
                (Ok(()), Ok(None)) => (Some(missing()), Vec::new()),
                (Ok(()), Ok(Some(_))) => (None, Vec::new()),
            };
            let restoring = self.restoring.as_deref().and_then(|why| why.lines().next());
            doubts.extend(restoring.map(str::to_owned));
            let status = if error.is_none() {
                StepStatus::Ok
            } else {
                StepStatus::Failed
            };
            self.step(step_of(kind), status, start.elapsed(), error);
            chosen.extend(found.ok().flatten().map(|archive| Chosen {
                archive,
                made_by_this_run: true,
                doubts,
            }));
        }
        chosen
    }

    /// The newest folder of `gitlab-backup-cli` that is no whole backup, if no whole one is newer.
    fn unfinished_now(&self, kind: ArchiveKind) -> Option<Unfinished> {
        if kind != ArchiveKind::Data {
            return None;
        }
        let stamp = |half: &Unfinished| half.name.as_ref().map(|name| name.stamp);
        let half = half_made(self.job.gitlab);
        let newest = half
            .into_iter()
            .filter(|half| half.name.is_some())
            .max_by_key(stamp)?;
        let archives = find_archives(self.job.gitlab, kind).unwrap_or_default();
        let whole = archives.iter().map(|archive| archive.name.stamp).max();
        (stamp(&newest) > whole).then_some(newest)
    }

    /// The newest archive of each kind that lies here.
    fn choose(&mut self) -> Vec<Chosen> {
        let mut chosen = Vec::new();
        for kind in self.job.request.kinds.clone() {
            let folder = self.job.gitlab.folder(kind);
            let archives = match find_archives(self.job.gitlab, kind) {
                Ok(archives) => archives,
                Err(error) => {
                    self.fail(format!(
                        "looking for the newest {kind} archive in {}: {error}\n  check `gitlab.{kind}_dir`",
                        folder.display()
                    ));
                    continue;
                }
            };
            let (archive, future) = newest(&archives, self.now);
            if let Some(future) = future {
                tracing::warn!(
                    "{} is passed over: its time lies {} days ahead of this machine's clock",
                    future.path.display(),
                    (future.name.created_at() - self.now).num_days()
                );
            }
            if let Some(half) = self.unfinished_now(kind) {
                tracing::warn!("{} is passed over: it {}", half.path.display(), half.why);
            }
            match archive {
                Some(archive) => {
                    let archive = archive.clone();
                    chosen.push(Chosen { archive, made_by_this_run: false, doubts: Vec::new() });
                }
                None if self.job.request.dry_run => {}
                None if kind == ArchiveKind::Data && let Some(why) = refused_parts(self.job.gitlab) => {
                    self.fail(why);
                }
                None => self.fail(format!(
                    "there is no {kind} archive in {}\n  let GitLab make one: run without --skip-create",
                    folder.display()
                )),
            }
        }
        chosen
    }

    fn step(&mut self, step: Step, status: StepStatus, took: Duration, error: Option<String>) {
        if let Some(error) = &error {
            tracing::error!("{error}");
        }
        self.report.steps.push(StepReport {
            step,
            status,
            seconds: seconds(took),
            error,
        });
    }

    /// Something that makes the run fail, whatever else succeeds.
    fn fail(&mut self, error: String) {
        tracing::error!("{error}");
        self.failures.push(error);
    }

    /// A destination that may be absent is: that is told, and is no failure of its own.
    fn note_absent(&mut self, destination: &Destination, why: &str) {
        let name = destination.name();
        if !self.is_away(name) {
            tracing::warn!("{name} is not there, and need not be (`optional`): {why}");
            let why = why.lines().next().unwrap_or_default().to_owned();
            self.report.absent.push(AbsentReport {
                destination: name.to_owned(),
                error: why,
            });
        }
    }

    /// Whether a destination was not there when it was last asked.
    fn is_away(&self, name: &str) -> bool {
        let mut absent = self.report.absent.iter();
        absent.any(|absent| absent.destination == name)
    }

    /// The row of an archive; a new one if it has none yet.
    fn row(&mut self, new: ArchiveReport) -> &mut ArchiveReport {
        let same = |row: &ArchiveReport| row.kind == new.kind && row.name == new.name;
        let index = self
            .report
            .archives
            .iter()
            .position(same)
            .unwrap_or(self.report.archives.len());
        if index == self.report.archives.len() {
            self.report.archives.push(new);
        } else {
            let row = &mut self.report.archives[index];
            row.made_by_this_run |= new.made_by_this_run;
            row.doubts.extend(
                new.doubts
                    .into_iter()
                    .filter(|doubt| !row.doubts.contains(doubt))
                    .collect::<Vec<_>>(),
            );
        }
        &mut self.report.archives[index]
    }

    /// Tells how the uploads went.
    fn step_uploads(&mut self, took: Duration) {
        let uploads = || {
            self.report
                .archives
                .iter()
                .flat_map(|archive| &archive.uploads)
        };
        let first_error = uploads().find_map(|upload| upload.error.clone());
        let status = match (&first_error, uploads().count()) {
            (Some(_), _) => StepStatus::Failed,
            (None, 0) => StepStatus::Skipped,
            (None, _) => StepStatus::Ok,
        };
        if self.job.request.dry_run {
            let failed = uploads().filter(|upload| upload.status == UploadStatus::Failed);
            let errors: Vec<_> = failed.filter_map(|upload| upload.error.clone()).collect();
            self.failures.extend(errors);
        }
        self.report.steps.push(StepReport {
            step: Step::Upload,
            status,
            seconds: seconds(took),
            error: first_error,
        });
    }

    async fn conclude(mut self, start: Instant, depth: Depth) -> RunReport {
        let kinds_of = |destination: &Destination| {
            let kinds = destination.kinds().to_vec();
            (destination.name().to_owned(), kinds)
        };
        let outcome = Outcome {
            kinds: self.job.request.kinds.clone(),
            destinations: self.job.taking_part().map(kinds_of).collect(),
            failures: std::mem::take(&mut self.failures),
            stopped: self.job.stop.signal(),
            dry_run: self.job.request.dry_run,
        };
        self.report.conclude(&outcome);
        if !self.job.request.dry_run && depth == Depth::Everything {
            if let Some(policy) = self.job.retention {
                self.prune(policy).await;
            }
            if !self.job.is_stopped() {
                self.write_recovery().await;
            }
        }
        self.after().await;
        let took = TimeDelta::from_std(start.elapsed()).unwrap_or_default();
        self.report.finished_at = self.now + took;
        self.report
    }
}

/// Why the parts that GitLab left are not sent.
fn refused_parts(gitlab: &host::Settings) -> Option<String> {
    if !gitlab.stream {
        return None;
    }
    match look_at_parts(&gitlab.data_dir).ok()? {
        Found::Refused(why) | Found::Unfinished(why) => Some(why),
        Found::Nothing | Found::Parts(_) => None,
    }
}

fn step_of(kind: ArchiveKind) -> Step {
    match kind {
        ArchiveKind::Config => Step::ConfigCommand,
        ArchiveKind::Data => Step::DataCommand,
    }
}

/// With milliseconds.
fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1_000.0).round() / 1_000.0
}
