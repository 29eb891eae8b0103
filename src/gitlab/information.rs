//! `backup_information.yml`: what GitLab writes about a data archive, as its first member.
//!
//! It is YAML as Ruby's Psych writes a flat hash of symbols; one value is a serialised
//! `ActiveSupport::TimeWithZone` (<https://gitlab.com/gitlab-org/gitlab/-/blob/master/lib/backup/metadata.rb>),
//! whose tag every YAML library refuses. So only what Psych can write for these keys is read, and every
//! line that is not of that form is a fault with its number.

use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};

/// What `backup_information.yml` says, as far as anybody needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Information {
    /// The version of GitLab that made the archive, with its edition (`16.5.0-ee`); a restore needs the same.
    pub gitlab_version: Option<String>,
    /// The backup's ID; GitLab before 15 did not write it.
    pub backup_id: Option<String>,
    /// Of an incremental backup, the ID of the full one it began with.
    pub full_backup_id: Option<String>,
    /// When the backup was begun.
    pub created_at: Option<DateTime<Utc>>,
    /// The number of the last migration of the database.
    pub db_version: Option<String>,
    /// What `tar --version` said.
    pub tar_version: Option<String>,
    /// The parts GitLab was told to leave out, in its own words.
    pub skipped: Vec<String>,
    /// Whether gitaly keeps the repositories itself, elsewhere: `true` or `false`.
    pub repositories_server_side: Option<String>,
    /// Keys that stand in it, in their order, without their colons.
    pub keys: Vec<String>,
}

/// A line that Psych would not have written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnreadableLine(
    /// Its number, from 1.
    pub usize,
);

/// The keys of all versions of GitLab so far. A restore refuses a key it does not know, but a later GitLab
/// may know more than this.
const KEYS: [&str; 12] = [
    "db_version",
    "backup_created_at",
    "gitlab_version",
    "tar_version",
    "installation_type",
    "skipped",
    "repositories_storages",
    "repositories_paths",
    "skip_repositories_paths",
    "repositories_server_side",
    "backup_id",
    "full_backup_id",
];

/// The Ruby classes whose objects GitLab lets this file bring, besides those that have no tag.
const TAGS: [&str; 2] = [
    "!ruby/object:ActiveSupport::TimeWithZone",
    "!ruby/object:ActiveSupport::TimeZone",
];

/// The keys that every version of GitLab since 9 writes, whatever their values.
const KEYS_OF_ALL_VERSIONS: [&str; 5] = [
    "db_version",
    "backup_created_at",
    "gitlab_version",
    "tar_version",
    "skipped",
];

impl Information {
    /// Reads the whole text.
    pub fn parse(text: &[u8]) -> Result<Information, UnreadableLine> {
        let mut information = Information::default();
        // The key whose value goes on in indented lines.
        let mut current: Option<String> = None;
        // Psych ends the last line, too.
        let lines = text.split(|byte| *byte == b'\n').count();
        if !text.ends_with(b"\n") {
            return Err(UnreadableLine(lines));
        }
        for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
            let unreadable = UnreadableLine(index + 1);
            let line = str::from_utf8(line).map_err(|_| unreadable)?;
            let line = line.strip_suffix('\r').unwrap_or(line);
            if line.chars().any(|c| c.is_control() && c != '\t') {
                return Err(unreadable);
            }
            if line.trim().is_empty() || line.starts_with('#') || (line == "---" && index == 0) {
                continue;
            }
            let mut tags = line.split(' ').filter(|word| word.starts_with('!'));
            if !tags.all(|tag| TAGS.contains(&tag)) {
                return Err(unreadable);
            }
            let nested = line.starts_with([' ', '-']);
            if let (true, Some(key)) = (nested, &current) {
                information
                    .nested(key, line.trim_start())
                    .ok_or(unreadable)?;
                continue;
            }
            let (key, value) = key_and_value(line).ok_or(unreadable)?;
            if information.keys.iter().any(|known| known == key) {
                return Err(unreadable);
            }
            information.keys.push(key.to_owned());
            information.set(key, scalar(value).ok_or(unreadable)?);
            // A time goes on only if it is an object.
            let goes_on = key != "backup_created_at" || value.ends_with(TAGS[0]);
            current = goes_on.then(|| key.to_owned());
        }
        Ok(information)
    }

    /// The parts skipped according to a text that may be damaged elsewhere.
    pub fn skipped_in(text: &str) -> Vec<String> {
        let mut lines = text
            .lines()
            .skip_while(|line| !line.starts_with(":skipped:"));
        let Some(first) = lines.next() else {
            return Vec::new();
        };
        let listed = lines.take_while(|line| line.trim_start().starts_with("- "));
        std::iter::once(first.trim_start_matches(":skipped:"))
            .chain(listed)
            .flat_map(words)
            .collect()
    }

    /// What a restore would stumble over, though every line can be read.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let has = |key: &str| self.keys.iter().any(|known| known == key);
        for key in KEYS_OF_ALL_VERSIONS.iter().filter(|key| !has(key)) {
            faults.push(format!("`:{key}:` is missing"));
        }
        for key in self.keys.iter().filter(|key| !KEYS.contains(&key.as_str())) {
            let meant = KEYS
                .iter()
                .find(|known| !has(known) && almost_equal(known, key));
            if let Some(meant) = meant {
                faults.push(format!("`:{key}:` stands where `:{meant}:` should"));
            }
        }
        if has("gitlab_version") && !self.gitlab_version.as_deref().is_some_and(is_version) {
            faults.push("`:gitlab_version:` is no version".to_owned());
        }
        if has("backup_created_at") && self.created_at.is_none() {
            faults.push("`:backup_created_at:` is no time".to_owned());
        }
        let digits = |text: &String| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if has("db_version") && !self.db_version.as_ref().is_some_and(digits) {
            faults.push("`:db_version:` is no number".to_owned());
        }
        if !matches!(
            self.repositories_server_side.as_deref(),
            None | Some("true" | "false")
        ) {
            faults.push("`:repositories_server_side:` is neither true nor false".to_owned());
        }
        faults.extend(self.contradiction());
        faults
    }

    /// Whether it may hold more than one step of a repository.
    pub fn is_incremental(&self) -> bool {
        self.full_backup_id.is_some() && self.full_backup_id != self.backup_id
    }

    /// GitLab makes the ID from time and version, `1702758583_2023_12_16_16.5.1`, with the date in a zone of
    /// its own. Any other ID is by `BACKUP=` and says nothing, unless it is almost that one.
    fn contradiction(&self) -> Option<String> {
        let (id, version) = (self.backup_id.as_deref()?, self.gitlab_version.as_deref()?);
        let time = self.created_at?;
        let stamp = format!("{:010}_", time.timestamp());
        let (start, rest) = id.split_at_checked(stamp.len())?;
        let (date, end) = rest.split_at_checked("2023_12_16".len())?;
        let expected = format!("{stamp}_{version}");
        let found = format!("{start}{end}");
        let date = NaiveDate::parse_from_str(date, "%Y_%m_%d").ok();
        let days = date.map(|date| (date - time.date_naive()).num_days().abs());
        let is_made_of_them = found == expected && days.is_some_and(|days| days <= 1);
        (!is_made_of_them && (found == expected || almost_equal(&found, &expected)))
            .then(|| "`:backup_id:` does not fit the other lines".to_owned())
    }

    fn set(&mut self, key: &str, value: &str) {
        let text = Some(value.to_owned()).filter(|value| !value.is_empty());
        match key {
            "gitlab_version" => self.gitlab_version = text,
            "backup_id" => self.backup_id = text,
            "full_backup_id" => self.full_backup_id = text,
            "backup_created_at" => self.created_at = time(value),
            "db_version" => self.db_version = text,
            "tar_version" => self.tar_version = text,
            "repositories_server_side" => self.repositories_server_side = text,
            "skipped" => self.skipped = words(value).collect(),
            _ => {}
        }
    }

    /// A line that belongs to the value of `key`: an item of a list, a field of the time, a folded text.
    fn nested(&mut self, key: &str, line: &str) -> Option<()> {
        match key {
            "skipped" => self.skipped.extend(words(line)),
            "backup_created_at" => match line.split_once(": ")? {
                ("utc", utc) => self.created_at = time(utc),
                ("zone", zone) if without_anchor(zone) == TAGS[1] => {}
                ("name" | "time", _) => {}
                _ => return None,
            },
            _ => {}
        }
        Some(())
    }
}

/// `:key: value` with a key of small letters and underscores.
fn key_and_value(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.strip_prefix(':')?.split_once(':')?;
    let letters = key
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b"_0123456789".contains(&b));
    if key.is_empty() || !letters || !(value.is_empty() || value.starts_with(' ')) {
        return None;
    }
    Some((key, value.trim()))
}

/// A value without its quotes; a quote that is not closed is a fault.
fn scalar(value: &str) -> Option<&str> {
    for quote in ['\'', '"'] {
        if let Some(rest) = value.strip_prefix(quote) {
            return rest.strip_suffix(quote);
        }
    }
    let balanced = value.starts_with('[') == value.ends_with(']');
    (balanced && !value.ends_with(['\'', '"'])).then_some(value)
}

/// The words of a skip list, which was written as a text or as a list over the versions of GitLab.
fn words(line: &str) -> impl Iterator<Item = String> {
    line.split([',', ' ', '[', ']', '"', '\'', '-'])
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
}

/// `2024-12-18 19:00:04.123456789 Z`, perhaps with an anchor before it.
fn time(text: &str) -> Option<DateTime<Utc>> {
    let text = without_anchor(text.trim());
    let (time, zone) = text.rsplit_once(' ')?;
    let zone = if zone == "Z" { "+00:00" } else { zone };
    DateTime::parse_from_str(&format!("{time} {zone}"), "%Y-%m-%d %H:%M:%S%.f %:z")
        .ok()
        .map(|time| time.to_utc())
}

/// `&1 text`
fn without_anchor(text: &str) -> &str {
    let anchored = text.strip_prefix('&').and_then(|text| text.split_once(' '));
    anchored.map_or(text, |(_, text)| text)
}

/// `17.8.2`, `16.5.0-ee`, `15.0.0-rc1-ee`.
fn is_version(text: &str) -> bool {
    let numbers = text.split('-').next().unwrap_or_default();
    let mut count = 0;
    let numeric = numbers.split('.').all(|part| {
        count += 1;
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit())
    });
    let rest = text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"-.+~".contains(&b));
    numeric && count >= 3 && rest
}

/// Whether two words of the same length differ in one or two letters: what a flipped bit makes of one.
fn almost_equal(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).filter(|(a, b)| a != b).count() <= 2
}

#[cfg(test)]
mod tests {
    use super::*;

    const OF_17_8: &str = "\
:db_version: '20241218190004'
:backup_created_at: !ruby/object:ActiveSupport::TimeWithZone
  utc: 2025-02-12 04:00:03.123456789 Z
  zone: !ruby/object:ActiveSupport::TimeZone
    name: Etc/UTC
  time: 2025-02-12 04:00:03.123456789 Z
:gitlab_version: 17.8.2
:tar_version: tar (GNU tar) 1.34
:installation_type: omnibus-gitlab
:skipped: registry,artifacts
:repositories_storages: ''
:repositories_paths: ''
:skip_repositories_paths: ''
:repositories_server_side: false
:backup_id: 1739332803_2025_02_12_17.8.2
:full_backup_id:
";

    #[test]
    fn what_gitlab_writes_is_read() {
        let read = Information::parse(OF_17_8.as_bytes()).expect("readable");
        assert_eq!(read.gitlab_version.as_deref(), Some("17.8.2"));
        assert_eq!(
            read.backup_id.as_deref(),
            Some("1739332803_2025_02_12_17.8.2")
        );
        assert_eq!(read.full_backup_id, None);
        assert_eq!(
            read.created_at.map(|time| time.timestamp()),
            Some(1_739_332_803)
        );
        assert_eq!(read.db_version.as_deref(), Some("20241218190004"));
        assert_eq!(read.tar_version.as_deref(), Some("tar (GNU tar) 1.34"));
        assert_eq!(read.skipped, ["registry", "artifacts"]);
        assert_eq!(read.keys.len(), 12);
        assert_eq!(read.faults(), [""; 0]);
    }

    #[test]
    fn older_forms_are_read() {
        let old = "---\n:db_version: '20190101'\n:backup_created_at: 2019-03-04 05:06:07.000000000 +02:00\n\
                   :gitlab_version: 11.8.0-ee\n:tar_version: tar (GNU tar) 1.28\n:skipped:\n- db\n- uploads\n";
        let read = Information::parse(old.as_bytes()).expect("readable");
        assert_eq!(
            read.created_at.map(|time| time.to_rfc3339()).as_deref(),
            Some("2019-03-04T03:06:07+00:00")
        );
        assert_eq!(read.skipped, ["db", "uploads"]);
        assert_eq!(read.faults(), [""; 0]);
        let anchored = OF_17_8
            .replace("utc: 2025", "utc: &1 2025")
            .replace("time: 2025-02-12 04:00:03.123456789 Z", "time: *1");
        assert_eq!(
            Information::parse(anchored.as_bytes())
                .expect("readable")
                .faults(),
            [""; 0]
        );
    }

    #[test]
    fn lines_of_another_form_are_named() {
        for (damage, line) in [
            (OF_17_8.replace(":gitlab_version:", "zgitlab_version:"), 7),
            (OF_17_8.replace(":gitlab_version:", ":gitlab version:"), 7),
            (
                OF_17_8.replace(":gitlab_version: 1", ":gitlab_version:\u{1} 1"),
                7,
            ),
            (OF_17_8.replace("'20241218190004'", "'20241218190004"), 1),
            (OF_17_8.replace("'20241218190004'", "20241218190004'"), 1),
            (OF_17_8.replace(":tar_version", ":gitlab_version"), 8),
            (OF_17_8.replace(":db_version:", " db_version:"), 1),
            (format!("{OF_17_8}\0\0\0"), 17),
            (OF_17_8.trim_end().to_owned(), 16),
            (String::new(), 1),
            (OF_17_8.replace("TimeWithZone", "TimeWithZonf"), 2),
            (OF_17_8.replace("::TimeZone", "::TimeZnne"), 4),
            (OF_17_8.replace("  zone:", "  zonf:"), 4),
            (OF_17_8.replace("zone: !", "zone:  "), 4),
            (OF_17_8.replace("at: !", "at:  "), 3),
        ] {
            assert_eq!(
                Information::parse(damage.as_bytes()),
                Err(UnreadableLine(line)),
                "{damage}"
            );
        }
        let mut bytes = OF_17_8.as_bytes().to_vec();
        bytes[3] = 0xff;
        assert_eq!(Information::parse(&bytes), Err(UnreadableLine(1)));
    }

    #[test]
    fn what_a_restore_would_stumble_over_is_named() {
        for (from, to, fault) in [
            (
                ":gitlab_version: 17.8.2\n",
                "",
                "`:gitlab_version:` is missing",
            ),
            (
                ":gitlab_version: 17.8.2",
                ":gitlab_version: 17.x.2",
                "is no version",
            ),
            (
                ":gitlab_version: 17.8.2",
                ":gitlab_version: 17.8.3",
                "does not fit",
            ),
            (
                ":gitlab_version: 17.8.2",
                ":gitlab_version:",
                "is no version",
            ),
            ("utc: 2025-02-12", "utc: 2025-92-12", "is no time"),
            (
                "03.123456789 Z\n  zone",
                "02.123456789 Z\n  zone",
                "does not fit",
            ),
            ("20241218190004", "2024x218190004", "is no number"),
            ("side: false", "side: falsd", "neither true nor false"),
            (
                ":backup_id:",
                ":backup_ie:",
                "`:backup_ie:` stands where `:backup_id:` should",
            ),
        ] {
            let faults = Information::parse(OF_17_8.replace(from, to).as_bytes())
                .expect("readable")
                .faults();
            assert!(
                faults.iter().any(|found| found.contains(fault)),
                "{to}: {faults:?}"
            );
        }
        for id in [
            "1739332803_2025_02_13_17.8.2",
            "nightly",
            "1739332803_2025_02_12_17.8.2-mine",
        ] {
            let text = OF_17_8.replace("1739332803_2025_02_12_17.8.2", id);
            let read = Information::parse(text.as_bytes()).expect("readable");
            assert_eq!(read.faults(), [""; 0], "{id}");
        }
        let later = format!("{OF_17_8}:a_key_of_the_future: 1\n");
        assert_eq!(
            Information::parse(later.as_bytes())
                .expect("readable")
                .faults(),
            [""; 0]
        );
    }

    #[test]
    fn every_form_of_the_skip_list_is_read() {
        for text in [
            ":skipped: db,uploads\n:x: 1\n",
            ":skipped: \"db,uploads\"\n",
            ":skipped: [db, uploads]\n",
            ":a: 1\n:skipped:\n- db\n- uploads\n:x:\n- no\n",
        ] {
            assert_eq!(Information::skipped_in(text), ["db", "uploads"], "{text}");
            let read = Information::parse(text.as_bytes()).expect("readable");
            assert_eq!(read.skipped, ["db", "uploads"], "{text}");
        }
        assert_eq!(
            Information::skipped_in(":skipped: \n:repositories_storages: default\n"),
            [""; 0]
        );
        assert_eq!(Information::skipped_in(""), [""; 0]);
    }
}
