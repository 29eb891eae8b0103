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
            let settings = config::load(&path)
                .map_err(|message| (USAGE, message))?
                .notify;
            if settings.is_empty() {
                let hint = "e.g. `healthcheck_url` or `email`; config.example.toml shows them all";
                let message = format!(
                    "nobody is told anything: [notify] in {} names no target\n  {hint}",
                    path.display()
                );
                return Err((USAGE, message));
            }
            let failure = arguments.outcome == TestOutcome::Failure;
            with(settings, async |notifier, stop| {
                notifier.test(failure, stop).await
            })?
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
                    with(settings, async |notifier, stop| {
                        notifier.tell(&message, stop).await
                    })?
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
    let report = Report::new(&told);
    tell(global, &report, || report.text());
    Ok(report.exit_status())
}

fn with(
    settings: Settings,
    operation: impl AsyncFnOnce(&Notifier, &crate::stop::Stop) -> Vec<Told>,
) -> Result<Vec<Told>, Failure> {
    on_the_io_thread(async |stop, _| Ok(operation(&Notifier::new(settings), &stop).await))
}

impl Report {
    fn new(told: &[Told]) -> Report {
        let row = |told: &Told| Row {
            target: told.target.as_str(),
            status: if told.result.is_ok() { "ok" } else { "failed" },
            detail: told.result.clone().unwrap_or_else(|error| error),
        };
        let is_well = told.iter().all(|told| told.result.is_ok());
        Report {
            command: "notify",
            // Nothing has failed but the telling of it, even if nobody could be told.
            status: if is_well { Status::Ok } else { Status::Partial },
            error: told.iter().find_map(|told| told.result.clone().err()),
            targets: told.iter().map(row).collect(),
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for row in &self.targets {
            let status = if row.status == "ok" { "ok" } else { "FAILED" };
            let detail = row.detail.replace('\n', "\n                  ");
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{:<12}{status:<8}{detail}", row.target);
        }
        text
    }

    fn exit_status(&self) -> ExitStatus {
        if self.status == Status::Ok { 0 } else { 3 }
    }
}
