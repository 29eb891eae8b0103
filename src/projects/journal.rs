//! What has been asked of GitLab and what is stored, so that neither a crash nor a restart asks for it again.
//!
//! One file per run, `state_dir/projects/<time>.jsonl`, only ever appended to: a line is on the disk before the
//! request that it tells of is sent, so after a crash at any moment nothing is asked for that could be under way.
//! GitLab and the destination are the truth: what the journal tells is looked up there before it counts.

mod told;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use self::told::Told;
use super::name::TIME;
use crate::state::{StateDir, append_line, sync_folder};

/// The folder in the state folder.
pub(super) const FOLDER: &str = "projects";
/// The form of the lines; of another one nothing is read.
const FORMAT: u32 = 1;
const EXTENSION: &str = "jsonl";
/// A run that was interrupted is continued so long: GitLab keeps what it has made for a day.
const CONTINUED: TimeDelta = TimeDelta::hours(24);
/// One that has been silent for longer is over: the next one is the next day's, not the rest of it.
const SILENT: TimeDelta = TimeDelta::hours(8);
/// No limit has a longer period than this, so that what was asked for longer ago counts no more.
const LONGEST_PERIOD: TimeDelta = TimeDelta::hours(1);
/// Nobody looks back further.
const KEPT: TimeDelta = TimeDelta::days(7);

/// A line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Event {
    /// The first one.
    Begun {
        format: u32,
        #[serde(flatten)]
        way: Way,
        /// What all names of this run have in common.
        time: DateTime<Utc>,
    },
    /// GitLab is about to be asked for an export.
    Asking { id: u64, asked: Asked },
    /// GitLab has said that it will make it.
    Taken { id: u64 },
    /// It is about to be downloaded, which counts for the limit of this namespace.
    Downloading { id: u64, namespace: String },
    /// It lies on this machine, whole.
    Fetched { id: u64 },
    /// What was asked for did not come: the next time it is asked for anew.
    Lost { id: u64 },
    /// It is stored, and was looked at there.
    Stored { id: u64, stored: Stored },
    /// All is done that could be.
    Ended,
}

/// From where to where, and how: what another way brought is not done on this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Way {
    /// The address of GitLab; another one has other projects of the same numbers.
    pub(super) gitlab: String,
    /// The name of the destination.
    pub(super) destination: String,
    /// What exports are called there.
    pub(super) name: String,
    /// Whether they are stored encrypted.
    pub(super) encrypted: bool,
}

/// An export that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Asked {
    /// When.
    pub(super) at: DateTime<Utc>,
    /// Where it is to be stored.
    pub(super) key: String,
    /// Whether GitLab brings it there by itself.
    pub(super) direct: bool,
    /// Whether an older one could be downloaded at that time.
    pub(super) stale: bool,
}

/// An export that is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stored {
    /// With its groups.
    pub(super) path: String,
    /// Where it is stored.
    pub(super) key: String,
    /// In bytes.
    pub(super) size: u64,
    /// Whether GitLab brought it there by itself.
    pub(super) direct: bool,
}

#[derive(Serialize, Deserialize)]
struct Line {
    at: DateTime<Utc>,
    #[serde(flatten)]
    event: Event,
}

/// What is known of a project that was asked for and is not stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) asked: Asked,
    /// Whether GitLab is known to have taken the request.
    pub(super) taken: bool,
    /// Whether it was downloaded to its end.
    pub(super) fetched: bool,
}

impl Left {
    /// It is about to be asked for.
    pub(super) fn of(asked: Asked) -> Left {
        Left {
            asked,
            taken: false,
            fetched: false,
        }
    }
}

/// What earlier runs left.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// What the run that is continued had asked for.
    pub(super) left: HashMap<u64, Left>,
    /// What is stored of today, or of the run that is continued.
    pub(super) stored: HashMap<u64, Stored>,
    /// When GitLab was asked for exports.
    pub(super) asked: Vec<DateTime<Utc>>,
    /// When something was downloaded, and of which namespace.
    pub(super) downloaded: Vec<(DateTime<Utc>, String)>,
}

/// The journal of a run.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    /// What all names of this run have in common.
    pub(super) time: DateTime<Utc>,
    /// Whether an earlier process began it.
    pub(super) is_continued: bool,
}

impl Journal {
    /// That of a run that was interrupted, or one that is to be begun.
    pub(super) fn open(
        state: &StateDir,
        way: &Way,
        now: DateTime<Utc>,
    ) -> io::Result<(Journal, Known)> {
        let folder = state.folder(FOLDER)?;
        for path in journals(&folder)? {
            if Told::read(&path, now)?.is_some_and(|told| now - told.last > KEPT) {
                // What stays is passed over the next time.
                let _ = fs::remove_file(&path);
            }
        }
        Journal::look(state, way, now)
    }

    /// The same, but nothing is made or removed.
    ///
    /// Fails where one that is there cannot be read: without it exports would be asked for that are under way.
    pub(super) fn look(
        state: &StateDir,
        way: &Way,
        now: DateTime<Utc>,
    ) -> io::Result<(Journal, Known)> {
        let folder = state.path().join(FOLDER);
        let (mut known, mut interrupted) = (Known::default(), None);
        for path in journals(&folder)? {
            let Some(told) = Told::read(&path, now)? else {
                continue;
            };
            known.asked.extend(&told.asked);
            known.downloaded.extend(told.downloaded.iter().cloned());
            let age = now - told.time;
            // One of a clock that was ahead would stay the newest for years.
            if told.way != *way || age < TimeDelta::zero() {
                continue;
            }
            // The newest one alone: what was left before it, it has taken up or given up.
            let goes_on = !told.ended && age < CONTINUED && now - told.last < SILENT;
            for (id, (at, stored)) in told.stored {
                if goes_on || at.date_naive() == now.date_naive() {
                    known.stored.insert(id, stored);
                }
            }
            interrupted = goes_on.then_some((path, told.time, told.left));
        }
        let is_continued = interrupted.is_some();
        let (path, time) = if let Some((path, time, left)) = interrupted {
            known.left = left;
            (path, time)
        } else {
            let name = format!("{}.{EXTENSION}", now.format(TIME));
            (folder.join(name), now)
        };
        let journal = Journal {
            path,
            time,
            is_continued,
        };
        Ok((journal, known))
    }

    /// Begins it, if it is not an earlier one that goes on.
    pub(super) fn begin(&self, way: &Way) -> io::Result<()> {
        if self.is_continued {
            return Ok(());
        }
        let begun = Event::Begun {
            format: FORMAT,
            way: way.clone(),
            time: self.time,
        };
        self.note(begun, self.time)?;
        self.path.parent().map_or(Ok(()), sync_folder)
    }

    /// Adds a line; it is on the disk when this returns.
    pub(super) fn note(&self, event: Event, at: DateTime<Utc>) -> io::Result<()> {
        append_line(&self.path, &serde_json::to_string(&Line { at, event })?)
    }
}

/// All of them, the oldest first; none where there is no folder.
fn journals(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|is| is == EXTENSION) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        format!("2026-11-22T{text}Z").parse().expect("a time")
    }

    fn way(destination: &str) -> Way {
        Way {
            gitlab: "https://gitlab.example.org/".to_owned(),
            destination: destination.to_owned(),
            name: "{path}/{time}.tar.gz".to_owned(),
            encrypted: false,
        }
    }

    fn asking(id: u64, time: &str) -> Event {
        Event::Asking {
            id,
            asked: Asked {
                at: at(time),
                key: format!("/a/{id}.tar.gz"),
                direct: true,
                stale: false,
            },
        }
    }

    fn stored(id: u64) -> Stored {
        Stored {
            path: format!("a/{id}"),
            key: format!("/a/{id}.tar.gz"),
            size: 7,
            direct: true,
        }
    }

    fn state() -> (tempfile::TempDir, StateDir) {
        let dir = tempfile::tempdir().expect("temporary folder");
        let state = StateDir::new(dir.path());
        (dir, state)
    }

    /// A run of 04:00 that asked for 1, 2 and 3, stored 1 and lost 3.
    fn begin(state: &StateDir) -> Journal {
        let (journal, known) = Journal::open(state, &way("s3"), at("04:00:00")).expect("a journal");
        journal.begin(&way("s3")).expect("begun");
        assert!(known.left.is_empty() && known.stored.is_empty() && !journal.is_continued);
        for id in 1..=3 {
            journal
                .note(asking(id, "04:00:01"), at("04:00:01"))
                .expect("noted");
        }
        journal
            .note(Event::Taken { id: 2 }, at("04:00:02"))
            .expect("noted");
        let event = Event::Stored {
            id: 1,
            stored: stored(1),
        };
        journal.note(event, at("04:00:09")).expect("noted");
        journal
            .note(Event::Lost { id: 3 }, at("04:00:09"))
            .expect("noted");
        journal
    }

    #[test]
    fn an_interrupted_run_goes_on_with_its_time() {
        let (_dir, state) = state();
        begin(&state);
        let (journal, known) = Journal::open(&state, &way("s3"), at("04:30:00")).expect("again");
        assert_eq!(journal.time, at("04:00:00"));
        assert!(journal.is_continued);
        assert_eq!(known.left.keys().collect::<Vec<_>>(), [&2]);
        assert!(known.left[&2].taken && !known.left[&2].fetched);
        assert_eq!(known.stored.get(&1), Some(&stored(1)));
        assert_eq!(known.asked.len(), 3);
        // Another place knows nothing of it, but the limit is GitLab's.
        let (journal, known) = Journal::open(&state, &way("box"), at("04:31:00")).expect("another");
        assert_eq!(journal.time, at("04:31:00"));
        assert!(known.left.is_empty() && known.stored.is_empty());
        assert_eq!(known.asked.len(), 3);
    }

    #[test]
    fn one_that_has_ended_or_is_old_is_not_gone_on_with() {
        let (_dir, state) = state();
        begin(&state)
            .note(Event::Ended, at("04:10:00"))
            .expect("noted");
        let (journal, known) = Journal::open(&state, &way("s3"), at("23:59:59")).expect("again");
        journal.begin(&way("s3")).expect("begun");
        assert_eq!(journal.time, at("23:59:59"));
        assert!(known.left.is_empty() && known.asked.is_empty());
        assert_eq!(known.stored.get(&1), Some(&stored(1)), "it is of today");
        let (_, seen) = Journal::look(&state, &way("s3"), at("23:59:59")).expect("read");
        assert_eq!(seen.stored.get(&1), Some(&stored(1)));
        let tomorrow = at("04:00:00") + TimeDelta::days(1);
        let (journal, known) = Journal::open(&state, &way("s3"), tomorrow).expect("again");
        assert!(known.stored.is_empty(), "{known:?}");
        assert_eq!(journal.time, at("23:59:59"), "that one was interrupted");
        let later = at("04:00:00") + TimeDelta::days(9);
        let (journal, _) = Journal::open(&state, &way("s3"), later).expect("again");
        journal.begin(&way("s3")).expect("begun");
        assert_eq!(journal.time, later);
        assert_eq!(journals(&state.path().join(FOLDER)).expect("left").len(), 1);
    }

    #[test]
    fn every_torn_state_is_read_as_far_as_it_is_whole() {
        let (_dir, state) = state();
        let path = begin(&state).path;
        let whole = fs::read(&path).expect("a journal");
        let first = whole
            .iter()
            .position(|byte| *byte == b'\n')
            .expect("a line");
        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).expect("cut");
            let told = Told::read(&path, at("04:30:00")).expect("read");
            assert_eq!(told.is_some(), cut >= first, "cut at {cut}");
        }
        fs::write(&path, [&whole[..], b"\0\0\0\n{\"at\":"].concat()).expect("torn");
        let (journal, known) = Journal::open(&state, &way("s3"), at("04:30:00")).expect("again");
        assert_eq!(known.left.len(), 1);
        let event = Event::Lost { id: 2 };
        journal.note(event, at("04:30:01")).expect("noted");
        let (_, known) = Journal::open(&state, &way("s3"), at("04:30:02")).expect("again");
        assert!(known.left.is_empty());
    }

    #[test]
    fn another_gitlab_another_place_and_another_form_know_nothing_of_it() {
        let (_dir, state) = state();
        begin(&state);
        let others: [fn(&mut Way); 4] = [
            |way| way.name = "{id}/{time}.tar.gz".to_owned(),
            |way| way.gitlab = "https://other.example.org/".to_owned(),
            |way| way.destination = "box".to_owned(),
            |way| way.encrypted = true,
        ];
        for change in others {
            let mut other = way("s3");
            change(&mut other);
            let (journal, known) = Journal::open(&state, &other, at("04:30:00")).expect("read");
            assert!(
                known.stored.is_empty() && known.left.is_empty(),
                "{other:?}"
            );
            assert!(!journal.is_continued, "{other:?}");
        }
    }

    #[test]
    fn the_next_day_is_not_the_rest_of_an_interrupted_one() {
        let (_dir, state) = state();
        begin(&state);
        let tomorrow = at("03:59:58") + TimeDelta::days(1);
        let (journal, known) = Journal::open(&state, &way("s3"), tomorrow).expect("read");
        assert!(!journal.is_continued && known.stored.is_empty());
        // Later the same day it is over, but what it stored is of today.
        let (journal, known) = Journal::open(&state, &way("s3"), at("13:00:00")).expect("read");
        assert!(!journal.is_continued && known.left.is_empty());
        assert_eq!(known.stored.len(), 1);
    }

    #[test]
    fn one_of_a_clock_that_was_ahead_hides_no_other() {
        let (_dir, state) = state();
        let future = at("04:00:00") + TimeDelta::days(1_500);
        let (journal, _) = Journal::open(&state, &way("s3"), future).expect("a journal");
        journal.begin(&way("s3")).expect("begun");
        begin(&state);
        let (journal, known) = Journal::open(&state, &way("s3"), at("04:30:00")).expect("again");
        assert!(journal.is_continued && known.left.len() == 1);
    }

    #[test]
    fn one_that_cannot_be_read_is_not_taken_for_none() {
        let (_dir, state) = state();
        let folder = state.folder(FOLDER).expect("a folder");
        fs::create_dir(folder.join("2026-11-22-03-00-00.jsonl")).expect("no file");
        assert!(Journal::open(&state, &way("s3"), at("04:00:00")).is_err());
    }

    #[test]
    fn a_clock_that_jumped_back_does_not_go_on_with_the_future() {
        let (_dir, state) = state();
        begin(&state);
        let (journal, _) = Journal::open(&state, &way("s3"), at("03:00:00")).expect("again");
        assert_eq!(journal.time, at("03:00:00"));
    }
}
