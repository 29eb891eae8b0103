//! The one file of an export that is on its way through this machine: `state_dir/projects/spool.tar.gz`.
//!
//! A small file beside it says whose it is and which content the server calls it, so that a download goes on where
//! it was after a crash; and, while it is sent encrypted, another one holds its encryption, so that the upload does.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use rustix::fs::statvfs;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};

use super::journal::{Asked, FOLDER};
use crate::seal::Sealing;
use crate::source::Fingerprint;
use crate::state::{StateDir, private_file, replace, sync_folder};

const FILE: &str = "spool.tar.gz";
const LABEL: &str = "spool.json";
const SEALING: &str = "spool.sealing";
/// The folder of its upload's journal: not that of archives, which the next run would look through.
const JOURNALS: &str = "uploads";
/// A longer file is none of these; bytes.
const LONGEST: u64 = 1024 * 1024;

/// Whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Label {
    /// The project.
    pub(super) id: u64,
    /// When GitLab was asked for it.
    pub(super) asked: DateTime<Utc>,
    /// What the server calls this content.
    pub(super) validator: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Begun {
    fingerprint: Fingerprint,
    sealing: String,
}

impl Label {
    /// Whether the file is the export of this project that was asked for then.
    pub(super) fn is_of(&self, id: u64, asked: &Asked) -> bool {
        self.id == id && self.asked == asked.at
    }
}

/// The place of the file.
#[derive(Debug)]
pub(super) struct Spool {
    folder: PathBuf,
}

impl Spool {
    /// Makes the place for it.
    pub(super) fn open(state: &StateDir) -> io::Result<Spool> {
        let folder = state.folder(FOLDER)?;
        Ok(Spool { folder })
    }

    /// Where the file lies.
    pub(super) fn path(&self) -> PathBuf {
        self.folder.join(FILE)
    }

    /// The folder for the journal of its upload.
    pub(super) fn journals(&self) -> io::Result<PathBuf> {
        StateDir::new(&self.folder).folder(JOURNALS)
    }

    /// Whose file was left there by an earlier process.
    pub(super) fn label(&self) -> Option<Label> {
        let text = read(&self.folder.join(LABEL)).ok()?;
        serde_json::from_str(text.expose_secret()).ok()
    }

    /// Says, durably, whose file it is and which content.
    pub(super) fn mark(&self, label: &Label) -> io::Result<()> {
        replace(&self.folder.join(LABEL), serde_json::to_vec(label)?)
    }

    /// How much of it is there, in bytes.
    pub(super) fn len(&self) -> u64 {
        fs::symlink_metadata(self.path()).map_or(0, |metadata| metadata.len())
    }

    /// The file, for somebody who writes behind the first `keep` bytes.
    pub(super) fn file(&self, keep: u64) -> io::Result<File> {
        let mut options = OpenOptions::new();
        let file = private_file(options.write(true).create(true)).open(self.path())?;
        file.set_len(keep)?;
        sync_folder(&self.folder)?;
        Ok(file)
    }

    /// How much room there is, in bytes.
    pub(super) fn free(&self) -> io::Result<u64> {
        let disk = statvfs(&self.folder)?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    /// The encryption with which these very bytes were begun to be sent.
    pub(super) fn sealing(&self, fingerprint: &Fingerprint) -> Option<Arc<Sealing>> {
        let text = read(&self.folder.join(SEALING)).ok()?;
        let begun: Begun = serde_json::from_str(text.expose_secret()).ok()?;
        let sealing = SecretString::from(begun.sealing);
        let sealing = Sealing::from_journal(sealing.expose_secret()).ok()?;
        (begun.fingerprint == *fingerprint).then(|| Arc::new(sealing))
    }

    /// Keeps the encryption, durably, before anything of it is sent.
    pub(super) fn keep_sealing(&self, fingerprint: &Fingerprint, with: &Sealing) -> io::Result<()> {
        let begun = Begun {
            fingerprint: fingerprint.clone(),
            sealing: with.to_journal().expose_secret().to_owned(),
        };
        let text = SecretString::from(serde_json::to_string(&begun)?);
        replace(&self.folder.join(SEALING), text.expose_secret().as_bytes())
    }

    /// It has done its work, or is of no use: with it goes all that was about it.
    pub(super) fn clear(&self) -> io::Result<()> {
        for name in [SEALING, FILE, LABEL] {
            remove(&self.folder.join(name))?;
        }
        // Of an upload that will not go on.
        match fs::remove_dir_all(self.folder.join(JOURNALS)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn read(path: &Path) -> io::Result<SecretString> {
    let mut text = String::new();
    File::open(path)?.take(LONGEST).read_to_string(&mut text)?;
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::os::unix::fs::PermissionsExt as _;

    use crate::seal::Recipients;

    #[test]
    fn what_is_begun_is_found_again_and_goes_as_a_whole() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let spool = Spool::open(&StateDir::new(dir.path())).expect("a place");
        assert_eq!((spool.label(), spool.len()), (None, 0));
        let label = Label {
            id: 7,
            asked: DateTime::UNIX_EPOCH,
            validator: Some("\"e\"".to_owned()),
        };
        spool.mark(&label).expect("marked");
        let file = spool.file(0).expect("a file");
        file.set_len(9).expect("grown");
        let mode = file.metadata().expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!((spool.label(), spool.len()), (Some(label), 9));
        spool.file(5).expect("cut");
        assert_eq!(spool.len(), 5);

        let public = age::x25519::Identity::generate().to_public().to_string();
        let recipients = Recipients::parse([public.as_str()]).expect("a key");
        let sealing = Sealing::new(&recipients).expect("a header");
        let (one, other) = (Fingerprint("1".to_owned()), Fingerprint("2".to_owned()));
        spool.keep_sealing(&one, &sealing).expect("kept");
        assert_eq!(spool.sealing(&one).expect("it").id(), sealing.id());
        assert!(spool.sealing(&other).is_none(), "one key never seals two");

        spool.journals().expect("a folder");
        assert!(spool.free().expect("asked") > 0);
        spool.clear().expect("cleared");
        assert_eq!((spool.label(), spool.len()), (None, 0));
        assert!(spool.sealing(&one).is_none());
        let left = fs::read_dir(dir.path().join(FOLDER)).expect("the folder");
        assert_eq!(left.count(), 0);
        spool.clear().expect("nothing to do");
    }
}
