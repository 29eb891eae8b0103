//! What is to be fetched, and how it is known to be right.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::runbook::RunbookStep;
use super::{Halt, Job};
use crate::archive::ArchiveKind;
use crate::catalog::{FileStatus, Found, StoredArchive, StoredBackup};
use crate::content_hash::Digest;
use crate::destination::unsealed::{Unsealed, is_sealed};
use crate::retry::Patience;

/// An archive that is wanted here, and how it is known to be the right one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Wish {
    pub(super) kind: ArchiveKind,
    pub(super) name: String,
    pub(super) stored_path: String,
    /// Of what is stored, in bytes.
    #[serde(default)]
    pub(super) stored_size: u64,
    /// Of what is stored, where that is encrypted.
    #[serde(default)]
    pub(super) stored_hash: Option<Digest>,
    /// As GitLab made it, in bytes.
    pub(super) size: u64,
    /// As the manifest or the destination tells it, of what GitLab made.
    pub(super) hash: Option<Digest>,
    /// Names the content, for the part file.
    pub(super) key: Digest,
    pub(super) rev: String,
}

/// What is to be fetched of a kind. `both`: the other kind is wanted, too. What is encrypted is opened, so that nothing
/// is begun with a key that does not fit.
pub(super) async fn wish(
    job: &Job<'_>,
    found: &Found<'_>,
    kind: ArchiveKind,
    both: bool,
) -> Result<Wish, Halt> {
    let (destination, backup) = (found.destination.name(), &found.backup);
    let other = match kind {
        ArchiveKind::Config => ArchiveKind::Data,
        ArchiveKind::Data => ArchiveKind::Config,
    };
    let missing = |why: &str| {
        let way_out = if both && is_there(backup, other) {
            format!("fetch what is there with --only {other}, or name another backup")
        } else {
            "name another backup: `gitlab-pi-backup list` shows them".to_owned()
        };
        Halt::Failed(format!(
            "{destination}: {}: the {kind} archive cannot be had: {why}\n  {way_out}",
            backup.id
        ))
    };
    let archive = backup
        .archive(kind)
        .ok_or_else(|| missing("none is stored"))?;
    let Some(stored) = &archive.found else {
        return Err(missing(&format!("{} is not there", archive.path)));
    };
    match archive.status() {
        FileStatus::Size => {
            let expected = archive
                .expected
                .as_ref()
                .map_or(0, |expected| expected.stored_size);
            let sizes = format!(
                "{} has {} bytes, not {expected} as the manifest says",
                archive.path, stored.size
            );
            return Err(missing(&sizes));
        }
        FileStatus::Hash => {
            return Err(missing(&format!(
                "{} has another content than the manifest says",
                archive.path
            )));
        }
        FileStatus::Ok | FileStatus::Missing | FileStatus::Stray => {}
    }
    let hash = known_hash(archive).map_err(|why| missing(&why))?;
    let sealed = is_sealed(&archive.path);
    let size = if sealed {
        let patience = Patience::short(job.retry_for);
        let opening = Unsealed::open(
            found.destination,
            &archive.path,
            stored.size,
            job.identities,
            &patience,
        );
        opening.await?.len()
    } else {
        stored.size
    };
    if let Some(expected) = archive
        .expected
        .as_ref()
        .filter(|expected| expected.size != size)
    {
        let sizes = format!(
            "it has {size} bytes, not {} as the manifest says",
            expected.size
        );
        return Err(missing(&sizes));
    }
    Ok(Wish {
        kind,
        name: archive.name.as_str().to_owned(),
        stored_path: archive.path.clone(),
        stored_size: stored.size,
        stored_hash: archive
            .expected
            .as_ref()
            .filter(|_| sealed)
            .map(|expected| expected.stored_hash),
        size,
        hash,
        key: hash
            .unwrap_or_else(|| Digest::of(format!("{} {}", stored.rev, stored.size).as_bytes())),
        rev: stored.rev.clone(),
    })
}

/// The content hash of the archive as GitLab made it: the manifest's word, else, of one that is not encrypted, the
/// destination's.
fn known_hash(archive: &StoredArchive) -> Result<Option<Digest>, String> {
    let sealed = is_sealed(&archive.path);
    match &archive.expected {
        None if sealed => Ok(None),
        None => Ok(archive.found.as_ref().and_then(|found| found.content_hash)),
        // What is stored as GitLab made it has one size and one hash.
        Some(expected)
            if !sealed
                && (expected.content_hash != expected.stored_hash
                    || expected.size != expected.stored_size) =>
        {
            Err("the manifest contradicts itself".to_owned())
        }
        Some(expected) => Ok(Some(expected.content_hash)),
    }
}

fn is_there(backup: &StoredBackup, kind: ArchiveKind) -> bool {
    backup
        .archive(kind)
        .is_some_and(|archive| archive.found.is_some())
}

/// Adds to the step that fetches how encrypted archives are decrypted.
pub(super) fn tell_of_identity(
    step: &mut RunbookStep,
    backup: &StoredBackup,
    identity: Option<&Path>,
) {
    let mut there = backup
        .archives
        .iter()
        .filter(|archive| archive.found.is_some());
    if !there.any(|archive| is_sealed(&archive.path)) {
        return;
    }
    match (identity, &mut step.command) {
        (Some(path), Some(command)) => {
            command.extend(["--identity".to_owned(), path.display().to_string()]);
        }
        _ => step.notes.push(
            "it is encrypted: add --identity FILE, the file with the private key of one of its recipients"
                .to_owned(),
        ),
    }
}
