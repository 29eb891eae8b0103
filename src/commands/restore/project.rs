//! `restore --project`

use std::time::Duration;

use chrono::Utc;

use super::super::identity::identities;
use super::super::setup::{Failure, Setup};
use super::super::{ExitStatus, USAGE, complain, tell};
use crate::cli::{Global, RestoreArgs};
use crate::destination::Destination;
use crate::projects::import::{Job, Wanted, import};
use crate::projects::name::Template;
use crate::projects::settings::{IMPORT_LIMIT, TIMEOUT};

/// Imports the stored export of a project.
pub fn run(global: &Global, arguments: &RestoreArgs, project: &str) -> Result<ExitStatus, Failure> {
    let wanted = Wanted::parse(arguments.backup.as_deref()).map_err(|why| (USAGE, why))?;
    let mut loaded = Setup::load_or_environment(global)?;
    // Who only restores need not say what is exported, if only the place is known.
    let settings = loaded.0.projects.take();
    let named = settings.as_ref().map(|settings| &settings.destination);
    let Some(at) = arguments.destination.as_ref().or(named).cloned() else {
        let message = "restoring a project: the configuration has no [projects]\n  \
            say with --destination where its exports are, or give it that table, with that `destination`";
        return Err((USAGE, message.to_owned()));
    };
    let (name, import_limit, timeout) = settings.map_or_else(
        || (Template::default(), IMPORT_LIMIT, TIMEOUT),
        |settings| (settings.name, settings.import_limit, settings.timeout),
    );
    let api = Setup::gitlab_api(&loaded.0)?;
    let wait = arguments.wait.map_or(Duration::ZERO, |wait| wait.0);
    let report = Setup::carry_out(global, loaded, async |setup| {
        let mut places = setup.destinations.iter();
        let Some(destination) = places.find(|place| place.name() == at) else {
            // Those of exports alone, too.
            let known: Vec<_> = setup.destinations.iter().map(Destination::name).collect();
            let known = known.join(", ");
            let message =
                format!("no destination is named `{at}`\n  the configuration knows: {known}");
            return Err((USAGE, message));
        };
        let identities = identities(arguments.identity.as_deref(), &setup.stop).await?;
        let _lock = setup.lock(wait).await?;
        let job = Job {
            api: &api,
            destination,
            name: &name,
            project,
            to: arguments.new_path.as_deref().unwrap_or(project),
            wanted,
            identities: identities.as_ref(),
            state: &setup.state,
            upload: &setup.upload,
            limit: import_limit,
            timeout,
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
