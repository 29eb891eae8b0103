//! Archives on their way to the destinations: left-over uploads first, then what was chosen.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use tokio::time::Instant;

use super::{Chosen, JOURNALS, Run, seconds};
use crate::archive::{ArchiveKind, ArchiveName};
use crate::content_hash::{Digest, hash_source};
use crate::destination::dropbox::{self, Entry, Transfer};
use crate::destination::{Destination, Service};
use crate::error::{Error, ErrorKind};
use crate::gitlab::inspect::look_into;
use crate::http::source_error;
use crate::progress::Progress;
use crate::report::{ArchiveReport, UploadReport, UploadStatus};
use crate::retry::Patience;
use crate::source::Source;
use crate::source::file::FileSource;
use crate::units::Size;

/// An open archive and where it goes.
struct Parcel<'a> {
    name: ArchiveName,
    source: Arc<FileSource>,
    doubts: &'a [String],
    destination: &'a Destination,
    path: String,
}

impl Run<'_> {
    /// Step 3: every upload that an earlier run began and whose file is still the same.
    pub(super) async fn finish_what_was_left(&mut self) {
        let folder = self.job.state.path().join(JOURNALS);
        for left in dropbox::unfinished(&folder).unwrap_or_default() {
            if self.job.is_stopped() {
                return;
            }
            let drop_it = |why: &str| {
                tracing::warn!(
                    "the unfinished upload {} is given up: {why}",
                    left.path.display()
                );
                if !self.job.request.dry_run {
                    let _ = dropbox::discard(&left.path);
                }
            };
            let (header, arrived) = match &left.content {
                Ok(content) => content,
                Err(why) => {
                    tracing::warn!(
                        "the upload journal {} is put aside: {why}",
                        left.path.display()
                    );
                    if !self.job.request.dry_run {
                        let _ = fs::rename(&left.path, left.path.with_extension("unusable"));
                    }
                    continue;
                }
            };
            let destination = self
                .job
                .destinations
                .iter()
                .find(|known| known.name() == header.destination);
            let Some(destination) = destination else {
                drop_it("its destination is no longer configured");
                continue;
            };
            let name = header.path.rsplit('/').next().and_then(ArchiveName::parse);
            let Some(name) = name else {
                drop_it("its name is none of GitLab's");
                continue;
            };
            let selected = self
                .job
                .taking_part()
                .any(|known| known.name() == destination.name());
            if !selected || !self.job.request.kinds.contains(&name.kind) {
                continue;
            }
            let source = match FileSource::open(&header.source) {
                Ok(source)
                    if source
                        .fingerprint()
                        .is_ok_and(|now| now == header.fingerprint) =>
                {
                    Arc::new(source)
                }
                Ok(_) => {
                    drop_it("the file has changed");
                    continue;
                }
                Err(error) => {
                    drop_it(&format!("{}: {error}", header.source.display()));
                    continue;
                }
            };
            let row = ArchiveReport {
                kind: name.kind,
                name: name.as_str().to_owned(),
                size: source.len(),
                created_at: name.created_at(),
                made_by_this_run: false,
                doubts: header.doubts.clone(),
                uploads: Vec::new(),
            };
            let parcel = Parcel {
                name,
                source,
                doubts: &header.doubts,
                destination,
                path: header.path.clone(),
            };
            let upload = if self.job.request.dry_run {
                parcel.report(UploadStatus::WouldUpload, None, None, (0, *arrived))
            } else {
                tracing::info!(
                    "finishing the upload of {} that an earlier run began",
                    parcel.name
                );
                self.upload(&parcel).await
            };
            if let Some(error) = &upload.error {
                self.failures.push(error.clone());
            }
            self.row(row).uploads.push(upload);
        }
    }

    /// Step 6: one archive to every destination that gets its kind.
    pub(super) async fn send(&mut self, chosen: Chosen) {
        let Chosen {
            archive,
            made_by_this_run,
            mut doubts,
        } = chosen;
        let kind = archive.name.kind;
        let opened = open(&archive.path, kind, &self.job.gitlab.skip).await;
        let (source, error) = match opened {
            Ok((source, found)) => {
                doubts.extend(found);
                (Some(source), None)
            }
            Err(error) => (None, Some(error)),
        };
        let row = self.row(ArchiveReport {
            kind,
            name: archive.name.as_str().to_owned(),
            size: source.as_ref().map_or(archive.size, |source| source.len()),
            created_at: archive.name.created_at(),
            made_by_this_run,
            doubts: doubts.clone(),
            uploads: Vec::new(),
        });
        let finished: Vec<_> = row
            .uploads
            .iter()
            .map(|upload| upload.destination.clone())
            .collect();
        for doubt in &doubts {
            tracing::error!("{}: {doubt}", archive.path.display());
        }
        if let Some(error) = &error {
            self.fail(error.clone());
        }
        let mut uploads = Vec::new();
        for destination in self.job.taking_part() {
            if !destination.takes(kind) || finished.iter().any(|name| name == destination.name()) {
                continue;
            }
            let path = destination.path(kind, archive.name.as_str());
            uploads.push(match &source {
                Some(source) => {
                    let (source, name) = (source.clone(), archive.name.clone());
                    let parcel = Parcel {
                        name,
                        source,
                        doubts: &doubts,
                        destination,
                        path,
                    };
                    self.bring(&parcel).await
                }
                None => UploadReport {
                    destination: destination.name().to_owned(),
                    path,
                    status: UploadStatus::Failed,
                    bytes_sent: 0,
                    bytes_resumed: 0,
                    content_hash: None,
                    verified: false,
                    seconds: 0.0,
                    error: error.clone(),
                },
            });
        }
        let same = |row: &&mut ArchiveReport| row.kind == kind && row.name == archive.name.as_str();
        if let Some(row) = self.report.archives.iter_mut().find(same) {
            row.uploads.extend(uploads);
        }
    }

    /// Looks whether the archive is there already, and sends it if nothing is.
    async fn bring(&self, parcel: &Parcel<'_>) -> UploadReport {
        let dry_run = self.job.request.dry_run;
        let allowed = if dry_run {
            std::time::Duration::from_secs(10)
        } else {
            self.job.upload.retry_for
        };
        let patience = Patience::new(allowed);
        let look = async {
            let found = parcel.destination.stat(&parcel.path, &patience).await?;
            let Some(found) = found else { return Ok(None) };
            parcel.compare(&found).await.map(Some)
        };
        let present = tokio::select! {
            present = look => present,
            signal = self.job.stop.requested() => Err(parcel.stopped(signal.name())),
        };
        match present {
            Ok(None) if dry_run => parcel.report(UploadStatus::WouldUpload, None, None, (0, 0)),
            Ok(None) => self.upload(parcel).await,
            Ok(Some(hash)) => parcel.report(UploadStatus::AlreadyPresent, Some(hash), None, (0, 0)),
            Err(error) => {
                let conflict = error.kind() == ErrorKind::AlreadyExists;
                let status = if conflict {
                    UploadStatus::Conflict
                } else {
                    UploadStatus::Failed
                };
                tracing::error!("{error}");
                parcel.report(status, None, Some(&error), (0, 0))
            }
        }
    }

    /// Sends an archive, or what an earlier run left of it.
    async fn upload(&self, parcel: &Parcel<'_>) -> UploadReport {
        let start = Instant::now();
        let progress = Progress::new(self.job.show, parcel.name.as_str(), parcel.source.len());
        let result = tokio::select! {
            result = self.transfer(parcel, &progress) => result,
            signal = self.job.stop.requested() => Err(parcel.stopped(signal.name())),
        };
        let bytes = progress.sent_and_resumed();
        let mut report = match result {
            Ok(hash) => parcel.report(UploadStatus::Uploaded, Some(hash), None, bytes),
            Err(error) => {
                let conflict = error.kind() == ErrorKind::AlreadyExists;
                let status = if conflict {
                    UploadStatus::Conflict
                } else {
                    UploadStatus::Failed
                };
                tracing::error!("{error}");
                parcel.report(status, None, Some(&error), bytes)
            }
        };
        report.seconds = seconds(start.elapsed());
        report
    }

    async fn transfer(&self, parcel: &Parcel<'_>, progress: &Progress) -> Result<Digest, Error> {
        let patience = Patience::new(self.job.upload.retry_for);
        parcel.check_space(&patience).await?;
        let journals = self.job.state.folder(JOURNALS);
        if let Err(error) = &journals {
            tracing::warn!(
                "{}: {error}; an interrupted upload will start over",
                self.job.state.path().display()
            );
        }
        let journals = journals.ok();
        let Service::Dropbox(dropbox) = parcel.destination.service();
        let transfer = Transfer {
            dropbox,
            source: parcel.source.clone(),
            source_path: parcel.source.path(),
            path: &parcel.path,
            doubts: parcel.doubts,
            client_modified: parcel.name.created_at(),
            journals: journals.as_deref(),
            options: self.job.upload,
            progress,
        };
        transfer.run().await
    }
}

impl Parcel<'_> {
    /// The content hash if what is there is this archive; else an error that touches nothing.
    async fn compare(&self, found: &Entry) -> Result<Digest, Error> {
        let conflict = |what: &str| {
            let action = format!(
                "storing {} as {}:{}",
                self.name,
                self.destination.name(),
                self.path
            );
            Err(Error::new(
                ErrorKind::AlreadyExists,
                action,
                format!("{what}; nothing was touched"),
            )
            .hint("rename or delete it there, then run again with --skip-create"))
        };
        let Some(file) = &found.file else {
            return conflict("a folder has that name");
        };
        if found.name != self.name.as_str() {
            return conflict(&format!(
                "a file whose name differs only in capitals is there (`{}`)",
                found.name
            ));
        }
        if file.size != self.source.len() {
            return conflict(&format!(
                "a file of that name with other content ({}) is there",
                Size(file.size)
            ));
        }
        let hash = self.hash().await?;
        if file.content_hash == Some(hash) {
            Ok(hash)
        } else {
            conflict("a file of that name with other content is there")
        }
    }

    /// Hashes the file without sending it.
    async fn hash(&self) -> Result<Digest, Error> {
        let action = format!("reading {}", self.source.path().display());
        let source = self.source.clone();
        let hashing = tokio::task::spawn_blocking(move || {
            let before = source.fingerprint()?;
            let hash = hash_source(&*source)?;
            Ok((before == source.fingerprint()?).then_some(hash))
        });
        match hashing.await {
            Ok(Ok(Some(hash))) => Ok(hash),
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
            Ok(free) => free,
            Err(error) if error.kind() == ErrorKind::Unauthorized => {
                tracing::warn!("{error}");
                None
            }
            Err(error) => return Err(error),
        };
        match free {
            Some(free) if free < self.source.len() => Err(Error::new(
                ErrorKind::NoSpace,
                format!("storing {} at {}", self.name, self.destination.name()),
                format!(
                    "it needs {}, but only {} are free; nothing was sent",
                    Size(self.source.len()),
                    Size(free)
                ),
            )
            .hint("make room there, then run again with --skip-create")),
            _ => Ok(()),
        }
    }

    fn stopped(&self, signal: &str) -> Error {
        let action = format!("storing {} at {}", self.name, self.destination.name());
        Error::new(
            ErrorKind::Unavailable,
            action,
            format!("stopped by {signal}; the next run goes on there"),
        )
    }

    fn report(
        &self,
        status: UploadStatus,
        content_hash: Option<Digest>,
        error: Option<&Error>,
        (bytes_sent, bytes_resumed): (u64, u64),
    ) -> UploadReport {
        UploadReport {
            destination: self.destination.name().to_owned(),
            path: self.path.clone(),
            status,
            bytes_sent,
            bytes_resumed,
            content_hash,
            verified: status.is_stored(),
            seconds: 0.0,
            error: error.map(ToString::to_string),
        }
    }
}

/// Opens an archive, brings it to the disk and looks into it. The error says why it cannot be sent.
async fn open(
    path: &Path,
    kind: ArchiveKind,
    skipped: &[String],
) -> Result<(Arc<FileSource>, Vec<String>), String> {
    let (owned, skipped) = (path.to_owned(), skipped.to_vec());
    let looking = tokio::task::spawn_blocking(move || {
        let source = FileSource::open(&owned).map_err(|error| error.to_string())?;
        // After a power cut the file must still be what its upload was begun with. On a read-only disk it is.
        let _ = source.sync();
        let doubts = look_into(&source, kind, &skipped).map_err(|error| error.to_string())?;
        Ok((Arc::new(source), doubts))
    });
    let opened = looking
        .await
        .unwrap_or_else(|_| Err("the program is ending".to_owned()));
    opened.map_err(|error: String| {
        format!(
            "{}: {error}; it is not sent\n  is GitLab still writing it? is the disk full? its own output tells more",
            path.display()
        )
    })
}
