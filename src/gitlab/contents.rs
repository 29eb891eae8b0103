//! What an archive holds, in numbers.
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
/// provisional
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// p
    pub parts: BTreeMap<String, u64>,
    /// p
    pub repositories: u64,
    /// p
    pub bundles: u64,
    /// p
    pub skipped: Vec<String>,
    /// p
    pub gitlab_version: Option<String>,
}
