//! What a pruning still has to delete; a file for each destination.

use std::fs;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Doomed;
use crate::catalog::StoredFile;
use crate::error::{Error, ErrorKind};
use crate::state::{StateDir, replace};

/// The folder of journals in the state folder.
const FOLDER: &str = "prune";
/// The form of a journal; another one is as good as none.
const FORMAT: u32 = 1;

/// A journal, empty if there is none.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Journal {
    format: u32,
    files: Vec<Line>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    backup_id: String,
    path: String,
    rev: String,
}

impl Journal {
    /// What an earlier pruning left. One that cannot be read says nothing: its backups then count as without
    /// a manifest, and stay.
    pub(super) fn read(state: &StateDir, destination: &str) -> Journal {
        let read = fs::read(path(state, destination)).ok();
        let journal = read.and_then(|bytes| serde_json::from_slice::<Journal>(&bytes).ok());
        journal
            .filter(|journal| journal.format == FORMAT)
            .unwrap_or_default()
    }

    /// Brings it to the disk before anything is deleted.
    pub(super) fn write(
        state: &StateDir,
        destination: &str,
        doomed: &[Doomed],
    ) -> Result<(), Error> {
        let line = |doomed: &Doomed| Line {
            backup_id: doomed.backup_id.clone(),
            path: doomed.file.path.clone(),
            rev: doomed.file.rev.clone(),
        };
        let journal = Journal {
            format: FORMAT,
            files: doomed.iter().map(line).collect(),
        };
        let written = state
            .folder(FOLDER)
            .and_then(|_| replace(&path(state, destination), serde_json::to_vec(&journal)?));
        written.map_err(|error| failed(state, destination, &error))
    }

    /// Nothing is left to do.
    pub(super) fn remove(state: &StateDir, destination: &str) -> Result<(), Error> {
        match fs::remove_file(path(state, destination)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed(state, destination, &error))
            }
            _ => Ok(()),
        }
    }

    /// Whether something of this backup was to be deleted.
    pub(super) fn names(&self, backup_id: &str) -> bool {
        self.files.iter().any(|line| line.backup_id == backup_id)
    }

    /// Whether this very content was to be deleted.
    pub(super) fn has(&self, file: &StoredFile) -> bool {
        self.line(file).is_some()
    }

    /// The backup a file belonged to.
    pub(super) fn backup_of(&self, file: &StoredFile) -> String {
        self.line(file)
            .map_or_else(String::new, |line| line.backup_id.clone())
    }

    fn line(&self, file: &StoredFile) -> Option<&Line> {
        self.files
            .iter()
            .find(|line| line.path == file.path && line.rev == file.rev)
    }
}

fn path(state: &StateDir, destination: &str) -> PathBuf {
    state
        .path()
        .join(FOLDER)
        .join(format!("{destination}.json"))
}

fn failed(state: &StateDir, destination: &str, error: &io::Error) -> Error {
    let path = path(state, destination);
    let what = format!("{error}; nothing is deleted without it");
    Error::new(
        ErrorKind::Invalid,
        format!("the journal of pruning, {}", path.display()),
        what,
    )
    .hint("run as root; is the disk full?")
}
