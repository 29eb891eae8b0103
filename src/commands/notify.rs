//! `notify`

use super::ExitStatus;
use super::setup::Failure;
use crate::cli::Global;
use crate::cli::upkeep::NotifyCommand;

/// Tries the notifications.
pub fn run(_global: &Global, _arguments: &NotifyCommand) -> Result<ExitStatus, Failure> {
    Err((1, "is being built".to_owned()))
}
