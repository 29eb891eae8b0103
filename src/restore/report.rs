//! What a restore did: the shape of `--json`, its text, and the exit status.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde::Serialize;

use super::Halt;
use super::directory::Unpacked;
use super::download::Fetched;
use super::package::product;
use super::runbook::{self, RunbookStep};
use crate::archive::ArchiveKind;
use crate::catalog::Found;
use crate::report::Status;
use crate::units::Size;

/// The whole of a restore.
#[derive(Debug, Serialize)]
pub struct RestoreReport {
    /// Always `restore`.
    pub command: &'static str,
    /// The outcome: `ok` or `failed`.
    pub status: Status,
    /// GitLab's ID of the backup, once it is found.
    pub backup_id: Option<String>,
    /// The version of GitLab that made it.
    pub gitlab_version: Option<String>,
    /// Where it is stored.
    pub destination: Option<String>,
    /// One row for each archive.
    pub archives: Vec<RestoredArchive>,
    /// What is to be done or was done, in order.
    pub steps: Vec<StepRow>,
    /// Whether an earlier call restored all, and this one only repeats the checks that failed then.
    pub checks_only: bool,
    /// What is wrong with the archives although they are whole tars.
    pub doubts: Vec<String>,
    /// The parts that GitLab left out of the backup.
    pub skipped: Vec<String>,
    /// What `/etc/gitlab` was before, and is kept.
    pub kept_config: Option<PathBuf>,
    /// What made it fail.
    pub error: Option<String>,
    #[serde(skip)]
    exit: u8,
    #[serde(skip)]
    purpose: Purpose,
}

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Fetch,
    Plan,
    Apply,
}

/// One archive and where it is now, or would be.
#[derive(Debug, Serialize)]
pub struct RestoredArchive {
    /// Config or data.
    pub kind: ArchiveKind,
    /// Its name.
    pub name: String,
    /// Where it is on this machine, or would be.
    pub path: PathBuf,
    /// In bytes.
    pub size: u64,
    /// Whether the content hash of the file here is known to be right.
    pub verified: bool,
    /// How it came there.
    pub status: ArchiveStatus,
    /// Bytes that this call fetched.
    pub bytes_fetched: u64,
    /// Bytes that an earlier call had fetched.
    pub bytes_resumed: u64,
}

/// How an archive came to be where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ArchiveStatus {
    /// It would be fetched.
    Planned,
    /// It was fetched.
    Fetched,
    /// The same content was there before.
    AlreadyPresent,
}

/// A step and what came of it.
#[derive(Debug, Serialize)]
pub struct StepRow {
    /// The step.
    #[serde(flatten)]
    pub step: RunbookStep,
    /// What came of it.
    pub status: StepStatus,
    /// Why it failed.
    pub error: Option<String>,
}

/// What came of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StepStatus {
    /// It is still to be done.
    Planned,
    /// It is done.
    Ok,
    /// An earlier call did it.
    DoneBefore,
    /// It was not needed.
    Skipped,
    /// It failed, or was stopped.
    Failed,
}

impl RestoredArchive {
    /// Notes that it was fetched.
    pub(super) fn fetched(&mut self, fetched: &Fetched, size: u64) {
        self.status = ArchiveStatus::Fetched;
        self.verified = fetched.verified;
        self.bytes_resumed = fetched.resumed;
        self.bytes_fetched = size - fetched.resumed;
    }

    /// Notes that it was fetched and unpacked.
    pub(super) fn unpacked(&mut self, unpacked: &Unpacked, size: u64) {
        self.status = ArchiveStatus::Fetched;
        self.verified = unpacked.verified;
        self.bytes_resumed = if unpacked.was_here { size } else { 0 };
        self.bytes_fetched = size - self.bytes_resumed;
    }
}

impl RestoreReport {
    /// Notes which backup it is about.
    pub(super) fn describe(&mut self, found: &Found<'_>) {
        let backup = &found.backup;
        self.backup_id = Some(backup.id.clone());
        self.destination = Some(found.destination.name().to_owned());
        let manifest = backup.readable_manifest();
        let told = manifest.and_then(|manifest| manifest.gitlab_version.clone());
        self.gitlab_version = told.or_else(|| backup.data_name.version.clone());
        self.doubts = backup.doubts();
        if let Some(Err(why)) = &backup.manifest {
            self.doubts
                .push(format!("the manifest cannot be used: {why}"));
        }
        let data = manifest.and_then(|manifest| manifest.archive(ArchiveKind::Data));
        self.skipped = data
            .map(|data| data.contents.skipped.clone())
            .unwrap_or_default();
    }

    /// Tells of everything that is wrong with it although it can be restored.
    pub(super) fn warn_of_doubts(&self) {
        let id = self.backup_id.as_deref().unwrap_or_default();
        for doubt in &self.doubts {
            tracing::warn!("{id} is doubtful: {doubt}");
        }
    }

    pub(super) fn begin(purpose: Purpose) -> RestoreReport {
        RestoreReport {
            command: "restore",
            status: Status::Failed,
            backup_id: None,
            gitlab_version: None,
            destination: None,
            archives: Vec::new(),
            steps: Vec::new(),
            checks_only: false,
            doubts: Vec::new(),
            skipped: Vec::new(),
            kept_config: None,
            error: None,
            exit: 1,
            purpose,
        }
    }

    /// Decides status, error and exit status.
    pub(super) fn conclude(mut self, result: Result<(), Halt>) -> RestoreReport {
        (self.status, self.exit, self.error) = match result {
            Ok(()) => (Status::Ok, 0, None),
            Err(Halt::Failed(error)) => (Status::Failed, 1, Some(error)),
            Err(Halt::Stopped(signal)) => {
                let error = format!(
                    "stopped by {}; what was fetched and done is kept: the same command goes on from there",
                    signal.name()
                );
                (Status::Failed, signal.exit_status(), Some(error))
            }
        };
        self
    }

    /// The exit status of the program.
    pub fn exit_status(&self) -> u8 {
        self.exit
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let id = self.backup_id.as_deref().unwrap_or("no backup");
        if self.purpose == Purpose::Plan && self.error.is_none() {
            self.head(&mut text, id);
            let steps: Vec<_> = self.steps.iter().map(|row| row.step.clone()).collect();
            return text + &runbook::text(&steps);
        }
        if self.checks_only {
            let _ = writeln!(
                text,
                "this call restored nothing: an earlier one restored {id}; only checks that had not passed were repeated"
            );
        }
        // Where all went well the steps have told it already.
        if self.purpose == Purpose::Fetch || self.error.is_some() {
            self.rows(&mut text);
        }
        if let Some(kept) = &self.kept_config {
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "the former configuration is kept in {}",
                kept.display()
            );
        }
        let unproved = self.archives.iter().any(|archive| !archive.verified);
        let _ = match (self.status, self.purpose) {
            (Status::Ok, Purpose::Apply) if self.checks_only => {
                writeln!(text, "ok: {id} has passed its checks now")
            }
            (Status::Ok, Purpose::Apply) => writeln!(text, "ok: {id} is restored"),
            (Status::Ok, _) if unproved => writeln!(
                text,
                "ok: {id} is fetched, but not all of it could be verified"
            ),
            (Status::Ok, _) => writeln!(text, "ok: {id} is fetched and verified"),
            _ => writeln!(text, "FAILED: {id}"),
        };
        text
    }

    fn head(&self, text: &mut String, id: &str) {
        let product = self.gitlab_version.as_deref().map(product);
        let product = product.unwrap_or_else(|| "GitLab of an unknown version".to_owned());
        let destination = self.destination.as_deref().unwrap_or("nowhere");
        let _ = writeln!(text, "{id} of {product}, stored at {destination}; as root:");
        for doubt in &self.doubts {
            let _ = writeln!(text, "doubtful: {doubt}");
        }
    }

    fn rows(&self, text: &mut String) {
        for archive in &self.archives {
            let how = match (archive.status, archive.verified) {
                (ArchiveStatus::Planned, _) => "not fetched",
                (ArchiveStatus::Fetched, true) => "fetched and verified",
                (ArchiveStatus::Fetched, false) => "fetched, not verified",
                (ArchiveStatus::AlreadyPresent, _) => "already there, the same content",
            };
            let resumed = match archive.bytes_resumed {
                0 => String::new(),
                bytes => format!(" ({} of it by an earlier call)", Size(bytes)),
            };
            let _ = writeln!(
                text,
                "{:<6} {}  {}, {how}{resumed}",
                archive.kind,
                archive.path.display(),
                Size(archive.size)
            );
        }
        for (number, row) in self.steps.iter().enumerate() {
            let how = match row.status {
                StepStatus::Planned => "not done",
                StepStatus::Ok | StepStatus::DoneBefore => "done",
                StepStatus::Skipped => "not needed",
                StepStatus::Failed => "FAILED",
            };
            if self.purpose == Purpose::Apply {
                let _ = writeln!(text, "{:>2}. {}: {how}", number + 1, row.step.title);
            }
        }
    }
}
