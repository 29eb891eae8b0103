//! Uploads that an earlier run left unfinished.

use std::fs;
use std::io;

use super::send::Parcel;
use super::{Job, Run};
use crate::archive::ArchiveName;
use crate::destination::Destination;
use crate::destination::dropbox::{self, Header, JOURNALS, Unfinished};
use crate::local;
use crate::report::{ArchiveReport, UploadStatus};

impl Run<'_> {
    /// Step 3: every upload that an earlier run began and whose file is still the same.
    pub(super) async fn finish_what_was_left(&mut self) {
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
                        if selected && self.job.request.kinds.contains(&name.kind) {
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
        let source = match opened {
            Ok((fingerprint, source)) if fingerprint == header.fingerprint => source,
            Ok(_) => return self.give_up(left, "the file has changed"),
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
            source_path: &header.source,
            fingerprint: &header.fingerprint,
            doubts: &header.doubts,
            destination,
            path: header.path.clone(),
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
    let name = header.path.rsplit('/').next().and_then(ArchiveName::parse);
    Ok((name.ok_or("its name is none of GitLab's")?, destination))
}
