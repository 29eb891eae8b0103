//! What `gitlab-backup-cli` leaves: a folder for each backup, and what it says about itself in there
//! (<https://docs.gitlab.com/administration/backup_restore/backup_cli/>).
//!
//! The tool works in a folder `backup<date>-<process>-<random>` beside its backups; at the end it makes the one
//! with the backup's name and moves entry by entry into it. So a folder with the right name may be half a backup,
//! and only one that has its `backup_information.json`, with nothing left to move, is one.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::information::Information;
use crate::archive::{ArchiveName, Identity};
use crate::error::printable;

/// What the tool writes about a backup, in its folder.
pub const INFORMATION: &str = "backup_information.json";
/// The only form of it so far (<https://gitlab.com/gitlab-org/gitlab/-/merge_requests/149441>).
const METADATA_VERSION: u64 = 2;
/// File times are as coarse as the kernel's clock; a move sets those of both folders.
const COARSE_SECONDS: i64 = 2;

/// A backup as a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    /// The name of its tar.
    pub name: ArchiveName,
    /// The folder.
    pub path: PathBuf,
    /// Of the folder and what the tool says about it.
    pub identity: Identity,
}

/// What a run of the tool that did not end has left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// The folder.
    pub path: PathBuf,
    /// Why it is no backup.
    pub why: String,
    /// The name it would have; none of a folder that the tool worked in.
    pub name: Option<ArchiveName>,
    /// The process that worked in it.
    pub process: Option<u32>,
}

/// What lies in a folder of backups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directories {
    /// The backups, in no order.
    pub whole: Vec<Directory>,
    /// What is none.
    pub unfinished: Vec<Unfinished>,
}

/// A folder that the tool worked in and did not take away.
struct Work {
    path: PathBuf,
    process: u32,
    modified: i64,
    entries: BTreeSet<OsString>,
}

/// Looks for what the tool made. Other names, files and links are passed over; that the folder cannot be read is an
/// error.
pub fn find_directories(folder: &Path) -> io::Result<Directories> {
    let mut candidates = Vec::new();
    let mut works = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let (archive, process) = (ArchiveName::of_directory(name), process_of(name));
        if archive.is_none() && process.is_none() {
            continue;
        }
        // Of the entry itself: a link is none. One that vanishes meanwhile is as good as never listed.
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        let path = entry.path();
        match (archive, process) {
            _ if !metadata.is_dir() => {}
            (Some(archive), _) => candidates.push((archive, path, metadata)),
            (None, Some(process)) => works.push(Work {
                modified: metadata.mtime(),
                entries: entries(&path),
                path,
                process,
            }),
            (None, None) => {}
        }
    }
    let mut found = Directories::default();
    for (name, path, metadata) in candidates {
        let information = fs::symlink_metadata(path.join(INFORMATION));
        let information = information
            .ok()
            .filter(|file| file.is_file() && file.len() > 0);
        let work = works
            .iter()
            .find(|work| work.was_moved_to(&path, &metadata));
        match (information, work) {
            (Some(information), None) => found.whole.push(Directory {
                name,
                path,
                identity: Identity::of(&[&metadata, &information]),
            }),
            (_, Some(work)) => found.unfinished.push(Unfinished {
                why: format!(
                    "was not moved to its end: the rest is in {}",
                    work.path.display()
                ),
                path,
                name: Some(name),
                process: Some(work.process),
            }),
            (None, None) => found.unfinished.push(Unfinished {
                why: format!("has no {INFORMATION}"),
                path,
                name: Some(name),
                process: None,
            }),
        }
    }
    found
        .unfinished
        .extend(works.into_iter().map(|work| Unfinished {
            path: work.path,
            why: "is what gitlab-backup-cli worked in".to_owned(),
            name: None,
            process: Some(work.process),
        }));
    Ok(found)
}

impl Work {
    /// Whether what is in it was on its way to this folder: it was touched no earlier, and what has been moved is no
    /// longer in it. A later run that failed has again some of what is in the folder.
    fn was_moved_to(&self, folder: &Path, metadata: &Metadata) -> bool {
        !self.entries.is_empty()
            && self.modified.saturating_add(COARSE_SECONDS) >= metadata.mtime()
            && self.entries.is_disjoint(&entries(folder))
    }
}

fn entries(folder: &Path) -> BTreeSet<OsString> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name()).collect()
}

/// The process in the name of a folder that the tool works in, `backup20240425-15012-k3xq1w`: what Ruby's
/// `Dir.mktmpdir` makes of `backup`.
fn process_of(name: &str) -> Option<u32> {
    let mut parts = name.strip_prefix("backup")?.splitn(3, '-');
    let (date, process, random) = (parts.next()?, parts.next()?, parts.next()?);
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let plain = !random.is_empty() && random.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (date.len() == 8 && digits(date) && digits(process) && plain)
        .then(|| process.parse().ok())
        .flatten()
}

/// What `backup_information.json` says, and what is wrong with that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// What it says.
    pub information: Information,
    /// What a restore would stumble over, or what contradicts the folder's name.
    pub faults: Vec<String>,
}

/// Reads `backup_information.json` of the backup that the folder's name says it is. The error says why it
/// cannot be read.
pub fn information(text: &[u8], name: &ArchiveName) -> Result<Told, String> {
    if text.is_empty() {
        return Err("it is empty".to_owned());
    }
    let value: Value = serde_json::from_slice(text)
        .map_err(|error| format!("it is no JSON: {}", printable(&error.to_string())))?;
    let Value::Object(told) = value else {
        return Err("it is no JSON object".to_owned());
    };
    let mut faults = Vec::new();
    match told.get("metadata_version") {
        None => faults.push("`metadata_version` is missing".to_owned()),
        Some(version) if version.as_u64() == Some(METADATA_VERSION) => {}
        Some(version) => faults.push(format!(
            "it is of metadata version {}, and this program knows {METADATA_VERSION} alone",
            shown(version)
        )),
    }
    let mut text = |key: &str| match told.get(key) {
        Some(Value::String(text)) if !text.is_empty() => Some(printable(text)),
        other => {
            let what = if other.is_none() {
                "is missing"
            } else {
                "is no text"
            };
            faults.push(format!("`{key}` {what}"));
            None
        }
    };
    let (backup_id, gitlab_version) = (text("backup_id"), text("gitlab_version"));
    let written = text("created_at");
    let created_at = written.as_deref().and_then(time);
    if let (Some(written), None) = (&written, created_at) {
        faults.push(format!("`created_at` is no time: {}", short(written)));
    }
    let mut differs = |key: &str, told: Option<&str>, expected: &str| {
        if let Some(told) = told.filter(|told| *told != expected) {
            let told = short(told);
            faults.push(format!(
                "`{key}` is {told}, and the folder's name says {expected}"
            ));
        }
    };
    differs(
        "backup_id",
        backup_id.as_deref(),
        name.backup_id().unwrap_or_default(),
    );
    let version = name.version.as_deref().unwrap_or_default();
    differs("gitlab_version", gitlab_version.as_deref(), version);
    if created_at.is_some_and(|time| time != name.created_at()) {
        let expected = name.created_at().format("%Y-%m-%dT%H:%M:%SZ").to_string();
        differs("created_at", written.as_deref(), &expected);
    }
    let information = Information {
        gitlab_version,
        backup_id,
        created_at,
        keys: told.keys().take(64).map(|key| printable(key)).collect(),
        ..Information::default()
    };
    Ok(Told {
        information,
        faults,
    })
}

fn time(text: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(text)
        .ok()
        .map(|time| time.to_utc())
}

fn shown(value: &Value) -> String {
    short(&printable(&value.to_string()))
}

/// A value of a text that may be anything, so that a message stays one.
fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::time::{Duration, SystemTime};

    const ID: &str = "1714053314_2024_04_25_17.0.0-pre";
    /// As GitLab's documentation shows it.
    const GOOD: &str = "{\n  \"metadata_version\": 2,\n  \
        \"backup_id\": \"1714053314_2024_04_25_17.0.0-pre\",\n  \
        \"created_at\": \"2024-04-25T13:55:14Z\",\n  \
        \"gitlab_version\": \"17.0.0-pre\"\n}";

    fn name() -> ArchiveName {
        ArchiveName::of_directory(ID).expect("an ID")
    }

    #[test]
    fn what_the_tool_says_is_compared_with_the_folder() {
        let told = information(GOOD.as_bytes(), &name()).expect("readable");
        assert_eq!(told.faults, Vec::<String>::new());
        assert_eq!(
            told.information.gitlab_version.as_deref(),
            Some("17.0.0-pre")
        );
        assert_eq!(told.information.backup_id.as_deref(), Some(ID));
        assert_eq!(told.information.created_at, Some(name().created_at()));
        for (from, to, fault) in [
            (
                "\"metadata_version\": 2",
                "\"metadata_version\": 3",
                "metadata version 3",
            ),
            (
                "\"metadata_version\": 2",
                "\"metadata_version\": \"2\"",
                "metadata version \"2\"",
            ),
            (
                "\"metadata_version\": 2,",
                "",
                "`metadata_version` is missing",
            ),
            (
                "1714053314_2024",
                "1714053315_2024",
                "`backup_id` is 1714053315_2024_04_25_17.0.0-pre, and",
            ),
            ("\"backup_id\"", "\"id\"", "`backup_id` is missing"),
            (
                "13:55:14Z",
                "13:55:15Z",
                "`created_at` is 2024-04-25T13:55:15Z, and the folder's name says 2024-04-25T13:55:14Z",
            ),
            (
                "2024-04-25T13:55:14Z",
                "yesterday",
                "`created_at` is no time: yesterday",
            ),
            (
                "\"gitlab_version\": \"17.0.0-pre\"",
                "\"gitlab_version\": \"17.0.0\"",
                "`gitlab_version` is 17.0.0, and",
            ),
            (
                "\"gitlab_version\": \"17.0.0-pre\"",
                "\"gitlab_version\": 17",
                "`gitlab_version` is no text",
            ),
        ] {
            let text = GOOD.replacen(from, to, 1);
            let told = information(text.as_bytes(), &name()).expect("readable");
            assert_eq!(told.faults.len(), 1, "{:?}", told.faults);
            assert!(told.faults[0].contains(fault), "{:?}", told.faults);
        }
        // Another zone is the same time; more keys are none of our business.
        let text = GOOD
            .replace("13:55:14Z", "15:55:14+02:00")
            .replace('{', "{\"new\": [],");
        assert_eq!(
            information(text.as_bytes(), &name()).map(|told| told.faults),
            Ok(Vec::new())
        );
        for text in ["", "{", "[]", "null", "\u{0}", "{\"metadata_version\": 2}x"] {
            assert!(information(text.as_bytes(), &name()).is_err(), "{text}");
        }
        let deep = "[".repeat(100_000);
        assert!(information(deep.as_bytes(), &name()).is_err());
    }

    #[test]
    fn the_folder_the_tool_works_in_is_known_by_its_name() {
        assert_eq!(process_of("backup20240425-15012-k3xq1w"), Some(15_012));
        for name in [
            "backup",
            "backup2024-1-x",
            "backup20240425-x-y",
            "backup20240425-1-",
            "backup20240425-1-a/b",
            ID,
        ] {
            assert_eq!(process_of(name), None, "{name}");
        }
    }

    fn put(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
        fs::write(path, text).expect("written");
    }

    #[test]
    fn only_a_whole_folder_is_a_backup() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let root = dir.path();
        let found = || find_directories(root).expect("listed");
        put(&root.join(ID).join("db/database.sql.gz"), "x");
        let half = found();
        assert!(half.whole.is_empty());
        assert!(
            half.unfinished[0]
                .why
                .contains("has no backup_information.json")
        );
        put(&root.join(ID).join(INFORMATION), GOOD);
        let whole = found();
        assert_eq!((whole.whole.len(), whole.unfinished.len()), (1, 0));
        assert_eq!(whole.whole[0].name, name());
        // The same folder, untouched, has the same identity; written anew it has not.
        assert_eq!(found().whole, whole.whole);
        put(&root.join(ID).join(INFORMATION), &GOOD.replace(' ', ""));
        assert_ne!(found().whole[0].identity, whole.whole[0].identity);
        // What was not moved yet.
        let work = root.join("backup20240425-15012-k3xq1w");
        put(&work.join("uploads.tar.gz"), "x");
        let half = found();
        assert_eq!((half.whole.len(), half.unfinished.len()), (0, 2));
        assert!(half.unfinished[0].why.contains("was not moved to its end"));
        // A later run that failed takes nothing away from the backup before it.
        put(&work.join("db/database.sql.gz"), "x");
        assert_eq!((found().whole.len(), found().unfinished.len()), (1, 1));
        // Nor does one that failed long before.
        fs::remove_dir_all(work.join("db")).expect("removed");
        let old = SystemTime::now() - Duration::from_secs(1_000);
        fs::File::open(&work)
            .and_then(|open| open.set_modified(old))
            .expect("aged");
        assert_eq!((found().whole.len(), found().unfinished.len()), (1, 1));
        fs::remove_dir_all(&work).expect("removed");
        // Names and forms that are none.
        let other = "1714053315_2024_04_25_17.0.0-pre";
        symlink(root.join(ID), root.join(other)).expect("a link");
        put(&root.join("1714053316_2024_04_25_17.0.0-pre"), "a file");
        put(
            &root.join("1714053317_2024_04_25/backup_information.json"),
            GOOD,
        );
        put(
            &root.join("1714053318_2024_04_25_17.0.0-pre.old/backup_information.json"),
            GOOD,
        );
        assert_eq!((found().whole.len(), found().unfinished.len()), (1, 0));
    }
}
