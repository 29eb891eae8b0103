//! `report`

use std::path::Path;
use std::time::Duration;

use chrono::Local;
use serde::Serialize;
use tokio::time::timeout;

use super::known::Found;
use super::setup::{Failure, Setup};
use super::{ExitStatus, USAGE, print, tell};
use crate::archive::ArchiveKind;
use crate::cli::Global;
use crate::cli::upkeep::ReportArgs;
use crate::destination::Settings;
use crate::page::{self, Facts};
use crate::report::Status;
use crate::state::StateDir;
use crate::status::judge;
use crate::units::{Size, Span};

/// A run waits no longer for its page.
const LONGEST: Duration = Duration::from_secs(30);

/// What `--json` shows.
#[derive(Serialize)]
struct Report<'a> {
    command: &'static str,
    status: Status,
    path: &'a Path,
    size: u64,
    error: Option<String>,
}

/// Writes the report page. Takes no lock, asks nobody.
pub fn run(global: &Global, arguments: &ReportArgs) -> Result<ExitStatus, Failure> {
    let path = arguments.html.as_path();
    let to_output = path == Path::new("-");
    if to_output && global.json {
        let message = "--html - and --json: standard output takes only one of both\n  \
                       name a file: --html FILE --json";
        return Err((USAGE, message.to_owned()));
    }
    let (config, _) = Setup::load(global, &[])?;
    let destinations = config.destinations.iter();
    let destinations = destinations.filter(|settings| settings.gets_backups());
    let html = html(
        &StateDir::new(&config.state_dir),
        destinations.map(|known: &Settings| (known.name.as_str(), known.kinds())),
        config.projects.is_some(),
    );
    if to_output {
        print(&html);
        return Ok(0);
    }
    page::write(path, &html).map_err(|message| (1, message))?;
    let report = Report {
        command: "report",
        status: Status::Ok,
        path,
        size: html.len() as u64,
        error: None,
    };
    let text = || {
        format!(
            "{}: the report page, {}\n",
            path.display(),
            Size(report.size)
        )
    };
    tell(global, &report, text);
    Ok(0)
}

/// Writes the page where the configuration wants it after each run. That it cannot be written changes nothing, and a
/// folder on a dead network disk does not keep the run from ending.
pub(super) async fn refresh(setup: &Setup) {
    let Some(path) = setup.report_file.clone() else {
        return;
    };
    let (shown, state) = (path.display().to_string(), setup.state.path().to_owned());
    let (destinations, has_exports) = (setup.known(), setup.projects.is_some());
    let writing = tokio::task::spawn_blocking(move || {
        let known = destinations.iter();
        let known = known.map(|(name, kinds)| (name.as_str(), kinds.as_slice()));
        page::write(&path, &html(&StateDir::new(&state), known, has_exports))
    });
    let failed = |what: &str| Err(format!("writing the report page {shown}: {what}"));
    let written = match timeout(LONGEST, writing).await {
        Ok(Ok(written)) => written,
        Ok(Err(error)) => failed(&error.to_string()),
        Err(_) => failed(&format!(
            "not done after {}\n  is the disk there that it lies on?",
            Span(LONGEST)
        )),
    };
    if let Err(error) = written {
        tracing::warn!("{error}");
    }
}

fn html<'a>(
    state: &StateDir,
    destinations: impl Iterator<Item = (&'a str, &'a [ArchiveKind])>,
    has_exports: bool,
) -> String {
    let now = Local::now();
    let found = Found::look(state, destinations, has_exports);
    let known = found.known(None);
    let history = found.history.as_ref().map(|(_, damaged)| *damaged);
    let facts = Facts {
        health: &judge(&known, now.to_utc()),
        known: &known,
        history: history.map_err(|error| {
            let folder = state.path().display();
            format!("reading the history in {folder}: {error}\n  make the page as root")
        }),
        schedule_error: found.schedule.as_ref().err().cloned(),
    };
    page::html(&facts, &now)
}
