//! The lists of what the archives of a backup hold, and the index of its projects, stored beside its manifest:
//! rehearsing and restoring do without them, looking for a file does not. What is in an encrypted archive is
//! encrypted like it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Run;
use super::record::{Record, members_folder, members_path};
use crate::archive::ArchiveKind;
use crate::content_hash::{Digest, hash_source};
use crate::destination::{Destination, LARGEST_SMALL_FILE};
use crate::error::Error;
use crate::manifest::Manifest;
use crate::retry::Patience;
use crate::seal::{Recipients, SUFFIX, Sealing};
use crate::source::Source;
use crate::source::file::FileSource;
use crate::source::sealed::{Hashing, Sealed};

impl Run<'_> {
    /// Stores the lists of a backup: those of plain archives in one file, those of encrypted ones in another; and
    /// the index.
    pub(super) async fn store_lists(
        &self,
        record: &Record,
        destination: &Destination,
        manifest: &Manifest,
        patience: &Patience,
    ) -> Result<(), Error> {
        let (mut plain, mut hidden) = (Vec::new(), Vec::new());
        let mut recipients = None;
        for archive in &record.archives {
            let list = members_path(self.job.state, &archive.name);
            let list = Some(list).filter(|list| list.is_file());
            match self.readers(archive.kind, manifest) {
                Some(all) => {
                    hidden.extend(list);
                    recipients = recipients.or(Some(all));
                }
                None => plain.extend(list),
            }
        }
        let base = format!("{}/{}", destination.manifest_folder(), record.backup_id);
        let list = self.joined(&plain, &format!("{}.members.gz", record.backup_id));
        let path = format!("{base}.members.gz");
        put(destination, path.clone(), list, None, patience).await?;
        let name = format!("{}.encrypted.members.gz", record.backup_id);
        let list = self.joined(&hidden, &name);
        put(destination, path, list, recipients, patience).await?;
        let index = record.project_index(self.job.state);
        let index = index.and_then(|path| FileSource::open(&path).ok());
        let readers = self.readers(ArchiveKind::Data, manifest);
        put(
            destination,
            format!("{base}.projects.gz"),
            index,
            readers,
            patience,
        )
        .await
    }

    /// Who may read what is in the archive of a kind; none: everybody. Also where the place does not get the
    /// archive: what is in it is as much a secret there as elsewhere.
    fn readers(&self, kind: ArchiveKind, manifest: &Manifest) -> Option<Recipients> {
        let stored = manifest.archive(kind).map(|stored| &stored.recipients);
        let stored = stored.filter(|stored| !stored.is_empty());
        let stored = stored.and_then(|all| Recipients::parse(all.iter().map(String::as_str)).ok());
        let configured = || self.job.encryption.and_then(|all| all.of(kind)).cloned();
        stored.or_else(configured)
    }

    /// Lists as one file; gzip streams may follow each other.
    fn joined(&self, lists: &[PathBuf], name: &str) -> Option<FileSource> {
        if lists.is_empty() {
            return None;
        }
        let path = members_folder(self.job.state).ok()?.join(name);
        let joined = join(lists, &path).and_then(|()| FileSource::open(&path));
        joined
            .inspect_err(|error| {
                tracing::warn!(
                    "{}: {error}; the backup is stored without its member list",
                    path.display()
                );
            })
            .ok()
            .filter(|source| !source.is_empty())
    }
}

fn join(lists: &[PathBuf], path: &Path) -> io::Result<()> {
    let mut joined = File::create(path)?;
    for list in lists {
        io::copy(&mut File::open(list)?, &mut joined)?;
    }
    joined.sync_all()
}

/// Stores a file, if there is one, encrypted if only some may read it.
async fn put(
    destination: &Destination,
    mut path: String,
    file: Option<FileSource>,
    readers: Option<Recipients>,
    patience: &Patience,
) -> Result<(), Error> {
    let Some(file) = file else { return Ok(()) };
    let mut source: Arc<dyn Source> = Arc::new(file);
    if let Some(readers) = readers {
        path += SUFFIX;
        match Sealing::new(&readers) {
            Ok(sealing) => {
                source = Arc::new(Sealed::new(source, Arc::new(sealing), Hashing::None));
            }
            Err(why) => {
                tracing::warn!("{path}: {why}; it is left out");
                return Ok(());
            }
        }
    }
    if source.len() <= LARGEST_SMALL_FILE
        && let Some(hash) = hash(&source).await
    {
        destination.put(&path, &source, hash, patience).await?;
    }
    Ok(())
}

async fn hash(source: &Arc<dyn Source>) -> Option<Digest> {
    let source = source.clone();
    tokio::task::spawn_blocking(move || hash_source(&*source))
        .await
        .ok()?
        .ok()
}
