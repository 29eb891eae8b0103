//! All backups, on this machine and at the destinations, a row for each place.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;

use crate::archive::{Archive, ArchiveKind, belonging};
use crate::catalog::{Catalog, FileStatus, StoredBackup, failed_rehearsal};
use crate::history;
use crate::report::{rfc3339, rfc3339_or_null};
use crate::units::{Size, Span};

/// What stands for this machine in the place of a destination's name.
pub const LOCAL: &str = "local";

/// One backup at one place.
#[derive(Debug, Serialize)]
pub struct Row {
    /// GitLab's ID.
    pub backup_id: String,
    /// The time in the ID.
    #[serde(serialize_with = "rfc3339")]
    pub created_at: DateTime<Utc>,
    /// GitLab's version, with its edition.
    pub gitlab_version: Option<String>,
    /// The destination's name, or [`LOCAL`].
    pub destination: String,
    /// The kinds that are there.
    pub kinds: Vec<ArchiveKind>,
    /// All archives together, in bytes.
    pub size: u64,
    /// Whether everything is there that should be, whole and undoubted.
    pub complete: bool,
    /// What is not: `config`, `data`, `manifest`.
    pub missing: Vec<String>,
    /// What is wrong although it is there.
    pub doubts: Vec<String>,
    /// When sizes and hashes were last right.
    #[serde(serialize_with = "rfc3339_or_null")]
    pub verified_at: Option<DateTime<Utc>>,
    /// When it was last read as a whole and would have been restorable.
    #[serde(serialize_with = "rfc3339_or_null")]
    pub rehearsed_at: Option<DateTime<Utc>>,
    /// Parts that GitLab was told to leave out.
    pub skipped: Vec<String>,
    /// Whether a config archive with the secrets this data was encrypted with is stored; null if not known.
    pub secrets_stored: Option<bool>,
    /// More about `missing`, for people.
    #[serde(skip)]
    pub why: Vec<String>,
}

/// The rows of all catalogues, the newest backup first.
pub fn rows(catalogs: &[Catalog]) -> Vec<Row> {
    let secrets = stored_secrets(catalogs);
    let stored = catalogs.iter().flat_map(|catalog| {
        let row = |backup: &StoredBackup| stored_row(catalog, backup, &secrets);
        catalog.backups.iter().map(row).collect::<Vec<_>>()
    });
    let mut rows: Vec<_> = stored.collect();
    sort(&mut rows);
    rows
}

/// The newest first; of one backup the places in the order of the configuration.
pub fn sort(rows: &mut [Row]) {
    rows.sort_by(|a, b| {
        let by_time = b.created_at.cmp(&a.created_at);
        by_time.then_with(|| b.backup_id.cmp(&a.backup_id))
    });
}

/// The fingerprints of the secrets in all config archives that are there.
fn stored_secrets(catalogs: &[Catalog]) -> BTreeSet<String> {
    let backups = catalogs.iter().flat_map(|catalog| &catalog.backups);
    let has_config = |backup: &&StoredBackup| {
        let config = backup.archive(ArchiveKind::Config);
        config.is_some_and(|config| config.expected.is_some() && config.status() == FileStatus::Ok)
    };
    let manifests = backups
        .filter(has_config)
        .filter_map(StoredBackup::readable_manifest);
    manifests
        .filter_map(|manifest| manifest.secrets_fingerprint.clone())
        .collect()
}

fn stored_row(catalog: &Catalog, backup: &StoredBackup, secrets: &BTreeSet<String>) -> Row {
    let manifest = backup.readable_manifest();
    let there = backup
        .archives
        .iter()
        .filter(|archive| archive.found.is_some());
    let contents = manifest.and_then(|manifest| manifest.archive(ArchiveKind::Data));
    let fingerprint = manifest.and_then(|manifest| manifest.secrets_fingerprint.as_ref());
    Row {
        backup_id: backup.id.clone(),
        created_at: backup.created_at(),
        gitlab_version: backup.data_name.version.clone(),
        destination: catalog.destination.clone(),
        kinds: there.clone().map(|archive| archive.kind).collect(),
        size: there.map(crate::catalog::StoredArchive::size).sum(),
        complete: backup.is_complete(),
        missing: backup
            .missing
            .iter()
            .map(|missing| missing.what.to_owned())
            .collect(),
        doubts: backup.doubts(),
        verified_at: backup.verified_at(),
        rehearsed_at: backup.proof.rehearsed_at,
        skipped: contents
            .map(|data| data.contents.skipped.clone())
            .unwrap_or_default(),
        secrets_stored: fingerprint.map(|fingerprint| secrets.contains(fingerprint)),
        why: backup
            .missing
            .iter()
            .map(|missing| missing.why.clone())
            .collect(),
    }
}

/// The backups whose data archives lie on this machine; `runs` is the history.
pub fn local_rows(data: &[Archive], configs: &[Archive], runs: &[Value]) -> Vec<Row> {
    let row = |archive: &Archive| {
        let id = archive.name.backup_id().unwrap_or_default();
        let config = belonging(&archive.name, configs, |config| &config.name);
        let rehearsals = || history::rehearsals(runs, id, LOCAL);
        let failed = rehearsals().next().filter(|(_, restorable)| !restorable);
        let doubts = failed.map(|(at, _)| failed_rehearsal(at));
        let doubts: Vec<_> = doubts.into_iter().collect();
        let mut kinds = vec![ArchiveKind::Data];
        kinds.extend(config.map(|config| config.name.kind));
        kinds.sort_unstable();
        Row {
            backup_id: id.to_owned(),
            created_at: archive.name.created_at(),
            gitlab_version: archive.name.version.clone(),
            destination: LOCAL.to_owned(),
            kinds,
            size: archive.size + config.map_or(0, |config| config.size),
            complete: config.is_some() && doubts.is_empty(),
            missing: if config.is_some() {
                Vec::new()
            } else {
                vec!["config".to_owned()]
            },
            doubts,
            verified_at: None,
            rehearsed_at: rehearsals()
                .find(|(_, restorable)| *restorable)
                .map(|(at, _)| at),
            skipped: Vec::new(),
            secrets_stored: None,
            why: Vec::new(),
        }
    };
    data.iter().map(row).collect()
}

/// For people: a table.
pub fn text(rows: &[Row], now: DateTime<Utc>) -> String {
    let ago = |time: Option<DateTime<Utc>>| match time.map(|time| (now - time).to_std()) {
        None => "never".to_owned(),
        Some(Ok(age)) => format!("{} ago", Span(age)),
        Some(Err(_)) => "in the future".to_owned(),
    };
    let mut table = vec![
        [
            "BACKUP",
            "AGE",
            "GITLAB",
            "PLACE",
            "KINDS",
            "SIZE",
            "STATE",
            "VERIFIED",
            "REHEARSED",
        ]
        .map(str::to_owned),
    ];
    for row in rows {
        let age = (now - row.created_at).to_std();
        let kinds: Vec<_> = row.kinds.iter().map(|kind| kind.as_str()).collect();
        table.push([
            row.backup_id.clone(),
            age.map_or_else(
                |_| "from the future".to_owned(),
                |age| Span(age).to_string(),
            ),
            row.gitlab_version.clone().unwrap_or_default(),
            row.destination.clone(),
            kinds.join("+"),
            Size(row.size).to_string(),
            state(row),
            ago(row.verified_at),
            ago(row.rehearsed_at),
        ]);
    }
    let mut text = String::new();
    if rows.is_empty() {
        text.push_str("no backups\n");
        return text;
    }
    let width = |column: usize| {
        table
            .iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<_> = (0..table[0].len()).map(width).collect();
    for row in &table {
        let cells: Vec<_> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    for row in rows {
        for doubt in &row.doubts {
            let _ = writeln!(
                text,
                "{} at {}: doubtful: {doubt}",
                row.backup_id, row.destination
            );
        }
        for why in row.why.iter().filter(|why| *why != "no manifest") {
            let _ = writeln!(text, "{} at {}: {why}", row.backup_id, row.destination);
        }
        if row.secrets_stored == Some(false) {
            let _ = writeln!(
                text,
                "{} at {}: no config archive with the secrets of this data is stored any more",
                row.backup_id, row.destination
            );
        }
        if !row.skipped.is_empty() {
            let parts = row.skipped.join(", ");
            let _ = writeln!(
                text,
                "{} at {}: made without {parts}",
                row.backup_id, row.destination
            );
        }
    }
    text
}

fn state(row: &Row) -> String {
    if row.complete {
        return "complete".to_owned();
    }
    match (row.missing.as_slice(), row.doubts.is_empty()) {
        ([], _) => "doubtful".to_owned(),
        ([only], true) if only == "manifest" => "no manifest".to_owned(),
        (missing, _) => format!("lacks {}", missing.join(", ")),
    }
}
