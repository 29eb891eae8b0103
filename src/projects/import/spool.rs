//! The one file that an export is fetched into, in the state folder, for its owner alone: GitLab wants to know its
//! length before it comes, and nothing is sent that has not been read to its end.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Advice, fadvise, fstatvfs};

use super::find::Stored;
use super::journal::path;
use super::{Halt, Job};
use crate::content_hash::ContentHasher;
use crate::destination::fetch::PART_LEN;
use crate::destination::unsealed::{Unsealed, is_sealed};
use crate::error::{Error, ErrorKind};
use crate::gitlab::format::export::{Export, whole_export};
use crate::progress::{Progress, Show};
use crate::retry::Patience;
use crate::source::file::FileSource;
use crate::source::{Fingerprint, Source};
use crate::state::{StateDir, private_file};
use crate::units::{MIB, Size};

/// So much is written between two syncs: after a power cut no more than this is fetched again, and an SD card is not
/// asked too often.
const SYNC_EVERY: u64 = 64 * MIB;
/// So much is read at a time to prove it, in bytes.
const BUFFER_LEN: usize = 64 * 1024;
/// What its name ends in.
const SUFFIX: &str = "part";

/// The file, open.
pub(super) struct Spool {
    path: PathBuf,
    file: Arc<File>,
}

/// What is in it.
pub(super) struct Fetched {
    /// Of the export as GitLab made it, in bytes.
    pub(super) size: u64,
    /// Bytes that an earlier call had fetched.
    pub(super) resumed: u64,
    /// What it tells of itself.
    pub(super) export: Export,
}

/// Takes the file of an import away, if there is one.
pub(super) fn remove(state: &StateDir, to: &str) {
    // What cannot be removed is found by the next import.
    let _ = fs::remove_file(path(state, to, SUFFIX));
}

impl Spool {
    /// Opens it, made if it is missing; those of other imports go: there is one file at a time.
    pub(super) fn open(state: &StateDir, to: &str) -> Result<Spool, String> {
        let path = path(state, to, SUFFIX);
        let fail = |error: io::Error| format!("making {}: {error}", path.display());
        let folder = state.folder(super::journal::FOLDER).map_err(fail)?;
        for entry in fs::read_dir(folder).map_err(fail)?.flatten() {
            let other = entry.path();
            if other != path && other.extension().is_some_and(|suffix| suffix == SUFFIX) {
                // It only takes room.
                let _ = fs::remove_file(other);
            }
        }
        let file = private_file(OpenOptions::new().read(true).write(true).create(true))
            .open(&path)
            .map_err(fail)?;
        Ok(Spool {
            file: Arc::new(file),
            path,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Fetches an export and proves it. `resume`: what is in the file is the beginning of it.
    pub(super) async fn bring(
        &self,
        job: &Job<'_>,
        stored: &Stored,
        resume: bool,
    ) -> Result<Fetched, Halt> {
        let patience = Patience::new(job.upload.retry_for);
        let unsealed = Unsealed::open(
            job.destination,
            &stored.path,
            stored.size,
            job.identities,
            &patience,
        );
        let unsealed = unsealed.await?;
        let size = unsealed.len();
        let here = self.file.metadata().map_or(0, |metadata| metadata.len());
        let mut from = match here {
            _ if !resume => 0,
            len if len == size => size,
            len if len < size => len / PART_LEN * PART_LEN,
            _ => 0,
        };
        loop {
            self.check_room(size - from).map_err(Halt::Later)?;
            self.fetch(job, stored, &unsealed, from, &patience).await?;
            let why = match self.prove(stored).await.map_err(Halt::Failed)? {
                Ok(export) => {
                    return Ok(Fetched {
                        size,
                        resumed: from,
                        export,
                    });
                }
                Err(why) => why,
            };
            let place = unsealed.place();
            if from == 0 {
                return Err(Halt::Failed(format!(
                    "{place}: the stored export is damaged: {why}; nothing is imported\n  \
                     import another one (name it by its time), or from another destination (--destination NAME)"
                )));
            }
            tracing::warn!(
                "{place}: what an earlier call had fetched is damaged; it is fetched anew"
            );
            from = 0;
        }
    }

    fn check_room(&self, needed: u64) -> Result<(), String> {
        let folder = self.path.parent().unwrap_or(&self.path).display();
        let room = fstatvfs(&self.file)
            .map_err(|error| format!("asking {folder} for free space: {error}"))?;
        let free = room.f_bavail.saturating_mul(room.f_frsize);
        if needed <= free {
            return Ok(());
        }
        Err(format!(
            "the export is fetched into {folder}: {} are needed there, and {} are free\n  \
             make room, or set `state_dir` to a folder on another disk",
            Size(needed),
            Size(free)
        ))
    }

    async fn fetch(
        &self,
        job: &Job<'_>,
        stored: &Stored,
        unsealed: &Unsealed<'_>,
        from: u64,
        patience: &Patience,
    ) -> Result<(), Halt> {
        let failed =
            |error: io::Error| Halt::Later(format!("writing {}: {error}", self.path.display()));
        self.file.set_len(from).map_err(failed)?;
        let progress = Progress::new(job.show, stored.path.clone(), unsealed.len());
        progress.resumed(from);
        let (mut offset, mut synced) = (from, from);
        let fetching = unsealed.fetch(from..unsealed.len(), patience, async |bytes: Vec<u8>| {
            let len = bytes.len() as u64;
            let end = offset + len;
            let sync = (end - synced >= SYNC_EVERY).then_some(synced..end);
            let (file, start) = (self.file.clone(), offset);
            synced = sync.as_ref().map_or(synced, |range| range.end);
            let writing = move || {
                file.write_all_at(&bytes, start)?;
                sync.map_or(Ok(()), |range| settle(&file, range))
            };
            in_pool(writing)
                .await
                .map_err(|error| self.write_error(&error))?;
            offset = end;
            progress.add(len);
            Ok(())
        });
        let fetched = tokio::select! {
            fetched = fetching => fetched,
            () = progress.log_now_and_then() => Ok(()),
        };
        fetched.map_err(|error| {
            if unsealed.is_damaged() {
                // Going on would meet the same damage.
                return Halt::Failed(error.to_string());
            }
            match Halt::from(error) {
                Halt::Later(error) => Halt::Later(format!(
                    "{error}\n  what was fetched is kept: the same command goes on from there"
                )),
                other => other,
            }
        })?;
        let file = self.file.clone();
        in_pool(move || settle(&file, synced..u64::MAX))
            .await
            .map_err(failed)
    }

    fn write_error(&self, error: &io::Error) -> Error {
        let full = matches!(
            error.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
        );
        let action = format!("writing {}", self.path.display());
        if full {
            Error::new(ErrorKind::NoSpace, action, error.to_string())
                .hint("make room there, or set `state_dir` to a folder on another disk")
        } else {
            Error::new(ErrorKind::Invalid, action, error.to_string())
        }
    }

    /// Reads it to its end: whether it is what is stored, and an export. The inner error says what is wrong with it.
    async fn prove(&self, stored: &Stored) -> Result<Result<Export, String>, String> {
        tracing::debug!("proving {}", self.path.display());
        let expected = stored.content_hash.filter(|_| !is_sealed(&stored.path));
        let file = self.file.clone();
        let proving = move || {
            let reading = Hashing {
                file: &file,
                offset: 0,
                hasher: ContentHasher::default(),
                failure: None,
            };
            let mut input = BufReader::with_capacity(BUFFER_LEN, reading);
            let export = whole_export(&mut input);
            // What follows the end of what could be read is part of what is hashed.
            let rest = io::copy(&mut input, &mut io::sink());
            let reading = input.into_inner();
            match (reading.failure, rest) {
                (Some(error), _) | (None, Err(error)) => return Err(error),
                (None, Ok(_)) => {}
            }
            let hash = reading.hasher.finish();
            Ok(match expected {
                Some(expected) if expected != hash => {
                    Err(format!("its content hash is {hash}, not {expected}"))
                }
                _ => export.map_err(|flaw| flaw.to_string()),
            })
        };
        in_pool(proving)
            .await
            .map_err(|error| format!("reading {}: {error}", self.path.display()))
    }
}

/// What has been written is brought onto the disk, and out of memory.
fn settle(file: &File, range: Range<u64>) -> io::Result<()> {
    file.sync_data()?;
    // A hint: where the kernel does not take it, more pages stay cached.
    let len = std::num::NonZeroU64::new(range.end - range.start);
    let _ = fadvise(file, range.start, len, Advice::DontNeed);
    Ok(())
}

async fn in_pool<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// A file that is hashed while it is read.
struct Hashing<'a> {
    file: &'a File,
    offset: u64,
    hasher: ContentHasher,
    /// Why it cannot be read: the disk's fault, not the export's.
    failure: Option<io::Error>,
}

impl Read for Hashing<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.file.read_at(buf, self.offset) {
            Ok(len) => {
                self.hasher.update(&buf[..len]);
                self.offset += len as u64;
                Ok(len)
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::Interrupted {
                    self.failure = Some(io::Error::new(error.kind(), error.to_string()));
                }
                Err(error)
            }
        }
    }
}

/// The file while it is sent, so that somebody is told how far it is.
pub(super) struct Reading {
    file: FileSource,
    progress: Progress,
}

impl Reading {
    pub(super) fn new(file: FileSource, show: Show, label: String) -> Reading {
        let progress = Progress::new(show, label, file.len());
        Reading { file, progress }
    }

    pub(super) fn progress(&self) -> Progress {
        self.progress.clone()
    }

    fn count(&self, offset: u64, len: usize) {
        if offset == 0 {
            self.progress.begin_again();
        }
        self.progress.add(len as u64);
    }
}

impl Source for Reading {
    fn len(&self) -> u64 {
        self.file.len()
    }

    fn fingerprint(&self) -> io::Result<Fingerprint> {
        self.file.fingerprint()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.file.read_at(offset, buf)?;
        self.count(offset, len);
        Ok(len)
    }

    fn read_ready(&self, offset: u64, buf: &mut [u8]) -> usize {
        let len = self.file.read_ready(offset, buf);
        if len > 0 {
            self.count(offset, len);
        }
        len
    }

    fn release(&self, range: Range<u64>) {
        self.file.release(range);
    }
}
