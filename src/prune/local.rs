//! Old archives on this machine: only those go that are verified at a destination, and that nothing waits for.

use std::fs;
use std::path::PathBuf;

use chrono::{DateTime, Utc};

use super::PlanRow;
use crate::archive::Archive;
use crate::catalog::{Catalog, FileStatus};
use crate::content_hash::{Digest, hash_source};
use crate::listing::LOCAL;
use crate::report::Pruned;
use crate::retention::Action;
use crate::source::Source as _;
use crate::source::file::FileSource;

/// What is to happen on this machine.
pub struct LocalPlan {
    /// A row for each archive, the newest first.
    pub rows: Vec<PlanRow>,
    /// Those that go, with the content hash that is verified at a destination.
    doomed: Vec<(Archive, Digest)>,
}

/// Plans for the archives of one kind. `keep`: so many of the newest stay. `awaited`: files that an unfinished
/// upload still reads.
pub fn plan(
    archives: &[Archive],
    keep: u32,
    catalogs: &[Catalog],
    awaited: &[PathBuf],
    now: DateTime<Utc>,
) -> LocalPlan {
    let mut newest_first: Vec<_> = archives.iter().collect();
    newest_first.sort_by(|a, b| b.name.age_order(&a.name));
    let mut plan = LocalPlan {
        rows: Vec::new(),
        doomed: Vec::new(),
    };
    for (number, archive) in (1_u32..).zip(newest_first) {
        let verified = verified_at(archive, catalogs);
        let reason = match &verified {
            _ if number <= keep => Some(format!("local {keep}")),
            _ if archive.name.is_from_the_future(now) => {
                Some("its time is ahead of the clock".to_owned())
            }
            _ if awaited.contains(&archive.path) => {
                Some("an unfinished upload needs it".to_owned())
            }
            None => Some("not verified at any destination".to_owned()),
            Some(_) => None,
        };
        let (action, reasons) = match (reason, verified) {
            (None, Some((hash, destination))) => {
                plan.doomed.push((archive.clone(), hash));
                (Action::Delete, vec![format!("verified at {destination}")])
            }
            (reason, _) => (Action::Keep, reason.into_iter().collect()),
        };
        let name = archive.name.as_str();
        plan.rows.push(PlanRow {
            destination: LOCAL.to_owned(),
            backup_id: archive.name.backup_id().unwrap_or(name).to_owned(),
            action,
            reasons,
        });
    }
    plan
}

/// Where an archive of this name and size is stored as its manifest says, and its content hash.
fn verified_at<'a>(archive: &Archive, catalogs: &'a [Catalog]) -> Option<(Digest, &'a str)> {
    catalogs.iter().find_map(|catalog| {
        let stored = catalog.backups.iter().flat_map(|backup| &backup.archives);
        let same = stored
            .filter(|stored| stored.name == archive.name && stored.status() == FileStatus::Ok);
        let expected = same.filter_map(|stored| stored.expected.as_ref());
        let of_size = expected.filter(|expected| expected.size == archive.size);
        let hash = of_size.map(|expected| expected.content_hash).next()?;
        Some((hash, catalog.destination.as_str()))
    })
}

/// Deletes what the plan says, each only if its bytes are those that are stored. Blocks the thread.
pub fn carry_out(plan: &LocalPlan) -> (Vec<Pruned>, Vec<String>) {
    let mut pruned = Vec::new();
    let mut errors = Vec::new();
    for (archive, stored) in &plan.doomed {
        let path = archive.path.display();
        let deleted = FileSource::open(&archive.path).and_then(|source| {
            let before = source.fingerprint()?;
            let same = hash_source(&source)? == *stored && source.fingerprint()? == before;
            same.then(|| fs::remove_file(&archive.path)).transpose()
        });
        match deleted {
            Ok(Some(())) => {
                tracing::info!("deleted {path}");
                pruned.push(Pruned {
                    destination: LOCAL.to_owned(),
                    path: path.to_string(),
                    size: archive.size,
                });
            }
            Ok(None) => errors.push(format!(
                "{path}: its content is not what is stored under its name; it stays\n  look at it by hand"
            )),
            Err(error) => errors.push(format!("deleting {path}: {error}")),
        }
    }
    (pruned, errors)
}
