//! What a data archive holds, counted from its members' names and sizes: for the manifest, for the guard
//! against a backup that shrank, and to compare with what was read back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::information::Information;

/// The words of GitLab's `SKIP` for the parts of a data archive, in the order GitLab makes them
/// (<https://docs.gitlab.com/administration/backup_restore/backup_gitlab/>).
pub const PARTS: [&str; 12] = [
    "db",
    "repositories",
    "uploads",
    "builds",
    "artifacts",
    "pages",
    "lfs",
    "terraform_state",
    "registry",
    "packages",
    "ci_secure_files",
    "external_diffs",
];

/// An archive could hold any number of `*.tar.gz`; more parts than this are not told apart.
const MOST_PARTS: usize = 64;

/// What an archive holds. Of a config archive nothing is counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Contents {
    /// The sizes of the members of each part together, in bytes, by GitLab's word for the part.
    pub parts: BTreeMap<String, u64>,
    /// How many repositories there are, wikis, designs and snippets among them.
    pub repositories: u64,
    /// How many git bundles there are; an incremental backup has several of one repository.
    pub bundles: u64,
    /// The parts that were left out according to `backup_information.yml`.
    pub skipped: Vec<String>,
    /// The GitLab that made it according to `backup_information.yml`.
    pub gitlab_version: Option<String>,
}

/// Counts members one by one; its memory does not grow with their number.
#[derive(Debug, Default)]
pub struct ContentsCounter {
    /// What everything lies in.
    folder: Option<String>,
    parts: BTreeMap<String, u64>,
    latest_manifests: u64,
    pointers: u64,
    first_refs: u64,
    bundles: u64,
}

impl ContentsCounter {
    /// For an archive whose members all lie in this folder, if in one.
    pub fn within(folder: Option<&str>) -> ContentsCounter {
        ContentsCounter {
            folder: folder.map(str::to_owned),
            ..ContentsCounter::default()
        }
    }

    /// A member with its path as it stands in the archive, and its size in bytes.
    pub fn member(&mut self, path: &[u8], is_file: bool, size: u64) {
        let Some(path) = below(path, self.folder.as_deref()) else {
            return;
        };
        let Some(part) = part_of(path) else { return };
        if self.parts.len() < MOST_PARTS || self.parts.contains_key(part) {
            let sum = self.parts.entry(part.to_owned()).or_default();
            *sum = sum.saturating_add(if is_file { size } else { 0 });
        }
        if part != "repositories" || !is_file {
            return;
        }
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let manifest = path.starts_with(b"repositories/manifests/");
        self.latest_manifests += u64::from(manifest && name == b"+latest.toml");
        self.pointers += u64::from(name == b"LATEST");
        self.first_refs += u64::from(name == b"001.refs");
        self.bundles += u64::from(name.ends_with(b".bundle"));
    }

    /// What there was, with what GitLab itself says about it.
    pub fn finish(self, information: Option<&Information>) -> Contents {
        // Before manifests, gitaly kept a pointer in the repository's folder and one beside each first
        // step, which has a list of references; before that, one bundle per repository
        // (<https://gitlab.com/gitlab-org/gitaly/-/blob/master/internal/backup/locator.go>).
        let pointed = self.pointers.saturating_sub(self.first_refs);
        let repositories = [self.latest_manifests, pointed, self.bundles];
        Contents {
            parts: self.parts,
            repositories: repositories.into_iter().find(|n| *n > 0).unwrap_or(0),
            bundles: self.bundles,
            skipped: information.map_or_else(Vec::new, |told| told.skipped.clone()),
            gitlab_version: information.and_then(|told| told.gitlab_version.clone()),
        }
    }
}

/// A path without what stands before its first folder: `./`, `/`.
pub fn below_top(path: &[u8]) -> &[u8] {
    let path = path.strip_prefix(b"./").unwrap_or(path);
    let slashes = path.iter().take_while(|byte| **byte == b'/').count();
    &path[slashes..]
}

/// A path below the folder that everything in an archive lies in, if in one; none if it does not lie there. The
/// folder itself is empty.
pub fn below<'a>(path: &'a [u8], folder: Option<&str>) -> Option<&'a [u8]> {
    let path = below_top(path);
    let Some(folder) = folder else {
        return Some(path);
    };
    let rest = path.strip_prefix(folder.as_bytes())?;
    match rest.split_first() {
        None => Some(rest),
        Some((b'/', rest)) => Some(rest),
        Some(_) => None,
    }
}

/// The part a member belongs to: `db/…`, `repositories/…`, or the word before `.tar.gz`.
pub fn part_of(path: &[u8]) -> Option<&str> {
    let mut names = path.split(|byte| *byte == b'/');
    let first = str::from_utf8(names.next()?).ok()?;
    let word = match first.strip_suffix(".tar.gz") {
        Some(word) if names.next().is_none() => word,
        None if matches!(first, "db" | "repositories") => first,
        _ => return None,
    };
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (!word.is_empty() && word.len() <= 40 && word.bytes().all(plain)).then_some(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(paths: &[(&str, u64)]) -> Contents {
        let mut counter = ContentsCounter::default();
        for (path, size) in paths {
            counter.member(path.as_bytes(), !path.ends_with('/'), *size);
        }
        counter.finish(None)
    }

    #[test]
    fn parts_are_summed_under_gitlabs_words() {
        let contents = count(&[
            ("backup_information.yml", 500),
            ("db/", 0),
            ("db/database.sql.gz", 7),
            ("./db/ci_database.sql.gz", 5),
            ("uploads.tar.gz", 11),
            ("a_part_of_the_future.tar.gz", 1),
            ("etc/gitlab/gitlab.rb", 3),
            ("folder/lfs.tar.gz", 3),
            ("Evil\n.tar.gz", 3),
            ("repositories/", 0),
        ]);
        let parts: Vec<_> = contents
            .parts
            .iter()
            .map(|(part, size)| (part.as_str(), *size))
            .collect();
        assert_eq!(
            parts,
            [
                ("a_part_of_the_future", 1),
                ("db", 12),
                ("repositories", 0),
                ("uploads", 11)
            ]
        );
        assert_eq!(contents.repositories, 0);
    }

    #[test]
    fn in_a_folder_only_what_lies_there_is_counted() {
        let id = "1714053314_2024_04_25_17.8.2";
        let mut counter = ContentsCounter::within(Some(id));
        for path in [
            "1714053314_2024_04_25_17.8.2/",
            "1714053314_2024_04_25_17.8.2/uploads.tar.gz",
            "./1714053314_2024_04_25_17.8.2/db/database.sql.gz",
            "1714053314_2024_04_25_17.8.2/repositories/manifests/default/@hashed/a.git/+latest.toml",
            "1714053314_2024_04_25_17.8.2x/lfs.tar.gz",
            "pages.tar.gz",
        ] {
            counter.member(path.as_bytes(), !path.ends_with('/'), 2);
        }
        let contents = counter.finish(None);
        let parts: Vec<_> = contents.parts.keys().map(String::as_str).collect();
        assert_eq!(parts, ["db", "repositories", "uploads"]);
        assert_eq!(contents.repositories, 1);
    }

    #[test]
    fn repositories_are_counted_in_every_layout() {
        let manifests = count(&[
            ("repositories/manifests/default/a.git/+latest.toml", 1),
            ("repositories/manifests/default/a.git/17_x.toml", 1),
            ("repositories/manifests/default/b.git/+latest.toml", 1),
            ("repositories/default/a.git/17_x/001.bundle", 1),
            ("repositories/default/a.git/17_x/002.bundle", 1),
            ("repositories/default/a.git/17_x/001.refs", 1),
            ("repositories/default/b.git/17_x/001.refs", 0),
        ]);
        assert_eq!((manifests.repositories, manifests.bundles), (2, 2));
        let pointers = count(&[
            ("repositories/@hashed/a/LATEST", 30),
            ("repositories/@hashed/a/15_x/LATEST", 3),
            ("repositories/@hashed/a/15_x/001.refs", 3),
            ("repositories/@hashed/a/15_x/001.bundle", 3),
            ("repositories/@hashed/a/15_x/002.bundle", 3),
            ("repositories/@hashed/b/LATEST", 30),
            ("repositories/@hashed/b/15_x/LATEST", 3),
            ("repositories/@hashed/b/15_x/001.refs", 3),
        ]);
        assert_eq!((pointers.repositories, pointers.bundles), (2, 2));
        let legacy = count(&[
            ("repositories/a/b.bundle", 1),
            ("repositories/a/b.wiki.bundle", 1),
        ]);
        assert_eq!((legacy.repositories, legacy.bundles), (2, 2));
    }

    #[test]
    fn memory_does_not_grow_with_hostile_names() {
        let mut counter = ContentsCounter::default();
        for i in 0..10_000 {
            counter.member(format!("part_{i}.tar.gz").as_bytes(), true, u64::MAX);
            counter.member(b"db/x", true, u64::MAX);
        }
        assert_eq!(counter.finish(None).parts.len(), MOST_PARTS);
    }
}
