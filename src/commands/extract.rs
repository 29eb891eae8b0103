//! `extract`

use super::setup::Failure;
use super::{ExitStatus, USAGE};
use crate::cli::{ExtractArgs, Global};

/// Not known yet.
pub fn run(_global: &Global, _arguments: &ExtractArgs) -> Result<ExitStatus, Failure> {
    Err((USAGE, "not known yet".to_owned()))
}
