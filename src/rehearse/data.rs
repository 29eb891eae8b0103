//! A data archive: what GitLab says about it, the database, the repositories, and every other part.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read};

use super::git::Git;
use super::repositories::Repositories;
use super::verdict::{Examples, PartVerdict, counted};
use crate::archive::ArchiveName;
use crate::gitlab::cli::{self, Told};
use crate::gitlab::contents::{Contents, ContentsCounter, PARTS, below, part_of};
use crate::gitlab::format::compressed::expand;
use crate::gitlab::format::{Flaw, dump, whole_tar};
use crate::gitlab::information::Information;
use crate::tar::{Entry, EntryKind};
use crate::units::Size;

/// `backup_information.yml` has half a kilobyte; no more than this is read of it, in bytes.
const LONGEST_INFORMATION: u64 = 64 * 1024;
/// An archive could have any number of parts; no more than these get a verdict of their own.
const MOST_PARTS: usize = 64;

/// What a folder is made by.
const ENGINE: &str = "gitlab-backup-cli";

/// What has been seen of a data archive.
pub(super) struct Data {
    name: Option<ArchiveName>,
    counter: ContentsCounter,
    information: Option<Result<Told, String>>,
    dumps: Dumps,
    repositories: Repositories,
    has_repositories: bool,
    parts: BTreeMap<String, Result<String, Flaw>>,
    /// Compressed members that belong to no part.
    others: Examples,
    /// Members that do not lie in the folder that everything should lie in.
    outside: Examples,
    /// Members of that folder that are neither files nor folders.
    odd: Examples,
    git: Option<Result<Git, String>>,
}

#[derive(Default)]
struct Dumps {
    main: bool,
    whole: Examples,
    damaged: Examples,
    unjudged: Examples,
}

impl Data {
    pub(super) fn new(name: Option<ArchiveName>, git: Option<Result<Git, String>>) -> Data {
        Data {
            counter: ContentsCounter::within(name.as_ref().and_then(ArchiveName::folder)),
            name,
            information: None,
            dumps: Dumps::default(),
            repositories: Repositories::new(),
            has_repositories: false,
            parts: BTreeMap::new(),
            others: Examples::default(),
            outside: Examples::default(),
            odd: Examples::default(),
            git,
        }
    }

    pub(super) fn member(&mut self, entry: &Entry, contents: &mut dyn BufRead) {
        let is_file = entry.kind == EntryKind::File;
        self.counter.member(&entry.path, is_file, entry.size);
        let folder = self.folder();
        let is_ours = folder.is_some();
        let Some(path) = below(&entry.path, folder) else {
            let name = String::from_utf8_lossy(&entry.path).into_owned();
            return self.outside.push(&name);
        };
        self.has_repositories |= path.starts_with(b"repositories/");
        if !is_file {
            if is_ours && entry.kind != EntryKind::Folder {
                let name = String::from_utf8_lossy(path).into_owned();
                self.odd.push(&name);
            }
            return;
        }
        if path == self.information_file().as_bytes() {
            self.information(contents);
        } else if let Some(path) = path.strip_prefix(b"repositories/") {
            let git = self.git.as_mut().and_then(|git| git.as_mut().ok());
            self.repositories.file(path, contents, git);
        } else if let Some(name) = path.strip_prefix(b"db/") {
            self.dumps.file(&String::from_utf8_lossy(name), contents);
        } else if let Some(part) = part_of(path) {
            let found = packed(contents);
            if self.parts.len() < MOST_PARTS || self.parts.contains_key(part) {
                self.parts.insert(part.to_owned(), found);
            }
        } else if path.ends_with(b".gz")
            && let Err(Flaw::Damaged(why)) = expanded(contents)
        {
            let name = String::from_utf8_lossy(path);
            self.others.push(&format!("{name}: {why}"));
        }
    }

    fn folder(&self) -> Option<&str> {
        self.name.as_ref().and_then(ArchiveName::folder)
    }

    /// Where the tool that made it says what it made.
    fn information_file(&self) -> &'static str {
        match self.folder() {
            Some(_) => cli::INFORMATION,
            None => "backup_information.yml",
        }
    }

    fn information(&mut self, contents: &mut dyn BufRead) {
        let mut text = Vec::new();
        let read = contents.take(LONGEST_INFORMATION).read_to_end(&mut text);
        let information = match read {
            Err(error) => Err(error.to_string()),
            Ok(_) if text.is_empty() => Err("it is empty".to_owned()),
            Ok(_) => self.understand(&text),
        };
        let told = information.as_ref().ok().map(|told| &told.information);
        self.repositories
            .set_backup_id(told.and_then(|told| told.backup_id.as_deref()));
        if let (Some(Ok(git)), Some(told)) = (&mut self.git, told) {
            git.set_incremental(told.is_incremental());
        }
        self.information = Some(information);
    }

    fn understand(&self, text: &[u8]) -> Result<Told, String> {
        match &self.name {
            Some(name) if name.folder().is_some() => cli::information(text, name),
            name => {
                let information = Information::parse(text)
                    .map_err(|line| format!("line {} is not as GitLab writes it", line.0))?;
                let version = name.as_ref().and_then(|name| name.version.as_deref());
                let faults = faults(&information, version);
                Ok(Told {
                    information,
                    faults,
                })
            }
        }
    }

    /// What it holds, what GitLab says about it, and a verdict on every part.
    pub(super) fn finish(self) -> (Contents, Option<Information>, Vec<PartVerdict>) {
        let information_file = self.information_file();
        let is_folder = self.folder().is_some();
        let told = self
            .information
            .as_ref()
            .and_then(|told| told.as_ref().ok())
            .map(|told| &told.information);
        let contents = self.counter.finish(told);
        let mut verdicts = vec![on_information(self.information.as_ref(), information_file)];
        for (found, what) in [
            (
                &self.outside,
                "outside of the folder with the backup's name",
            ),
            (
                &self.odd,
                "neither files nor folders, which cannot be restored",
            ),
        ] {
            if !found.is_empty() {
                verdicts.push(PartVerdict::failed("folder", format!("{what}: {found}")));
            }
        }
        let skipped = |part: &str| contents.skipped.iter().any(|skipped| skipped == part);
        let absent = |part: &str| {
            if is_folder {
                let what = format!("absent, and {ENGINE} leaves no part out");
                return PartVerdict::warning(part, what);
            }
            let how = if skipped(part) {
                ""
            } else {
                "absent, though not "
            };
            PartVerdict::skipped(part, format!("{how}left out by SKIP"))
        };
        verdicts.push(match self.dumps.verdict() {
            Some(verdict) => verdict,
            None if skipped("db") => absent("db"),
            None => PartVerdict::failed(
                "db",
                "there is no database dump in it, and `db` was not skipped",
            ),
        });
        verdicts.push(if self.has_repositories {
            self.repositories.verdict(&contents)
        } else if skipped("repositories") {
            absent("repositories")
        } else {
            PartVerdict::warning(
                "repositories",
                "there is not one repository in it, and `repositories` was not skipped",
            )
        });
        let mut parts = self.parts;
        for part in PARTS
            .into_iter()
            .filter(|part| !matches!(*part, "db" | "repositories"))
        {
            match parts.remove(part) {
                Some(found) => verdicts.push(on_part(part, found)),
                // It is not made where there is no registry, or not yet.
                None if is_folder && matches!(part, "registry" | "external_diffs") => {}
                None if skipped(part) || is_made_by(told, part) => verdicts.push(absent(part)),
                None => {}
            }
        }
        verdicts.extend(parts.into_iter().map(|(part, found)| on_part(&part, found)));
        if !self.others.is_empty() {
            verdicts.push(PartVerdict::failed("others", self.others.to_string()));
        }
        match self.git {
            Some(Ok(git)) => verdicts.push(git.finish()),
            Some(Err(why)) => verdicts.push(PartVerdict::unknown("git", why)),
            None => {}
        }
        (contents, told.cloned(), verdicts)
    }
}

impl Dumps {
    fn file(&mut self, name: &str, contents: &mut dyn BufRead) {
        if !name.contains(".sql") {
            return;
        }
        self.main |= name.starts_with("database.sql");
        let sql = expand(contents).map_err(Flaw::from);
        match sql.and_then(|mut sql| dump::check(&mut sql)) {
            Ok(len) => self.whole.push(&format!("{name}: {} of SQL", Size(len))),
            Err(Flaw::Damaged(why)) => self.damaged.push(&format!("{name}: {why}")),
            Err(Flaw::Unjudged(why)) => self.unjudged.push(&format!("{name}: {why}")),
        }
    }

    fn verdict(self) -> Option<PartVerdict> {
        if !self.damaged.is_empty() {
            return Some(PartVerdict::failed("db", self.damaged.to_string()));
        }
        if !self.main {
            return None;
        }
        if !self.unjudged.is_empty() {
            return Some(PartVerdict::skipped("db", self.unjudged.to_string()));
        }
        Some(PartVerdict::ok("db", self.whole.to_string()))
    }
}

/// A compressed tar, to its last byte.
fn packed(contents: &mut dyn BufRead) -> Result<String, Flaw> {
    let members = whole_tar(&mut expand(contents)?)?;
    Ok(counted(members, "member", "members"))
}

fn expanded(contents: &mut dyn BufRead) -> Result<(), Flaw> {
    let mut bytes = expand(contents)?;
    io::copy(&mut bytes, &mut io::sink())?;
    Ok(())
}

fn on_part(part: &str, found: Result<String, Flaw>) -> PartVerdict {
    match found {
        Ok(detail) => PartVerdict::ok(part, detail),
        Err(Flaw::Damaged(why)) => PartVerdict::failed(part, why),
        Err(Flaw::Unjudged(why)) => PartVerdict::skipped(part, why),
    }
}

fn on_information(information: Option<&Result<Told, String>>, file: &str) -> PartVerdict {
    let part = "information";
    let told = match information {
        None => {
            let what = format!("there is no {file} in it: GitLab cannot restore it");
            return PartVerdict::failed(part, what);
        }
        Some(Err(why)) => return PartVerdict::failed(part, format!("{file}: {why}")),
        Some(Ok(told)) => told,
    };
    let mut faults = Examples::default();
    told.faults.iter().for_each(|fault| faults.push(fault));
    if faults.is_empty() {
        let own = told.information.gitlab_version.as_deref();
        PartVerdict::ok(part, format!("GitLab {}", own.unwrap_or_default()))
    } else {
        PartVerdict::failed(part, format!("{file}: {faults}"))
    }
}

/// What is wrong with what `gitlab-backup` says; `version` stands in the archive's name.
fn faults(told: &Information, version: Option<&str>) -> Vec<String> {
    let mut faults = told.faults();
    let own = told.gitlab_version.as_deref().unwrap_or_default();
    if let Some(version) = version.filter(|version| *version != own) {
        faults.push(format!("it is of GitLab {own}, its name says {version}"));
    }
    faults
}

/// Whether this version of GitLab makes a part unless told otherwise.
fn is_made_by(told: Option<&Information>, part: &str) -> bool {
    let since = match part {
        "ci_secure_files" => (16, 1),
        "external_diffs" => (17, 1),
        _ => return true,
    };
    let version = told
        .and_then(|told| told.gitlab_version.as_deref())
        .unwrap_or_default();
    let mut numbers = version
        .split('.')
        .map(|number| number.parse().unwrap_or(0_u32));
    let mut next = || numbers.next().unwrap_or(0);
    (next(), next()) >= since
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_missed_only_in_versions_that_make_them() {
        let told = |version: &str| Information {
            gitlab_version: Some(version.to_owned()),
            ..Information::default()
        };
        for (part, version, made) in [
            ("uploads", "8.0.0", true),
            ("ci_secure_files", "16.0.9", false),
            ("ci_secure_files", "16.1.0-ee", true),
            ("external_diffs", "17.0.5", false),
            ("external_diffs", "18.0.0", true),
            ("external_diffs", "nonsense", false),
        ] {
            assert_eq!(
                is_made_by(Some(&told(version)), part),
                made,
                "{part} {version}"
            );
        }
        assert!(!is_made_by(None, "external_diffs"));
    }

    #[test]
    fn the_version_in_the_name_must_be_the_one_inside() {
        let text = b":db_version: '1'\n:backup_created_at: 2019-03-04 05:06:07 Z\n:gitlab_version: 11.8.0\n\
                     :tar_version: tar\n:skipped: ''\n";
        let status = |version: Option<&str>| {
            let information = Information::parse(text)
                .map_err(|_| "unreadable")
                .expect("good");
            let faults = faults(&information, version);
            let told = Told {
                information,
                faults,
            };
            on_information(Some(&Ok(told)), "backup_information.yml")
        };
        assert_eq!(
            status(None),
            PartVerdict::ok("information", "GitLab 11.8.0")
        );
        assert_eq!(status(Some("11.8.0")), status(None));
        let other = status(Some("11.8.1"));
        assert!(
            other
                .detail
                .ends_with("it is of GitLab 11.8.0, its name says 11.8.1"),
            "{}",
            other.detail
        );
    }
}
