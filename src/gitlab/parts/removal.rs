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
    DirBuilder::new()
        .mode(0o700)
        .create(&sent)
        .map_err(naming(&sent))?;
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
        let moved = match renameat_with(CWD, &from, CWD, &to, RenameFlags::NOREPLACE) {
            // As on NFS; nobody else writes into a folder of ours.
            Err(Errno::INVAL | Errno::NOSYS) if fs::symlink_metadata(&to).is_err() => {
                renameat_with(CWD, &from, CWD, &to, RenameFlags::empty())
            }
            moved => moved,
        };
        match moved {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(naming(&from)(error.into())),
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
        removed.map_err(naming(&path))?;
    }
    match fs::remove_file(sent.join(LIST)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::remove_dir(sent).map_err(naming(sent))
}

/// Adds to an error what it is about.
fn naming(path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "1702758583_2023_12_16_17.8.2";
    const MEMBERS: [&str; 4] = [INFORMATION, "db", "repositories", "uploads.tar.gz"];

    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("temporary folder");
        for name in ["db", "repositories/@hashed"] {
            fs::create_dir_all(dir.path().join(name)).expect("made");
        }
        for name in [
            INFORMATION,
            "db/database.sql.gz",
            "uploads.tar.gz",
            "notes.txt",
        ] {
            fs::write(dir.path().join(name), name).expect("written");
        }
        std::os::unix::fs::symlink("../notes.txt", dir.path().join("db/link")).expect("a link");
        dir
    }

    fn left(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).expect("a folder");
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        let mut names: Vec<_> = names
            .map(|name| name.to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    fn listed(dir: &Path) -> Vec<Listed> {
        let list = MEMBERS.iter().map(|name| {
            let metadata = fs::symlink_metadata(dir.join(name)).expect("a part");
            Listed::new(name, &metadata)
        });
        list.collect()
    }

    #[test]
    fn only_the_parts_go_and_only_if_they_are_unchanged() {
        let dir = folder();
        let name = ArchiveName::of_backup(ID).expect("a name");
        let members = MEMBERS.map(OsString::from);
        let before = left(dir.path());
        assert!(!remove(dir.path(), &name, &members, || Ok(false)).expect("looked"));
        assert_eq!(left(dir.path()), before);
        assert!(remove(dir.path(), &name, &members, || Ok(true)).expect("removed"));
        assert_eq!(left(dir.path()), ["notes.txt"]);
    }

    #[test]
    fn whenever_it_was_killed_the_next_run_finishes() {
        // Killed when the folder was made, when a part of the list was written, and after each move.
        for moved in 0..=MEMBERS.len() + 2 {
            let dir = folder();
            let list = listed(dir.path());
            let sent = dir.path().join(format!("{PREFIX}{ID}"));
            fs::create_dir(&sent).expect("made");
            let text = serde_json::to_vec(&list).expect("a list");
            match moved {
                0 => {}
                1 => fs::write(sent.join(LIST), &text[..text.len() / 2]).expect("written"),
                _ => fs::write(sent.join(LIST), &text).expect("written"),
            }
            for name in MEMBERS.iter().take(moved.saturating_sub(2)) {
                fs::rename(dir.path().join(name), sent.join(name)).expect("moved");
            }
            let finished = finish_removals(dir.path()).expect("finished");
            assert_eq!(finished, [ID], "{moved}");
            let mut expected = vec!["notes.txt"];
            if moved < 2 {
                expected.extend(MEMBERS);
                expected.sort_unstable();
            }
            assert_eq!(left(dir.path()), expected, "{moved}");
            assert_eq!(finish_removals(dir.path()).expect("nothing"), [""; 0]);
        }
    }

    #[test]
    fn what_came_in_between_stays() {
        let dir = folder();
        let mut list = listed(dir.path());
        // GitLab has made a new database meanwhile, and somebody has written a list of his own.
        fs::rename(dir.path().join("db"), dir.path().join("old")).expect("moved");
        fs::create_dir(dir.path().join("db")).expect("made");
        let notes = fs::symlink_metadata(dir.path().join("notes.txt")).expect("a file");
        list.push(Listed::new("notes.txt", &notes));
        list.push(Listed::new("../notes.txt", &notes));
        let sent = dir.path().join(format!("{PREFIX}{ID}"));
        fs::create_dir(&sent).expect("made");
        fs::write(sent.join(LIST), serde_json::to_vec(&list).expect("a list")).expect("written");
        // Neither a link nor another name is ours.
        let link = format!("{PREFIX}1702844983_2023_12_17_17.8.2");
        std::os::unix::fs::symlink("old", dir.path().join(&link)).expect("a link");
        let mine = format!("{PREFIX}mine");
        fs::create_dir(dir.path().join(&mine)).expect("made");
        assert_eq!(finish_removals(dir.path()).expect("finished"), [ID]);
        assert_eq!(left(dir.path()), [&link, &mine, "db", "notes.txt", "old"]);
        assert_eq!(left(&dir.path().join("old")).len(), 2);
    }
}
