//! Whether the newest backup is complete and fresh.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::archive::ArchiveKind;
use crate::history::past::{PastRehearsal, PastRun};
use crate::schedule::Installed;

/// What is known on this machine.
pub struct Known<'a> {
    /// The oldest first.
    pub runs: &'a [PastRun],
    /// The oldest first.
    pub rehearsals: &'a [PastRehearsal],
    /// The configured destinations, and which kinds each gets.
    pub destinations: &'a [(String, Vec<ArchiveKind>)],
    /// What starts runs.
    pub schedule: Option<&'a Installed>,
    /// How old the newest complete backup may be; none: as the schedule says.
    pub max_age: Option<Duration>,
}

/// How the backups are.
#[derive(Debug, Serialize)]
pub struct Health {
    /// Whether the newest backup is complete and fresh.
    pub healthy: bool,
    /// The newest complete backup.
    pub backup_id: Option<String>,
    /// When it was made.
    pub created_at: Option<DateTime<Utc>>,
    /// How long ago that was.
    pub age_seconds: Option<u64>,
    /// How long ago it may be.
    pub max_age_seconds: u64,
    /// When the next run starts.
    pub next_run: Option<DateTime<Utc>>,
    /// Why it is not healthy, in words.
    pub reasons: Vec<String>,
}

/// Judges what is known.
pub fn judge(known: &Known<'_>, _now: DateTime<Utc>) -> Health {
    Health {
        healthy: false,
        backup_id: None,
        created_at: None,
        age_seconds: None,
        max_age_seconds: known.max_age.map_or(0, |age| age.as_secs()),
        next_run: None,
        reasons: Vec::new(),
    }
}
