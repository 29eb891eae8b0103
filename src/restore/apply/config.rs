//! `/etc/gitlab`: the former one moved away, the restored one made whole beside it and then given its name.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, lstat, renameat, renameat_with};
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
        if fs::symlink_metadata(&kept).is_err()
            && let Err(error) = rename(&etc, &kept)
        {
            return Err(self.not_moved(&etc, &kept, error));
        }
        Ok(StepStatus::Ok)
    }

    /// Why the present one stays. What was noted beforehand is taken back: while it stands, no other backup could
    /// be restored, although nothing was changed.
    fn not_moved(&mut self, etc: &Path, kept: &Path, error: Errno) -> Halt {
        let told = format!("moving {} to {}: {error}", etc.display(), kept.display());
        if fs::symlink_metadata(kept).is_ok() {
            // It was moved, and only whether it stays so over a power cut is not known.
            return Halt::Failed(format!("{told}\n  see what is wrong with its disk"));
        }
        self.journal.kept = None;
        if let Err(error) = self.journal.save(self.job.state) {
            tracing::warn!("{error}");
        }
        Halt::Failed(format!("{told}; nothing was changed\n  {}", way_out(error)))
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

/// What can be done about a folder that cannot be moved beside itself.
fn way_out(error: Errno) -> &'static str {
    match error {
        Errno::BUSY => {
            "it is a mount point: unmount it, or move what is in it away by hand, and unpack the config archive by hand"
        }
        Errno::XDEV => {
            "it is of another file system, as in an overlay or a container: copy it to that name by hand and remove it, and run the same command again"
        }
        Errno::ROFS => "make its file system writable, and run the same command again",
        Errno::NOSPC | Errno::DQUOT => "make room there, and run the same command again",
        Errno::ACCESS | Errno::PERM => "run as root",
        _ => "move it away by hand, and run the same command again",
    }
}

/// Gives a folder a name that is free, for good.
fn rename(from: &Path, to: &Path) -> rustix::io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS) => rename_plainly(from, to)?,
        renamed => renamed?,
    }
    let synced = to.parent().map_or(Ok(()), sync_folder);
    synced.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

/// For a file system that does not know the flag: a folder can take the place of nothing but an empty folder, so
/// nothing is lost even if one comes into being meanwhile.
fn rename_plainly(from: &Path, to: &Path) -> rustix::io::Result<()> {
    match lstat(to) {
        Err(Errno::NOENT) => renameat(CWD, from, CWD, to),
        found => found.and(Err(Errno::EXIST)),
    }
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

    #[test]
    fn without_the_flag_nothing_is_replaced_either() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let (from, to) = (dir.path().join("x"), dir.path().join("y"));
        make_anew(&from).expect("made");
        fs::write(to.clone(), b"theirs").expect("written");
        assert_eq!(rename_plainly(&from, &to), Err(Errno::EXIST));
        fs::remove_file(&to).expect("removed");
        assert_eq!(rename_plainly(&from, &to), Ok(()));
        assert!(!from.exists() && to.is_dir());
    }

    #[test]
    fn each_obstacle_has_its_way_out() {
        assert!(way_out(Errno::BUSY).contains("unmount it"));
        assert!(way_out(Errno::XDEV).contains("copy it"));
        assert_eq!(way_out(Errno::PERM), "run as root");
        assert!(!way_out(Errno::INVAL).contains("root"));
    }
}
