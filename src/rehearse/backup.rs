//! Rehearsing a whole backup: each of its archives is read as a stream, from where it is stored or from this
//! disk, and judged as it passes. Nothing is written.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

use super::verdict::{PartStatus, PartVerdict};
use super::{Examination, Expected, GitCheck, Options, examine};
use crate::archive::{Archive, ArchiveKind, ArchiveName};
use crate::catalog::{Found, StoredArchive};
use crate::destination::Destination;
use crate::destination::unsealed::{Unsealed, is_sealed};
use crate::error::{Error, ErrorKind};
use crate::gitlab::contents::Contents;
use crate::guard::{self, shrinkage};
use crate::listing::LOCAL;
use crate::local;
use crate::progress::{Progress, Show};
use crate::retry::Patience;
use crate::seal::Identities;
use crate::source::Source;

/// How much is read from the disk at a time, in bytes.
const PIECE_LEN: usize = 256 * 1024;

/// What a rehearsal showed.
#[derive(Debug, Serialize)]
pub struct Rehearsal {
    /// GitLab's ID.
    pub backup_id: String,
    /// Where it was read: a destination's name or [`LOCAL`].
    pub destination: String,
    /// Whether it would restore; null if it could not be read to its end.
    pub restorable: Option<bool>,
    /// A verdict for each part of each archive.
    pub parts: Vec<Part>,
    /// Why it could not be read to its end.
    pub error: Option<String>,
}

/// The verdict on one part of one archive.
#[derive(Debug, Serialize)]
pub struct Part {
    /// The archive's name.
    pub archive: String,
    /// The verdict.
    #[serde(flatten)]
    pub verdict: PartVerdict,
}

/// How a rehearsal is done.
pub struct Method<'a> {
    /// Whether git is asked about every bundle.
    pub git: Option<GitCheck>,
    /// Set when the program is to end.
    pub stop: Arc<AtomicBool>,
    /// What decrypts encrypted archives.
    pub identities: Option<&'a Identities>,
    /// `[guard]`: what counts as shrunk against the backup before.
    pub guard: &'a guard::Settings,
    /// Who is told how far it is.
    pub show: Show,
}

impl Rehearsal {
    fn new(backup_id: &str, destination: &str) -> Rehearsal {
        Rehearsal {
            backup_id: backup_id.to_owned(),
            destination: destination.to_owned(),
            restorable: None,
            parts: Vec::new(),
            error: None,
        }
    }

    fn add(&mut self, archive: &str, verdict: PartVerdict) {
        let archive = archive.to_owned();
        self.parts.push(Part { archive, verdict });
    }

    /// An archive that is not there, though it should be.
    fn lacks(&mut self, kind: ArchiveKind, why: &str) {
        let archive = format!("({kind} archive)");
        self.add(&archive, PartVerdict::failed("archive", why));
    }

    fn take(&mut self, archive: &str, examination: Examination) {
        for verdict in examination.verdicts {
            self.add(archive, verdict);
        }
    }

    /// Nothing failed, and everything was read and asked.
    fn conclude(mut self) -> Rehearsal {
        let of = |status: PartStatus| {
            let mut parts = self.parts.iter();
            parts.find(|part| part.verdict.status == status)
        };
        match (of(PartStatus::Failed), of(PartStatus::Unknown)) {
            (Some(_), _) => self.restorable = Some(false),
            (None, None) => self.restorable = Some(true),
            (None, Some(unknown)) => self.error = Some(unknown.verdict.detail.clone()),
        }
        self
    }

    fn broken_off(mut self, error: String) -> Rehearsal {
        self.error = Some(error);
        self
    }
}

/// Rehearses a stored backup.
pub async fn rehearse_stored(
    found: &Found<'_>,
    method: &Method<'_>,
    patience: &Patience,
) -> Rehearsal {
    let backup = &found.backup;
    let mut rehearsal = Rehearsal::new(&backup.id, found.destination.name());
    if let Some(Err(why)) = &backup.manifest {
        let name = format!("{}.json", backup.id);
        rehearsal.add(&name, PartVerdict::failed("manifest", why.to_string()));
    }
    for kind in ArchiveKind::ALL {
        let archive = backup
            .archive(kind)
            .filter(|archive| archive.found.is_some());
        let Some(archive) = archive else {
            let lack = backup
                .missing
                .iter()
                .find(|missing| missing.what == kind.as_str());
            match lack {
                Some(lack) => rehearsal.lacks(kind, &lack.why),
                None => rehearsal.add(
                    &format!("({kind} archive)"),
                    PartVerdict::skipped("archive", "this destination is not configured to get it"),
                ),
            }
            continue;
        };
        let options = Options {
            name: Some(archive.name.clone()),
            expected: expected(archive),
            git: method.git.clone(),
        };
        let examined = examine_stored(found.destination, archive, options, method, patience).await;
        match examined {
            Ok(Examined::Damaged(why)) => {
                let verdict = PartVerdict::failed("encryption", why);
                rehearsal.add(archive.name.as_str(), verdict);
            }
            Ok(Examined::Whole(examination)) => {
                if kind == ArchiveKind::Data {
                    let before = found.previous.as_ref();
                    let before = before.and_then(|manifest| manifest.archive(ArchiveKind::Data));
                    let before = before.map(|archive| (archive.name.as_str(), &archive.contents));
                    rehearsal.parts.extend(against(
                        before,
                        archive.name.as_str(),
                        &examination.contents,
                        *method.guard,
                    ));
                }
                rehearsal.take(archive.name.as_str(), *examination);
            }
            Err(error) => return rehearsal.broken_off(error.to_string()),
        }
    }
    rehearsal.conclude()
}

/// What a stored archive should be: as its manifest says, else as the destination itself tells.
fn expected(archive: &StoredArchive) -> Option<Expected> {
    if let Some(expected) = &archive.expected {
        return Some(Expected {
            size: expected.size,
            content_hash: expected.content_hash,
            contents: Some(expected.contents.clone()).filter(|_| archive.kind == ArchiveKind::Data),
        });
    }
    let found = archive.found.as_ref()?;
    if is_sealed(&found.name) {
        // The destination tells of what is stored, and nobody of what that was before.
        return None;
    }
    Some(Expected {
        size: found.size,
        content_hash: found.content_hash?,
        contents: None,
    })
}

/// Compares with the complete backup before: to have shrunk is no damage, but somebody should look.
fn against(
    before: Option<(&str, &Contents)>,
    archive: &str,
    now: &Contents,
    guard: guard::Settings,
) -> Option<Part> {
    let (name, before) = before?;
    let shrunk = shrinkage(before, now, guard.shrink);
    let verdict = if shrunk.is_empty() {
        PartVerdict::ok("previous", format!("nothing has shrunk against {name}"))
    } else {
        PartVerdict::warning("previous", format!("{}, against {name}", shrunk.join("; ")))
    };
    Some(Part {
        archive: archive.to_owned(),
        verdict,
    })
}

/// What came of reading a stored archive.
enum Examined {
    /// It could be read to its end.
    Whole(Box<Examination>),
    /// It could not be decrypted, whoever reads it however often.
    Damaged(String),
}

/// Downloads an archive and judges it as it comes.
async fn examine_stored(
    destination: &Destination,
    archive: &StoredArchive,
    options: Options,
    method: &Method<'_>,
    patience: &Patience,
) -> Result<Examined, Error> {
    let size = archive.found.as_ref().map_or(0, |found| found.size);
    let stored = Unsealed::open(
        destination,
        &archive.path,
        size,
        method.identities,
        patience,
    );
    let stored = match stored.await {
        Ok(stored) => stored,
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            return Ok(Examined::Damaged(error.to_string()));
        }
        Err(error) => return Err(error),
    };
    let progress = Progress::new(method.show, archive.name.as_str(), stored.len());
    let kind = archive.kind;
    let judging = stored.stream(
        0..stored.len(),
        patience,
        |bytes| progress.add(bytes),
        // It reads to the end, whatever it finds.
        move |arriving| examine(kind, arriving, &options),
    );
    let judged = tokio::select! {
        judged = judging => judged,
        () = progress.log_now_and_then() => unreachable!("it goes on for ever"),
    };
    let action = format!("rehearsing {}", stored.place());
    let mut examination = match judged {
        Err(error) if stored.is_damaged() => return Ok(Examined::Damaged(error.to_string())),
        judged => {
            judged?.map_err(|error| Error::new(ErrorKind::Unexpected, action, error.to_string()))?
        }
    };
    if is_sealed(&archive.path) {
        examination.verdicts.push(encryption(archive, &stored));
    }
    Ok(Examined::Whole(Box::new(examination)))
}

/// Every chunk was authenticated; whether it is what was stored, the manifest tells.
fn encryption(archive: &StoredArchive, stored: &Unsealed<'_>) -> PartVerdict {
    let hash = stored.stored_hash();
    let expected = archive
        .expected
        .as_ref()
        .map(|expected| expected.stored_hash);
    match (hash, expected) {
        (Some(hash), Some(expected)) if hash != expected => PartVerdict::failed(
            "encryption",
            format!("the content hash of what is stored is {hash}, not {expected}"),
        ),
        _ => PartVerdict::ok("encryption", "every chunk is the one that belongs there"),
    }
}

/// The archives of one backup on this machine, each with what it was when it was made, if that is known.
pub struct LocalBackup {
    /// GitLab's ID.
    pub id: String,
    /// The data archive.
    pub data: (Archive, Option<Expected>),
    /// The config archive that belongs to it.
    pub config: Option<(Archive, Option<Expected>)>,
    /// The data archive before it, and what that held.
    pub previous: Option<(String, Contents)>,
}

/// Rehearses a backup on this machine.
pub async fn rehearse_local(backup: LocalBackup, method: &Method<'_>) -> Rehearsal {
    let mut rehearsal = Rehearsal::new(&backup.id, LOCAL);
    if backup.config.is_none() {
        let why = "no config archive of this machine was made within a day of it";
        rehearsal.lacks(ArchiveKind::Config, why);
    }
    let previous = backup.previous;
    for (archive, expected) in backup.config.into_iter().chain([backup.data]) {
        let options = Options {
            name: Some(archive.name.clone()),
            expected,
            git: method.git.clone(),
        };
        let name: ArchiveName = archive.name.clone();
        let progress = Progress::new(method.show, name.as_str(), archive.size);
        let shown = progress.clone();
        let path = archive.path.clone();
        let stop = method.stop.clone();
        let judging =
            tokio::task::spawn_blocking(move || examine_local(&archive, &options, &shown, &stop));
        let judged = tokio::select! {
            judged = judging => judged,
            () = progress.log_now_and_then() => unreachable!("it goes on for ever"),
        };
        match judged.unwrap_or_else(|_| Err(io::Error::other("the program is ending"))) {
            Ok(examination) => {
                if name.kind == ArchiveKind::Data {
                    let before = previous
                        .as_ref()
                        .map(|(name, contents)| (name.as_str(), contents));
                    let now = &examination.contents;
                    rehearsal
                        .parts
                        .extend(against(before, name.as_str(), now, *method.guard));
                }
                rehearsal.take(name.as_str(), examination);
            }
            Err(error) => {
                return rehearsal.broken_off(format!("reading {}: {error}", path.display()));
            }
        }
    }
    rehearsal.conclude()
}

fn examine_local(
    archive: &Archive,
    options: &Options,
    progress: &Progress,
    stop: &AtomicBool,
) -> io::Result<Examination> {
    let source = local::open(&archive.path, &archive.name)?;
    let before = source.fingerprint()?;
    let reading = Reading {
        source: &*source,
        progress,
        stop,
        offset: 0,
    };
    let reading = io::BufReader::with_capacity(PIECE_LEN, reading);
    let examination = examine(archive.name.kind, reading, options)?;
    if source.fingerprint()? != before {
        return Err(io::Error::other("it changed while it was read"));
    }
    Ok(examination)
}

/// An archive that is read once from front to back, and does not push others out of the page cache.
struct Reading<'a> {
    source: &'a dyn Source,
    progress: &'a Progress,
    stop: &'a AtomicBool,
    offset: u64,
}

impl Read for Reading<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("the program is ending"));
        }
        let n = self.source.read_at(self.offset, buf)?;
        let end = self.offset + n as u64;
        self.source.release(self.offset..end);
        self.progress.add(n as u64);
        self.offset = end;
        Ok(n)
    }
}
