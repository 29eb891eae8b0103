//! What is stored at a destination, backup by backup. The destination itself is asked, every time: people
//! rename and delete files in a web page, and a local list would not know.
//!
//! Files of ours that have not changed since they were last read come from a cache.

mod assemble;
mod cache;
mod find;

use chrono::{DateTime, Utc};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use crate::archive::{ArchiveKind, ArchiveName};
use crate::content_hash::Digest;
use crate::destination::{Destination, Entry};
use crate::error::{Error, ErrorKind};
use crate::manifest::{Manifest, ManifestArchive, Problem, Proof};
use crate::retry::Patience;
use crate::state::StateDir;

use self::assemble::{OwnPart, Sorted};
use self::cache::{CACHE, read_own};

pub use crate::catalog::cache::{hash_of, read_ours, store_ours};
pub use crate::catalog::find::{Found, Wanted, find};

/// How a person with nothing but the destination gets back.
pub const RECOVERY: &str = "RECOVERY.md";
/// Manifests that are read at a time.
const READERS: usize = 4;

/// Everything at one destination.
#[derive(Debug)]
pub struct Catalog {
    /// The destination's name.
    pub destination: String,
    /// The kinds it is configured to get.
    pub kinds: Vec<ArchiveKind>,
    /// The newest first.
    pub backups: Vec<StoredBackup>,
    /// Config archives that belong to none of them.
    pub spare_configs: Vec<StoredFile>,
    /// Files in our folders that this program does not know; it never touches them.
    pub unknown: Vec<StoredFile>,
}

/// A file at a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredFile {
    /// Its path there.
    pub path: String,
    /// The last component of it.
    pub name: String,
    /// In bytes.
    pub size: u64,
    /// As the destination tells it.
    pub content_hash: Option<Digest>,
    /// Names this very content.
    pub rev: String,
}

/// One backup at one destination.
#[derive(Debug)]
pub struct StoredBackup {
    /// GitLab's ID.
    pub id: String,
    /// The name GitLab gave its data archive.
    pub data_name: ArchiveName,
    /// Its manifest; none for a backup of another program; else why it cannot be read.
    pub manifest: Option<Result<Manifest, Problem>>,
    /// What it consists of, in the order of the kinds.
    pub archives: Vec<StoredArchive>,
    /// When it was last proved.
    pub proof: Proof,
    /// Why what is stored of that cannot be read.
    pub proof_problem: Option<Problem>,
    /// Manifest, member list, index of projects and proof: the manifest first.
    pub own_files: Vec<StoredFile>,
    /// Kinds the destination is configured to get and does not have, whole, with a word on each.
    pub missing: Vec<Missing>,
}

/// Something a backup lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// `config`, `data` or `manifest`.
    pub what: &'static str,
    /// What is wrong.
    pub why: String,
}

/// An archive that belongs to a backup.
#[derive(Clone, Debug)]
pub struct StoredArchive {
    /// Config or data.
    pub kind: ArchiveKind,
    /// The name GitLab gave it.
    pub name: ArchiveName,
    /// Where it is, or should be.
    pub path: String,
    /// What the manifest says of it, if there is one.
    pub expected: Option<ManifestArchive>,
    /// What is there.
    pub found: Option<StoredFile>,
}

/// How a stored file compares with the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FileStatus {
    /// As the manifest says, as far as it says something.
    Ok,
    /// Not there.
    Missing,
    /// Of another size.
    Size,
    /// Of the right size with another content hash.
    Hash,
    /// There, and nobody knows why.
    Stray,
}

/// What is to be said of a backup that failed its rehearsal.
pub fn failed_rehearsal(at: DateTime<Utc>) -> String {
    let day = at.format("%Y-%m-%d");
    format!("it was not restorable when it was rehearsed on {day}")
}

impl StoredArchive {
    /// Compares what is there with what the manifest says.
    pub fn status(&self) -> FileStatus {
        match (&self.found, &self.expected) {
            (None, _) => FileStatus::Missing,
            (Some(found), Some(expected)) if found.size != expected.stored_size => FileStatus::Size,
            (Some(found), Some(expected))
                if found
                    .content_hash
                    .is_some_and(|hash| hash != expected.stored_hash) =>
            {
                FileStatus::Hash
            }
            _ => FileStatus::Ok,
        }
    }

    /// Its size where it is stored, in bytes: what is there, else what should be.
    pub fn size(&self) -> u64 {
        let expected = self.expected.as_ref().map(|expected| expected.stored_size);
        self.found
            .as_ref()
            .map(|found| found.size)
            .or(expected)
            .unwrap_or(0)
    }
}

impl StoredBackup {
    /// Whether the destination has all it is configured to get of it, whole, undoubted, and the manifest.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.doubts().is_empty()
    }

    /// Its manifest, if it can be read.
    pub fn readable_manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()?.as_ref().ok()
    }

    /// Whether it was stored by a program that writes no manifests.
    pub fn is_unmanaged(&self) -> bool {
        self.manifest.is_none()
    }

    /// What is wrong with its archives although they are whole tars, and whether it failed when it was last
    /// rehearsed: such a backup is no reason to delete a better one.
    pub fn doubts(&self) -> Vec<String> {
        let manifest = self.readable_manifest();
        let archives = manifest.iter().flat_map(|manifest| &manifest.archives);
        let doubts = archives.flat_map(|archive| {
            let told = |doubt: &String| format!("{}: {doubt}", archive.kind);
            archive.doubts.iter().map(told)
        });
        let failed = self.proof.failed_rehearsal_at;
        let rehearsal = failed.map(failed_rehearsal);
        let unreadable = self.proof_problem.as_ref();
        let unreadable = unreadable.map(|why| format!("whether it was proved is not known: {why}"));
        doubts.chain(rehearsal).chain(unreadable).collect()
    }

    /// The time in its ID.
    pub fn created_at(&self) -> DateTime<Utc> {
        self.data_name.created_at()
    }

    /// When sizes and hashes were last right: after storing, or later.
    pub fn verified_at(&self) -> Option<DateTime<Utc>> {
        let stored = self.readable_manifest().map(|manifest| manifest.written_at);
        stored.max(self.proof.verified_at)
    }

    /// Whether its shrinking still waits for somebody to say that it is right.
    pub fn is_frozen(&self) -> bool {
        let shrunk = self
            .readable_manifest()
            .is_some_and(|manifest| !manifest.shrunk.is_empty());
        shrunk && self.proof.shrink_accepted_at.is_none()
    }

    /// Its archive of a kind.
    pub fn archive(&self, kind: ArchiveKind) -> Option<&StoredArchive> {
        self.archives.iter().find(|archive| archive.kind == kind)
    }
}

impl Catalog {
    /// Asks the destination. `state` holds the cache; that it cannot be used only costs time.
    pub async fn read(
        destination: &Destination,
        state: &StateDir,
        patience: &Patience,
    ) -> Result<Catalog, Error> {
        let mut files = Vec::new();
        let mut folders: Vec<&str> = ArchiveKind::ALL.map(|kind| destination.folder(kind)).into();
        folders.push(destination.manifest_folder());
        folders.sort_unstable();
        folders.dedup();
        for folder in folders {
            let listed = destination.list(folder, patience).await?;
            let listed = listed.into_iter().flatten();
            files.extend(listed.filter_map(|entry| StoredFile::new(folder, entry)));
        }
        let mut sorted = Sorted::new(destination, files);
        let cache = state.folder(CACHE).ok();
        let own = std::mem::take(&mut sorted.own);
        let reads = own.into_iter().map(async |own| {
            let bytes = match own.part {
                OwnPart::Members | OwnPart::Projects => Ok(Vec::new()),
                _ => read_own(destination, cache.as_deref(), &own.file, patience).await,
            };
            match bytes {
                Ok(bytes) => Ok(Some((own, bytes))),
                // Deleted since it was listed.
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
            }
        });
        let own: Vec<_> = stream::iter(reads).buffered(READERS).try_collect().await?;
        Ok(sorted.into_catalog(destination, own.into_iter().flatten().collect()))
    }

    /// The backup with an ID.
    pub fn backup(&self, id: &str) -> Option<&StoredBackup> {
        self.backups.iter().find(|backup| backup.id == id)
    }

    /// The archive at a path, whatever backup it belongs to.
    pub fn file(&self, path: &str) -> Option<&StoredFile> {
        let archives = self.backups.iter().flat_map(|backup| &backup.archives);
        let mut files = archives
            .filter_map(|archive| archive.found.as_ref())
            .chain(&self.spare_configs);
        files.find(|file| file.path == path)
    }

    /// The newest complete one.
    pub fn newest_complete(&self) -> Option<&StoredBackup> {
        self.backups.iter().find(|backup| backup.is_complete())
    }
}

impl StoredFile {
    fn new(folder: &str, entry: Entry) -> Option<StoredFile> {
        let file = entry.file?;
        Some(StoredFile {
            path: format!("{folder}/{}", entry.name),
            name: entry.name,
            size: file.size,
            content_hash: file.content_hash,
            rev: file.rev,
        })
    }
}
