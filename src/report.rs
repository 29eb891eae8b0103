//! What a run did: the shape of `--json`, and the exit status that follows from it alone.

mod text;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Serialize, Serializer};

use crate::archive::ArchiveKind;
use crate::content_hash::Digest;
use crate::stop::StopSignal;

/// The whole of a run.
#[derive(Debug, Serialize)]
pub struct RunReport {
    /// Always `run`.
    pub command: &'static str,
    /// Names this run in the history.
    pub run_id: String,
    /// The outcome.
    pub status: Status,
    /// When it began.
    #[serde(serialize_with = "rfc3339")]
    pub started_at: DateTime<Utc>,
    /// When it ended.
    #[serde(serialize_with = "rfc3339")]
    pub finished_at: DateTime<Utc>,
    /// GitLab's ID of the data archive, if one was made or chosen.
    pub backup_id: Option<String>,
    /// The GitLab version in the data archive's name.
    pub gitlab_version: Option<String>,
    /// What was done, in order.
    pub steps: Vec<StepReport>,
    /// One row for each archive.
    pub archives: Vec<ArchiveReport>,
    /// One row for each manifest.
    pub manifests: Vec<ManifestReport>,
    /// What retention deleted.
    pub pruned: Vec<Pruned>,
    /// How full each destination was when the run began, as far as it said.
    pub space: Vec<SpaceReport>,
    /// What the guard found to have shrunk.
    pub warnings: Vec<String>,
    /// The first thing that made it fail.
    pub error: Option<String>,
    #[serde(skip)]
    exit: u8,
}

/// How full a destination is, in bytes; none: it does not say.
#[derive(Debug, Serialize)]
pub struct SpaceReport {
    /// Its name.
    pub destination: String,
    /// What still fits.
    pub free: Option<u64>,
    /// What is taken, also by other files.
    pub used: Option<u64>,
    /// Both together.
    pub total: Option<u64>,
}

/// An archive that retention deleted.
#[derive(Debug, Serialize)]
pub struct Pruned {
    /// Where it was.
    pub destination: String,
    /// Its path there.
    pub path: String,
    /// In bytes.
    pub size: u64,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// All done and verified.
    Ok,
    /// Some destination holds all its kinds and another does not.
    Partial,
    /// Neither.
    Failed,
    /// Nothing was to be done.
    DryRun,
}

impl Status {
    /// As in `--json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Partial => "partial",
            Status::Failed => "failed",
            Status::DryRun => "dry_run",
        }
    }
}

/// One step of a run.
#[derive(Debug, Serialize)]
pub struct StepReport {
    /// Which one.
    pub step: Step,
    /// How it ended.
    pub status: StepStatus,
    /// How long it took.
    pub seconds: f64,
    /// Why it failed.
    pub error: Option<String>,
}

/// The steps of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// The user's own commands before a run.
    Before,
    /// Credentials, folders, space.
    Preflight,
    /// `gitlab-ctl backup-etc`.
    ConfigCommand,
    /// `gitlab-backup create`.
    DataCommand,
    /// Sending.
    Upload,
    /// What completes a backup.
    Manifest,
    /// Retention.
    Prune,
    /// The user's own commands after a run.
    After,
    /// Telling whoever is to be told.
    Notify,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StepStatus {
    /// Well.
    Ok,
    /// Not.
    Failed,
    /// It was not asked for.
    Skipped,
}

/// One archive and what became of it.
#[derive(Debug, Serialize)]
pub struct ArchiveReport {
    /// Config or data.
    pub kind: ArchiveKind,
    /// Its file name.
    pub name: String,
    /// In bytes.
    pub size: u64,
    /// The time in its name.
    #[serde(serialize_with = "rfc3339")]
    pub created_at: DateTime<Utc>,
    /// Whether a command of this run made it.
    pub made_by_this_run: bool,
    /// What is wrong with it although it is a whole tar.
    pub doubts: Vec<String>,
    /// One row for each destination.
    pub uploads: Vec<UploadReport>,
}

/// One archive at one destination.
#[derive(Debug, Serialize)]
pub struct UploadReport {
    /// The destination's name.
    pub destination: String,
    /// Where it is stored there.
    pub path: String,
    /// How it went.
    pub status: UploadStatus,
    /// Bytes this run had acknowledged, repeats not counted.
    pub bytes_sent: u64,
    /// Bytes an earlier run had acknowledged.
    pub bytes_resumed: u64,
    /// Of the archive.
    pub content_hash: Option<Digest>,
    /// Whether the destination reported this hash.
    pub verified: bool,
    /// How long it took.
    pub seconds: f64,
    /// Why it failed.
    pub error: Option<String>,
}

/// The manifest of a backup at one destination.
#[derive(Debug, Serialize)]
pub struct ManifestReport {
    /// The destination's name.
    pub destination: String,
    /// Of which backup; an earlier run's may have been finished.
    pub backup_id: String,
    /// Where it is stored there.
    pub path: String,
    /// How it went.
    pub status: ManifestStatus,
    /// Why it failed.
    pub error: Option<String>,
}

/// How storing a manifest went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ManifestStatus {
    /// It is stored.
    Written,
    /// It was there and said the same.
    Unchanged,
    /// It is not there.
    Failed,
}

/// How the upload of an archive went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum UploadStatus {
    /// Sent and verified.
    Uploaded,
    /// The same content was there before.
    AlreadyPresent,
    /// A dry run: it would be sent.
    WouldUpload,
    /// Something else has its name; nothing was touched.
    Conflict,
    /// It is not there.
    Failed,
}

impl UploadStatus {
    /// Whether the archive is at the destination, whole.
    pub fn is_stored(self) -> bool {
        matches!(self, UploadStatus::Uploaded | UploadStatus::AlreadyPresent)
    }
}

/// Everything the outcome of a run follows from.
pub struct Outcome {
    /// The kinds that were asked for.
    pub kinds: Vec<ArchiveKind>,
    /// For each destination that takes part: its name and the kinds it gets of them.
    pub destinations: Vec<(String, Vec<ArchiveKind>)>,
    /// What failed beside steps and uploads: a left-over upload, a missing archive.
    pub failures: Vec<String>,
    /// The signal that stopped the run.
    pub stopped: Option<StopSignal>,
    /// Whether nothing was to be done.
    pub dry_run: bool,
}

impl RunReport {
    /// An empty report.
    pub fn begin(run_id: String, started_at: DateTime<Utc>) -> RunReport {
        RunReport {
            command: "run",
            run_id,
            status: Status::Failed,
            started_at,
            finished_at: started_at,
            backup_id: None,
            gitlab_version: None,
            steps: Vec::new(),
            archives: Vec::new(),
            manifests: Vec::new(),
            pruned: Vec::new(),
            space: Vec::new(),
            warnings: Vec::new(),
            error: None,
            exit: 1,
        }
    }

    /// Decides status, error and exit status from everything that is in the report.
    pub fn conclude(&mut self, outcome: &Outcome) {
        let mut failures = Vec::new();
        if let Some(signal) = outcome.stopped {
            failures.push(format!(
                "stopped by {}; what was uploaded is kept for the next run",
                signal.name()
            ));
        }
        // A command's failure makes the run fail; what preflight met is told by the uploads.
        let steps = self.steps.iter().filter(|step| {
            matches!(
                step.step,
                Step::Before | Step::ConfigCommand | Step::DataCommand
            )
        });
        failures.extend(steps.filter_map(|step| step.error.clone()));
        failures.extend(outcome.failures.iter().cloned());
        let doubts = self.archives.iter().flat_map(|archive| {
            let told = |doubt: &String| format!("{}: {doubt}", archive.name);
            archive.doubts.iter().map(told)
        });
        failures.extend(doubts);
        // A left-over that was finished does not stand for the archive of today.
        let holds = |destination: &str, kind: ArchiveKind| {
            let mut rows = self
                .archives
                .iter()
                .filter(|archive| archive.kind == kind)
                .flat_map(|archive| &archive.uploads)
                .filter(|upload| upload.destination == destination)
                .peekable();
            rows.peek().is_some() && rows.all(|upload| upload.status.is_stored())
        };
        let failed = |manifest: &ManifestReport| manifest.status == ManifestStatus::Failed;
        let manifest_lacks = |destination: &str| {
            let mut manifests = self.manifests.iter();
            manifests.any(|row| row.destination == destination && failed(row))
        };
        let asked = |kinds: &Vec<ArchiveKind>| -> Vec<ArchiveKind> {
            let asked = kinds.iter().filter(|kind| outcome.kinds.contains(kind));
            asked.copied().collect()
        };
        let complete: Vec<bool> = outcome
            .destinations
            .iter()
            .map(|(name, kinds)| (name, asked(kinds)))
            .filter(|(_, kinds)| !kinds.is_empty())
            .map(|(name, kinds)| {
                kinds.iter().all(|kind| holds(name, *kind)) && !manifest_lacks(name)
            })
            .collect();
        let uploads = self.archives.iter().flat_map(|archive| &archive.uploads);
        let upload_errors = uploads.filter_map(|upload| upload.error.clone());
        let manifest_errors = self.manifests.iter().filter_map(|row| row.error.clone());
        let warnings = self.warnings.iter().cloned();
        (self.status, self.exit) = if outcome.dry_run {
            (
                if failures.is_empty() {
                    Status::DryRun
                } else {
                    Status::Failed
                },
                u8::from(!failures.is_empty()),
            )
        } else if !failures.is_empty() || !complete.contains(&true) {
            (Status::Failed, 1)
        } else if complete.contains(&false) || !self.warnings.is_empty() {
            (Status::Partial, 3)
        } else {
            (Status::Ok, 0)
        };
        if let Some(signal) = outcome.stopped {
            self.exit = signal.exit_status();
        }
        if self.exit != 0 {
            let mut errors = failures
                .into_iter()
                .chain(upload_errors)
                .chain(manifest_errors)
                .chain(warnings);
            self.error = errors.next();
        }
    }

    /// Something failed after all was stored: a good run is done in part, any other stays what it is.
    pub fn not_all_well(&mut self, error: &str) {
        if self.exit == 0 {
            (self.status, self.exit) = (Status::Partial, 3);
            self.error = Some(error.to_owned());
        }
    }

    /// The exit status of the program.
    pub fn exit_status(&self) -> u8 {
        self.exit
    }
}

/// Writes a time as RFC 3339 in UTC, with seconds.
pub fn rfc3339<S: Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time.to_rfc3339_opts(SecondsFormat::Secs, true))
}

/// Like [`rfc3339`], for a time that may be unknown.
pub fn rfc3339_or_null<S: Serializer>(
    time: &Option<DateTime<Utc>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => rfc3339(time, serializer),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ArchiveKind::{Config, Data};
    use UploadStatus::{AlreadyPresent, Conflict, Failed, Uploaded, WouldUpload};

    fn archive(
        kind: ArchiveKind,
        uploads: &[(&str, UploadStatus)],
        doubts: &[&str],
    ) -> ArchiveReport {
        let upload = |(destination, status): &(&str, UploadStatus)| UploadReport {
            destination: (*destination).to_owned(),
            path: "/x".to_owned(),
            status: *status,
            bytes_sent: 0,
            bytes_resumed: 0,
            content_hash: None,
            verified: status.is_stored(),
            seconds: 0.0,
            error: (!status.is_stored()).then(|| "why".to_owned()),
        };
        ArchiveReport {
            kind,
            name: "a".to_owned(),
            size: 1,
            created_at: DateTime::UNIX_EPOCH,
            made_by_this_run: true,
            doubts: doubts.iter().map(|doubt| (*doubt).to_owned()).collect(),
            uploads: uploads.iter().map(upload).collect(),
        }
    }

    fn exit(archives: Vec<ArchiveReport>, change: impl Fn(&mut RunReport, &mut Outcome)) -> u8 {
        let mut outcome = Outcome {
            kinds: ArchiveKind::ALL.to_vec(),
            destinations: vec![
                ("a".to_owned(), vec![Config, Data]),
                ("b".to_owned(), vec![Data]),
            ],
            failures: Vec::new(),
            stopped: None,
            dry_run: false,
        };
        let mut report = RunReport::begin("id".to_owned(), DateTime::UNIX_EPOCH);
        report.archives = archives;
        change(&mut report, &mut outcome);
        report.conclude(&outcome);
        assert_eq!(report.error.is_some(), report.exit != 0);
        report.exit_status()
    }

    #[test]
    fn the_exit_status_follows_from_the_report() {
        let nothing = |_: &mut RunReport, _: &mut Outcome| {};
        let config = |status| archive(Config, &[("a", status)], &[]);
        let data = |a, b| archive(Data, &[("a", a), ("b", b)], &[]);
        assert_eq!(
            exit(
                vec![config(Uploaded), data(Uploaded, AlreadyPresent)],
                nothing
            ),
            0
        );
        assert_eq!(
            exit(vec![config(Uploaded), data(Uploaded, Failed)], nothing),
            3
        );
        assert_eq!(
            exit(vec![config(Conflict), data(Uploaded, Uploaded)], nothing),
            3
        );
        assert_eq!(
            exit(vec![config(Failed), data(Uploaded, Failed)], nothing),
            1
        );
        let doubtful = archive(Data, &[("a", Uploaded), ("b", Uploaded)], &["no database"]);
        assert_eq!(exit(vec![config(Uploaded), doubtful], nothing), 1);
        let all = || vec![config(Uploaded), data(Uploaded, Uploaded)];
        assert_eq!(
            exit(all(), |_, outcome| outcome
                .failures
                .push("left over".to_owned())),
            1
        );
        assert_eq!(
            exit(all(), |_, outcome| outcome.stopped =
                Some(StopSignal::Terminate)),
            143
        );
        let failed_command = |report: &mut RunReport, _: &mut Outcome| {
            let error = Some("exit 1".to_owned());
            report.steps.push(StepReport {
                step: Step::DataCommand,
                status: StepStatus::Failed,
                seconds: 0.0,
                error,
            });
        };
        assert_eq!(exit(all(), failed_command), 1);
        // Yesterday's archive was finished, today's was not stored.
        let today = archive(Data, &[("a", Failed), ("b", Uploaded)], &[]);
        assert_eq!(
            exit(
                vec![config(Uploaded), data(Uploaded, Uploaded), today],
                nothing
            ),
            3
        );
        let only_config_fails =
            |_: &mut RunReport, outcome: &mut Outcome| outcome.kinds = vec![Config];
        assert_eq!(exit(vec![config(Failed)], only_config_fails), 1);
        let only = |_: &mut RunReport, outcome: &mut Outcome| outcome.kinds = vec![Config];
        assert_eq!(exit(vec![config(Uploaded)], only), 0);
        let failed_before = |report: &mut RunReport, _: &mut Outcome| {
            let (step, status) = (Step::Before, StepStatus::Failed);
            let error = Some("no disk".to_owned());
            report.steps.push(StepReport {
                step,
                status,
                seconds: 0.0,
                error,
            });
        };
        assert_eq!(exit(Vec::new(), failed_before), 1);
        let dry = |_: &mut RunReport, outcome: &mut Outcome| outcome.dry_run = true;
        assert_eq!(
            exit(
                vec![config(WouldUpload), data(Conflict, AlreadyPresent)],
                dry
            ),
            0
        );
        assert_eq!(exit(Vec::new(), dry), 0);
    }
}
