//! GitLab's archives: names to types, and which one is the newest.
//!
//! Names as `gitlab-ctl backup-etc` and `gitlab-backup create` make them:
//! `gitlab_config_<unix>_<Y>_<m>_<d>.tar` and `<unix>_<Y>_<m>_<d>_<version>_gitlab_backup.tar`
//! (<https://docs.gitlab.com/administration/backup_restore/backup_archive_process/>). The number alone
//! orders them; the date is in the host's zone in one and in UTC in the other. `gitlab-backup-cli` makes a
//! folder `<unix>_<Y>_<m>_<d>_<version>`, which is stored as a tar of that name
//! (<https://docs.gitlab.com/administration/backup_restore/backup_cli/>).

mod name;

use std::fmt;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

pub use crate::archive::name::ArchiveName;

const DAY_SECONDS: u64 = 24 * 60 * 60;

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

/// In which form an archive lies on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A file that is the archive.
    File,
    /// A folder whose tar is the archive.
    Directory,
    /// Unpacked in GitLab's folder of backups itself: its path is that of its `backup_information.yml`.
    Parts,
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
