//! Old archives on this machine: only those go that are verified at a destination, and that nothing waits for.

mod directory;

use std::fs;
use std::io;

use chrono::{DateTime, Utc};

pub(in crate::prune) use self::directory::finish;
use super::{PlanRow, Request};
use crate::archive::{Archive, Form};
use crate::catalog::{Catalog, FileStatus};
use crate::content_hash::{Digest, hash_source};
use crate::listing::LOCAL;
use crate::report::Pruned;
use crate::retention::Action;
use crate::source::Source as _;
use crate::source::file::FileSource;

/// What is to happen on this machine.
pub(super) struct LocalPlan {
    /// A row for each archive, the newest first.
    pub(super) rows: Vec<PlanRow>,
    /// Those that go, with the content hash that is verified at a destination.
    doomed: Vec<(Archive, Digest)>,
}

/// Plans for the archives of one kind: `keep` of the newest stay. `refused`: why nothing may be deleted now.
pub(super) fn plan(
    archives: &[Archive],
    keep: u32,
    catalogs: &[Catalog],
    request: &Request<'_>,
    refused: Option<&str>,
    now: DateTime<Utc>,
) -> LocalPlan {
    let mut newest_first: Vec<_> = archives.iter().collect();
    newest_first.sort_by(|a, b| b.name.age_order(&a.name));
    let mut plan = LocalPlan {
        rows: Vec::new(),
        doomed: Vec::new(),
    };
    let mut counted = 0;
    for archive in newest_first {
        let verified = verified_at(archive, catalogs);
        let from_the_future = archive.name.is_from_the_future(now);
        counted += u32::from(!from_the_future);
        let reason = match &verified {
            _ if from_the_future => Some("its time is ahead of the clock".to_owned()),
            _ if counted <= keep => Some(format!("local {keep}")),
            _ if refused.is_some() => refused.map(str::to_owned),
            _ if request.awaited.contains(&archive.path) => {
                Some("an unfinished upload or restore needs it".to_owned())
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
pub(super) fn carry_out(plan: &LocalPlan) -> (Vec<Pruned>, Vec<String>) {
    let mut pruned = Vec::new();
    let mut errors = Vec::new();
    for (archive, stored) in &plan.doomed {
        let path = archive.path.display();
        let deleted = match archive.form {
            Form::File => delete_file(archive, *stored),
            Form::Directory => directory::delete(archive, *stored),
            // They are not kept, and go when every place has them.
            Form::Parts => continue,
        };
        match deleted {
            Ok(true) => {
                tracing::info!("deleted {path}");
                pruned.push(Pruned {
                    destination: LOCAL.to_owned(),
                    path: path.to_string(),
                    size: archive.size,
                });
            }
            Ok(false) => errors.push(format!(
                "{path}: its content is not what is stored under its name; it stays\n  look at it by hand"
            )),
            Err(error) => errors.push(format!("deleting {path}: {error}")),
        }
    }
    (pruned, errors)
}

/// False: its content is another, and nothing was touched.
fn delete_file(archive: &Archive, stored: Digest) -> io::Result<bool> {
    let source = FileSource::open(&archive.path)?;
    let before = source.fingerprint()?;
    let same = hash_source(&source)? == stored && source.fingerprint()? == before;
    if same {
        fs::remove_file(&archive.path)?;
    }
    Ok(same)
}
