//! What a run did: the shape of `--json`, and the exit status that follows from it alone.

mod outcome;
mod text;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Serialize, Serializer};

use crate::archive::ArchiveKind;
use crate::content_hash::Digest;

pub use crate::report::outcome::Outcome;

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
    /// Destinations that may be absent, and are.
    pub absent: Vec<AbsentReport>,
    /// What the guard found to have shrunk.
    pub warnings: Vec<String>,
    /// The first thing that made it fail.
    pub error: Option<String>,
    #[serde(skip)]
    exit: u8,
}

/// A destination that is not there, and need not be.
#[derive(Debug, Serialize)]
pub struct AbsentReport {
    /// Its name.
    pub destination: String,
    /// Why it is taken for absent.
    pub error: String,
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
            absent: Vec::new(),
            warnings: Vec::new(),
            error: None,
            exit: 1,
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
