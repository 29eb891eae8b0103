//! Deleting a backup that is a folder.
//!
//! It is done in two steps, so that an interruption never leaves half a folder that looks like a backup: first the
//! folder gets a hidden name, `.<backup ID>.removing`, then what is in it goes. Only what was there when the folder was
//! compared with what is stored is deleted; no link is followed, and nothing is reached by a path that
//! somebody could lead elsewhere meanwhile.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, RenameFlags, renameat_with, statat, unlinkat};
use rustix::io::Errno;

use crate::archive::{Archive, ArchiveName};
use crate::content_hash::{Digest, hash_source};
use crate::local;
use crate::local::remove::{empty, open_folder, plan};

/// What the hidden name ends in.
const REMOVING: &str = ".removing";
/// Deletes a folder if its tar is what is stored. False: it is not, and nothing was touched. Blocks the thread.
pub(super) fn delete(archive: &Archive, stored: Digest) -> io::Result<bool> {
    let (Some(above), Some(id)) = (archive.path.parent(), archive.name.folder()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let above = File::open(above)?;
    let folder = open_folder(above.as_fd(), id)?;
    let source = local::open(&archive.path, &archive.name)?;
    let before = source.fingerprint()?;
    let planned = plan(&folder)?;
    // A folder of the plan that got another member would have another time.
    if hash_source(&*source)? != stored || source.fingerprint()? != before {
        return Ok(false);
    }
    drop(source);
    let hidden = format!(".{id}{REMOVING}");
    rename(&above, id, &hidden)?;
    let moved = statat(&above, hidden.as_str(), AtFlags::SYMLINK_NOFOLLOW)?;
    if moved.st_ino != File::from(folder.try_clone()?).metadata()?.ino() {
        rename(&above, &hidden, id)?;
        return Err(io::Error::other("another folder has taken its name"));
    }
    above.sync_all()?;
    empty(&folder, Some(&planned))?;
    unlinkat(&above, hidden.as_str(), AtFlags::REMOVEDIR)?;
    Ok(true)
}

/// Without replacing anything.
fn rename(above: &File, from: &str, to: &str) -> io::Result<()> {
    let renamed = match renameat_with(above, from, above, to, RenameFlags::NOREPLACE) {
        // As on NFS; a folder only ever replaces an empty one.
        Err(Errno::INVAL | Errno::NOSYS) => {
            renameat_with(above, from, above, to, RenameFlags::empty())
        }
        renamed => renamed,
    };
    Ok(renamed?)
}

/// Finishes what an earlier deletion was interrupted in. Returns what could not be. Blocks the thread.
pub(in crate::prune) fn finish(data_dir: &Path) -> Vec<String> {
    let mut errors = Vec::new();
    let entries = fs::read_dir(data_dir).into_iter().flatten().flatten();
    let hidden = entries.filter_map(|entry| entry.file_name().into_string().ok());
    for name in hidden.filter(|name| is_hidden(name)) {
        let finished = File::open(data_dir).and_then(|above| {
            let folder = open_folder(above.as_fd(), name.as_str())?;
            empty(&folder, None)?;
            Ok(unlinkat(&above, name.as_str(), AtFlags::REMOVEDIR)?)
        });
        if let Err(error) = finished {
            let path = data_dir.join(&name);
            errors.push(format!("deleting the rest of {}: {error}", path.display()));
        }
    }
    errors
}

fn is_hidden(name: &str) -> bool {
    let id = name
        .strip_prefix('.')
        .and_then(|rest| rest.strip_suffix(REMOVING));
    id.is_some_and(|id| ArchiveName::of_directory(id).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{ArchiveKind, Form};
    use crate::gitlab::cli::find_directories;
    use std::os::unix::fs::symlink;

    const ID: &str = "1714053314_2024_04_25_17.8.2";

    fn backup(root: &Path) -> Archive {
        let deep = root.join(ID).join("repositories/default/@hashed/aa");
        fs::create_dir_all(&deep).expect("folders");
        for name in [
            "backup_information.json",
            "repositories/default/@hashed/aa/001.bundle",
        ] {
            fs::write(root.join(ID).join(name), name).expect("written");
        }
        let found = find_directories(root).expect("listed").whole.swap_remove(0);
        let size = local::open(&found.path, &found.name)
            .expect("a folder")
            .len();
        Archive {
            name: found.name,
            path: found.path,
            size,
            form: Form::Directory,
            identity: found.identity,
        }
    }

    fn hash(archive: &Archive) -> Digest {
        let source = local::open(&archive.path, &archive.name).expect("a folder");
        hash_source(&*source).expect("readable")
    }

    fn names(root: &Path) -> Vec<String> {
        let entries = fs::read_dir(root).expect("a folder").flatten();
        let mut names: Vec<_> = entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn only_what_is_stored_is_deleted_and_no_link_is_followed() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let root = dir.path();
        fs::create_dir(root.join("theirs")).expect("a folder");
        fs::write(root.join("theirs/file"), "x").expect("written");
        let archive = backup(root);
        symlink(root.join("theirs"), archive.path.join("link")).expect("a link");
        assert_eq!(archive.name.kind, ArchiveKind::Data);
        let other = Digest::of(b"something else");
        assert!(!delete(&archive, other).expect("compared"));
        assert_eq!(names(root), [ID, "theirs"]);
        let stored = hash(&archive);
        assert!(delete(&archive, stored).expect("deleted"));
        assert_eq!(names(root), ["theirs"]);
        assert_eq!(fs::read(root.join("theirs/file")).expect("there"), b"x");
    }

    #[test]
    fn an_interrupted_deletion_is_finished_and_nothing_else_is() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let root = dir.path();
        backup(root);
        fs::rename(root.join(ID), root.join(format!(".{ID}{REMOVING}"))).expect("renamed");
        for name in [ID, ".other.removing", ".removing"] {
            fs::create_dir(root.join(name)).expect("a folder");
        }
        let theirs = root.join(".1714053315_2024_04_25_17.8.2.removing");
        symlink(root.join(ID), &theirs).expect("a link");
        let errors = finish(root);
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].contains("1714053315"), "{errors:?}");
        let left = [
            ".1714053315_2024_04_25_17.8.2.removing",
            ".other.removing",
            ".removing",
            ID,
        ];
        assert_eq!(names(root), left);
    }
}
