//! A backup that is a folder, brought back as one.
//!
//! Its tar is unpacked while it is fetched, so that the disk holds it once, into a hidden folder beside its place,
//! `.<backup ID>.<16 hex digits of its content>.part/<backup ID>`, and only when all of it is proved that gets its
//! name. Nothing in a tar is trusted: every member lies in the folder and is a file or a folder, none comes twice, and
//! none is reached by a path, but from open folder to open folder. What is interrupted is begun anew, unless it was
//! whole already.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, mkdirat, openat, renameat_with, unlinkat};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::download::{Present, mismatch};
use super::target::Folder;
use super::unpack::Attributes;
use super::{Halt, Job, Wish};
use crate::archive::ArchiveName;
use crate::content_hash::{ContentHasher, Digest, hash_source};
use crate::destination::Destination;
use crate::destination::fetch::{fetch, pipe};
use crate::error::printable;
use crate::gitlab::cli::INFORMATION;
use crate::local;
use crate::local::remove::{empty, open_folder};
use crate::progress::Progress;
use crate::retry::Patience;
use crate::tar::stream::TarStream;
use crate::tar::{Entry, EntryKind, TarError};

/// Hex digits of the content in the hidden folder's name.
const DIGITS: usize = 16;
/// GitLab's folders are eight deep.
const DEEPEST: usize = 64;
/// Of one name, in bytes: what file systems take.
const LONGEST_NAME: usize = 255;

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

/// Why a tar was not unpacked to its end.
#[derive(Debug)]
enum Ended {
    Fetching(String),
    Refused(String),
    Writing(String),
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
    let (sending, arriving) = pipe();
    let (open, id) = (hidden.open.clone(), id.to_owned());
    let writing = tokio::task::spawn_blocking(move || write(arriving, &open, &id));
    let fetching = fetch(
        destination,
        &wish.stored_path,
        0..wish.size,
        &patience,
        async |part: Vec<u8>| {
            progress.add(part.len() as u64);
            // What ends it early is told by the other side.
            sending.send(part).await;
            Ok(())
        },
    );
    let fetched = tokio::select! {
        fetched = fetching => fetched,
        () = progress.log_now_and_then() => unreachable!("it goes on for ever"),
    };
    sending.end(&fetched).await;
    let written = writing
        .await
        .unwrap_or_else(|error| Err(Ended::Writing(error.to_string())));
    match fetched {
        Err(error) => Err(Ended::Fetching(error.to_string())),
        Ok(()) => written,
    }
}

/// Unpacks a tar whose members all lie in the folder `id` into the folder `root`. Blocks the thread.
fn write(input: impl Read, root: &OwnedFd, id: &str) -> Result<Digest, Ended> {
    let mut input = Hashing {
        input,
        hasher: ContentHasher::default(),
    };
    let damaged = |error: TarError| Ended::Refused(format!("it is damaged: {error}"));
    let mut tar = TarStream::new(&mut input);
    let mut chain = Chain {
        root,
        folders: Vec::new(),
    };
    let mut has_information = false;
    while let Some(entry) = tar.next_entry().map_err(damaged)? {
        let shown = || printable(&String::from_utf8_lossy(&entry.path));
        let parts = admit(&entry, id).map_err(|why| {
            Ended::Refused(format!("it is refused: its member `{}` {why}", shown()))
        })?;
        has_information |= parts.len() == 2 && parts[1] == INFORMATION.as_bytes();
        let mut contents = tar.contents();
        let written = chain.add(&parts, &entry, &mut contents);
        written.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Ended::Refused(format!(
                "it is refused: its member `{}` comes twice",
                shown()
            )),
            io::ErrorKind::NotADirectory => Ended::Refused(format!(
                "it is refused: its member `{}` lies below a file",
                shown()
            )),
            io::ErrorKind::UnexpectedEof => Ended::Refused(format!(
                "it is damaged: it ends in its member `{}`",
                shown()
            )),
            _ => Ended::Writing(format!("writing {}: {error}", shown())),
        })?;
    }
    let end = tar.finish().map_err(damaged)?;
    if end.has_data_behind {
        return Err(Ended::Refused(
            "it is refused: there is data behind its end".to_owned(),
        ));
    }
    if !has_information {
        return Err(Ended::Refused(format!(
            "it is refused: there is no {INFORMATION} in it"
        )));
    }
    let mut finish = || -> io::Result<()> {
        chain.keep(0)?;
        // The whole file system at once: a hundred thousand files one by one take an SD card minutes.
        Ok(rustix::fs::syncfs(root)?)
    };
    finish().map_err(|error| Ended::Writing(format!("writing {id}: {error}")))?;
    Ok(input.hasher.finish())
}

/// The names that lead to a member, the backup's folder first. The error says what is wrong with it.
fn admit<'a>(entry: &'a Entry, id: &str) -> Result<Vec<&'a [u8]>, String> {
    match entry.kind {
        EntryKind::File if entry.is_sparse => return Err("has holes".to_owned()),
        EntryKind::File | EntryKind::Folder => {}
        EntryKind::HardLink => return Err("is a link to another file".to_owned()),
        EntryKind::SymbolicLink => return Err("is a symbolic link".to_owned()),
        EntryKind::Other => return Err("is neither a file nor a folder".to_owned()),
    }
    if entry.path.contains(&0) {
        return Err("has a name with a zero in it".to_owned());
    }
    let parts = entry.path.split(|byte| *byte == b'/');
    let parts: Vec<_> = parts
        .filter(|part| !part.is_empty() && *part != b".")
        .collect();
    if parts.contains(&&b".."[..]) {
        return Err("has `..` in its name".to_owned());
    }
    let is_below = parts.first() == Some(&id.as_bytes()) && !entry.path.starts_with(b"/");
    if !is_below || (parts.len() == 1 && entry.kind != EntryKind::Folder) {
        return Err(format!("does not lie below {id}/"));
    }
    if parts.len() > DEEPEST || parts.iter().any(|part| part.len() > LONGEST_NAME) {
        return Err("has an overlong name".to_owned());
    }
    Ok(parts)
}

/// The folders that lead to the member that was written last.
struct Chain<'a> {
    root: &'a OwnedFd,
    folders: Vec<Link>,
}

struct Link {
    name: Vec<u8>,
    open: OwnedFd,
    /// Set when all that lies in it is written.
    attributes: Option<Attributes>,
}

impl Chain<'_> {
    fn add(&mut self, parts: &[&[u8]], entry: &Entry, contents: &mut dyn Read) -> io::Result<()> {
        let is_folder = entry.kind == EntryKind::Folder;
        let depth = if is_folder {
            parts.len()
        } else {
            parts.len() - 1
        };
        let shared = self.folders.iter().zip(&parts[..depth]);
        let shared = shared
            .take_while(|(link, part)| link.name == **part)
            .count();
        self.keep(shared)?;
        for part in &parts[shared..depth] {
            let above = self.folders.last().map_or(self.root, |link| &link.open);
            match mkdirat(above, *part, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            let open = open_folder(above.as_fd(), *part)?;
            self.folders.push(Link {
                name: part.to_vec(),
                open,
                attributes: None,
            });
        }
        let attributes = Attributes::of(entry);
        if is_folder {
            if let Some(link) = self.folders.last_mut() {
                link.attributes = Some(attributes);
            }
            return Ok(());
        }
        let above = self.folders.last().map_or(self.root, |link| &link.open);
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(above, parts[depth], flags, Mode::RUSR | Mode::WUSR)?;
        let mut file = File::from(file);
        if io::copy(contents, &mut file)? != entry.size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        attributes.set(&file)
    }

    /// Leaves all folders but the first ones, and gives each the owner, mode and time that the archive tells.
    fn keep(&mut self, len: usize) -> io::Result<()> {
        while self.folders.len() > len {
            let Some(Link {
                open, attributes, ..
            }) = self.folders.pop()
            else {
                break;
            };
            if let Some(attributes) = attributes {
                attributes.set(&File::from(open))?;
            }
        }
        Ok(())
    }
}

/// Hashes what is read through it.
struct Hashing<R> {
    input: R,
    hasher: ContentHasher,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.input.read(buf)?;
        self.hasher.update(&buf[..len]);
        Ok(len)
    }
}
