//! What is stored where, as far as the history tells it.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};

use super::{Evidence, Seen, first_line, wanted};
use crate::archive::{ArchiveKind, ArchiveName, belonging};
use crate::catalog::failed_rehearsal;
use crate::history::past::{PastArchive, PastRehearsal, PastRun};

/// Everything that runs stored.
pub(super) struct Stored<'a> {
    /// The newest first.
    backups: Vec<Backup<'a>>,
    /// By name.
    archives: BTreeMap<&'a str, Facts<'a>>,
    /// Destination and backup ID.
    manifests: BTreeSet<(&'a str, &'a str)>,
    /// Destination and backup ID, when the last rehearsal there failed.
    failed: BTreeMap<(&'a str, &'a str), DateTime<Utc>>,
}

/// A data archive, and the config archive that belongs to it.
struct Backup<'a> {
    data: ArchiveName,
    config: Option<&'a str>,
}

/// What is known of an archive.
#[derive(Default)]
struct Facts<'a> {
    size: u64,
    /// The first thing that is wrong with it.
    doubt: Option<&'a str>,
    /// By destination, whether it is there, whole.
    places: BTreeMap<&'a str, bool>,
}

impl Backup<'_> {
    fn id(&self) -> &str {
        self.data.backup_id().unwrap_or_default()
    }

    fn archive(&self, kind: ArchiveKind) -> Option<&str> {
        match kind {
            ArchiveKind::Config => self.config,
            ArchiveKind::Data => Some(self.data.as_str()),
        }
    }
}

impl<'a> Stored<'a> {
    /// Goes through everything once.
    pub(super) fn read(runs: &'a [PastRun], rehearsals: &'a [PastRehearsal]) -> Stored<'a> {
        let mut archives: BTreeMap<&str, Facts<'_>> = BTreeMap::new();
        let mut manifests = BTreeSet::new();
        let mut ids = BTreeSet::new();
        let mut names = BTreeMap::new();
        for run in runs {
            ids.extend(run.backup_id.as_deref());
            for archive in &run.archives {
                let facts = archives.entry(&archive.name).or_default();
                facts.add(archive);
                let name = ArchiveName::parse(&archive.name);
                if let Some((id, name)) =
                    name.and_then(|name| Some((name.backup_id()?.to_owned(), name)))
                {
                    names.insert(id, name);
                }
            }
            for row in &run.manifests {
                ids.insert(&row.backup_id);
                if matches!(row.status.as_str(), "written" | "unchanged") {
                    manifests.insert((row.destination.as_str(), row.backup_id.as_str()));
                }
            }
        }
        let mut failed = BTreeMap::new();
        for rehearsal in rehearsals {
            let key = (rehearsal.destination.as_str(), rehearsal.backup_id.as_str());
            match rehearsal.restorable {
                Some(false) => drop(failed.insert(key, rehearsal.finished_at)),
                Some(true) => drop(failed.remove(&key)),
                None => {}
            }
        }
        let configs = Configs::read(runs);
        // Those of which no archive is known by its name.
        for id in ids.into_iter().filter(|id: &&str| !id.is_empty()) {
            if let Some(name) = ArchiveName::of_backup(id).filter(|_| !names.contains_key(id)) {
                names.insert(id.to_owned(), name);
            }
        }
        let mut backups: Vec<_> = names
            .into_values()
            .map(|data| Backup {
                config: configs.of(&data),
                data,
            })
            .collect();
        backups.sort_by(|a, b| b.data.age_order(&a.data));
        Stored {
            backups,
            archives,
            manifests,
            failed,
        }
    }

    /// What follows from it for the configured destinations.
    pub(super) fn evidence(
        &self,
        destinations: &[(String, Vec<ArchiveKind>)],
        now: DateTime<Utc>,
    ) -> Evidence {
        let counts = |backup: &&Backup<'_>| !backup.data.is_from_the_future(now);
        let backups = || self.backups.iter().filter(counts);
        let wanted = wanted(destinations);
        let is_complete = |backup: &&Backup<'_>| {
            let mut kinds = wanted.iter();
            kinds.all(|kind| self.is_anywhere(backup, *kind, destinations))
        };
        let seen = |backup: &Backup<'_>, kinds: &[ArchiveKind]| Seen {
            id: backup.id().to_owned(),
            created_at: Stored::made_at(backup, kinds),
            size: self.size(backup, kinds),
        };
        let worse = backups().next().filter(|latest| !is_complete(latest));
        let places = destinations.iter().map(|(name, kinds)| {
            let mut backups = backups();
            let newest =
                backups.find(|backup| kinds.iter().all(|kind| self.is_at(backup, *kind, name)));
            newest.map(|backup| seen(backup, kinds))
        });
        let future = self.backups.first().filter(|newest| !counts(newest));
        Evidence {
            newest: backups()
                .find(is_complete)
                .map(|backup| seen(backup, &wanted)),
            worse: worse.map(|backup| {
                let why = self.missing(backup, &wanted, destinations);
                (backup.id().to_owned(), why)
            }),
            places: places.collect(),
            from_the_future: future.map(|backup| backup.id().to_owned()),
        }
    }

    /// Whether a destination has its archive of a kind, whole and proved.
    fn is_at(&self, backup: &Backup<'_>, kind: ArchiveKind, place: &str) -> bool {
        self.lack(backup, kind, place).is_none()
    }

    /// Whether one of the destinations that get this kind has it.
    fn is_anywhere(
        &self,
        backup: &Backup<'_>,
        kind: ArchiveKind,
        destinations: &[(String, Vec<ArchiveKind>)],
    ) -> bool {
        let mut taking = destinations
            .iter()
            .filter(|(_, kinds)| kinds.contains(&kind));
        taking.any(|(name, _)| self.is_at(backup, kind, name))
    }

    /// What is wrong with a backup that is not complete, a word on each kind and destination.
    fn missing(
        &self,
        backup: &Backup<'_>,
        wanted: &[ArchiveKind],
        destinations: &[(String, Vec<ArchiveKind>)],
    ) -> Vec<String> {
        let mut missing: Vec<String> = Vec::new();
        for kind in wanted {
            if self.is_anywhere(backup, *kind, destinations) {
                continue;
            }
            let taking = destinations
                .iter()
                .filter(|(_, kinds)| kinds.contains(kind));
            for (name, _) in taking {
                let why = self.lack(backup, *kind, name);
                missing.extend(why.filter(|why| !missing.contains(why)));
            }
        }
        missing
    }

    /// Why a destination does not have its archive of a kind, whole and proved; none if it has.
    fn lack(&self, backup: &Backup<'_>, kind: ArchiveKind, place: &str) -> Option<String> {
        let id = backup.id();
        let facts = backup
            .archive(kind)
            .and_then(|name| self.archives.get(name));
        let Some(facts) = facts else {
            return Some(format!("no {kind} archive"));
        };
        if let Some(doubt) = facts.doubt {
            return Some(format!("{kind}: {doubt}"));
        }
        if facts.places.get(place) != Some(&true) {
            return Some(format!("the {kind} archive is not at {place}"));
        }
        if !self.manifests.contains(&(place, id)) {
            return Some(format!("no manifest at {place}"));
        }
        let failed = self.failed.get(&(place, id));
        failed.map(|at| format!("at {place} {}", failed_rehearsal(*at)))
    }

    /// When it was made: its data, if that is wanted.
    fn made_at(backup: &Backup<'_>, kinds: &[ArchiveKind]) -> DateTime<Utc> {
        let config = backup.config.and_then(ArchiveName::parse);
        match config.filter(|_| !kinds.contains(&ArchiveKind::Data)) {
            Some(config) => config.created_at(),
            None => backup.data.created_at(),
        }
    }

    /// The sizes of its archives of these kinds, together.
    fn size(&self, backup: &Backup<'_>, kinds: &[ArchiveKind]) -> u64 {
        let names = kinds.iter().filter_map(|kind| backup.archive(*kind));
        let facts = names.filter_map(|name| self.archives.get(name));
        facts.fold(0, |sum, facts| sum.saturating_add(facts.size))
    }
}

impl<'a> Facts<'a> {
    fn add(&mut self, archive: &'a PastArchive) {
        self.size = archive.size;
        self.doubt = self.doubt.or(archive.doubts.first().map(String::as_str));
        for upload in &archive.uploads {
            let is_there = match upload.status.as_str() {
                "uploaded" | "already_present" => upload.verified,
                // Something else has its name by now.
                "conflict" => false,
                // Whether it was there before does not change.
                _ => continue,
            };
            self.places.insert(&upload.destination, is_there);
        }
    }
}

/// Which config archives runs dealt with.
struct Configs<'a> {
    /// By backup ID.
    of_backup: BTreeMap<&'a str, &'a str>,
    /// Of runs that made no data archive: they join the backup that is near.
    alone: Vec<ArchiveName>,
    all: Vec<ArchiveName>,
    /// The IDs of backups whose run was not asked for a config archive: one that is near joins them.
    data_only: BTreeSet<&'a str>,
    /// The names as the history holds them.
    names: BTreeMap<&'a str, &'a str>,
}

impl<'a> Configs<'a> {
    fn read(runs: &'a [PastRun]) -> Configs<'a> {
        let mut configs = Configs {
            of_backup: BTreeMap::new(),
            alone: Vec::new(),
            all: Vec::new(),
            data_only: BTreeSet::new(),
            names: BTreeMap::new(),
        };
        for run in runs {
            let of_kind = |kind: ArchiveKind| {
                let rows = run.archives.iter();
                rows.filter(move |archive| archive.kind == kind.as_str())
            };
            let mut steps = run.steps.iter();
            let was_asked =
                steps.any(|step| step.step == "config_command" && step.status != "skipped");
            let made_data = of_kind(ArchiveKind::Data).any(|archive| archive.made_by_this_run);
            let config =
                match of_kind(ArchiveKind::Config).rfind(|archive| archive.made_by_this_run) {
                    Some(made) => Some(made),
                    // What is there beside is an earlier run's.
                    None if was_asked || made_data => None,
                    None => of_kind(ArchiveKind::Config).next_back(),
                };
            if let Some(config) = config
                && let Some(name) = ArchiveName::parse(&config.name)
            {
                configs.names.insert(&config.name, &config.name);
                match run.backup_id.as_deref() {
                    Some(id) => drop(configs.of_backup.insert(id, &config.name)),
                    None => configs.alone.push(name.clone()),
                }
                configs.all.push(name);
            } else if !was_asked {
                configs.data_only.extend(run.backup_id.as_deref());
            }
        }
        configs
    }

    fn of(&self, data: &ArchiveName) -> Option<&'a str> {
        let id = data.backup_id()?;
        if let Some(name) = self.of_backup.get(id) {
            return Some(name);
        }
        let near = if self.data_only.contains(id) {
            &self.all
        } else {
            &self.alone
        };
        let name = belonging(data, near, |name| name)?;
        self.names.get(name.as_str()).copied()
    }
}

/// Free bytes at a destination when a run last asked.
pub(super) fn free(runs: &[PastRun], place: &str) -> Option<u64> {
    let mut spaces = runs.iter().rev().flat_map(|run| &run.space);
    let space = spaces.find(|space| space.destination == place)?;
    space.free
}

/// What the last run that had to do with a destination could not do there.
pub(super) fn error(runs: &[PastRun], place: &str) -> Option<String> {
    runs.iter().rev().find_map(|run| {
        let uploads = run.archives.iter().flat_map(|archive| &archive.uploads);
        let mut uploads = uploads
            .filter(|upload| upload.destination == place)
            .peekable();
        let mut manifests = run
            .manifests
            .iter()
            .filter(|row| row.destination == place)
            .peekable();
        if uploads.peek().is_none() && manifests.peek().is_none() {
            return None;
        }
        let error = uploads.find_map(|upload| upload.error.as_deref().and_then(first_line));
        let unwritten = || {
            let row = manifests.find(|row| row.status == "failed")?;
            Some(format!("the manifest of {} was not written", row.backup_id))
        };
        // None: it went well, and what was before is over.
        Some(error.or_else(unwritten))
    })?
}
