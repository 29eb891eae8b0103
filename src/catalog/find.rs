//! Finding the backup that is to be read.

use std::cmp::Ordering;

use futures_util::future::join_all;

use super::{Catalog, StoredBackup};
use crate::destination::Destination;
use crate::error::{Error, ErrorKind};
use crate::manifest::Manifest;
use crate::retry::{Patience, SHORT_PATIENCE};
use crate::state::StateDir;

/// How many IDs a message names.
const NAMED: usize = 5;

/// Which backup is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The newest complete one.
    Latest,
    /// The one with this ID.
    Id(String),
}

/// A backup, and where it is to be read.
pub struct Found<'a> {
    /// The destination.
    pub destination: &'a Destination,
    /// The backup there.
    pub backup: StoredBackup,
    /// The manifest of the complete backup before it.
    pub previous: Option<Manifest>,
    /// The destinations that could not be asked: a newer one may be there.
    pub unasked: Vec<String>,
}

impl Wanted {
    /// `latest`, which is also the default, or an ID.
    pub fn new(argument: Option<&str>) -> Wanted {
        match argument {
            None | Some("latest") => Wanted::Latest,
            Some(id) => Wanted::Id(id.to_owned()),
        }
    }
}

/// Looks for a backup at these destinations, the first one that has it complete first. All are asked at once. A
/// destination that cannot be asked is passed over with a warning, unless nothing is found.
pub async fn find<'a>(
    destinations: impl Iterator<Item = &'a Destination>,
    wanted: &Wanted,
    state: &StateDir,
    patience: impl Fn() -> Patience,
) -> Result<Found<'a>, Error> {
    let mut catalogs = Vec::new();
    let (mut failure, mut unasked) = (None, Vec::new());
    let asked = destinations.map(async |destination| {
        let patience = if destination.is_optional() {
            destination.patience(SHORT_PATIENCE)
        } else {
            patience()
        };
        let catalog = Catalog::read(destination, state, &patience).await;
        (destination, catalog)
    });
    for (destination, catalog) in join_all(asked).await {
        match catalog {
            Ok(catalog) => catalogs.push((destination, catalog)),
            Err(error) => {
                let name = destination.name();
                match wanted {
                    Wanted::Latest => tracing::warn!(
                        "`{name}` could not be asked, and a newer backup may be there: {error}"
                    ),
                    Wanted::Id(_) => tracing::warn!("`{name}` could not be asked: {error}"),
                }
                unasked.push(name.to_owned());
                failure.get_or_insert(error);
            }
        }
    }
    let places: Vec<_> = catalogs
        .iter()
        .map(|(_, catalog)| catalog.destination.clone())
        .collect();
    let places = places.join(", ");
    let best = catalogs
        .iter()
        .enumerate()
        .flat_map(|(number, (_, catalog))| {
            let fits = |backup: &StoredBackup| match wanted {
                Wanted::Latest => backup.is_complete(),
                Wanted::Id(id) => backup.id == *id,
            };
            let fitting = catalog
                .backups
                .iter()
                .enumerate()
                .filter(move |(_, backup)| fits(backup));
            fitting.map(move |(index, backup)| (number, index, backup))
        })
        // Of several the newest, then a complete one, then the one at the first destination.
        .max_by(|(a_number, _, a), (b_number, _, b)| {
            let by_age = if a.id == b.id {
                Ordering::Equal
            } else {
                a.data_name.age_order(&b.data_name)
            };
            by_age
                .then_with(|| a.is_complete().cmp(&b.is_complete()))
                .then_with(|| b_number.cmp(a_number))
        })
        .map(|(number, index, _)| (number, index));
    let Some((number, index)) = best else {
        return Err(failure.unwrap_or_else(|| nothing(wanted, &places, &catalogs)));
    };
    let (destination, mut catalog) = catalogs.swap_remove(number);
    let previous = catalog.backups[index + 1..]
        .iter()
        .find(|backup| backup.is_complete());
    let previous = previous.and_then(|backup| backup.readable_manifest().cloned());
    let backup = catalog.backups.swap_remove(index);
    Ok(Found {
        destination,
        backup,
        previous,
        unasked,
    })
}

/// Why there is nothing to read, and what can be done.
fn nothing(wanted: &Wanted, places: &str, catalogs: &[(&Destination, Catalog)]) -> Error {
    let mut all: Vec<_> = catalogs
        .iter()
        .flat_map(|(_, catalog)| &catalog.backups)
        .collect();
    all.sort_by(|a, b| b.data_name.age_order(&a.data_name));
    let error = |what: String| Error::new(ErrorKind::NotFound, places, what);
    match (wanted, all.first()) {
        (_, None) => error("there is no backup".to_owned()).hint("make one: gitlab-pi-backup run"),
        (Wanted::Latest, Some(newest)) => {
            let mut why: Vec<_> = newest
                .missing
                .iter()
                .map(|missing| missing.why.clone())
                .collect();
            why.extend(newest.doubts());
            error("no backup is complete".to_owned()).hint(format!(
                "the newest is {} ({}); name it to use it all the same",
                newest.id,
                why.join("; ")
            ))
        }
        (Wanted::Id(id), Some(_)) => {
            let mut ids: Vec<_> = all.iter().map(|backup| backup.id.as_str()).collect();
            ids.dedup();
            ids.truncate(NAMED);
            error(format!("there is no backup {id}")).hint(format!(
                "the newest are {}; `gitlab-pi-backup list` shows all",
                ids.join(", ")
            ))
        }
    }
}
