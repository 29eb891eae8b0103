//! Archives on their way to the destinations.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::look::{Opened, open};
use super::present::{Candidate, Likeness};
use super::sealed::Content;
use super::{Chosen, Run, seconds};
use crate::archive::{Archive, ArchiveName, Form};
use crate::content_hash::{Digest, hash_source};
use crate::destination::dropbox::JOURNALS;
use crate::destination::{Destination, Entry, FileEntry, Shipment};
use crate::error::{Error, ErrorKind, Retry};
use crate::http::source_error;
use crate::progress::Progress;
use crate::report::{ArchiveReport, UploadReport, UploadStatus};
use crate::retry::Patience;
use crate::source::Source;
use crate::units::Size;

/// A dry run waits no longer for an answer.
const DRY_RUN_PATIENCE: Duration = Duration::from_secs(10);

/// An open archive and where it goes.
pub(super) struct Parcel<'a> {
    pub(super) name: ArchiveName,
    /// What is stored of it.
    pub(super) content: Content,
    /// Where it lies on this machine.
    pub(super) source_path: &'a Path,
    pub(super) doubts: &'a [String],
    pub(super) destination: &'a Destination,
    pub(super) path: String,
}

/// An archive that was looked into.
pub(super) struct Ready {
    pub(super) archive: Archive,
    pub(super) made_by_this_run: bool,
    pub(super) doubts: Vec<String>,
    /// Or why it cannot be sent.
    pub(super) opened: Result<Opened, Error>,
}

impl Run<'_> {
    /// Brings an archive to the disk and looks into it, before anything of it is sent.
    pub(super) async fn look(&mut self, chosen: Chosen) -> Ready {
        let Chosen {
            archive,
            made_by_this_run,
            mut doubts,
        } = chosen;
        let notes = (!self.job.request.dry_run)
            .then(|| self.notes(&archive.name))
            .flatten();
        let opened = tokio::select! {
            opened = open(&archive, &self.job.gitlab.skip, notes) => opened,
            signal = self.job.stop.requested() => Err(format!("stopped by {}", signal.name())),
        };
        let opened = opened.map_err(|error| {
            let error = Error::new(
                ErrorKind::Invalid,
                archive.path.display().to_string(),
                error + "; it is not sent",
            )
            .hint("is GitLab still writing it? is the disk full? its own output tells more");
            self.fail(error.to_string());
            error
        });
        if let Ok(opened) = &opened {
            doubts.extend(opened.seen.doubts.clone());
            for doubt in self.known_doubts(&archive, opened) {
                if !doubts.contains(&doubt) {
                    doubts.push(doubt);
                }
            }
        }
        for doubt in &doubts {
            tracing::error!("{}: {doubt}", archive.path.display());
        }
        Ready {
            archive,
            made_by_this_run,
            doubts,
            opened,
        }
    }

    /// Step 6: one archive to every destination that gets its kind.
    pub(super) async fn send(&mut self, ready: &Ready) {
        let Ready {
            archive,
            made_by_this_run,
            doubts,
            opened,
        } = ready;
        let kind = archive.name.kind;
        let row = self.row(ArchiveReport {
            kind,
            name: archive.name.as_str().to_owned(),
            size: opened
                .as_ref()
                .map_or(archive.size, |opened| opened.source.len()),
            created_at: archive.name.created_at(),
            made_by_this_run: *made_by_this_run,
            doubts: doubts.clone(),
            uploads: Vec::new(),
        });
        let finished: Vec<_> = row
            .uploads
            .iter()
            .map(|upload| upload.destination.clone())
            .collect();
        let content = match opened {
            Ok(opened) => self.content(&archive.name, &opened.source, &opened.fingerprint),
            Err(error) => Err(error.clone()),
        };
        let job = self.job;
        let mut uploads = Vec::new();
        for destination in job.taking_part() {
            if !destination.takes(kind) || finished.iter().any(|name| name == destination.name()) {
                continue;
            }
            let path = destination.path(kind, &self.stored_name(&archive.name));
            match &content {
                Ok(content) => {
                    let parcel = Parcel {
                        name: archive.name.clone(),
                        content: content.clone(),
                        source_path: &archive.path,
                        doubts,
                        destination,
                        path,
                    };
                    uploads.extend(self.bring(&parcel).await);
                }
                Err(error) => uploads.push(failed(destination.name(), &path, error, (0, 0))),
            }
        }
        let same = |row: &&mut ArchiveReport| row.kind == kind && row.name == archive.name.as_str();
        if let Some(row) = self.report.archives.iter_mut().find(same) {
            row.uploads.extend(uploads);
        }
    }

    /// Takes back what was told of an archive that is a folder, if nothing could be stored of it because it changed
    /// while it was read: it is to be looked into and sent anew.
    pub(super) async fn must_be_read_again(&mut self, ready: &Ready) -> Option<Chosen> {
        let opened = ready.opened.as_ref().ok()?;
        if ready.archive.form != Form::Directory || self.job.is_stopped() {
            return None;
        }
        let (source, known) = (opened.source.clone(), opened.fingerprint.clone());
        let looking = tokio::task::spawn_blocking(move || source.fingerprint());
        let changed = match looking.await.ok()? {
            Ok(now) if now == known => return None,
            Ok(_) => "it has changed".to_owned(),
            Err(error) => error.to_string(),
        };
        let (kind, name) = (ready.archive.name.kind, ready.archive.name.as_str());
        let same = |row: &&mut ArchiveReport| row.kind == kind && row.name == name;
        let row = self.report.archives.iter_mut().find(same)?;
        // Two places with two contents under one name would be worse than one place without.
        if row.uploads.iter().any(|upload| upload.status.is_stored()) {
            return None;
        }
        row.uploads.clear();
        tracing::warn!(
            "{}: {changed}; it is read again",
            ready.archive.path.display()
        );
        Some(Chosen {
            archive: ready.archive.clone(),
            made_by_this_run: ready.made_by_this_run,
            doubts: ready
                .doubts
                .iter()
                .filter(|doubt| !opened.seen.doubts.contains(doubt))
                .cloned()
                .collect(),
        })
    }

    /// Looks whether the archive is there already, and sends it, or what is missing of it, if nothing is. None if
    /// the destination may be absent, and is.
    pub(super) async fn bring(&mut self, parcel: &Parcel<'_>) -> Option<UploadReport> {
        let destination = parcel.destination;
        let dry_run = self.job.request.dry_run;
        let patience = Patience::new(if self.is_away(destination.name()) {
            // Once more: it may have come meanwhile.
            Duration::ZERO
        } else if dry_run {
            DRY_RUN_PATIENCE
        } else {
            self.job.upload.retry_for
        });
        let look = async {
            let found = destination.stat(&parcel.path, &patience).await?;
            let Some(found) = found else { return Ok(None) };
            self.compare(parcel, &found, &patience).await.map(Some)
        };
        let present = tokio::select! {
            present = look => present,
            signal = self.job.stop.requested() => Err(parcel.stopped(signal.name())),
        };
        match present {
            Ok(None) if dry_run => Some(parcel.report(UploadStatus::WouldUpload, None, (0, 0))),
            Ok(None) => self.upload(parcel).await,
            Ok(Some((hash, likeness, file))) => {
                let mut report = parcel.report(UploadStatus::AlreadyPresent, Some(hash), (0, 0));
                report.verified = likeness == Likeness::Same;
                if !dry_run {
                    self.note_stored(&parcel.candidate(&file), hash);
                }
                Some(report)
            }
            Err(error) => self.not_stored(parcel, &error, (0, 0)),
        }
    }

    async fn upload(&mut self, parcel: &Parcel<'_>) -> Option<UploadReport> {
        let start = Instant::now();
        let progress = Progress::new(
            self.job.show,
            parcel.name.as_str(),
            parcel.content.source.len(),
        );
        let result = tokio::select! {
            result = self.transfer(parcel, &progress) => result,
            () = progress.log_now_and_then() => unreachable!("it goes on for ever"),
            signal = self.job.stop.requested() => Err(parcel.stopped(signal.name())),
        };
        let bytes = progress.sent_and_resumed();
        let mut report = match result {
            Ok((hash, file)) => {
                if let Some(file) = file {
                    self.note_stored(&parcel.candidate(&file), hash);
                }
                parcel.report(UploadStatus::Uploaded, Some(hash), bytes)
            }
            Err(error) => self.not_stored(parcel, &error, bytes)?,
        };
        report.seconds = seconds(start.elapsed());
        Some(report)
    }

    /// The row of an archive that is not stored; none if that is because the destination may be absent, and is.
    fn not_stored(
        &mut self,
        parcel: &Parcel<'_>,
        error: &Error,
        bytes: (u64, u64),
    ) -> Option<UploadReport> {
        if parcel.destination.is_optional() && error.is_absent() {
            self.note_absent(parcel.destination, &error.to_string());
            return None;
        }
        Some(failed(
            parcel.destination.name(),
            &parcel.path,
            error,
            bytes,
        ))
    }

    /// The content hash, and how sure it is, if what is there is this archive; else an error that touches nothing.
    pub(super) async fn compare(
        &self,
        parcel: &Parcel<'_>,
        found: &Entry,
        patience: &Patience,
    ) -> Result<(Digest, Likeness, FileEntry), Error> {
        let file = parcel.comparable(found)?;
        if let Some(sealed) = &parcel.content.sealed {
            let (hash, likeness) = self.compare_sealed(parcel, sealed, file, patience).await?;
            return Ok((hash, likeness, file.clone()));
        }
        let hash = match self.known_hash(&parcel.name, &parcel.content.fingerprint) {
            Some(hash) => hash,
            None => parcel.hash(parcel.content.source.clone()).await?,
        };
        match self
            .is_same(&parcel.candidate(file), hash, patience)
            .await?
        {
            Likeness::Other => {
                Err(parcel.conflict("a file of that name with other content is there"))
            }
            likeness => Ok((hash, likeness, file.clone())),
        }
    }

    /// What was sent, and what there is of it where that cannot be told from the hash alone.
    async fn transfer(
        &self,
        parcel: &Parcel<'_>,
        progress: &Progress,
    ) -> Result<(Digest, Option<FileEntry>), Error> {
        let patience = Patience::new(self.job.upload.retry_for);
        parcel.destination.sweep(&parcel.path, &patience).await;
        parcel.check_space(&patience).await?;
        let journals = self.job.state.folder(JOURNALS);
        if let Err(error) = &journals {
            tracing::warn!(
                "{}: {error}; an interrupted upload will start over",
                self.job.state.path().display()
            );
        }
        let journals = journals.ok();
        self.keep_sealing(parcel);
        let shipment = Shipment {
            source: parcel.content.source.clone(),
            fingerprint: &parcel.content.fingerprint,
            source_path: parcel.source_path,
            path: &parcel.path,
            doubts: parcel.doubts,
            client_modified: parcel.name.created_at(),
            journals: journals.as_deref(),
            options: self.job.upload,
            progress,
        };
        let stored = parcel.destination.store(&shipment).await;
        if let Err(error) = &stored
            && error.kind() == ErrorKind::SourceChanged
        {
            self.forget_sealing(parcel);
        }
        let hash = stored?;
        self.note_sealed(parcel, hash).await?;
        // That it cannot be looked at now costs another look later.
        let there = parcel.destination.stat(&parcel.path, &patience).await.ok();
        Ok((hash, there.flatten().and_then(|entry| entry.file)))
    }
}

impl Parcel<'_> {
    /// What is there, if it can be this archive; else an error that touches nothing.
    fn comparable<'e>(&self, found: &'e Entry) -> Result<&'e FileEntry, Error> {
        let Some(file) = &found.file else {
            return Err(self.conflict("a folder has that name"));
        };
        if self.path.rsplit('/').next() != Some(found.name.as_str()) {
            return Err(self.conflict(&format!(
                "a file whose name differs only in capitals is there (`{}`)",
                found.name
            )));
        }
        // Encrypted again, it may well be of another length.
        if self.content.sealed.is_none() && file.size != self.content.source.len() {
            return Err(self.conflict(&format!(
                "a file of that name with other content ({}) is there",
                Size(file.size)
            )));
        }
        Ok(file)
    }

    pub(super) fn conflict(&self, what: &str) -> Error {
        Error::new(
            ErrorKind::AlreadyExists,
            self.action(),
            format!("{what}; nothing was touched"),
        )
        .hint("rename or delete it there, then run again with --skip-create")
    }

    pub(super) fn candidate<'c>(&'c self, found: &'c FileEntry) -> Candidate<'c> {
        Candidate {
            destination: self.destination,
            path: &self.path,
            name: &self.name,
            found,
        }
    }

    /// Hashes the archive, or the plain bytes of an encrypted one, without sending it.
    pub(super) async fn hash(&self, source: Arc<dyn Source>) -> Result<Digest, Error> {
        self.read(move || hash_source(&*source)).await
    }

    /// Reads the archive in the blocking pool; an error if it is no longer what it was.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        reading: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let action = format!("reading {}", self.source_path.display());
        let content = self.content.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let result = reading()?;
            Ok((content.source.fingerprint()? == content.fingerprint).then_some(result))
        });
        match reading.await {
            Ok(Ok(Some(result))) => Ok(result),
            Ok(Ok(None)) => Err(Error::new(
                ErrorKind::SourceChanged,
                action,
                "the file changed while it was read",
            )),
            Ok(Err(error)) => Err(source_error(&action, &error)),
            Err(_) => Err(Error::new(
                ErrorKind::Unexpected,
                action,
                "the program is ending",
            )),
        }
    }

    /// What cannot fit is not begun: Dropbox would refuse it after the last byte.
    async fn check_space(&self, patience: &Patience) -> Result<(), Error> {
        let free = match self.destination.space(patience).await {
            Ok(space) => space.free,
            // That the question is not answered does not mean that there is no room.
            Err(error) if error.kind().retry() == Retry::Never => {
                tracing::warn!("{error}");
                None
            }
            Err(error) => return Err(error),
        };
        match free {
            Some(free) if free < self.content.source.len() => {
                let (needed, free) = (Size(self.content.source.len()), Size(free));
                let what = format!("it needs {needed}, but only {free} are free; nothing was sent");
                Err(Error::new(ErrorKind::NoSpace, self.action(), what)
                    .hint("make room there, then run again with --skip-create"))
            }
            _ => Ok(()),
        }
    }

    fn stopped(&self, signal: &str) -> Error {
        // Elsewhere nothing can be continued.
        let next = match self.destination.dropbox() {
            Some(_) => "the next run goes on there",
            None => "the next run begins it anew",
        };
        let what = format!("stopped by {signal}; {next}");
        Error::new(ErrorKind::Unavailable, self.action(), what)
    }

    fn action(&self) -> String {
        format!(
            "storing {} as {}:{}",
            self.name,
            self.destination.name(),
            self.path
        )
    }

    fn report(
        &self,
        status: UploadStatus,
        content_hash: Option<Digest>,
        bytes: (u64, u64),
    ) -> UploadReport {
        UploadReport {
            destination: self.destination.name().to_owned(),
            path: self.path.clone(),
            status,
            bytes_sent: bytes.0,
            bytes_resumed: bytes.1,
            content_hash,
            verified: status.is_stored(),
            seconds: 0.0,
            error: None,
        }
    }
}

/// The row of an archive that is not stored; `bytes` sent by this and by earlier runs.
fn failed(destination: &str, path: &str, error: &Error, bytes: (u64, u64)) -> UploadReport {
    tracing::error!("{error}");
    let conflict = error.kind() == ErrorKind::AlreadyExists;
    UploadReport {
        destination: destination.to_owned(),
        path: path.to_owned(),
        status: if conflict {
            UploadStatus::Conflict
        } else {
            UploadStatus::Failed
        },
        bytes_sent: bytes.0,
        bytes_resumed: bytes.1,
        content_hash: None,
        verified: false,
        seconds: 0.0,
        error: Some(error.to_string()),
    }
}
