//! `restore --project`

use std::time::Duration;

use chrono::Utc;

use super::super::identity::identities;
use super::super::setup::{Failure, Setup};
use super::super::{ExitStatus, USAGE, complain, tell};
use crate::cli::{Global, RestoreArgs};
use crate::gitlab::api::Api;
use crate::projects::import::{Job, Wanted, import};

/// Imports the stored export of a project.
pub fn run(global: &Global, arguments: &RestoreArgs, project: &str) -> Result<ExitStatus, Failure> {
    let wanted = Wanted::parse(arguments.backup.as_deref()).map_err(|why| (USAGE, why))?;
    let mut loaded = Setup::load(global, arguments.destination.as_slice())?;
    let Some(settings) = loaded.0.projects.take() else {
        let message = "restoring a project: the configuration has no [projects]\n  \
            name the destination that its exports are at: `projects.destination`; and GitLab: `gitlab.url` and `gitlab.token`";
        return Err((USAGE, message.to_owned()));
    };
    let api = Api::new(&loaded.0.gitlab_api, loaded.0.upload.stall_timeout);
    let at = arguments.destination.as_ref();
    let at = at.unwrap_or(&settings.destination).clone();
    let wait = arguments.wait.map_or(Duration::ZERO, |wait| wait.0);
    let report = Setup::carry_out(global, loaded, async |setup| {
        let mut places = setup.destinations.iter();
        let Some(destination) = places.find(|place| place.name() == at) else {
            let message = format!(
                "`projects.destination` names no destination: {at}\n  the configuration knows: {}",
                setup.selected.join(", ")
            );
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
