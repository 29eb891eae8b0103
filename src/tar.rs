//! The structure of a tar archive, read member by member: here at random, without the contents; in
//! [`stream`] once from front to back, with them.
//!
//! GNU and POSIX forms (<https://www.gnu.org/software/tar/manual/html_node/Standard.html>): long names
//! by `L` members or pax headers, sizes beyond 8 GiB in base 256 or pax, old GNU sparse members. Nothing
//! an archive says is trusted: every length is checked against the source's.

mod header;
pub mod stream;

use std::fmt;
use std::io;

use self::header::{BLOCK, Block, Blocks, next_entry, padded};
pub use self::header::{Entry, EntryKind};
use crate::source::{Source, read_exact_at};

/// A member of an archive that can be read at random.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// As it stands in the archive, not to be trusted.
    pub path: Vec<u8>,
    /// Whether it is a regular file.
    pub is_file: bool,
    /// Where its contents begin, in bytes from the start of the archive.
    pub offset: u64,
    /// The length of its contents in bytes.
    pub size: u64,
}

/// Why an archive cannot be read on.
#[derive(Debug)]
pub enum TarError {
    /// It is no whole tar.
    Damaged(String),
    /// The bytes cannot be had.
    Read(io::Error),
}

impl fmt::Display for TarError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TarError::Damaged(what) => f.write_str(what),
            TarError::Read(error) => write!(f, "cannot be read: {error}"),
        }
    }
}

impl From<io::Error> for TarError {
    fn from(error: io::Error) -> TarError {
        TarError::Read(error)
    }
}

/// Walks through the members in order.
pub struct Members<'a> {
    source: &'a dyn Source,
    offset: u64,
}

impl<'a> Members<'a> {
    /// From the start of an archive.
    pub fn new(source: &'a dyn Source) -> Members<'a> {
        Members::at(source, 0)
    }

    /// From where a member begins, with its first header.
    pub fn at(source: &'a dyn Source, offset: u64) -> Members<'a> {
        Members { source, offset }
    }

    /// Where the next member begins.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next member; none after the two zero blocks that end a whole archive.
    pub fn next_member(&mut self) -> Result<Option<Member>, TarError> {
        let start = self.offset;
        let Some(entry) = next_entry(self)? else {
            return Ok(None);
        };
        let offset = self.offset;
        self.offset = padded(entry.size)
            .and_then(|padded| offset.checked_add(padded))
            .filter(|end| *end <= self.source.len())
            .ok_or_else(|| self.damaged(start, "is cut off in the member that begins"))?;
        Ok(Some(Member {
            is_file: entry.kind == EntryKind::File,
            path: entry.path,
            offset,
            size: entry.size,
        }))
    }

    /// Whether anything but zeros follows where the walk stands; GNU tar pads, but writes nothing there.
    pub fn is_followed_by_data(&self) -> Result<bool, TarError> {
        let mut buf = vec![0; 64 * 1024];
        let mut offset = self.offset;
        loop {
            let len = self.source.read_at(offset, &mut buf)?;
            if len == 0 {
                return Ok(false);
            }
            if buf[..len].iter().any(|byte| *byte != 0) {
                return Ok(true);
            }
            offset += len as u64;
        }
    }
}

impl Blocks for Members<'_> {
    fn position(&self) -> u64 {
        self.offset
    }

    fn block(&mut self) -> io::Result<Option<Block>> {
        if self.offset + BLOCK > self.source.len() {
            return Ok(None);
        }
        let mut block = [0; 512];
        read_exact_at(self.source, self.offset, &mut block)?;
        self.offset += BLOCK;
        Ok(Some(block))
    }

    fn damaged(&self, offset: u64, what: &str) -> TarError {
        TarError::Damaged(format!(
            "no whole tar: it {what} at byte {offset} of {}",
            self.source.len()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::file::FileSource;
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::process::Command;

    fn members(path: &Path) -> Result<Vec<Member>, TarError> {
        let source = FileSource::open(path).expect("open");
        let mut walk = Members::new(&source);
        let mut found = Vec::new();
        while let Some(member) = walk.next_member()? {
            found.push(member);
        }
        Ok(found)
    }

    /// A tar by GNU tar with long names, links, an empty file, a larger one, and a sparse one.
    pub(super) fn sample(dir: &Path, form: &str) -> PathBuf {
        let (long, tree) = ("d".repeat(90), dir.join(format!("{form} tree")));
        fs::create_dir_all(tree.join(&long).join(&long)).expect("folders");
        fs::write(tree.join(&long).join(&long).join("deep"), b"deep").expect("write");
        fs::write(tree.join("empty"), b"").expect("write");
        fs::write(tree.join("file"), vec![7; 300_000]).expect("write");
        fs::hard_link(tree.join("file"), tree.join("second")).expect("link");
        std::os::unix::fs::symlink("file", tree.join("symlink")).expect("link");
        fs::File::create(tree.join("zeros"))
            .and_then(|f| f.set_len(1 << 20))
            .expect("sparse");
        let path = dir.join(format!("{form}.tar"));
        let mut tar = Command::new("tar");
        tar.args([
            "--sort=name",
            "--mode=640",
            "--owner=git:998",
            "--group=web:997",
        ])
        .args(["--mtime=@1702758583", "--format", form, "-cf"])
        .arg(&path);
        if form != "ustar" {
            tar.arg("--sparse");
        }
        let status = tar.arg("-C").arg(&tree).arg(".").status();
        assert!(status.expect("tar runs").success());
        path
    }

    #[test]
    fn archives_of_gnu_tar_in_every_form() {
        let dir = tempfile::tempdir().expect("temporary folder");
        for form in ["gnu", "pax", "ustar"] {
            let path = sample(dir.path(), form);
            let found = members(&path).expect(form);
            let deep = format!("./{0}/{0}/deep", "d".repeat(90));
            let by_name = |name: &str| found.iter().find(|m| m.path == name.as_bytes());
            assert_eq!(
                by_name(&deep).map(|m| (m.is_file, m.size)),
                Some((true, 4)),
                "{form}"
            );
            assert_eq!(by_name("./file").map(|m| m.size), Some(300_000), "{form}");
            assert_eq!(
                by_name("./symlink").map(|m| (m.is_file, m.size)),
                Some((false, 0)),
                "{form}"
            );
            assert!(by_name("./empty").is_some(), "{form}");
        }
    }

    #[test]
    fn every_cut_is_noticed() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = sample(dir.path(), "gnu");
        let whole = fs::read(&path).expect("read");
        let end = {
            let source = FileSource::open(&path).expect("open");
            let mut walk = Members::new(&source);
            while walk.next_member().expect("whole").is_some() {}
            usize::try_from(walk.offset).expect("small")
        };
        let cut = dir.path().join("cut");
        for len in (0..end).step_by(100).chain([end - 1]) {
            fs::write(&cut, &whole[..len]).expect("write");
            assert!(
                matches!(members(&cut), Err(TarError::Damaged(_))),
                "cut at {len} of {end}"
            );
        }
        fs::write(&cut, &whole[..end]).expect("write");
        assert!(members(&cut).is_ok());
    }

    #[test]
    fn hostile_numbers_do_no_harm() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("evil");
        for field in [
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            b"77777777777\0",
            b"-0000000001\0",
            b"xxxxxxxxxxx\0",
        ] {
            let mut header = [0_u8; 512];
            header[0] = b'a';
            header[124..136].copy_from_slice(field);
            header[148..156].fill(b' ');
            header[156] = b'0';
            let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
            header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
            fs::write(&path, [&header[..], &[0; 1024]].concat()).expect("write");
            assert!(
                matches!(members(&path), Err(TarError::Damaged(_))),
                "{field:?}"
            );
        }
    }
}
