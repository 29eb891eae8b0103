//! A tar read once from front to back, with the contents of its members: from a download, out of a
//! decompressor, from a pipe.

use std::io::{self, BufRead, BufReader, Read};

use super::TarError;
use super::header::{BLOCK, Block, Blocks, Entry, begins_member, next_entry, padded};

/// How much is asked of the input at a time, in bytes.
const BUFFER_LEN: usize = 128 * 1024;

/// Reads a tar from its first byte to its last.
///
/// After an error the next call looks for the next header behind the damage, as GNU tar does, so that
/// one damaged member does not hide those behind it.
pub struct TarStream<R> {
    input: BufReader<R>,
    /// How many bytes have been read.
    position: u64,
    /// What is unread of the current member's contents, in bytes.
    unread: u64,
    /// The zeros behind its contents, in bytes.
    padding: u64,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Members,
    /// A header was damaged: where the next begins is to be found out.
    Lost,
    /// The closing zero blocks have been read.
    Closed,
    /// The input has ended.
    Ended,
}

/// How an archive ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Its length in bytes, with all that follows the closing zero blocks.
    pub len: u64,
    /// Whether something other than zeros follows them.
    pub has_data_behind: bool,
}

impl<R: Read> TarStream<R> {
    /// From the first byte of an archive.
    pub fn new(input: R) -> TarStream<R> {
        TarStream {
            input: BufReader::with_capacity(BUFFER_LEN, input),
            position: 0,
            unread: 0,
            padding: 0,
            state: State::Members,
        }
    }

    /// The next member; what is unread of the one before is skipped. None after the two closing zero
    /// blocks, and where nothing readable follows a damage.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        self.skip_member()?;
        let start = self.position;
        let found = match self.state {
            State::Members => next_entry(self),
            State::Lost => self.find_entry(),
            State::Closed | State::Ended => return Ok(None),
        };
        match found {
            Ok(Some(entry)) => {
                let Some(padded) = padded(entry.size) else {
                    self.state = State::Lost;
                    return Err(self.damaged(start, "has a damaged size"));
                };
                self.unread = entry.size;
                self.padding = padded - entry.size;
                self.state = State::Members;
                Ok(Some(entry))
            }
            Ok(None) if self.state == State::Lost => {
                self.state = State::Ended;
                Ok(None)
            }
            Ok(None) => {
                self.state = State::Closed;
                Ok(None)
            }
            Err(TarError::Damaged(what)) => {
                self.state = if self.has_ended()? {
                    State::Ended
                } else {
                    State::Lost
                };
                Err(TarError::Damaged(what))
            }
            Err(error) => {
                self.state = State::Ended;
                Err(error)
            }
        }
    }

    /// What is unread of the current member's contents. Its end before their end is an error of the
    /// kind `UnexpectedEof` that names the byte.
    pub fn contents(&mut self) -> Contents<'_, R> {
        Contents { tar: self }
    }

    /// Reads to the end of the input, whatever follows.
    pub fn finish(mut self) -> Result<End, TarError> {
        let mut has_data_behind = false;
        while !self.has_ended()? {
            let piece = self.input.buffer();
            has_data_behind |= self.state == State::Closed && !is_zero(piece);
            self.advance(piece.len() as u64);
        }
        Ok(End {
            len: self.position,
            has_data_behind,
        })
    }

    fn skip_member(&mut self) -> Result<(), TarError> {
        let start = self.position;
        while self.unread + self.padding > 0 {
            let piece = filled(&mut self.input)?.len() as u64;
            if piece == 0 {
                self.unread = 0;
                self.padding = 0;
                self.state = State::Ended;
                let what = "is cut off in the member that goes on";
                return Err(self.damaged(start, what));
            }
            let contents = piece.min(self.unread);
            let padding = (piece - contents).min(self.padding);
            self.unread -= contents;
            self.padding -= padding;
            self.advance(contents + padding);
        }
        Ok(())
    }

    /// Behind a damaged header: block by block to the next that can be one.
    fn find_entry(&mut self) -> Result<Option<Entry>, TarError> {
        loop {
            let Some(block) = self.block()? else {
                return Ok(None);
            };
            if begins_member(&block) {
                let mut found = Found {
                    first: Some(block),
                    tar: self,
                };
                return next_entry(&mut found);
            }
        }
    }

    fn has_ended(&mut self) -> io::Result<bool> {
        Ok(filled(&mut self.input)?.is_empty())
    }

    fn advance(&mut self, len: u64) {
        self.input
            .consume(usize::try_from(len).expect("part of a buffer"));
        self.position += len;
    }
}

impl<R: Read> Blocks for TarStream<R> {
    fn position(&self) -> u64 {
        self.position
    }

    fn block(&mut self) -> io::Result<Option<Block>> {
        let mut block = [0; 512];
        let mut len = 0;
        while len < block.len() {
            let piece = filled(&mut self.input)?;
            if piece.is_empty() {
                return Ok(None);
            }
            let taken = piece.len().min(block.len() - len);
            block[len..len + taken].copy_from_slice(&piece[..taken]);
            len += taken;
            self.advance(taken as u64);
        }
        Ok(Some(block))
    }

    fn damaged(&self, offset: u64, what: &str) -> TarError {
        TarError::Damaged(format!("no whole tar: it {what} at byte {offset}"))
    }
}

/// Block by block, as whole slices are compared faster than bytes.
fn is_zero(bytes: &[u8]) -> bool {
    let zeros: Block = [0; 512];
    bytes
        .chunks(512)
        .all(|piece| *piece == zeros[..piece.len()])
}

/// What is in the buffer, read anew if that is nothing; nothing at the end of the input.
fn filled<R: Read>(input: &mut BufReader<R>) -> io::Result<&[u8]> {
    while let Err(error) = input.fill_buf() {
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(input.buffer())
}

/// A header that was found behind a damage, and what follows it.
struct Found<'a, R> {
    first: Option<Block>,
    tar: &'a mut TarStream<R>,
}

impl<R: Read> Blocks for Found<'_, R> {
    fn position(&self) -> u64 {
        self.tar.position - if self.first.is_some() { BLOCK } else { 0 }
    }

    fn block(&mut self) -> io::Result<Option<Block>> {
        match self.first.take() {
            Some(block) => Ok(Some(block)),
            None => self.tar.block(),
        }
    }

    fn damaged(&self, offset: u64, what: &str) -> TarError {
        self.tar.damaged(offset, what)
    }
}

/// The contents of a member, as long as they last.
pub struct Contents<'a, R> {
    tar: &'a mut TarStream<R>,
}

impl<R: Read> Contents<'_, R> {
    /// How many bytes are left of them.
    pub fn unread(&self) -> u64 {
        self.tar.unread
    }
}

impl<R: Read> BufRead for Contents<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.tar.unread == 0 {
            return Ok(&[]);
        }
        let piece = filled(&mut self.tar.input)?;
        if piece.is_empty() {
            let what = format!("the archive is cut off at byte {}", self.tar.position);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
        }
        let len = usize::try_from(self.tar.unread).map_or(piece.len(), |n| n.min(piece.len()));
        Ok(&piece[..len])
    }

    fn consume(&mut self, len: usize) {
        self.tar.unread -= len as u64;
        self.tar.advance(len as u64);
    }
}

impl<R: Read> Read for Contents<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let piece = self.fill_buf()?;
        let len = piece.len().min(buf.len());
        buf[..len].copy_from_slice(&piece[..len]);
        self.consume(len);
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;
    use super::super::{EntryKind, Members};
    use super::*;
    use crate::source::file::FileSource;
    use std::fs;

    /// Gives one byte more at each read, so that every boundary is met.
    struct Drip<'a>(&'a [u8], usize);

    impl Read for Drip<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            self.1 += 1;
            if self.1.is_multiple_of(7) {
                return Err(io::Error::from(io::ErrorKind::Interrupted));
            }
            let len = self.1.min(self.0.len()).min(buf.len());
            let (piece, rest) = self.0.split_at(len);
            buf[..len].copy_from_slice(piece);
            self.0 = rest;
            Ok(len)
        }
    }

    fn walk(input: impl Read) -> (Vec<String>, Vec<String>, End) {
        let mut tar = TarStream::new(input);
        let (mut found, mut errors) = (Vec::new(), Vec::new());
        loop {
            match tar.next_entry() {
                Ok(Some(entry)) => found.push(String::from_utf8_lossy(&entry.path).into_owned()),
                Ok(None) => break,
                Err(error) => errors.push(error.to_string()),
            }
        }
        (found, errors, tar.finish().expect("readable"))
    }

    #[test]
    fn what_a_stream_shows_is_what_a_random_walk_shows() {
        let dir = tempfile::tempdir().expect("temporary folder");
        for form in ["gnu", "pax", "ustar", "oldgnu"] {
            let path = sample(dir.path(), form);
            let bytes = fs::read(&path).expect("read");
            let source = FileSource::open(&path).expect("open");
            let mut members = Members::new(&source);
            let mut tar = TarStream::new(Drip(&bytes, 0));
            while let Some(member) = members.next_member().expect("whole") {
                let entry = tar.next_entry().expect("whole").expect("a member");
                assert_eq!(entry.path, member.path, "{form}");
                assert_eq!(entry.kind == EntryKind::File, member.is_file, "{form}");
                let mut contents = Vec::new();
                assert_eq!(tar.contents().unread(), member.size);
                tar.contents().read_to_end(&mut contents).expect("contents");
                let start = usize::try_from(member.offset).expect("small");
                assert_eq!(contents, bytes[start..][..contents.len()], "{form}");
                assert_eq!(contents.len() as u64, member.size);
            }
            assert_eq!(tar.next_entry().expect("whole"), None);
            let end = End {
                len: bytes.len() as u64,
                has_data_behind: false,
            };
            assert_eq!(tar.finish().expect("readable"), end);
        }
    }

    #[test]
    fn what_unpacking_needs_is_told() {
        let dir = tempfile::tempdir().expect("temporary folder");
        for form in ["gnu", "pax", "ustar"] {
            let bytes = fs::read(sample(dir.path(), form)).expect("read");
            let mut tar = TarStream::new(&bytes[..]);
            let mut kinds = Vec::new();
            while let Some(entry) = tar.next_entry().expect("whole") {
                assert_eq!(
                    (entry.uid, entry.gid, entry.mtime),
                    (998, 997, 1_702_758_583)
                );
                assert_eq!(
                    (&entry.uname[..], &entry.gname[..]),
                    (&b"git"[..], &b"web"[..])
                );
                let sparse = entry.path == b"./zeros" && form != "ustar";
                assert_eq!(entry.is_sparse, sparse, "{form}");
                if entry.path == b"./zeros" {
                    continue;
                }
                if entry.kind == EntryKind::File {
                    assert_eq!(entry.mode, 0o640, "{form}");
                }
                if entry.kind != EntryKind::Folder {
                    let link = String::from_utf8_lossy(&entry.link).into_owned();
                    kinds.push((entry.kind, entry.size, link));
                }
            }
            let none = String::new();
            let expected = [
                (EntryKind::File, 4, none.clone()),
                (EntryKind::File, 0, none.clone()),
                (EntryKind::File, 300_000, none),
                (EntryKind::HardLink, 0, "./file".to_owned()),
                (EntryKind::SymbolicLink, 0, "file".to_owned()),
            ];
            assert_eq!(kinds, expected, "{form}");
        }
    }

    #[test]
    fn every_cut_is_noticed_and_told_with_its_byte() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let bytes = fs::read(sample(dir.path(), "gnu")).expect("read");
        let padded = bytes
            .iter()
            .rposition(|byte| *byte != 0)
            .expect("not empty")
            + 1;
        let end = padded.next_multiple_of(512) + 1024;
        for len in (0..end).step_by(511).chain([end - 1]) {
            let (_, errors, found) = walk(&bytes[..len]);
            assert_eq!(errors.len(), 1, "cut at {len} of {end}: {errors:?}");
            assert_eq!(found.len, len as u64);
            let byte: usize = errors[0]
                .rsplit(' ')
                .next()
                .and_then(|n| n.parse().ok())
                .expect("a byte");
            assert!(byte <= len, "{}", errors[0]);
        }
        assert_eq!(walk(&bytes[..end]).1, [""; 0]);
    }

    #[test]
    fn contents_end_with_an_error_where_the_archive_does() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let bytes = fs::read(sample(dir.path(), "ustar")).expect("read");
        let mut tar = TarStream::new(&bytes[..100_000]);
        while let Some(entry) = tar.next_entry().expect("not yet") {
            if entry.path == b"./file" {
                break;
            }
        }
        let error = tar
            .contents()
            .read_to_end(&mut Vec::new())
            .expect_err("cut");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(error.to_string().ends_with("at byte 100000"), "{error}");
    }

    #[test]
    fn damage_hides_no_other_member() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let mut bytes = fs::read(sample(dir.path(), "gnu")).expect("read");
        let (whole, none, _) = walk(&bytes[..]);
        assert_eq!(none, [""; 0]);
        let header = bytes
            .windows(7)
            .position(|w| w == b"./file\0")
            .expect("a header");
        bytes[header + 2] ^= 1;
        let (found, errors, end) = walk(&bytes[..]);
        let expected: Vec<_> = whole.into_iter().filter(|name| name != "./file").collect();
        assert_eq!(found, expected);
        assert_eq!(
            errors,
            [format!(
                "no whole tar: it has a damaged header at byte {header}"
            )]
        );
        assert_eq!(end.len, bytes.len() as u64);
    }

    #[test]
    fn what_follows_the_end_is_read_and_told() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let mut bytes = fs::read(sample(dir.path(), "gnu")).expect("read");
        bytes.resize(bytes.len() + 100_000, 0);
        assert!(!walk(&bytes[..]).2.has_data_behind);
        bytes.push(b'x');
        let (_, errors, end) = walk(&bytes[..]);
        assert_eq!(errors, [""; 0]);
        assert!(end.has_data_behind);
        assert_eq!(end.len, bytes.len() as u64);
    }

    #[test]
    fn hostile_headers_do_no_harm() {
        let header = |kind: u8, size: &[u8; 12]| {
            let mut header = [0_u8; 512];
            header[0] = b'a';
            header[124..136].copy_from_slice(size);
            header[148..156].fill(b' ');
            header[156] = kind;
            let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
            header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
            header
        };
        for (kind, size) in [
            (b'0', b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
            (b'0', b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff"),
            (b'0', b"77777777777\0"),
            (b'0', b"-0000000001\0"),
            (b'L', b"77777777777\0"),
            (b'L', b"00000004000\0"),
            (b'x', b"00000000003\0"),
        ] {
            let bytes = [&header(kind, size)[..], b"abc", &[0; 1021]].concat();
            let (_, errors, end) = walk(&bytes[..]);
            assert_eq!(errors.len(), 1, "{kind} {size:?}: {errors:?}");
            assert_eq!(end.len, bytes.len() as u64);
        }
        // Names without end cost no memory and no stack.
        let names = [&header(b'L', b"00000000003\0")[..], b"abc", &[0; 509]]
            .concat()
            .repeat(20_000);
        assert_eq!(walk(&names[..]).1.len(), 1);
    }
}
