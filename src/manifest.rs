//! The manifest of a backup: what it consists of and how that is proved, written beside its archives when
//! all of them are stored, so that whoever finds a manifest finds a whole backup.
//!
//! Four files lie in a destination's manifest folder: `<backup ID>.json`, this; `<backup ID>.members.gz`,
//! where in the archives each file begins; `<backup ID>.projects.gz`, whose repositories are where;
//! `<backup ID>.proof.json`, when it was last verified and rehearsed. The second and the third end in `.age` as
//! well if they are about encrypted archives.

use std::fmt::{self, Write as _};

use chrono::{DateTime, Utc};
use ring::hmac;
use serde::{Deserialize, Serialize};

use crate::archive::{ArchiveKind, ArchiveName};
use crate::content_hash::Digest;
use crate::error::printable;
use crate::gitlab::contents::Contents;

/// What this program writes, and the newest form it reads.
const FORMAT: u32 = 1;
/// So many doubts and the like are read; each to this length in characters.
const MOST_TEXTS: usize = 50;
const LONGEST_TEXT: usize = 500;
/// What the secrets are made into a fingerprint with; never to be changed.
const FINGERPRINT_LABEL: &[u8] = b"gitlab-pi-backup: fingerprint of gitlab-secrets.json";

/// What a stored backup consists of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The form of this file.
    pub format: u32,
    /// GitLab's ID of the data archive.
    pub backup_id: String,
    /// The time in the ID.
    pub created_at: DateTime<Utc>,
    /// When all archives were stored and verified.
    pub written_at: DateTime<Utc>,
    /// The version of this program.
    pub tool_version: String,
    /// The machine it was made on.
    pub host: Option<String>,
    /// GitLab's version, with `-ee` if it was that edition.
    pub gitlab_version: Option<String>,
    /// `ce` or `ee`.
    pub edition: Option<String>,
    /// Of the secrets the data was encrypted with, see [`secrets_fingerprint`].
    pub secrets_fingerprint: Option<String>,
    /// The archives.
    pub archives: Vec<ManifestArchive>,
    /// What fell by more than `guard.shrink` against the backup before.
    #[serde(default)]
    pub shrunk: Vec<String>,
}

/// One archive of a backup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ManifestArchive {
    /// Config or data.
    pub kind: ArchiveKind,
    /// The name GitLab gave it.
    pub name: String,
    /// The name it is stored under.
    pub stored_name: String,
    /// Its size in bytes, as GitLab made it.
    pub size: u64,
    /// Its content hash, as GitLab made it.
    pub content_hash: Digest,
    /// The size of what is stored, in bytes.
    pub stored_size: u64,
    /// The content hash of what is stored.
    pub stored_hash: Digest,
    /// The public keys of those who can decrypt what is stored; none if it is not encrypted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recipients: Vec<String>,
    /// What is wrong with it although it is a whole tar.
    #[serde(default)]
    pub doubts: Vec<String>,
    /// What it holds, in numbers.
    #[serde(default)]
    pub contents: Contents,
}

/// Why a file of ours cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// A later version of this program wrote it, in this form; it is never replaced.
    Later(u32),
    /// What is wrong with it.
    Damaged(String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Later(format) => write!(
                f,
                "it is of a later version ({format}) than this program knows ({FORMAT}): \
                 install a newer gitlab-pi-backup"
            ),
            Problem::Damaged(what) => f.write_str(what),
        }
    }
}

/// When a stored backup was last proved.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Proof {
    /// The form of this file.
    pub format: u32,
    /// Sizes and hashes were right then.
    pub verified_at: Option<DateTime<Utc>>,
    /// It was read as a whole and would have been restorable then.
    pub rehearsed_at: Option<DateTime<Utc>>,
    /// It was read as a whole and would not have been restorable then.
    #[serde(default)]
    pub failed_rehearsal_at: Option<DateTime<Utc>>,
    /// Somebody said then that its shrinking is right.
    #[serde(default)]
    pub shrink_accepted_at: Option<DateTime<Utc>>,
}

impl Manifest {
    /// Of a backup with nothing in it yet.
    pub fn new(backup_id: &str, data: &ArchiveName, host: Option<String>) -> Manifest {
        let edition = data.version.as_deref().map(edition);
        Manifest {
            format: FORMAT,
            backup_id: backup_id.to_owned(),
            created_at: data.created_at(),
            written_at: data.created_at(),
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
            host,
            gitlab_version: data.version.clone(),
            edition: edition.map(str::to_owned),
            secrets_fingerprint: None,
            archives: Vec::new(),
            shrunk: Vec::new(),
        }
    }

    /// Reads what is stored as the manifest of `backup_id`. The error says what is wrong with it; nothing in
    /// it that could lead to another file than an archive of GitLab's is let through.
    pub fn parse(bytes: &[u8], backup_id: &str) -> Result<Manifest, Problem> {
        let mut manifest: Manifest = parse_form(bytes)?;
        manifest.check(backup_id).map_err(Problem::Damaged)?;
        manifest.make_printable();
        Ok(manifest)
    }

    fn check(&self, backup_id: &str) -> Result<(), String> {
        let manifest = self;
        if manifest.backup_id != backup_id {
            return Err(format!(
                "it is the manifest of another backup, {}",
                printable(&manifest.backup_id)
            ));
        }
        let version = ArchiveName::of_backup(backup_id).and_then(|name| name.version);
        if manifest.gitlab_version.is_some() && manifest.gitlab_version != version {
            return Err("its GitLab version is not the one in the backup's ID".to_owned());
        }
        for archive in &manifest.archives {
            let name = ArchiveName::parse(&archive.name).filter(|name| name.kind == archive.kind);
            let of_this = |name: &ArchiveName| match name.kind {
                ArchiveKind::Config => true,
                ArchiveKind::Data => name.backup_id() == Some(backup_id),
            };
            let stored = archive.stored_name.strip_prefix(&archive.name);
            let same =
                (archive.size, archive.content_hash) == (archive.stored_size, archive.stored_hash);
            if stored == Some("") && !same {
                return Err(format!(
                    "it contradicts itself about {}",
                    printable(&archive.name)
                ));
            }
            if !name.as_ref().is_some_and(of_this) || !matches!(stored, Some("" | ".age")) {
                let names = format!("{} as {}", archive.name, archive.stored_name);
                return Err(format!("it names a wrong archive, {}", printable(&names)));
            }
        }
        for kind in ArchiveKind::ALL {
            if manifest.of_kind(kind).count() > 1 {
                return Err(format!("it names more than one {kind} archive"));
            }
        }
        Ok(())
    }

    /// Its free texts come from elsewhere and end on terminals.
    fn make_printable(&mut self) {
        let lists = self.archives.iter_mut().flat_map(|archive| {
            let recipients = &mut archive.recipients;
            [
                &mut archive.doubts,
                &mut archive.contents.skipped,
                recipients,
            ]
        });
        for list in lists.chain([&mut self.shrunk]) {
            list.truncate(MOST_TEXTS);
            for text in list {
                *text = printable(text).chars().take(LONGEST_TEXT).collect();
            }
        }
        for text in [&mut self.host, &mut self.gitlab_version, &mut self.edition] {
            *text = text.take().map(|text| printable(&text));
        }
    }

    /// As it is stored.
    pub fn to_json(&self) -> Vec<u8> {
        to_json(self)
    }

    fn of_kind(&self, kind: ArchiveKind) -> impl Iterator<Item = &ManifestArchive> {
        self.archives
            .iter()
            .filter(move |archive| archive.kind == kind)
    }

    /// Its archive of a kind.
    pub fn archive(&self, kind: ArchiveKind) -> Option<&ManifestArchive> {
        self.of_kind(kind).next()
    }
}

impl Proof {
    /// Reads what is stored as a proof.
    pub fn parse(bytes: &[u8]) -> Result<Proof, Problem> {
        parse_form(bytes)
    }

    /// As it is stored.
    pub fn to_json(&self) -> Vec<u8> {
        to_json(&Proof {
            format: FORMAT,
            ..self.clone()
        })
    }
}

/// `ee` or `ce`, as GitLab's version strings tell it.
pub fn edition(version: &str) -> &'static str {
    if version.ends_with("-ee") { "ee" } else { "ce" }
}

/// Names secrets without telling anything of them: HMAC-SHA-256 keyed by the whole of
/// `gitlab-secrets.json` over a fixed label, in hex.
pub fn secrets_fingerprint(secrets: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secrets);
    let tag = hmac::sign(&key, FINGERPRINT_LABEL);
    let mut text = String::new();
    for byte in tag.as_ref() {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn parse_form<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T, Problem> {
    #[derive(Deserialize)]
    struct Form {
        format: u32,
    }
    let damaged = |error: serde_json::Error| {
        Problem::Damaged(format!("it is damaged: {}", printable(&error.to_string())))
    };
    let form: Form = serde_json::from_slice(bytes).map_err(damaged)?;
    if form.format > FORMAT {
        return Err(Problem::Later(form.format));
    }
    serde_json::from_slice(bytes).map_err(damaged)
}

fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).expect("nothing in it that JSON cannot say");
    text.push(b'\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "1702758583_2023_12_16_16.5.1-ee";

    fn manifest() -> Manifest {
        let name = ArchiveName::parse(&format!("{ID}_gitlab_backup.tar")).expect("a name");
        let mut manifest = Manifest::new(ID, &name, Some("pi".to_owned()));
        manifest.archives.push(ManifestArchive {
            kind: ArchiveKind::Data,
            name: name.as_str().to_owned(),
            stored_name: name.as_str().to_owned(),
            size: 1,
            content_hash: Digest::of(b"a"),
            stored_size: 1,
            stored_hash: Digest::of(b"a"),
            recipients: Vec::new(),
            doubts: Vec::new(),
            contents: Contents::default(),
        });
        manifest
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        let manifest = manifest();
        assert_eq!(manifest.edition.as_deref(), Some("ee"));
        assert_eq!(Manifest::parse(&manifest.to_json(), ID), Ok(manifest));
    }

    #[test]
    fn what_is_wrong_with_it_is_told() {
        let good = manifest();
        let broken = |change: &dyn Fn(&mut Manifest)| {
            let mut manifest = good.clone();
            change(&mut manifest);
            Manifest::parse(&manifest.to_json(), ID)
                .expect_err("refused")
                .to_string()
        };
        assert!(broken(&|m| m.format = 2).contains("later version (2)"));
        assert!(broken(&|m| m.backup_id = "other".to_owned()).contains("another backup, other"));
        for name in [
            "../../etc/passwd",
            "x",
            "",
            "gitlab_config_1702758583_2023_12_16.tar",
        ] {
            assert!(broken(&|m| m.archives[0].name = name.to_owned()).contains("wrong archive"));
            assert!(
                broken(&|m| m.archives[0].stored_name = name.to_owned()).contains("wrong archive")
            );
        }
        assert!(broken(&|m| m.archives.push(m.archives[0].clone())).contains("more than one data"));
        let text = good.to_json();
        for len in 0..text.len() - 1 {
            assert!(Manifest::parse(&text[..len], ID).is_err(), "cut at {len}");
        }
        // A later version may mean something else by every other field.
        assert!(
            Manifest::parse(b"{\"format\":3,\"archives\":7}", ID)
                .expect_err("refused")
                .to_string()
                .contains("later")
        );
    }

    #[test]
    fn the_fingerprint_of_secrets_follows_every_byte() {
        // Checked with `openssl dgst -sha256 -hmac '{}'`.
        assert_eq!(
            secrets_fingerprint(b"{}"),
            "eb04df42b6cc4c600674a88376096aa51d4e838c1072f62afc70431f8211c6c0"
        );
        assert_ne!(secrets_fingerprint(b"{}"), secrets_fingerprint(b"{} "));
    }
}
