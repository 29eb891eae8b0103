//! The report of an export for people.

use std::fmt::Write as _;

use super::{ExportReport, ProjectReport, ProjectStatus};
use crate::report::Status;
use crate::units::{Size, Span};

/// So many projects that failed, or were skipped, are named; of a thousand that fail alike nobody reads more.
const NAMED: usize = 4;
/// So many warnings are told; all of them stand in the log.
const WARNINGS: usize = 2;

impl ExportReport {
    /// For people: at most fifteen lines, but of a dry run one for each project.
    pub fn text(&self) -> String {
        let mut text = String::new();
        if self.dry_run {
            for row in &self.projects {
                text += &row.planned();
            }
        } else {
            self.tell(ProjectStatus::Failed, "FAILED", &mut text);
            self.tell(ProjectStatus::Skipped, "skipped", &mut text);
        }
        for warning in self.warnings.iter().take(WARNINGS) {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "warning: {}", first_line(warning));
        }
        if let more @ 1.. = self.warnings.len().saturating_sub(WARNINGS) {
            let _ = writeln!(text, "warning: and {more} more; --json tells of each");
        }
        if !self.pruned.is_empty() {
            let size = self.pruned.iter().map(|pruned| pruned.size).sum();
            let _ = writeln!(
                text,
                "pruned {} of {}",
                exports(self.pruned.len()),
                Size(size)
            );
        }
        let _ = writeln!(text, "{}", self.last_line());
        text
    }

    /// Names the projects that ended so, as far as somebody would read them.
    fn tell(&self, status: ProjectStatus, word: &str, text: &mut String) {
        let rows = self.projects.iter().filter(|row| row.status == status);
        let rows: Vec<_> = rows.collect();
        for row in rows.iter().take(NAMED) {
            let _ = writeln!(text, "{word:<7} {}: {}", row.path, row.reason());
        }
        if let more @ 1.. = rows.len().saturating_sub(NAMED) {
            let _ = writeln!(text, "{word:<7} and {more} more; --json tells of each");
        }
    }

    fn last_line(&self) -> String {
        let count = |status| self.count(status);
        let stored = count(ProjectStatus::Exported);
        let earlier = count(ProjectStatus::AlreadyDone);
        let mut parts = Vec::new();
        if self.dry_run {
            parts.push(format!(
                "{} would be exported",
                count(ProjectStatus::WouldExport)
            ));
        } else {
            let rows = self.projects.iter();
            let new = rows.filter(|row| row.status == ProjectStatus::Exported);
            let size = new.filter_map(|row| row.size).sum();
            parts.push(format!("{stored} exported ({})", Size(size)));
        }
        for (count, word) in [
            (earlier, "already done today"),
            (count(ProjectStatus::Skipped), "skipped"),
            (count(ProjectStatus::Failed), "failed"),
        ] {
            if count > 0 {
                parts.push(format!("{count} {word}"));
            }
        }
        let counts = format!("{} to {}", parts.join(", "), self.destination);
        let took = (self.finished_at - self.started_at).to_std();
        let took = Span(took.unwrap_or_default());
        match self.status {
            Status::Ok => format!("ok: {counts}, in {took}"),
            Status::DryRun if self.projects.is_empty() => {
                "dry run: no project is selected".to_owned()
            }
            Status::DryRun => format!("dry run: {counts}; nothing was changed"),
            Status::Partial => format!("partial: {counts}, in {took}"),
            Status::Failed => format!("FAILED: {counts}"),
        }
    }
}

impl ProjectReport {
    /// A line of a dry run.
    fn planned(&self) -> String {
        let key = self.key.as_deref().unwrap_or_default();
        let outcome = match self.status {
            ProjectStatus::WouldExport if self.direct => "by GitLab itself".to_owned(),
            ProjectStatus::WouldExport => "through this machine".to_owned(),
            ProjectStatus::AlreadyDone | ProjectStatus::Exported => "already done today".to_owned(),
            ProjectStatus::Failed => format!("CANNOT BE EXPORTED: {}", self.reason()),
            ProjectStatus::Skipped => format!("would be skipped: {}", self.reason()),
        };
        if key.is_empty() {
            format!("{}  {outcome}\n", self.path)
        } else {
            format!("{} -> {key}  {outcome}\n", self.path)
        }
    }

    fn reason(&self) -> &str {
        self.error
            .as_deref()
            .map_or("no reason is known", first_line)
    }
}

/// What comes below says how to mend it; the first error is told whole at the end.
fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

fn exports(count: usize) -> String {
    if count == 1 {
        "an export".to_owned()
    } else {
        format!("{count} exports")
    }
}
