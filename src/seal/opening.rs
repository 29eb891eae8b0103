//! The decryption of one archive: from its first bytes to the key that opens its chunks.

use std::fmt;
use std::io::Cursor;
use std::sync::{Mutex, PoisonError};

use age::{DecryptError, Decryptor};
use age_core::format::{FILE_KEY_BYTES, FileKey, Stanza};
use secrecy::{ExposeSecret, ExposeSecretMut, SecretBox};

use super::payload::{self, PayloadKey};
use super::{CHUNK_LEN, Identities, SEALED_CHUNK_LEN, TAG_LEN};

/// What every encrypted file begins with, and what one in text form does.
const MAGIC: &[u8] = b"age-encryption.org/v1\n";
const ARMOR: &[u8] = b"-----BEGIN AGE ENCRYPTED FILE-----";
/// So many kinds of recipients are named in an error.
const NAMED: usize = 5;

/// One decryption: any chunk can be opened, in any order, by several threads.
pub struct Opening {
    header_len: u64,
    key: PayloadKey,
}

/// Why an archive cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenFailure {
    /// The header goes on behind the bytes that were given, or the file ends in it.
    Incomplete,
    /// It is no file of age's, or none of the one form that is known.
    NotAge,
    /// None of the identities is one of those it is encrypted to; the kinds of these.
    NoMatch(Vec<String>),
    /// Its header is damaged.
    Damaged,
}

impl fmt::Display for OpenFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenFailure::Incomplete => f.write_str("it ends within its header"),
            OpenFailure::NotAge => f.write_str("it is not encrypted in age's format"),
            OpenFailure::NoMatch(kinds) => write!(
                f,
                "it is encrypted to other recipients ({})\n  name the private key of one of them: --identity FILE",
                kinds.join(", ")
            ),
            OpenFailure::Damaged => f.write_str("its header is damaged"),
        }
    }
}

impl Opening {
    /// From the first bytes of a file, at least its header: [`LONGEST_HEADER`](super::LONGEST_HEADER) bytes, or
    /// all there are, are always enough.
    pub fn new(begin: &[u8], identities: &Identities) -> Result<Opening, OpenFailure> {
        if begin.len() < MAGIC.len() && MAGIC.starts_with(begin) {
            return Err(OpenFailure::Incomplete);
        }
        if !begin.starts_with(MAGIC) || begin.starts_with(ARMOR) {
            return Err(OpenFailure::NotAge);
        }
        let mut input = Cursor::new(begin);
        let failed = |error: DecryptError| match error {
            DecryptError::Io(_) => OpenFailure::Incomplete,
            DecryptError::UnknownFormat => OpenFailure::NotAge,
            _ => OpenFailure::Damaged,
        };
        let decryptor = Decryptor::new_buffered(&mut input).map_err(failed)?;
        let capture = Capture {
            identities,
            found: Mutex::default(),
        };
        // Proves the header's MAC, too.
        let decrypted = decryptor.decrypt(std::iter::once(&capture as _)).map(drop);
        let found = capture.found.into_inner();
        let found = found.unwrap_or_else(PoisonError::into_inner);
        decrypted.map_err(|error| match error {
            DecryptError::NoMatchingKeys => OpenFailure::NoMatch(found.kinds.clone()),
            error => failed(error),
        })?;
        let header_len = input.position();
        let nonce = usize::try_from(header_len)
            .ok()
            .and_then(|len| begin[..len].last_chunk());
        let (Some(file_key), Some(nonce)) = (found.file_key, nonce) else {
            return Err(OpenFailure::Damaged);
        };
        Ok(Opening {
            header_len,
            key: PayloadKey::derive(file_key.expose_secret(), nonce),
        })
    }

    /// Where the first chunk begins, in bytes.
    pub fn header_len(&self) -> u64 {
        self.header_len
    }

    /// How long the archive was before it was encrypted; none if no encrypted file is `stored_len` bytes long: it
    /// was cut, or something was added.
    pub fn plain_len(&self, stored_len: u64) -> Option<u64> {
        payload::plain_len(stored_len.checked_sub(self.header_len)?)
    }

    /// How many chunks `plain_len` bytes are in.
    pub fn chunks(plain_len: u64) -> u64 {
        payload::chunks(plain_len)
    }

    /// Where the chunk of this number lies in the encrypted file; the last one may end earlier.
    pub fn chunk_start(&self, number: u64) -> u64 {
        self.header_len + number * SEALED_CHUNK_LEN as u64
    }

    /// Decrypts a chunk, with its tag, where it lies; none if it is damaged, or not the chunk of this number. A
    /// chunk that is not the last is whole, and the last is empty only if it is the first as well.
    pub fn open_chunk<'a>(
        &self,
        number: u64,
        is_last: bool,
        sealed: &'a mut [u8],
    ) -> Option<&'a mut [u8]> {
        let len = sealed.len().checked_sub(TAG_LEN)?;
        let right = match (is_last, len) {
            (false, len) => len == CHUNK_LEN,
            (true, 0) => number == 0,
            (true, len) => len <= CHUNK_LEN,
        };
        if !right {
            return None;
        }
        self.key.open(number, is_last, sealed)
    }
}

/// What is learned while the age crate reads a header.
#[derive(Default)]
struct Learned {
    file_key: Option<SecretBox<[u8; FILE_KEY_BYTES]>>,
    kinds: Vec<String>,
}

/// The identities together, as one that also keeps the file's key.
struct Capture<'a> {
    identities: &'a Identities,
    found: Mutex<Learned>,
}

impl age::Identity for Capture<'_> {
    fn unwrap_stanza(&self, stanza: &Stanza) -> Option<Result<FileKey, DecryptError>> {
        self.unwrap_stanzas(std::slice::from_ref(stanza))
    }

    fn unwrap_stanzas(&self, stanzas: &[Stanza]) -> Option<Result<FileKey, DecryptError>> {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        for stanza in stanzas {
            // What age adds so that readers get used to kinds they do not know.
            let is_grease = stanza.tag.ends_with("-grease");
            let shown: String = stanza.tag.chars().take(30).collect();
            if !is_grease && found.kinds.len() < NAMED && !found.kinds.contains(&shown) {
                found.kinds.push(shown);
            }
        }
        let mut keys = self.identities.keys.iter();
        let file_key = keys.find_map(|key| key.unwrap_stanzas(stanzas))?;
        if let Ok(file_key) = &file_key {
            let mut copy = SecretBox::new(Box::new([0; FILE_KEY_BYTES]));
            copy.expose_secret_mut()
                .copy_from_slice(file_key.expose_secret());
            found.file_key = Some(copy);
        }
        Some(file_key)
    }
}
