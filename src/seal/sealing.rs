//! The encryption of one archive: its header, and the key that seals its chunks.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::sync::{Mutex, PoisonError};

use age::{EncryptError, Encryptor};
use age_core::format::{FILE_KEY_BYTES, FileKey, Stanza};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD};
use ring::aead::Tag;
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::hmac;
use secrecy::{ExposeSecret, ExposeSecretMut, SecretBox, SecretString};
use serde::{Deserialize, Serialize};

use super::payload::{self, PayloadKey};
use super::{LONGEST_HEADER, Recipients};
use crate::content_hash::Digest;

/// The length of the nonce behind the header, in bytes.
const NONCE_LEN: usize = 16;

/// One encryption: made once for an archive, so that however often and in whatever order its chunks are sealed,
/// the same bytes come out. Never is it used for other bytes.
pub struct Sealing {
    recipients: Vec<String>,
    /// With the nonce at its end.
    header: Vec<u8>,
    file_key: SecretBox<[u8; FILE_KEY_BYTES]>,
    key: PayloadKey,
}

/// As it stands in the journal of an upload.
#[derive(Serialize, Deserialize)]
struct Journalled {
    recipients: Vec<String>,
    header: String,
    file_key: String,
}

impl Sealing {
    /// A new one, with a key that nobody has yet.
    pub fn new(recipients: &Recipients) -> Result<Sealing, String> {
        let kept = Mutex::new(None);
        let parsed = recipients.parsed()?;
        let keeping: Vec<_> = parsed
            .iter()
            .map(|recipient| Keeping {
                recipient: recipient.as_age(),
                kept: &kept,
            })
            .collect();
        let encryptor = Encryptor::with_recipients(keeping.iter().map(|recipient| recipient as _))
            .map_err(|error| format!("making an age header: {error}"))?;
        let mut header = Vec::new();
        // All that is written before any payload: the header and the nonce.
        encryptor
            .wrap_output(&mut header)
            .map_err(|error| format!("making an age header: {error}"))?;
        drop(keeping);
        let file_key = kept.into_inner().unwrap_or_else(PoisonError::into_inner);
        let file_key = file_key.ok_or("making an age header: no recipient was asked")?;
        Sealing::assemble(recipients.public_keys().to_vec(), header, file_key)
    }

    /// The error says that these do not belong together.
    fn assemble(
        recipients: Vec<String>,
        header: Vec<u8>,
        file_key: SecretBox<[u8; FILE_KEY_BYTES]>,
    ) -> Result<Sealing, String> {
        let nonce = header.last_chunk::<NONCE_LEN>();
        let nonce = nonce.filter(|_| header.len() <= LONGEST_HEADER && is_ours(&header, &file_key));
        let nonce =
            nonce.ok_or("the header and the key of an encryption do not belong together")?;
        let key = PayloadKey::derive(file_key.expose_secret(), nonce);
        Ok(Sealing {
            recipients,
            header,
            file_key,
            key,
        })
    }

    /// What the encrypted file begins with.
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// The public keys of those who can decrypt.
    pub fn recipients(&self) -> &[String] {
        &self.recipients
    }

    /// Names this encryption, and tells nothing of its key.
    pub fn id(&self) -> String {
        Digest::of(&self.header).to_string()[..16].to_owned()
    }

    /// How many chunks `plain_len` bytes make.
    pub fn chunks(plain_len: u64) -> u64 {
        payload::chunks(plain_len)
    }

    /// How long `plain_len` bytes become, with the header.
    pub fn sealed_len(&self, plain_len: u64) -> u64 {
        self.header.len() as u64 + payload::sealed_len(plain_len)
    }

    /// Encrypts a chunk where it lies and returns the tag that goes behind it.
    pub fn seal_chunk(&self, number: u64, is_last: bool, chunk: &mut [u8]) -> Tag {
        self.key.seal(number, is_last, chunk)
    }

    /// For the journal of an upload that is not done; whoever has this can decrypt this one archive.
    pub fn to_journal(&self) -> SecretString {
        let journalled = Journalled {
            recipients: self.recipients.clone(),
            header: BASE64_STANDARD.encode(&self.header),
            file_key: BASE64_STANDARD.encode(self.file_key.expose_secret()),
        };
        let text = serde_json::to_string(&journalled).expect("nothing in it that JSON cannot say");
        text.into()
    }

    /// Back from a journal. The error does not repeat anything of it.
    pub fn from_journal(text: &str) -> Result<Sealing, String> {
        let damaged = || "the encryption in it is damaged".to_owned();
        let journalled: Journalled = serde_json::from_str(text).map_err(|_| damaged())?;
        let decode = |text: &str| BASE64_STANDARD.decode(text).map_err(|_| damaged());
        let header = decode(&journalled.header)?;
        let bytes = SecretBox::new(Box::new(decode(&journalled.file_key)?));
        let bytes: &[u8; FILE_KEY_BYTES] = bytes
            .expose_secret()
            .as_slice()
            .try_into()
            .map_err(|_| damaged())?;
        let file_key = SecretBox::new(Box::new(*bytes));
        Sealing::assemble(journalled.recipients, header, file_key)
    }
}

impl fmt::Debug for Sealing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealing({})", self.id())
    }
}

/// Whether the MAC at the header's end was made with this key.
fn is_ours(header: &[u8], file_key: &SecretBox<[u8; FILE_KEY_BYTES]>) -> bool {
    let Some((text, _)) = header.split_last_chunk::<NONCE_LEN>() else {
        return false;
    };
    let Some(start) = text.windows(5).rposition(|window| window == b"\n--- ") else {
        return false;
    };
    // The three hyphens are under the MAC, the blank behind them is not.
    let (signed, mac) = (&text[..start + 4], &text[start + 5..]);
    let mac = mac
        .strip_suffix(b"\n")
        .and_then(|mac| BASE64_STANDARD_NO_PAD.decode(mac).ok());
    let key = Salt::new(HKDF_SHA256, &[]).extract(file_key.expose_secret());
    let key = key.expand(&[b"header"], hmac::HMAC_SHA256);
    let key = hmac::Key::from(key.expect("a key is not longer than HKDF can make"));
    mac.is_some_and(|mac| hmac::verify(&key, signed, &mac).is_ok())
}

/// A recipient that also keeps the key which the age crate makes for the file.
struct Keeping<'a> {
    recipient: &'a dyn age::Recipient,
    kept: &'a Mutex<Option<SecretBox<[u8; FILE_KEY_BYTES]>>>,
}

impl age::Recipient for Keeping<'_> {
    fn wrap_file_key(
        &self,
        file_key: &FileKey,
    ) -> Result<(Vec<Stanza>, HashSet<String>), EncryptError> {
        let mut copy = SecretBox::new(Box::new([0; FILE_KEY_BYTES]));
        copy.expose_secret_mut()
            .copy_from_slice(file_key.expose_secret());
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept
            .as_ref()
            .is_some_and(|kept| kept.expose_secret() != copy.expose_secret())
        {
            return Err(io::Error::other("it has more than one key").into());
        }
        *kept = Some(copy);
        self.recipient.wrap_file_key(file_key)
    }
}
