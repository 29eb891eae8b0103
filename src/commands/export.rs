//! `export`

use std::time::Duration;

use chrono::Utc;

use super::setup::{Failure, Setup};
use super::{ExitStatus, USAGE, complain, tell};
use crate::cli::Global;
use crate::cli::export::{ExportCommand, ExportProjectsArgs};
use crate::projects::{self, Job};

/// Exports what GitLab's API gives.
pub fn run(global: &Global, arguments: &ExportCommand) -> Result<ExitStatus, Failure> {
    match arguments {
        ExportCommand::Projects(arguments) => export_projects(global, arguments),
    }
}

fn export_projects(global: &Global, arguments: &ExportProjectsArgs) -> Result<ExitStatus, Failure> {
    let mut loaded = Setup::load_or_environment(global)?;
    let encryption = Setup::encryption(&loaded.0)?;
    let Some(settings) = loaded.0.projects.take() else {
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
        let _lock = if arguments.dry_run {
            None
        } else {
            Some(setup.lock(wait).await?)
        };
        let job = Job {
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
        let run_id = super::run::run_id(now);
        Ok(projects::export(&job, run_id, now).await)
    })?;
    tell(global, &report, || report.text());
    if let Some(error) = &report.error {
        complain(error);
    }
    Ok(report.exit_status())
}
