//! What this machine knows of its backups: what `status` and the report page judge.

use std::io;
use std::time::Duration;

use serde_json::Value;

use crate::archive::ArchiveKind;
use crate::history::past::{PastExport, PastRehearsal, PastRun, exports, rehearsals, runs};
use crate::history::read_and_count_damage;
use crate::job::Job;
use crate::schedule::{self, Installed};
use crate::state::StateDir;
use crate::status::{Exports, Known};

/// What was found.
pub(super) struct Found {
    /// Everything in the history, and how many of its lines are damaged; or why it cannot be read.
    pub(super) history: io::Result<(Vec<Value>, usize)>,
    pub(super) runs: Vec<PastRun>,
    pub(super) rehearsals: Vec<PastRehearsal>,
    pub(super) exports: Vec<PastExport>,
    /// What starts jobs; or what could not be asked.
    pub(super) schedule: Result<Vec<Installed>, String>,
    /// Whether projects are exported.
    has_exports: bool,
    destinations: Vec<(String, Vec<ArchiveKind>)>,
}

impl Found {
    /// Reads the history and asks what starts runs. The destinations are those of the configuration, each with the
    /// kinds that it gets; they are not asked. `has_exports`: whether it says that projects are exported.
    pub(super) fn look<'a>(
        state: &StateDir,
        destinations: impl Iterator<Item = (&'a str, &'a [ArchiveKind])>,
        has_exports: bool,
    ) -> Found {
        let history = read_and_count_damage(state);
        let entries = history.as_ref().map_or(&[][..], |(entries, _)| entries);
        let destinations = destinations.map(|(name, kinds)| (name.to_owned(), kinds.to_vec()));
        Found {
            runs: runs(entries),
            rehearsals: rehearsals(entries),
            exports: exports(entries),
            history,
            schedule: schedule::installed(),
            destinations: destinations.collect(),
            has_exports,
        }
    }

    /// What starts a job, if that is known.
    pub(super) fn schedule_of(&self, job: Job) -> Option<&Installed> {
        schedule::of(self.schedule.as_ref().ok()?, job)
    }

    /// As it is judged.
    pub(super) fn known(&self, max_age: Option<Duration>) -> Known<'_> {
        Known {
            runs: &self.runs,
            rehearsals: &self.rehearsals,
            destinations: &self.destinations,
            schedule: self.schedule_of(Job::Run),
            max_age,
            exports: Exports {
                is_configured: self.has_exports,
                past: &self.exports,
                schedule: self.schedule_of(Job::Projects),
            },
        }
    }
}
