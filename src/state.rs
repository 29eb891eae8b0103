//! What this program keeps on disk: a folder only root reads, the lock of a run, files that survive a
//! power cut.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use crate::units::Span;

/// The folder of lock, journals and history.
#[derive(Clone, Debug)]
pub struct StateDir {
    path: PathBuf,
}

/// Held for the length of a run; released by the kernel when the process ends, however it ends.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
}

/// Why the lock was not got.
#[derive(Debug)]
pub enum LockError {
    /// Another process holds it; which one, if it says.
    Held(String),
    /// The folder or the lock file cannot be used.
    Unusable(io::Error),
}

impl StateDir {
    /// Names the folder; nothing is made yet.
    pub fn new(path: &Path) -> StateDir {
        StateDir {
            path: path.to_owned(),
        }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it if it is missing.
    pub fn make(&self) -> io::Result<()> {
        make_private_folder(&self.path)
    }

    /// A folder inside it, made if missing, for its owner alone.
    pub fn folder(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.path.join(name);
        make_private_folder(&path)?;
        Ok(path)
    }

    /// Takes the lock of a run, waiting for it as long as `wait` says. Makes the folder if missing.
    pub async fn lock(&self, wait: Duration) -> Result<RunLock, LockError> {
        make_private_folder(&self.path).map_err(LockError::Unusable)?;
        let path = self.path.join("lock");
        let mut file = private_file(OpenOptions::new().read(true).write(true).create(true))
            .open(&path)
            .map_err(LockError::Unusable)?;
        let start = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(error)) => return Err(LockError::Unusable(error)),
                Err(TryLockError::WouldBlock) if start.elapsed() >= wait => {
                    let mut holder = String::new();
                    // Only for the message.
                    let _ = (&file).take(20).read_to_string(&mut holder);
                    let holder = holder.trim();
                    let holder = if holder.is_empty() {
                        String::new()
                    } else {
                        format!(" (process {holder})")
                    };
                    let waited = if wait.is_zero() {
                        String::new()
                    } else {
                        format!(", waited {}", Span(wait))
                    };
                    return Err(LockError::Held(format!(
                        "another run holds the lock {}{holder}{waited}",
                        path.display()
                    )));
                }
                Err(TryLockError::WouldBlock) => {
                    let left = wait.saturating_sub(start.elapsed());
                    tokio::time::sleep(Duration::from_millis(100).min(left)).await;
                }
            }
        }
        // The number is a courtesy to whoever finds the lock held; a full disk must not stop the run.
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(std::process::id().to_string().as_bytes()));
        Ok(RunLock { _file: file })
    }
}

/// Who holds the lock of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockHolder {
    /// The process, by its number.
    pub process: u32,
    /// When it took the lock.
    pub since: SystemTime,
}

impl StateDir {
    /// Who holds the lock of a run. It is asked without taking it: a run that starts just now must not fail
    /// because somebody looked.
    pub fn lock_holder(&self) -> io::Result<Option<LockHolder>> {
        let metadata = match fs::symlink_metadata(self.path.join("lock")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            metadata => metadata?,
        };
        if !metadata.is_file() {
            return Err(io::Error::other("it is no file"));
        }
        let locks = fs::read_to_string("/proc/locks")?;
        let process = locks.lines().find_map(|line| holder(line, metadata.ino()));
        // Whoever takes the lock writes its number into it.
        let since = metadata.modified()?;
        Ok(process.map(|process| LockHolder { process, since }))
    }
}

/// Whose lock on the file with this inode a line of `/proc/locks` tells of, see `proc_locks(5)`:
/// `1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF`. (The device is not compared: btrfs has two names for it.)
fn holder(line: &str, inode: u64) -> Option<u32> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let (kind, _, mode) = (words.next()?, words.next()?, words.next()?);
    let process = words.next()?.parse().ok()?;
    let held = words.next()?.rsplit(':').next()?.parse() == Ok(inode);
    (kind == "FLOCK" && mode == "WRITE" && held).then_some(process)
}

/// Makes a folder and those above it, 0700.
fn make_private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Options that make a file 0600, never following a link.
pub fn private_file(options: &mut OpenOptions) -> &mut OpenOptions {
    let no_follow = rustix::fs::OFlags::NOFOLLOW.bits();
    options
        .mode(0o600)
        .custom_flags(i32::try_from(no_follow).expect("open flags fit an int"))
}

/// Makes the entries of a folder durable: a new file is only safe once its name is.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Appends a line and brings it to the disk. A torn last line, left by a power cut, is closed first.
pub fn append_line(path: &Path, line: &str) -> io::Result<()> {
    let mut file =
        private_file(OpenOptions::new().read(true).append(true).create(true)).open(path)?;
    let len = file.seek(io::SeekFrom::End(0))?;
    let mut text = String::new();
    if len > 0 {
        let mut last = [0; 1];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut last, len - 1)?;
        if last != *b"\n" {
            text.push('\n');
        }
    }
    text.push_str(line);
    text.push('\n');
    file.write_all(text.as_bytes())?;
    file.sync_data()
}

/// Replaces a file whole: after a power cut it holds either the old or the new bytes.
pub fn replace(path: &Path, bytes: impl AsRef<[u8]>) -> io::Result<()> {
    let new = path.with_extension("new");
    let renamed = write_durably(&new, bytes.as_ref()).and_then(|()| fs::rename(&new, path));
    if renamed.is_err() {
        // Half a file that nobody reads.
        let _ = fs::remove_file(&new);
    }
    renamed?;
    path.parent().map_or(Ok(()), sync_folder)
}

/// Makes a file whole, for its owner alone; one that is there is never touched, but an error. After a power
/// cut it is there with all its bytes, or not at all.
pub fn create(path: &Path, bytes: impl AsRef<[u8]>) -> io::Result<()> {
    let new = path.with_extension("new");
    // A link, unlike a rename, takes no name that is taken.
    let linked = write_durably(&new, bytes.as_ref()).and_then(|()| fs::hard_link(&new, path));
    // It has done its work, or is half a file that nobody reads.
    let _ = fs::remove_file(&new);
    linked?;
    path.parent().map_or(Ok(()), sync_folder)
}

fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = newly_made(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Replaces a file whole that others are to read (0644); its folder must be there. Until it is whole it has a name
/// that ends in `.new`, so that nobody takes a part for it.
pub fn publish(path: &Path, bytes: impl AsRef<[u8]>) -> io::Result<()> {
    let (new, mut file) = unfinished(path)?;
    let written = file
        .write_all(bytes.as_ref())
        .and_then(|()| file.set_permissions(Permissions::from_mode(0o644)))
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&new, path));
    if let Err(error) = written {
        // The error that is told is the first one.
        let _ = fs::remove_file(&new);
        return Err(error);
    }
    path.parent().map_or(Ok(()), sync_folder)
}

/// Whether a file could be published there, without changing it.
pub fn can_publish(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    can_make_files(path.parent().unwrap_or(Path::new("/")))
}

/// Whether files can be made in a folder, by trying. Where the file system can, the file has no name, so that
/// nothing is changed, and nothing left however this ends.
pub fn can_make_files(folder: &Path) -> io::Result<()> {
    let (mode, flags) = (Mode::RUSR | Mode::WUSR, OFlags::RDWR | OFlags::CLOEXEC);
    match openat(CWD, folder, flags | OFlags::TMPFILE, mode) {
        Ok(_) => Ok(()),
        // It knows no files without names.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
            let name = folder.join(format!(".gitlab-pi-backup-trial-{}", std::process::id()));
            let new = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
            openat(CWD, &name, flags | new, mode)?;
            fs::remove_file(name)
        }
        Err(error) => Err(error.into()),
    }
}

/// The file that will become another, new and of nobody else's making: the folder may be open to others.
fn unfinished(path: &Path) -> io::Result<(PathBuf, File)> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let file = newly_made(&new)?;
    Ok((new, file))
}

/// A file that was not there before: one that an earlier attempt, or somebody else, left has their mode and owner.
fn newly_made(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    private_file(OpenOptions::new().write(true).create_new(true)).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_the_way_does_not_open_a_secret_to_others() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("dropbox.token");
        for write in [replace, create] {
            let left = dir.path().join("dropbox.new");
            fs::write(&left, "left").expect("a file");
            fs::set_permissions(&left, Permissions::from_mode(0o666)).expect("a mode");
            let _ = fs::remove_file(&path);
            write(&path, "secret").expect("a file");
            let metadata = fs::metadata(&path).expect("metadata");
            assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
            assert!(!left.exists());
        }
    }

    #[tokio::test]
    async fn the_lock_excludes_a_second_run_until_it_is_dropped() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let state = StateDir::new(&dir.path().join("a/b"));
        let lock = state.lock(Duration::ZERO).await.expect("first");
        let Err(LockError::Held(message)) = state.lock(Duration::from_millis(150)).await else {
            panic!("held")
        };
        assert!(
            message.contains(&std::process::id().to_string()),
            "{message}"
        );
        drop(lock);
        assert_eq!(state.lock_holder().expect("asked"), None);
        let lock = state.lock(Duration::ZERO).await.expect("free again");
        let holder = state.lock_holder().expect("asked").expect("held");
        assert_eq!(holder.process, std::process::id());
        drop(lock);
        let mode = fs::metadata(state.path())
            .expect("metadata")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn a_line_of_locks_tells_whose_it_is() {
        for (line, process) in [
            (
                "1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF",
                Some(1234),
            ),
            ("1: FLOCK  ADVISORY  WRITE 1234 00:2a:567 0 EOF", None),
            ("1: FLOCK  ADVISORY  READ 1234 08:01:5678 0 EOF", None),
            ("1: POSIX  ADVISORY  WRITE 1234 08:01:5678 0 EOF", None),
            // Somebody who waits for it.
            ("1: -> FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF", None),
            ("", None),
        ] {
            assert_eq!(holder(line, 5678), process, "{line}");
        }
    }

    #[test]
    fn a_torn_line_does_not_swallow_the_next_one() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("history");
        fs::write(&path, "one\n{\"tor").expect("write");
        append_line(&path, "two").expect("append");
        assert_eq!(
            fs::read_to_string(&path).expect("read"),
            "one\n{\"tor\ntwo\n"
        );
        replace(&path, "three\n").expect("replace");
        assert_eq!(fs::read_to_string(&path).expect("read"), "three\n");
        let taken = create(&path, "four\n").expect_err("it is there");
        assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).expect("read"), "three\n");
        fs::remove_file(&path).expect("removed");
        create(&path, "four\n").expect("created");
        assert_eq!(fs::read_to_string(&path).expect("read"), "four\n");
        assert!(!path.with_extension("new").exists(), "left behind");
        assert_eq!(
            fs::metadata(&path).expect("metadata").permissions().mode() & 0o777,
            0o600
        );
    }

    #[test]
    fn what_is_published_is_whole_and_for_all() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let (path, secret) = (dir.path().join("a.prom"), dir.path().join("secret"));
        fs::write(&secret, "s").expect("write");
        // Somebody waits for the new file with a link.
        std::os::unix::fs::symlink(&secret, dir.path().join("a.prom.new")).expect("a link");
        can_publish(&path).expect("possible");
        assert!(!path.exists());
        publish(&path, "one").expect("published");
        publish(&path, "two").expect("again");
        assert_eq!(fs::read_to_string(&path).expect("read"), "two");
        assert_eq!(fs::read_to_string(&secret).expect("read"), "s");
        let mode = fs::metadata(&path).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
        assert_eq!(fs::read_dir(dir.path()).expect("folder").count(), 2);
        for place in [dir.path().to_owned(), dir.path().join("missing/a.prom")] {
            can_publish(&place).expect_err("impossible");
            publish(&place, "x").expect_err("impossible");
        }
        assert_eq!(fs::read_dir(dir.path()).expect("folder").count(), 2);
    }
}
