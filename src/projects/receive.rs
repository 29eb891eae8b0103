//! The bytes of a download on their way into the spool.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use rustix::fs::{Advice, fadvise};
use tokio::time::Instant;

use super::run::{Failure, Next};
use super::spool::{Label, Spool};
use crate::gitlab::api::Part;
use crate::units::{MIB, Size};

/// So much stays free on the disk: GitLab may write there, too.
const RESERVE: u64 = 64 * MIB;
/// So often it is looked whether that is still free, in bytes.
const LOOK_EVERY: u64 = 16 * MIB;

/// By so much a file may seem to be older than it can be: file systems and servers round times.
const SLACK: Duration = Duration::from_mins(1);

/// Takes them.
pub(super) struct Receiver<'s> {
    spool: &'s Spool,
    label: &'s mut Label,
    file: File,
    from: u64,
    at: u64,
    /// How long it is as a whole, as far as the server tells.
    total: Option<u64>,
    looked: u64,
    begun: bool,
    /// How long ago it was asked for, if what was there before may be still there.
    asked_ago: Option<Duration>,
    since: Instant,
    failure: Option<Failure>,
}

impl<'s> Receiver<'s> {
    /// Behind what is there of the same content. What was made longer ago than `asked_ago` is not taken.
    pub(super) fn open(
        spool: &'s Spool,
        label: &'s mut Label,
        asked_ago: Option<Duration>,
    ) -> io::Result<Receiver<'s>> {
        let from = label.validator.as_ref().map_or(0, |_| spool.len());
        let file = spool.file(from)?;
        Ok(Receiver {
            file,
            spool,
            label,
            from,
            at: from,
            total: None,
            looked: from,
            begun: false,
            asked_ago,
            since: Instant::now(),
            failure: None,
        })
    }

    /// The first byte that is wanted.
    pub(super) fn from(&self) -> u64 {
        self.from
    }

    /// What the content is called of which that is wanted.
    pub(super) fn validator(&self) -> Option<&str> {
        self.label.validator.as_deref().filter(|_| self.from > 0)
    }

    /// How far it has come, in bytes.
    pub(super) fn reached(&self) -> u64 {
        if self.begun { self.at } else { 0 }
    }

    /// Takes the next bytes; whether more are wanted. None are of an export that was there before.
    pub(super) fn take(&mut self, part: &Part<'_>, bytes: &[u8]) -> bool {
        let before = self.asked_ago.map(|ago| ago + self.since.elapsed() + SLACK);
        if !self.begun && before.is_some_and(|before| part.age > Some(before)) {
            return false;
        }
        let taken = self.begin(part).and_then(|()| self.write(bytes));
        if let Err(failure) = taken {
            self.failure.get_or_insert(failure);
        }
        self.failure.is_none()
    }

    /// What the head of the reply says of what follows.
    fn begin(&mut self, part: &Part<'_>) -> Result<(), Failure> {
        if self.begun {
            return Ok(());
        }
        self.begun = true;
        self.total = part.len;
        if part.offset != self.at || self.at == 0 {
            // Another one than the one that was begun, or the beginning.
            self.at = part.offset;
            self.looked = part.offset;
            self.label.validator = part.validator.map(str::to_owned);
            let begun = self.file.set_len(part.offset);
            let begun = begun.and_then(|()| self.spool.mark(self.label));
            begun.map_err(|error| self.unwritable(&error))?;
        }
        self.check_room()
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let written = self.file.write_all_at(bytes, self.at);
        written.map_err(|error| self.unwritable(&error))?;
        self.at += bytes.len() as u64;
        if self.at - self.looked >= LOOK_EVERY {
            // It is read once more, but not soon.
            let len = NonZeroU64::new(self.at - self.looked);
            let _ = fadvise(&self.file, self.looked, len, Advice::DontNeed);
            self.looked = self.at;
            self.check_room()?;
        }
        Ok(())
    }

    fn check_room(&self) -> Result<(), Failure> {
        let needed = self.total.map_or(0, |total| total.saturating_sub(self.at));
        let free = self.spool.free().map_err(|error| self.unwritable(&error))?;
        if free >= needed.saturating_add(RESERVE) {
            return Ok(());
        }
        let what = format!(
            "{} more are to come and {} are to stay free, but only {} are",
            Size(needed),
            Size(RESERVE),
            Size(free)
        );
        Err(self.unwritable(&io::Error::other(what)))
    }

    fn unwritable(&self, error: &io::Error) -> Failure {
        let path = self.spool.path();
        let what = format!(
            "downloading an export to {}: {error}\n  \
             make room there, or set `state_dir` to a larger disk",
            path.display()
        );
        Failure::new(Next::Later, what)
    }

    /// Brings it onto the disk.
    pub(super) async fn finish(mut self) -> Result<(), Failure> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let file = self.file.try_clone();
        let file = file.map_err(|error| self.unwritable(&error))?;
        let syncing = tokio::task::spawn_blocking(move || file.sync_all()).await;
        let synced = syncing.unwrap_or_else(|error| Err(io::Error::other(error)));
        synced.map_err(|error| self.unwritable(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use chrono::DateTime;

    use crate::state::StateDir;

    fn part(offset: u64, len: Option<u64>, validator: Option<&str>) -> Part<'_> {
        Part {
            offset,
            len,
            validator,
            age: None,
        }
    }

    fn label() -> Label {
        Label {
            id: 1,
            asked: DateTime::UNIX_EPOCH,
            validator: None,
        }
    }

    fn place() -> (tempfile::TempDir, Spool) {
        let dir = tempfile::tempdir().expect("temporary folder");
        let spool = Spool::open(&StateDir::new(dir.path())).expect("a place");
        (dir, spool)
    }

    #[tokio::test]
    async fn a_download_goes_on_where_it_was_if_it_is_still_the_same() {
        let (_dir, spool) = place();
        let mut known = label();
        let mut receiver = Receiver::open(&spool, &mut known, None).expect("open");
        assert!(receiver.take(&part(0, Some(10), Some("\"one\"")), b"0123"));
        assert_eq!(receiver.reached(), 4);
        receiver.finish().await.expect("on the disk");
        assert_eq!(spool.label(), Some(known.clone()));

        let mut receiver = Receiver::open(&spool, &mut known, None).expect("open");
        assert_eq!(
            (receiver.from(), receiver.validator()),
            (4, Some("\"one\""))
        );
        assert_eq!(receiver.reached(), 0);
        assert!(receiver.take(&part(4, Some(10), Some("\"one\"")), b"456"));
        assert!(receiver.take(&part(7, Some(10), Some("\"one\"")), b"789"));
        receiver.finish().await.expect("on the disk");
        assert_eq!(std::fs::read(spool.path()).expect("there"), b"0123456789");

        // Another content: from its beginning.
        let mut receiver = Receiver::open(&spool, &mut known, None).expect("open");
        assert!(receiver.take(&part(0, None, Some("\"two\"")), b"ab"));
        receiver.finish().await.expect("on the disk");
        assert_eq!(std::fs::read(spool.path()).expect("there"), b"ab");
        assert_eq!(known.validator.as_deref(), Some("\"two\""));
    }

    #[tokio::test]
    async fn what_has_no_name_is_begun_anew() {
        let (_dir, spool) = place();
        let mut known = label();
        let mut receiver = Receiver::open(&spool, &mut known, None).expect("open");
        assert!(receiver.take(&part(0, None, None), b"0123"));
        receiver.finish().await.expect("on the disk");
        let receiver = Receiver::open(&spool, &mut known, None).expect("open");
        assert_eq!((receiver.from(), receiver.validator()), (0, None));
        assert_eq!(spool.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_there_before_it_was_asked_for_is_not_taken() {
        let minutes = |n| Some(Duration::from_mins(n));
        for (age, asked_ago, is_taken) in [
            (minutes(1_440), minutes(10), false),
            (minutes(12), minutes(10), false),
            (minutes(9), minutes(10), true),
            // Rounded, or told by nobody, or there was nothing before.
            (minutes(11), minutes(10), true),
            (None, minutes(10), true),
            (minutes(1_440), None, true),
        ] {
            let (_dir, spool) = place();
            let mut known = label();
            let mut receiver = Receiver::open(&spool, &mut known, asked_ago).expect("open");
            let part = Part {
                age,
                ..part(0, Some(4), Some("\"one\""))
            };
            assert_eq!(
                receiver.take(&part, b"0123"),
                is_taken,
                "{age:?}, {asked_ago:?}"
            );
            receiver.finish().await.expect("no failure of this machine");
            assert_eq!(spool.len(), if is_taken { 4 } else { 0 });
            assert_eq!(spool.label().is_some(), is_taken);
        }
        // However long the answer takes.
        let (_dir, spool) = place();
        let mut known = label();
        let mut receiver = Receiver::open(&spool, &mut known, minutes(10)).expect("open");
        tokio::time::advance(Duration::from_mins(2)).await;
        let age = minutes(12);
        assert!(receiver.take(
            &Part {
                age,
                ..part(0, None, None)
            },
            b"0123"
        ));
    }

    #[tokio::test]
    async fn what_cannot_fit_is_not_begun() {
        let (_dir, spool) = place();
        let mut known = label();
        let mut receiver = Receiver::open(&spool, &mut known, None).expect("open");
        assert!(!receiver.take(&part(0, Some(9 << 60), None), b"0123"));
        let error = receiver.finish().await.expect_err("it cannot fit").error;
        assert!(error.contains("more are to come"), "{error}");
        assert!(error.contains("\n  make room there"), "{error}");
        assert_eq!(spool.len(), 0);
    }
}
