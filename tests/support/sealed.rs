//! Stored archives, encrypted where they are: as this program stores them, or as somebody does by hand.

#![allow(dead_code, reason = "every test binary uses another part of it")]

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;

use age::secrecy::ExposeSecret as _;
use age::x25519;
use gitlab_pi_backup::catalog::hash_of;
use serde_json::{Value, json};

use super::dropbox::Dropbox;
use super::host::Host;

/// A key of age's.
pub struct Key(x25519::Identity);

impl Key {
    /// A new one.
    pub fn new() -> Key {
        Key(x25519::Identity::generate())
    }

    /// The public half.
    pub fn recipient(&self) -> String {
        self.0.to_public().to_string()
    }

    /// The private half, as `age-keygen` writes it.
    pub fn file(&self) -> String {
        let secret = self.0.to_string();
        format!(
            "# created: 2023-12-16\n# public key: {}\n{}\n",
            self.recipient(),
            secret.expose_secret()
        )
    }

    /// The private half in a file for its owner alone.
    pub fn write(&self, host: &Host) -> PathBuf {
        write_key(&host.path("key.txt"), &self.file())
    }
}

/// A file for its owner alone.
pub fn write_key(path: &Path, text: &str) -> PathBuf {
    let mut options = std::fs::OpenOptions::new();
    let file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.expect("a key");
    path.to_owned()
}

/// Encrypts for a recipient of age's.
pub fn seal(bytes: &[u8], recipient: &str) -> Vec<u8> {
    let recipient = x25519::Recipient::from_str(recipient).expect("a recipient");
    let recipients = std::iter::once(&recipient as &dyn age::Recipient);
    let encryptor = age::Encryptor::with_recipients(recipients).expect("a recipient");
    let mut out = Vec::new();
    let mut writer = encryptor.wrap_output(&mut out).expect("memory");
    writer.write_all(bytes).expect("memory");
    writer.finish().expect("memory");
    out
}

/// Puts this in the place of what is stored there.
pub fn replace(dropbox: &Dropbox, path: &str, bytes: &[u8]) {
    dropbox.remove(path);
    dropbox.put_file(path, bytes);
}

/// Encrypts all of a stored backup, its lists too, and tells its manifest.
pub fn seal_stored(dropbox: &Dropbox, id: &str, key: &Key) {
    let path = format!("/Manifests/{id}.json");
    let mut manifest: Value = serde_json::from_slice(&dropbox.content(&path)).expect("JSON");
    for archive in manifest["archives"].as_array_mut().expect("archives") {
        let name = archive["name"].as_str().expect("a name").to_owned();
        let folder = if archive["kind"] == "data" {
            "Data"
        } else {
            "Config"
        };
        seal_file(dropbox, &format!("/{folder}/{name}"), key);
        tell(dropbox, archive, folder);
    }
    replace(dropbox, &path, manifest.to_string().as_bytes());
    for list in ["members", "projects"] {
        let path = format!("/Manifests/{id}.{list}.gz");
        if dropbox.files().iter().any(|file| file.path_display == path) {
            seal_file(dropbox, &path, key);
        }
    }
}

fn seal_file(dropbox: &Dropbox, path: &str, key: &Key) {
    let sealed = seal(&dropbox.content(path), &key.recipient());
    dropbox.remove(path);
    dropbox.put_file(&format!("{path}.age"), &sealed);
}

/// Lets an entry of a manifest say what is stored.
fn tell(dropbox: &Dropbox, archive: &mut Value, folder: &str) {
    let name = format!("{}.age", archive["name"].as_str().expect("a name"));
    let sealed = dropbox.content(&format!("/{folder}/{name}"));
    archive["stored_name"] = json!(name);
    archive["stored_size"] = json!(sealed.len());
    archive["stored_hash"] = json!(hash_of(&sealed).to_string());
}

/// Stores these bytes as an encrypted data archive, and lets the manifest say that they are right.
pub fn put_data(dropbox: &Dropbox, id: &str, bytes: &[u8]) {
    replace(dropbox, &format!("/Data/{id}_gitlab_backup.tar.age"), bytes);
    let path = format!("/Manifests/{id}.json");
    let mut manifest: Value = serde_json::from_slice(&dropbox.content(&path)).expect("JSON");
    let archives = manifest["archives"].as_array_mut().expect("archives");
    let data = archives
        .iter_mut()
        .find(|archive| archive["kind"] == "data");
    tell(dropbox, data.expect("a data archive"), "Data");
    replace(dropbox, &path, manifest.to_string().as_bytes());
}
