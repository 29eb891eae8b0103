//! `login`

use super::ExitStatus;
use super::setup::Failure;
use crate::cli::Global;
use crate::cli::upkeep::LoginArgs;

/// Obtains and stores a refresh token.
pub fn run(_global: &Global, _arguments: &LoginArgs) -> Result<ExitStatus, Failure> {
    Err((1, "is being built".to_owned()))
}
