//! What is stored where, as the destinations themselves tell it.

use chrono::{DateTime, Utc};

use super::{Evidence, Seen, wanted};
use crate::archive::{ArchiveKind, ArchiveName};
use crate::catalog::{Catalog, StoredArchive, StoredBackup};

/// What follows from the catalogs of those destinations that answered.
pub(super) fn evidence(
    destinations: &[(String, Vec<ArchiveKind>)],
    catalogs: &[Catalog],
    now: DateTime<Utc>,
) -> Evidence {
    let wanted = wanted(destinations);
    let backups = catalogs.iter().flat_map(|catalog| &catalog.backups);
    let mut names: Vec<&ArchiveName> = backups.map(|backup| &backup.data_name).collect();
    names.sort_by(|a, b| b.age_order(a));
    // A place that gets no data archives does not tell what made them.
    names.dedup_by_key(|name| name.backup_id());
    let future = names
        .first()
        .copied()
        .filter(|name| name.is_from_the_future(now));
    names.retain(|name| !name.is_from_the_future(now));
    let here = |name: &ArchiveName| {
        let id = name.backup_id().unwrap_or_default().to_owned();
        let found = catalogs.iter();
        found.filter_map(move |catalog| Some((catalog, catalog.backup(&id)?)))
    };
    let is_complete = |name: &&&ArchiveName| {
        let mut kinds = wanted.iter();
        kinds.all(|kind| here(name).any(|(catalog, backup)| has(catalog, backup, *kind)))
    };
    let best = |name: &ArchiveName| {
        let sizes = wanted.iter().filter_map(|kind| {
            let mut places = here(name).filter(|(catalog, backup)| has(catalog, backup, *kind));
            let (_, backup) = places.next()?;
            Some(backup.archive(*kind)?.size())
        });
        Seen {
            id: name.backup_id().unwrap_or_default().to_owned(),
            created_at: here(name)
                .map(|(_, backup)| made_at(backup, &wanted))
                .max()
                .unwrap_or_else(|| name.created_at()),
            size: sizes.sum(),
        }
    };
    let why = |name: &ArchiveName| {
        let told = here(name).flat_map(|(catalog, backup)| {
            let missing = backup.missing.iter().map(|missing| missing.why.clone());
            let all = missing.chain(backup.doubts());
            all.map(|why| format!("{}: {why}", catalog.destination))
        });
        told.collect()
    };
    let worse = names.first().filter(|name| !is_complete(name));
    let places = destinations.iter().map(|(name, kinds)| {
        let catalog = catalogs
            .iter()
            .find(|catalog| catalog.destination == *name)?;
        let mut backups = catalog.backups.iter();
        let counts = |backup: &&StoredBackup| {
            backup.is_complete() && !backup.data_name.is_from_the_future(now)
        };
        let newest = backups.find(counts)?;
        Some(Seen {
            id: newest.id.clone(),
            created_at: made_at(newest, kinds),
            size: newest.archives.iter().map(StoredArchive::size).sum(),
        })
    });
    Evidence {
        newest: names.iter().find(is_complete).map(|name| best(name)),
        worse: worse.map(|name| (name.backup_id().unwrap_or_default().to_owned(), why(name))),
        places: places.collect(),
        from_the_future: future.and_then(|name| name.backup_id()).map(str::to_owned),
    }
}

/// Whether a destination has the archive of this kind, whole and undoubted, and the manifest.
fn has(catalog: &Catalog, backup: &StoredBackup, kind: ArchiveKind) -> bool {
    let lacks = |what: &str| backup.missing.iter().any(|missing| missing.what == what);
    catalog.kinds.contains(&kind)
        && !lacks(kind.as_str())
        && !lacks("manifest")
        && backup.doubts().is_empty()
}

/// When it was made: its data, if that is wanted.
fn made_at(backup: &StoredBackup, kinds: &[ArchiveKind]) -> DateTime<Utc> {
    let config = backup.archive(ArchiveKind::Config);
    match config.filter(|_| !kinds.contains(&ArchiveKind::Data)) {
        Some(config) => config.name.created_at(),
        None => backup.created_at(),
    }
}
