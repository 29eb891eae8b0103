//! What a restore into GitLab has done so far, so that the same command goes on after a power cut:
//! `state_dir/restore.json`. It is written before each thing that could not be understood without it, and
//! goes away when all is done.

use std::fs;
use std::io;
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::Wish;
use super::runbook::Step;
use crate::archive::{ArchiveKind, ArchiveName};
use crate::state::{StateDir, replace, sync_folder};

/// What this program writes, and the only form it reads.
const FORMAT: u32 = 1;
/// Its name in the state folder.
const NAME: &str = "restore.json";

/// An unfinished restore.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Journal {
    format: u32,
    /// GitLab's ID of the backup.
    pub(super) backup_id: String,
    /// Where it is fetched from.
    pub(super) destination: String,
    /// When it was begun; names what is moved away.
    pub(super) begun_at: DateTime<Utc>,
    /// GitLab's version.
    pub(super) gitlab_version: Option<String>,
    /// The parts that GitLab left out.
    pub(super) skipped: Vec<String>,
    /// What is wrong with the archives.
    pub(super) doubts: Vec<String>,
    /// Both archives, config first.
    pub(super) wishes: Vec<Wish>,
    /// Where the former `/etc/gitlab` is, or is about to be moved.
    pub(super) kept: Option<PathBuf>,
    /// The inode of the unpacked folder that becomes `/etc/gitlab`: if that has it, it is done.
    pub(super) unpacked: Option<u64>,
    /// What is done, in order.
    pub(super) done: Vec<Step>,
}

impl Journal {
    pub(super) fn new(backup_id: &str, destination: &str, begun_at: DateTime<Utc>) -> Journal {
        Journal {
            format: FORMAT,
            backup_id: backup_id.to_owned(),
            destination: destination.to_owned(),
            begun_at,
            gitlab_version: None,
            skipped: Vec::new(),
            doubts: Vec::new(),
            wishes: Vec::new(),
            kept: None,
            unpacked: None,
            done: Vec::new(),
        }
    }

    /// Where it lies.
    pub(super) fn path(state: &StateDir) -> PathBuf {
        state.path().join(NAME)
    }

    /// Reads the unfinished one, if there is one. The error says what can be done.
    pub(super) fn load(state: &StateDir) -> Result<Option<Journal>, String> {
        let path = Journal::path(state);
        let unusable = |what: &str| {
            format!(
                "reading what an earlier restore has done, {}: {what}\n  \
                 delete this file to begin anew: all steps are then done again",
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
        let kinds: Vec<_> = journal.wishes.iter().map(|wish| wish.kind).collect();
        let named =
            |wish: &Wish| ArchiveName::parse(&wish.name).is_some_and(|name| name.kind == wish.kind);
        if kinds != ArchiveKind::ALL || !journal.wishes.iter().all(named) {
            return Err(unusable("it is damaged: it names other archives"));
        }
        Ok(Some(journal))
    }

    /// Brings it onto the disk.
    pub(super) fn save(&self, state: &StateDir) -> Result<(), String> {
        let path = Journal::path(state);
        let mut text = serde_json::to_vec_pretty(self).expect("nothing in it that JSON cannot say");
        text.push(b'\n');
        replace(&path, text).map_err(|error| {
            format!(
                "noting in {} what is done: {error}\n  make room there",
                path.display()
            )
        })
    }

    /// Notes that a step is done.
    pub(super) fn finish(&mut self, step: Step, state: &StateDir) -> Result<(), String> {
        self.done.push(step);
        self.save(state)
    }

    pub(super) fn has_done(&self, step: Step) -> bool {
        self.done.contains(&step)
    }

    /// Whether something of GitLab's may have been changed.
    pub(super) fn has_changed_something(&self) -> bool {
        self.kept.is_some()
            || self.unpacked.is_some()
            || self.done.iter().any(|step| *step > Step::Version)
    }

    /// All is done, or nothing was.
    pub(super) fn remove(state: &StateDir) -> io::Result<()> {
        match fs::remove_file(Journal::path(state)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.and_then(|()| sync_folder(state.path())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content_hash::Digest;

    fn journal() -> Journal {
        let wish = |kind, name: &str| Wish {
            kind,
            name: name.to_owned(),
            stored_path: format!("/x/{name}"),
            stored_size: 7,
            stored_hash: None,
            size: 7,
            hash: Some(Digest::of(b"a")),
            key: Digest::of(b"a"),
            rev: "r".to_owned(),
        };
        let mut journal = Journal::new(
            "1702758583_2023_12_16_16.5.1",
            "dropbox",
            DateTime::UNIX_EPOCH,
        );
        journal.wishes = vec![
            wish(
                ArchiveKind::Config,
                "gitlab_config_1702758583_2023_12_16.tar",
            ),
            wish(
                ArchiveKind::Data,
                "1702758583_2023_12_16_16.5.1_gitlab_backup.tar",
            ),
        ];
        journal
    }

    #[test]
    fn it_is_read_as_it_was_written_and_goes_away() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let state = StateDir::new(dir.path());
        assert!(Journal::load(&state).expect("nothing").is_none());
        let mut journal = journal();
        journal.finish(Step::Fetch, &state).expect("written");
        let read = Journal::load(&state).expect("readable").expect("there");
        assert_eq!(format!("{read:?}"), format!("{journal:?}"));
        assert!(read.has_done(Step::Fetch) && !read.has_changed_something());
        journal.finish(Step::Reconfigure, &state).expect("written");
        assert!(journal.has_changed_something());
        Journal::remove(&state).expect("removed");
        Journal::remove(&state).expect("gone already");
        assert!(Journal::load(&state).expect("nothing").is_none());
    }

    #[test]
    fn a_damaged_one_is_told_with_its_path() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let state = StateDir::new(dir.path());
        let mut other = journal();
        other.wishes[1].name = "../../etc/shadow".to_owned();
        let mut later = journal();
        later.format = 2;
        let text = |journal: &Journal| serde_json::to_vec(journal).expect("JSON");
        for bytes in [text(&other), text(&later), b"{".to_vec(), Vec::new()] {
            fs::write(Journal::path(&state), bytes).expect("written");
            let error = Journal::load(&state).expect_err("refused");
            let path = Journal::path(&state).display().to_string();
            assert!(
                error.contains(&path) && error.contains("delete this file"),
                "{error}"
            );
        }
    }
}
