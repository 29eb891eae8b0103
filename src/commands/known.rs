//! What this machine knows of its backups: what `status` and the report page judge.

use std::io;
use std::time::Duration;

use serde_json::Value;

use crate::archive::ArchiveKind;
use crate::history::past::{PastRehearsal, PastRun, rehearsals, runs};
use crate::history::read_and_count_damage;
use crate::schedule::{self, Installed};
use crate::state::StateDir;
use crate::status::Known;

/// What was found.
pub(super) struct Found {
    /// Everything in the history, and how many of its lines are damaged; or why it cannot be read.
    pub(super) history: io::Result<(Vec<Value>, usize)>,
    pub(super) runs: Vec<PastRun>,
    pub(super) rehearsals: Vec<PastRehearsal>,
    /// What starts runs; or what could not be asked.
    pub(super) schedule: Result<Option<Installed>, String>,
    destinations: Vec<(String, Vec<ArchiveKind>)>,
}

impl Found {
    /// Reads the history and asks what starts runs. The destinations are those of the configuration, each with the
    /// kinds that it gets; they are not asked.
    pub(super) fn look<'a>(
        state: &StateDir,
        destinations: impl Iterator<Item = (&'a str, &'a [ArchiveKind])>,
    ) -> Found {
        let history = read_and_count_damage(state);
        let entries = history.as_ref().map_or(&[][..], |(entries, _)| entries);
        let destinations = destinations.map(|(name, kinds)| (name.to_owned(), kinds.to_vec()));
        Found {
            runs: runs(entries),
            rehearsals: rehearsals(entries),
            history,
            schedule: schedule::installed(),
            destinations: destinations.collect(),
        }
    }

    /// As it is judged.
    pub(super) fn known(&self, max_age: Option<Duration>) -> Known<'_> {
        Known {
            runs: &self.runs,
            rehearsals: &self.rehearsals,
            destinations: &self.destinations,
            schedule: self.schedule.as_ref().ok().and_then(Option::as_ref),
            max_age,
        }
    }
}
