//! `sync`

use super::setup::Failure;
use super::{ExitStatus, USAGE};
use crate::cli::{Global, SyncArgs};

/// Not known yet.
pub fn run(_global: &Global, _arguments: &SyncArgs) -> Result<ExitStatus, Failure> {
    Err((USAGE, "not known yet".to_owned()))
}
