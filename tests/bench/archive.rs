//! The files that are sent: whole data archives of GitLab's, of any size.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use gitlab_pi_backup::content_hash::{BLOCK_LEN, Digest, combine, hash_blocks};
use gitlab_pi_backup::source::file::FileSource;
use rustix::fs::{Advice, fadvise};
use tempfile::TempDir;

use crate::host::write_tar;

/// Its name must be one of GitLab's for our program to take it.
pub const NAME: &str = "1702758583_2023_12_16_16.5.1_gitlab_backup.tar";

const TAR_BLOCK: u64 = 512;
/// A tar ends with two blocks of zeros.
const TAR_END: u64 = 2 * TAR_BLOCK;

/// What the ballast of an archive is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ballast {
    /// Bytes that do not repeat.
    Noise,
    /// A hole: takes no room on the disk.
    Hole,
}

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
    // What makes an archive one of GitLab's, as in all tests; the ballast takes the place of its end.
    write_tar(
        path,
        0,
        &[
            ("backup_information.yml", b":skipped: ''\n"),
            (
                "db/database.sql.gz",
                b"--\n-- PostgreSQL database dump\n--\n",
            ),
        ],
    );
    let mut file = OpenOptions::new().write(true).open(path)?;
    let start = file.seek(SeekFrom::End(0))? - TAR_END;
    file.set_len(start)?;
    file.seek(SeekFrom::Start(start))?;
    let len = size - start - TAR_BLOCK - TAR_END;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    out.write_all(&header(len))?;
    if ballast == Ballast::Noise {
        let mut state = size | 1;
        for _ in 0..len / 8 {
            // xorshift: quick, and no two blocks are alike.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            out.write_all(&state.to_le_bytes())?;
        }
    }
    out.into_inner()?.set_len(size)
}

/// The header of a member of `len` bytes.
fn header(len: u64) -> [u8; 512] {
    let mut header = [0; 512];
    header[..14].copy_from_slice(b"uploads.tar.gz");
    header[100..108].copy_from_slice(b"0000600\0");
    header[124..136].copy_from_slice(format!("{len:011o}\0").as_bytes());
    header[148..156].fill(b' ');
    header[156] = b'0';
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
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
