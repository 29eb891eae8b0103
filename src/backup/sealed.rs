//! What is stored of an archive: its bytes, or these encrypted.
//!
//! An archive is encrypted once for all destinations of a run. What was begun by an earlier run is continued with
//! the same key, but only for the same bytes: one key never seals two.

use std::sync::Arc;

use super::Run;
use super::leftover::Left;
use super::present::Likeness;
use super::seals::{Begun, Note};
use super::send::Parcel;
use crate::archive::{ArchiveKind, ArchiveName};
use crate::catalog::Catalog;
use crate::content_hash::{Digest, hash_blocks};
use crate::destination::dropbox::{Header, acknowledged};
use crate::destination::{Destination, FileEntry};
use crate::error::{Error, ErrorKind};
use crate::local;
use crate::retry::Patience;
use crate::seal::{SUFFIX, Sealing};
use crate::source::sealed::{Hashing, Sealed};
use crate::source::{Fingerprint, Source};

/// What is stored of an archive.
#[derive(Clone)]
pub(super) struct Content {
    pub(super) source: Arc<dyn Source>,
    /// Of the bytes that were looked into; no others are stored.
    pub(super) fingerprint: Fingerprint,
    pub(super) sealed: Option<Encrypted>,
}

/// More about encrypted content.
#[derive(Clone)]
pub(super) struct Encrypted {
    source: Arc<Sealed>,
    /// Of the plain archive.
    fingerprint: Fingerprint,
}

impl Content {
    /// As GitLab made it.
    pub(super) fn plain(source: Arc<dyn Source>, fingerprint: Fingerprint) -> Content {
        Content {
            source,
            fingerprint,
            sealed: None,
        }
    }

    /// `fingerprint` is of the plain bytes, and those alone are what `sealing` is for.
    fn encrypted(
        plain: Arc<dyn Source>,
        fingerprint: Fingerprint,
        sealing: Arc<Sealing>,
    ) -> Content {
        let source = Arc::new(Sealed::new(plain, sealing, Hashing::Plain));
        Content {
            fingerprint: source.fingerprint_of(&fingerprint),
            source: source.clone(),
            sealed: Some(Encrypted {
                source,
                fingerprint,
            }),
        }
    }
}

impl Run<'_> {
    /// The name an archive is stored under from now on.
    pub(super) fn stored_name(&self, name: &ArchiveName) -> String {
        let suffix = if self.is_encrypted(name.kind) {
            SUFFIX
        } else {
            ""
        };
        format!("{name}{suffix}")
    }

    fn is_encrypted(&self, kind: ArchiveKind) -> bool {
        self.job
            .encryption
            .is_some_and(|all| all.of(kind).is_some())
    }

    /// What is to be stored of an archive, encrypted with a new key if its kind is.
    pub(super) fn content(
        &self,
        name: &ArchiveName,
        plain: &Arc<dyn Source>,
        fingerprint: &Fingerprint,
    ) -> Result<Content, Error> {
        let (plain, fingerprint) = (plain.clone(), fingerprint.clone());
        match self.job.encryption.and_then(|all| all.of(name.kind)) {
            None => Ok(Content::plain(plain, fingerprint)),
            Some(recipients) => {
                let sealing = Sealing::new(recipients).map_err(|why| {
                    Error::new(ErrorKind::Invalid, format!("encrypting {name}"), why)
                })?;
                Ok(Content::encrypted(plain, fingerprint, Arc::new(sealing)))
            }
        }
    }

    /// Before anything is sent: the next run could not go on without the key.
    pub(super) fn keep_sealing(&self, parcel: &Parcel<'_>) {
        let Some(sealed) = &parcel.content.sealed else {
            return;
        };
        let destination = parcel.destination.name();
        let sealing = sealed.source.sealing();
        let known = self.seals.begun(destination, &parcel.path);
        if known.is_some_and(|known| known.sealing.id() == sealing.id()) {
            return;
        }
        let begun = Begun {
            destination: destination.to_owned(),
            path: parcel.path.clone(),
            source: parcel.source_path.to_owned(),
            fingerprint: sealed.fingerprint.clone(),
            sealing: sealing.clone(),
        };
        if let Err(error) = self.seals.keep(&begun) {
            let folder = self.job.state.path().display();
            tracing::warn!("{folder}: {error}; an interrupted upload will start over");
        }
    }

    /// The archive is no longer what the key was for: it is never used again.
    pub(super) fn forget_sealing(&self, parcel: &Parcel<'_>) {
        self.forget(parcel.destination.name(), &parcel.path);
    }

    pub(super) fn forget(&self, destination: &str, path: &str) {
        if let Err(error) = self.seals.forget(destination, path) {
            let folder = self.job.state.path().display();
            tracing::warn!("{folder}: {error}; the key of an encryption stays there");
        }
    }

    /// It is stored: which bytes are which archive is noted, and the key goes.
    pub(super) async fn note_sealed(&self, parcel: &Parcel<'_>, hash: Digest) -> Result<(), Error> {
        if let Some(sealed) = &parcel.content.sealed {
            self.note(parcel, sealed, hash).await?;
        }
        Ok(())
    }

    async fn note(
        &self,
        parcel: &Parcel<'_>,
        sealed: &Encrypted,
        stored_hash: Digest,
    ) -> Result<(), Error> {
        if self.job.request.dry_run {
            return Ok(());
        }
        let source = sealed.source.clone();
        // Mostly known from the sealing.
        let content_hash = parcel.read(move || source.content_hash()).await?;
        self.write_note(Note {
            destination: parcel.destination.name().to_owned(),
            path: parcel.path.clone(),
            fingerprint: sealed.fingerprint.clone(),
            size: sealed.source.inner().len(),
            content_hash,
            stored_size: sealed.source.len(),
            stored_hash,
            recipients: sealed.source.sealing().recipients().to_vec(),
        });
        Ok(())
    }

    fn write_note(&self, stored: Note) {
        if let Err(error) = self.seals.note(stored) {
            let folder = self.job.state.path().display();
            tracing::warn!(
                "{folder}: {error}; the next run may not know what the encrypted archives hold"
            );
        }
    }

    /// The same bytes can only be encrypted to other ones, so what is there is known by what was noted of it: by
    /// this machine, or in a manifest there.
    pub(super) async fn compare_sealed(
        &self,
        parcel: &Parcel<'_>,
        sealed: &Encrypted,
        file: &FileEntry,
        patience: &Patience,
    ) -> Result<(Digest, Likeness), Error> {
        let destination = parcel.destination.name();
        let begun = self.seals.begun(destination, &parcel.path);
        if let Some(begun) = begun.filter(|begun| begun.fingerprint == sealed.fingerprint) {
            // An earlier run came to its end, but could not note it any more.
            let plain = sealed.source.inner().clone();
            let again = Sealed::new(plain, begun.sealing, Hashing::Plain);
            let again = Encrypted {
                source: Arc::new(again),
                fingerprint: begun.fingerprint,
            };
            if again.source.len() == file.size {
                let hash = parcel.hash(again.source.clone()).await?;
                let likeness = self
                    .is_same(&parcel.candidate(file), hash, patience)
                    .await?;
                if likeness != Likeness::Other {
                    self.note(parcel, &again, hash).await?;
                    return Ok((hash, likeness));
                }
            }
        }
        let noted = match self.seals.stored(destination, &parcel.path) {
            None => self.in_a_manifest(parcel, patience).await?,
            noted => noted,
        };
        let plain = sealed.source.inner().clone();
        let known =
            noted.filter(|noted| (noted.size, noted.stored_size) == (plain.len(), file.size));
        if let Some(mut known) = known {
            let content_hash = match self.known_hash(&parcel.name, &sealed.fingerprint) {
                Some(hash) => hash,
                None => parcel.hash(plain).await?,
            };
            let hash = known.stored_hash;
            let likeness = self
                .is_same(&parcel.candidate(file), hash, patience)
                .await?;
            if content_hash == known.content_hash && likeness != Likeness::Other {
                known.fingerprint = sealed.fingerprint.clone();
                if !self.job.request.dry_run {
                    self.write_note(known);
                }
                return Ok((hash, likeness));
            }
        }
        Err(parcel.conflict(
            "a file of that name is there, and nothing tells that it is this archive encrypted",
        ))
    }

    /// What a manifest there says of the path.
    async fn in_a_manifest(
        &self,
        parcel: &Parcel<'_>,
        patience: &Patience,
    ) -> Result<Option<Note>, Error> {
        let catalog = Catalog::read(parcel.destination, self.job.state, patience).await?;
        let mut archives = catalog.backups.iter().flat_map(|backup| &backup.archives);
        let archive = archives.find(|archive| archive.path == parcel.path);
        let named = archive.and_then(|archive| archive.expected.as_ref());
        Ok(named.map(|named| Note {
            destination: catalog.destination.clone(),
            path: parcel.path.clone(),
            fingerprint: Fingerprint(String::new()),
            size: named.size,
            content_hash: named.content_hash,
            stored_size: named.stored_size,
            stored_hash: named.stored_hash,
            recipients: named.recipients.clone(),
        }))
    }

    /// With what an unfinished upload goes on: the same content, or a new one if there is a reason.
    pub(super) async fn left_content(
        &self,
        left: &Left<'_>,
        plain: Arc<dyn Source>,
        fingerprint: Fingerprint,
    ) -> Resumption {
        let header = left.header;
        let kind = left.name.kind;
        if !header.path.ends_with(SUFFIX) {
            return match () {
                () if fingerprint != header.fingerprint => Resumption::changed(),
                () if self.is_encrypted(kind) => {
                    Resumption::Anew("it was begun before such archives were to be encrypted")
                }
                () => Resumption::Same(Content::plain(plain, fingerprint)),
            };
        }
        let Some(begun) = self.seals.begun(&header.destination, &header.path) else {
            return Resumption::Anew("the key of its encryption is gone");
        };
        if begun.fingerprint != fingerprint {
            return Resumption::changed();
        }
        let configured = self.job.encryption.and_then(|all| all.of(kind));
        let sorted = |keys: &[String]| {
            let mut keys = keys.to_vec();
            keys.sort();
            keys
        };
        let known = sorted(begun.sealing.recipients());
        if configured.is_some_and(|all| sorted(all.public_keys()) != known) {
            return Resumption::Anew("it was begun for other recipients");
        }
        let content = Content::encrypted(plain, fingerprint, begun.sealing);
        if content.fingerprint != header.fingerprint {
            return Resumption::Anew("it was begun with another key");
        }
        if self.job.request.dry_run || self.is_what_was_sent(left, &content).await {
            return Resumption::Same(content);
        }
        Resumption::Anew("its file is not what was sent of it")
    }

    /// Whether the key seals the same bytes again: compares the hashes of all that was acknowledged.
    async fn is_what_was_sent(&self, left: &Left<'_>, content: &Content) -> bool {
        let (journal, source) = (left.journal.to_owned(), content.source.clone());
        let comparing = tokio::task::spawn_blocking(move || {
            acknowledged(&journal).into_iter().all(|(range, blocks)| {
                let again = hash_blocks(&*source, range.clone());
                source.release(range);
                again.is_ok_and(|again| again == blocks)
            })
        });
        tokio::select! {
            same = comparing => same.unwrap_or(false),
            // Nothing is sent any more then, whatever the answer is.
            _ = self.job.stop.requested() => true,
        }
    }

    /// Encryptions that an earlier run began without a journal, or whose journal was gone before they were noted:
    /// either what they made is stored, or their key is of no use any more.
    pub(super) async fn settle_seals(&self) {
        if self.job.request.dry_run {
            return;
        }
        for begun in self.seals.all_begun() {
            if self.job.is_stopped() {
                return;
            }
            let mut known = self.job.destinations.iter();
            let destination = known.find(|known| known.name() == begun.destination);
            let is_over = match destination {
                // Its upload is still to be continued.
                _ if self.seals.has_journal(&begun) => false,
                None => true,
                Some(destination) => {
                    let mut selected = self.job.taking_part();
                    let asked = selected.any(|known| known.name() == destination.name());
                    asked && self.is_over(&begun, destination).await
                }
            };
            if is_over {
                self.forget(&begun.destination, &begun.path);
            }
        }
    }

    /// Whether an encryption has done its work, or never will.
    async fn is_over(&self, begun: &Begun, destination: &Destination) -> bool {
        let name = begun.path.rsplit('/').next().and_then(plain_name);
        let Some(name) = name else { return true };
        let opened = local::open(&begun.source, &name);
        let opened = opened.and_then(|source| Ok((source.fingerprint()?, source)));
        let plain = match opened {
            Ok((fingerprint, source)) if fingerprint == begun.fingerprint => source,
            Ok(_) => return true,
            Err(error) => return error.kind() == std::io::ErrorKind::NotFound,
        };
        let content = Content::encrypted(plain, begun.fingerprint.clone(), begun.sealing.clone());
        let parcel = Parcel {
            name,
            content,
            source_path: &begun.source,
            doubts: &[],
            destination,
            path: begun.path.clone(),
        };
        let patience = Patience::short(self.job.upload.retry_for);
        let looking = async {
            match destination.stat(&parcel.path, &patience).await? {
                None => Ok(()),
                Some(found) => self.compare(&parcel, &found, &patience).await.map(drop),
            }
        };
        tokio::select! {
            looked = looking => looked.map_or_else(|error| error.kind() == ErrorKind::AlreadyExists, |()| true),
            _ = self.job.stop.requested() => false,
        }
    }
}

/// With what an unfinished upload goes on.
pub(super) enum Resumption {
    Same(Content),
    /// With a new key, from the beginning.
    Anew(&'static str),
    /// Not at all.
    None(&'static str),
}

impl Resumption {
    fn changed() -> Resumption {
        Resumption::None("the file has changed")
    }
}

/// The archive that is stored under a name, encrypted or not.
pub(super) fn plain_name(stored: &str) -> Option<ArchiveName> {
    ArchiveName::parse(stored.strip_suffix(SUFFIX).unwrap_or(stored))
}

/// The path at which what `header` is about is stored if it is not encrypted.
pub(super) fn plain_path(header: &Header) -> String {
    let plain = header.path.strip_suffix(SUFFIX).unwrap_or(&header.path);
    plain.to_owned()
}

/// The path at which what `header` is about is stored once it is encrypted.
pub(super) fn encrypted_path(header: &Header) -> String {
    plain_path(header) + SUFFIX
}
