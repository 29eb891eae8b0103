//! `man`

use super::ExitStatus;
use super::setup::Failure;
use crate::cli::Global;
use crate::cli::upkeep::ManArgs;

/// Prints or writes the manual pages.
pub fn run(_global: &Global, _arguments: &ManArgs) -> Result<ExitStatus, Failure> {
    Err((1, "is being built".to_owned()))
}
