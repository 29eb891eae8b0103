//! Both archives, here and proved before anything is changed, and each in its place at its time.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::process::geteuid;

use super::super::directory;
use super::super::download::{Present, copy, download, look};
use super::super::part::begun;
use super::super::report::{ArchiveStatus, RestoreReport, RestoredArchive};
use super::super::target::{Folder, Need, Owner, check_room, no_room_to_unpack, own};
use super::super::unpack::look_through;
use super::super::{Halt, Wish, in_the_way};
use super::{Applying, Journal, Proved, Step};
use crate::archive::ArchiveKind;
use crate::destination::Destination;

/// An unpacked file takes up to so much more than its length, in bytes.
const PER_FILE: u64 = 8_192;

impl Applying<'_> {
    /// Has here, and proved, what the steps still need of both archives.
    pub(super) async fn obtain(&mut self) -> Result<Vec<RestoredArchive>, Halt> {
        let job = self.job;
        job.unless_stopped(self.obtain_unless_stopped()).await
    }

    async fn obtain_unless_stopped(&mut self) -> Result<Vec<RestoredArchive>, Halt> {
        let needs_config = !self.journal.has_done(Step::UnpackConfig);
        let needs_data = !self.journal.has_done(Step::PlaceData);
        let hold = Arc::new(Folder::open(&self.hold())?);
        let data_dir = Arc::new(Folder::open(&self.job.gitlab.data_dir)?);
        let (config, data) = (
            self.wish(ArchiveKind::Config).clone(),
            self.wish(ArchiveKind::Data).clone(),
        );
        let directory = directory::folder_of(&data);
        let data_path = data_dir.path.join(directory.as_ref().unwrap_or(&data.name));
        let mut here = Present::Nothing;
        let mut needs = Vec::new();
        if needs_config {
            here = self.look_for_config(&config, &hold).await?;
            let bytes = match here {
                Present::Same => 0,
                _ => config.size - begun(&config, &hold),
            };
            needs.push(Need {
                folder: &hold,
                bytes,
            });
        }
        let mut data_here = Present::Nothing;
        if needs_data {
            let begun = if let Some(id) = &directory {
                data_here = directory::look(&data, id, &data_dir).await?;
                0
            } else {
                data_here = look(&data, &data_dir).await?;
                begun(&data, &data_dir)
            };
            in_the_way(&data_path, &data_here)?;
            let bytes = match data_here {
                Present::Same => 0,
                _ => data.size - begun,
            };
            needs.push(Need {
                folder: &data_dir,
                bytes,
            });
        }
        check_room(&needs)?;
        // A folder is not packed.
        if !self.journal.has_done(Step::RestoreData) && directory.is_none() {
            let unpacking = Need {
                folder: &data_dir,
                bytes: data.size,
            };
            self.check_room_to_unpack(&needs, unpacking)?;
        }
        let config_path = self
            .job
            .gitlab
            .folder(ArchiveKind::Config)
            .join(&config.name);
        let mut config_row = row(&config, config_path);
        if needs_config {
            if here == Present::Nothing {
                let fetched = download(self.job, self.destination()?, &config, &hold).await?;
                config_row.fetched(&fetched, config.size);
                fetched.part.place(&config, &Owner::Caller)?;
            }
            self.look_through(&config).await?;
        }
        let mut data_row = row(&data, data_path);
        if needs_data && data_here == Present::Nothing {
            let (job, destination) = (self.job, self.destination()?);
            self.data = Some(if let Some(id) = &directory {
                let unpacked = directory::unpack(job, destination, &data, id, &data_dir).await?;
                data_row.unpacked(&unpacked, data.size);
                Proved::Directory(unpacked)
            } else {
                let fetched = download(job, destination, &data, &data_dir).await?;
                data_row.fetched(&fetched, data.size);
                Proved::File(fetched.part)
            });
        }
        Ok(vec![config_row, data_row])
    }

    /// A restore that has changed something is not held up: what GitLab unpacked before it was interrupted takes room,
    /// too, and is written over.
    fn check_room_to_unpack(&self, needs: &[Need<'_>], unpacking: Need<'_>) -> Result<(), Halt> {
        match no_room_to_unpack(needs, unpacking)? {
            None => Ok(()),
            Some(told) if self.journal.has_changed_something() => {
                tracing::warn!("{told}");
                Ok(())
            }
            Some(told) => Err(Halt::Failed(format!(
                "{told}; nothing was changed\n  \
                 make room there, or restore by hand: gitlab-pi-backup restore {} --plan",
                self.journal.backup_id
            ))),
        }
    }

    /// Whether the config archive waits already, or can be had from its folder on this machine.
    async fn look_for_config(&self, wish: &Wish, hold: &Arc<Folder>) -> Result<Present, Halt> {
        match look(wish, hold).await? {
            Present::Same => return Ok(Present::Same),
            Present::Nothing => {}
            // The hold is ours: what is not the archive is the rest of a mishap.
            Present::Other(_) => fs::remove_file(hold.path.join(&wish.name))
                .map_err(|error| format!("emptying {}: {error}", hold.path.display()))?,
        }
        let folder = self.job.gitlab.folder(ArchiveKind::Config);
        if !folder.is_dir() {
            return Ok(Present::Nothing);
        }
        let folder = Folder::open(folder)?;
        let present = look(wish, &folder).await?;
        in_the_way(&folder.path.join(&wish.name), &present)?;
        if present == Present::Same {
            copy(wish, &folder.path.join(&wish.name), hold, &Owner::Caller).await?;
        }
        Ok(present)
    }

    /// Refuses a config archive that could do harm, or that does not fit, before anything is touched.
    async fn look_through(&self, wish: &Wish) -> Result<(), Halt> {
        let path = self.hold().join(&wish.name);
        let shown = path.clone();
        let looking = tokio::task::spawn_blocking(move || {
            let file = File::open(&path)
                .map_err(|error| format!("reading {}: {error}", path.display()))?;
            look_through(file)
        });
        let summary = looking.await.unwrap_or_else(|error| Err(error.to_string()));
        let summary = summary.map_err(|why| {
            format!(
                "{why}; nothing was changed\n  it is {}; restore another backup",
                shown.display()
            )
        })?;
        let folder = self
            .job
            .gitlab
            .etc_dir
            .parent()
            .filter(|parent| parent.is_dir());
        let Some(folder) = folder.map(Folder::open).transpose()? else {
            return Ok(());
        };
        let bytes = summary.bytes + wish.size + summary.files as u64 * PER_FILE;
        Ok(check_room(&[Need {
            folder: &folder,
            bytes,
        }])?)
    }

    /// The restored archive lies where `gitlab-ctl backup-etc` would have put it.
    pub(super) async fn put_config_archive(&self, folder: &Path) -> Result<(), Halt> {
        let wish = self.wish(ArchiveKind::Config);
        let folder = Arc::new(Folder::open(folder)?);
        match look(wish, &folder).await? {
            Present::Same => Ok(()),
            Present::Other(what) => {
                let path = folder.path.join(&wish.name);
                tracing::warn!("{} is not replaced: {what}", path.display());
                Ok(())
            }
            Present::Nothing => {
                // Without root all of the restored configuration is the caller's.
                let owner = if geteuid().is_root() {
                    Owner::of(ArchiveKind::Config, self.job.gitlab)
                } else {
                    Owner::Caller
                };
                let archive = self.hold().join(&wish.name);
                copy(wish, &archive, &folder, &owner).await
            }
        }
    }

    /// Whether the data archive still lies where it was placed. Only its size and owner are asked for: it was proved
    /// when it was placed, and on a Raspberry Pi reading it again takes long.
    fn is_placed(&self) -> bool {
        let wish = self.wish(ArchiveKind::Data);
        if let Some(id) = directory::folder_of(wish) {
            return directory::is_placed(&id, &self.job.gitlab.data_dir);
        }
        let Ok(present) = fs::symlink_metadata(self.job.gitlab.data_dir.join(&wish.name)) else {
            return false;
        };
        let owner = Owner::of(ArchiveKind::Data, self.job.gitlab);
        present.is_file()
            && present.len() == wish.size
            && (!geteuid().is_root() || owner.is_of(&present))
    }

    /// Takes back that the data archive is placed, if somebody took it away since: GitLab itself does, when its keep
    /// time is over. Whether it was taken back.
    pub(super) fn notice_lost_data(&mut self) -> Result<bool, Halt> {
        let journal = &self.journal;
        let placed = journal.has_done(Step::PlaceData) && !journal.has_done(Step::RestoreData);
        if !placed || self.is_placed() {
            return Ok(false);
        }
        let data = self.wish(ArchiveKind::Data);
        let name = directory::folder_of(data).unwrap_or_else(|| data.name.clone());
        tracing::warn!(
            "{} is no longer as it was placed; it is looked at again, and fetched if need be",
            self.job.gitlab.data_dir.join(name).display()
        );
        self.journal.done.retain(|step| *step != Step::PlaceData);
        self.journal.save(self.job.state)?;
        Ok(true)
    }

    /// Has the data archive in its place just before GitLab asks for it.
    pub(super) async fn have_data_placed(
        &mut self,
        report: &mut RestoreReport,
    ) -> Result<(), Halt> {
        if self.notice_lost_data()? {
            report.archives = self.obtain().await?;
            self.place_data()?;
            self.journal.finish(Step::PlaceData, self.job.state)?;
        }
        Ok(())
    }

    /// Gives the data archive its name and its owner.
    pub(super) fn place_data(&mut self) -> Result<(), Halt> {
        let wish = self.wish(ArchiveKind::Data);
        // Only now: the reconfigured GitLab has its user.
        let owner = Owner::of(ArchiveKind::Data, self.job.gitlab);
        match &self.data {
            Some(Proved::File(part)) => part.place(wish, &owner)?,
            Some(Proved::Directory(unpacked)) => unpacked.place()?,
            // Compared with its owners.
            None if directory::folder_of(wish).is_some() => {}
            None => own(&self.job.gitlab.data_dir.join(&wish.name), &owner)?,
        }
        self.data = None;
        Ok(())
    }

    fn destination(&self) -> Result<&Destination, Halt> {
        let mut all = self.job.destinations.iter();
        let name = &self.journal.destination;
        all.find(|destination| destination.name() == name).copied().ok_or_else(|| {
            Halt::Failed(format!(
                "the restore was begun from the destination `{name}`, which is not among those of this call\n  \
                 call it again with that one, or begin anew: delete {}",
                Journal::path(self.job.state).display()
            ))
        })
    }
}

/// What is wanted of an archive that will be at `path`.
fn row(wish: &Wish, path: PathBuf) -> RestoredArchive {
    RestoredArchive {
        kind: wish.kind,
        name: wish.name.clone(),
        path,
        size: wish.size,
        verified: true,
        status: ArchiveStatus::AlreadyPresent,
        bytes_fetched: 0,
        bytes_resumed: 0,
    }
}
