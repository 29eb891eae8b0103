//! Is every stored archive there, of the right size and hash? By metadata alone: it costs requests, not
//! bandwidth.
//!
//! A backup of another program has no manifest to compare with. What can be known of it is compared: what
//! earlier runs of this program stored under the same name, and the archive of the same name on this machine.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;

use crate::archive::{Archive, ArchiveKind};
use crate::catalog::{Catalog, FileStatus, StoredArchive, StoredBackup, read_ours, store_ours};
use crate::content_hash::Digest;
use crate::destination::Destination;
use crate::error::{Error, ErrorKind};
use crate::manifest::{Problem, Proof};
use crate::retry::Patience;
use crate::state::StateDir;

/// What is said of an archive where the destination tells no hashes.
pub const BY_SIZE: &str =
    "its size is right; its content is not told there, `gitlab-pi-backup rehearse` reads it";

/// One stored archive, or a file nobody knows.
#[derive(Debug, Serialize)]
pub struct VerifiedFile {
    /// The destination's name.
    pub destination: String,
    /// The backup it belongs to.
    pub backup_id: Option<String>,
    /// Where it is, or should be.
    pub path: String,
    /// How it compares.
    pub status: FileStatus,
    /// What is wrong, or what is not known.
    pub detail: Option<String>,
}

/// What this machine knows about archives it has a name for.
#[derive(Default)]
pub struct Known {
    /// Archives that lie here.
    pub local: Vec<Archive>,
    /// Runs of the history.
    pub runs: Vec<Value>,
}

/// Compares the backups of a catalogue, or the one with this ID, with their manifests.
pub fn compare(catalog: &Catalog, id: Option<&str>, known: &Known) -> Vec<VerifiedFile> {
    let mut files = Vec::new();
    let chosen = catalog
        .backups
        .iter()
        .filter(|backup| id.is_none_or(|id| backup.id == id));
    for backup in chosen {
        let row = |path: &str, status, detail: Option<String>| VerifiedFile {
            destination: catalog.destination.clone(),
            backup_id: Some(backup.id.clone()),
            path: path.to_owned(),
            status,
            detail,
        };
        for kind in ArchiveKind::ALL {
            let lack = backup
                .missing
                .iter()
                .find(|missing| missing.what == kind.as_str());
            match (backup.archive(kind), lack) {
                (Some(archive), lack) => {
                    let mut status = archive.status();
                    let mut detail = lack.map(|lack| lack.why.clone());
                    if status == FileStatus::Ok && lack.is_some() {
                        // There, though the manifest does not name it.
                        status = FileStatus::Hash;
                    }
                    if backup.is_unmanaged() {
                        (status, detail) = compare_unmanaged(catalog, archive, known);
                    }
                    if status == FileStatus::Ok && detail.is_none() && !is_hash_told(archive) {
                        detail = Some(BY_SIZE.to_owned());
                    }
                    files.push(row(&archive.path, status, detail));
                }
                (None, Some(lack)) => {
                    files.push(row(
                        &format!("({kind} archive)"),
                        FileStatus::Missing,
                        Some(lack.why.clone()),
                    ));
                }
                (None, None) => {}
            }
        }
        if let Some(Err(why)) = &backup.manifest {
            let path = backup
                .own_files
                .first()
                .map_or("", |file| file.path.as_str());
            files.push(row(
                path,
                FileStatus::Hash,
                Some(format!("the manifest cannot be used: {why}")),
            ));
        }
    }
    if id.is_none() {
        let spare = catalog
            .spare_configs
            .iter()
            .map(|file| (file, "belongs to no backup"));
        let unknown = catalog
            .unknown
            .iter()
            .map(|file| (file, "not a file of this program"));
        files.extend(spare.chain(unknown).map(|(file, why)| VerifiedFile {
            destination: catalog.destination.clone(),
            backup_id: None,
            path: file.path.clone(),
            status: FileStatus::Stray,
            detail: Some(why.to_owned()),
        }));
    }
    files
}

fn is_hash_told(archive: &StoredArchive) -> bool {
    let found = archive.found.as_ref();
    found.is_none_or(|found| found.content_hash.is_some())
}

/// Without a manifest: against what else is known of this name.
fn compare_unmanaged(
    catalog: &Catalog,
    archive: &StoredArchive,
    known: &Known,
) -> (FileStatus, Option<String>) {
    let Some(found) = &archive.found else {
        return (FileStatus::Missing, None);
    };
    // An encrypted one is longer than what it was made of.
    let as_made = |local: &&Archive| local.name.as_str() == found.name;
    let here = known.local.iter().find(as_made);
    if let Some(here) = here.filter(|here| here.size != found.size) {
        let detail = format!("{} has another size", here.path.display());
        return (FileStatus::Size, Some(detail));
    }
    let stored = stored_hash(&known.runs, &catalog.destination, &archive.path);
    match (stored, found.content_hash) {
        (Some(stored), Some(hash)) if stored != hash => {
            let detail = "a run of this machine stored another content".to_owned();
            (FileStatus::Hash, Some(detail))
        }
        (Some(_), Some(_)) => (FileStatus::Ok, None),
        _ => {
            let detail = "no manifest: that it is there is all that is known";
            (FileStatus::Ok, Some(detail.to_owned()))
        }
    }
}

/// The hash with which a run of this machine last stored a path.
fn stored_hash(runs: &[Value], destination: &str, path: &str) -> Option<Digest> {
    let uploads = runs.iter().rev().flat_map(|run| {
        let archives = run.get("archives").and_then(Value::as_array);
        let uploads = archives
            .into_iter()
            .flatten()
            .filter_map(|archive| archive.get("uploads")?.as_array());
        uploads.flatten().collect::<Vec<_>>()
    });
    let text =
        |upload: &Value, key: &str| upload.get(key).and_then(Value::as_str).map(str::to_owned);
    uploads
        .filter(|upload| text(upload, "destination").as_deref() == Some(destination))
        .filter(|upload| text(upload, "path").as_deref() == Some(path))
        .find_map(|upload| Digest::parse(&text(upload, "content_hash")?))
}

/// Whether nothing is wrong with any of these files; a stray one harms nobody.
pub fn is_whole(files: &[VerifiedFile]) -> bool {
    files
        .iter()
        .all(|file| matches!(file.status, FileStatus::Ok | FileStatus::Stray))
}

/// Stores beside a backup that something was proved of it. What another process has noted meanwhile stays:
/// the proof is read again just before; and a backup that is gone meanwhile gets none.
pub async fn note_proof(
    destination: &Destination,
    backup: &StoredBackup,
    state: &StateDir,
    patience: &Patience,
    change: impl FnOnce(&mut Proof),
) -> Result<(), Error> {
    let there = backup
        .archives
        .iter()
        .find(|archive| archive.found.is_some());
    if let Some(archive) = there
        && destination.stat(&archive.path, patience).await?.is_none()
    {
        return Ok(());
    }
    let path = format!("{}/{}.proof.json", destination.manifest_folder(), backup.id);
    let mut proof = match read_ours(destination, &path, state, patience).await? {
        None => Proof::default(),
        Some((_, bytes)) => match Proof::parse(&bytes) {
            Ok(proof) => proof,
            // It says nothing, and the new one says more.
            Err(Problem::Damaged(_)) => Proof::default(),
            Err(later) => {
                let action = format!("{}: noting a proof in {path}", destination.name());
                return Err(Error::new(ErrorKind::Invalid, action, later.to_string()));
            }
        },
    };
    change(&mut proof);
    store_ours(destination, &path, proof.to_json(), state, patience).await
}

/// Notes in the proofs of these backups that their sizes and hashes are right now; nothing where the destination
/// tells no hashes.
pub async fn note_verified(
    destination: &Destination,
    catalog: &Catalog,
    id: Option<&str>,
    state: &StateDir,
    patience: &Patience,
    now: DateTime<Utc>,
) {
    let chosen = catalog
        .backups
        .iter()
        .filter(|backup| id.is_none_or(|id| backup.id == id));
    let is_proved = |backup: &&StoredBackup| {
        backup.missing.is_empty() && backup.archives.iter().all(is_hash_told)
    };
    for backup in chosen.filter(is_proved) {
        let noted = note_proof(destination, backup, state, patience, |proof| {
            proof.verified_at = Some(now);
        });
        if let Err(error) = noted.await {
            // The rest would fail as well, and the answer is not worth less for it.
            tracing::warn!("{error}\n  that it was verified now is not remembered there");
            return;
        }
    }
}
