//! Groups and other namespaces, as the API tells of them (<https://docs.gitlab.com/api/namespaces/>).

use serde::Deserialize;

use super::{Api, Call};
use crate::error::Error;
use crate::retry::Patience;

/// What projects lie in.
#[derive(Clone, Debug, Deserialize)]
pub struct Namespace {
    /// Its number.
    pub id: u64,
    /// `group`, or `user` for what belongs to one person.
    pub kind: String,
    /// With the groups above it.
    pub full_path: String,
}

impl Api {
    /// A namespace by its number or path.
    pub async fn namespace(&self, name: &str, patience: &Patience) -> Result<Namespace, Error> {
        let action = format!("looking at the namespace {name}");
        self.json(&Call::get(&action, &["namespaces", name]), patience)
            .await
    }
}
