//! `report`

use super::ExitStatus;
use super::setup::Failure;
use crate::cli::Global;
use crate::cli::upkeep::ReportArgs;

/// Writes the report page.
pub fn run(_global: &Global, _arguments: &ReportArgs) -> Result<ExitStatus, Failure> {
    Err((1, "is being built".to_owned()))
}
