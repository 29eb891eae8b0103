//! Exports of projects: GitLab makes one of each project that is selected, and each goes to the destination, where
//! any GitLab can import it.

pub mod name;
pub mod prune;
pub mod report;
pub mod select;
pub mod settings;
pub mod stored;

use chrono::{DateTime, Utc};

use crate::destination::{Destination, Options};
use crate::gitlab::api::Api;
use crate::progress::Show;
use crate::projects::report::ExportReport;
use crate::retention::RetentionPolicy;
use crate::seal::Encryption;
use crate::state::StateDir;
use crate::stop::Stop;

pub use self::settings::Settings;

/// Everything an export needs.
pub struct Job<'a> {
    /// `[projects]`.
    pub settings: &'a Settings,
    /// GitLab.
    pub api: &'a Api,
    /// Where the exports go.
    pub destination: &'a Destination,
    /// `[encryption]`, if anything is encrypted.
    pub encryption: Option<&'a Encryption>,
    /// `[retention]`, if there is one.
    pub retention: Option<&'a RetentionPolicy>,
    /// How exports are sent that come through this machine.
    pub upload: &'a Options,
    /// What has been exported, and the one file that is on its way.
    pub state: &'a StateDir,
    /// Who is told how far it is.
    pub show: Show,
    /// Whether the program has been asked to stop.
    pub stop: &'a Stop,
    /// Whether only to tell what would be exported.
    pub dry_run: bool,
}

/// Exports the projects that are selected. `run_id` names this in the history.
pub async fn export(job: &Job<'_>, run_id: String, now: DateTime<Utc>) -> ExportReport {
    let report = ExportReport::begin(run_id, job.destination.name().to_owned(), now);
    report.conclude(now)
}
