//! `schedule`

use super::ExitStatus;
use super::setup::Failure;
use crate::cli::Global;
use crate::cli::upkeep::ScheduleCommand;

/// Shows, installs or removes what starts runs.
pub fn run(_global: &Global, _arguments: &ScheduleCommand) -> Result<ExitStatus, Failure> {
    Err((1, "is being built".to_owned()))
}
