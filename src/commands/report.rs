//! `report`

use std::path::Path;

use chrono::Local;
use serde::Serialize;

use super::setup::{Failure, Setup};
use super::{ExitStatus, USAGE, print, tell};
use crate::archive::ArchiveKind;
use crate::cli::Global;
use crate::cli::upkeep::ReportArgs;
use crate::destination::{Destination, Settings};
use crate::history::past::{rehearsals, runs};
use crate::history::read_and_count_damage;
use crate::page::{self, Facts};
use crate::report::Status;
use crate::schedule;
use crate::state::StateDir;
use crate::status::{Known, judge};
use crate::units::Size;

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
    let destinations =
        destinations.map(|known: &Settings| (known.name.clone(), known.kinds().to_vec()));
    let html = html(
        &StateDir::new(&config.state_dir),
        &destinations.collect::<Vec<_>>(),
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

/// Writes the page where the configuration wants it after each run. That it cannot be written changes nothing.
pub(super) fn refresh(setup: &Setup) {
    let Some(path) = &setup.report_file else {
        return;
    };
    let destinations = setup.destinations.iter();
    let destinations =
        destinations.map(|known: &Destination| (known.name().to_owned(), known.kinds().to_vec()));
    let html = html(&setup.state, &destinations.collect::<Vec<_>>());
    if let Err(error) = page::write(path, &html) {
        tracing::warn!("{error}");
    }
}

fn html(state: &StateDir, destinations: &[(String, Vec<ArchiveKind>)]) -> String {
    let now = Local::now();
    let (entries, history) = match read_and_count_damage(state) {
        Ok((entries, damaged)) => (entries, Ok(damaged)),
        Err(error) => {
            let folder = state.path().display();
            let error =
                format!("reading the history in {folder}: {error}\n  make the page as root");
            (Vec::new(), Err(error))
        }
    };
    let (schedule, schedule_error) = match schedule::installed() {
        Ok(schedule) => (schedule, None),
        Err(error) => (None, Some(error)),
    };
    let known = Known {
        runs: &runs(&entries),
        rehearsals: &rehearsals(&entries),
        destinations,
        schedule: schedule.as_ref(),
        max_age: None,
    };
    let facts = Facts {
        health: &judge(&known, now.to_utc()),
        known: &known,
        history,
        schedule_error,
    };
    page::html(&facts, &now)
}
