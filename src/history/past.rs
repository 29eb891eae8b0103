//! What the history tells of runs, rehearsals and exports, as far as it can be understood.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::Value;

use super::{entry, export};
use crate::job::Job;
use crate::projects::report::ExportReport;
use crate::report::RunReport;

/// A run, as it was recorded when it ended. What an older version did not record is empty.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PastRun {
    /// Its name.
    pub run_id: String,
    /// `ok`, `partial`, `failed`.
    pub status: String,
    /// The exit status.
    pub exit: Option<u8>,
    /// When it began.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// Of the data archive that was made or chosen.
    pub backup_id: Option<String>,
    /// What was done, in order.
    pub steps: Vec<PastStep>,
    /// One row for each archive.
    pub archives: Vec<PastArchive>,
    /// One row for each manifest.
    pub manifests: Vec<PastManifest>,
    /// How full the destinations were.
    pub space: Vec<PastSpace>,
    /// What has shrunk, in words.
    pub warnings: Vec<String>,
    /// The first thing that made it fail.
    pub error: Option<String>,
}

/// A step of a run.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PastStep {
    /// Its name.
    pub step: String,
    /// `ok`, `failed`, `skipped`.
    pub status: String,
    /// How long it took.
    pub seconds: f64,
    /// Why it failed.
    pub error: Option<String>,
}

/// An archive of a run.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PastArchive {
    /// `config` or `data`.
    pub kind: String,
    /// Its file name.
    pub name: String,
    /// In bytes.
    pub size: u64,
    /// The time in its name.
    pub created_at: Option<DateTime<Utc>>,
    /// Whether a command of that run made it.
    pub made_by_this_run: bool,
    /// What is wrong with it although it is a whole tar.
    pub doubts: Vec<String>,
    /// One row for each destination.
    pub uploads: Vec<PastUpload>,
}

/// An archive at a destination.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PastUpload {
    /// The destination's name.
    pub destination: String,
    /// Where it was stored there.
    pub path: String,
    /// `uploaded`, `already_present`, `conflict`, `failed`.
    pub status: String,
    /// Bytes that run had acknowledged.
    pub bytes_sent: u64,
    /// Whether the destination reported its hash.
    pub verified: bool,
    /// How long it took.
    pub seconds: f64,
    /// Why it failed.
    pub error: Option<String>,
}

/// The manifest of a backup at a destination.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PastManifest {
    /// The destination's name.
    pub destination: String,
    /// Of which backup.
    pub backup_id: String,
    /// `written`, `unchanged`, `failed`.
    pub status: String,
}

/// How full a destination was when a run began.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PastSpace {
    /// The destination's name.
    pub destination: String,
    /// What still fitted, in bytes; none: it did not say.
    pub free: Option<u64>,
    /// What was taken, also by other files.
    pub used: Option<u64>,
    /// What would have fitted in all.
    pub total: Option<u64>,
}

/// A rehearsal that came to an end.
#[derive(Clone, Debug, Deserialize)]
pub struct PastRehearsal {
    /// Of which backup.
    pub backup_id: String,
    /// Where it was read.
    pub destination: String,
    /// Whether it would have been restorable; none: it could not be read to its end.
    pub restorable: Option<bool>,
    /// When it ended.
    pub finished_at: DateTime<Utc>,
}

/// An export of projects, as it was recorded when it ended.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PastExport {
    /// Its name.
    pub run_id: String,
    /// `ok`, `partial`, `failed`.
    pub status: String,
    /// The exit status.
    pub exit: Option<u8>,
    /// When it began.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// Where the exports went.
    pub destination: String,
    /// What became of the projects.
    pub counts: PastCounts,
    /// What is stored of those that it exported, in bytes.
    pub bytes: u64,
    /// The first projects that failed.
    pub failures: Vec<PastFailure>,
    /// The first things that were not as they should be.
    pub warnings: Vec<String>,
    /// The first thing that made it fail.
    pub error: Option<String>,
}

/// How many projects ended so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PastCounts {
    /// It was stored by this export.
    pub exported: u64,
    /// It had been stored earlier that day.
    pub already_done: u64,
    /// It is not there.
    pub failed: u64,
    /// GitLab lets no one, or not this token, export it.
    pub skipped: u64,
}

impl PastCounts {
    /// With the word of each, as in `--json`.
    pub fn named(&self) -> [(&'static str, u64); 4] {
        [
            ("exported", self.exported),
            ("already_done", self.already_done),
            ("failed", self.failed),
            ("skipped", self.skipped),
        ]
    }

    /// All projects that were selected.
    pub fn all(&self) -> u64 {
        let counts = self.named();
        // A history that was damaged may hold any number.
        counts
            .iter()
            .fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }
}

/// A project that failed.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PastFailure {
    /// With its groups.
    pub path: String,
    /// Why.
    pub error: Option<String>,
}

impl PastExport {
    /// An export that is not recorded yet, as it will be.
    pub fn of(report: &ExportReport) -> Option<PastExport> {
        PastExport::deserialize(export::entry(report)).ok()
    }
}

impl PastRun {
    /// A run that is not recorded yet, as it will be.
    pub fn of(report: &RunReport) -> Option<PastRun> {
        PastRun::deserialize(entry(report).ok()?).ok()
    }
}

/// All runs, the oldest first; what cannot be understood is passed over.
pub fn runs(entries: &[Value]) -> Vec<PastRun> {
    of(entries, Job::Run.command())
}

/// All exports of projects, the oldest first.
pub fn exports(entries: &[Value]) -> Vec<PastExport> {
    of(entries, Job::Projects.command())
}

/// All rehearsals, the oldest first.
pub fn rehearsals(entries: &[Value]) -> Vec<PastRehearsal> {
    of(entries, "rehearse")
}

fn of<T: for<'de> Deserialize<'de>>(entries: &[Value], command: &str) -> Vec<T> {
    entries
        .iter()
        .filter(|entry| entry.get("command").and_then(Value::as_str) == Some(command))
        .filter_map(|entry| T::deserialize(entry).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_recorded_is_understood_and_what_is_not_is_passed_over() {
        let report = RunReport::begin("one".to_owned(), DateTime::UNIX_EPOCH);
        let entries = [
            serde_json::to_value(&report).expect("a report"),
            json!({ "command": "run", "archives": "none" }),
            json!({ "command": "rehearse", "backup_id": "b", "destination": "d", "restorable": null,
                "finished_at": "2023-12-16T20:29:43Z" }),
            json!(7),
        ];
        let (runs, rehearsals) = (runs(&entries), rehearsals(&entries));
        assert_eq!(runs.len(), 1);
        assert_eq!(runs[0].run_id, "one");
        assert_eq!(runs[0].started_at, Some(DateTime::UNIX_EPOCH));
        assert_eq!(rehearsals.len(), 1);
        assert_eq!(rehearsals[0].restorable, None);
        let unrecorded = PastRun::of(&report).expect("a run");
        assert_eq!(
            (unrecorded.run_id.as_str(), unrecorded.exit),
            ("one", Some(1))
        );
    }
}
