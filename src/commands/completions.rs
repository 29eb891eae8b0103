//! `completions`

use super::ExitStatus;
use super::setup::Failure;
use crate::cli::Global;
use crate::cli::upkeep::CompletionsArgs;

/// Prints completions for a shell.
pub fn run(_global: &Global, _arguments: &CompletionsArgs) -> Result<ExitStatus, Failure> {
    Err((1, "is being built".to_owned()))
}
