//! A source that is hashed while it is sent, so that the disk is read once.

use std::fmt::Write as _;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

use crate::content_hash::{BLOCK_LEN, ContentHasher, Digest};
use crate::progress::Progress;
use crate::source::{Fingerprint, Source};

/// A source whose bytes are read from the first to the last, once or several times.
pub struct Observed {
    source: Arc<dyn Source>,
    /// Whether a server is to be compared that tells SHA-1.
    with_sha1: bool,
    progress: Option<Progress>,
    seen: Mutex<Seen>,
}

/// What has been read since the first byte was.
struct Seen {
    content: ContentHasher,
    sha256: Context,
    sha1: Option<Context>,
}

/// The hashes of a source that was read as a whole.
pub struct Sums {
    /// The content hash.
    pub content: Digest,
    /// In hex, as the others.
    pub sha256: String,
    /// Where it was asked for.
    pub sha1: Option<String>,
}

impl Seen {
    fn new(with_sha1: bool) -> Seen {
        Seen {
            content: ContentHasher::default(),
            sha256: Context::new(&SHA256),
            sha1: with_sha1.then(|| Context::new(&SHA1_FOR_LEGACY_USE_ONLY)),
        }
    }
}

impl Observed {
    /// Tells `progress` what is read.
    pub fn new(source: Arc<dyn Source>, with_sha1: bool, progress: Option<Progress>) -> Observed {
        let seen = Mutex::new(Seen::new(with_sha1));
        Observed {
            source,
            with_sha1,
            progress,
            seen,
        }
    }

    /// Bytes read since the first one was.
    pub fn position(&self) -> u64 {
        self.seen().content.len()
    }

    /// The next attempt reads from the first byte.
    pub fn begin_again(&self) {
        *self.seen() = Seen::new(self.with_sha1);
        if let Some(progress) = &self.progress {
            progress.begin_again();
        }
    }

    /// The hashes; none if it has not been read to its end.
    pub fn sums(&self) -> Option<Sums> {
        let mut seen = self.seen();
        if seen.content.len() != self.source.len() {
            return None;
        }
        let seen = std::mem::replace(&mut *seen, Seen::new(self.with_sha1));
        Some(Sums {
            content: seen.content.finish(),
            sha256: hex(seen.sha256.finish().as_ref()),
            sha1: seen.sha1.map(|context| hex(context.finish().as_ref())),
        })
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, offset: u64, bytes: &[u8]) {
        let mut seen = self.seen();
        let before = seen.content.len();
        if offset != before {
            return;
        }
        seen.content.update(bytes);
        seen.sha256.update(bytes);
        if let Some(sha1) = &mut seen.sha1 {
            sha1.update(bytes);
        }
        let now = seen.content.len();
        drop(seen);
        if let Some(progress) = &self.progress {
            progress.add(bytes.len() as u64);
        }
        // Whole blocks behind the reader are not needed again soon.
        let (from, to) = (before / BLOCK_LEN * BLOCK_LEN, now / BLOCK_LEN * BLOCK_LEN);
        if from < to {
            self.source.release(from..to);
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

impl Source for Observed {
    fn len(&self) -> u64 {
        self.source.len()
    }

    fn fingerprint(&self) -> io::Result<Fingerprint> {
        self.source.fingerprint()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.source.read_at(offset, buf)?;
        self.note(offset, &buf[..n]);
        Ok(n)
    }

    fn read_ready(&self, offset: u64, buf: &mut [u8]) -> usize {
        let n = self.source.read_ready(offset, buf);
        // A part of what was asked for is asked for again, as a whole.
        if n == buf.len() {
            self.note(offset, buf);
        }
        n
    }

    fn release(&self, range: Range<u64>) {
        self.source.release(range);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content_hash::hash_source;
    use crate::source::memory::MemorySource;
    use crate::source::read_exact_at;

    #[test]
    fn what_is_read_in_order_is_hashed_once() {
        let bytes: Vec<u8> = (0..9_000_000_u32).map(|i| i.to_le_bytes()[1]).collect();
        let source: Arc<dyn Source> = Arc::new(MemorySource::new(bytes.clone()));
        let observed = Observed::new(source.clone(), true, None);
        let read = |offset: usize, len: usize| {
            read_exact_at(&observed, offset as u64, &mut vec![0; len]).expect("read");
        };
        read(0, 1_000_000);
        assert!(observed.sums().is_none());
        // Begun again, with something out of order.
        observed.begin_again();
        read(0, 4_000_000);
        read(0, 100);
        read(4_000_000, 5_000_000);
        assert_eq!(observed.position(), 9_000_000);
        let sums = observed.sums().expect("all of it");
        assert_eq!(sums.content, hash_source(&*source).expect("memory"));
        assert_eq!(sums.sha256, Digest::of(&bytes).to_string());
        assert_eq!(sums.sha1.map(|sha1| sha1.len()), Some(40));
    }
}
