//! The structure of a tar archive, read member by member without its contents.
//!
//! GNU and POSIX forms (<https://www.gnu.org/software/tar/manual/html_node/Standard.html>): long names
//! by `L` members or pax headers, sizes beyond 8 GiB in base 256 or pax, old GNU sparse members. Nothing
//! an archive says is trusted: every length is checked against the source's.

use std::fmt;
use std::io;

use crate::source::{Source, read_exact_at};

/// Everything in a tar is a multiple of this, in bytes.
const BLOCK: u64 = 512;
/// A longer name or pax header is refused, in bytes.
const LONGEST_HEADER: u64 = 1024 * 1024;

/// A member of an archive.
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

/// What headers before a member say about it.
#[derive(Default)]
struct Announced {
    path: Option<Vec<u8>>,
    size: Option<u64>,
}

impl<'a> Members<'a> {
    /// From the start of an archive.
    pub fn new(source: &'a dyn Source) -> Members<'a> {
        Members { source, offset: 0 }
    }

    /// The next member; none after the two zero blocks that end a whole archive.
    pub fn next_member(&mut self) -> Result<Option<Member>, TarError> {
        let mut announced = Announced::default();
        loop {
            let start = self.offset;
            let header = self.block()?;
            if header.iter().all(|byte| *byte == 0) {
                return if self.block()?.iter().all(|byte| *byte == 0) {
                    Ok(None)
                } else {
                    Err(self.damaged(start, "has a lone zero block"))
                };
            }
            if !checksum_is_right(&header) {
                return Err(self.damaged(start, "has a damaged header"));
            }
            let stated = number(&header[124..136])
                .ok_or_else(|| self.damaged(start, "has a damaged size"))?;
            let kind = header[156];
            if kind == b'S' {
                self.skip_sparse_map(&header)?;
            }
            let is_header = matches!(kind, b'L' | b'K' | b'x' | b'g');
            let size = if is_header {
                stated
            } else {
                announced.size.unwrap_or(stated)
            };
            // Links, devices and folders have no contents, whatever size is stated.
            let size = if matches!(kind, b'1'..=b'6') { 0 } else { size };
            let offset = self.offset;
            self.offset = size
                .checked_next_multiple_of(BLOCK)
                .and_then(|padded| offset.checked_add(padded))
                .filter(|end| *end <= self.source.len())
                .ok_or_else(|| self.damaged(start, "is cut off in the member that begins"))?;
            if !is_header {
                let path = announced.path.unwrap_or_else(|| short_path(&header));
                let is_file = matches!(kind, b'0' | 0 | b'7' | b'S');
                return Ok(Some(Member {
                    path,
                    is_file,
                    offset,
                    size,
                }));
            }
            if size > LONGEST_HEADER {
                return Err(self.damaged(start, "has an overlong header"));
            }
            let mut text = vec![0; usize::try_from(size).expect("a header fits memory")];
            read_exact_at(self.source, offset, &mut text)?;
            match kind {
                b'L' => announced.path = Some(until_zero(&text).to_vec()),
                b'x' => read_pax(&text, &mut announced)
                    .ok_or_else(|| self.damaged(start, "has a damaged pax header"))?,
                _ => {}
            }
        }
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

    fn block(&mut self) -> Result<[u8; 512], TarError> {
        if self.offset + BLOCK > self.source.len() {
            return Err(self.damaged(self.offset, "ends without its two closing zero blocks"));
        }
        let mut block = [0; 512];
        read_exact_at(self.source, self.offset, &mut block)?;
        self.offset += BLOCK;
        Ok(block)
    }

    /// An old GNU sparse member's map may go on in blocks of its own.
    fn skip_sparse_map(&mut self, header: &[u8; 512]) -> Result<(), TarError> {
        let mut more = header[482] != 0;
        while more {
            more = self.block()?[504] != 0;
        }
        Ok(())
    }

    fn damaged(&self, offset: u64, what: &str) -> TarError {
        TarError::Damaged(format!(
            "no whole tar: it {what} at byte {offset} of {}",
            self.source.len()
        ))
    }
}

/// The sum of all bytes, the checksum field itself taken as blanks; some old programs add signed bytes.
fn checksum_is_right(header: &[u8; 512]) -> bool {
    let blanked = |i: usize| {
        if (148..156).contains(&i) {
            b' '
        } else {
            header[i]
        }
    };
    let unsigned: u64 = (0..512).map(|i| u64::from(blanked(i))).sum();
    let signed: i64 = (0..512).map(|i| i64::from(blanked(i).cast_signed())).sum();
    number(&header[148..156]).is_some_and(|sum| sum == unsigned || i64::try_from(sum) == Ok(signed))
}

/// Octal digits, or base 256 where the first bit is set.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let (first, rest) = (u64::from(field[0] & 0x7f), &field[1..]);
        return rest.iter().try_fold(first, |sum, byte| {
            sum.checked_mul(256)?.checked_add(u64::from(*byte))
        });
    }
    let text = str::from_utf8(field).ok()?.trim_matches([' ', '\0']);
    if text.is_empty() {
        Some(0)
    } else {
        u64::from_str_radix(text, 8).ok()
    }
}

fn short_path(header: &[u8; 512]) -> Vec<u8> {
    let name = until_zero(&header[..100]);
    // Only the POSIX form has a prefix; GNU keeps times there.
    let prefix = if &header[257..263] == b"ustar\0" {
        until_zero(&header[345..500])
    } else {
        &[]
    };
    if prefix.is_empty() {
        name.to_vec()
    } else {
        [prefix, b"/", name].concat()
    }
}

fn until_zero(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Records `LEN KEY=VALUE\n`.
fn read_pax(mut text: &[u8], announced: &mut Announced) -> Option<()> {
    while !text.is_empty() {
        let blank = text.iter().position(|byte| *byte == b' ')?;
        let len: usize = str::from_utf8(&text[..blank]).ok()?.parse().ok()?;
        let record = text.get(blank + 1..len)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        match key {
            b"path" => announced.path = Some(value.to_vec()),
            b"size" => announced.size = Some(str::from_utf8(value).ok()?.parse().ok()?),
            _ => {}
        }
        text = &text[len..];
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::file::FileSource;
    use std::fs;
    use std::path::Path;
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

    /// A tar by GNU tar, with long names, a link, an empty file, and a sparse one.
    fn sample(dir: &Path, form: &str) -> std::path::PathBuf {
        let (long, tree) = ("d".repeat(90), dir.join(format!("{form} tree")));
        fs::create_dir_all(tree.join(&long).join(&long)).expect("folders");
        fs::write(tree.join(&long).join(&long).join("deep"), b"deep").expect("write");
        fs::write(tree.join("empty"), b"").expect("write");
        fs::write(tree.join("file"), vec![7; 1_000]).expect("write");
        fs::File::create(tree.join("sparse"))
            .and_then(|f| f.set_len(1 << 20))
            .expect("sparse");
        std::os::unix::fs::symlink("file", tree.join("link")).expect("link");
        let path = dir.join(format!("{form}.tar"));
        let mut tar = Command::new("tar");
        tar.arg("--format")
            .arg(form)
            .arg("--sort=name")
            .arg("-cf")
            .arg(&path)
            .arg("-C")
            .arg(&tree);
        if form != "ustar" {
            tar.arg("--sparse");
        }
        assert!(tar.arg(".").status().expect("tar runs").success());
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
            assert_eq!(by_name("./file").map(|m| m.size), Some(1_000), "{form}");
            assert_eq!(
                by_name("./link").map(|m| (m.is_file, m.size)),
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
