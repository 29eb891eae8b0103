//! What extracting did: the shape of `--json`, and its text.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde::Serialize;

use crate::error::printable;
use crate::gitlab::layout::RepositoryKind;
use crate::report::Status;
use crate::units::Size;

/// The whole of an extraction.
#[derive(Debug, Serialize)]
pub struct ExtractReport {
    /// Always `extract`.
    pub command: &'static str,
    /// The outcome: `ok` or `failed`.
    pub status: Status,
    /// GitLab's ID of the backup.
    pub backup_id: String,
    /// Where it is stored.
    pub destination: String,
    /// The project's path, or its disk path where nobody knows more.
    pub project: String,
    /// What was made, the code first.
    pub repositories: Vec<ExtractedRepository>,
    /// Bytes that came from the destination for it.
    pub bytes_downloaded: u64,
    /// What made it fail.
    pub error: Option<String>,
}

/// A repository that was made.
#[derive(Debug, Serialize)]
pub struct ExtractedRepository {
    /// Which of the project's.
    pub kind: RepositoryKind,
    /// Where it is on this machine.
    pub path: PathBuf,
    /// The first of the archive's members that it was made of.
    pub member: Option<String>,
    /// How many references it has, HEAD not counted.
    pub refs: u64,
    /// What was fetched for it, in bytes.
    pub bytes: u64,
}

/// What can be had.
#[derive(Debug, Serialize)]
pub struct ListReport {
    /// Always `extract`.
    pub command: &'static str,
    /// The outcome: `ok` or `failed`.
    pub status: Status,
    /// GitLab's ID of the backup.
    pub backup_id: String,
    /// Where it is stored.
    pub destination: String,
    /// By their paths; those that no project is known of at the end.
    pub projects: Vec<ListedProject>,
    /// Bytes that came from the destination for it.
    pub bytes_downloaded: u64,
    /// What made it fail.
    pub error: Option<String>,
}

/// The repositories of one project.
#[derive(Debug, Serialize)]
pub struct ListedProject {
    /// With its groups; none where the database does not know.
    pub path: Option<String>,
    /// The folder of its repository.
    pub hashed: String,
    /// Of all its repositories in the archive, in bytes.
    pub size: u64,
    /// Whether there is code.
    pub repository: bool,
    /// Whether there is a wiki.
    pub wiki: bool,
    /// Whether there are designs.
    pub design: bool,
}

impl ExtractReport {
    pub(super) fn new(backup_id: &str, destination: &str, project: &str) -> ExtractReport {
        ExtractReport {
            command: "extract",
            status: Status::Failed,
            backup_id: backup_id.to_owned(),
            destination: destination.to_owned(),
            project: project.to_owned(),
            repositories: Vec::new(),
            bytes_downloaded: 0,
            error: None,
        }
    }

    pub(super) fn succeed(mut self) -> ExtractReport {
        self.status = Status::Ok;
        self
    }

    /// Nothing has its name then.
    pub(super) fn fail(mut self, error: String) -> ExtractReport {
        self.repositories.clear();
        self.error = Some(error);
        self
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for repository in &self.repositories {
            let refs = match repository.refs {
                0 => "empty".to_owned(),
                1 => "1 reference".to_owned(),
                refs => format!("{refs} references"),
            };
            // Writing to a string cannot fail, here and below.
            let _ = writeln!(
                text,
                "{:<10} {}  {refs}, {} fetched",
                repository.kind.as_str(),
                repository.path.display(),
                Size(repository.bytes)
            );
        }
        let project = printable(&self.project);
        let (id, place) = (&self.backup_id, &self.destination);
        let _ = match (self.status, self.repositories.first()) {
            (Status::Ok, Some(first)) => writeln!(
                text,
                "ok: {project} of {id} at {place}; work with it: git clone {}",
                first.path.display()
            ),
            _ => writeln!(text, "FAILED: {project} of {id} at {place}"),
        };
        text
    }
}

impl ListReport {
    pub(super) fn new(backup_id: &str, destination: &str) -> ListReport {
        ListReport {
            command: "extract",
            status: Status::Failed,
            backup_id: backup_id.to_owned(),
            destination: destination.to_owned(),
            projects: Vec::new(),
            bytes_downloaded: 0,
            error: None,
        }
    }

    pub(super) fn succeed(mut self, projects: Vec<ListedProject>) -> ListReport {
        self.status = Status::Ok;
        self.projects = projects;
        self
    }

    pub(super) fn fail(mut self, error: String) -> ListReport {
        self.error = Some(error);
        self
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let name = |project: &ListedProject| {
            let path = project.path.clone();
            path.unwrap_or_else(|| project.hashed.clone())
        };
        let longest = self
            .projects
            .iter()
            .map(|project| name(project).chars().count())
            .max();
        let width = longest.unwrap_or(0).min(60);
        for project in &self.projects {
            let has = [
                (project.repository, "repository"),
                (project.wiki, "wiki"),
                (project.design, "design"),
            ];
            let has: Vec<_> = has
                .iter()
                .filter(|(has, _)| *has)
                .map(|(_, what)| *what)
                .collect();
            let has = if has.is_empty() {
                "empty".to_owned()
            } else {
                has.join(", ")
            };
            let size = Size(project.size).to_string();
            // Writing to a string cannot fail, here and below.
            let _ = writeln!(text, "{:<width$}  {size:>10}  {has}", name(project));
        }
        let (id, place) = (&self.backup_id, &self.destination);
        let _ = match self.status {
            Status::Ok => writeln!(text, "{} projects in {id} at {place}", self.projects.len()),
            _ => writeln!(text, "FAILED: {id} at {place}"),
        };
        text
    }
}
