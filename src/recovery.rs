//! `RECOVERY.md`: how a person with a dead Pi, and no copy of this program, gets back from what is stored.

use std::fmt::Write as _;
use std::path::Path;

use crate::archive::ArchiveKind;
use crate::catalog::{
    Catalog, RECOVERY, StoredArchive, StoredBackup, hash_of, read_ours, store_ours,
};
use crate::destination::Destination;
use crate::error::Error;
use crate::restore::runbook::{Known, Places, Step, runbook};
use crate::retry::Patience;
use crate::seal::SUFFIX;
use crate::state::StateDir;
use crate::units::Size;

/// So many backups are named.
const NAMED: usize = 10;

/// Stores it at the root of a destination, if it is not there already just so.
pub async fn store(
    destination: &Destination,
    catalog: &Catalog,
    state: &StateDir,
    patience: &Patience,
) -> Result<(), Error> {
    let bytes = text(destination, catalog).into_bytes();
    let hash = hash_of(&bytes);
    // The root may belong to another machine that has folders of its own in the same place, or to a person.
    for folder in ["", destination.manifest_folder()] {
        let path = format!("{folder}/{RECOVERY}");
        let there = destination.stat(&path, patience).await?;
        match there.map(|entry| entry.file) {
            Some(Some(file)) if file.content_hash == Some(hash) => return Ok(()),
            Some(None) => continue,
            Some(Some(_)) => {
                let old = read_ours(destination, &path, state, patience).await?;
                let beginning = beginning(destination).into_bytes();
                if old.is_some_and(|(_, old)| !old.starts_with(&beginning)) {
                    continue;
                }
            }
            None => {}
        }
        return store_ours(destination, &path, bytes, state, patience).await;
    }
    tracing::warn!(
        "{}: something else is called {RECOVERY}; it is left as it is",
        destination.name()
    );
    Ok(())
}

/// What this program's text for these folders begins with.
fn beginning(destination: &Destination) -> String {
    let folder = |kind| destination.folder(kind);
    format!(
        "# How to get this GitLab back\n\nFor the backups in `{}/`, `{}/` and `{}/`; written by `gitlab-pi-backup`",
        folder(ArchiveKind::Config),
        folder(ArchiveKind::Data),
        destination.manifest_folder()
    )
}

/// The whole text.
fn text(destination: &Destination, catalog: &Catalog) -> String {
    let mut text = beginning(destination) + INTRODUCTION;
    table(&mut text, catalog);
    let newest = catalog.newest_complete().or(catalog.backups.first());
    if let Some(backup) = newest {
        by_hand(&mut text, backup);
    }
    text
}

const INTRODUCTION: &str = "
after every backup, which replaces this file. Nothing is needed to follow it but this place and a machine to
put GitLab on.

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

/// Where the archives are when they have been downloaded by hand.
const FETCHED: &str = "/root/restore";

fn by_hand(text: &mut String, backup: &StoredBackup) {
    let id = &backup.id;
    let encrypted = |archive: &&StoredArchive| archive.path.ends_with(SUFFIX);
    let encrypted: Vec<_> = backup.archives.iter().filter(encrypted).collect();
    let identity = if encrypted.is_empty() {
        ""
    } else {
        " --identity key.txt"
    };
    let _ = write!(
        text,
        "
## With gitlab-pi-backup

Install GitLab in exactly the version of the backup (step 2 below), then `gitlab-pi-backup`, give it access to
this place (`config.example.toml` shows how), and run

    sudo gitlab-pi-backup restore {id}{identity} --plan
    sudo gitlab-pi-backup restore {id}{identity} --apply

## By hand

For the backup `{id}`; for another one put its names in their places.
As `root`, or with `sudo` before each command.

1. download both archives from here to `{FETCHED}`

"
    );
    for archive in &backup.archives {
        let size = archive.size();
        let _ = writeln!(
            text,
            "       {}   {size} bytes{}",
            archive.path,
            hash(archive)
        );
    }
    let _ = writeln!(
        text,
        "
   The hash is Dropbox's content hash: SHA-256 over the SHA-256 of each 4 MiB block."
    );
    decrypting(text, &encrypted);
    let stored = |kind| {
        let archive = backup.archive(kind)?;
        let found = archive.found.as_ref()?;
        let expected = archive.expected.as_ref();
        let size = expected.map_or(found.size, |expected| expected.size);
        Some((archive.name.as_str(), size))
    };
    let manifest = backup.readable_manifest();
    let data = manifest.and_then(|manifest| manifest.archive(ArchiveKind::Data));
    let known = Known {
        backup_id: id,
        version: backup.data_name.version.as_deref(),
        config: stored(ArchiveKind::Config),
        data: stored(ArchiveKind::Data),
        skipped: data.map_or(&[], |data| &data.contents.skipped),
    };
    // GitLab's own folders, wherever this machine has them: the next one will have them there.
    let places = Places {
        etc_dir: Path::new("/etc/gitlab"),
        kept: Path::new("/etc/gitlab.before"),
        config_dir: Path::new("/etc/gitlab/config_backup"),
        data_dir: Path::new("/var/opt/gitlab/backups"),
        fetched: Some(Path::new(FETCHED)),
    };
    let steps = runbook(&known, &places).into_iter();
    for (number, step) in (2..).zip(steps.filter(|step| step.step != Step::Fetch)) {
        let _ = writeln!(text, "{number}. {}", step.title);
        if let Some(command) = &step.command {
            let variables = step
                .environment
                .iter()
                .map(|(name, value)| format!("{name}={value} "));
            let variables: String = variables.collect();
            let _ = writeln!(text, "\n       {variables}{}\n", command.join(" "));
        }
        for note in &step.notes {
            let _ = writeln!(text, "   ({note})");
        }
    }
}

/// What to do with archives that are encrypted, and whose private keys it takes.
fn decrypting(text: &mut String, encrypted: &[&StoredArchive]) {
    let Some(first) = encrypted.first() else {
        return;
    };
    let _ = writeln!(
        text,
        "
   What ends in `{SUFFIX}` is encrypted, in the format of <https://age-encryption.org>: `apt install age`. It takes
   the private key (here `key.txt`) that belongs to one of these public ones; without it nobody can decrypt:
"
    );
    let recipients = first
        .expected
        .iter()
        .flat_map(|expected| &expected.recipients);
    for recipient in recipients {
        let _ = writeln!(text, "       {recipient}");
    }
    let _ = writeln!(text);
    for archive in encrypted {
        let plain = format!("{FETCHED}/{}", archive.name);
        let _ = writeln!(text, "       age -d -i key.txt -o {plain} {plain}{SUFFIX}");
    }
    let _ = writeln!(text);
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
