//! What an export is called where it is stored: `projects.name`, by default `{path}/{time}.tar.gz`.

use chrono::{DateTime, Utc};

/// As in `2026-11-22-04-00-00`, in UTC; sorts by time.
pub const TIME: &str = "%Y-%m-%d-%H-%M-%S";

/// The names of exports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(String);

impl Default for Template {
    fn default() -> Template {
        Template("{path}/{time}.tar.gz".to_owned())
    }
}

impl Template {
    /// Below the root of the destination, with a slash at its beginning.
    pub fn key(&self, path: &str, id: u64, time: DateTime<Utc>) -> String {
        let time = time.format(TIME).to_string();
        let key = self.0.replace("{id}", &id.to_string());
        format!("/{}", key.replace("{time}", &time).replace("{path}", path))
    }
}
