//! The hash that proves what was stored: SHA-256 over the SHA-256 of each 4 MiB block
//! (<https://www.dropbox.com/developers/reference/content-hash>).
//!
//! Used for every destination, because unlike a plain SHA-256 it can be computed in any order and
//! continued after a power cut.

use std::fmt;
use std::io;
use std::ops::Range;

use ring::digest::{Context, SHA256};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::source::{Source, read_exact_at};

/// The length of a block in bytes; only the last one may be shorter.
pub const BLOCK_LEN: u64 = 4 * 1024 * 1024;

/// How much is read at a time while hashing, in bytes.
const PIECE_LEN: usize = 64 * 1024;

/// A SHA-256: of one block, or of all of them together. Written in lower-case hex.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest([u8; 32]);

/// The content hash of a run of whole blocks (the last may be short), from their digests.
pub fn combine<'a>(blocks: impl IntoIterator<Item = &'a Digest>) -> Digest {
    let mut context = Context::new(&SHA256);
    for block in blocks {
        context.update(&block.0);
    }
    finish(context)
}

/// The digests of the blocks of `range`, which starts at a block's start. Blocks the thread.
pub fn hash_blocks(source: &dyn Source, range: Range<u64>) -> io::Result<Vec<Digest>> {
    let mut buf = vec![0; PIECE_LEN];
    let mut digests = Vec::new();
    let mut offset = range.start;
    while offset < range.end {
        let end = range.end.min(offset + BLOCK_LEN);
        let mut context = Context::new(&SHA256);
        while offset < end {
            let piece = usize::try_from(end - offset).map_or(PIECE_LEN, |left| left.min(PIECE_LEN));
            read_exact_at(source, offset, &mut buf[..piece])?;
            context.update(&buf[..piece]);
            offset += piece as u64;
        }
        digests.push(finish(context));
    }
    Ok(digests)
}

/// The content hash of a whole source, releasing its pages behind it. Blocks the thread.
pub fn hash_source(source: &dyn Source) -> io::Result<Digest> {
    let mut blocks = Vec::new();
    let mut offset = 0;
    while offset < source.len() {
        let end = source.len().min(offset + BLOCK_LEN);
        blocks.extend(hash_blocks(source, offset..end)?);
        source.release(offset..end);
        offset = end;
    }
    Ok(combine(&blocks))
}

/// The content hash of bytes that come in order, in pieces of any length.
pub struct ContentHasher {
    blocks: Context,
    block: Context,
    /// How many bytes the current block has.
    filled: u64,
    len: u64,
}

impl Default for ContentHasher {
    fn default() -> ContentHasher {
        ContentHasher {
            blocks: Context::new(&SHA256),
            block: Context::new(&SHA256),
            filled: 0,
            len: 0,
        }
    }
}

impl ContentHasher {
    /// The next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        self.len += bytes.len() as u64;
        while !bytes.is_empty() {
            let room = usize::try_from(BLOCK_LEN - self.filled).expect("a block fits memory");
            let (piece, rest) = bytes.split_at(room.min(bytes.len()));
            self.block.update(piece);
            self.filled += piece.len() as u64;
            if self.filled == BLOCK_LEN {
                self.end_block();
            }
            bytes = rest;
        }
    }

    /// How many bytes there were so far.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there were none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The content hash of all of them.
    pub fn finish(mut self) -> Digest {
        if self.filled > 0 {
            self.end_block();
        }
        finish(self.blocks)
    }

    fn end_block(&mut self) {
        let block = std::mem::replace(&mut self.block, Context::new(&SHA256));
        self.blocks.update(block.finish().as_ref());
        self.filled = 0;
    }
}

/// The digest of one block whose bytes come in order, in pieces of any length.
pub struct BlockHasher(Context);

impl Default for BlockHasher {
    fn default() -> BlockHasher {
        BlockHasher(Context::new(&SHA256))
    }
}

impl BlockHasher {
    /// The next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all of them.
    pub fn finish(self) -> Digest {
        finish(self.0)
    }
}

fn finish(context: Context) -> Digest {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(context.finish().as_ref());
    Digest(bytes)
}

impl Digest {
    /// The SHA-256 of these bytes.
    pub fn of(bytes: &[u8]) -> Digest {
        let mut context = Context::new(&SHA256);
        context.update(bytes);
        finish(context)
    }

    /// Reads 64 hex digits.
    pub fn parse(text: &str) -> Option<Digest> {
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Digest(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        let text = String::deserialize(deserializer)?;
        Digest::parse(&text).ok_or_else(|| de::Error::custom("not a SHA-256 in hex"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::file::FileSource;

    fn hash(data: &[u8]) -> String {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("a");
        std::fs::write(&path, data).expect("write");
        let source = FileSource::open(&path).expect("open");
        hash_source(&source).expect("hash").to_string()
    }

    #[test]
    fn equals_the_published_and_measured_values() {
        let block = 4_194_304;
        for (data, expected) in [
            (
                vec![],
                "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            ),
            (
                vec![0],
                "1406e05881e299367766d313e26c05564ec91bf721d31726bd6e46e60689539a",
            ),
            (
                b"abc".to_vec(),
                "4f8b42c22dd3729b519ba6f68d2da7cc5b2d606d05daed5ad5128cc03e6c6358",
            ),
            (
                vec![0; block - 1],
                "839e2d868a885f260431d186466f0f3c189ee0eee5cc444b54e717740ad7f1c3",
            ),
            (
                vec![0; block],
                "c7e946d101855255d919ef0c70718633adf77d3dfb3adeeecf5d0cb4e951be58",
            ),
            (
                vec![0; block + 1],
                "14a4d47f23a30177885d9820122f17d2d3a55fe63f7f5c27b95f689e0b2accd6",
            ),
            (
                vec![b'a'; block],
                "907a506cf5e706bda5c7a29b43c9c65d8344bd2fa2f22339b359c214812af5a1",
            ),
            (
                (0..10_000_000_u32)
                    .map(|i| u8::try_from(i % 251).expect("a byte"))
                    .collect(),
                "adcedd7b0933aef0bdf54a73c43b77526b6ff90b1a303d2cd235f44161b65177",
            ),
        ] {
            assert_eq!(hash(&data), expected, "{} bytes", data.len());
            for piece in [1_000_003, block, block + 1] {
                let mut hasher = ContentHasher::default();
                data.chunks(piece).for_each(|piece| hasher.update(piece));
                assert_eq!(hasher.len(), data.len() as u64);
                assert_eq!(hasher.finish().to_string(), expected, "by {piece}");
            }
        }
    }

    #[test]
    fn hex_is_read_strictly() {
        let text = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(
            Digest::parse(text).map(|d| d.to_string()).as_deref(),
            Some(text)
        );
        assert_eq!(Digest::parse(&text[1..]), None);
        assert_eq!(Digest::parse(&text.replace('e', "g")), None);
        assert_eq!(Digest::parse(&"é".repeat(32)), None);
    }
}
