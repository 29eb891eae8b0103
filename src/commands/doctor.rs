//! `doctor`

use super::ExitStatus;
use super::setup::Failure;
use crate::cli::Global;
use crate::cli::upkeep::DoctorArgs;

/// Checks everything a run needs.
pub fn run(_global: &Global, _arguments: &DoctorArgs) -> Result<ExitStatus, Failure> {
    Err((1, "is being built".to_owned()))
}
