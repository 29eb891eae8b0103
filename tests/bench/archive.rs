//! The files that are sent: whole data archives of GitLab's, of any size.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use gitlab_pi_backup::content_hash::{BLOCK_LEN, Digest, combine, hash_blocks};
use gitlab_pi_backup::source::file::FileSource;
use rustix::fs::{Advice, fadvise};
use tempfile::TempDir;

use crate::host::fill_tar;

pub use crate::host::Ballast;

/// Its name must be one of GitLab's for our program to take it.
pub const NAME: &str = "1702758583_2023_12_16_16.5.1_gitlab_backup.tar";

/// A data archive, alone in a folder.
pub struct Archive {
    folder: TempDir,
    /// In bytes.
    pub size: u64,
    /// Its content hash.
    pub hash: Digest,
}

impl Archive {
    /// Writes one of exactly `size` bytes, a multiple of 512 and at least 8 KiB.
    pub fn create(size: u64, ballast: Ballast) -> Archive {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join(NAME);
        write(&path, size, ballast).expect("an archive");
        let hash = hash(&path, size, ballast).expect("an archive that can be read");
        Archive { folder, size, hash }
    }

    /// One that is there already.
    pub fn ready(folder: TempDir, size: u64, hash: Digest) -> Archive {
        Archive { folder, size, hash }
    }

    /// The folder it lies in.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The archive itself.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join(NAME)
    }

    /// Brings all of it into the page cache: every client gets it from there.
    pub fn warm(&self) {
        let mut file = File::open(self.path()).expect("an archive");
        io::copy(&mut file, &mut io::sink()).expect("an archive that can be read");
    }

    /// Throws all of it out of the page cache.
    pub fn cool(&self) {
        let file = File::open(self.path()).expect("an archive");
        // Only what is on the disk can be thrown out.
        file.sync_all().expect("an archive that can be written");
        fadvise(&file, 0, None, Advice::DontNeed).expect("the page cache");
    }

    /// Bytes of it in the page cache, by util-linux; none where that is missing.
    pub fn cached(&self) -> Option<u64> {
        let output = Command::new("fincore")
            .args(["--bytes", "--noheadings", "--output", "RES"])
            .arg(self.path())
            .output()
            .ok()?;
        String::from_utf8(output.stdout).ok()?.trim().parse().ok()
    }
}

fn write(path: &Path, size: u64, ballast: Ballast) -> io::Result<()> {
    // What makes an archive one of GitLab's, as in all tests.
    let members: [(&str, &[u8]); 2] = [
        ("backup_information.yml", b":skipped: ''\n"),
        (
            "db/database.sql.gz",
            b"--\n-- PostgreSQL database dump\n--\n",
        ),
    ];
    fill_tar(path, size, &members, ballast)
}

/// The content hash; of a hole only the block at each end and one of those between are read.
fn hash(path: &Path, size: u64, ballast: Ballast) -> io::Result<Digest> {
    let source = FileSource::open(path)?;
    let blocks = size.div_ceil(BLOCK_LEN);
    if ballast == Ballast::Noise || blocks < 4 {
        return Ok(combine(&hash_blocks(&source, 0..size)?));
    }
    let first = hash_blocks(&source, 0..2 * BLOCK_LEN)?;
    let last = hash_blocks(&source, (blocks - 1) * BLOCK_LEN..size)?;
    let between = std::iter::repeat_n(&first[1], usize::try_from(blocks - 2).expect("fits memory"));
    Ok(combine(first[..1].iter().chain(between).chain(last.iter())))
}
