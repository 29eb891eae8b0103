//! What the header blocks before a member say, for every way of reading an archive.

use std::io;

use super::TarError;

/// Everything in a tar is a multiple of this, in bytes.
pub(super) const BLOCK: u64 = 512;
/// A longer name or pax header is refused, in bytes.
const LONGEST_HEADER: u64 = 1024 * 1024;

/// One block.
pub(super) type Block = [u8; 512];

/// Where headers are read from.
pub(super) trait Blocks {
    /// How many bytes of the archive have been read or skipped.
    fn position(&self) -> u64;

    /// The next block; none if the archive ends before it is whole.
    fn block(&mut self) -> io::Result<Option<Block>>;

    /// The error that says what is wrong with the archive, and where.
    fn damaged(&self, offset: u64, what: &str) -> TarError;
}

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// Another name of an earlier member, which [`Entry::link`] names.
    HardLink,
    /// A symbolic link to what [`Entry::link`] says.
    SymbolicLink,
    /// A folder.
    Folder,
    /// A device, a named pipe, or something that only one program knows.
    Other,
}

/// What stands before a member's contents. Nothing in it is to be trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// As it stands in the archive.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// The length of its contents in the archive, in bytes.
    pub size: u64,
    /// Where a link leads to; empty for everything else.
    pub link: Vec<u8>,
    /// The permission bits.
    pub mode: u32,
    /// The number of its owner.
    pub uid: u64,
    /// The number of its group.
    pub gid: u64,
    /// The name of its owner, perhaps empty.
    pub uname: Vec<u8>,
    /// The name of its group, perhaps empty.
    pub gname: Vec<u8>,
    /// When it was last changed, in Unix seconds.
    pub mtime: i64,
    /// Whether holes were left out of its contents, so that they are not the file's bytes.
    pub is_sparse: bool,
}

/// What the headers before a member's own say about it.
#[derive(Default)]
struct Announced {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    uname: Option<Vec<u8>>,
    gname: Option<Vec<u8>>,
    mtime: Option<i64>,
    is_sparse: bool,
}

/// Reads up to the contents of the next member; none at the two zero blocks that end a whole archive.
pub(super) fn next_entry(blocks: &mut impl Blocks) -> Result<Option<Entry>, TarError> {
    let mut announced = Announced::default();
    loop {
        let start = blocks.position();
        let endless = "ends without its two closing zero blocks";
        let Some(header) = blocks.block()? else {
            return Err(blocks.damaged(start, endless));
        };
        if is_zero(&header) {
            return match blocks.block()? {
                Some(second) if is_zero(&second) => Ok(None),
                Some(_) => Err(blocks.damaged(start, "has a lone zero block")),
                None => Err(blocks.damaged(blocks.position(), endless)),
            };
        }
        if !checksum_is_right(&header) {
            return Err(blocks.damaged(start, "has a damaged header"));
        }
        let stated =
            number(&header[124..136]).ok_or_else(|| blocks.damaged(start, "has a damaged size"))?;
        let kind = header[156];
        let cut_off = "is cut off in the header that begins";
        // An old GNU sparse member's map may go on in blocks of its own.
        let mut map_goes_on = kind == b'S' && header[482] != 0;
        while map_goes_on {
            let map = blocks
                .block()?
                .ok_or_else(|| blocks.damaged(start, cut_off))?;
            map_goes_on = map[504] != 0;
        }
        if !matches!(kind, b'L' | b'K' | b'x' | b'g') {
            return Ok(Some(announced.entry(&header, stated)));
        }
        if stated > LONGEST_HEADER {
            return Err(blocks.damaged(start, "has an overlong header"));
        }
        let stated = usize::try_from(stated).expect("a header fits memory");
        let mut text = Vec::with_capacity(stated.next_multiple_of(512));
        while text.len() < stated {
            let block = blocks
                .block()?
                .ok_or_else(|| blocks.damaged(start, cut_off))?;
            text.extend_from_slice(&block);
        }
        text.truncate(stated);
        match kind {
            b'L' => announced.path = Some(until_zero(&text).to_vec()),
            b'K' => announced.link = Some(until_zero(&text).to_vec()),
            b'x' => announced
                .pax(&text)
                .ok_or_else(|| blocks.damaged(start, "has a damaged pax header"))?,
            _ => {}
        }
    }
}

/// A size in whole blocks, if there is such a number.
pub(super) fn padded(size: u64) -> Option<u64> {
    size.checked_next_multiple_of(BLOCK)
}

/// Whether a block can begin a member: what a reader looks for behind a damaged one.
pub(super) fn begins_member(block: &Block) -> bool {
    &block[257..262] == b"ustar" && checksum_is_right(block)
}

fn is_zero(block: &Block) -> bool {
    block.iter().all(|byte| *byte == 0)
}

impl Announced {
    fn entry(self, header: &Block, stated: u64) -> Entry {
        let path = self.path.unwrap_or_else(|| short_path(header));
        let kind = match header[156] {
            // Before POSIX a folder was a file with a slash behind its name.
            b'0' | 0 | b'7' if path.ends_with(b"/") => EntryKind::Folder,
            b'0' | 0 | b'7' | b'S' => EntryKind::File,
            b'1' => EntryKind::HardLink,
            b'2' => EntryKind::SymbolicLink,
            b'5' => EntryKind::Folder,
            _ => EntryKind::Other,
        };
        let is_link = matches!(kind, EntryKind::HardLink | EntryKind::SymbolicLink);
        let link = self
            .link
            .unwrap_or_else(|| until_zero(&header[157..257]).to_vec());
        // Links, devices and folders have no contents, whatever size is stated.
        let size = match header[156] {
            b'1'..=b'6' => 0,
            _ => self.size.unwrap_or(stated),
        };
        let named = header[257..262] == *b"ustar";
        let name = |field: &[u8]| {
            if named {
                until_zero(field).to_vec()
            } else {
                Vec::new()
            }
        };
        let mode = number(&header[100..108]).unwrap_or_default() & 0o7777;
        let mtime = || i64::try_from(number(&header[136..148]).unwrap_or_default()).ok();
        Entry {
            kind,
            size,
            link: if is_link { link } else { Vec::new() },
            mode: u32::try_from(mode).expect("twelve bits"),
            uid: self
                .uid
                .or_else(|| number(&header[108..116]))
                .unwrap_or_default(),
            gid: self
                .gid
                .or_else(|| number(&header[116..124]))
                .unwrap_or_default(),
            uname: self.uname.unwrap_or_else(|| name(&header[265..297])),
            gname: self.gname.unwrap_or_else(|| name(&header[297..329])),
            mtime: self.mtime.or_else(mtime).unwrap_or_default(),
            is_sparse: self.is_sparse || header[156] == b'S',
            path,
        }
    }

    /// Records `LEN KEY=VALUE\n`.
    fn pax(&mut self, mut text: &[u8]) -> Option<()> {
        while !text.is_empty() {
            let blank = text.iter().position(|byte| *byte == b' ')?;
            let len: usize = str::from_utf8(&text[..blank]).ok()?.parse().ok()?;
            let record = text.get(blank + 1..len)?.strip_suffix(b"\n")?;
            let equals = record.iter().position(|byte| *byte == b'=')?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"path" if !self.is_sparse => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => self.size = Some(decimal(value)?),
                b"uid" => self.uid = Some(decimal(value)?),
                b"gid" => self.gid = Some(decimal(value)?),
                b"uname" => self.uname = Some(value.to_vec()),
                b"gname" => self.gname = Some(value.to_vec()),
                b"mtime" => self.mtime = Some(whole_seconds(value)?),
                // The name in `path` is then one that GNU tar made up.
                b"GNU.sparse.name" => {
                    self.path = Some(value.to_vec());
                    self.is_sparse = true;
                }
                _ => self.is_sparse |= key.starts_with(b"GNU.sparse."),
            }
            text = &text[len..];
        }
        Some(())
    }
}

fn decimal(value: &[u8]) -> Option<u64> {
    str::from_utf8(value).ok()?.parse().ok()
}

/// `1702758583.25`, `-3.5`: rounded down.
fn whole_seconds(value: &[u8]) -> Option<i64> {
    let text = str::from_utf8(value).ok()?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let down = text.starts_with('-') && fraction.bytes().any(|b| b != b'0');
    seconds.parse::<i64>().ok()?.checked_sub(i64::from(down))
}

/// The sum of all bytes, the checksum field itself taken as blanks; some old programs add signed bytes.
fn checksum_is_right(header: &Block) -> bool {
    let bytes = || {
        header[..148]
            .iter()
            .chain(b"        ")
            .chain(&header[156..])
    };
    let Some(stated) = number(&header[148..156]) else {
        return false;
    };
    let unsigned: u64 = bytes().map(|byte| u64::from(*byte)).sum();
    let signed = || -> i64 { bytes().map(|byte| i64::from(byte.cast_signed())).sum() };
    stated == unsigned || i64::try_from(stated) == Ok(signed())
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

fn short_path(header: &Block) -> Vec<u8> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pax_records_are_read_strictly() {
        let read = |text: &[u8]| {
            let mut announced = Announced::default();
            announced.pax(text).map(|()| announced)
        };
        let announced = read(b"9 path=a\n12 size=1234\n20 mtime=-3.500000000\n15 GNU.sparse.x=\n");
        assert!(announced.is_none(), "a length that is wrong");
        let announced =
            read(b"9 path=a\n13 size=1234\n22 mtime=-3.500000000\n10 uid=70\n").expect("good");
        assert_eq!(announced.path.as_deref(), Some(&b"a"[..]));
        assert_eq!(
            (announced.size, announced.mtime, announced.uid),
            (Some(1234), Some(-4), Some(70))
        );
        for bad in [
            &b"9 path=a"[..],
            b"99 path=a\n",
            b"0 path=a\n",
            b"x path=a\n",
            b"9 pathxa\n",
            b"9 size=a\n",
            b" ",
        ] {
            assert!(read(bad).is_none(), "{bad:?}");
        }
        let sparse = read(b"22 GNU.sparse.name=ab\n11 path=no\n").expect("good");
        assert_eq!(
            (sparse.path.as_deref(), sparse.is_sparse),
            (Some(&b"ab"[..]), true)
        );
    }

    #[test]
    fn numbers_of_every_form() {
        for (field, value) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"  644 \0\0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"\x80\0\0\0\0\0\x01\x02", Some(258)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"0000648\0", None),
            (b"-000064\0", None),
        ] {
            assert_eq!(number(field), value, "{field:?}");
        }
    }
}
