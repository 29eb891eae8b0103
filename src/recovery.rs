//! `RECOVERY.md`: how a person with a dead Pi, and no copy of this program, gets back from what is stored.

use std::fmt::Write as _;
use std::sync::Arc;

use crate::archive::ArchiveKind;
use crate::catalog::{Catalog, RECOVERY, StoredArchive, StoredBackup, hash_of};
use crate::destination::Destination;
use crate::error::Error;
use crate::manifest::edition;
use crate::retry::Patience;
use crate::source::Source;
use crate::source::memory::MemorySource;
use crate::units::Size;

/// So many backups are named.
const NAMED: usize = 10;

/// Stores it at the root of a destination, if it is not there already just so.
pub async fn store(
    destination: &Destination,
    catalog: &Catalog,
    patience: &Patience,
) -> Result<(), Error> {
    let path = format!("/{RECOVERY}");
    let bytes = text(catalog).into_bytes();
    let hash = hash_of(&bytes);
    let there = destination.stat(&path, patience).await?;
    let same = |hash_there| hash_there == Some(hash);
    if there
        .and_then(|entry| entry.file)
        .is_some_and(|file| same(file.content_hash))
    {
        return Ok(());
    }
    let source: Arc<dyn Source> = Arc::new(MemorySource::new(bytes));
    destination
        .put(&path, &source, hash, patience)
        .await
        .map(drop)
}

/// The whole text.
pub fn text(catalog: &Catalog) -> String {
    let mut text = String::from(INTRODUCTION);
    table(&mut text, catalog);
    let newest = catalog.newest_complete().or(catalog.backups.first());
    if let Some(backup) = newest {
        by_hand(&mut text, backup);
    }
    text
}

const INTRODUCTION: &str = "\
# How to get this GitLab back

Written by `gitlab-pi-backup` after every backup; it replaces this file. Nothing is needed to follow it but
this place and a machine to put GitLab on.

A backup is two archives that belong together: the **data archive** (database, repositories, files) and the
**config archive** (`/etc/gitlab`, with the keys in `gitlab-secrets.json` without which parts of the data
cannot be decrypted).

## What is here

";

fn table(text: &mut String, catalog: &Catalog) {
    // Writing to a string cannot fail, here and below.
    let _ = writeln!(
        text,
        "| backup ID | made (UTC) | GitLab | archives | state |\n| --- | --- | --- | --- | --- |"
    );
    for backup in catalog.backups.iter().take(NAMED) {
        let archives = backup
            .archives
            .iter()
            .filter(|archive| archive.found.is_some());
        let archives: Vec<_> = archives
            .map(|archive| format!("`{}` ({})", archive.path, Size(archive.size())))
            .collect();
        let mut state: Vec<_> = backup
            .missing
            .iter()
            .map(|missing| missing.why.clone())
            .collect();
        state.extend(backup.doubts());
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {} | {} |",
            backup.id,
            backup.created_at().format("%Y-%m-%d %H:%M"),
            backup.data_name.version.as_deref().unwrap_or("unknown"),
            archives.join("<br>"),
            if state.is_empty() {
                "complete".to_owned()
            } else {
                state.join("; ")
            }
        );
    }
    let more = catalog.backups.len().saturating_sub(NAMED);
    if more > 0 {
        let _ = writeln!(text, "\nand {more} older ones.");
    }
}

/// The package of a version, as GitLab's repositories name it.
pub fn package(version: &str) -> (String, String) {
    let edition = edition(version);
    let number = version.strip_suffix("-ee").unwrap_or(version);
    (format!("gitlab-{edition}"), format!("{number}-{edition}.0"))
}

fn by_hand(text: &mut String, backup: &StoredBackup) {
    let version = backup.data_name.version.as_deref().unwrap_or_default();
    let (package, package_version) = package(version);
    let name = |kind| backup.archive(kind).map(|archive| archive.name.as_str());
    let data = name(ArchiveKind::Data).unwrap_or("(the data archive is missing)");
    let config = name(ArchiveKind::Config).unwrap_or("(the config archive is missing)");
    let id = &backup.id;
    let _ = write!(
        text,
        "
## With gitlab-pi-backup

1. Install `{package}` in exactly version `{package_version}`:
   `apt-get install {package}={package_version}` (package source: <https://packages.gitlab.com/gitlab/{package}>).
2. Install `gitlab-pi-backup`, give it access to this place (`config.example.toml` shows how), and run

       sudo gitlab-pi-backup restore {id} --plan
       sudo gitlab-pi-backup restore {id} --apply

## By hand

For the backup `{id}`; for another one put its names in their places.

1. Install `{package}` in exactly version `{package_version}`, as above; another version or edition refuses the
   archive. Let it configure itself once: `sudo gitlab-ctl reconfigure`.
2. Download both archives:

"
    );
    for archive in &backup.archives {
        let _ = writeln!(
            text,
            "       {}   {} bytes{}",
            archive.path,
            archive.size(),
            hash(archive)
        );
    }
    let _ = write!(
        text,
        "
   The hash is Dropbox's content hash: SHA-256 over the SHA-256 of each 4 MiB block.
3. Put the configuration back:

       sudo mv /etc/gitlab /etc/gitlab.before
       sudo tar --extract --file {config} --directory /
       sudo gitlab-ctl reconfigure

4. Put the data archive in its place:

       sudo cp {data} /var/opt/gitlab/backups/
       sudo chown git:git /var/opt/gitlab/backups/{data}
       sudo chmod 600 /var/opt/gitlab/backups/{data}

5. Restore, and look whether all is well:

       sudo gitlab-ctl stop puma
       sudo gitlab-ctl stop sidekiq
       sudo GITLAB_ASSUME_YES=1 gitlab-backup restore BACKUP={id} force=yes
       sudo gitlab-ctl reconfigure
       sudo gitlab-ctl start
       sudo gitlab-rake gitlab:check SANITIZE=true
       sudo gitlab-rake gitlab:doctor:secrets
"
    );
}

fn hash(archive: &StoredArchive) -> String {
    let expected = archive
        .expected
        .as_ref()
        .map(|expected| expected.stored_hash);
    let there = archive.found.as_ref().and_then(|found| found.content_hash);
    expected
        .or(there)
        .map_or(String::new(), |hash| format!("   hash {hash}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_have_the_names_of_gitlabs_repositories() {
        let of = |version| {
            let (name, version) = package(version);
            format!("{name}={version}")
        };
        assert_eq!(of("17.8.2"), "gitlab-ce=17.8.2-ce.0");
        assert_eq!(of("16.5.0-ee"), "gitlab-ee=16.5.0-ee.0");
    }
}
