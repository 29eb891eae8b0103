//! The payload: chunks of 64 KiB, each sealed by ChaCha20-Poly1305 under a nonce that tells its number and
//! whether it is the last. The last one may be shorter; it is empty only in the encryption of nothing.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};

/// The length of a chunk in bytes; only the last may be shorter.
pub const CHUNK_LEN: usize = 64 * 1024;
/// By how much a chunk grows when it is sealed, in bytes.
pub const TAG_LEN: usize = 16;
/// The length of a sealed chunk in bytes.
pub const SEALED_CHUNK_LEN: usize = CHUNK_LEN + TAG_LEN;

const CHUNK: u64 = CHUNK_LEN as u64;
const TAG: u64 = TAG_LEN as u64;
const SEALED_CHUNK: u64 = SEALED_CHUNK_LEN as u64;

/// The key of one payload.
pub(super) struct PayloadKey(LessSafeKey);

impl PayloadKey {
    /// The specification's derivation from the file's key and the nonce behind its header.
    pub(super) fn derive(file_key: &[u8; 16], nonce: &[u8; 16]) -> PayloadKey {
        let key = Salt::new(HKDF_SHA256, nonce).extract(file_key);
        let key = key.expand(&[b"payload"], &CHACHA20_POLY1305);
        let key = key.expect("a key is not longer than HKDF can make");
        PayloadKey(LessSafeKey::new(UnboundKey::from(key)))
    }

    /// Encrypts a chunk where it lies and returns the tag that goes behind it.
    pub(super) fn seal(&self, number: u64, is_last: bool, chunk: &mut [u8]) -> Tag {
        let sealed = self
            .0
            .seal_in_place_separate_tag(nonce(number, is_last), Aad::empty(), chunk);
        sealed.expect("a chunk is not longer than the cipher can take")
    }

    /// Decrypts a chunk, with its tag, where it lies; none if it is damaged, or another chunk.
    pub(super) fn open<'a>(
        &self,
        number: u64,
        is_last: bool,
        sealed: &'a mut [u8],
    ) -> Option<&'a mut [u8]> {
        let opened = self
            .0
            .open_in_place(nonce(number, is_last), Aad::empty(), sealed);
        opened.ok()
    }
}

/// The number in eleven bytes, the greatest first, and whether it is the last chunk.
fn nonce(number: u64, is_last: bool) -> Nonce {
    let mut nonce = [0; 12];
    nonce[3..11].copy_from_slice(&number.to_be_bytes());
    nonce[11] = u8::from(is_last);
    Nonce::assume_unique_for_key(nonce)
}

/// How many chunks a payload has.
pub(super) fn chunks(plain_len: u64) -> u64 {
    plain_len.div_ceil(CHUNK).max(1)
}

/// How long a payload becomes, in bytes.
pub(super) fn sealed_len(plain_len: u64) -> u64 {
    plain_len + chunks(plain_len) * TAG
}

/// How long a payload was; none if no payload is so long.
pub(super) fn plain_len(sealed_len: u64) -> Option<u64> {
    let (whole, rest) = (sealed_len / SEALED_CHUNK, sealed_len % SEALED_CHUNK);
    match (whole, rest) {
        (0, TAG) => Some(0),
        (1.., 0) => Some(whole * CHUNK),
        // A last chunk that is empty although there are others is refused, as the specification says.
        (_, rest) if rest > TAG => Some(whole * CHUNK + rest - TAG),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_go_there_and_back() {
        for whole in [0, 1, 2, 1_000_000] {
            for rest in [0, 1, 15, 16, 17, CHUNK - 1] {
                let plain = whole * CHUNK + rest;
                let sealed = sealed_len(plain);
                assert_eq!(plain_len(sealed), Some(plain), "{plain}");
            }
        }
        assert_eq!(sealed_len(0), 16);
        assert_eq!(sealed_len(CHUNK), SEALED_CHUNK);
        assert_eq!(sealed_len(CHUNK + 1), SEALED_CHUNK + 17);
        for impossible in [
            0,
            1,
            15,
            SEALED_CHUNK + 1,
            SEALED_CHUNK + 16,
            3 * SEALED_CHUNK + 15,
        ] {
            assert_eq!(plain_len(impossible), None, "{impossible}");
        }
    }

    #[test]
    fn a_chunk_opens_only_in_its_own_place() {
        let key = PayloadKey::derive(&[7; 16], &[9; 16]);
        let mut sealed = b"hello".to_vec();
        let tag = key.seal(5, false, &mut sealed);
        sealed.extend_from_slice(tag.as_ref());
        let open = |key: &PayloadKey, number, is_last| {
            let mut sealed = sealed.clone();
            key.open(number, is_last, &mut sealed)
                .map(|plain| plain.to_vec())
        };
        assert_eq!(open(&key, 5, false).as_deref(), Some(&b"hello"[..]));
        assert_eq!(open(&key, 5, true), None);
        assert_eq!(open(&key, 6, false), None);
        assert_eq!(open(&key, 5 << 8, false), None);
        for (file_key, nonce) in [([7; 16], [8; 16]), ([8; 16], [9; 16])] {
            assert_eq!(open(&PayloadKey::derive(&file_key, &nonce), 5, false), None);
        }
    }
}
