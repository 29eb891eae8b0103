//! One archive from a destination into a folder, so that only what is proved ever has its name there.
//!
//! It is written in order into a hidden file, `.<name>.<16 hex digits of its content>.part`; the length of that file
//! is all there is to know about how far an interrupted download got, and the digits keep the part of
//! another content from being continued. The whole file is then hashed from the disk; a name is never
//! taken from another file.

use std::cmp::Ordering;
use std::fs::{self, File};
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{
    Advice, AtFlags, Mode, OFlags, RenameFlags, fadvise, linkat, openat, renameat_with, unlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::target::{Folder, Owner};
use super::{Halt, Job, Wish};
use crate::content_hash::{Digest, hash_source};
use crate::destination::Destination;
use crate::destination::fetch::{PART_LEN, fetch};
use crate::error::{Error, ErrorKind};
use crate::progress::Progress;
use crate::retry::Patience;
use crate::source::Source as _;
use crate::source::file::FileSource;
use crate::units::MIB;

/// So much is written between two syncs: after a power cut no more than this is fetched again, and an
/// SD card is not asked too often.
const SYNC_EVERY: u64 = 64 * MIB;
/// Hex digits of the content in a part file's name.
const DIGITS: usize = 16;

/// A part file, open.
pub(super) struct Part {
    folder: Arc<Folder>,
    name: String,
    file: Arc<File>,
}

/// What came of a download.
pub(super) struct Fetched {
    pub(super) part: Part,
    /// Bytes an earlier call had fetched.
    pub(super) resumed: u64,
    /// Whether the content hash was known, and is right.
    pub(super) verified: bool,
}

/// What is at an archive's place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Present {
    /// Nothing.
    Nothing,
    /// The archive.
    Same,
    /// Something else; in words.
    Other(String),
}

/// Looks at the place of an archive. Reads a file of the right size to its end.
pub(super) async fn look(wish: &Wish, folder: &Folder) -> Result<Present, String> {
    let path = folder.path.join(&wish.name);
    let fail = |error: io::Error| format!("looking at {}: {error}", path.display());
    let metadata = match fs::symlink_metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Present::Nothing),
        metadata => metadata.map_err(fail)?,
    };
    if !metadata.is_file() {
        return Ok(Present::Other("it is no regular file".to_owned()));
    }
    if metadata.len() != wish.size {
        let what = format!("it has {} bytes, not {}", metadata.len(), wish.size);
        return Ok(Present::Other(what));
    }
    let Some(expected) = wish.hash else {
        let what = "it has the right size, but no content hash is known to compare it with";
        return Ok(Present::Other(what.to_owned()));
    };
    let source = FileSource::open(&path).map_err(fail)?;
    let hash = hash_in_pool(source).await.map_err(fail)?;
    Ok(if hash == expected {
        Present::Same
    } else {
        Present::Other(format!("its content hash is {hash}, not {expected}"))
    })
}

async fn hash_in_pool(source: FileSource) -> io::Result<Digest> {
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
fn usable(len: u64, size: u64) -> u64 {
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

/// Fetches an archive into its part file and proves it. `folder` is where it will be placed.
pub(super) async fn download(
    job: &Job<'_>,
    destination: &Destination,
    wish: &Wish,
    folder: &Arc<Folder>,
) -> Result<Fetched, Halt> {
    remove_strays(wish, folder);
    let part = Part::open(wish, folder).map_err(|error| {
        Halt::Failed(format!(
            "making a file in {}: {error}\n  run as root, or name a folder you may write with --to DIR",
            folder.path.display()
        ))
    })?;
    let mut resumed = part
        .file
        .metadata()
        .map_or(0, |metadata| usable(metadata.len(), wish.size));
    loop {
        transfer(job, destination, wish, &part, resumed).await?;
        let Some(hash) = part
            .hash()
            .await
            .map_err(|error| part.failed("reading", &error))?
        else {
            let path = folder.path.join(&part.name);
            return Err(Halt::Failed(format!(
                "{} has been replaced",
                path.display()
            )));
        };
        if wish.hash.is_none_or(|expected| expected == hash) {
            let verified = wish.hash.is_some();
            return Ok(Fetched {
                part,
                resumed,
                verified,
            });
        }
        let place = format!("{}:{}", destination.name(), wish.stored_path);
        if resumed > 0 {
            tracing::warn!(
                "{place}: what an earlier call had fetched is damaged; it is fetched anew"
            );
            resumed = 0;
            continue;
        }
        part.remove();
        return Err(Halt::Failed(mismatch(job, destination, wish, hash).await));
    }
}

/// Copies an archive from elsewhere on this machine into `folder`, proves and places it. What could not be
/// done of its owner is a warning.
pub(super) async fn copy(
    wish: &Wish,
    from: &Path,
    folder: &Arc<Folder>,
    owner: &Owner,
) -> Result<Option<String>, Halt> {
    let fail = |error: io::Error| {
        Halt::Failed(format!(
            "copying {} to {}: {error}",
            from.display(),
            folder.path.display()
        ))
    };
    let part = Part::open(wish, folder).map_err(fail)?;
    let (file, from) = (part.file.clone(), from.to_owned());
    let copying = move || {
        file.set_len(0)?;
        io::copy(&mut File::open(from)?, &mut &*file)?;
        file.sync_data()
    };
    let copied = tokio::task::spawn_blocking(copying).await;
    copied
        .unwrap_or_else(|error| Err(io::Error::other(error)))
        .map_err(fail)?;
    let hash = part.hash().await.map_err(fail)?;
    if hash.is_none() || wish.hash.is_some_and(|expected| hash != Some(expected)) {
        part.remove();
        return Err(fail(io::Error::other("it changed meanwhile")));
    }
    Ok(part.place(wish, owner)?)
}

/// What to say of bytes that are not the expected ones.
async fn mismatch(job: &Job<'_>, destination: &Destination, wish: &Wish, hash: Digest) -> String {
    let place = format!("{}:{}", destination.name(), wish.stored_path);
    let patience = Patience::new(job.retry_for);
    let now = destination.stat(&wish.stored_path, &patience).await;
    let rev = now
        .ok()
        .flatten()
        .and_then(|entry| entry.file)
        .map(|file| file.rev);
    if rev.is_some_and(|rev| rev != wish.rev) {
        return format!(
            "{place}: it was replaced while it was fetched; nothing is placed\n  run the same command again"
        );
    }
    let expected = wish.hash.map_or_else(String::new, |hash| hash.to_string());
    format!(
        "{place}: the stored archive is damaged: its content hash is {hash}, not {expected}; nothing is placed\n  \
         restore another backup (`gitlab-pi-backup list` shows them), or from another destination"
    )
}

/// Brings the bytes from `from` on into the part file, and all of it onto the disk.
async fn transfer(
    job: &Job<'_>,
    destination: &Destination,
    wish: &Wish,
    part: &Part,
    from: u64,
) -> Result<(), Halt> {
    part.file
        .set_len(from)
        .map_err(|error| part.failed("cutting", &error))?;
    let progress = Progress::new(job.show, wish.name.clone(), wish.size);
    progress.resumed(from);
    let patience = Patience::new(job.retry_for);
    let (mut offset, mut synced) = (from, from);
    let fetching = fetch(
        destination,
        &wish.stored_path,
        from..wish.size,
        &patience,
        async |bytes: Vec<u8>| {
            let len = bytes.len() as u64;
            let sync = (offset + len - synced >= SYNC_EVERY).then_some(synced..offset + len);
            let file = part.file.clone();
            let (start, done) = (offset, sync.as_ref().map_or(synced, |range| range.end));
            let writing = move || {
                file.write_all_at(&bytes, start)?;
                if let Some(range) = sync {
                    file.sync_data()?;
                    release(&file, range.start, range.end - range.start);
                }
                Ok(())
            };
            let written = tokio::task::spawn_blocking(writing).await;
            written
                .unwrap_or_else(|error| Err(io::Error::other(error)))
                .map_err(|error| part.write_error(&error))?;
            (offset, synced) = (offset + len, done);
            progress.add(len);
            Ok(())
        },
    );
    let fetched = tokio::select! {
        fetched = fetching => fetched,
        () = progress.log_now_and_then() => Ok(()),
    };
    fetched.map_err(|error| {
        Halt::Failed(format!(
            "{error}\n  what was fetched is kept: the same command goes on from there"
        ))
    })?;
    let file = part.file.clone();
    let syncing = move || {
        file.sync_data()?;
        release(&file, synced, u64::MAX - synced);
        Ok(())
    };
    tokio::task::spawn_blocking(syncing)
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
        .map_err(|error| part.failed("writing", &error))
}

fn release(file: &File, start: u64, len: u64) {
    // A hint: where the kernel does not take it, more pages stay cached.
    let _ = fadvise(file, start, NonZeroU64::new(len), Advice::DontNeed);
}

/// Removes the parts of other contents under this name: nobody will ever continue them.
fn remove_strays(wish: &Wish, folder: &Folder) {
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
    fn open(wish: &Wish, folder: &Arc<Folder>) -> io::Result<Part> {
        let name = part_name(wish);
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = match openat(&folder.open, &name, flags, mode).map(File::from) {
            Ok(file) if is_ours(&file)? => file,
            // A link, or somebody else's: what we write and prove must be nobody's but ours.
            Ok(_) | Err(Errno::LOOP | Errno::NXIO) => {
                unlinkat(&folder.open, &name, AtFlags::empty())?;
                create(folder, &name)?
            }
            Err(Errno::NOENT) => create(folder, &name)?,
            Err(error) => return Err(error.into()),
        };
        if file.try_lock().is_err() {
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
    async fn hash(&self) -> io::Result<Option<Digest>> {
        let source = FileSource::open(&self.folder.path.join(&self.name))?;
        let (named, open) = (source.fingerprint()?, self.file.metadata()?);
        let ours = fs::symlink_metadata(source.path())?;
        if (ours.dev(), ours.ino()) != (open.dev(), open.ino()) {
            return Ok(None);
        }
        tracing::debug!("proving {named}");
        hash_in_pool(source).await.map(Some)
    }

    /// Gives it its mode, its owner and its name. What could not be done of it is a warning.
    pub(super) fn place(&self, wish: &Wish, owner: &Owner) -> Result<Option<String>, String> {
        let path = self.folder.path.join(&wish.name);
        let fail = |error: io::Error| match error.kind() {
            io::ErrorKind::AlreadyExists => format!(
                "{} has come into being meanwhile; it is not overwritten\n  \
                 move it away, and run the same command again",
                path.display()
            ),
            _ => format!("placing {}: {error}", path.display()),
        };
        rustix::fs::fchmod(&*self.file, Mode::RUSR | Mode::WUSR)
            .map_err(|error| fail(error.into()))?;
        let warning = owner.give(&self.file, &path);
        self.file.sync_all().map_err(fail)?;
        self.rename(&wish.name).map_err(fail)?;
        self.folder.open.sync_all().map_err(fail)?;
        Ok(warning)
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

    fn remove(&self) {
        // It is damaged; what cannot be removed is found so again.
        let _ = unlinkat(&self.folder.open, &self.name, AtFlags::empty());
    }

    fn failed(&self, doing: &str, error: &io::Error) -> Halt {
        Halt::Failed(format!(
            "{doing} {}: {error}",
            self.folder.path.join(&self.name).display()
        ))
    }

    fn write_error(&self, error: &io::Error) -> Error {
        let full = matches!(
            error.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
        );
        let kind = if full {
            ErrorKind::NoSpace
        } else {
            ErrorKind::Invalid
        };
        let action = format!("writing {}", self.folder.path.join(&self.name).display());
        let failed = Error::new(kind, action, error.to_string());
        if full {
            failed.hint("make room there, or fetch it to another disk with --to DIR")
        } else {
            failed
        }
    }
}

fn create(folder: &Folder, name: &str) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(&folder.open, name, flags, Mode::RUSR | Mode::WUSR)?.into())
}

/// A regular file of this user's that has no second name.
fn is_ours(file: &File) -> io::Result<bool> {
    let metadata = file.metadata()?;
    Ok(metadata.is_file() && metadata.nlink() == 1 && metadata.uid() == geteuid().as_raw())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::ArchiveKind;
    use std::os::unix::fs::symlink;

    fn wish(content: &[u8]) -> Wish {
        let hash = crate::catalog::hash_of(content);
        Wish {
            kind: ArchiveKind::Data,
            name: "a.tar".to_owned(),
            stored_path: "/Data/a.tar".to_owned(),
            size: content.len() as u64,
            hash: Some(hash),
            key: hash,
            rev: String::new(),
        }
    }

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
        assert_eq!(part.place(&wish, &Owner::Caller), Ok(None));
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

    #[tokio::test]
    async fn what_is_there_is_compared_by_its_bytes() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let (mut wish, folder) = (wish(b"hello"), folder(&dir));
        let path = dir.path().join("a.tar");
        let look = async |wish: &Wish| look(wish, &folder).await.expect("looked at");
        assert_eq!(look(&wish).await, Present::Nothing);
        fs::write(&path, b"hello").expect("written");
        assert_eq!(look(&wish).await, Present::Same);
        for other in [&b"hell"[..], b"hullo"] {
            fs::write(&path, other).expect("written");
            assert!(matches!(look(&wish).await, Present::Other(_)));
        }
        fs::write(&path, b"hello").expect("written");
        wish.hash = None;
        assert!(matches!(look(&wish).await, Present::Other(_)));
        fs::remove_file(&path).expect("removed");
        symlink("nowhere", &path).expect("a link");
        assert!(matches!(look(&wish).await, Present::Other(_)));
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
