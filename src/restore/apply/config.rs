//! `/etc/gitlab`: the former one moved away, the restored one made whole beside it and then given its name.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::super::Halt;
use super::super::report::StepStatus;
use super::super::unpack::unpack;
use super::Applying;
use crate::archive::ArchiveKind;
use crate::state::sync_folder;

impl Applying<'_> {
    /// Moves the present one away, if there is one.
    pub(super) fn move_config(&mut self) -> Result<StepStatus, Halt> {
        let (etc, kept) = (self.job.gitlab.etc_dir.clone(), self.kept());
        if self.journal.kept.is_none() {
            if fs::symlink_metadata(&etc)
                .is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
            {
                return Ok(StepStatus::Skipped);
            }
            self.journal.kept = Some(kept.clone());
            self.journal.save(self.job.state)?;
        }
        // An earlier call moved it, and did not come to note that it is done.
        if fs::symlink_metadata(&kept).is_err() {
            rename(&etc, &kept).map_err(|error| {
                let way_out = match error {
                    Errno::BUSY | Errno::XDEV => {
                        "it is a mount point: unmount it, or move what is in it away by hand, and unpack the config archive by hand"
                    }
                    _ => "run as root",
                };
                Halt::Failed(format!(
                    "moving {} to {}: {error}\n  {way_out}",
                    etc.display(),
                    kept.display()
                ))
            })?;
        }
        Ok(StepStatus::Ok)
    }

    /// Unpacks the restored one.
    pub(super) async fn unpack_config(&mut self) -> Result<(), Halt> {
        let gitlab = self.job.gitlab;
        let etc = gitlab.etc_dir.clone();
        let wish = self.wish(ArchiveKind::Config).clone();
        let archive = self.hold().join(&wish.name);
        let inode = |path: &Path| {
            fs::symlink_metadata(path)
                .ok()
                .map(|metadata| metadata.ino())
        };
        let present = inode(&etc);
        if present.is_some() && present != self.journal.unpacked {
            return Err(Halt::Failed(format!(
                "{} is there again, although it was moved away: somebody else made it\n  \
                 move it away, and run the same command again",
                etc.display()
            )));
        }
        let inside = gitlab
            .config_dir
            .strip_prefix(&etc)
            .ok()
            .map(Path::to_owned);
        if present.is_none() {
            let new = self.beside(".new");
            make_anew(&new)
                .map_err(|error| format!("making {}: {error}\n  run as root", new.display()))?;
            let (from, into) = (archive.clone(), new.clone());
            let unpacking = tokio::task::spawn_blocking(move || {
                let file = File::open(&from)
                    .map_err(|error| format!("reading {}: {error}", from.display()))?;
                unpack(file, &into)
            });
            unpacking
                .await
                .unwrap_or_else(|error| Err(error.to_string()))?;
            if let Some(below) = &inside {
                let folder = new.join(below);
                self.put_config_archive(&folder).await?;
                // As `gitlab-ctl backup-etc` makes it, whatever the archive says.
                fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))
                    .map_err(|error| format!("closing {}: {error}", folder.display()))?;
            }
            self.journal.unpacked = inode(&new);
            self.journal.save(self.job.state)?;
            rename(&new, &etc).map_err(|error| {
                format!("renaming {} to {}: {error}", new.display(), etc.display())
            })?;
        }
        if inside.is_none() {
            self.put_config_archive(&gitlab.config_dir).await?;
        }
        Ok(())
    }

    fn beside(&self, end: &str) -> PathBuf {
        let mut name = self.kept().into_os_string();
        name.push(end);
        name.into()
    }
}

/// An empty folder that nobody else can write; what an interrupted call left there goes first.
fn make_anew(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    if let Some(parent) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(parent)?;
    }
    DirBuilder::new().mode(0o700).create(path)
}

/// Gives a folder a name that is free, for good.
fn rename(from: &Path, to: &Path) -> rustix::io::Result<()> {
    renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?;
    let synced = to.parent().map_or(Ok(()), sync_folder);
    synced.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_made_anew_and_never_takes_another_ones_name() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let (new, etc) = (dir.path().join("x.new"), dir.path().join("x"));
        for _ in 0..2 {
            make_anew(&new).expect("made");
            fs::write(new.join("half"), b"").expect("written");
        }
        rename(&new, &etc).expect("the name is free");
        make_anew(&new).expect("made");
        assert_eq!(rename(&new, &etc), Err(Errno::EXIST));
        assert!(etc.join("half").exists());
    }
}
