//! A run's report for people.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};

use super::{RunReport, Status, Step, UploadReport, UploadStatus};
use crate::units::{Size, Span};

impl RunReport {
    /// For people: at most eleven lines for a good run of two destinations.
    pub fn text(&self, now: DateTime<Utc>) -> String {
        let mut text = String::new();
        for archive in &self.archives {
            let age = (now - archive.created_at)
                .to_std()
                .map(|age| format!("{} old", Span(age)));
            let age = age.unwrap_or_else(|_| "from the future".to_owned());
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "{:<6} {}  {}, {age}",
                archive.kind,
                archive.name,
                Size(archive.size)
            );
            for doubt in &archive.doubts {
                let _ = writeln!(text, "       doubtful: {doubt}");
            }
            for upload in &archive.uploads {
                let _ = writeln!(
                    text,
                    "       {}:{}  {}",
                    upload.destination,
                    upload.path,
                    upload.outcome()
                );
            }
        }
        for pruned in &self.pruned {
            let _ = writeln!(
                text,
                "pruned {}:{}  {}",
                pruned.destination,
                pruned.path,
                Size(pruned.size)
            );
        }
        for absent in &self.absent {
            let _ = writeln!(
                text,
                "{} is not there, and need not be: `gitlab-pi-backup sync` brings it up to date when it is",
                absent.destination
            );
        }
        let seconds = (self.finished_at - self.started_at)
            .to_std()
            .unwrap_or_default();
        let id = self.backup_id.as_deref().unwrap_or("no data backup");
        let _ = match self.status {
            Status::Ok => writeln!(
                text,
                "ok: {id}, all archives stored and verified in {}",
                Span(seconds)
            ),
            Status::DryRun if self.archives.is_empty() => {
                writeln!(text, "dry run: there is nothing to upload")
            }
            Status::DryRun => writeln!(text, "dry run: nothing was changed"),
            Status::Partial if !self.warnings.is_empty() => {
                writeln!(text, "WARNING: {id} is stored, but has shrunk")
            }
            Status::Partial if self.only_after_failed() => {
                writeln!(text, "partial: {id} is stored, but `hooks.after` failed")
            }
            Status::Partial => writeln!(text, "partial: {id} is not at every destination"),
            Status::Failed => writeln!(text, "FAILED: {id}"),
        };
        text
    }
}

impl RunReport {
    /// Whether nothing but the user's own commands after it failed.
    fn only_after_failed(&self) -> bool {
        let mut steps = self.steps.iter();
        steps.any(|step| {
            step.step == Step::After && step.error.is_some() && step.error == self.error
        })
    }
}

impl UploadReport {
    /// For people, in a few words.
    pub fn outcome(&self) -> String {
        match self.status {
            UploadStatus::Uploaded => {
                let resumed = match self.bytes_resumed {
                    0 => String::new(),
                    bytes => format!(" ({} of it by an earlier run)", Size(bytes)),
                };
                format!("uploaded and verified{resumed}, {:.1} s", self.seconds)
            }
            UploadStatus::AlreadyPresent => "already there, the same content".to_owned(),
            UploadStatus::WouldUpload => "would be uploaded".to_owned(),
            UploadStatus::Conflict => "CONFLICT, nothing was touched".to_owned(),
            UploadStatus::Failed => "FAILED".to_owned(),
        }
    }
}
