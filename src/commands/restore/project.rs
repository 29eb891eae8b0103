//! `restore --project`

use std::time::Duration;

use chrono::Utc;

use super::super::identity::identities;
use super::super::setup::{Failure, Setup};
use super::super::{ExitStatus, USAGE, complain, tell};
use crate::cli::{Global, RestoreArgs};
use crate::projects::import::{Job, Wanted, import};

/// Imports the stored export of a project.
pub fn run(global: &Global, arguments: &RestoreArgs, project: &str) -> Result<ExitStatus, Failure> {
    let wanted = Wanted::parse(arguments.backup.as_deref()).map_err(|why| (USAGE, why))?;
    let mut loaded = Setup::load_or_environment(global)?;
    let Some(settings) = loaded.0.projects.take() else {
        let message = "restoring a project: the configuration has no [projects]\n  \
            give it that table, with the `destination` that its exports are at, as config.example.toml shows";
        return Err((USAGE, message.to_owned()));
    };
    let api = Setup::gitlab_api(&loaded.0)?;
    let at = arguments.destination.as_ref();
    let at = at.unwrap_or(&settings.destination).clone();
    let wait = arguments.wait.map_or(Duration::ZERO, |wait| wait.0);
    let report = Setup::carry_out(global, loaded, async |setup| {
        let mut places = setup.destinations.iter();
        let Some(destination) = places.find(|place| place.name() == at) else {
            let known = setup.selected.join(", ");
            let message =
                format!("no destination is named `{at}`\n  the configuration knows: {known}");
            return Err((USAGE, message));
        };
        let identities = identities(arguments.identity.as_deref(), &setup.stop).await?;
        let _lock = setup.lock(wait).await?;
        let job = Job {
            api: &api,
            destination,
            name: &settings.name,
            project,
            to: arguments.new_path.as_deref().unwrap_or(project),
            wanted,
            identities: identities.as_ref(),
            state: &setup.state,
            upload: &setup.upload,
            limit: settings.import_limit,
            timeout: settings.timeout,
            show: setup.show,
            stop: &setup.stop,
        };
        Ok(import(&job, Utc::now()).await)
    })?;
    tell(global, &report, || report.text());
    if let Some(error) = &report.error {
        complain(error);
    }
    Ok(report.exit_status())
}
