//! The names of archives.

use std::cmp::Ordering;
use std::fmt;

use chrono::{DateTime, TimeDelta, Utc};

use super::ArchiveKind;

/// What `gitlab-backup` adds to a backup's ID.
const OF_GITLAB_BACKUP: &str = "_gitlab_backup.tar";
/// What is added to a backup's ID for the tar of a folder that `gitlab-backup-cli` made.
const OF_DIRECTORY: &str = ".tar";

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
}
