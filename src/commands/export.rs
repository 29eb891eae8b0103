//! `export`

use std::time::Duration;

use chrono::Utc;

use super::setup::{Failure, Setup};
use super::{ExitStatus, USAGE, complain, job, tell};
use crate::cli::Global;
use crate::cli::export::{ExportCommand, ExportProjectsArgs};
use crate::job::Job;
use crate::logging::Tail;
use crate::projects;

/// Exports what GitLab's API gives.
pub fn run(global: &Global, arguments: &ExportCommand, log: &Tail) -> Result<ExitStatus, Failure> {
    match arguments {
        ExportCommand::Projects(arguments) => export_projects(global, arguments, log),
    }
}

fn export_projects(
    global: &Global,
    arguments: &ExportProjectsArgs,
    log: &Tail,
) -> Result<ExitStatus, Failure> {
    let loaded = Setup::load_or_environment(global)?;
    let encryption = Setup::encryption(&loaded.0)?;
    let Some(settings) = loaded.0.projects.clone() else {
        return Err((
            USAGE,
            "the configuration has no [projects]\n  \
             give it that table, with `destination` and `groups`, as config.example.toml shows"
                .to_owned(),
        ));
    };
    let api = Setup::gitlab_api(&loaded.0)?.limited(settings.export_limit, settings.download_limit);
    let wait = arguments.wait.map_or(Duration::ZERO, |wait| wait.0);
    let report = Setup::carry_out(global, loaded, async |setup| {
        let mut places = setup.destinations.iter();
        let Some(destination) = places.find(|place| place.name() == settings.destination) else {
            return Err((
                USAGE,
                "`projects.destination` names no destination".to_owned(),
            ));
        };
        let notifier = job::notifier(&setup, Job::Projects);
        let _lock = if arguments.dry_run {
            None
        } else {
            let of = (Job::Projects, &notifier);
            Some(job::lock(&setup, of, wait, log).await?)
        };
        let parts = projects::Job {
            settings: &settings,
            api: &api,
            gitlab_is_here: projects::capacity::is_here(&api, &setup.gitlab.install_dir),
            destination,
            encryption: encryption.as_ref(),
            retention: setup.retention.as_ref(),
            shrink: setup.guard.shrink,
            upload: &setup.upload,
            state: &setup.state,
            show: setup.show,
            stop: &setup.stop,
            dry_run: arguments.dry_run,
        };
        let now = Utc::now();
        let id = job::run_id(now);
        let exporting = projects::export(&parts, id.clone(), now);
        if arguments.dry_run {
            return Ok(exporting.await);
        }
        let mut report = job::carry_out(&notifier, &id, exporting).await;
        job::export_ended(&setup, &notifier, &mut report, log).await;
        Ok(report)
    })?;
    tell(global, &report, || report.text());
    if let Some(error) = &report.error {
        complain(error);
    }
    Ok(report.exit_status())
}
