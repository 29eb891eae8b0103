//! A regular file as a [`Source`].

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, OFlags, fadvise};
use rustix::io::{ReadWriteFlags, preadv2};

use crate::source::{Fingerprint, Source};

/// An open regular file together with the name it was opened by.
#[derive(Debug)]
pub struct FileSource {
    file: File,
    path: PathBuf,
    len: u64,
}

impl FileSource {
    /// Opens a regular file for reading; a link, a folder, a pipe or a device is an error.
    pub fn open(path: &Path) -> io::Result<FileSource> {
        // Non-blocking, or opening a named pipe would wait for ever for its other end.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(i32::try_from(flags.bits()).expect("open flags fit an int"))
            .open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a regular file",
            ));
        }
        Ok(FileSource {
            file,
            path: path.to_owned(),
            len: metadata.len(),
        })
    }

    /// The name it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Source for FileSource {
    fn len(&self) -> u64 {
        self.len
    }

    fn fingerprint(&self) -> io::Result<Fingerprint> {
        let open = self.file.metadata()?;
        let named = fs::symlink_metadata(&self.path)?;
        if (named.dev(), named.ino()) != (open.dev(), open.ino()) {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "another file has taken its name",
            ));
        }
        Ok(Fingerprint(format!(
            "file:{}:{}:{}.{:09}:{}.{:09}",
            open.ino(),
            open.len(),
            open.mtime(),
            open.mtime_nsec(),
            open.ctime(),
            open.ctime_nsec()
        )))
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buf.len() {
            match self
                .file
                .read_at(&mut buf[filled..], offset + filled as u64)
            {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn read_ready(&self, offset: u64, buf: &mut [u8]) -> usize {
        // From the page cache or not at all, see preadv2(2). What does not know the flag reads nothing.
        preadv2(
            &self.file,
            &mut [IoSliceMut::new(buf)],
            offset,
            ReadWriteFlags::NOWAIT,
        )
        .unwrap_or(0)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn release(&self, range: Range<u64>) {
        if let Some(len) = std::num::NonZeroU64::new(range.end - range.start) {
            // A hint: where the kernel does not take it, more pages stay cached.
            let _ = fadvise(&self.file, range.start, Some(len), Advice::DontNeed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn the_fingerprint_follows_the_name_and_every_change() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("a");
        fs::write(&path, b"hello").expect("write");
        let source = FileSource::open(&path).expect("open");
        let first = source.fingerprint().expect("fingerprint");
        assert_eq!(first, source.fingerprint().expect("fingerprint"));

        let mut file = OpenOptions::new().append(true).open(&path).expect("append");
        file.write_all(b"!").expect("append");
        assert_ne!(first, source.fingerprint().expect("fingerprint"));

        fs::rename(&path, dir.path().join("b")).expect("rename");
        assert!(source.fingerprint().is_err());
        fs::write(&path, b"hello").expect("write");
        let error = source.fingerprint().expect_err("another file");
        assert!(
            error
                .to_string()
                .contains("another file has taken its name")
        );
    }

    #[test]
    fn only_regular_files() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let target = dir.path().join("a");
        fs::write(&target, b"x").expect("write");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&target, &link).expect("link");
        assert!(FileSource::open(&link).is_err());
        assert!(FileSource::open(dir.path()).is_err());
        assert!(FileSource::open(&target).is_ok());
    }
}
