//! What came of an export: the shape of `--json`, and the exit status that follows from it alone.

mod text;

use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer};

use crate::report::{Pruned, Status, rfc3339};
use crate::stop::StopSignal;

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
    /// The signal that stopped it.
    #[serde(skip)]
    pub stopped: Option<StopSignal>,
    /// Whether nothing was to be done.
    #[serde(skip)]
    pub dry_run: bool,
    #[serde(skip)]
    exit: u8,
}

/// A project, and what became of its export.
#[derive(Clone, Debug, Serialize)]
pub struct ProjectReport {
    /// Its number in GitLab; 0, in JSON null, if GitLab knows no such project.
    #[serde(serialize_with = "unless_zero")]
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
            stopped: None,
            dry_run: false,
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

    /// Settles the outcome. It follows from the rows, the error, the signal, and from nothing else.
    #[must_use]
    pub fn conclude(mut self, finished_at: DateTime<Utc>) -> ExportReport {
        self.finished_at = finished_at;
        let done = self.count(ProjectStatus::Exported)
            + self.count(ProjectStatus::AlreadyDone)
            + self.count(ProjectStatus::WouldExport);
        let failed = self.count(ProjectStatus::Failed);
        let skipped = self.count(ProjectStatus::Skipped);
        if let Some(signal) = self.stopped {
            (self.status, self.exit) = (Status::Failed, signal.exit_status());
            self.error = Some(format!(
                "stopped by {}; what was exported is kept, and the next `export projects` goes on",
                signal.name()
            ));
            return self;
        }
        // In a dry run a project that cannot be exported is a finding, and no failure.
        (self.status, self.exit) = match (self.dry_run, &self.error) {
            (true, None) => (Status::DryRun, 0),
            (false, None) if done > 0 && failed == 0 => (Status::Ok, 0),
            _ if done > 0 => (Status::Partial, 3),
            _ => (Status::Failed, 1),
        };
        if self.exit != 0 && self.error.is_none() {
            self.error = Some(self.first_failure(failed, skipped));
        }
        self
    }

    fn first_failure(&self, failed: usize, skipped: usize) -> String {
        let first = |status| {
            let mut rows = self.projects.iter().filter(move |row| row.status == status);
            let row = rows.next()?;
            let reason = row.error.as_deref().unwrap_or("no reason is known");
            Some(format!("{}: {reason}", row.path))
        };
        let (status, count, what) = match (failed, skipped) {
            (0, 0) => {
                return "no project is selected\n  \
                    `export projects --dry-run` tells what `projects.groups`, `projects` and `all` find"
                    .to_owned();
            }
            (0, _) => (ProjectStatus::Skipped, skipped, "skipped"),
            _ => (ProjectStatus::Failed, failed, "failed"),
        };
        let first = first(status).unwrap_or_default();
        match count {
            1 => first,
            _ => format!("{count} projects {what}, the first: {first}"),
        }
    }
}

/// GitLab counts from 1.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn unless_zero<S: Serializer>(id: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    Some(*id).filter(|id| *id > 0).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(path: &str, status: ProjectStatus) -> ProjectReport {
        ProjectReport {
            id: 7,
            path: path.to_owned(),
            status,
            key: Some(format!("/{path}/2026-11-22-04-00-00.tar.gz")),
            size: Some(1 << 20),
            direct: true,
            seconds: 1.0,
            error: matches!(status, ProjectStatus::Failed | ProjectStatus::Skipped)
                .then(|| "GitLab says no\n  ask it nicely".to_owned()),
        }
    }

    fn report(rows: &str) -> ExportReport {
        let mut report =
            ExportReport::begin("id".to_owned(), "s3".to_owned(), DateTime::UNIX_EPOCH);
        for (n, letter) in rows.chars().enumerate() {
            let status = match letter {
                'e' => ProjectStatus::Exported,
                'a' => ProjectStatus::AlreadyDone,
                'w' => ProjectStatus::WouldExport,
                'f' => ProjectStatus::Failed,
                _ => ProjectStatus::Skipped,
            };
            report.projects.push(row(&format!("group/p{n}"), status));
        }
        report
    }

    /// The table of outcomes: rows, error, signal, dry run, and what follows.
    #[test]
    fn the_exit_status_follows_from_the_report() {
        use Status::{DryRun, Failed, Ok, Partial};
        let term = Some(StopSignal::Terminate);
        for (rows, error, stopped, dry_run, status, exit) in [
            ("eee", false, None, false, Ok, 0),
            ("eas", false, None, false, Ok, 0),
            ("aa", false, None, false, Ok, 0),
            ("eef", false, None, false, Partial, 3),
            ("af", false, None, false, Partial, 3),
            ("ee", true, None, false, Partial, 3),
            ("ff", false, None, false, Failed, 1),
            ("fs", false, None, false, Failed, 1),
            ("ss", false, None, false, Failed, 1),
            ("", false, None, false, Failed, 1),
            ("", true, None, false, Failed, 1),
            ("f", true, None, false, Failed, 1),
            ("ee", false, term, false, Failed, 143),
            ("", true, Some(StopSignal::Interrupt), false, Failed, 130),
            ("wwaf", false, None, true, DryRun, 0),
            ("", false, None, true, DryRun, 0),
            ("f", false, None, true, DryRun, 0),
            ("ww", true, None, true, Partial, 3),
            ("", true, None, true, Failed, 1),
        ] {
            let mut report = report(rows);
            report.error = error.then(|| "no such group".to_owned());
            (report.stopped, report.dry_run) = (stopped, dry_run);
            let report = report.conclude(DateTime::UNIX_EPOCH);
            let found = (report.status, report.exit_status());
            assert_eq!(
                found,
                (status, exit),
                "{rows} {error} {stopped:?} {dry_run}"
            );
            assert_eq!(
                report.error.is_some(),
                exit != 0,
                "{rows}: {:?}",
                report.error
            );
        }
    }

    #[test]
    fn a_thousand_failures_take_few_lines_and_json_tells_them_all() {
        let mut report = report(&"efs".repeat(400));
        report.warnings = vec!["one\n  two".to_owned(); 9];
        let pruned = || Pruned {
            destination: "s3".to_owned(),
            path: "/x".to_owned(),
            size: 1,
        };
        report.pruned = vec![pruned(), pruned()];
        let report = report.conclude(DateTime::UNIX_EPOCH);
        let text = report.text();
        assert!(text.lines().count() <= 15, "{text}");
        assert!(
            text.contains("FAILED  group/p1: GitLab says no\n"),
            "{text}"
        );
        assert!(
            text.contains("skipped and 396 more; --json tells of each\n"),
            "{text}"
        );
        let last = "partial: 400 exported (400.0 MiB), 400 skipped, 400 failed to s3, in 0s\n";
        assert!(text.ends_with(last), "{text}");
        let json = serde_json::to_value(&report).expect("JSON");
        assert_eq!(json["projects"].as_array().map(Vec::len), Some(1_200));
        let error = report.error.unwrap_or_default();
        assert!(
            error.starts_with("400 projects failed, the first: group/p1: "),
            "{error}"
        );
    }

    #[test]
    fn a_good_run_takes_a_line_and_a_dry_run_one_for_each_project() {
        let good = report(&"e".repeat(60)).conclude(DateTime::UNIX_EPOCH);
        assert_eq!(good.text(), "ok: 60 exported (60.0 MiB) to s3, in 0s\n");
        let mut dry = report("waf");
        dry.dry_run = true;
        dry.projects[0].direct = false;
        let dry = dry.conclude(DateTime::UNIX_EPOCH);
        let key = |n| format!("group/p{n} -> /group/p{n}/2026-11-22-04-00-00.tar.gz  ");
        let expected = format!(
            "{}through this machine\n{}already done today\n{}CANNOT BE EXPORTED: GitLab says no\n\
             dry run: 1 would be exported, 1 already done today, 1 failed to s3; nothing was changed\n",
            key(0),
            key(1),
            key(2)
        );
        assert_eq!(dry.text(), expected);
    }

    #[test]
    fn a_project_that_gitlab_does_not_know_has_no_number() {
        let mut unknown = row("group/gone", ProjectStatus::Failed);
        unknown.id = 0;
        let json = serde_json::to_value(unknown).expect("JSON");
        assert!(json["id"].is_null(), "{json}");
    }
}
