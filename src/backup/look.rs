//! A look into an archive, and what is noted of it for its manifest.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;

use super::Run;
use super::record::{Record, RecordedArchive, members_folder, members_path, projects_path};
use super::send::Ready;
use crate::archive::{Archive, ArchiveKind, ArchiveName, Form, belonging};
use crate::error::ErrorKind;
use crate::extract;
use crate::gitlab::inspect::{Inspection, look_into};
use crate::gitlab::layout::is_database;
use crate::http::source_error;
use crate::local::{self, find_archives};
use crate::manifest::secrets_fingerprint;
use crate::source::{Fingerprint, Source, read_exact_at};
use crate::state::private_file;
use crate::tar::{Member, TarError};

/// Longer secrets are none of GitLab's; bytes.
const LONGEST_SECRETS: u64 = 4 * 1024 * 1024;
/// Where a config archive has the secrets, behind whatever slash.
const SECRETS: &[u8] = b"etc/gitlab/gitlab-secrets.json";

/// An archive that may be sent.
pub(super) struct Opened {
    pub(super) source: Arc<dyn Source>,
    /// Of the bytes that were looked into.
    pub(super) fingerprint: Fingerprint,
    pub(super) seen: Inspection,
    /// Of the secrets in it, see [`secrets_fingerprint`].
    pub(super) secrets: Option<String>,
}

/// What is noted of an archive beside its manifest: where.
#[derive(Clone)]
pub(super) struct Notes {
    /// Where in the archive each file begins.
    members: PathBuf,
    /// Whose repositories are where in a data archive.
    projects: PathBuf,
}

/// `gitlab-backup-cli` cannot copy first what GitLab goes on writing to. What changes while it is read is read so often
/// in all.
pub(super) const READINGS: u32 = 3;

/// Why an archive cannot be sent.
enum Unusable {
    /// It is no longer what it was when it was opened.
    Changed(String),
    /// In words.
    Other(String),
}

impl From<io::Error> for Unusable {
    fn from(error: io::Error) -> Unusable {
        if is_change(&error) {
            Unusable::Changed(error.to_string())
        } else {
            Unusable::Other(error.to_string())
        }
    }
}

impl From<TarError> for Unusable {
    fn from(error: TarError) -> Unusable {
        match error {
            TarError::Read(error) if is_change(&error) => error.into(),
            error => Unusable::Other(error.to_string()),
        }
    }
}

/// Whether an archive is no longer what it was when it was opened.
fn is_change(error: &io::Error) -> bool {
    source_error("", error).kind() == ErrorKind::SourceChanged
}

/// Opens an archive, brings it to the disk and looks into it; what is noted of it goes where
/// `notes` says, if there is a place for it. A folder that changes meanwhile is opened anew, some times. The error says why the
/// archive cannot be sent.
pub(super) async fn open(
    archive: &Archive,
    skipped: &[String],
    notes: Option<Notes>,
) -> Result<Opened, String> {
    let (archive, skipped) = (archive.clone(), skipped.to_vec());
    let looking = tokio::task::spawn_blocking(move || {
        let mut reading = 1;
        loop {
            match look(&archive.path, &archive.name, &skipped, notes.as_ref()) {
                Ok(opened) => return Ok(opened),
                Err(Unusable::Changed(what))
                    if archive.form == Form::Directory && reading < READINGS =>
                {
                    tracing::warn!("{}: {what}; it is read again", archive.path.display());
                    reading += 1;
                }
                Err(Unusable::Changed(what) | Unusable::Other(what)) => return Err(what),
            }
        }
    });
    looking
        .await
        .unwrap_or_else(|_| Err("the program is ending".to_owned()))
}

fn look(
    path: &Path,
    name: &ArchiveName,
    skipped: &[String],
    notes: Option<&Notes>,
) -> Result<Opened, Unusable> {
    let source = local::open(path, name)?;
    // After a power cut the file must still be what its upload was begun with. On a read-only disk it is.
    let _ = source.sync();
    let fingerprint = source.fingerprint()?;
    // A list that cannot be written is left out: rehearsing and restoring do without it.
    let members = notes.map(|notes| notes.members.as_path());
    let mut list = members.and_then(|path| MemberList::create(path, name).ok());
    let mut secrets = None;
    let mut database = None;
    let mut each = |member: &Member| {
        if let Some(list) = &mut list {
            list.add(member);
        }
        if name.kind == ArchiveKind::Config && is_secrets(member) {
            secrets = fingerprint_of(&*source, member);
        }
        if name.kind == ArchiveKind::Data && is_dump(member) {
            database = Some(member.clone());
        }
    };
    let mut seen = look_into(&*source, name, skipped, &mut each)?;
    seen.doubts.extend(source.left_out());
    if let Some(notes) = notes {
        // One of an earlier look may be of other bytes.
        let _ = std::fs::remove_file(&notes.projects);
        let skips = |skipped: &[String]| skipped.iter().any(|part| part == "db");
        if let Some(database) = database
            && !skips(skipped)
            && !skips(&seen.contents.skipped)
        {
            index(&*source, name, &database, &notes.projects);
        }
    }
    if source.fingerprint()? != fingerprint {
        let what = "it changed while it was looked into".to_owned();
        return Err(Unusable::Changed(what));
    }
    if let (Some(path), Some(Err(error))) = (members, list.map(MemberList::finish)) {
        tracing::debug!("{}: {error}", path.display());
        let _ = std::fs::remove_file(path);
    }
    Ok(Opened {
        source,
        fingerprint,
        seen,
        secrets,
    })
}

fn is_secrets(member: &Member) -> bool {
    let path = member.path.strip_prefix(b".").unwrap_or(&member.path);
    let path = path.strip_prefix(b"/").unwrap_or(path);
    member.is_file && path == SECRETS && member.size <= LONGEST_SECRETS
}

fn is_dump(member: &Member) -> bool {
    member.is_file && is_database(&String::from_utf8_lossy(&member.path))
}

/// Notes whose repositories are where. That it cannot be told costs only whoever extracts some time.
fn index(source: &dyn Source, name: &ArchiveName, dump: &Member, path: &Path) {
    let make = || {
        let file =
            private_file(OpenOptions::new().write(true).create(true).truncate(true)).open(path)?;
        let dump = Part {
            source,
            offset: dump.offset,
            end: dump.offset + dump.size,
        };
        extract::index::make(name.as_str(), dump, BufWriter::new(file))
    };
    if let Err(error) = make() {
        tracing::debug!("no index of projects is made for {name}: {error}");
        let _ = std::fs::remove_file(path);
    }
}

/// A part of an archive, read once.
struct Part<'a> {
    source: &'a dyn Source,
    offset: u64,
    end: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.offset).unwrap_or(usize::MAX);
        let len = left.min(buf.len());
        let n = self.source.read_at(self.offset, &mut buf[..len])?;
        let end = self.offset + n as u64;
        // What was read once is not pushed into the page cache.
        self.source.release(self.offset..end);
        self.offset = end;
        Ok(n)
    }
}

fn fingerprint_of(source: &dyn Source, member: &Member) -> Option<String> {
    let mut secrets = vec![0; usize::try_from(member.size).ok()?];
    read_exact_at(source, member.offset, &mut secrets).ok()?;
    Some(secrets_fingerprint(&secrets))
}

/// The files of an archive: a line that names it, then `[path, offset, size]` for each, compressed.
struct MemberList {
    lines: GzEncoder<BufWriter<File>>,
    failure: Option<io::Error>,
}

impl MemberList {
    fn create(path: &Path, name: &ArchiveName) -> io::Result<MemberList> {
        let file =
            private_file(OpenOptions::new().write(true).create(true).truncate(true)).open(path)?;
        let mut list = MemberList {
            lines: GzEncoder::new(BufWriter::new(file), Compression::default()),
            failure: None,
        };
        list.line(&json!({ "format": 1, "archive": name.as_str(), "kind": name.kind }));
        Ok(list)
    }

    fn add(&mut self, member: &Member) {
        if member.is_file {
            let path = String::from_utf8_lossy(&member.path);
            self.line(&json!([path, member.offset, member.size]));
        }
    }

    fn line(&mut self, value: &serde_json::Value) {
        if self.failure.is_none() {
            self.failure = writeln!(self.lines, "{value}").err();
        }
    }

    fn finish(self) -> io::Result<()> {
        match self.failure {
            Some(error) => Err(error),
            None => self.lines.finish()?.flush(),
        }
    }
}

impl Run<'_> {
    /// Where what is noted of an archive goes; none if there is no place for it.
    pub(super) fn notes(&self, name: &ArchiveName) -> Option<Notes> {
        let made = members_folder(self.job.state);
        made.ok().map(|_| Notes {
            members: members_path(self.job.state, name.as_str()),
            projects: projects_path(self.job.state, name.as_str()),
        })
    }

    /// Notes what is to be stored, for its manifest, before the first byte is sent. None if there is no data
    /// archive, without which it is no backup.
    pub(super) async fn record(&self, ready: &[Ready]) -> Option<Record> {
        let of_kind = |kind| ready.iter().find(|ready| ready.archive.name.kind == kind);
        let Some(data) = of_kind(ArchiveKind::Data) else {
            return self.record_of_config(of_kind(ArchiveKind::Config)?);
        };
        let id = data.archive.name.backup_id()?;
        data.opened.as_ref().ok()?;
        let mut record = self
            .known(id)
            .unwrap_or_else(|| Record::new(id, Vec::new(), self.now));
        self.wait_for(&mut record);
        for ready in ready {
            add(&mut record, ready, true);
        }
        // What this run makes beside it belongs to it, or nothing does.
        let is_alone = !self.job.request.kinds.contains(&ArchiveKind::Config)
            || ready.iter().all(|ready| !ready.made_by_this_run)
                && record.archive(ArchiveKind::Config).is_none();
        if is_alone && let Some(config) = self.companion(&data.archive.name).await {
            add(&mut record, &config, false);
        }
        self.save(&record);
        Some(record)
    }

    /// A config archive that was made alone joins the backup of the day that has none.
    fn record_of_config(&self, config: &Ready) -> Option<Record> {
        let mut all = Record::all(self.job.state);
        let near = |record: &Record| {
            let data = ArchiveName::of_backup(&record.backup_id);
            let configs = [config.archive.name.clone()];
            data.is_some_and(|data| belonging(&data, &configs, |name| name).is_some())
        };
        let lacking = all.iter().rposition(|record| {
            record
                .archive(ArchiveKind::Config)
                .is_none_or(|known| known.name == config.archive.name.as_str())
                && near(record)
        });
        let mut record = all.swap_remove(lacking?);
        record
            .archives
            .retain(|archive| archive.kind != ArchiveKind::Config);
        add(&mut record, config, true);
        self.wait_for(&mut record);
        self.save(&record);
        Some(record)
    }

    /// What is known of a backup already.
    fn known(&self, id: &str) -> Option<Record> {
        let all = Record::all(self.job.state);
        all.into_iter().find(|record| record.backup_id == id)
    }

    /// The destinations that take part wait for its manifest, beside those that do already.
    fn wait_for(&self, record: &mut Record) {
        for destination in self.job.taking_part() {
            if !record.waiting.iter().any(|name| name == destination.name()) {
                record.waiting.push(destination.name().to_owned());
            }
        }
    }

    /// What was wrong with this very file when it was made, and cannot be seen in it.
    pub(super) fn known_doubts(&self, archive: &Archive, opened: &Opened) -> Vec<String> {
        let records = Record::all(self.job.state).into_iter();
        let archives = records.flat_map(|record| record.archives);
        let same = archives.filter(|known| {
            known.name == archive.name.as_str() && known.fingerprint == opened.fingerprint
        });
        same.flat_map(|known| known.doubts).collect()
    }

    /// The config archive on this machine that belongs to a data archive that was made alone.
    async fn companion(&self, data: &ArchiveName) -> Option<Ready> {
        let configs = find_archives(self.job.gitlab, ArchiveKind::Config).ok()?;
        let archive = belonging(data, &configs, |config| &config.name)?.clone();
        let notes = self.notes(&archive.name);
        let opened = open(&archive, &[], notes).await.ok()?;
        let mut doubts = opened.seen.doubts.clone();
        doubts.extend(self.known_doubts(&archive, &opened));
        doubts.sort();
        doubts.dedup();
        Some(Ready {
            doubts,
            archive,
            made_by_this_run: false,
            opened: Ok(opened),
        })
    }
}

/// Adds an archive, in the place of what was known under its name or of its kind.
fn add(record: &mut Record, ready: &Ready, asked: bool) {
    let Ok(opened) = &ready.opened else { return };
    let kind = ready.archive.name.kind;
    if kind == ArchiveKind::Config {
        record.secrets_fingerprint.clone_from(&opened.secrets);
    }
    let known = record.archives.iter().position(|known| known.kind == kind);
    let known = known.map(|index| record.archives.remove(index));
    let known = known.filter(|known| known.name == ready.archive.name.as_str());
    let same = known
        .as_ref()
        .filter(|known| known.fingerprint == opened.fingerprint);
    record.archives.push(RecordedArchive {
        kind,
        name: ready.archive.name.as_str().to_owned(),
        path: ready.archive.path.clone(),
        fingerprint: opened.fingerprint.clone(),
        size: opened.source.len(),
        content_hash: same.and_then(|same| same.content_hash),
        doubts: ready.doubts.clone(),
        contents: opened.seen.contents.clone(),
        asked: asked || known.as_ref().is_some_and(|known| known.asked),
        stored: same.map(|same| same.stored.clone()).unwrap_or_default(),
    });
    record.archives.sort_by_key(|archive| archive.kind);
}
