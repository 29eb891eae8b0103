//! GitLab's archives: names to types, and which one is the newest.
//!
//! Names as `gitlab-ctl backup-etc` and `gitlab-backup create` make them:
//! `gitlab_config_<unix>_<Y>_<m>_<d>.tar` and `<unix>_<Y>_<m>_<d>_<version>_gitlab_backup.tar`
//! (<https://docs.gitlab.com/administration/backup_restore/backup_archive_process/>). The number alone
//! orders them; the date is in the host's zone in one and in UTC in the other. `gitlab-backup-cli` makes a
//! folder `<unix>_<Y>_<m>_<d>_<version>`, which is stored as a tar of that name
//! (<https://docs.gitlab.com/administration/backup_restore/backup_cli/>).

use std::cmp::Ordering;
use std::fmt;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

const DAY_SECONDS: u64 = 24 * 60 * 60;
/// What `gitlab-backup` adds to a backup's ID.
const OF_GITLAB_BACKUP: &str = "_gitlab_backup.tar";
/// What is added to a backup's ID for the tar of a folder that `gitlab-backup-cli` made.
const OF_DIRECTORY: &str = ".tar";

/// Which of GitLab's two backups an archive is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ArchiveKind {
    /// `/etc/gitlab` with the keys that decrypt the data.
    Config,
    /// Database, repositories and files.
    Data,
}

impl ArchiveKind {
    /// Both kinds, in the order they are made and sent.
    pub const ALL: [ArchiveKind; 2] = [ArchiveKind::Config, ArchiveKind::Data];

    /// `config` or `data`.
    pub fn as_str(self) -> &'static str {
        match self {
            ArchiveKind::Config => "config",
            ArchiveKind::Data => "data",
        }
    }
}

impl fmt::Display for ArchiveKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The name of an archive, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveName {
    /// Config or data.
    pub kind: ArchiveKind,
    /// The Unix seconds the name starts with; they alone order archives.
    pub stamp: u64,
    /// The GitLab version in a data archive's name, with its edition (`16.5.0-ee`).
    pub version: Option<String>,
    text: String,
}

impl ArchiveName {
    /// Understands a file name; `None` for everything that is not exactly such a name, the short
    /// legacy forms and `BACKUP=` names among them.
    pub fn parse(name: &str) -> Option<ArchiveName> {
        let text = name.to_owned();
        if let Some(rest) = name.strip_prefix("gitlab_config_") {
            let (stamp, date) = rest.strip_suffix(".tar")?.split_once('_')?;
            let mut parts = date.split('_');
            parse_date(&mut parts)?;
            if parts.next().is_some() {
                return None;
            }
            return Some(ArchiveName {
                kind: ArchiveKind::Config,
                stamp: parse_stamp(stamp)?,
                version: None,
                text,
            });
        }
        let id = name
            .strip_suffix(OF_GITLAB_BACKUP)
            .or_else(|| name.strip_suffix(OF_DIRECTORY))?;
        let is_directory = !name.ends_with(OF_GITLAB_BACKUP);
        let mut parts = id.split('_');
        let stamp = parse_stamp(parts.next()?)?;
        parse_date(&mut parts)?;
        let version = parts.next()?;
        if parts.next().is_some() || !is_version(version) {
            return None;
        }
        // People name folders, too.
        if is_directory && !is_release(version) {
            return None;
        }
        Some(ArchiveName {
            kind: ArchiveKind::Data,
            stamp,
            version: Some(version.to_owned()),
            text,
        })
    }

    /// The whole file name.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// GitLab's own ID of a data archive: its name without `_gitlab_backup.tar`, or, if it is the tar of a
    /// folder, without `.tar`.
    pub fn backup_id(&self) -> Option<&str> {
        let of_tar = self.text.strip_suffix(OF_GITLAB_BACKUP);
        of_tar
            .or_else(|| self.text.strip_suffix(OF_DIRECTORY))
            .filter(|_| self.kind == ArchiveKind::Data)
    }

    /// The folder that everything in the archive lies in, named as the backup: of one that
    /// `gitlab-backup-cli` made as a folder. None for every other.
    pub fn folder(&self) -> Option<&str> {
        let is_tar = self.text.ends_with(OF_GITLAB_BACKUP);
        self.backup_id().filter(|_| !is_tar)
    }

    /// The name that `gitlab-backup` gives the data archive with this ID; none if it is no ID of GitLab's.
    /// It tells time and version of a backup by any tool.
    pub fn of_backup(id: &str) -> Option<ArchiveName> {
        ArchiveName::parse(&format!("{id}{OF_GITLAB_BACKUP}"))
            .filter(|name| name.kind == ArchiveKind::Data)
    }

    /// The name under which a folder that `gitlab-backup-cli` made is stored; none if the folder's name is
    /// not exactly an ID of GitLab's.
    pub fn of_directory(folder: &str) -> Option<ArchiveName> {
        let name = ArchiveName::parse(&format!("{folder}{OF_DIRECTORY}"))?;
        (name.folder() == Some(folder)).then_some(name)
    }

    /// The stamp as a time.
    pub fn created_at(&self) -> DateTime<Utc> {
        i64::try_from(self.stamp)
            .ok()
            .and_then(|stamp| DateTime::from_timestamp(stamp, 0))
            .unwrap_or(DateTime::<Utc>::MAX_UTC)
    }

    /// Older before newer: by stamp, then by the bytes of the name.
    pub fn age_order(&self, other: &ArchiveName) -> Ordering {
        self.stamp
            .cmp(&other.stamp)
            .then_with(|| self.text.cmp(&other.text))
    }

    /// Whether its time lies more than a day after `now`: made under a wrong clock, never chosen.
    pub fn is_from_the_future(&self, now: DateTime<Utc>) -> bool {
        self.created_at() - now > TimeDelta::days(1)
    }
}

impl fmt::Display for ArchiveName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Digits alone, no sign, that still are a time chrono can tell.
fn parse_stamp(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let stamp = digits.then(|| text.parse::<u64>().ok())??;
    DateTime::from_timestamp(i64::try_from(stamp).ok()?, 0).map(|_| stamp)
}

/// Takes `<Y>_<m>_<d>` as `strftime` writes it.
fn parse_date<'a>(parts: &mut impl Iterator<Item = &'a str>) -> Option<()> {
    for (len, range) in [(4, 1..=9999), (2, 1..=12), (2, 1..=31)] {
        let part = parts.next()?;
        let digits = part.len() == len && part.bytes().all(|b| b.is_ascii_digit());
        if !digits || !range.contains(&part.parse::<u32>().ok()?) {
            return None;
        }
    }
    Some(())
}

/// `16.5.1`, `16.5.0-ee`, `17.0.0-pre`, `15.0.0-rc1-ee`.
fn is_version(text: &str) -> bool {
    let numbers = text.split(['-', '+', '~']).next().unwrap_or_default();
    let parts: Vec<_> = numbers.split('.').collect();
    let numeric = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    parts.len() >= 3
        && parts[..3].iter().all(numeric)
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-+~.".contains(&b))
}

/// A version with nothing behind it but what GitLab itself adds: `-pre`, `-rc1`, `-ee`.
fn is_release(version: &str) -> bool {
    let number = version.strip_suffix("-ee").unwrap_or(version);
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let (number, candidate) = number.split_once('-').unwrap_or((number, "pre"));
    let is_candidate = candidate == "pre" || candidate.strip_prefix("rc").is_some_and(digits);
    is_candidate && number.split('.').count() == 3 && number.split('.').all(digits)
}

/// In which form an archive lies on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A file that is the archive.
    File,
    /// Unpacked in GitLab's folder of backups itself: its path is that of its `backup_information.yml`.
    Parts,
    /// A folder whose tar is the archive.
    Directory,
}

/// What tells a file or folder from another of its name, and from itself after a change: of each thing that
/// was looked at inode, size, mtime in seconds and nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity(Vec<(u64, u64, i64, i64)>);

impl Identity {
    /// Of what these were when they were looked at.
    pub fn of(looked_at: &[&Metadata]) -> Identity {
        let identity = |metadata: &&Metadata| {
            let (ino, len) = (metadata.ino(), metadata.len());
            (ino, len, metadata.mtime(), metadata.mtime_nsec())
        };
        Identity(looked_at.iter().map(identity).collect())
    }

    /// When any of it was last written, in seconds.
    fn modified(&self) -> i64 {
        let times = self.0.iter().map(|(_, _, seconds, _)| *seconds);
        times.max().unwrap_or(i64::MIN)
    }
}

/// An archive found in a folder of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    /// Its name, understood.
    pub name: ArchiveName,
    /// Where it lies.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// In which form.
    pub form: Form,
    /// The same one, untouched, has the same.
    pub identity: Identity,
}

/// The archives of one kind in a folder that are files there, in no order. Other names, empty files, links and
/// folders are passed over, and so is a tar of a folder, which no tool of GitLab's makes; that the folder cannot be
/// read is an error.
pub fn find_archives(folder: &Path, kind: ArchiveKind) -> io::Result<Vec<Archive>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let Some(name) = entry.file_name().to_str().and_then(ArchiveName::parse) else {
            continue;
        };
        // One that vanishes between the listing and the look is as good as never listed.
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        let wanted = name.kind == kind && name.folder().is_none();
        if wanted && metadata.is_file() && metadata.len() > 0 {
            found.push(Archive {
                name,
                path: entry.path(),
                size: metadata.len(),
                form: Form::File,
                identity: Identity::of(&[&metadata]),
            });
        }
    }
    Ok(found)
}

/// The newest archive whose time is not in the future, and the newest of those that are.
pub fn newest(archives: &[Archive], now: DateTime<Utc>) -> (Option<&Archive>, Option<&Archive>) {
    let latest = |future: bool| {
        archives
            .iter()
            .filter(|archive| archive.name.is_from_the_future(now) == future)
            .max_by(|a, b| a.name.age_order(&b.name))
    };
    (latest(false), latest(true))
}

/// The config archive that belongs to a data archive when no manifest says so: the nearest in time within
/// a day; of two equally near ones the earlier.
pub fn belonging<'a, T>(
    data: &ArchiveName,
    configs: &'a [T],
    name: impl Fn(&T) -> &ArchiveName,
) -> Option<&'a T> {
    let distance = |config: &&T| name(config).stamp.abs_diff(data.stamp);
    configs
        .iter()
        .filter(|config| distance(config) <= DAY_SECONDS)
        .min_by(|a, b| {
            let by_distance = distance(a).cmp(&distance(b));
            by_distance.then_with(|| name(a).age_order(name(b)))
        })
}

/// The newest archive of `after` that was not in `before` with the same inode, size and mtime.
pub fn made_since<'a>(before: &[Archive], after: &'a [Archive]) -> Option<&'a Archive> {
    after
        .iter()
        .filter(|new| {
            !before
                .iter()
                .any(|old| old.name == new.name && old.identity == new.identity)
        })
        .max_by(|a, b| a.name.age_order(&b.name))
}

/// The newest archive that was written after `begun`, by its modification time.
pub fn written_since(begun: SystemTime, archives: &[Archive]) -> Option<&Archive> {
    // File times are coarser than the clock.
    let begun = begun
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |time| time.as_secs());
    let begun = i64::try_from(begun).unwrap_or(i64::MAX).saturating_sub(1);
    archives
        .iter()
        .filter(|archive| archive.identity.modified() >= begun)
        .max_by(|a, b| a.name.age_order(&b.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_gitlab_are_understood() {
        let config = ArchiveName::parse("gitlab_config_1702820194_2023_12_17.tar").expect("config");
        assert_eq!(
            (config.kind, config.stamp, config.backup_id()),
            (ArchiveKind::Config, 1_702_820_194, None)
        );
        for (name, version) in [
            ("1702758583_2023_12_16_16.5.1_gitlab_backup.tar", "16.5.1"),
            (
                "1702758583_2023_12_16_16.5.0-ee_gitlab_backup.tar",
                "16.5.0-ee",
            ),
            (
                "1702758583_2024_02_29_17.0.0-pre_gitlab_backup.tar",
                "17.0.0-pre",
            ),
            (
                "1702758583_2022_05_01_15.0.0-rc10-ee_gitlab_backup.tar",
                "15.0.0-rc10-ee",
            ),
        ] {
            let data = ArchiveName::parse(name).expect(name);
            assert_eq!(data.version.as_deref(), Some(version));
            assert_eq!(data.backup_id(), name.strip_suffix("_gitlab_backup.tar"));
            assert_eq!(data.folder(), None);
        }
    }

    #[test]
    fn a_folder_of_gitlab_backup_cli_is_stored_as_its_tar() {
        for (folder, version) in [
            ("1714053314_2024_04_25_17.0.0-pre", "17.0.0-pre"),
            ("1714053314_2024_04_25_17.8.2", "17.8.2"),
            ("1714053314_2024_04_25_17.8.2-ee", "17.8.2-ee"),
            ("1714053314_2024_04_25_18.0.0-rc42-ee", "18.0.0-rc42-ee"),
        ] {
            let name = ArchiveName::of_directory(folder).expect(folder);
            assert_eq!(name.as_str(), format!("{folder}.tar"));
            assert_eq!(ArchiveName::parse(name.as_str()), Some(name.clone()));
            assert_eq!(
                (name.kind, name.stamp, name.version.as_deref()),
                (ArchiveKind::Data, 1_714_053_314, Some(version))
            );
            assert_eq!(
                (name.backup_id(), name.folder()),
                (Some(folder), Some(folder))
            );
        }
        for folder in [
            "",
            "1714053314_2024_04_25_17.8.2.tar",
            "1714053314_2024_04_25_17.8.2_gitlab_backup",
            "gitlab_config_1714053314_2024_04_25",
            "1714053314_2024_04_25",
            "1714053314_2024_04_25_17.8.2-old",
            "1714053314_2024_04_25_17.8.2.1",
            "1714053314_2024_04_25_17.8.2-pre.old",
            "1714053314",
            ".1714053314_2024_04_25_17.8.2",
            "1714053314_2024_04_25_17.8.2/",
            "backup20240425-15012-abcdef",
        ] {
            assert_eq!(ArchiveName::of_directory(folder), None, "{folder}");
        }
    }

    #[test]
    fn names_that_almost_match_are_not() {
        for name in [
            "gitlab_config_x.tar",
            "gitlab_config_.tar",
            "gitlab_config_1702820194.tar",
            "gitlab_config_-1702820194_2023_12_17.tar",
            "gitlab_config_+1702820194_2023_12_17.tar",
            "gitlab_config_1702820194_2023_12_17.tar.gz",
            "gitlab_config_1702820194_2023_13_17.tar",
            "gitlab_config_1702820194_2023_12_17_1.tar",
            "gitlab_config_253402300800_10000_01_01.tar",
            "gitlab_config_99999999999999999999_2023_12_17.tar",
            "old_gitlab_config_1702820194_2023_12_17.tar",
            "1495527122_gitlab_backup.tar",
            "1495527068_2017_05_23_gitlab_backup.tar",
            "dump_gitlab_backup.tar",
            "_gitlab_backup.tar",
            "-1702758583_2023_12_16_16.5.1_gitlab_backup.tar",
            "1702758583_2023_12_16_16.5_gitlab_backup.tar",
            "1702758583_2023_12_16_16.5.1_gitlab_backup.tar.part",
            "1702758583_2023_12_16_16.5.1_x_gitlab_backup.tar",
            "1702758583_2023_12_16_16.5.1",
            "1702758583_2023_12_16_16.5.tar",
            "1702758583_2023_12_16.tar",
            "1702758583_2023_12_16_16.5.1.tar.gz",
            "9223372036854775807_2023_12_16_16.5.1_gitlab_backup.tar",
            "",
        ] {
            assert_eq!(ArchiveName::parse(name), None, "{name}");
        }
    }

    fn archive(name: &str, size: u64) -> Archive {
        let name = ArchiveName::parse(name).expect("a name");
        Archive {
            path: PathBuf::from(name.as_str()),
            name,
            size,
            form: Form::File,
            identity: Identity(vec![(size, size, 0, 0)]),
        }
    }

    #[test]
    fn the_stamp_alone_decides_and_equal_stamps_go_by_the_name() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).expect("a time");
        let all = [
            archive("1702758583_2023_12_16_17.8.10_gitlab_backup.tar", 1),
            archive("1702758583_2023_12_16_17.8.2_gitlab_backup.tar", 1),
            archive("1702758582_2024_12_31_17.9.0_gitlab_backup.tar", 1),
            archive("1800086401_2027_01_16_17.9.0_gitlab_backup.tar", 1),
        ];
        let (newest, future) = newest(&all, now);
        assert_eq!(newest.map(|a| a.name.as_str()), Some(all[1].name.as_str()));
        assert_eq!(future.map(|a| a.name.as_str()), Some(all[3].name.as_str()));
    }

    #[test]
    fn the_nearest_config_archive_within_a_day_belongs_to_a_data_archive() {
        let data =
            ArchiveName::parse("1702758583_2023_12_16_16.5.1_gitlab_backup.tar").expect("a name");
        let chosen = |offsets: &[i64]| {
            let name = |offset: &i64| {
                let stamp = data.stamp.checked_add_signed(*offset).expect("in range");
                ArchiveName::parse(&format!("gitlab_config_{stamp}_2023_12_16.tar"))
                    .expect("a name")
            };
            let configs: Vec<_> = offsets.iter().map(name).collect();
            belonging(&data, &configs, |name| name)
                .map(|name| i64::try_from(name.stamp).expect("small") - 1_702_758_583)
        };
        assert_eq!(chosen(&[-30, 20, 40]), Some(20));
        assert_eq!(chosen(&[30, -30]), Some(-30));
        assert_eq!(chosen(&[86_400]), Some(86_400));
        assert_eq!(chosen(&[86_401, -86_401]), None);
        assert_eq!(chosen(&[]), None);
    }

    #[test]
    fn an_old_archive_never_passes_for_a_new_one() {
        let before = [archive("1702758583_2023_12_16_16.5.1_gitlab_backup.tar", 5)];
        assert_eq!(made_since(&before, &before), None);
        // Overwritten in the same second: the same name, another file.
        let after = [archive("1702758583_2023_12_16_16.5.1_gitlab_backup.tar", 6)];
        assert_eq!(made_since(&before, &after), Some(&after[0]));
    }
}
