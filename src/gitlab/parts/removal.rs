//! How parts that are stored elsewhere are removed.
//!
//! They are moved into a folder of our own first, one by one, and deleted there: what is left of a backup
//! after a power cut never passes for one. The folder holds a list of what is to be moved, written before
//! anything is, so that whoever finds the folder can finish; of what is still in GitLab's folder only that is
//! moved which is still as the list says.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, Metadata};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::{INFORMATION, place};
use crate::archive::ArchiveName;

/// What our folder's name begins with; the backup's ID follows.
const PREFIX: &str = ".gitlab-pi-backup-sent-";
/// The list in it.
const LIST: &str = "parts.json";
/// A longer list is none of ours; bytes.
const LONGEST_LIST: u64 = 64 * 1024;

/// A part as it was when its removal was decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    name: String,
    ino: u64,
    mtime: (i64, i64),
}

impl Listed {
    fn new(name: &str, metadata: &Metadata) -> Listed {
        Listed {
            name: name.to_owned(),
            ino: metadata.ino(),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

/// Removes these members of `folder`, the parts of the backup `name`, if `is_unchanged` says that they still are
/// what is stored; whether they were. Blocks the thread.
pub fn remove(
    folder: &Path,
    name: &ArchiveName,
    members: &[OsString],
    is_unchanged: impl FnOnce() -> io::Result<bool>,
) -> io::Result<bool> {
    let mut list = Vec::new();
    for member in members {
        let metadata = fs::symlink_metadata(folder.join(member))?;
        list.push(Listed::new(&member.to_string_lossy(), &metadata));
    }
    // Only now: what is listed above is what this looks at.
    if !is_unchanged()? {
        return Ok(false);
    }
    let sent = folder.join(format!("{PREFIX}{}", name.backup_id().unwrap_or_default()));
    DirBuilder::new().mode(0o700).create(&sent)?;
    let mut file = File::create_new(sent.join(LIST))?;
    file.write_all(&serde_json::to_vec(&list)?)?;
    file.sync_all()?;
    sync(&sent)?;
    sync(folder)?;
    finish(folder, &sent, &list)?;
    Ok(true)
}

/// Finishes what runs that were killed while they removed parts have left in `folder`; which backups' it was.
/// Blocks the thread.
pub fn finish_removals(folder: &Path) -> io::Result<Vec<String>> {
    let mut finished = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(id) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else {
            continue;
        };
        if !entry.file_type()?.is_dir() || ArchiveName::of_backup(id).is_none() {
            continue;
        }
        let sent = entry.path();
        // Without a whole list nothing had been moved yet.
        let list = read_list(&sent).unwrap_or_default();
        finish(folder, &sent, &list)?;
        finished.push(id.to_owned());
    }
    finished.sort();
    Ok(finished)
}

fn read_list(sent: &Path) -> Option<Vec<Listed>> {
    let mut text = Vec::new();
    let file = File::open(sent.join(LIST)).ok()?;
    file.take(LONGEST_LIST).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Moves what the list says, `backup_information.yml` first: without it the others are no backup. Then deletes.
fn finish(folder: &Path, sent: &Path, list: &[Listed]) -> io::Result<()> {
    for part in list {
        if part.name != INFORMATION && place(&part.name).is_none() {
            continue;
        }
        let from = folder.join(&part.name);
        let found = fs::symlink_metadata(&from);
        if !found.is_ok_and(|found| Listed::new(&part.name, &found) == *part) {
            continue;
        }
        let to = sent.join(&part.name);
        match renameat_with(CWD, &from, CWD, &to, RenameFlags::NOREPLACE) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(naming(&from, error.into())),
        }
    }
    sync(sent)?;
    sync(folder)?;
    // The list last: it is what says whose parts these are.
    let mut left: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(sent)? {
        let entry = entry?;
        if entry.file_name() != OsStr::new(LIST) {
            left.push(entry.path());
        }
    }
    for path in left {
        // Neither follows a link.
        let removed = if fs::symlink_metadata(&path)?.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.map_err(|error| naming(&path, error))?;
    }
    match fs::remove_file(sent.join(LIST)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::remove_dir(sent).map_err(|error| naming(sent, error))
}

fn naming(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
