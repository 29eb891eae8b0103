//! The hidden file that an archive is written into before it gets its name:
//! `.<name>.<16 hex digits of its content>.part`.
//!
//! Its length is all there is to know about how far an interrupted download got; the digits keep the part of
//! another content from being continued. It is nobody's but ours, and it never takes a name that is taken.

use std::cmp::Ordering;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, linkat, openat, renameat_with, unlinkat};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::Wish;
use super::target::{Folder, Owner, close_to_others};
use crate::content_hash::{Digest, hash_source};
use crate::destination::fetch::PART_LEN;
use crate::source::file::FileSource;

/// Hex digits of the content in a part file's name.
const DIGITS: usize = 16;

/// A part file, open.
pub(super) struct Part {
    folder: Arc<Folder>,
    name: String,
    pub(super) file: Arc<File>,
}

/// The content hash of a file, without keeping the I/O thread from its work.
pub(super) async fn hash_in_pool(source: FileSource) -> io::Result<Digest> {
    tokio::task::spawn_blocking(move || hash_source(&source))
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// The bytes of it that an earlier call left.
pub(super) fn begun(wish: &Wish, folder: &Folder) -> u64 {
    fs::symlink_metadata(folder.path.join(part_name(wish)))
        .ok()
        .filter(fs::Metadata::is_file)
        .map_or(0, |metadata| usable(metadata.len(), wish.size))
}

/// How much of a part file is continued: whole parts, since the last one may have been cut short.
pub(super) fn usable(len: u64, size: u64) -> u64 {
    match len.cmp(&size) {
        Ordering::Less => len / PART_LEN * PART_LEN,
        Ordering::Equal => len,
        Ordering::Greater => 0,
    }
}

fn part_name(wish: &Wish) -> String {
    let digits = wish.key.to_string();
    format!(".{}.{}.part", wish.name, &digits[..DIGITS])
}

/// Removes the parts of other contents under this name: nobody will ever continue them.
pub(super) fn remove_strays(wish: &Wish, folder: &Folder) {
    let current = part_name(wish);
    let begin = format!(".{}.", wish.name);
    let is_stray = |name: &str| {
        let digits = name
            .strip_prefix(&begin)
            .and_then(|rest| rest.strip_suffix(".part"));
        name != current
            && digits.is_some_and(|digits| {
                digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
            })
    };
    for entry in fs::read_dir(&folder.path).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(is_stray) {
            // It only takes room.
            let _ = unlinkat(&folder.open, entry.file_name(), AtFlags::empty());
        }
    }
}

impl Part {
    /// Opens it, made if it is missing. What has its name and is not ours goes.
    pub(super) fn open(wish: &Wish, folder: &Arc<Folder>) -> io::Result<Part> {
        let name = part_name(wish);
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = match openat(&folder.open, &name, flags, mode).map(File::from) {
            Ok(file) if is_ours(&file, folder)? => file,
            // A link, or somebody else's: what we write and prove must be nobody's but ours.
            Ok(_) | Err(Errno::LOOP | Errno::NXIO) => {
                unlinkat(&folder.open, &name, AtFlags::empty())?;
                create(folder, &name)?
            }
            Err(Errno::NOENT) => create(folder, &name)?,
            Err(error) => return Err(error.into()),
        };
        // A file system without locks is no reason to go without the file.
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            let what = format!("another process is fetching {}", wish.name);
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, what));
        }
        Ok(Part {
            folder: folder.clone(),
            name,
            file: Arc::new(file),
        })
    }

    /// Of the whole file as the disk has it; none if its name leads elsewhere.
    pub(super) async fn hash(&self) -> io::Result<Option<Digest>> {
        let source = FileSource::open(&self.path())?;
        let (named, open) = (fs::symlink_metadata(source.path())?, self.file.metadata()?);
        if (named.dev(), named.ino()) != (open.dev(), open.ino()) {
            return Ok(None);
        }
        tracing::debug!("proving {}", self.path().display());
        hash_in_pool(source).await.map(Some)
    }

    /// Gives it its mode, its owner and its name. What could not be done of the first two is a warning.
    pub(super) fn place(&self, wish: &Wish, owner: &Owner) -> Result<(), String> {
        let path = self.folder.path.join(&wish.name);
        let fail = |error: io::Error| match error.kind() {
            io::ErrorKind::AlreadyExists => format!(
                "{} has come into being meanwhile; it is not overwritten\n  \
                 move it away, and run the same command again",
                path.display()
            ),
            _ => format!("placing {}: {error}", path.display()),
        };
        close_to_others(&self.file, &path);
        owner.give(&self.file, &path);
        self.file.sync_all().map_err(fail)?;
        self.rename(&wish.name).map_err(fail)?;
        self.folder.open.sync_all().map_err(fail)
    }

    /// Never replaces anything.
    fn rename(&self, name: &str) -> io::Result<()> {
        let folder = &self.folder.open;
        match renameat_with(folder, &self.name, folder, name, RenameFlags::NOREPLACE) {
            // A file system that does not know the flag: a second name fails where one is.
            Err(Errno::INVAL | Errno::NOSYS) => {
                linkat(folder, &self.name, folder, name, AtFlags::empty())?;
                unlinkat(folder, &self.name, AtFlags::empty())?;
                Ok(())
            }
            renamed => Ok(renamed?),
        }
    }

    /// Takes it away.
    pub(super) fn remove(&self) {
        // It is damaged; what cannot be removed is found so again.
        let _ = unlinkat(&self.folder.open, &self.name, AtFlags::empty());
    }

    /// Where it lies.
    pub(super) fn path(&self) -> PathBuf {
        self.folder.path.join(&self.name)
    }
}

fn create(folder: &Folder, name: &str) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(&folder.open, name, flags, Mode::RUSR | Mode::WUSR)?.into())
}

/// A regular file that has no second name, and belongs to this user, or to the folder's owner, who can do
/// with the files in it what he likes anyway.
fn is_ours(file: &File, folder: &Folder) -> io::Result<bool> {
    let metadata = file.metadata()?;
    let owners = [geteuid().as_raw(), folder.open.metadata()?.uid()];
    Ok(metadata.is_file() && metadata.nlink() == 1 && owners.contains(&metadata.uid()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::tests::wish;
    use std::os::unix::fs::{FileExt, symlink};

    fn folder(dir: &tempfile::TempDir) -> Arc<Folder> {
        Arc::new(Folder::open(dir.path()).expect("a folder"))
    }

    #[test]
    fn whole_parts_are_continued_and_a_whole_file_is_whole() {
        let size = 3 * PART_LEN + 7;
        for (len, kept) in [
            (0, 0),
            (PART_LEN - 1, 0),
            (PART_LEN, PART_LEN),
            (3 * PART_LEN + 6, 3 * PART_LEN),
            (size, size),
            (size + 1, 0),
        ] {
            assert_eq!(usable(len, size), kept, "{len}");
        }
    }

    #[test]
    fn a_name_that_is_taken_is_never_taken_away() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let (wish, folder) = (wish(b"hello"), folder(&dir));
        let part = Part::open(&wish, &folder).expect("a part file");
        fs::write(dir.path().join("a.tar"), b"theirs").expect("written");
        let error = part.place(&wish, &Owner::Caller).expect_err("taken");
        assert!(error.contains("not overwritten"), "{error}");
        assert_eq!(fs::read(dir.path().join("a.tar")).expect("read"), b"theirs");
        fs::remove_file(dir.path().join("a.tar")).expect("removed");
        assert_eq!(part.place(&wish, &Owner::Caller), Ok(()));
        assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 1);
    }

    #[test]
    fn a_part_file_is_nobody_elses() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let (wish, folder) = (wish(b"hello"), folder(&dir));
        let (path, target) = (dir.path().join(part_name(&wish)), dir.path().join("target"));
        fs::write(&target, b"theirs").expect("written");
        symlink(&target, &path).expect("a link");
        drop(Part::open(&wish, &folder).expect("in the place of the link"));
        assert!(fs::symlink_metadata(&path).expect("made").is_file());
        fs::remove_file(&path).expect("removed");
        fs::hard_link(&target, &path).expect("a second name");
        let part = Part::open(&wish, &folder).expect("in the place of the second name");
        part.file.write_all_at(b"ours", 0).expect("written");
        assert_eq!(fs::read(&target).expect("read"), b"theirs");
        assert!(Part::open(&wish, &folder).is_err(), "held by the first");
    }

    #[test]
    fn parts_of_other_contents_are_removed_and_nothing_else() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let (first, second, folder) = (wish(b"one"), wish(b"two"), folder(&dir));
        for name in [
            &part_name(&first),
            &part_name(&second),
            ".a.tar.x.part",
            "a.tar",
        ] {
            fs::write(dir.path().join(name), b"x").expect("written");
        }
        remove_strays(&first, &folder);
        assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 3);
        assert!(!dir.path().join(part_name(&second)).exists());
    }
}
