//! Proving that a backup would restore, by reading a whole archive once from front to back.
//!
//! One pass computes the hash and the length, follows the tar to its last block, expands every compressed
//! part to its checksum, and judges what GitLab needs of each member. Nothing is written, and memory does
//! not grow with the archive. A damaged member does not hide those behind it: every part gets its verdict,
//! and the input is always read to its end.

pub mod backup;
mod compare;
mod config;
mod data;
mod git;
mod ledger;
mod repositories;
pub mod verdict;

use std::io::{self, BufRead, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use self::config::Config;
use self::data::Data;
use self::git::Git;
use self::verdict::{Examples, PartStatus, PartVerdict, counted};
use crate::archive::{ArchiveKind, ArchiveName};
use crate::content_hash::{ContentHasher, Digest};
use crate::gitlab::contents::Contents;
use crate::gitlab::information::Information;
use crate::tar::stream::TarStream;
use crate::tar::{Entry, TarError};
use crate::units::Size;

/// What an archive is compared with, and how far the proof goes.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The archive's name, which says what tool made it, and of which version of GitLab it is.
    pub name: Option<ArchiveName>,
    /// What the archive was when it was stored.
    pub expected: Option<Expected>,
    /// Whether git is asked about every bundle.
    pub git: Option<GitCheck>,
}

/// What a manifest says of an archive.
#[derive(Clone, Debug)]
pub struct Expected {
    /// Its length in bytes.
    pub size: u64,
    /// Its content hash.
    pub content_hash: Digest,
    /// What it holds; not compared if it is not known.
    pub contents: Option<Contents>,
}

/// Asks git about every bundle.
#[derive(Clone, Debug)]
pub struct GitCheck {
    /// An existing folder with room for the largest bundle twice, or, of an incremental backup, for all of
    /// them and the largest repository.
    pub scratch: PathBuf,
    /// Set when the program is to end: git is ended, too.
    pub stop: Arc<AtomicBool>,
}

/// What reading an archive has shown.
#[derive(Clone, Debug)]
pub struct Examination {
    /// Its length in bytes.
    pub size: u64,
    /// Its content hash.
    pub content_hash: Digest,
    /// What it holds.
    pub contents: Contents,
    /// What GitLab wrote about it, if that can be read.
    pub information: Option<Information>,
    /// One verdict for each part.
    pub verdicts: Vec<PartVerdict>,
}

impl Examination {
    /// Whether no part failed.
    pub fn restorable(&self) -> bool {
        let failed = |verdict: &PartVerdict| verdict.status == PartStatus::Failed;
        !self.verdicts.iter().any(failed)
    }
}

/// Reads an archive to its end and judges every part of it. An error is the input's own: it could not be
/// read on, which says nothing about the archive. Blocks the thread.
pub fn examine(
    kind: ArchiveKind,
    mut input: impl Read,
    options: &Options,
) -> io::Result<Examination> {
    let mut input = Hashing {
        input: &mut input,
        hasher: ContentHasher::default(),
        failed: None,
    };
    let mut parts = match kind {
        ArchiveKind::Config => Parts::Config(Config::default()),
        ArchiveKind::Data => {
            let git = options
                .git
                .as_ref()
                .map(|check| Git::begin(&check.scratch, check.stop.clone()));
            Parts::Data(Box::new(Data::new(options.name.clone(), git)))
        }
    };
    let tar = walk(&mut input, &mut parts);
    if let Some(error) = input.failed {
        return Err(error);
    }
    let mut examination = Examination {
        size: input.hasher.len(),
        content_hash: input.hasher.finish(),
        contents: Contents::default(),
        information: None,
        verdicts: vec![tar],
    };
    match parts {
        Parts::Config(config) => examination.verdicts.extend(config.verdicts()),
        Parts::Data(data) => {
            let (contents, information, verdicts) = data.finish();
            examination.contents = contents;
            examination.information = information;
            examination.verdicts.extend(verdicts);
        }
    }
    if let Some(expected) = &options.expected {
        compare::compare(&mut examination, expected);
    }
    Ok(examination)
}

enum Parts {
    Config(Config),
    Data(Box<Data>),
}

impl Parts {
    fn member(&mut self, entry: &Entry, contents: &mut dyn BufRead) {
        match self {
            Parts::Config(config) => config.member(entry, contents),
            Parts::Data(data) => data.member(entry, contents),
        }
    }
}

/// Shows every member to the parts, and reads the input to its end; the verdict on the tar itself.
fn walk(input: &mut dyn Read, parts: &mut Parts) -> PartVerdict {
    let mut tar = TarStream::new(input);
    let mut members = 0_u64;
    let mut flaws = Examples::default();
    loop {
        match tar.next_entry() {
            Ok(Some(entry)) => {
                members += 1;
                parts.member(&entry, &mut tar.contents());
            }
            Ok(None) => break,
            Err(TarError::Damaged(what)) => flaws.push(&what),
            Err(error @ TarError::Read(_)) => return PartVerdict::failed("tar", error.to_string()),
        }
    }
    let len = match tar.finish() {
        Ok(end) => {
            if end.has_data_behind {
                flaws
                    .push("there is data behind the end of the tar, which a restore would not see");
            }
            end.len
        }
        Err(error) => return PartVerdict::failed("tar", error.to_string()),
    };
    if members == 0 && flaws.is_empty() {
        flaws.push("no whole tar: it has no member");
    }
    if flaws.is_empty() {
        let members = counted(members, "member", "members");
        PartVerdict::ok("tar", format!("{members}, {}", Size(len)))
    } else {
        PartVerdict::failed("tar", flaws.to_string())
    }
}

/// Hashes what is read through it, and keeps the first error.
struct Hashing<'a> {
    input: &'a mut dyn Read,
    hasher: ContentHasher,
    failed: Option<io::Error>,
}

impl Read for Hashing<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.failed.is_some() {
            return Ok(0);
        }
        match self.input.read(buf) {
            Ok(len) => {
                self.hasher.update(&buf[..len]);
                Ok(len)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let shown = io::Error::new(error.kind(), error.to_string());
                self.failed = Some(error);
                Err(shown)
            }
        }
    }
}
