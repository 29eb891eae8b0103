//! What an import did: the shape of `--json`, its text, and the exit status.

use std::fmt::Write as _;

use serde::Serialize;

use super::Halt;
use super::find::Stored;
use super::spool::Fetched;
use crate::error::printable;
use crate::gitlab::api::imports::{FailedRelation, Import, ImportStatus};
use crate::report::Status;
use crate::restore::report::{ArchiveStatus, StepStatus};
use crate::units::Size;

/// So many failures are told as text; all of them are in the JSON.
const MOST_LINES: usize = 20;

/// The whole of an import.
#[derive(Debug, Serialize)]
pub struct ImportReport {
    /// Always `restore`.
    pub command: &'static str,
    /// The outcome: `ok`, `partial` if some of the project could not be imported, or `failed`.
    pub status: Status,
    /// The version of GitLab that made the export, as far as it tells.
    pub gitlab_version: Option<String>,
    /// Where the export is stored.
    pub destination: String,
    /// The one export.
    pub archives: Vec<ImportedArchive>,
    /// What was done, in order.
    pub steps: Vec<StepRow>,
    /// What became of it.
    pub project: ImportedProject,
    /// What made it fail.
    pub error: Option<String>,
    #[serde(skip)]
    exit: u8,
}

/// The export.
#[derive(Debug, Serialize)]
pub struct ImportedArchive {
    /// Always `project`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// Where it is stored, below the root of the destination.
    pub path: String,
    /// Of what is stored; once it is fetched, of what GitLab made. In bytes.
    pub size: u64,
    /// Whether it was read to its end and found whole.
    pub verified: bool,
    /// Whether it was fetched, or sent by an earlier call.
    pub status: ArchiveStatus,
    /// Bytes that this call fetched.
    pub bytes_fetched: u64,
    /// Bytes that an earlier call had fetched.
    pub bytes_resumed: u64,
}

/// A project, where it came from and what became of it.
#[derive(Debug, Serialize)]
pub struct ImportedProject {
    /// Whose export it is.
    pub from: String,
    /// What it becomes.
    pub to: String,
    /// Its number in GitLab, once there is one.
    pub id: Option<u64>,
    /// How far GitLab is with it, in GitLab's word.
    pub import_status: Option<ImportStatus>,
    /// What of it GitLab could not import.
    pub failed_relations: Vec<FailedRelation>,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// The export is looked for.
    Find,
    /// The place is looked at: its namespace is there, and nothing has its name.
    Look,
    /// The export is brought here and proved.
    Fetch,
    /// It is sent to GitLab.
    Upload,
    /// GitLab makes a project of it.
    Import,
}

/// A step and what came of it.
#[derive(Debug, Serialize)]
pub struct StepRow {
    /// Which one.
    pub step: Step,
    /// What came of it.
    pub status: StepStatus,
    /// Why it failed.
    pub error: Option<String>,
}

impl ImportReport {
    pub(super) fn begin(destination: &str, from: &str, to: &str) -> ImportReport {
        ImportReport {
            command: "restore",
            status: Status::Failed,
            gitlab_version: None,
            destination: destination.to_owned(),
            archives: Vec::new(),
            steps: Vec::new(),
            project: ImportedProject {
                from: from.to_owned(),
                to: to.to_owned(),
                id: None,
                import_status: None,
                failed_relations: Vec::new(),
            },
            error: None,
            exit: 1,
        }
    }

    /// Notes what is imported.
    pub(super) fn describe(&mut self, stored: &Stored) {
        let name = stored.path.rsplit('/').next().unwrap_or_default();
        self.archives = vec![ImportedArchive {
            kind: "project",
            name: name.to_owned(),
            path: stored.path.clone(),
            size: stored.size,
            verified: false,
            status: ArchiveStatus::Planned,
            bytes_fetched: 0,
            bytes_resumed: 0,
        }];
    }

    /// An earlier call has done everything up to sending it.
    pub(super) fn resumed(&mut self) {
        for step in [Step::Find, Step::Look, Step::Fetch, Step::Upload] {
            self.step(step);
            self.end(StepStatus::DoneBefore);
        }
        for archive in &mut self.archives {
            // It would not have been sent otherwise.
            archive.verified = true;
            archive.status = ArchiveStatus::AlreadyPresent;
        }
    }

    pub(super) fn fetched(&mut self, fetched: &Fetched) {
        self.gitlab_version
            .clone_from(&fetched.export.gitlab_version);
        for archive in &mut self.archives {
            archive.size = fetched.size;
            archive.verified = true;
            archive.status = ArchiveStatus::Fetched;
            archive.bytes_resumed = fetched.resumed;
            archive.bytes_fetched = fetched.size - fetched.resumed;
        }
    }

    /// Notes how far GitLab is.
    pub(super) fn followed(&mut self, import: &Import) {
        self.project.import_status = Some(import.import_status);
        let failed = import.failed_relations.clone();
        self.project.failed_relations = failed.unwrap_or_default();
    }

    /// A step begins.
    pub(super) fn step(&mut self, step: Step) {
        self.steps.push(StepRow {
            step,
            status: StepStatus::Failed,
            error: None,
        });
    }

    /// The step that was begun last is done.
    pub(super) fn done(&mut self) {
        self.end(StepStatus::Ok);
    }

    fn end(&mut self, status: StepStatus) {
        if let Some(row) = self.steps.last_mut() {
            row.status = status;
        }
    }

    /// Decides status, error and exit status.
    pub(super) fn conclude(mut self, result: Result<(), Halt>) -> ImportReport {
        let failed = self.project.failed_relations.len();
        (self.status, self.exit, self.error) = match result {
            Ok(()) if failed > 0 => {
                let error = format!(
                    "importing the project {}: GitLab could not import {failed} of its relations\n  \
                     the project is there without them; GitLab's log says more (`importer.log`)",
                    self.project.to
                );
                (Status::Partial, 3, Some(error))
            }
            Ok(()) => (Status::Ok, 0, None),
            Err(Halt::Failed(error) | Halt::Later(error)) => (Status::Failed, 1, Some(error)),
            Err(Halt::Stopped(signal)) => {
                let error = format!(
                    "stopped by {}; what was fetched and sent is kept: the same command goes on from there",
                    signal.name()
                );
                (Status::Failed, signal.exit_status(), Some(error))
            }
        };
        if let Some(row) = self.steps.last_mut()
            && row.status == StepStatus::Failed
        {
            row.error.clone_from(&self.error);
        }
        self
    }

    /// The exit status of the program.
    pub fn exit_status(&self) -> u8 {
        self.exit
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let project = &self.project;
        for archive in &self.archives {
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "{}:{}  {}",
                self.destination,
                printable(&archive.path),
                Size(archive.size)
            );
        }
        if let (Some(id), Some(_)) = (project.id, project.import_status) {
            let _ = writeln!(
                text,
                "{} is {} in GitLab: project {id}, {}",
                printable(&project.from),
                printable(&project.to),
                self.import_status()
            );
        }
        for failed in project.failed_relations.iter().take(MOST_LINES) {
            let line = failed.line_number.map(|line| format!(", line {line}"));
            // GitLab keeps the message to itself in most versions.
            let why = [&failed.exception_class, &failed.exception_message];
            let why: Vec<_> = why
                .into_iter()
                .flatten()
                .map(|why| printable(why))
                .collect();
            let _ = writeln!(
                text,
                "not imported: {}{}: {}",
                printable(failed.relation_name.as_deref().unwrap_or("something")),
                line.unwrap_or_default(),
                why.join(": ")
            );
        }
        let more = project.failed_relations.len().saturating_sub(MOST_LINES);
        if more > 0 {
            let _ = writeln!(text, "and {more} more: --json tells them all");
        }
        text
    }

    /// In GitLab's word.
    pub(super) fn import_status(&self) -> &'static str {
        match self.project.import_status {
            None | Some(ImportStatus::None) => "none",
            Some(ImportStatus::Scheduled) => "scheduled",
            Some(ImportStatus::Started) => "started",
            Some(ImportStatus::Finished) => "finished",
            Some(ImportStatus::Failed) => "failed",
            Some(ImportStatus::Canceled) => "canceled",
            Some(ImportStatus::Other) => "in a state this program does not know",
        }
    }
}
