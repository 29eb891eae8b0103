//! Private keys: with one of them an archive can be decrypted.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use age::armor::ArmoredReader;
use age::{DecryptError, Decryptor, IdentityFile, scrypt, ssh};
use secrecy::{ExposeSecret, SecretBox, SecretString};

/// A longer file is no identity file; bytes.
const LONGEST_FILE: u64 = 1024 * 1024;
/// A passphrase may cost so much to try, as age's own program allows: two to this power.
const MOST_WORK: u8 = 22;

/// What begins an encrypted file, and what does in its armored form.
const AGE: &[u8] = b"age-encryption.org/";
const ARMOR: &[u8] = b"-----BEGIN AGE ENCRYPTED FILE-----";

/// Some private keys.
pub struct Identities {
    pub(super) keys: Vec<Box<dyn age::Identity + Send + Sync>>,
}

impl Identities {
    /// Reads an identity file: one of age's, one that is protected by a passphrase, or a private key of SSH. The
    /// passphrase is asked for only if there is one. Errors do not repeat what stands in the file.
    pub fn read(
        path: &Path,
        ask: impl FnOnce() -> Result<SecretString, String>,
    ) -> Result<Identities, String> {
        let told = |what: &str| format!("reading the identity file {}: {what}", path.display());
        let file = File::open(path).map_err(|error| {
            told(&error.to_string()) + "\n  name the file with the private key: --identity FILE"
        })?;
        let mut bytes = SecretBox::new(Box::new(Vec::new()));
        let read = secrecy::ExposeSecretMut::expose_secret_mut(&mut bytes);
        file.take(LONGEST_FILE + 1)
            .read_to_end(read)
            .map_err(|error| told(&error.to_string()))?;
        if bytes.expose_secret().len() as u64 > LONGEST_FILE {
            return Err(told("it is too long to be one"));
        }
        Identities::parse(bytes.expose_secret(), ask).map_err(|why| told(&why))
    }

    /// What an identity file holds.
    pub fn parse(
        bytes: &[u8],
        ask: impl FnOnce() -> Result<SecretString, String>,
    ) -> Result<Identities, String> {
        let begin = bytes.trim_ascii_start();
        let keys = if begin.starts_with(ARMOR) || begin.starts_with(AGE) {
            with_passphrase(begin, ask)?
        } else if begin.starts_with(b"-----BEGIN") {
            vec![of_ssh(begin, ask)?]
        } else {
            native(begin)?
        };
        Ok(Identities { keys })
    }
}

/// An identity file as `age-keygen` writes it.
fn native(bytes: &[u8]) -> Result<Vec<Box<dyn age::Identity + Send + Sync>>, String> {
    if bytes.starts_with(b"age1") || bytes.starts_with(b"ssh-") {
        return Err(
            "it holds a public key\n  decrypting takes the private one that belongs to it"
                .to_owned(),
        );
    }
    let file = IdentityFile::from_buffer(bytes).map_err(
        |_| "it is none\n  it takes a key file of age's, or a private key of SSH (ed25519 or rsa)",
    )?;
    let keys = file.into_identities().map_err(|error| error.to_string())?;
    if keys.is_empty() {
        return Err("there is no key in it".to_owned());
    }
    Ok(keys)
}

/// An identity file that was encrypted with `age -p`.
fn with_passphrase(
    bytes: &[u8],
    ask: impl FnOnce() -> Result<SecretString, String>,
) -> Result<Vec<Box<dyn age::Identity + Send + Sync>>, String> {
    let damaged = |_| "it is encrypted, and damaged".to_owned();
    let decryptor = Decryptor::new_buffered(ArmoredReader::new(bytes)).map_err(damaged)?;
    if !decryptor.is_scrypt() {
        return Err(
            "it is encrypted, but not by a passphrase\n  decrypt it first: age -d".to_owned(),
        );
    }
    let mut passphrase = scrypt::Identity::new(ask()?);
    passphrase.set_max_work_factor(MOST_WORK);
    let plain = decryptor.decrypt(std::iter::once(&passphrase as _));
    let plain = plain.map_err(|error| match error {
        DecryptError::ExcessiveWork { .. } => "its passphrase costs too much to try".to_owned(),
        DecryptError::DecryptionFailed | DecryptError::NoMatchingKeys => wrong_passphrase(),
        _ => "it is encrypted, and damaged".to_owned(),
    })?;
    let mut bytes = SecretBox::new(Box::new(Vec::new()));
    plain
        .take(LONGEST_FILE)
        .read_to_end(secrecy::ExposeSecretMut::expose_secret_mut(&mut bytes))
        .map_err(|_| "it is encrypted, and damaged".to_owned())?;
    native(bytes.expose_secret().trim_ascii_start())
}

/// A private key of SSH, perhaps one that is protected by a passphrase.
fn of_ssh(
    bytes: &[u8],
    ask: impl FnOnce() -> Result<SecretString, String>,
) -> Result<Box<dyn age::Identity + Send + Sync>, String> {
    let key = ssh::Identity::from_buffer(BufReader::new(bytes), None);
    match key.map_err(|_| "it is no private key that is known, or a damaged one".to_owned())? {
        ssh::Identity::Unencrypted(key) => Ok(Box::new(ssh::Identity::from(key))),
        ssh::Identity::Encrypted(key) => {
            let key = key.decrypt(ask()?).map_err(|_| wrong_passphrase())?;
            Ok(Box::new(ssh::Identity::from(key)))
        }
        ssh::Identity::Unsupported(_) => Err(
            "this kind of SSH key cannot decrypt\n  it takes ed25519 or rsa, in the form that `ssh-keygen -o` writes"
                .to_owned(),
        ),
    }
}

fn wrong_passphrase() -> String {
    "the passphrase is wrong".to_owned()
}
