//! A stored archive as GitLab made it, whether it is stored so or encrypted: the one place where archives are
//! decrypted.
//!
//! Nothing is handed on that is not authenticated: of an encrypted archive only whole chunks are, each opened under
//! its own number. Their order, their number and the end are part of that, so that nothing can be swapped, left out,
//! repeated or cut off.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::fetch::{Arriving, fetch, pipe};
use super::{Destination, LONGEST_RANGE};
use crate::content_hash::{ContentHasher, Digest};
use crate::error::{Error, ErrorKind};
use crate::retry::Patience;
use crate::seal::{CHUNK_LEN, Identities, LONGEST_HEADER, OpenFailure, Opening, SUFFIX};

/// How much of an encrypted archive is read at first, in bytes: more than the header for a few recipients.
const FIRST_LOOK: u64 = 4 * 1024;
/// The length of a chunk before it was encrypted, in bytes.
const CHUNK: u64 = CHUNK_LEN as u64;

/// Whether a stored name is that of an encrypted file.
pub fn is_sealed(name: &str) -> bool {
    name.ends_with(SUFFIX)
}

/// A stored archive, open for reading.
pub struct Unsealed<'a> {
    destination: &'a Destination,
    path: String,
    stored_len: u64,
    len: u64,
    /// How it is decrypted; none if it is stored as GitLab made it.
    opening: Option<Arc<Opening>>,
    /// Of what is stored, as far as it has been read from its beginning.
    hasher: Mutex<Option<ContentHasher>>,
    /// Bytes that came from the destination, whatever they were read for.
    fetched: AtomicU64,
    damaged: AtomicBool,
}

impl<'a> Unsealed<'a> {
    /// Opens what is stored at `path`, `stored_len` bytes long. What is encrypted, which its name tells, needs
    /// `identities`, one of which must be one of its recipients'. What is damaged is an error of the kind `Corrupt`.
    pub async fn open(
        destination: &'a Destination,
        path: &str,
        stored_len: u64,
        identities: Option<&Identities>,
        patience: &Patience,
    ) -> Result<Unsealed<'a>, Error> {
        let mut unsealed = Unsealed {
            destination,
            path: path.to_owned(),
            stored_len,
            len: stored_len,
            opening: None,
            hasher: Mutex::new(Some(ContentHasher::default())),
            fetched: AtomicU64::new(0),
            damaged: AtomicBool::new(false),
        };
        if is_sealed(path) {
            let Some(identities) = identities else {
                return Err(unsealed
                    .error(ErrorKind::Unauthorized, "it is encrypted")
                    .hint("name the file with the private key: --identity FILE"));
            };
            unsealed.unlock(identities, patience).await?;
        }
        Ok(unsealed)
    }

    async fn unlock(&mut self, identities: &Identities, patience: &Patience) -> Result<(), Error> {
        let most = self.stored_len.min(LONGEST_HEADER as u64);
        let mut begin = Vec::new();
        let opening = loop {
            let read = begin.len() as u64;
            let more = (read * 8).clamp(FIRST_LOOK, most.max(FIRST_LOOK)).min(most) - read;
            if more > 0 {
                begin.extend(self.read_stored(read, more, patience).await?);
            }
            match Opening::new(&begin, identities) {
                Err(OpenFailure::Incomplete) if (begin.len() as u64) < most => {}
                opened => break opened,
            }
        };
        let opening = opening.map_err(|failure| {
            let told = failure.to_string();
            match told.split_once("\n  ") {
                Some((what, way_out)) => self.error(ErrorKind::Unauthorized, what).hint(way_out),
                None => self.damage(&told),
            }
        })?;
        let Some(len) = opening.plain_len(self.stored_len) else {
            return Err(self.damage("it has been cut off, or something has been added to it"));
        };
        let header = usize::try_from(opening.header_len()).unwrap_or(usize::MAX);
        if let Some(header) = begin.get(..header) {
            self.hash(0, header);
        }
        self.len = len;
        self.opening = Some(Arc::new(opening));
        Ok(())
    }

    /// Its length as GitLab made it, in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where it is stored, for messages.
    pub fn place(&self) -> String {
        format!("{}:{}", self.destination.name(), self.path)
    }

    /// How many bytes have been downloaded so far.
    pub fn fetched(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }

    /// Whether it was found to be damaged where it is stored, so that reading it again cannot help.
    pub fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Relaxed)
    }

    /// The content hash of an encrypted archive as it is stored, if all of it has been read in order.
    pub fn stored_hash(&self) -> Option<Digest> {
        let mut hasher = self.hasher.lock().unwrap_or_else(PoisonError::into_inner);
        let whole = hasher.take_if(|hasher| hasher.len() == self.stored_len);
        whole.map(ContentHasher::finish)
    }

    /// Reads a part of at most [`LONGEST_RANGE`] bytes; shorter only at the end.
    pub async fn read(&self, offset: u64, len: u64, patience: &Patience) -> Result<Vec<u8>, Error> {
        let len = len.min(LONGEST_RANGE).min(self.len.saturating_sub(offset));
        if self.opening.is_none() {
            return self.read_stored(offset, len, patience).await;
        }
        let mut bytes = Vec::new();
        let taking = self.fetch(offset..offset + len, patience, async |part: Vec<u8>| {
            bytes.extend(part);
            Ok(())
        });
        taking.await?;
        Ok(bytes)
    }

    async fn read_stored(
        &self,
        offset: u64,
        len: u64,
        patience: &Patience,
    ) -> Result<Vec<u8>, Error> {
        if len == 0 {
            return Ok(Vec::new());
        }
        let part = self.destination.read(&self.path, offset, len, patience);
        let part = part.await?;
        patience.renew();
        self.fetched.fetch_add(part.len() as u64, Ordering::Relaxed);
        if part.len() as u64 == len {
            return Ok(part);
        }
        let end = offset + part.len() as u64;
        let what = format!("it ends at byte {end} of {}", self.stored_len);
        Err(self
            .error(ErrorKind::SourceChanged, &what)
            .hint("has somebody changed it? `gitlab-pi-backup verify` tells what is stored"))
    }

    /// Hands the bytes of `range` to `take`, in order.
    pub async fn fetch(
        &self,
        range: Range<u64>,
        patience: &Patience,
        mut take: impl AsyncFnMut(Vec<u8>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let Some(opening) = &self.opening else {
            let counted = async |part: Vec<u8>| {
                self.fetched.fetch_add(part.len() as u64, Ordering::Relaxed);
                take(part).await
            };
            return fetch(self.destination, &self.path, range, patience, counted).await;
        };
        // Nothing is in one chunk, too: that it is so has to be proved.
        let chunks = Opening::chunks(self.len);
        let (first, end) = match (range.start / CHUNK, range.end.div_ceil(CHUNK)) {
            _ if self.len == 0 => (0, 1),
            (first, end) if range.start < range.end => (first, end.min(chunks)),
            _ => return Ok(()),
        };
        let stored_end = |number: u64| opening.chunk_start(number).min(self.stored_len);
        let stored = opening.chunk_start(first)..stored_end(end);
        let mut next = first;
        let mut offset = stored.start;
        let mut waiting = Vec::new();
        let opened = async |part: Vec<u8>| {
            self.fetched.fetch_add(part.len() as u64, Ordering::Relaxed);
            self.hash(offset, &part);
            offset += part.len() as u64;
            waiting.extend(part);
            let mut whole = next;
            while whole < end && stored_end(whole + 1) <= offset {
                whole += 1;
            }
            let len = usize::try_from(stored_end(whole) - opening.chunk_start(next));
            let rest = waiting.split_off(len.unwrap_or(usize::MAX).min(waiting.len()));
            let sealed = std::mem::replace(&mut waiting, rest);
            let piece = Piece {
                opening: opening.clone(),
                chunks: next..whole,
                last: chunks - 1,
            };
            let at = next * CHUNK;
            next = whole;
            let plain = tokio::task::spawn_blocking(move || piece.open(sealed)).await;
            let plain = plain.unwrap_or(Err(None)).map_err(|number| match number {
                Some(number) => self.damage(&format!(
                    "chunk {number}, from byte {} on, is damaged, or is not the one that belongs there",
                    opening.chunk_start(number)
                )),
                None => self.error(ErrorKind::Unexpected, "the program is ending"),
            })?;
            let plain = within(plain, at, &range);
            if plain.is_empty() {
                return Ok(());
            }
            take(plain).await
        };
        fetch(self.destination, &self.path, stored, patience, opened).await
    }

    /// Lets `reading` read `range` on a thread of its own while it comes. What it does not read is not fetched, as
    /// soon as it ends. An error is the line's, or the archive's; a reader is told of it, too.
    pub async fn stream<T: Send + 'static>(
        &self,
        range: Range<u64>,
        patience: &Patience,
        progress: impl Fn(u64),
        reading: impl FnOnce(Arriving) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (sending, arriving) = pipe();
        let mut reading = tokio::task::spawn_blocking(move || reading(arriving));
        let fetching = async {
            let fetched = self
                .fetch(range, patience, async |part: Vec<u8>| {
                    progress(part.len() as u64);
                    sending.send(part).await;
                    Ok(())
                })
                .await;
            sending.end(&fetched).await;
            fetched
        };
        let read = tokio::select! {
            fetched = fetching => {
                let read = (&mut reading).await;
                fetched?;
                read
            }
            read = &mut reading => read,
        };
        read.map_err(|_| self.error(ErrorKind::Unexpected, "the program is ending"))
    }

    /// Goes on hashing, if this is what follows what was hashed.
    fn hash(&self, offset: u64, part: &[u8]) {
        let mut hasher = self.hasher.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(hasher) = hasher.as_mut().filter(|hasher| hasher.len() == offset) {
            hasher.update(part);
        }
    }

    fn damage(&self, what: &str) -> Error {
        self.damaged.store(true, Ordering::Relaxed);
        self.error(ErrorKind::Corrupt, what).hint(ANOTHER)
    }

    fn error(&self, kind: ErrorKind, what: &str) -> Error {
        let doing = if is_sealed(&self.path) {
            "decrypting"
        } else {
            "reading"
        };
        Error::new(kind, format!("{doing} {}", self.place()), what)
    }
}

/// The way out where what is stored is damaged.
const ANOTHER: &str = "`gitlab-pi-backup verify` tells whether it is what was stored; take another backup, or another destination";

/// Some chunks in a row.
struct Piece {
    opening: Arc<Opening>,
    chunks: Range<u64>,
    /// The number of the archive's last chunk.
    last: u64,
}

impl Piece {
    /// Decrypts them where they lie; the error is the number of the chunk that is damaged.
    fn open(self, mut sealed: Vec<u8>) -> Result<Vec<u8>, Option<u64>> {
        let (mut from, mut to) = (0, 0);
        for number in self.chunks {
            let len = sealed_len(&sealed[from..]);
            let opened =
                self.opening
                    .open_chunk(number, number == self.last, &mut sealed[from..from + len]);
            let plain = opened.ok_or(Some(number))?.len();
            sealed.copy_within(from..from + plain, to);
            from += len;
            to += plain;
        }
        sealed.truncate(to);
        Ok(sealed)
    }
}

/// How long the chunk is that these bytes begin with.
fn sealed_len(bytes: &[u8]) -> usize {
    bytes.len().min(crate::seal::SEALED_CHUNK_LEN)
}

/// What of these bytes, which begin at `at`, is in `range`.
fn within(mut bytes: Vec<u8>, at: u64, range: &Range<u64>) -> Vec<u8> {
    let place = |offset: u64| {
        let offset = offset.saturating_sub(at);
        usize::try_from(offset).map_or(bytes.len(), |offset| offset.min(bytes.len()))
    };
    let (start, end) = (place(range.start), place(range.end));
    bytes.truncate(end);
    bytes.drain(..start.min(end));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_asked_for_is_handed_on() {
        for (at, range, left) in [
            (0, 0..10, "0123456789"),
            (0, 3..5, "34"),
            (100, 0..103, "012"),
            (100, 108..200, "89"),
            (100, 0..100, ""),
            (100, 110..120, ""),
        ] {
            assert_eq!(within(b"0123456789".to_vec(), at, &range), left.as_bytes());
        }
    }
}
