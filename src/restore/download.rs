//! One archive from a destination into a folder, so that only what is proved ever has its name there.
//!
//! It is written in order into a [part file](super::part), brought onto the disk now and then, and at the
//! end hashed from the disk.

use std::fs::{self, File};
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Advice, fadvise};

use super::part::{Part, hash_in_pool, remove_strays, usable};
use super::target::{Folder, Owner};
use super::{Halt, Job, Wish};
use crate::content_hash::Digest;
use crate::destination::Destination;
use crate::destination::unsealed::Unsealed;
use crate::error::{Error, ErrorKind};
use crate::progress::Progress;
use crate::retry::Patience;
use crate::source::file::FileSource;
use crate::units::MIB;

/// So much is written between two syncs: after a power cut no more than this is fetched again, and an
/// SD card is not asked too often.
const SYNC_EVERY: u64 = 64 * MIB;
/// What came of a download.
pub(super) struct Fetched {
    pub(super) part: Part,
    /// Bytes an earlier call had fetched.
    pub(super) resumed: u64,
    /// Whether the content hash was known, and is right.
    pub(super) verified: bool,
}

/// What is at an archive's place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Present {
    /// Nothing.
    Nothing,
    /// The archive.
    Same,
    /// Something else; in words.
    Other(String),
}

/// Looks at the place of an archive. Reads a file of the right size to its end.
pub(super) async fn look(wish: &Wish, folder: &Folder) -> Result<Present, String> {
    let path = folder.path.join(&wish.name);
    let fail = |error: io::Error| format!("looking at {}: {error}", path.display());
    let metadata = match fs::symlink_metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Present::Nothing),
        metadata => metadata.map_err(fail)?,
    };
    if !metadata.is_file() {
        return Ok(Present::Other("it is no regular file".to_owned()));
    }
    if metadata.len() != wish.size {
        let what = format!("it has {} bytes, not {}", metadata.len(), wish.size);
        return Ok(Present::Other(what));
    }
    let Some(expected) = wish.hash else {
        let what = "it has the right size, but no content hash is known to compare it with";
        return Ok(Present::Other(what.to_owned()));
    };
    let source = FileSource::open(&path).map_err(fail)?;
    let hash = hash_in_pool(source).await.map_err(fail)?;
    Ok(if hash == expected {
        Present::Same
    } else {
        Present::Other(format!("its content hash is {hash}, not {expected}"))
    })
}

/// Fetches an archive into its part file and proves it. `folder` is where it will be placed.
pub(super) async fn download(
    job: &Job<'_>,
    destination: &Destination,
    wish: &Wish,
    folder: &Arc<Folder>,
) -> Result<Fetched, Halt> {
    remove_strays(wish, folder);
    let part = Part::open(wish, folder).map_err(|error| {
        Halt::Failed(format!(
            "making a file in {}: {error}\n  run as root, or name a folder you may write with --to DIR",
            folder.path.display()
        ))
    })?;
    let mut resumed = part
        .file
        .metadata()
        .map_or(0, |metadata| usable(metadata.len(), wish.size));
    loop {
        let stored_hash = transfer(job, destination, wish, &part, resumed).await?;
        let Some(hash) = part
            .hash()
            .await
            .map_err(|error| failed(&part, "reading", &error))?
        else {
            let path = part.path();
            return Err(Halt::Failed(format!(
                "{} has been replaced",
                path.display()
            )));
        };
        // What was continued is proved by the one hash, and chunk by chunk.
        let as_stored =
            stored_hash.is_none() || wish.stored_hash.is_none() || stored_hash == wish.stored_hash;
        if as_stored && wish.hash.is_none_or(|expected| expected == hash) {
            let verified = wish.hash.is_some();
            return Ok(Fetched {
                part,
                resumed,
                verified,
            });
        }
        let place = format!("{}:{}", destination.name(), wish.stored_path);
        if resumed > 0 {
            tracing::warn!(
                "{place}: what an earlier call had fetched is damaged; it is fetched anew"
            );
            resumed = 0;
            continue;
        }
        part.remove();
        return Err(Halt::Failed(mismatch(job, destination, wish, hash).await));
    }
}

/// Copies an archive from elsewhere on this machine into `folder`, proves and places it.
pub(super) async fn copy(
    wish: &Wish,
    from: &Path,
    folder: &Arc<Folder>,
    owner: &Owner,
) -> Result<(), Halt> {
    let fail = |error: io::Error| {
        Halt::Failed(format!(
            "copying {} to {}: {error}",
            from.display(),
            folder.path.display()
        ))
    };
    let part = Part::open(wish, folder).map_err(fail)?;
    let (file, from) = (part.file.clone(), from.to_owned());
    let copying = move || {
        file.set_len(0)?;
        io::copy(&mut File::open(from)?, &mut &*file)?;
        file.sync_data()
    };
    let copied = tokio::task::spawn_blocking(copying).await;
    copied
        .unwrap_or_else(|error| Err(io::Error::other(error)))
        .map_err(fail)?;
    let hash = part.hash().await.map_err(fail)?;
    if hash.is_none() || wish.hash.is_some_and(|expected| hash != Some(expected)) {
        part.remove();
        return Err(fail(io::Error::other("it changed meanwhile")));
    }
    Ok(part.place(wish, owner)?)
}

/// What to say of bytes that are not the expected ones.
pub(super) async fn mismatch(
    job: &Job<'_>,
    destination: &Destination,
    wish: &Wish,
    hash: Digest,
) -> String {
    let place = format!("{}:{}", destination.name(), wish.stored_path);
    let patience = Patience::new(job.retry_for);
    let now = destination.stat(&wish.stored_path, &patience).await;
    let rev = now
        .ok()
        .flatten()
        .and_then(|entry| entry.file)
        .map(|file| file.rev);
    if rev.is_some_and(|rev| rev != wish.rev) {
        return format!(
            "{place}: it was replaced while it was fetched; nothing is placed\n  run the same command again"
        );
    }
    let expected = wish.hash.map_or_else(String::new, |hash| hash.to_string());
    format!(
        "{place}: the stored archive is damaged: its content hash is {hash}, not {expected}; nothing is placed\n  \
         restore another backup (`gitlab-pi-backup list` shows them), or from another destination"
    )
}

/// Brings the bytes from `from` on into the part file, and all of it onto the disk. The content hash of what is
/// stored, where that is encrypted and all of it was read.
async fn transfer(
    job: &Job<'_>,
    destination: &Destination,
    wish: &Wish,
    part: &Part,
    from: u64,
) -> Result<Option<Digest>, Halt> {
    let patience = Patience::new(job.retry_for);
    let stored = Unsealed::open(
        destination,
        &wish.stored_path,
        wish.stored_size,
        job.identities,
        &patience,
    );
    let stored = stored.await?;
    part.file
        .set_len(from)
        .map_err(|error| failed(part, "cutting", &error))?;
    let progress = Progress::new(job.show, wish.name.clone(), wish.size);
    progress.resumed(from);
    let (mut offset, mut synced) = (from, from);
    let fetching = stored.fetch(from..wish.size, &patience, async |bytes: Vec<u8>| {
        let len = bytes.len() as u64;
        let sync = (offset + len - synced >= SYNC_EVERY).then_some(synced..offset + len);
        let file = part.file.clone();
        let (start, done) = (offset, sync.as_ref().map_or(synced, |range| range.end));
        let writing = move || {
            file.write_all_at(&bytes, start)?;
            if let Some(range) = sync {
                file.sync_data()?;
                release(&file, range.start, range.end - range.start);
            }
            Ok(())
        };
        let written = tokio::task::spawn_blocking(writing).await;
        written
            .unwrap_or_else(|error| Err(io::Error::other(error)))
            .map_err(|error| write_error(part, &error))?;
        (offset, synced) = (offset + len, done);
        progress.add(len);
        Ok(())
    });
    let fetched = tokio::select! {
        fetched = fetching => fetched,
        () = progress.log_now_and_then() => Ok(()),
    };
    fetched.map_err(|error| {
        if stored.is_damaged() {
            // Going on would meet the same damage.
            part.remove();
            return Halt::Failed(error.to_string());
        }
        Halt::Failed(format!(
            "{error}\n  what was fetched is kept: the same command goes on from there"
        ))
    })?;
    let file = part.file.clone();
    let syncing = move || {
        file.sync_data()?;
        release(&file, synced, u64::MAX - synced);
        Ok(())
    };
    tokio::task::spawn_blocking(syncing)
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
        .map_err(|error| failed(part, "writing", &error))?;
    Ok(wish.stored_hash.and_then(|_| stored.stored_hash()))
}

fn release(file: &File, start: u64, len: u64) {
    // A hint: where the kernel does not take it, more pages stay cached.
    let _ = fadvise(file, start, NonZeroU64::new(len), Advice::DontNeed);
}

fn failed(part: &Part, doing: &str, error: &io::Error) -> Halt {
    Halt::Failed(format!("{doing} {}: {error}", part.path().display()))
}

fn write_error(part: &Part, error: &io::Error) -> Error {
    let full = matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    );
    let kind = if full {
        ErrorKind::NoSpace
    } else {
        ErrorKind::Invalid
    };
    let action = format!("writing {}", part.path().display());
    let failed = Error::new(kind, action, error.to_string());
    if full {
        failed.hint("make room there, or fetch it to another disk with --to DIR")
    } else {
        failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::tests::wish;
    use std::os::unix::fs::symlink;

    fn folder(dir: &tempfile::TempDir) -> Arc<Folder> {
        Arc::new(Folder::open(dir.path()).expect("a folder"))
    }

    #[tokio::test]
    async fn what_is_there_is_compared_by_its_bytes() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let (mut wish, folder) = (wish(b"hello"), folder(&dir));
        let path = dir.path().join("a.tar");
        let look = async |wish: &Wish| look(wish, &folder).await.expect("looked at");
        assert_eq!(look(&wish).await, Present::Nothing);
        fs::write(&path, b"hello").expect("written");
        assert_eq!(look(&wish).await, Present::Same);
        for other in [&b"hell"[..], b"hullo"] {
            fs::write(&path, other).expect("written");
            assert!(matches!(look(&wish).await, Present::Other(_)));
        }
        fs::write(&path, b"hello").expect("written");
        wish.hash = None;
        assert!(matches!(look(&wish).await, Present::Other(_)));
        fs::remove_file(&path).expect("removed");
        symlink("nowhere", &path).expect("a link");
        assert!(matches!(look(&wish).await, Present::Other(_)));
    }
}
