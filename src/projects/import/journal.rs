//! How far an import is, on the disk: `state_dir/imports/<digits of the place>.json`. It is written before the export
//! is sent, and when GitLab has told the import's number, so that no call sends it a second time.

use std::fs;
use std::io;
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::find::Stored;
use crate::content_hash::Digest;
use crate::state::{StateDir, replace};

/// What this program writes, and the only form it reads.
const FORMAT: u32 = 1;
/// The folder in the state folder.
pub(super) const FOLDER: &str = "imports";

/// An unfinished import.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Journal {
    format: u32,
    /// Which GitLab.
    host: String,
    /// Where to.
    to: String,
    /// Whose export it is.
    pub(super) from: String,
    /// Which one.
    pub(super) stored: Stored,
    /// From when on it may have arrived, by GitLab's clock.
    pub(super) sent_at: Option<DateTime<Utc>>,
    /// The number of the project that GitLab makes of it.
    pub(super) id: Option<u64>,
}

/// A file of an import in the state folder; nothing is made yet.
pub(super) fn path(state: &StateDir, to: &str, suffix: &str) -> PathBuf {
    // A path may be longer than a file's name, and GitLab takes it for the same in any case.
    let digits = Digest::of(to.to_lowercase().as_bytes()).to_string();
    state
        .path()
        .join(FOLDER)
        .join(format!("{}.{suffix}", &digits[..16]))
}

impl Journal {
    pub(super) fn new(host: &str, to: &str, from: &str, stored: &Stored) -> Journal {
        Journal {
            format: FORMAT,
            host: host.to_owned(),
            to: to.to_owned(),
            from: from.to_owned(),
            stored: stored.clone(),
            sent_at: None,
            id: None,
        }
    }

    /// The unfinished import into a place of a GitLab, if there is one. The error says what can be done.
    pub(super) fn load(state: &StateDir, host: &str, to: &str) -> Result<Option<Journal>, String> {
        let path = path(state, to, "json");
        let unusable = |what: &str| {
            format!(
                "reading how far an earlier import is, {}: {what}\n  \
                 look whether {to} is in GitLab, then delete this file to begin anew",
                path.display()
            )
        };
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes.map_err(|error| unusable(&error.to_string()))?,
        };
        let journal: Journal = serde_json::from_slice(&bytes)
            .map_err(|error| unusable(&format!("it is damaged: {error}")))?;
        if journal.format != FORMAT {
            return Err(unusable("it is of another version of this program"));
        }
        let is_same = journal.host == host && journal.to.to_lowercase() == to.to_lowercase();
        Ok(is_same.then_some(journal))
    }

    /// Whether what an earlier call has fetched is of this export.
    pub(super) fn resumable(state: &StateDir, host: &str, to: &str, stored: &Stored) -> bool {
        let earlier = Journal::load(state, host, to).ok().flatten();
        earlier.is_some_and(|journal| journal.stored == *stored)
    }

    /// Brings it onto the disk.
    pub(super) fn save(&self, state: &StateDir) -> Result<(), String> {
        let path = path(state, &self.to, "json");
        let text = serde_json::to_vec_pretty(self).expect("nothing in it that JSON cannot say");
        let saved = state.folder(FOLDER).and_then(|_| replace(&path, text));
        saved.map_err(|error| {
            format!(
                "noting in {} how far the import is: {error}\n  make room there",
                path.display()
            )
        })
    }

    /// Takes it away if nothing of it can have arrived.
    pub(super) fn forget_unsent(state: &StateDir, host: &str, to: &str) {
        let journal = Journal::load(state, host, to).ok().flatten();
        if journal.is_some_and(|journal| journal.sent_at.is_none()) {
            Journal::remove(state, to);
        }
    }

    /// There is nothing to go on with.
    pub(super) fn remove(state: &StateDir, to: &str) {
        // One that stays tells of an import that is looked for, and found to be over.
        let _ = fs::remove_file(path(state, to, "json"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn stored() -> Stored {
        Stored {
            path: "/group/app/2026-11-22-04-00-00.tar.gz".to_owned(),
            time: "2026-11-22T04:00:00Z".parse().expect("a time"),
            size: 7,
            rev: "1".to_owned(),
            content_hash: None,
        }
    }

    #[test]
    fn an_import_is_found_again_where_it_was_begun() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let state = StateDir::new(dir.path());
        let mut journal = Journal::new("gitlab", "new/App", "group/app", &stored());
        let load = |host: &str, to: &str| Journal::load(&state, host, to);
        assert_eq!(load("gitlab", "new/App"), Ok(None));
        journal.id = Some(42);
        journal.save(&state).expect("saved");
        assert_eq!(load("gitlab", "NEW/app"), Ok(Some(journal)));
        assert_eq!(load("other", "new/App"), Ok(None));
        assert_eq!(load("gitlab", "new/app2"), Ok(None));
        assert!(Journal::resumable(&state, "gitlab", "new/App", &stored()));
        let mut other = stored();
        other.rev = "2".to_owned();
        assert!(!Journal::resumable(&state, "gitlab", "new/App", &other));
        Journal::remove(&state, "new/App");
        assert_eq!(load("gitlab", "new/App"), Ok(None));
    }

    #[test]
    fn a_damaged_one_is_told_with_the_way_out() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let state = StateDir::new(dir.path());
        let journal = Journal::new("gitlab", "new/App", "group/app", &stored());
        journal.save(&state).expect("saved");
        let path = path(&state, "new/App", "json");
        let whole = fs::read_to_string(&path).expect("read");
        for text in [
            "",
            "{",
            "[]",
            &whole.replace("\"format\": 1", "\"format\": 2"),
        ] {
            fs::write(&path, text).expect("written");
            let error = Journal::load(&state, "gitlab", "new/App").expect_err("damaged");
            assert!(error.contains("delete this file"), "{error}");
        }
        assert!(path.starts_with(Path::new(dir.path())));
    }
}
