//! Is what lies at a destination under an archive's name this very archive?
//!
//! A place that tells content hashes has said it. Elsewhere, in this order: a file of another size is not; what this
//! machine stored, proved and noted there is, as long as the place names its content the same way; what the
//! manifest there names, with the same hash and size, is, if nothing was noted that says otherwise; else it is
//! read back.

use super::Run;
use super::record::{Record, RecordedArchive, StoredAs};
use super::seals::Note;
use crate::archive::ArchiveName;
use crate::catalog::{Catalog, read_ours};
use crate::content_hash::{ContentHasher, Digest, hash_source};
use crate::destination::fetch::fetch;
use crate::destination::{Destination, FileEntry};
use crate::error::Error;
use crate::manifest::Manifest;
use crate::retry::Patience;
use crate::seal::SUFFIX;
use crate::source::Fingerprint;
use crate::units::Size;

/// What a comparison came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Likeness {
    Same,
    Other,
    /// Of the same size; a dry run reads no more than that.
    Unread,
}

/// An archive as a destination holds it.
pub(super) struct There {
    pub(super) name: String,
    pub(super) size: u64,
    pub(super) hash: Digest,
    pub(super) recipients: Vec<String>,
    /// Of the plain archive.
    pub(super) content_hash: Digest,
}

/// Stored as GitLab made it.
fn plain(archive: &RecordedArchive, hash: Digest) -> There {
    There {
        name: archive.name.clone(),
        size: archive.size,
        hash,
        recipients: Vec::new(),
        content_hash: hash,
    }
}

fn encrypted(stored: Note) -> There {
    let name = stored.path.rsplit('/').next().unwrap_or_default();
    There {
        name: name.to_owned(),
        size: stored.stored_size,
        hash: stored.stored_hash,
        recipients: stored.recipients,
        content_hash: stored.content_hash,
    }
}

/// A file at a destination that has an archive's name.
pub(super) struct Candidate<'a> {
    pub(super) destination: &'a Destination,
    pub(super) path: &'a str,
    pub(super) name: &'a ArchiveName,
    pub(super) found: &'a FileEntry,
}

impl Run<'_> {
    /// Whether it is the content with this hash.
    pub(super) async fn is_same(
        &self,
        candidate: &Candidate<'_>,
        hash: Digest,
        patience: &Patience,
    ) -> Result<Likeness, Error> {
        let found = candidate.found;
        let judged = |same| {
            if same {
                Likeness::Same
            } else {
                Likeness::Other
            }
        };
        if let Some(told) = found.content_hash {
            return Ok(judged(told == hash));
        }
        let records = Record::all(self.job.state);
        let noted = noted(&records, candidate);
        if let Some(noted) = noted
            && (noted.size, &noted.rev) == (found.size, &found.rev)
        {
            return Ok(judged(noted.hash == hash));
        }
        if noted.is_none()
            && self
                .is_in_manifest(&records, candidate, hash, patience)
                .await?
        {
            return Ok(Likeness::Same);
        }
        if self.job.request.dry_run {
            return Ok(Likeness::Unread);
        }
        let (name, path) = (candidate.destination.name(), candidate.path);
        tracing::info!(
            "{name}: reading {path} ({}) back, to see whether it is {}",
            Size(found.size),
            candidate.name
        );
        let mut hasher = ContentHasher::default();
        fetch(
            candidate.destination,
            path,
            0..found.size,
            patience,
            async |part: Vec<u8>| {
                hasher.update(&part);
                Ok(())
            },
        )
        .await?;
        Ok(judged(hasher.finish() == hash))
    }

    /// Whether the manifest there says that this content was stored under this name.
    async fn is_in_manifest(
        &self,
        records: &[Record],
        candidate: &Candidate<'_>,
        hash: Digest,
        patience: &Patience,
    ) -> Result<bool, Error> {
        let name = candidate.name.as_str();
        let named = |record: &&Record| record.archives.iter().any(|known| known.name == name);
        // What a config archive belongs to is known here, or not at all.
        let of_record = || {
            records
                .iter()
                .rfind(named)
                .map(|record| record.backup_id.as_str())
        };
        let Some(id) = candidate.name.backup_id().or_else(of_record) else {
            return Ok(false);
        };
        let path = format!("{}/{id}.json", candidate.destination.manifest_folder());
        let there = read_ours(candidate.destination, &path, self.job.state, patience).await?;
        let manifest = there.and_then(|(_, bytes)| Manifest::parse(&bytes, id).ok());
        let archives = manifest.iter().flat_map(|manifest| &manifest.archives);
        let mut same = archives.filter(|archive| {
            archive.stored_hash == hash && archive.stored_size == candidate.found.size
        });
        Ok(same.any(|archive| {
            candidate
                .path
                .ends_with(&format!("/{}", archive.stored_name))
        }))
    }

    /// What a destination holds under an archive's name, encrypted or not, if it is this very archive.
    pub(super) async fn there(
        &self,
        archive: &mut RecordedArchive,
        destination: &Destination,
        catalog: Option<&Catalog>,
        patience: &Patience,
    ) -> Option<There> {
        let rows = self
            .report
            .archives
            .iter()
            .filter(|row| row.name == archive.name);
        let mut uploads = rows
            .flat_map(|row| &row.uploads)
            .filter(|upload| upload.destination == destination.name());
        if let Some(upload) = uploads.find(|upload| upload.status.is_stored()) {
            return match self.seals.stored(destination.name(), &upload.path) {
                Some(sealed) if upload.path.ends_with(SUFFIX) => Some(encrypted(sealed)),
                _ => Some(plain(archive, upload.content_hash?)),
            };
        }
        let path = destination.path(archive.kind, &archive.name);
        let sealed = self
            .seals
            .stored(destination.name(), &(path.clone() + SUFFIX));
        if let Some(sealed) = sealed.filter(|sealed| sealed.fingerprint == archive.fingerprint)
            && let Some(found) = catalog?.file(&sealed.path)
            && sealed.is(found)
        {
            archive.content_hash = Some(sealed.content_hash);
            return Some(encrypted(sealed));
        }
        let found = catalog?
            .file(&path)
            .filter(|found| found.size == archive.size)?;
        if archive.content_hash.is_none() {
            let source = archive.open()?;
            let hashing = tokio::task::spawn_blocking(move || hash_source(&*source));
            archive.content_hash = hashing.await.ok()?.ok();
        }
        let hash = archive.content_hash?;
        let name = ArchiveName::parse(&archive.name)?;
        let file = FileEntry {
            size: found.size,
            content_hash: found.content_hash,
            rev: found.rev.clone(),
            modified: None,
        };
        let candidate = Candidate {
            destination,
            path: &path,
            name: &name,
            found: &file,
        };
        match self.is_same(&candidate, hash, patience).await {
            Ok(Likeness::Same) => Some(plain(archive, hash)),
            Ok(_) => None,
            Err(error) => {
                tracing::warn!("{error}");
                None
            }
        }
    }

    /// The content hash of this very file, if it was read as a whole before.
    pub(super) fn known_hash(
        &self,
        name: &ArchiveName,
        fingerprint: &Fingerprint,
    ) -> Option<Digest> {
        let records = Record::all(self.job.state);
        let archives = records.iter().flat_map(|record| &record.archives);
        let mut same = archives
            .filter(|known| known.name == name.as_str() && known.fingerprint == *fingerprint);
        same.find_map(|known| known.content_hash)
    }

    /// Remembers, for the next run, what is proved to be stored where the place tells no hash.
    pub(super) fn note_stored(&mut self, candidate: &Candidate<'_>, hash: Digest) {
        if candidate.found.content_hash.is_none() {
            let stored = StoredAs {
                destination: candidate.destination.name().to_owned(),
                path: candidate.path.to_owned(),
                size: candidate.found.size,
                hash,
                rev: candidate.found.rev.clone(),
            };
            self.stored
                .push((candidate.name.as_str().to_owned(), stored));
        }
    }
}

/// What this machine noted of this path there, the newest record first.
fn noted<'a>(records: &'a [Record], candidate: &Candidate<'_>) -> Option<&'a StoredAs> {
    let archives = records.iter().rev().flat_map(|record| &record.archives);
    let mut stored = archives
        .filter(|known| known.name == candidate.name.as_str())
        .flat_map(|known| &known.stored);
    stored.find(|stored| {
        stored.destination == candidate.destination.name() && stored.path == candidate.path
    })
}
