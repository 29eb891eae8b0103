//! Uploads that an earlier run left unfinished.

use std::fs;
use std::io;
use std::path::Path;

use super::sealed::{Resumption, encrypted_path, plain_name, plain_path};
use super::send::Parcel;
use super::{Job, Run};
use crate::archive::ArchiveName;
use crate::destination::Destination;
use crate::destination::dropbox::{self, Header, JOURNALS, Unfinished};
use crate::local;
use crate::report::{ArchiveReport, UploadStatus};

/// An upload that an earlier run left, whose file is still here.
pub(super) struct Left<'a> {
    pub(super) header: &'a Header,
    /// Where the journal lies.
    pub(super) journal: &'a Path,
    pub(super) name: &'a ArchiveName,
}

impl Run<'_> {
    /// Step 3: every upload that an earlier run began and whose file is still the same.
    pub(super) async fn finish_what_was_left(&mut self) {
        self.finish_left(|_| true).await;
    }

    /// Those of some archives.
    pub(super) async fn finish_left(&mut self, is_wanted: impl Fn(&ArchiveName) -> bool) {
        let folder = self.job.state.path().join(JOURNALS);
        let journals = match dropbox::unfinished(&folder) {
            Ok(journals) => journals,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                return self.fail(format!(
                    "looking for unfinished uploads in {}: {error}",
                    folder.display()
                ));
            }
        };
        for left in journals {
            if self.job.is_stopped() {
                return;
            }
            match &left.content {
                Err(why) => self.put_aside(&left, why),
                Ok((header, arrived)) => match owner_of(self.job, header) {
                    Err(why) => self.give_up(&left, &why),
                    Ok((name, destination)) => {
                        let selected = self
                            .job
                            .taking_part()
                            .any(|known| known.name() == destination.name());
                        let asked = self.job.request.kinds.contains(&name.kind);
                        if selected && asked && is_wanted(&name) {
                            self.finish(&left, header, *arrived, name, destination)
                                .await;
                        }
                    }
                },
            }
        }
    }

    async fn finish(
        &mut self,
        left: &Unfinished,
        header: &Header,
        arrived: u64,
        name: ArchiveName,
        destination: &Destination,
    ) {
        let opened = local::open(&header.source, &name)
            .and_then(|source| Ok((source.fingerprint()?, source)));
        let (fingerprint, source) = match opened {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return self.give_up(left, &format!("{}: {error}", header.source.display()));
            }
            // Perhaps a disk that is not there today.
            Err(error) => {
                return self.fail(format!(
                    "finishing the upload of {}: {error}",
                    header.source.display()
                ));
            }
        };
        let size = source.len();
        let begun = Left {
            header,
            journal: &left.path,
            name: &name,
        };
        let resumption = self.left_content(&begun, source.clone(), fingerprint.clone());
        let (content, path) = match resumption.await {
            Resumption::Same(content) => (content, header.path.clone()),
            Resumption::None(why) => return self.give_up(left, why),
            Resumption::Anew(why) => {
                self.give_up(left, &format!("{why}; beginning anew"));
                match self.content(&name, &source, &fingerprint) {
                    Ok(content) if content.sealed.is_some() => (content, encrypted_path(header)),
                    Ok(content) => (content, plain_path(header)),
                    Err(error) => return self.fail(error.to_string()),
                }
            }
        };
        let row = ArchiveReport {
            kind: name.kind,
            name: name.as_str().to_owned(),
            size,
            created_at: name.created_at(),
            made_by_this_run: false,
            doubts: header.doubts.clone(),
            uploads: Vec::new(),
        };
        let parcel = Parcel {
            name,
            content,
            source_path: &header.source,
            doubts: &header.doubts,
            destination,
            path,
        };
        tracing::info!(
            "finishing the upload of {} that an earlier run began",
            parcel.name
        );
        let Some(mut upload) = self.bring(&parcel).await else {
            // Another time: the journal stays.
            return;
        };
        match upload.status {
            UploadStatus::WouldUpload => upload.bytes_resumed = arrived,
            // Finished by a run that could not take its journal away any more.
            UploadStatus::AlreadyPresent if !self.job.request.dry_run => {
                let _ = dropbox::discard(&left.path);
            }
            _ => {}
        }
        if let Some(error) = &upload.error {
            self.failures.push(error.clone());
        }
        self.row(row).uploads.push(upload);
    }

    /// A journal that nothing can be done with; it is only a hint.
    fn give_up(&self, left: &Unfinished, why: &str) {
        tracing::warn!(
            "the unfinished upload {} is given up: {why}",
            left.path.display()
        );
        if !self.job.request.dry_run {
            let _ = dropbox::discard(&left.path);
            if let Ok((header, _)) = &left.content {
                self.forget(&header.destination, &header.path);
            }
        }
    }

    /// A journal that cannot be read stays, to look at, where nobody takes it for one.
    fn put_aside(&self, left: &Unfinished, why: &str) {
        tracing::warn!(
            "the upload journal {} is put aside: {why}",
            left.path.display()
        );
        if !self.job.request.dry_run {
            let _ = fs::rename(&left.path, left.path.with_extension("unusable"));
        }
    }
}

/// What a journal is about, as far as the configuration still knows it.
fn owner_of<'a>(job: &Job<'a>, header: &Header) -> Result<(ArchiveName, &'a Destination), String> {
    let destination = job
        .destinations
        .iter()
        .find(|known| known.name() == header.destination);
    let destination = destination.ok_or("its destination is no longer configured")?;
    let name = header.path.rsplit('/').next().and_then(plain_name);
    Ok((name.ok_or("its name is none of GitLab's")?, destination))
}
