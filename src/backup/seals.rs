//! What this machine knows of encrypted archives, without being able to decrypt one.
//!
//! Two kinds of small files, one for each archive and destination. While it is being stored, `*.sealing` beside
//! the upload's journal holds its encryption, with the key, so that the next run can go on with the very same
//! bytes. When it is stored, and before that file goes, a file in `sealed` says which stored bytes are which
//! archive: encrypted bytes differ each time, so what is already there could not be told otherwise.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};

use crate::content_hash::Digest;
use crate::destination::dropbox::{JOURNALS, discard};
use crate::seal::Sealing;
use crate::source::Fingerprint;
use crate::state::{StateDir, private_file, replace, sync_folder};

/// The folder of notes in the state folder.
const FOLDER: &str = "sealed";
/// What the name of an encryption that is not done ends in.
const EXTENSION: &str = "sealing";
/// The form of both kinds of files; of another one nothing is read.
const FORMAT: u32 = 1;
/// So many notes stay, the newest: a manifest says the same when it is written.
const KEPT: usize = 500;
/// A longer file is none of these; bytes.
const LONGEST: u64 = 1024 * 1024;

/// Which stored bytes are which archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    /// The destination's name.
    pub(super) destination: String,
    /// Where it is there.
    pub(super) path: String,
    /// What the plain archive looked like.
    pub(super) fingerprint: Fingerprint,
    /// Its length in bytes.
    pub(super) size: u64,
    /// Its content hash.
    pub(super) content_hash: Digest,
    /// The length of what is stored, in bytes.
    pub(super) stored_size: u64,
    /// The content hash of what is stored.
    pub(super) stored_hash: Digest,
    /// Who can decrypt it.
    pub(super) recipients: Vec<String>,
}

impl Note {
    /// Whether this is what lies there, as far as the destination tells.
    pub(super) fn is(&self, found: &crate::catalog::StoredFile) -> bool {
        let hash = found.content_hash;
        found.size == self.stored_size && hash.is_none_or(|hash| hash == self.stored_hash)
    }
}

/// An encryption that is not done.
pub(super) struct Begun {
    /// The destination's name.
    pub(super) destination: String,
    /// Where it is to be stored there.
    pub(super) path: String,
    /// Where the plain archive lies on this machine.
    pub(super) source: PathBuf,
    /// What it looked like; for no other bytes may the encryption be used.
    pub(super) fingerprint: Fingerprint,
    /// The encryption.
    pub(super) sealing: Arc<Sealing>,
}

/// As it is written.
#[derive(Serialize, Deserialize)]
struct BegunFile {
    format: u32,
    destination: String,
    path: String,
    source: PathBuf,
    fingerprint: Fingerprint,
    sealing: String,
}

#[derive(Serialize, Deserialize)]
struct NoteFile {
    format: u32,
    #[serde(flatten)]
    stored: Note,
}

/// All of them.
pub(super) struct Seals<'a> {
    state: &'a StateDir,
    /// By destination and path: what this run stored, should nothing be writable.
    stored: Mutex<BTreeMap<(String, String), Note>>,
}

impl<'a> Seals<'a> {
    pub(super) fn new(state: &'a StateDir) -> Seals<'a> {
        Seals {
            state,
            stored: Mutex::default(),
        }
    }

    /// What is known of what is stored at a path.
    pub(super) fn stored(&self, destination: &str, path: &str) -> Option<Note> {
        let noted = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stored) = noted.get(&(destination.to_owned(), path.to_owned())) {
            return Some(stored.clone());
        }
        let folder = self.state.path().join(FOLDER);
        let bytes = read(&folder.join(file_name(destination, path, "json"))).ok()?;
        let file: NoteFile = serde_json::from_slice(bytes.expose_secret().as_bytes()).ok()?;
        let stored = (file.format == FORMAT).then_some(file.stored)?;
        (stored.destination == destination && stored.path == path).then_some(stored)
    }

    /// Notes, durably, what is stored; then its encryption is forgotten, and with it the key.
    pub(super) fn note(&self, stored: Note) -> io::Result<()> {
        let (destination, path) = (stored.destination.clone(), stored.path.clone());
        let mut noted = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        noted.insert((destination.clone(), path.clone()), stored.clone());
        drop(noted);
        let folder = self.state.folder(FOLDER)?;
        let file = NoteFile {
            format: FORMAT,
            stored,
        };
        let name = file_name(&destination, &path, "json");
        replace(&folder.join(name), serde_json::to_vec(&file)?)?;
        tidy(&folder);
        self.forget(&destination, &path)
    }

    /// Keeps an encryption, durably, before anything of it is sent.
    pub(super) fn keep(&self, begun: &Begun) -> io::Result<()> {
        let folder = self.state.folder(JOURNALS)?;
        let path = folder.join(file_name(&begun.destination, &begun.path, EXTENSION));
        discard(&path)?;
        let file = BegunFile {
            format: FORMAT,
            destination: begun.destination.clone(),
            path: begun.path.clone(),
            source: begun.source.clone(),
            fingerprint: begun.fingerprint.clone(),
            sealing: begun.sealing.to_journal().expose_secret().to_owned(),
        };
        let text = SecretString::from(serde_json::to_string(&file)?);
        let mut file = private_file(OpenOptions::new().write(true).create_new(true)).open(&path)?;
        file.write_all(text.expose_secret().as_bytes())?;
        file.sync_all()?;
        sync_folder(&folder)
    }

    /// The encryption with which something was begun to be stored at a path.
    pub(super) fn begun(&self, destination: &str, path: &str) -> Option<Begun> {
        let folder = self.state.path().join(JOURNALS);
        let begun = load(&folder.join(file_name(destination, path, EXTENSION)))?;
        (begun.destination == destination && begun.path == path).then_some(begun)
    }

    /// All encryptions that are not done, those that cannot be read taken away.
    pub(super) fn all_begun(&self) -> Vec<Begun> {
        let entries = fs::read_dir(self.state.path().join(JOURNALS));
        let mut paths: Vec<_> = entries
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                path.extension()
                    .is_some_and(|extension| extension == EXTENSION)
            })
            .collect();
        paths.sort();
        let mut all = Vec::new();
        for path in paths {
            match load(&path) {
                Some(begun) => all.push(begun),
                // Torn, so nothing was sent with it yet, or of no use to anybody.
                None => drop(discard(&path)),
            }
        }
        all
    }

    /// Whether there is a journal of the upload that an encryption was made for.
    pub(super) fn has_journal(&self, begun: &Begun) -> bool {
        let name = file_name(&begun.destination, &begun.path, "journal");
        self.state.path().join(JOURNALS).join(name).exists()
    }

    /// The key of an encryption goes.
    pub(super) fn forget(&self, destination: &str, path: &str) -> io::Result<()> {
        let folder = self.state.path().join(JOURNALS);
        discard(&folder.join(file_name(destination, path, EXTENSION)))
    }
}

fn file_name(destination: &str, stored_path: &str, extension: &str) -> String {
    let name = stored_path.rsplit('/').next().unwrap_or(stored_path);
    format!("{destination}.{name}.{extension}")
}

fn read(path: &Path) -> io::Result<SecretString> {
    let mut text = String::new();
    fs::File::open(path)?
        .take(LONGEST)
        .read_to_string(&mut text)?;
    Ok(text.into())
}

fn load(path: &Path) -> Option<Begun> {
    let text = read(path).ok()?;
    let file: BegunFile = serde_json::from_str(text.expose_secret()).ok()?;
    let sealing = SecretString::from(file.sealing);
    let sealing = Sealing::from_journal(sealing.expose_secret()).ok()?;
    (file.format == FORMAT).then(|| Begun {
        destination: file.destination,
        path: file.path,
        source: file.source,
        fingerprint: file.fingerprint,
        sealing: Arc::new(sealing),
    })
}

/// The oldest notes go when there are many.
fn tidy(folder: &Path) {
    let mut files: Vec<_> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    files.sort();
    let many = files.len().saturating_sub(KEPT);
    for (_, path) in files.into_iter().take(many) {
        // What stays is looked at again next time.
        let _ = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::Recipients;
    use std::os::unix::fs::PermissionsExt as _;

    const PATH: &str = "/Config/gitlab_config_1702758583_2023_12_16.tar.age";

    fn begun() -> Begun {
        let public = age::x25519::Identity::generate().to_public().to_string();
        let recipients = Recipients::parse([public.as_str()]).expect("a key");
        Begun {
            destination: "box".to_owned(),
            path: PATH.to_owned(),
            source: PathBuf::from("/x/a.tar"),
            fingerprint: Fingerprint("f".to_owned()),
            sealing: Arc::new(Sealing::new(&recipients).expect("a header")),
        }
    }

    #[test]
    fn an_encryption_is_kept_until_what_is_stored_is_noted() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let state = StateDir::new(dir.path());
        let seals = Seals::new(&state);
        let begun = begun();
        assert!(seals.begun("box", PATH).is_none());
        seals.keep(&begun).expect("kept");
        let file = dir
            .path()
            .join(JOURNALS)
            .join(format!("box.{}.sealing", &PATH[8..]));
        let mode = fs::metadata(&file).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let back = seals.begun("box", PATH).expect("read back");
        assert_eq!(
            (back.sealing.id(), back.source),
            (begun.sealing.id(), begun.source)
        );
        assert!(seals.begun("other", PATH).is_none());
        assert_eq!(seals.all_begun().len(), 1);
        let stored = Note {
            destination: "box".to_owned(),
            path: PATH.to_owned(),
            fingerprint: Fingerprint("f".to_owned()),
            size: 1,
            content_hash: Digest::of(b"a"),
            stored_size: 2,
            stored_hash: Digest::of(b"b"),
            recipients: begun.sealing.recipients().to_vec(),
        };
        seals.note(stored.clone()).expect("noted");
        assert!(!file.exists());
        assert_eq!(Seals::new(&state).stored("box", PATH), Some(stored));
        assert_eq!(Seals::new(&state).stored("other", PATH), None);
    }

    #[test]
    fn a_torn_one_goes() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let state = StateDir::new(dir.path());
        let seals = Seals::new(&state);
        seals.keep(&begun()).expect("kept");
        let file = dir
            .path()
            .join(JOURNALS)
            .join(format!("box.{}.sealing", &PATH[8..]));
        let text = fs::read(&file).expect("there");
        for cut in [0, 1, text.len() / 2, text.len() - 1] {
            fs::write(&file, &text[..cut]).expect("written");
            assert!(seals.begun("box", PATH).is_none(), "cut at {cut}");
            assert!(seals.all_begun().is_empty());
            assert!(!file.exists(), "cut at {cut}");
        }
    }
}
