//! A backup that is a folder, brought back as one.
//!
//! Its tar is unpacked while it is fetched, so that the disk holds it once, into a hidden folder beside its place,
//! `.<backup ID>.<16 hex digits of its content>.part/<backup ID>`, and only when all of it is proved that gets its
//! name. Nothing in a tar is trusted: every member lies in the folder and is a file or a folder, none comes twice, and
//! none is reached by a path, but from open folder to open folder. What is interrupted is begun anew, unless it was
//! whole already.

mod write;

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, RenameFlags, mkdirat, renameat_with, unlinkat};
use rustix::io::Errno;
use rustix::process::geteuid;

use self::write::{Ended, write};
use super::download::{Present, mismatch};
use super::target::Folder;
use super::{Halt, Job, Wish};
use crate::archive::ArchiveName;
use crate::content_hash::{Digest, hash_source};
use crate::destination::Destination;
use crate::destination::fetch::pipe;
use crate::destination::unsealed::Unsealed;
use crate::gitlab::cli::INFORMATION;
use crate::local;
use crate::local::remove::{empty, open_folder};
use crate::progress::Progress;
use crate::retry::Patience;

/// Hex digits of the content in the hidden folder's name.
const DIGITS: usize = 16;

/// The name of the folder that an archive is the tar of.
pub(super) fn folder_of(wish: &Wish) -> Option<String> {
    let name = ArchiveName::parse(&wish.name)?;
    name.folder().map(str::to_owned)
}

/// Looks at the place of a folder. One that is there is read to its end.
pub(super) async fn look(wish: &Wish, id: &str, folder: &Folder) -> Result<Present, String> {
    let path = folder.path.join(id);
    let fail = |error: io::Error| format!("looking at {}: {error}", path.display());
    match fs::symlink_metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Present::Nothing),
        metadata => {
            if !metadata.map_err(fail)?.is_dir() {
                return Ok(Present::Other("it is no folder".to_owned()));
            }
        }
    }
    Ok(
        match (
            tar_of(&folder.path, id, wish).await.map_err(fail)?,
            wish.hash,
        ) {
            (Tar::Size(size), _) => {
                Present::Other(format!("its tar has {size} bytes, not {}", wish.size))
            }
            (Tar::Hash(_), None) => {
                let what = "it has the right size, but no content hash is known to compare it with";
                Present::Other(what.to_owned())
            }
            (Tar::Hash(hash), Some(expected)) if hash == expected => Present::Same,
            (Tar::Hash(hash), Some(expected)) => {
                Present::Other(format!("its content hash is {hash}, not {expected}"))
            }
        },
    )
}

/// Whether a folder that was placed is still there. It is not read: on a Raspberry Pi that takes long.
pub(super) fn is_placed(id: &str, folder: &Path) -> bool {
    let path = folder.join(id);
    let is = |path: &Path, test: fn(&fs::Metadata) -> bool| {
        fs::symlink_metadata(path).is_ok_and(|metadata| test(&metadata))
    };
    is(&path, fs::Metadata::is_dir) && is(&path.join(INFORMATION), fs::Metadata::is_file)
}

/// The tar of a folder: its content hash, if it has the size that is wanted.
enum Tar {
    Size(u64),
    Hash(Digest),
}

async fn tar_of(above: &Path, id: &str, wish: &Wish) -> io::Result<Tar> {
    let (path, name, size) = (above.join(id), wish.name.clone(), wish.size);
    let reading = move || {
        let name = ArchiveName::parse(&name).ok_or(io::ErrorKind::InvalidInput)?;
        let source = local::open(&path, &name)?;
        if source.len() != size {
            return Ok(Tar::Size(source.len()));
        }
        let before = source.fingerprint()?;
        let hash = hash_source(&*source)?;
        if source.fingerprint()? != before {
            return Err(io::Error::other("it changed while it was read"));
        }
        Ok(Tar::Hash(hash))
    };
    let read = tokio::task::spawn_blocking(reading).await;
    read.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// A proved folder that has not got its name yet.
pub(super) struct Unpacked {
    folder: Arc<Folder>,
    id: String,
    hidden: Hidden,
    /// Whether an earlier call had fetched all of it.
    pub(super) was_here: bool,
    /// Whether the content hash was known, and is right.
    pub(super) verified: bool,
}

/// The hidden folder.
struct Hidden {
    name: String,
    open: Arc<OwnedFd>,
}

/// Fetches the tar of a folder, unpacks it as it comes, and proves it.
pub(super) async fn unpack(
    job: &Job<'_>,
    destination: &Destination,
    wish: &Wish,
    id: &str,
    folder: &Arc<Folder>,
) -> Result<Unpacked, Halt> {
    let hidden = Hidden::open(wish, id, folder).map_err(|error| {
        Halt::Failed(format!(
            "making a folder in {}: {error}\n  run as root, or name a folder you may write with --to DIR",
            folder.path.display()
        ))
    })?;
    let unpacked = |hidden, was_here| Unpacked {
        folder: folder.clone(),
        id: id.to_owned(),
        hidden,
        was_here,
        verified: wish.hash.is_some(),
    };
    let above = hidden.path(folder);
    if let (Ok(Tar::Hash(hash)), Some(expected)) = (tar_of(&above, id, wish).await, wish.hash)
        && hash == expected
    {
        return Ok(unpacked(hidden, true));
    }
    hidden
        .clear()
        .map_err(|error| hidden.failed(folder, &error))?;
    let written = transfer(job, destination, wish, id, &hidden).await;
    let written = written.map_err(|error| match error {
        Ended::Fetching(error) => format!(
            "{error}\n  a backup that is unpacked as it comes is begun anew; to a bad line fetch its tar with --to DIR, \
             which goes on where it was interrupted"
        ),
        Ended::Refused(why) => format!(
            "{}:{}: {why}; nothing is placed\n  restore another backup (`gitlab-pi-backup list` shows them), or from \
             another destination",
            destination.name(),
            wish.stored_path
        ),
        Ended::Writing(why) => format!(
            "{why}\n  make room there, or fetch the tar to another disk with --to DIR"
        ),
    });
    let hash = match written {
        Ok(hash) => hash,
        Err(error) => {
            hidden.remove(folder);
            return Err(Halt::Failed(error));
        }
    };
    if wish.hash.is_some_and(|expected| expected != hash) {
        hidden.remove(folder);
        return Err(Halt::Failed(mismatch(job, destination, wish, hash).await));
    }
    Ok(unpacked(hidden, false))
}

impl Unpacked {
    /// Gives it its name. Nothing is ever replaced.
    pub(super) fn place(&self) -> Result<(), String> {
        let path = self.folder.path.join(&self.id);
        let above = &self.folder.open;
        let place = || -> io::Result<()> {
            match renameat_with(
                &*self.hidden.open,
                &self.id,
                above,
                &self.id,
                RenameFlags::NOREPLACE,
            ) {
                // A file system that does not know the flag: a folder only ever replaces an empty one.
                Err(Errno::INVAL | Errno::NOSYS) => {
                    renameat_with(
                        &*self.hidden.open,
                        &self.id,
                        above,
                        &self.id,
                        RenameFlags::empty(),
                    )?;
                }
                renamed => renamed?,
            }
            // Empty now; what cannot be removed is found again.
            let _ = unlinkat(above, &self.hidden.name, AtFlags::REMOVEDIR);
            above.sync_all()
        };
        place().map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty => format!(
                "{} has come into being meanwhile; it is not overwritten\n  \
                 move it away, and run the same command again",
                path.display()
            ),
            _ => format!("placing {}: {error}", path.display()),
        })
    }
}

impl Hidden {
    /// Opens it, made if it is missing, and held against other processes. Those of other contents of this backup go.
    fn open(wish: &Wish, id: &str, folder: &Folder) -> io::Result<Hidden> {
        let digits = wish.key.to_string();
        let name = format!(".{id}.{}.part", &digits[..DIGITS]);
        for entry in fs::read_dir(&folder.path).into_iter().flatten().flatten() {
            let found = entry.file_name();
            let stray = found
                .to_str()
                .filter(|found| *found != name && is_hidden(found, id));
            if let Some(stray) = stray
                && let Ok(open) = open_folder(folder.open.as_fd(), stray)
            {
                // It only takes room.
                let _ = empty(&open, None);
                let _ = unlinkat(&folder.open, stray, AtFlags::REMOVEDIR);
            }
        }
        match mkdirat(&folder.open, &name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let open = open_folder(folder.open.as_fd(), name.as_str())?;
        let file = File::from(open.try_clone()?);
        let metadata = file.metadata()?;
        if metadata.uid() != geteuid().as_raw() || metadata.mode() & 0o022 != 0 {
            let what = format!("{name} is there, and others can write in it");
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
        }
        // Held as long as any copy of it is open.
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            let what = format!("another process is fetching {}", wish.name);
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, what));
        }
        Ok(Hidden {
            name,
            open: Arc::new(open),
        })
    }

    fn path(&self, folder: &Folder) -> PathBuf {
        folder.path.join(&self.name)
    }

    fn clear(&self) -> io::Result<()> {
        empty(&self.open, None)
    }

    /// What cannot be removed is found again.
    fn remove(&self, folder: &Folder) {
        let _ = self.clear();
        let _ = unlinkat(&folder.open, &self.name, AtFlags::REMOVEDIR);
    }

    fn failed(&self, folder: &Folder, error: &io::Error) -> Halt {
        Halt::Failed(format!("emptying {}: {error}", self.path(folder).display()))
    }
}

fn is_hidden(name: &str, id: &str) -> bool {
    let rest = name
        .strip_prefix('.')
        .and_then(|rest| rest.strip_prefix(id));
    let digits = rest.and_then(|rest| rest.strip_prefix('.')?.strip_suffix(".part"));
    digits.is_some_and(|digits| {
        digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

/// Brings the whole tar through, and returns its content hash when all is on the disk.
async fn transfer(
    job: &Job<'_>,
    destination: &Destination,
    wish: &Wish,
    id: &str,
    hidden: &Hidden,
) -> Result<Digest, Ended> {
    let progress = Progress::new(job.show, wish.name.clone(), wish.size);
    let patience = Patience::new(job.retry_for);
    let stored = Unsealed::open(
        destination,
        &wish.stored_path,
        wish.stored_size,
        job.identities,
        &patience,
    );
    let stored = stored
        .await
        .map_err(|error| Ended::Fetching(error.to_string()))?;
    let (sending, arriving) = pipe();
    let (open, id) = (hidden.open.clone(), id.to_owned());
    let mut writing = tokio::task::spawn_blocking(move || write(arriving, &open, &id));
    let fetching = async {
        let taking = async |part: Vec<u8>| {
            progress.add(part.len() as u64);
            // What ends it early is told by the other side.
            sending.send(part).await;
            Ok(())
        };
        let fetched = stored.fetch(0..wish.size, &patience, taking).await;
        sending.end(&fetched).await;
        fetched
    };
    let written = tokio::select! {
        fetched = fetching => {
            let written = (&mut writing).await;
            fetched.map_err(|error| Ended::Fetching(error.to_string()))?;
            written
        }
        // It reads to the end of the tar, so it ends earlier only if it failed: the rest need not be fetched.
        written = &mut writing => written,
        () = progress.log_now_and_then() => unreachable!("it goes on for ever"),
    };
    written.unwrap_or_else(|error| Err(Ended::Writing(error.to_string())))
}
