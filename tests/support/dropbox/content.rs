//! File contents: where their bytes lie, and Dropbox's content hash over them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ring::digest::{Context, SHA256, digest};

use super::random::hex;

/// Block of the content hash, and alignment of the pieces of a concurrent session.
pub const BLOCK: u64 = 4 << 20;

/// SHA-256 of one block.
pub type Digest = [u8; 32];

/// All bytes ever received, one after the other in an unlinked temporary file.
///
/// Every request writes to a place of its own, so a piece that is repeated, aborted or wrong can never
/// damage one that was acknowledged, and no lock is held while writing. Nothing is given back before
/// the server ends.
#[derive(Debug)]
pub struct Log {
    file: File,
    end: AtomicU64,
}

impl Log {
    /// An empty log in the directory for temporary files.
    pub fn create() -> io::Result<Self> {
        Ok(Self {
            file: tempfile::tempfile()?,
            end: AtomicU64::new(0),
        })
    }

    /// A place for up to `len` bytes.
    pub fn reserve(&self, len: u64) -> u64 {
        self.end.fetch_add(len, Ordering::Relaxed)
    }

    /// Writes at a reserved place.
    pub fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, at)
    }

    fn read(&self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(bytes, at)
    }
}

/// Bytes of a file that lie together in the log.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// Offset in the log.
    pub at: u64,
    /// How many bytes.
    pub len: u64,
}

/// The content of one file.
#[derive(Debug, Clone)]
pub struct Content {
    /// Its length in bytes.
    pub size: u64,
    /// Its content hash; none if the server does not hash.
    pub hash: Option<String>,
    /// Its bytes in order; none if the server does not keep them.
    pub extents: Option<Arc<[Extent]>>,
}

impl Content {
    /// Hands `len` bytes from `from` to `sink`, 64 KiB at a time.
    pub fn read(
        &self,
        log: &Log,
        from: u64,
        len: u64,
        mut sink: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut buffer = vec![0; 64 << 10];
        let (mut skip, mut left) = (from, len);
        for extent in self.extents.iter().flat_map(|extents| extents.iter()) {
            let mut at = skip.min(extent.len);
            skip -= at;
            while at < extent.len && left > 0 {
                let step = (extent.len - at).min(left).min(buffer.len() as u64);
                let piece = &mut buffer[..usize::try_from(step).expect("64 KiB at most")];
                log.read(extent.at + at, piece)?;
                sink(piece)?;
                at += step;
                left -= step;
            }
        }
        Ok(())
    }
}

/// Computes the content hash of a stream, and can be copied to go on from the middle.
#[derive(Clone)]
pub struct Hasher {
    full: Vec<Digest>,
    open: Context,
    filled: u64,
}

impl Default for Hasher {
    /// Nothing hashed yet.
    fn default() -> Self {
        Self {
            full: Vec::new(),
            open: Context::new(&SHA256),
            filled: 0,
        }
    }
}

impl Hasher {
    /// Takes the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = usize::try_from(BLOCK - self.filled).expect("a block fits into memory");
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.open.update(now);
            self.filled += now.len() as u64;
            if self.filled == BLOCK {
                let open = std::mem::replace(&mut self.open, Context::new(&SHA256));
                self.full.push(raw(open));
                self.filled = 0;
            }
            bytes = later;
        }
    }

    /// Goes on with what another hasher has taken since a block's beginning; this one must be at such a place.
    pub fn append(&mut self, next: Self) {
        self.full.extend(next.full);
        self.open = next.open;
        self.filled = next.filled;
    }

    /// The digests of all blocks, the last one included if it is short.
    pub fn blocks(&self) -> Vec<Digest> {
        let mut blocks = self.full.clone();
        if self.filled > 0 {
            blocks.push(raw(self.open.clone()));
        }
        blocks
    }

    /// The content hash of everything so far.
    pub fn content_hash(&self) -> String {
        content_hash(&self.blocks())
    }
}

/// The content hash from the digests of the blocks.
pub fn content_hash(blocks: &[Digest]) -> String {
    hex(digest(&SHA256, &blocks.concat()).as_ref())
}

fn raw(context: Context) -> Digest {
    context
        .finish()
        .as_ref()
        .try_into()
        .expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::Hasher;

    /// From the table in Dropbox's description of the hash and the official hasher.
    #[test]
    fn known_hashes() {
        let zeros = vec![0; 8_388_611];
        let cases: [(&[u8], &str); 5] = [
            (
                b"",
                "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            ),
            (
                b"abc",
                "4f8b42c22dd3729b519ba6f68d2da7cc5b2d606d05daed5ad5128cc03e6c6358",
            ),
            (
                &zeros[..4_194_304],
                "c7e946d101855255d919ef0c70718633adf77d3dfb3adeeecf5d0cb4e951be58",
            ),
            (
                &zeros[..4_194_305],
                "14a4d47f23a30177885d9820122f17d2d3a55fe63f7f5c27b95f689e0b2accd6",
            ),
            (
                &zeros,
                "f2f8e67d66d987e666b9b7924620dfcbd119d3ea829ea35309bf3febe0e5b5b0",
            ),
        ];
        for (bytes, hash) in cases {
            let mut hasher = Hasher::default();
            for piece in bytes.chunks(100_003) {
                hasher.update(piece);
            }
            assert_eq!(hasher.content_hash(), hash, "{} bytes", bytes.len());
        }
    }
}
