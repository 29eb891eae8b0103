//! What `status` tells.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::report::{rfc3339, rfc3339_or_null};

/// How the backups are.
#[derive(Clone, Debug, Serialize)]
pub struct Health {
    /// Whether the newest backup is complete and fresh.
    pub healthy: bool,
    /// The newest complete backup.
    pub backup_id: Option<String>,
    /// When it was made.
    #[serde(serialize_with = "rfc3339_or_null")]
    pub created_at: Option<DateTime<Utc>>,
    /// How long ago that was.
    pub age_seconds: Option<u64>,
    /// How long ago it may be.
    pub max_age_seconds: u64,
    /// Its archives together, in bytes.
    pub size: Option<u64>,
    /// When the next run starts.
    #[serde(serialize_with = "rfc3339_or_null")]
    pub next_run: Option<DateTime<Utc>>,
    /// The last run that was recorded.
    pub last_run: Option<LastRun>,
    /// The last rehearsal that was recorded.
    pub last_rehearsal: Option<LastRehearsal>,
    /// The exports of projects; none where none are to be made.
    pub projects: Option<Projects>,
    /// One row for each configured destination.
    pub destinations: Vec<Place>,
    /// Why it is not healthy, in words.
    pub reasons: Vec<String>,
    /// What else is worth a look, in words.
    pub remarks: Vec<String>,
}

/// A run that is over.
#[derive(Clone, Debug, Serialize)]
pub struct LastRun {
    /// Its name in the history.
    pub run_id: String,
    /// When it began.
    #[serde(serialize_with = "rfc3339_or_null")]
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    #[serde(serialize_with = "rfc3339_or_null")]
    pub finished_at: Option<DateTime<Utc>>,
    /// `ok`, `partial`, `failed`.
    pub status: String,
    /// The first line of what made it fail.
    pub error: Option<String>,
}

/// A rehearsal that is over.
#[derive(Clone, Debug, Serialize)]
pub struct LastRehearsal {
    /// Of which backup.
    pub backup_id: String,
    /// Where it was read.
    pub destination: String,
    /// Whether it would have been restorable; none: it could not be read to its end.
    pub restorable: Option<bool>,
    /// When it ended.
    #[serde(serialize_with = "rfc3339")]
    pub finished_at: DateTime<Utc>,
}

/// The exports of projects.
#[derive(Clone, Debug, Serialize)]
pub struct Projects {
    /// The last export that was recorded.
    pub last_run: Option<LastRun>,
    /// How that ended: `ok`, `partial`, `failed`.
    pub status: Option<String>,
    /// How long ago the last one began that brought everything.
    pub age_seconds: Option<u64>,
    /// How long ago that may be.
    pub max_age_seconds: u64,
    /// How many projects the last export stored.
    pub exported: u64,
    /// How many had been stored earlier that day.
    pub already_done: u64,
    /// How many failed.
    pub failed: u64,
    /// How many GitLab does not let this token export.
    pub skipped: u64,
    /// When the next one starts.
    #[serde(serialize_with = "rfc3339_or_null")]
    pub next_run: Option<DateTime<Utc>>,
}

/// A destination.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Place {
    /// Its name.
    pub destination: String,
    /// The newest backup of which it has all it is configured to get.
    pub backup_id: Option<String>,
    /// When that was made.
    #[serde(serialize_with = "rfc3339_or_null")]
    pub created_at: Option<DateTime<Utc>>,
    /// How long ago that was.
    pub age_seconds: Option<u64>,
    /// Free bytes when the last run that asked began.
    pub free: Option<u64>,
    /// What the last run that had to do with it could not do there.
    pub error: Option<String>,
}

impl Health {
    /// Adds a reason why it is not healthy.
    pub fn add_reason(&mut self, reason: String) {
        self.healthy = false;
        self.reasons.push(reason);
    }
}
