//! What came of an export: the shape of `--json`, and the exit status that follows from it alone.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::report::{Pruned, Status, rfc3339};

/// The whole of an export.
#[derive(Debug, Serialize)]
pub struct ExportReport {
    /// Always `export projects`.
    pub command: &'static str,
    /// Names it in the history.
    pub run_id: String,
    /// The outcome.
    pub status: Status,
    /// When it began.
    #[serde(serialize_with = "rfc3339")]
    pub started_at: DateTime<Utc>,
    /// When it ended.
    #[serde(serialize_with = "rfc3339")]
    pub finished_at: DateTime<Utc>,
    /// Where the exports go.
    pub destination: String,
    /// One row for each project that is selected, in the order of their paths.
    pub projects: Vec<ProjectReport>,
    /// What retention deleted.
    pub pruned: Vec<Pruned>,
    /// What is not as it should be, and no failure of one project.
    pub warnings: Vec<String>,
    /// The first thing that made it fail.
    pub error: Option<String>,
    #[serde(skip)]
    exit: u8,
}

/// A project, and what became of its export.
#[derive(Clone, Debug, Serialize)]
pub struct ProjectReport {
    /// Its number in GitLab.
    pub id: u64,
    /// With its groups: `group/app`.
    pub path: String,
    /// What became of it.
    pub status: ProjectStatus,
    /// Where the export is stored, or would be, below the root of the destination.
    pub key: Option<String>,
    /// Of what is stored, in bytes.
    pub size: Option<u64>,
    /// Whether GitLab sent it there by itself.
    pub direct: bool,
    /// How long it took.
    pub seconds: f64,
    /// Why it failed, or was skipped.
    pub error: Option<String>,
}

/// What became of a project's export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProjectStatus {
    /// It is stored, and was looked at there.
    Exported,
    /// It was stored earlier today, and is there.
    AlreadyDone,
    /// A dry run: it would be exported.
    WouldExport,
    /// It is not there.
    Failed,
    /// GitLab lets no one, or not this token, export it.
    Skipped,
}

impl ExportReport {
    /// An empty report.
    pub fn begin(run_id: String, destination: String, started_at: DateTime<Utc>) -> ExportReport {
        ExportReport {
            command: "export projects",
            run_id,
            status: Status::Failed,
            started_at,
            finished_at: started_at,
            destination,
            projects: Vec::new(),
            pruned: Vec::new(),
            warnings: Vec::new(),
            error: None,
            exit: 1,
        }
    }

    /// The exit status of the program.
    pub fn exit_status(&self) -> u8 {
        self.exit
    }

    /// How many projects ended so.
    pub fn count(&self, status: ProjectStatus) -> usize {
        let rows = self.projects.iter();
        rows.filter(|row| row.status == status).count()
    }

    /// Settles the outcome.
    #[must_use]
    pub fn conclude(mut self, finished_at: DateTime<Utc>) -> ExportReport {
        let failed = self.count(ProjectStatus::Failed);
        (self.status, self.exit) = match (failed, &self.error) {
            (0, None) => (Status::Ok, 0),
            (_, None) => (Status::Partial, 3),
            (_, Some(_)) => (Status::Failed, 1),
        };
        self.finished_at = finished_at;
        self
    }
}
