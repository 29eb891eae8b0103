//! What stands before a member's contents, as GNU tar writes it.
//!
//! The old GNU form, GNU tar's default (<https://www.gnu.org/software/tar/manual/html_node/Standard.html>):
//! names and links beyond 100 bytes in a member of their own before it, numbers beyond the octal field in base
//! 256. Owners by their numbers alone: names would change with the user database, and with them bytes that were
//! sent already.

use super::plan::{Kind, State};

/// Everything in a tar is a multiple of this, in bytes.
const BLOCK: usize = 512;
/// Room for a name, in bytes; it needs no zero behind it.
const NAME_FIELD: usize = 100;
/// The name of a member that holds the name of the next.
const LONG_LINK: &[u8] = b"././@LongLink";

/// How long the headers of a member are, in bytes.
pub(super) fn header_len(path_len: usize, link_len: usize) -> u64 {
    let long = |len: usize| {
        if len > NAME_FIELD {
            BLOCK + (len + 1).next_multiple_of(BLOCK)
        } else {
            0
        }
    };
    (BLOCK + long(path_len) + long(link_len)) as u64
}

/// The headers of a member: `path` as it shall stand in the archive, a folder's with its slash.
pub(super) fn headers(path: &[u8], state: &State, link: &[u8]) -> Vec<u8> {
    let mut headers = Vec::with_capacity(3 * BLOCK);
    for (kind, text) in [(b'K', link), (b'L', path)] {
        if text.len() > NAME_FIELD {
            let announcement = Fields {
                name: LONG_LINK,
                link: b"",
                mode: 0o644,
                owner: (0, 0),
                size: text.len() as u64 + 1,
                mtime: 0,
                kind,
            };
            headers.extend(announcement.block());
            headers.extend(text);
            headers.resize((headers.len() + 1).next_multiple_of(BLOCK), 0);
        }
    }
    let member = Fields {
        name: path,
        link,
        mode: state.mode & 0o7777,
        owner: (state.uid, state.gid),
        size: state.body_len(),
        mtime: state.mtime,
        kind: match state.kind() {
            Kind::SymbolicLink => b'2',
            Kind::Folder => b'5',
            Kind::File | Kind::Other => b'0',
        },
    };
    headers.extend(member.block());
    headers
}

struct Fields<'a> {
    name: &'a [u8],
    link: &'a [u8],
    mode: u32,
    owner: (u32, u32),
    size: u64,
    mtime: i64,
    kind: u8,
}

impl Fields<'_> {
    fn block(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        text(&mut block[..100], self.name);
        number(&mut block[100..108], i128::from(self.mode));
        number(&mut block[108..116], i128::from(self.owner.0));
        number(&mut block[116..124], i128::from(self.owner.1));
        number(&mut block[124..136], i128::from(self.size));
        number(&mut block[136..148], i128::from(self.mtime));
        block[148..156].fill(b' ');
        block[156] = self.kind;
        text(&mut block[157..257], self.link);
        block[257..265].copy_from_slice(b"ustar  \0");
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        number(&mut block[148..155], i128::from(sum));
        block
    }
}

/// As much of a text as there is room for.
fn text(field: &mut [u8], text: &[u8]) {
    let len = text.len().min(field.len());
    field[..len].copy_from_slice(&text[..len]);
}

/// In octal with a zero behind it; what does not fit, or is below zero, in base 256.
fn number(field: &mut [u8], value: i128) {
    let digits = field.len() - 1;
    if value >= 0 && value < 1 << (3 * digits) {
        let octal = format!("{value:0digits$o}");
        field[..digits].copy_from_slice(octal.as_bytes());
        field[digits] = 0;
        return;
    }
    let bytes = value.to_be_bytes();
    let start = bytes.len() - field.len();
    field.copy_from_slice(&bytes[start..]);
    field[0] |= 0x80;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_gnu_tar_writes_them() {
        let written = |value: i128| {
            let mut field = [0; 12];
            number(&mut field, value);
            field
        };
        assert_eq!(&written(0o644), b"00000000644\0");
        assert_eq!(&written((8 << 30) - 1), b"77777777777\0");
        assert_eq!(written(8 << 30), [0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0]);
        assert_eq!(written(-1), [0xff; 12]);
    }

    #[test]
    fn a_name_of_a_hundred_bytes_still_fits() {
        assert_eq!(header_len(100, 0), 512);
        assert_eq!(header_len(101, 0), 3 * 512);
        assert_eq!(header_len(512, 101), 6 * 512);
    }
}
