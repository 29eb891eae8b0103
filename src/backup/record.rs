//! What this machine knows of the backups it made: enough to write their manifests, by a later run too if
//! this one dies. A file for each backup, replaced whole; written before the first byte is sent.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::archive::{ArchiveKind, ArchiveName};
use crate::content_hash::Digest;
use crate::gitlab::contents::Contents;
use crate::local;
use crate::source::{Fingerprint, Source};
use crate::state::{StateDir, replace};

/// The folder of records in the state folder.
const FOLDER: &str = "backups";
/// The form of a record; of another one nothing is read.
const FORMAT: u32 = 1;
/// A manifest that could not be written for so long never will be.
const LONGEST_WAIT_DAYS: i64 = 60;
/// Records of backups that are done stay for so many of the newest: a config archive that is made later
/// may still belong to one.
const KEPT: usize = 5;

/// A backup that was made here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    format: u32,
    /// GitLab's ID.
    pub backup_id: String,
    /// When it was first noted.
    pub noted_at: DateTime<Utc>,
    /// Its archives.
    pub archives: Vec<RecordedArchive>,
    /// Of the secrets in its config archive.
    pub secrets_fingerprint: Option<String>,
    /// The destinations whose manifest is still to be written.
    pub waiting: Vec<String>,
}

/// An archive of a backup that was made here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordedArchive {
    /// Config or data.
    pub kind: ArchiveKind,
    /// The name GitLab gave it.
    pub name: String,
    /// Where it lies.
    pub path: PathBuf,
    /// What it looked like when it was looked into.
    pub fingerprint: Fingerprint,
    /// In bytes.
    pub size: u64,
    /// Known once it has been read as a whole.
    pub content_hash: Option<Digest>,
    /// What is wrong with it although it is a whole tar.
    pub doubts: Vec<String>,
    /// What it holds, in numbers.
    pub contents: Contents,
    /// Whether it is to be stored; one that was not asked for is only named if it is there.
    pub asked: bool,
    /// Where it is stored, for places that tell no content hash.
    #[serde(default)]
    pub stored: Vec<StoredAs>,
}

/// What was stored somewhere and proved there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredAs {
    /// The destination's name.
    pub destination: String,
    /// Its path there.
    pub path: String,
    /// What is stored, in bytes.
    pub size: u64,
    /// The content hash of what is stored.
    pub hash: Digest,
    /// As the place names this content.
    pub rev: String,
}

impl Record {
    /// Of a backup whose manifest is to be written at these destinations.
    pub fn new(backup_id: &str, waiting: Vec<String>, noted_at: DateTime<Utc>) -> Record {
        Record {
            format: FORMAT,
            backup_id: backup_id.to_owned(),
            noted_at,
            archives: Vec::new(),
            secrets_fingerprint: None,
            waiting,
        }
    }

    /// Whether it is so old that nobody will finish it any more.
    pub fn is_hopeless(&self, now: DateTime<Utc>) -> bool {
        now - self.noted_at > TimeDelta::days(LONGEST_WAIT_DAYS)
    }

    /// All that can be read, the oldest first.
    pub fn all(state: &StateDir) -> Vec<Record> {
        let Ok(folder) = fs::read_dir(state.path().join(FOLDER)) else {
            return Vec::new();
        };
        let read = |path: &Path| -> Option<Record> {
            let record: Record = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
            (record.format == FORMAT).then_some(record)
        };
        let paths = folder.flatten().map(|entry| entry.path());
        let mut records: Vec<_> = paths
            .filter(|path| {
                path.extension()
                    .is_some_and(|extension| extension == "json")
            })
            .filter_map(|path| read(&path))
            .filter_map(|record| Some((record.data_name()?, record)))
            .collect();
        records.sort_by(|(a, _), (b, _)| a.age_order(b));
        records.into_iter().map(|(_, record)| record).collect()
    }

    /// Brings it to the disk.
    pub fn save(&self, state: &StateDir) -> io::Result<()> {
        let path = state
            .folder(FOLDER)?
            .join(format!("{}.json", self.backup_id));
        replace(&path, serde_json::to_vec(self)?)
    }

    /// The name of its data archive; of a backup without one the name it would have.
    pub fn data_name(&self) -> Option<ArchiveName> {
        let known = self.archive(ArchiveKind::Data);
        let known = known.and_then(|data| ArchiveName::parse(&data.name));
        known.or_else(|| ArchiveName::of_backup(&self.backup_id))
    }

    /// Its archive of a kind.
    pub fn archive(&self, kind: ArchiveKind) -> Option<&RecordedArchive> {
        self.archives.iter().find(|archive| archive.kind == kind)
    }

    /// The member lists of its archives that are still here.
    pub fn member_lists(&self, state: &StateDir) -> Vec<PathBuf> {
        let lists = self
            .archives
            .iter()
            .map(|archive| members_path(state, &archive.name));
        lists.filter(|path| path.is_file()).collect()
    }

    /// The index of projects of its data archive, if it is still here.
    pub fn project_index(&self, state: &StateDir) -> Option<PathBuf> {
        let data = self.archive(ArchiveKind::Data)?;
        Some(projects_path(state, &data.name)).filter(|path| path.is_file())
    }
}

impl RecordedArchive {
    /// Opens it, if it is still the file that was looked into.
    pub fn open(&self) -> Option<Arc<dyn Source>> {
        let name = ArchiveName::parse(&self.name)?;
        let source = local::open(&self.path, &name).ok()?;
        (source.fingerprint().ok()? == self.fingerprint).then_some(source)
    }
}

/// Where the member list of an archive is kept until it is stored.
pub fn members_path(state: &StateDir, archive: &str) -> PathBuf {
    state
        .path()
        .join(FOLDER)
        .join(format!("{archive}.members.gz"))
}

/// Where the index of the projects in a data archive is kept until it is stored.
pub fn projects_path(state: &StateDir, archive: &str) -> PathBuf {
    state
        .path()
        .join(FOLDER)
        .join(format!("{archive}.projects.gz"))
}

/// The folder of member lists, made if missing.
pub fn members_folder(state: &StateDir) -> io::Result<PathBuf> {
    state.folder(FOLDER)
}

/// Takes away what nothing waits for any more.
pub fn tidy(state: &StateDir) {
    let records = Record::all(state);
    let mut wanted: Vec<PathBuf> = Vec::new();
    for record in records.iter().filter(|record| !record.waiting.is_empty()) {
        wanted.extend(record.member_lists(state));
        wanted.extend(record.project_index(state));
    }
    let done = records.iter().filter(|record| record.waiting.is_empty());
    let old = done.clone().count().saturating_sub(KEPT);
    let folder = state.path().join(FOLDER);
    for record in done.take(old) {
        // What stays is looked at again next time.
        let _ = fs::remove_file(folder.join(format!("{}.json", record.backup_id)));
    }
    for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_list = path.extension().is_some_and(|extension| extension == "gz");
        if is_list && !wanted.contains(&path) {
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn done_records_and_their_lists_go_the_others_stay() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let state = StateDir::new(dir.path());
        let id = |n: u64| format!("170275858{n}_2023_12_16_16.5.1");
        for n in 0..8 {
            let waiting = if n == 1 {
                vec!["dropbox".to_owned()]
            } else {
                Vec::new()
            };
            let mut record = Record::new(&id(n), waiting, DateTime::UNIX_EPOCH);
            record.archives.push(RecordedArchive {
                kind: ArchiveKind::Data,
                name: format!("{}_gitlab_backup.tar", id(n)),
                path: PathBuf::new(),
                fingerprint: Fingerprint(String::new()),
                size: 1,
                content_hash: None,
                doubts: Vec::new(),
                contents: Contents::default(),
                asked: true,
                stored: Vec::new(),
            });
            record.save(&state).expect("saved");
            let list = members_path(&state, &format!("{}_gitlab_backup.tar", id(n)));
            fs::write(list, b"list").expect("written");
            let index = projects_path(&state, &format!("{}_gitlab_backup.tar", id(n)));
            fs::write(index, b"index").expect("written");
        }
        fs::write(dir.path().join(FOLDER).join("torn.json"), b"{\"form").expect("written");
        tidy(&state);
        let left: Vec<_> = Record::all(&state)
            .into_iter()
            .map(|record| record.backup_id)
            .collect();
        assert_eq!(left, [1, 3, 4, 5, 6, 7].map(id));
        let lists = fs::read_dir(dir.path().join(FOLDER))
            .expect("folder")
            .flatten();
        let lists = lists.filter(|entry| entry.path().extension().is_some_and(|e| e == "gz"));
        assert_eq!(lists.count(), 2);
    }
}
