//! `notify`

use std::fmt::Write as _;

use chrono::Utc;
use serde::Serialize;

use super::setup::{Failure, on_the_io_thread};
use super::{ExitStatus, USAGE, tell};
use crate::cli::Global;
use crate::cli::upkeep::{NotifyCommand, TestOutcome};
use crate::config;
use crate::job::Job;
use crate::notify::message::Message;
use crate::notify::{Notifier, Settings, Told, crash};
use crate::report::Status;
use crate::schedule::ended;

/// What the health check of exports is called beside the one of runs.
pub(super) const EXPORTS: &str = "projects_healthcheck";

/// Who was told, and who was not.
#[derive(Serialize)]
struct Report {
    command: &'static str,
    status: Status,
    error: Option<String>,
    targets: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    target: &'static str,
    status: &'static str,
    detail: String,
}

/// Tries the notifications, or tells of a run that could not.
pub fn run(global: &Global, command: &NotifyCommand) -> Result<ExitStatus, Failure> {
    let path = config::path(global.config.clone());
    let told = match command {
        NotifyCommand::Test(arguments) => {
            let config = config::load(&path).map_err(|message| (USAGE, message))?;
            let settings = config.notify;
            let exports = config.projects.and_then(|projects| projects.healthcheck);
            if settings.is_empty() && exports.is_none() {
                let hint = "e.g. `healthcheck_url` or `email`; config.example.toml shows them all";
                let message = format!(
                    "nobody is told anything: [notify] in {} names no target\n  {hint}",
                    path.display()
                );
                return Err((USAGE, message));
            }
            let failure = arguments.outcome == TestOutcome::Failure;
            // The other job has a health check of its own; the rest it shares.
            let exports = exports.map(|address| settings.healthcheck_alone(address));
            let mut rows = rows(with(settings, async |notifier, stop| {
                notifier.test(Job::Run, failure, stop).await
            })?);
            if let Some(settings) = exports {
                let told = with(settings, async |notifier, stop| {
                    notifier.test(Job::Projects, failure, stop).await
                })?;
                rows.extend(told.into_iter().map(|told| (EXPORTS, told.result)));
            }
            rows
        }
        NotifyCommand::Crashed(arguments) => {
            let job = if arguments.projects {
                Job::Projects
            } else {
                Job::Run
            };
            let asked = if std::env::var_os("MONITOR_SERVICE_RESULT").is_none() {
                ended(job)
            } else {
                Vec::new()
            };
            let variable = |name: &str| {
                let told = || asked.iter().find(|(known, _)| *known == name);
                std::env::var(name)
                    .ok()
                    .or_else(|| told().map(|(_, value)| value.clone()))
            };
            let settings = config::notify_alone(&path, job);
            match (crash::reason(job, variable), settings) {
                (Some(reason), Some(settings)) => {
                    let message = Message::crashed(job, &reason, Utc::now());
                    rows(with(settings, async |notifier, stop| {
                        notifier.tell(&message, stop).await
                    })?)
                }
                (Some(reason), None) => {
                    let path = path.display();
                    let message =
                        format!("nobody can be told that {reason}: {path} cannot be read");
                    return Err((USAGE, message));
                }
                (None, _) => Vec::new(),
            }
        }
    };
    let report = Report::new(told);
    tell(global, &report, || report.text());
    Ok(report.exit_status())
}

/// The names of those who were told, and what came of it.
type Rows = Vec<(&'static str, Result<String, String>)>;

fn rows(told: Vec<Told>) -> Rows {
    let told = told.into_iter();
    told.map(|told| (told.target.as_str(), told.result))
        .collect()
}

fn with(
    settings: Settings,
    operation: impl AsyncFnOnce(&Notifier, &crate::stop::Stop) -> Vec<Told>,
) -> Result<Vec<Told>, Failure> {
    on_the_io_thread(async |stop, _| Ok(operation(&Notifier::new(settings), &stop).await))
}

impl Report {
    fn new(told: Rows) -> Report {
        let is_well = told.iter().all(|(_, result)| result.is_ok());
        let error = told.iter().find_map(|(_, result)| result.clone().err());
        let row = |(target, result): (&'static str, Result<String, String>)| Row {
            target,
            status: if result.is_ok() { "ok" } else { "failed" },
            detail: result.unwrap_or_else(|error| error),
        };
        Report {
            command: "notify",
            // Nothing has failed but the telling of it, even if nobody could be told.
            status: if is_well { Status::Ok } else { Status::Partial },
            error,
            targets: told.into_iter().map(row).collect(),
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let longest = self.targets.iter().map(|row| row.target.len()).max();
        let width = longest.unwrap_or_default().max(11) + 1;
        for row in &self.targets {
            let status = if row.status == "ok" { "ok" } else { "FAILED" };
            let detail = row.detail.replace('\n', &format!("\n{:1$}", "", width + 6));
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{:<width$}{status:<8}{detail}", row.target);
        }
        text
    }

    fn exit_status(&self) -> ExitStatus {
        if self.status == Status::Ok { 0 } else { 3 }
    }
}
