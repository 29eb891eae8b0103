//! Files of ours that were read once: each lies under its content hash, so that the cache proves itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::StoredFile;
use crate::content_hash::{Digest, hash_source};
use crate::destination::{Destination, LONGEST_RANGE};
use crate::error::Error;
use crate::retry::Patience;
use crate::source::Source;
use crate::source::memory::MemorySource;
use crate::state::{StateDir, replace};

/// Its folder in the state folder.
pub(super) const CACHE: &str = "cache";
/// A cache with more files is emptied: most of them are of manifests that no longer exist.
const MOST_CACHED: usize = 4_000;

/// The bytes of a small file of ours.
pub(super) async fn read_own(
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

/// The bytes of a small file of ours by its path, and what there is of it; none if nothing is there.
pub async fn read_ours(
    destination: &Destination,
    path: &str,
    state: &StateDir,
    patience: &Patience,
) -> Result<Option<(StoredFile, Vec<u8>)>, Error> {
    let there = destination.stat(path, patience).await?;
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let Some(file) = there.and_then(|entry| StoredFile::new(folder, entry)) else {
        return Ok(None);
    };
    let cache = state.folder(CACHE).ok();
    let bytes = read_own(destination, cache.as_deref(), &file, patience).await?;
    Ok(Some((file, bytes)))
}

/// Stores a small file of ours, in the place of the one before, and remembers it.
pub async fn store_ours(
    destination: &Destination,
    path: &str,
    bytes: Vec<u8>,
    state: &StateDir,
    patience: &Patience,
) -> Result<(), Error> {
    let hash = hash_of(&bytes);
    let source: Arc<dyn Source> = Arc::new(MemorySource::new(bytes.clone()));
    destination.put(path, &source, hash, patience).await?;
    remember(state, &bytes);
    Ok(())
}

/// Remembers a file of ours that was just stored, so that it need not be read.
fn remember(state: &StateDir, bytes: &[u8]) {
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
