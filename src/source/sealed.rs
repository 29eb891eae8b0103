//! Any source, encrypted: what is read is sealed on the way, chunk by chunk, at whatever offset.
//!
//! The same bytes come out each time, so an encrypted archive is resumed and retried like any other. What is
//! sealed passes through the plain archive's hash as well, so that this needs no second reading.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::content_hash::{BLOCK_LEN, BlockHasher, Digest, combine, hash_blocks};
use crate::seal::{CHUNK_LEN, SEALED_CHUNK_LEN, Sealing, TAG_LEN};
use crate::source::{Fingerprint, Source, read_exact_at};

const CHUNK: u64 = CHUNK_LEN as u64;
const SEALED_CHUNK: u64 = SEALED_CHUNK_LEN as u64;
/// How many chunks of the archive a block of its hash has.
const CHUNKS_PER_BLOCK: u64 = BLOCK_LEN / CHUNK;
/// So many chunks that were read in part wait for their reader to come back. Readers take pieces that are no
/// multiple of a sealed chunk; without this each would seal the chunk at its edge again. 64 KiB each.
const MOST_READY: usize = 8;
/// So many blocks are hashed at a time; what is dropped is read once more at the end.
const MOST_OPEN: usize = 64;

/// An encrypted source.
pub struct Sealed {
    inner: Arc<dyn Source>,
    sealing: Arc<Sealing>,
    ready: Mutex<Ready>,
    plain: Option<Mutex<PlainHash>>,
}

/// Sealed chunks that were read in part, the longest ago first; and buffers for the next ones, so that memory is not
/// asked for and given back for each.
#[derive(Default)]
struct Ready {
    waiting: Vec<(u64, Vec<u8>)>,
    spare: Vec<Vec<u8>>,
}

/// Whether the content hash of the plain bytes will be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hashing {
    /// It is computed along with the sealing.
    Plain,
    /// It is not.
    None,
}

/// The hash of the plain bytes as far as they were sealed.
#[derive(Default)]
struct PlainHash {
    done: BTreeMap<u64, Digest>,
    /// Block, the chunk in it that is next, and what came before.
    open: Vec<(u64, u64, BlockHasher)>,
}

impl Sealed {
    /// `sealing` has never been used for other bytes than these.
    pub fn new(inner: Arc<dyn Source>, sealing: Arc<Sealing>, hashing: Hashing) -> Sealed {
        Sealed {
            inner,
            sealing,
            ready: Mutex::default(),
            plain: (hashing == Hashing::Plain).then(Mutex::default),
        }
    }

    /// How it is encrypted.
    pub fn sealing(&self) -> &Arc<Sealing> {
        &self.sealing
    }

    /// The plain bytes.
    pub fn inner(&self) -> &Arc<dyn Source> {
        &self.inner
    }

    /// The fingerprint while the plain bytes have this one.
    pub fn fingerprint_of(&self, inner: &Fingerprint) -> Fingerprint {
        Fingerprint(format!("{inner}+age:{}", self.sealing.id()))
    }

    /// The content hash of the plain bytes: of what has passed already, the rest is read. Blocks the thread.
    pub fn content_hash(&self) -> io::Result<Digest> {
        let mut blocks = Vec::new();
        let len = self.inner.len();
        for number in 0..len.div_ceil(BLOCK_LEN) {
            let known = self
                .plain
                .as_ref()
                .and_then(|plain| lock(plain).done.get(&number).copied());
            if let Some(block) = known {
                blocks.push(block);
                continue;
            }
            let start = number * BLOCK_LEN;
            let range = start..len.min(start + BLOCK_LEN);
            blocks.extend(hash_blocks(&*self.inner, range.clone())?);
            self.inner.release(range);
        }
        Ok(combine(&blocks))
    }

    fn header_len(&self) -> u64 {
        self.sealing.header().len() as u64
    }

    fn chunks(&self) -> u64 {
        Sealing::chunks(self.inner.len())
    }

    /// The plain bytes of a chunk.
    fn plain_range(&self, number: u64) -> Range<u64> {
        let len = self.inner.len();
        (number * CHUNK).min(len)..((number + 1) * CHUNK).min(len)
    }

    fn sealed_chunk_len(&self, number: u64) -> usize {
        let range = self.plain_range(number);
        let plain = usize::try_from(range.end - range.start);
        plain.expect("a chunk fits memory") + TAG_LEN
    }

    /// Seals a chunk into `out`, which has just its length.
    fn seal_into(&self, number: u64, out: &mut [u8]) -> io::Result<()> {
        let (chunk, tag) = out.split_at_mut(out.len() - TAG_LEN);
        read_exact_at(&*self.inner, number * CHUNK, chunk)?;
        let is_last = number + 1 == self.chunks();
        self.hash(number, is_last, chunk);
        let made = self.sealing.seal_chunk(number, is_last, chunk);
        tag.copy_from_slice(made.as_ref());
        Ok(())
    }

    /// Takes a chunk into the hash of the plain bytes, if it is the next one of its block.
    fn hash(&self, number: u64, is_last: bool, chunk: &[u8]) {
        let Some(plain) = &self.plain else { return };
        let (block, within) = (number / CHUNKS_PER_BLOCK, number % CHUNKS_PER_BLOCK);
        let mut hasher = {
            let mut plain = lock(plain);
            if plain.done.contains_key(&block) {
                return;
            }
            let open = plain.open.iter();
            let known = open
                .clone()
                .position(|(at, next, _)| (*at, *next) == (block, within));
            match known {
                Some(index) => plain.open.swap_remove(index).2,
                None if within == 0 => BlockHasher::default(),
                None => return,
            }
        };
        // Not under the lock: others hash other blocks meanwhile.
        hasher.update(chunk);
        let mut plain = lock(plain);
        if is_last || within + 1 == CHUNKS_PER_BLOCK {
            if !chunk.is_empty() {
                plain.done.insert(block, hasher.finish());
            }
            plain.open.retain(|(open, ..)| *open != block);
        } else {
            if plain.open.len() == MOST_OPEN {
                plain.open.remove(0);
            }
            plain.open.push((block, within + 1, hasher));
        }
    }

    /// A whole sealed chunk: one that was not read to its end before, or a new one.
    fn chunk(&self, number: u64) -> io::Result<Vec<u8>> {
        let mut ready = lock(&self.ready);
        if let Some(index) = ready.waiting.iter().position(|(known, _)| *known == number) {
            return Ok(ready.waiting.remove(index).1);
        }
        let mut chunk = ready.spare.pop().unwrap_or_default();
        drop(ready);
        chunk.resize(self.sealed_chunk_len(number), 0);
        self.seal_into(number, &mut chunk)?;
        Ok(chunk)
    }

    /// Its reader will be back.
    fn put_back(&self, number: u64, chunk: Vec<u8>) {
        let mut ready = lock(&self.ready);
        if ready.waiting.len() == MOST_READY {
            let (_, forgotten) = ready.waiting.remove(0);
            ready.spare.push(forgotten);
        }
        ready.waiting.push((number, chunk));
    }

    /// It was read to its end.
    fn reuse(&self, chunk: Vec<u8>) {
        let mut ready = lock(&self.ready);
        if ready.waiting.len() + ready.spare.len() < MOST_READY {
            ready.spare.push(chunk);
        }
    }
}

impl Source for Sealed {
    fn len(&self) -> u64 {
        self.sealing.sealed_len(self.inner.len())
    }

    /// The plain bytes', and which encryption it is: another one makes other bytes of them.
    fn fingerprint(&self) -> io::Result<Fingerprint> {
        Ok(self.fingerprint_of(&self.inner.fingerprint()?))
    }

    fn is_still(&self, expected: &Fingerprint) -> io::Result<bool> {
        let suffix = format!("+age:{}", self.sealing.id());
        match expected.0.strip_suffix(&suffix) {
            Some(inner) => self.inner.is_still(&Fingerprint(inner.to_owned())),
            None => Ok(false),
        }
    }

    fn left_out(&self) -> Vec<String> {
        self.inner.left_out()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.len().saturating_sub(offset);
        let wanted = usize::try_from(left).map_or(buf.len(), |left| left.min(buf.len()));
        let buf = &mut buf[..wanted];
        let mut filled = 0;
        while filled < wanted {
            let at = offset + filled as u64;
            let rest = &mut buf[filled..];
            let Some(behind_header) = at.checked_sub(self.header_len()) else {
                let start = usize::try_from(at).expect("a header fits memory");
                let header = &self.sealing.header()[start..];
                let len = header.len().min(rest.len());
                rest[..len].copy_from_slice(&header[..len]);
                filled += len;
                continue;
            };
            let number = behind_header / SEALED_CHUNK;
            let skip = usize::try_from(behind_header % SEALED_CHUNK).expect("a chunk fits memory");
            let chunk_len = self.sealed_chunk_len(number);
            if skip == 0 && rest.len() >= chunk_len {
                self.seal_into(number, &mut rest[..chunk_len])?;
                filled += chunk_len;
                continue;
            }
            let chunk = self.chunk(number)?;
            let len = rest.len().min(chunk_len - skip);
            rest[..len].copy_from_slice(&chunk[skip..skip + len]);
            if skip + len < chunk_len {
                self.put_back(number, chunk);
            } else {
                self.reuse(chunk);
            }
            filled += len;
        }
        Ok(filled)
    }

    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }

    fn release(&self, range: Range<u64>) {
        let chunk = |offset: u64| offset.saturating_sub(self.header_len()) / SEALED_CHUNK;
        let start = self.plain_range(chunk(range.start)).start;
        let end = if range.end >= self.len() {
            self.inner.len()
        } else {
            self.plain_range(chunk(range.end)).start
        };
        if start < end {
            self.inner.release(start..end);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content_hash::hash_source;
    use crate::seal::{Identities, Opening, Recipients};
    use crate::source::memory::MemorySource;

    fn noise(len: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let next = |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[0]
        };
        (0..len).map(next).collect()
    }

    fn key() -> (Recipients, Identities) {
        let identity = age::x25519::Identity::generate();
        let public = identity.to_public().to_string();
        let secret = identity.to_string();
        let secret = secrecy::ExposeSecret::expose_secret(&secret);
        let identities = Identities::parse(secret.as_bytes(), || Err("asked".to_owned()));
        let recipients = Recipients::parse([public.as_str()]);
        (recipients.expect("a key"), identities.expect("a key"))
    }

    fn sealed(plain: &[u8], recipients: &Recipients) -> Sealed {
        let sealing = Arc::new(Sealing::new(recipients).expect("a header"));
        let inner = Arc::new(MemorySource::new(plain.to_vec()));
        Sealed::new(inner, sealing, Hashing::Plain)
    }

    fn open(stored: &[u8], identities: &Identities) -> Option<Vec<u8>> {
        let opening = Opening::new(stored, identities).ok()?;
        let plain_len = opening.plain_len(stored.len() as u64)?;
        let mut plain = Vec::new();
        for number in 0..Opening::chunks(plain_len) {
            let is_last = number + 1 == Opening::chunks(plain_len);
            let start = usize::try_from(opening.chunk_start(number)).ok()?;
            let end = stored.len().min(start + SEALED_CHUNK_LEN);
            let mut chunk = stored[start..end].to_vec();
            plain.extend_from_slice(opening.open_chunk(number, is_last, &mut chunk)?);
        }
        Some(plain)
    }

    #[test]
    fn whatever_is_read_in_whatever_pieces_is_the_same_and_opens() {
        let (recipients, identities) = key();
        for len in [
            0,
            1,
            CHUNK_LEN - 1,
            CHUNK_LEN,
            CHUNK_LEN + 1,
            2 * CHUNK_LEN,
            (5 << 20) + 7,
        ] {
            let plain = noise(len);
            let source = sealed(&plain, &recipients);
            let total = usize::try_from(source.len()).expect("small");
            let mut whole = vec![0; total];
            read_exact_at(&source, 0, &mut whole).expect("read");
            assert_eq!(
                open(&whole, &identities).as_deref(),
                Some(&plain[..]),
                "{len}"
            );
            for piece in [
                total.max(1),
                4096 + 1,
                CHUNK_LEN,
                256 * 1024,
                SEALED_CHUNK_LEN,
            ] {
                // Backwards, so that no piece finds what the one before left.
                let starts: Vec<_> = (0..total).step_by(piece).collect();
                for start in starts.into_iter().rev() {
                    let mut buf = vec![0; piece + 3];
                    let read = source.read_at(start as u64, &mut buf).expect("read");
                    let expected = &whole[start..total.min(start + piece + 3)];
                    assert!(buf[..read] == *expected, "{len} by {piece} at {start}");
                }
            }
            assert_eq!(source.read_at(total as u64, &mut [0; 9]).expect("read"), 0);
            let memory = MemorySource::new(plain.clone());
            let hash = hash_source(&memory).expect("hash");
            assert_eq!(source.content_hash().expect("hash"), hash, "{len}");
        }
    }

    #[test]
    fn several_threads_get_the_same_and_the_plain_hash_is_right() {
        let (recipients, identities) = key();
        let plain = noise((33 << 20) + 5);
        let source = sealed(&plain, &recipients);
        let total = usize::try_from(source.len()).expect("small");
        let mut whole = vec![0; total];
        let part = 3 << 20;
        std::thread::scope(|scope| {
            for (number, out) in whole.chunks_mut(part).enumerate() {
                let source = &source;
                scope.spawn(move || {
                    for (piece, out) in out.chunks_mut(100_000).enumerate() {
                        let at = (number * part + piece * 100_000) as u64;
                        read_exact_at(source, at, out).expect("read");
                    }
                });
            }
        });
        assert!(open(&whole, &identities).expect("opens") == plain);
        let memory = MemorySource::new(plain);
        assert_eq!(
            source.content_hash().expect("hash"),
            hash_source(&memory).expect("hash")
        );
    }

    #[test]
    fn in_order_nothing_is_read_twice_for_the_plain_hash() {
        let (recipients, _) = key();
        let plain = noise((9 << 20) + 5);
        let source = sealed(&plain, &recipients);
        let stored = hash_source(&source).expect("hash");
        assert_eq!(stored, hash_source(&source).expect("hash"));
        let done = lock(source.plain.as_ref().expect("hashing")).done.len();
        assert_eq!(done, 3);
    }

    #[test]
    fn the_fingerprint_names_the_source_and_the_encryption() {
        let (recipients, _) = key();
        let fingerprint = |plain: &[u8], sealing: &Arc<Sealing>| {
            let inner = Arc::new(MemorySource::new(plain.to_vec()));
            let source = Sealed::new(inner, sealing.clone(), Hashing::None);
            source.fingerprint().expect("fingerprint")
        };
        let [one, two] = [(); 2].map(|()| Arc::new(Sealing::new(&recipients).expect("a header")));
        assert_eq!(fingerprint(b"a", &one), fingerprint(b"a", &one));
        assert_ne!(fingerprint(b"a", &one), fingerprint(b"b", &one));
        assert_ne!(fingerprint(b"a", &one), fingerprint(b"a", &two));
    }

    #[test]
    fn a_source_that_got_shorter_is_an_error_and_no_short_archive() {
        let (recipients, _) = key();
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("a");
        std::fs::write(&path, noise(CHUNK_LEN * 2)).expect("write");
        let inner = Arc::new(crate::source::file::FileSource::open(&path).expect("open"));
        let sealing = Arc::new(Sealing::new(&recipients).expect("a header"));
        let source = Sealed::new(inner, sealing, Hashing::None);
        std::fs::write(&path, b"short").expect("write");
        let error = hash_source(&source).expect_err("shorter");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
