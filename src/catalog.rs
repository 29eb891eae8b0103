//! What is stored at a destination, backup by backup. The destination itself is asked, every time: people
//! rename and delete files in a web page, and a local list would not know.
//!
//! Files of ours that have not changed since they were last read come from a cache that proves itself: each
//! lies there under its content hash.

mod find;

use std::fs;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use crate::archive::{ArchiveKind, ArchiveName, belonging};
use crate::content_hash::{Digest, hash_source};
use crate::destination::{Destination, Entry, LONGEST_RANGE};
use crate::error::{Error, ErrorKind};
use crate::manifest::{Manifest, ManifestArchive, Proof};
use crate::retry::Patience;
use crate::source::memory::MemorySource;
use crate::state::{StateDir, replace};

pub use crate::catalog::find::{Found, Wanted, find};

/// How a person with nothing but the destination gets back.
pub const RECOVERY: &str = "RECOVERY.md";
/// The folder of the cache in the state folder.
const CACHE: &str = "cache";
/// A cache with more files is emptied: most of them are of manifests that no longer exist.
const MOST_CACHED: usize = 4_000;
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
    pub manifest: Option<Result<Manifest, String>>,
    /// What it consists of, in the order of the kinds.
    pub archives: Vec<StoredArchive>,
    /// When it was last proved.
    pub proof: Proof,
    /// Manifest, member list and proof: the manifest first.
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

    /// What is wrong with its archives although they are whole tars.
    pub fn doubts(&self) -> Vec<String> {
        let manifest = self.readable_manifest();
        let archives = manifest.iter().flat_map(|manifest| &manifest.archives);
        archives
            .flat_map(|archive| {
                let told = |doubt: &String| format!("{}: {doubt}", archive.kind);
                archive.doubts.iter().map(told)
            })
            .collect()
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
                OwnPart::Members => Ok(Vec::new()),
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

/// Which of our files beside a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum OwnPart {
    Manifest,
    Members,
    Proof,
}

/// A file of ours and the backup it is about.
struct Own {
    name: ArchiveName,
    part: OwnPart,
    file: StoredFile,
}

/// The files of a destination by what they are.
#[derive(Default)]
struct Sorted {
    configs: Vec<(ArchiveName, StoredFile)>,
    data: Vec<(ArchiveName, StoredFile)>,
    own: Vec<Own>,
    unknown: Vec<StoredFile>,
}

impl Sorted {
    fn new(destination: &Destination, files: Vec<StoredFile>) -> Sorted {
        let mut sorted = Sorted::default();
        let lies_in =
            |file: &StoredFile, folder: &str| file.path == format!("{folder}/{}", file.name);
        for file in files {
            let archive = ArchiveName::parse(file.name.strip_suffix(".age").unwrap_or(&file.name));
            let own = own_part(&file.name);
            match (archive, own) {
                (Some(name), _)
                    if lies_in(&file, destination.folder(name.kind)) && file.size > 0 =>
                {
                    match name.kind {
                        ArchiveKind::Config => sorted.configs.push((name, file)),
                        ArchiveKind::Data => sorted.data.push((name, file)),
                    }
                }
                (_, Some((name, part))) if lies_in(&file, destination.manifest_folder()) => {
                    sorted.own.push(Own { name, part, file });
                }
                _ if file.path == format!("/{RECOVERY}") => {}
                _ => sorted.unknown.push(file),
            }
        }
        sorted
    }

    fn into_catalog(self, destination: &Destination, mut own: Vec<(Own, Vec<u8>)>) -> Catalog {
        own.sort_by_key(|(own, _)| own.part);
        let mut names: Vec<_> = self.data.iter().map(|(name, _)| name.clone()).collect();
        let of_manifests = own.iter().filter(|(own, _)| own.part == OwnPart::Manifest);
        names.extend(of_manifests.map(|(own, _)| own.name.clone()));
        names.sort_by(|a, b| b.age_order(a));
        names.dedup();
        let mut catalog = Catalog {
            destination: destination.name().to_owned(),
            kinds: destination.kinds().to_vec(),
            backups: Vec::new(),
            spare_configs: Vec::new(),
            unknown: self.unknown,
        };
        for name in names {
            let (of_this, others) = own.into_iter().partition(|(own, _)| own.name == name);
            own = others;
            catalog.backups.push(backup(
                destination,
                name,
                of_this,
                &self.configs,
                &self.data,
            ));
        }
        // Member lists and proofs whose backup is gone.
        catalog
            .unknown
            .extend(own.into_iter().map(|(own, _)| own.file));
        let used = |file: &StoredFile| {
            let archives = catalog.backups.iter().flat_map(|backup| &backup.archives);
            archives
                .flat_map(|archive| &archive.found)
                .any(|found| found.path == file.path)
        };
        let spare: Vec<_> = self
            .configs
            .into_iter()
            .map(|(_, file)| file)
            .filter(|file| !used(file))
            .collect();
        let stray: Vec<_> = self
            .data
            .into_iter()
            .map(|(_, file)| file)
            .filter(|file| !used(file))
            .collect();
        catalog.spare_configs = spare;
        // The same archive once encrypted and once not: the one that the manifest does not name.
        catalog.unknown.extend(stray);
        catalog.unknown.sort_by(|a, b| a.path.cmp(&b.path));
        catalog
    }
}

fn own_part(name: &str) -> Option<(ArchiveName, OwnPart)> {
    let endings = [
        (".proof.json", OwnPart::Proof),
        (".members.gz", OwnPart::Members),
        (".json", OwnPart::Manifest),
    ];
    let (id, part) = endings
        .iter()
        .find_map(|(ending, part)| Some((name.strip_suffix(ending)?, *part)))?;
    Some((ArchiveName::of_backup(id)?, part))
}

/// Puts together what is known of one backup.
fn backup(
    destination: &Destination,
    name: ArchiveName,
    own: Vec<(Own, Vec<u8>)>,
    configs: &[(ArchiveName, StoredFile)],
    data: &[(ArchiveName, StoredFile)],
) -> StoredBackup {
    let id = name.backup_id().unwrap_or_default().to_owned();
    let part = |part: OwnPart| {
        own.iter()
            .find(|(own, _)| own.part == part)
            .map(|(_, bytes)| bytes)
    };
    let manifest = part(OwnPart::Manifest).map(|bytes| Manifest::parse(bytes, &id));
    // A damaged proof proves nothing, and is replaced by the next one.
    let proof = part(OwnPart::Proof)
        .and_then(|bytes| Proof::parse(bytes).ok())
        .unwrap_or_default();
    let mut archives = Vec::new();
    let all = [(ArchiveKind::Config, configs), (ArchiveKind::Data, data)];
    for (kind, stored) in all {
        let expected = match &manifest {
            Some(Ok(manifest)) => manifest.archive(kind),
            _ => None,
        };
        if let Some(expected) = expected {
            let path = destination.path(kind, &expected.stored_name);
            let found = stored.iter().find(|(_, file)| file.path == path);
            archives.push(StoredArchive {
                kind,
                name: ArchiveName::parse(&expected.name)
                    .expect("looked at when the manifest was read"),
                path,
                expected: Some(expected.clone()),
                found: found.map(|(_, file)| file.clone()),
            });
            continue;
        }
        // Also where the manifest names none: stored by a later run of this kind alone, perhaps.
        let found = match kind {
            ArchiveKind::Config if manifest.as_ref().is_none_or(Result::is_err) => {
                belonging(&name, stored, |(name, _)| name)
            }
            ArchiveKind::Config => None,
            ArchiveKind::Data => stored.iter().find(|(found, _)| *found == name),
        };
        archives.extend(found.map(|(name, file)| StoredArchive {
            kind,
            name: name.clone(),
            path: file.path.clone(),
            expected: None,
            found: Some(file.clone()),
        }));
    }
    let missing = missing(destination, manifest.as_ref(), &archives);
    let own_files = own.into_iter().map(|(own, _)| own.file).collect();
    StoredBackup {
        id,
        data_name: name,
        manifest,
        archives,
        proof,
        own_files,
        missing,
    }
}

fn missing(
    destination: &Destination,
    manifest: Option<&Result<Manifest, String>>,
    archives: &[StoredArchive],
) -> Vec<Missing> {
    let mut missing = Vec::new();
    for kind in ArchiveKind::ALL
        .into_iter()
        .filter(|kind| destination.takes(*kind))
    {
        let archive = archives.iter().find(|archive| archive.kind == kind);
        let why = match archive.map(|archive| (archive, archive.status())) {
            None => format!("no {kind} archive"),
            Some((archive, FileStatus::Missing)) => format!("{} is not there", archive.path),
            Some((archive, FileStatus::Size)) => {
                format!("{} has another size than the manifest says", archive.path)
            }
            Some((archive, FileStatus::Hash)) => format!(
                "{} has another content than the manifest says",
                archive.path
            ),
            Some((archive, FileStatus::Ok | FileStatus::Stray)) => {
                if archive.expected.is_some() || !matches!(manifest, Some(Ok(_))) {
                    continue;
                }
                format!("{} is not in the manifest", archive.path)
            }
        };
        missing.push(Missing {
            what: kind.as_str(),
            why,
        });
    }
    match manifest {
        None => missing.push(Missing {
            what: "manifest",
            why: "no manifest".to_owned(),
        }),
        Some(Err(why)) => missing.push(Missing {
            what: "manifest",
            why: format!("the manifest cannot be used: {why}"),
        }),
        Some(Ok(_)) => {}
    }
    missing
}

async fn read_own(
    destination: &Destination,
    cache: Option<&Path>,
    file: &StoredFile,
    patience: &Patience,
) -> Result<Vec<u8>, Error> {
    let cached = cache
        .zip(file.content_hash)
        .map(|(folder, hash)| cached_path(folder, hash));
    if let Some((path, hash)) = cached.as_ref().zip(file.content_hash)
        && let Ok(bytes) = fs::read(path)
        && hash_of(&bytes) == hash
    {
        return Ok(bytes);
    }
    if file.size > LONGEST_RANGE {
        // No manifest is: it is judged as damaged.
        return Ok(Vec::new());
    }
    let bytes = destination
        .read(&file.path, 0, file.size.max(1), patience)
        .await?;
    if let Some(path) = cached.filter(|_| Some(hash_of(&bytes)) == file.content_hash) {
        keep(&path, &bytes);
    }
    Ok(bytes)
}

/// Remembers a file of ours that was just stored, so that it need not be read.
pub fn remember(state: &StateDir, bytes: &[u8]) {
    if let Ok(folder) = state.folder(CACHE) {
        keep(&cached_path(&folder, hash_of(bytes)), bytes);
    }
}

/// Only a cache: that it cannot be written costs time later and nothing else.
fn keep(path: &Path, bytes: &[u8]) {
    let folder = path.parent().unwrap_or(path);
    let count = fs::read_dir(folder).map_or(0, Iterator::count);
    if count >= MOST_CACHED {
        let _ = fs::remove_dir_all(folder).and_then(|()| fs::create_dir(folder));
    }
    let _ = replace(path, bytes);
}

fn cached_path(folder: &Path, hash: Digest) -> PathBuf {
    folder.join(hash.to_string())
}

/// The content hash of a few bytes.
pub fn hash_of(bytes: &[u8]) -> Digest {
    hash_source(&MemorySource::new(bytes.to_vec())).expect("memory can be read")
}
