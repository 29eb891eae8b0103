//! The last step of a backup: its manifest, written beside its archives when they are stored, so that
//! whoever finds a manifest finds a whole backup. A run that died before it is finished by the next.

use std::time::Duration;

use tokio::time::Instant;

use super::present::There;
use super::record::{Record, RecordedArchive, StoredAs, tidy};
use super::{Run, seconds};
use crate::archive::{ArchiveKind, ArchiveName};
use crate::catalog::{Catalog, StoredBackup, store_ours};
use crate::destination::Destination;
use crate::error::{Error, ErrorKind};
use crate::guard::shrinkage;
use crate::manifest::{Manifest, ManifestArchive, Problem};
use crate::recovery;
use crate::report::{ManifestReport, ManifestStatus, Step, StepReport, StepStatus};
use crate::retry::Patience;
use crate::seal::SUFFIX;

/// So long, at most, for a manifest that an earlier run owes.
const NOT_LONG: Duration = Duration::from_mins(1);

/// What became of the manifest of a backup at one destination.
enum Finished {
    Written,
    /// It is there already and says the same.
    Unchanged,
    /// Not all archives are stored there yet.
    Unready,
    /// The archives are gone, here and there: there will never be a manifest.
    Lost,
    Failed(Error),
}

impl Run<'_> {
    /// Step 3, after the uploads: the manifests that earlier runs owe. A destination that does not answer is
    /// asked once, and not waited for: GitLab's backup is still to be made.
    pub(super) async fn finish_old_records(&mut self) {
        if self.job.request.dry_run {
            return;
        }
        for mut record in Record::all(self.job.state) {
            if record.waiting.is_empty() || self.job.is_stopped() {
                continue;
            }
            if record.is_hopeless(self.now) {
                tracing::warn!(
                    "{}: its manifest is given up at {}",
                    record.backup_id,
                    record.waiting.join(", ")
                );
                record.waiting.clear();
                self.save(&record);
                continue;
            }
            tracing::debug!("finishing the manifest of {}", record.backup_id);
            self.finish_record(&mut record, false).await;
        }
    }

    /// Step 6, at its end: the manifest of this run's backup, everywhere.
    pub(super) async fn write_manifests(&mut self, record: Option<Record>) {
        let start = Instant::now();
        let before = self.report.manifests.len();
        if let Some(mut record) = record
            && !self.job.is_stopped()
        {
            self.finish_record(&mut record, true).await;
        }
        if !self.job.request.dry_run {
            tidy(self.job.state);
        }
        let rows = &self.report.manifests[before..];
        let error = rows.iter().find_map(|row| row.error.clone());
        let status = match (&error, rows.is_empty()) {
            (Some(_), _) => StepStatus::Failed,
            (None, true) => StepStatus::Skipped,
            (None, false) => StepStatus::Ok,
        };
        self.report.steps.push(StepReport {
            step: Step::Manifest,
            status,
            seconds: seconds(start.elapsed()),
            error,
        });
    }

    /// At its very end, with the names that are then there: how to get back, for a person with nothing but
    /// the destination.
    pub(super) async fn write_recovery(&self) {
        for destination in self.job.taking_part() {
            let mut rows = self.report.manifests.iter();
            let stored = rows.any(|row| {
                row.destination == destination.name() && row.status != ManifestStatus::Failed
            });
            if !stored {
                continue;
            }
            let patience = Patience::new(self.job.upload.retry_for);
            let writing = async {
                let catalog = Catalog::read(destination, self.job.state, &patience).await?;
                recovery::store(destination, &catalog, self.job.state, &patience).await
            };
            tokio::select! {
                written = writing => if let Err(error) = written {
                    tracing::warn!("{error}\n  how to restore is not told there, or not up to date");
                },
                _ = self.job.stop.requested() => return,
            }
        }
    }

    pub(super) async fn finish_record(&mut self, record: &mut Record, current: bool) {
        self.note_hashes(record);
        self.save(record);
        let waiting = record.waiting.clone();
        for name in waiting {
            let known = self
                .job
                .destinations
                .iter()
                .find(|known| known.name() == name);
            let Some(destination) = known else {
                record.waiting.retain(|waiting| *waiting != name);
                continue;
            };
            if !self
                .job
                .taking_part()
                .any(|taking_part| taking_part.name() == name)
            {
                continue;
            }
            if !current && self.silent.contains(&name) {
                continue;
            }
            // Its manifest waits until it is there again.
            // It may have come meanwhile.
            let stored_now = self
                .report
                .archives
                .iter()
                .flat_map(|row| &row.uploads)
                .any(|upload| upload.destination == name && upload.status.is_stored());
            if self.is_away(&name) && !(current && stored_now) {
                continue;
            }
            let stop = self.job.stop;
            let finished = tokio::select! {
                finished = self.finish_at(record, destination, current) => finished,
                _ = stop.requested() => return,
            };
            let path = format!(
                "{}/{}.json",
                destination.manifest_folder(),
                record.backup_id
            );
            let (status, error) = match finished {
                Finished::Written => (ManifestStatus::Written, None),
                Finished::Unchanged => (ManifestStatus::Unchanged, None),
                Finished::Unready => continue,
                Finished::Lost => {
                    record.waiting.retain(|waiting| *waiting != name);
                    continue;
                }
                Finished::Failed(error) => {
                    tracing::error!("{error}");
                    (ManifestStatus::Failed, Some(error.to_string()))
                }
            };
            if error.is_none() {
                record.waiting.retain(|waiting| *waiting != name);
            }
            if current || error.is_none() {
                self.report.manifests.push(ManifestReport {
                    destination: name,
                    backup_id: record.backup_id.clone(),
                    path,
                    status,
                    error,
                });
            }
        }
        self.save(record);
    }

    /// Only needed if this run dies: that it cannot be written keeps nothing from being stored.
    pub(super) fn save(&self, record: &Record) {
        if let Err(error) = record.save(self.job.state) {
            let folder = self.job.state.path().display();
            tracing::warn!(
                "{folder}: {error}; if this run is interrupted, the manifest will not be finished"
            );
        }
    }

    /// The hashes that uploads of this run have found.
    fn note_hashes(&self, record: &mut Record) {
        for archive in &mut record.archives {
            let rows = self
                .report
                .archives
                .iter()
                .filter(|row| row.name == archive.name);
            let mut stored = rows
                .flat_map(|row| &row.uploads)
                .filter(|upload| upload.status.is_stored());
            let hash = stored.find_map(|upload| {
                if upload.path.ends_with(SUFFIX) {
                    let sealed = self.seals.stored(&upload.destination, &upload.path);
                    return sealed.map(|sealed| sealed.content_hash);
                }
                upload.content_hash
            });
            archive.content_hash = archive.content_hash.or(hash);
            for (name, stored) in &self.stored {
                let place = |known: &StoredAs| {
                    (&known.destination, &known.path) == (&stored.destination, &stored.path)
                };
                if *name == archive.name {
                    archive.stored.retain(|known| !place(known));
                    archive.stored.push(stored.clone());
                }
            }
        }
    }

    async fn finish_at(
        &mut self,
        record: &mut Record,
        destination: &Destination,
        current: bool,
    ) -> Finished {
        let retry_for = self.job.upload.retry_for;
        let patience = Patience::new(if current {
            retry_for
        } else {
            retry_for.min(NOT_LONG)
        });
        let catalog = match Catalog::read(destination, self.job.state, &patience).await {
            Ok(catalog) => Some(catalog),
            // A token that may write and not read is no reason to write no manifest.
            Err(error) if error.kind() == ErrorKind::Unauthorized => {
                tracing::warn!("{error}");
                None
            }
            Err(error) => {
                self.silent.push(destination.name().to_owned());
                if destination.is_optional() && error.is_absent() {
                    self.note_absent(destination, &error.to_string());
                    return Finished::Unready;
                }
                return Finished::Failed(error);
            }
        };
        let mut entries = Vec::new();
        let mut lost = Vec::new();
        for archive in &mut record.archives {
            if !destination.takes(archive.kind) {
                continue;
            }
            match self
                .there(archive, destination, catalog.as_ref(), &patience)
                .await
            {
                Some(there) => entries.push(entry(archive, there)),
                None if !archive.asked => {}
                None if archive.open().is_some() => return Finished::Unready,
                None => lost.push(archive.kind),
            }
        }
        let takes_some = record
            .archives
            .iter()
            .any(|archive| archive.asked && destination.takes(archive.kind));
        if !takes_some && entries.is_empty() {
            return Finished::Lost;
        }
        // What can never come is not waited for; without its main part it is no backup.
        let main = if destination.takes(ArchiveKind::Data) {
            ArchiveKind::Data
        } else {
            ArchiveKind::Config
        };
        let Some(name) = record.data_name() else {
            return Finished::Lost;
        };
        if !entries.iter().any(|entry| entry.kind == main) {
            return if lost.contains(&main) {
                Finished::Lost
            } else {
                Finished::Unready
            };
        }
        let mut manifest = Manifest::new(&record.backup_id, &name, host_name());
        manifest.written_at = self.now.max(name.created_at());
        manifest
            .secrets_fingerprint
            .clone_from(&record.secrets_fingerprint);
        manifest.archives = entries;
        let there = catalog
            .as_ref()
            .and_then(|catalog| catalog.backup(&record.backup_id));
        if let Some(Some(Err(later @ Problem::Later(_)))) = there.map(|there| &there.manifest) {
            let action = format!(
                "{}: storing the manifest of {}",
                destination.name(),
                record.backup_id
            );
            let what = format!("there is one already, and {later}; it is not replaced");
            return Finished::Failed(Error::new(ErrorKind::AlreadyExists, action, what));
        }
        if let Some(there) = there.and_then(StoredBackup::readable_manifest) {
            add_what_is_there(&mut manifest, there);
            if says_the_same(there, &manifest) {
                return Finished::Unchanged;
            }
        }
        manifest.shrunk = self.shrunk(&manifest, &name, catalog.as_ref());
        match self.store(record, destination, &manifest, &patience).await {
            Ok(()) => Finished::Written,
            Err(error) => Finished::Failed(error),
        }
    }

    /// What fell against the last complete backup before this one.
    fn shrunk(
        &mut self,
        manifest: &Manifest,
        name: &ArchiveName,
        catalog: Option<&Catalog>,
    ) -> Vec<String> {
        let older = catalog.iter().flat_map(|catalog| &catalog.backups);
        let mut complete =
            older.filter(|backup| backup.is_complete() && backup.data_name.age_order(name).is_lt());
        let before = complete.find_map(StoredBackup::readable_manifest);
        let before = before.and_then(|before| before.archive(ArchiveKind::Data));
        let (Some(before), Some(now)) = (before, manifest.archive(ArchiveKind::Data)) else {
            return Vec::new();
        };
        let shrunk = shrinkage(&before.contents, &now.contents, self.job.guard.shrink);
        for what in &shrunk {
            let warning = format!(
                "{}: {what}, against {}\n  is something missing in GitLab? nothing is pruned until \
                 `gitlab-pi-backup prune --accept-shrink` says that it is right",
                manifest.backup_id, before.name
            );
            if !self.report.warnings.contains(&warning) {
                tracing::warn!("{warning}");
                self.report.warnings.push(warning);
            }
        }
        shrunk
    }

    /// Member list and index first, the manifest last.
    async fn store(
        &self,
        record: &Record,
        destination: &Destination,
        manifest: &Manifest,
        patience: &Patience,
    ) -> Result<(), Error> {
        self.store_lists(record, destination, manifest, patience)
            .await?;
        let folder = destination.manifest_folder();
        let path = format!("{folder}/{}.json", record.backup_id);
        store_ours(
            destination,
            &path,
            manifest.to_json(),
            self.job.state,
            patience,
        )
        .await
    }
}

fn entry(archive: &RecordedArchive, there: There) -> ManifestArchive {
    ManifestArchive {
        kind: archive.kind,
        name: archive.name.clone(),
        stored_name: there.name,
        size: archive.size,
        content_hash: there.content_hash,
        stored_size: there.size,
        stored_hash: there.hash,
        recipients: there.recipients,
        doubts: archive.doubts.clone(),
        contents: archive.contents.clone(),
    }
}

/// What the manifest that is there says and this run knows nothing of: an archive that was stored alone, or
/// for another destination with the same folder of manifests.
fn add_what_is_there(manifest: &mut Manifest, there: &Manifest) {
    for archive in &there.archives {
        match manifest
            .archives
            .iter_mut()
            .find(|here| here.kind == archive.kind)
        {
            None => manifest.archives.push(archive.clone()),
            // The same bytes are not better than they were.
            Some(here) if here.content_hash == archive.content_hash => {
                let found = std::mem::replace(&mut here.doubts, archive.doubts.clone());
                let more = found
                    .into_iter()
                    .filter(|doubt| !archive.doubts.contains(doubt));
                here.doubts.extend(more);
            }
            Some(_) => {}
        }
    }
    manifest.archives.sort_by_key(|archive| archive.kind);
    let config = |manifest: &Manifest| {
        let config = manifest.archive(ArchiveKind::Config);
        config.map(|config| config.content_hash)
    };
    // Of the same secrets only.
    if manifest.secrets_fingerprint.is_none() && config(manifest) == config(there) {
        manifest
            .secrets_fingerprint
            .clone_from(&there.secrets_fingerprint);
    }
}

/// Whether two manifests are of the same stored bytes, whenever and wherever they were written.
fn says_the_same(there: &Manifest, here: &Manifest) -> bool {
    there.archives == here.archives && there.secrets_fingerprint == here.secrets_fingerprint
}

/// The name of this machine, as far as it has one.
fn host_name() -> Option<String> {
    let name = rustix::system::uname().nodename().to_str().ok()?.to_owned();
    (!name.is_empty()).then_some(name)
}
