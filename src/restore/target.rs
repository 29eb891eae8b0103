//! Where fetched archives go: the folders, what is in them already, whether there is room, and whose the
//! files will be.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::unistd::User;
use rustix::fs::{CWD, Gid, Mode, OFlags, Uid, fchmod, fchown, fstatvfs, openat};
use rustix::process::geteuid;

use crate::archive::ArchiveKind;
use crate::gitlab::host::Settings;
use crate::state::sync_folder;
use crate::units::Size;

/// Whom the Linux package lets GitLab run as, unless `user['username']` says otherwise.
const GITLAB_USER: &str = "git";

/// A folder that archives are put into.
#[derive(Debug)]
pub(super) struct Folder {
    /// As it was given.
    pub(super) path: PathBuf,
    /// Open, so that nobody can slip another one in.
    pub(super) open: File,
    /// Whether it was missing.
    pub(super) is_new: bool,
}

impl Folder {
    /// Opens it; made for its owner alone, if it is missing.
    pub(super) fn open(path: &Path) -> Result<Folder, String> {
        let fail = |error: io::Error| {
            format!(
                "using the folder {}: {error}\n  name another with --to DIR",
                path.display()
            )
        };
        let is_new = !path.exists();
        if is_new {
            let above = path.parent().filter(|above| !above.as_os_str().is_empty());
            above
                .map_or(Ok(()), fs::create_dir_all)
                .and_then(|()| DirBuilder::new().mode(0o700).create(path))
                .and_then(|()| above.map_or(Ok(()), sync_folder))
                .map_err(fail)?;
        }
        if !path.is_dir() {
            return Err(fail(io::ErrorKind::NotADirectory.into()));
        }
        Ok(Folder {
            path: path.to_owned(),
            open: File::open(path).map_err(fail)?,
            is_new,
        })
    }

    /// Bytes that the file system still takes, and which one it is.
    fn room(&self) -> io::Result<(u64, u64)> {
        let room = fstatvfs(&self.open)?;
        let device = self.open.metadata()?.dev();
        Ok((device, room.f_bavail.saturating_mul(room.f_frsize)))
    }
}

/// What is still to be written into a folder, in bytes.
#[derive(Clone, Copy)]
pub(super) struct Need<'a> {
    pub(super) folder: &'a Folder,
    pub(super) bytes: u64,
}

/// A disk that cannot take all that is to be written there.
struct Shortage<'a> {
    /// The first of the folders there.
    path: &'a Path,
    /// In bytes, of all folders there.
    needed: u64,
    free: u64,
}

/// Looks whether everything fits, folders on one file system taken together.
fn shortage<'a>(needs: &[Need<'a>]) -> Result<Option<Shortage<'a>>, String> {
    let mut disks: Vec<(u64, Shortage<'a>)> = Vec::new();
    for need in needs {
        let path = need.folder.path.as_path();
        let (device, free) = need
            .folder
            .room()
            .map_err(|error| format!("asking {} for free space: {error}", path.display()))?;
        let needed = need.bytes;
        match disks.iter_mut().find(|disk| disk.0 == device) {
            Some((_, disk)) => disk.needed += needed,
            None => disks.push((device, Shortage { path, needed, free })),
        }
    }
    let mut disks = disks.into_iter().map(|(_, disk)| disk);
    Ok(disks.find(|disk| disk.needed > disk.free))
}

/// Refuses what does not fit.
pub(super) fn check_room(needs: &[Need<'_>]) -> Result<(), String> {
    shortage(needs)?.map_or(Ok(()), |short| {
        Err(too_little(short.path, short.needed, short.free))
    })
}

/// What there is to say if GitLab has no room for unpacking the data archive, which it does beside it, when
/// everything else, which fits, is there: it would fail in the middle, with its database gone.
pub(super) fn no_room_to_unpack(
    needs: &[Need<'_>],
    unpacking: Need<'_>,
) -> Result<Option<String>, String> {
    let (folder, bytes) = (unpacking.folder.path.as_path(), unpacking.bytes);
    let mut all: Vec<Need<'_>> = needs.to_vec();
    all.push(unpacking);
    Ok(shortage(&all)?.map(|short| {
        format!(
            "GitLab unpacks the data archive beside itself: {} are needed in {} ({} to fetch, {} to unpack), and {} are free there",
            Size(short.needed),
            folder.display(),
            Size(short.needed - bytes),
            Size(bytes),
            Size(short.free)
        )
    }))
}

/// What is told when something does not fit.
pub(super) fn too_little(path: &Path, bytes: u64, free: u64) -> String {
    format!(
        "{} are needed in {}, and {} are free there\n  \
         make room, or fetch the archives to another disk with --to DIR",
        Size(bytes),
        path.display(),
        Size(free)
    )
}

/// Whose a placed file will be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// Whoever runs the program.
    Caller,
    /// This user and group.
    Ids {
        user: u32,
        group: u32,
        /// As `chown` takes it.
        shown: String,
    },
}

impl Owner {
    /// Of an archive in GitLab's own folders: the config archive is root's, the data archive is read by
    /// GitLab's user (one of root's fails there with "Permission denied").
    pub(super) fn of(kind: ArchiveKind, gitlab: &Settings) -> Owner {
        let ids = |user: u32, group: u32, shown: String| Owner::Ids { user, group, shown };
        match kind {
            ArchiveKind::Config => ids(0, 0, "root:root".to_owned()),
            ArchiveKind::Data => match User::from_name(GITLAB_USER) {
                Ok(Some(user)) => ids(
                    user.uid.as_raw(),
                    user.gid.as_raw(),
                    format!("{GITLAB_USER}:{GITLAB_USER}"),
                ),
                // Another name was chosen for it: the folder of its backups is its own.
                _ => Owner::of_folder(&gitlab.data_dir),
            },
        }
    }

    /// Whose a folder is.
    pub(super) fn of_folder(path: &Path) -> Owner {
        fs::metadata(path).map_or(Owner::Caller, |folder| Owner::Ids {
            user: folder.uid(),
            group: folder.gid(),
            shown: format!("{}:{}", folder.uid(), folder.gid()),
        })
    }

    /// Whether it is a file's.
    pub(super) fn is_of(&self, file: &fs::Metadata) -> bool {
        match self {
            Owner::Caller => true,
            Owner::Ids { user, group, .. } => (file.uid(), file.gid()) == (*user, *group),
        }
    }

    /// Makes an open file its own; whether it was another's until now. That it could not be done is a warning.
    pub(super) fn give(&self, file: &File, path: &Path) -> bool {
        let Owner::Ids { user, group, shown } = self else {
            return false;
        };
        if file.metadata().is_ok_and(|metadata| self.is_of(&metadata)) {
            return false;
        }
        let why = if geteuid().is_root() {
            let owner = (Uid::from_raw(*user), Gid::from_raw(*group));
            match fchown(file, Some(owner.0), Some(owner.1)) {
                Ok(()) => return true,
                Err(error) => error.to_string(),
            }
        } else {
            "only root may do that".to_owned()
        };
        tracing::warn!(
            "{} is not given to {shown}: {why}\n  chown {shown} {}",
            path.display(),
            path.display()
        );
        false
    }
}

/// Keeps an open file from others' eyes. That it could not be done is a warning: a memory stick may know no modes.
pub(super) fn close_to_others(file: &File, path: &Path) {
    let private = Mode::RUSR | Mode::WUSR;
    let is_private = |metadata: fs::Metadata| Mode::from_raw_mode(metadata.mode()) == private;
    if file.metadata().is_ok_and(is_private) {
        return;
    }
    if let Err(error) = fchmod(file, private) {
        tracing::warn!("{}: others may read it: {error}", path.display());
    }
}

/// Gives an archive that was there before to whom it has to belong, if it does not; the mode that GitLab gave
/// to one of its own stays.
pub(super) fn own(path: &Path, owner: &Owner) -> Result<(), String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = openat(CWD, path, flags, Mode::empty());
    let file = file.map_err(|error| format!("giving {} its owner: {error}", path.display()))?;
    let file = File::from(file);
    if owner.give(&file, path) {
        close_to_others(&file, path);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_told_with_both_figures() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let one = Folder::open(&dir.path().join("a/b")).expect("made");
        let two = Folder::open(&dir.path().join("c")).expect("made");
        let (_, free) = one.room().expect("a figure");
        let needs = |first: u64, second: u64| {
            check_room(&[
                Need {
                    folder: &one,
                    bytes: first,
                },
                Need {
                    folder: &two,
                    bytes: second,
                },
            ])
        };
        assert_eq!(needs(0, 1), Ok(()));
        // Each alone would fit.
        let half = free / 4 * 3;
        let error = needs(half, half).expect_err("together they do not fit");
        assert!(error.contains(&Size(half * 2).to_string()), "{error}");
        assert!(
            error.contains(&format!("{} are free", Size(free))[..4]),
            "{error}"
        );
    }

    #[test]
    fn what_cannot_be_unpacked_is_told_with_what_is_to_be_fetched() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let folder = Folder::open(dir.path()).expect("there");
        let (_, free) = folder.room().expect("a figure");
        let told = |fetching: u64, unpacking: u64| {
            let need = |bytes| Need {
                folder: &folder,
                bytes,
            };
            no_room_to_unpack(&[need(fetching)], need(unpacking)).expect("asked")
        };
        assert_eq!(told(1, 1), None);
        let half = free / 4 * 3;
        assert_eq!(told(half, 0), None);
        assert_eq!(told(0, half), None);
        let told = told(half, half).expect("one alone fits, not both");
        let figures = format!("({} to fetch, {} to unpack)", Size(half), Size(half));
        assert!(told.contains(&figures), "{told}");
        assert!(told.contains(&Size(half * 2).to_string()), "{told}");
    }

    #[test]
    fn a_file_in_the_place_of_a_folder_is_told() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("file");
        fs::write(&path, b"").expect("written");
        let error = Folder::open(&path).expect_err("no folder");
        assert!(error.contains("--to DIR"), "{error}");
    }
}
