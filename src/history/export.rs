//! An export of projects as it is recorded: bounded, whether it was of five projects or of ten thousand, and whatever
//! their names and GitLab's reasons are.

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

use crate::projects::report::{ExportReport, ProjectStatus};

/// Failed projects, and warnings; the rest is only counted.
const MOST: usize = 20;
/// Of a path, a reason, a warning; in bytes. GitLab takes no longer path than this.
const LONGEST: usize = 1_024;

/// What is recorded of it, and told to programs.
pub fn entry(report: &ExportReport) -> Value {
    let time = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Secs, true);
    let of = |status| {
        report
            .projects
            .iter()
            .filter(move |row| row.status == status)
    };
    let exported = of(ProjectStatus::Exported).filter_map(|row| row.size);
    let failures = of(ProjectStatus::Failed).take(MOST).map(|row| {
        let error = row.error.as_deref().map(beginning);
        json!({ "path": beginning(&row.path), "error": error })
    });
    let warnings = report.warnings.iter().take(MOST);
    let warnings: Vec<_> = warnings.map(|warning| beginning(warning)).collect();
    json!({
        "command": report.command,
        "run_id": report.run_id,
        "status": report.status,
        "exit": report.exit_status(),
        "started_at": time(report.started_at),
        "finished_at": time(report.finished_at),
        "destination": report.destination,
        "counts": {
            "exported": report.count(ProjectStatus::Exported),
            "already_done": report.count(ProjectStatus::AlreadyDone),
            "failed": report.count(ProjectStatus::Failed),
            "skipped": report.count(ProjectStatus::Skipped),
        },
        "bytes": exported.fold(0_u64, u64::saturating_add),
        "failures": failures.collect::<Vec<_>>(),
        "pruned_count": report.pruned.len(),
        "warnings": warnings,
        "error": report.error.as_deref().map(beginning),
    })
}

fn beginning(text: &str) -> &str {
    &text[..text.floor_char_boundary(LONGEST)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::past;
    use crate::projects::report::ProjectReport;

    #[test]
    fn a_thousand_projects_are_a_few_lines_and_are_understood_again() {
        let row = |number: u64, status| ProjectReport {
            id: number,
            path: format!("group/{}", "ä".repeat(600)),
            status,
            key: Some("/key".to_owned()),
            size: Some(u64::MAX),
            direct: true,
            seconds: 1.0,
            error: (status == ProjectStatus::Failed).then(|| "why\n  so ".repeat(500)),
        };
        let mut report = ExportReport::begin("e".to_owned(), "s3".to_owned(), DateTime::UNIX_EPOCH);
        let failed = (0..900).map(|number| row(number, ProjectStatus::Failed));
        let others = [
            ProjectStatus::Exported,
            ProjectStatus::Exported,
            ProjectStatus::AlreadyDone,
            ProjectStatus::Skipped,
        ];
        let others = others.map(|status| row(1, status));
        report.projects = failed.chain(others).collect();
        report.warnings = vec!["w".repeat(5_000); 90];
        let report = report.conclude(DateTime::UNIX_EPOCH);
        let entry = entry(&report);
        assert!(entry.to_string().len() < 100_000);
        let (runs, exports) = (
            past::runs(std::slice::from_ref(&entry)),
            past::exports(std::slice::from_ref(&entry)),
        );
        assert!(runs.is_empty());
        let [export] = &exports[..] else {
            panic!("{exports:?}")
        };
        assert_eq!(
            export.counts.named(),
            [
                ("exported", 2),
                ("already_done", 1),
                ("failed", 900),
                ("skipped", 1)
            ]
        );
        assert_eq!((export.counts.all(), export.bytes), (904, u64::MAX));
        assert_eq!((export.failures.len(), export.warnings.len()), (MOST, MOST));
        assert_eq!(export.failures[0].path.len(), LONGEST);
        assert_eq!(
            (export.status.as_str(), export.exit),
            (report.status.as_str(), Some(report.exit_status()))
        );
        assert_eq!(export.started_at, Some(DateTime::UNIX_EPOCH));
    }
}
