//! One run: which projects are on their way, what GitLab was asked for, and what came of it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::capacity::memory_for_one_more;
use super::journal::{Asked, Event, Journal, Known, Left, Stored};
use super::made::{Made, is_under_way};
use super::spool::Spool;
use super::{Job, PRESIGNED};
use crate::destination::Destination;
use crate::error::{Error, ErrorKind};
use crate::gitlab::api::exports::{ExportStatus, Refused, refused};
use crate::report::Pruned;
use crate::retry::Patience;
use crate::retry::window::Window;

/// So many exports that were made and did not come are no accident.
const MISSED_UPLOADS: u32 = 3;
/// No request can store more, so that one that did not come says nothing; bytes.
const LARGEST_UPLOAD: u64 = 5_000_000_000;

/// A project on its way.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) id: u64,
    /// With its groups.
    pub(super) path: String,
    /// Where its export is stored, below the root of the destination.
    pub(super) key: String,
}

impl Item {
    /// What GitLab's limit of downloads is about.
    pub(super) fn namespace(&self) -> &str {
        self.path.rsplit_once('/').map_or("", |(groups, _)| groups)
    }
}

/// Why there is no export of a project.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) error: String,
    pub(super) next: Next,
}

/// What follows from a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Once more at the end of the run.
    Again,
    /// The next run tries again.
    Later,
    /// It cannot be helped: GitLab does not let this token export it.
    Skipped,
    /// GitLab lets nobody export anything.
    SkipAll,
    /// No other project would fare better.
    Halt,
}

impl Failure {
    pub(super) fn new(next: Next, error: impl Into<String>) -> Failure {
        let error = error.into();
        Failure { error, next }
    }

    /// GitLab answered so, or not at all.
    pub(super) fn of_gitlab(error: &Error) -> Failure {
        let next = match (refused(error), error.kind()) {
            (Some(Refused::Role), _) => Next::Skipped,
            (Some(Refused::Disabled), _) => Next::SkipAll,
            // It was asked for as long as `upload.retry_for` allows; or the token is none, or lacks a scope.
            (
                None,
                ErrorKind::Unavailable | ErrorKind::RateLimited(_) | ErrorKind::Unauthorized,
            ) => Next::Halt,
            (None, ErrorKind::Corrupt | ErrorKind::Unexpected) => Next::Again,
            _ => Next::Later,
        };
        Failure::new(next, error.to_string())
    }

    /// The destination answered so, or not at all.
    pub(super) fn of_place(error: &Error) -> Failure {
        let next = match error.kind() {
            ErrorKind::Unavailable | ErrorKind::RateLimited(_) | ErrorKind::Unauthorized => {
                Next::Halt
            }
            _ if error.is_absent() => Next::Halt,
            _ => Next::Later,
        };
        Failure::new(next, error.to_string())
    }
}

/// What came of asking.
pub(super) enum Answer {
    /// It is made.
    Taken(Asked),
    /// GitLab puts nothing to such an address.
    NoUploads(String),
}

/// The downloads of one namespace.
pub(super) struct Namespace {
    pub(super) limit: Window,
}

/// What all projects of a run share.
pub(super) struct Run<'a> {
    pub(super) job: &'a Job<'a>,
    pub(super) journal: Journal,
    pub(super) known: Known,
    /// One file at a time is on this machine.
    pub(super) spool: Mutex<Spool>,
    namespaces: RefCell<HashMap<String, Rc<Namespace>>>,
    /// Whether GitLab may be told where to put an export.
    direct: Cell<bool>,
    pub(super) warnings: RefCell<Vec<String>>,
    /// What retention deleted.
    pub(super) pruned: RefCell<Vec<Pruned>>,
    /// What went wrong with that.
    pub(super) trouble: RefCell<Option<String>>,
    /// What is asked for and is not stored yet, by whatever process.
    left: RefCell<HashMap<u64, Left>>,
    /// Where a project is whose export this process asked for: it may have moved since it was listed.
    asked: RefCell<HashMap<u64, Item>>,
    /// What GitLab was to bring by itself, and is not waited for any more.
    given_up: RefCell<HashMap<u64, Asked>>,
    /// What this process has stored.
    done: RefCell<HashMap<u64, Stored>>,
    /// Which project each name belongs to.
    claims: RefCell<HashMap<String, u64>>,
    uploads: Uploads,
    now: DateTime<Utc>,
    since: Instant,
}

/// Whether what GitLab is to bring by itself comes at all.
#[derive(Debug, Default)]
struct Uploads {
    any_came: Cell<bool>,
    /// How many did not, although their exports were well.
    missed: Cell<u32>,
}

impl<'a> Run<'a> {
    /// With what earlier runs left.
    pub(super) fn new(
        job: &'a Job<'a>,
        (journal, known): (Journal, Known),
        spool: Spool,
        direct: bool,
        now: DateTime<Utc>,
    ) -> Run<'a> {
        let run = Run {
            job,
            journal,
            spool: Mutex::new(spool),
            namespaces: RefCell::default(),
            direct: Cell::new(direct),
            warnings: RefCell::default(),
            pruned: RefCell::default(),
            trouble: RefCell::default(),
            left: RefCell::new(known.left.clone()),
            asked: RefCell::default(),
            given_up: RefCell::default(),
            done: RefCell::default(),
            claims: RefCell::default(),
            uploads: Uploads::default(),
            known,
            now,
            since: Instant::now(),
        };
        // What was asked for just now counts, whoever asked.
        for at in &run.known.asked {
            job.api.export_window().used_before(ago(now, *at));
        }
        for (at, namespace) in &run.known.downloaded {
            let namespace = run.namespace(namespace);
            namespace.limit.used_before(ago(now, *at));
        }
        for (id, stored) in &run.known.stored {
            run.claim(*id, &stored.key);
        }
        run
    }

    /// Makes a name a project's own; false if it is another one's.
    pub(super) fn claim(&self, id: u64, key: &str) -> bool {
        let name = if self.destination().ignores_case() {
            key.to_lowercase()
        } else {
            key.to_owned()
        };
        *self.claims.borrow_mut().entry(name).or_insert(id) == id
    }

    /// What this process has stored of a project.
    pub(super) fn done(&self, id: u64) -> Option<Stored> {
        self.done.borrow().get(&id).cloned()
    }

    /// What GitLab was to bring there by itself, if that is not waited for any more.
    pub(super) fn given_up(&self, item: &Item) -> Option<Asked> {
        let all = self.given_up.borrow();
        all.get(&item.id)
            .filter(|asked| asked.key == item.key)
            .cloned()
    }

    /// Whether GitLab sends exports to the destination by itself.
    pub(super) fn is_direct(&self) -> bool {
        self.direct.get()
    }

    pub(super) fn destination(&self) -> &Destination {
        self.job.destination
    }

    pub(super) fn patience(&self) -> Patience {
        Patience::new(self.job.upload.retry_for)
    }

    /// What the time is.
    pub(super) fn now(&self) -> DateTime<Utc> {
        self.now + TimeDelta::from_std(self.since.elapsed()).unwrap_or_default()
    }

    pub(super) fn warn(&self, warning: String) {
        tracing::info!("{warning}");
        self.warnings.borrow_mut().push(warning);
    }

    pub(super) fn namespace(&self, name: &str) -> Rc<Namespace> {
        let mut all = self.namespaces.borrow_mut();
        let made = || {
            Rc::new(Namespace {
                limit: Window::new(self.job.settings.download_limit),
            })
        };
        all.entry(name.to_owned()).or_insert_with(made).clone()
    }

    /// Writes it down, durably, before what it tells of is done.
    pub(super) fn note(&self, event: Event) -> Result<(), Failure> {
        self.journal
            .note(event.clone(), self.now())
            .map_err(|error| {
                let folder = self.job.state.path().display();
                let what = format!("writing to the state folder {folder}: {error}");
                Failure::new(Next::Halt, what + "\n  make room there, then run again")
            })?;
        self.remember(event);
        Ok(())
    }

    /// What has failed goes on in the second round, too, where it was.
    fn remember(&self, event: Event) {
        let mut left = self.left.borrow_mut();
        match event {
            Event::Asking { id, asked } => {
                left.insert(id, Left::of(asked));
            }
            Event::Taken { id } => {
                left.entry(id).and_modify(|left| left.taken = true);
            }
            Event::Fetched { id } => {
                left.entry(id).and_modify(|left| left.fetched = true);
            }
            Event::Lost { id } => {
                left.remove(&id);
            }
            Event::Stored { id, stored } => {
                left.remove(&id);
                self.done.borrow_mut().insert(id, stored);
            }
            Event::Begun { .. } | Event::Downloading { .. } | Event::Ended => {}
        }
    }

    /// Brings the export of one project to the destination. `again`: it has failed once in this run.
    pub(super) async fn bring(&self, item: &Item, again: bool) -> Result<Stored, Failure> {
        let moved = self.asked.borrow().get(&item.id).cloned();
        let item = moved.as_ref().unwrap_or(item);
        let left = self.left.borrow().get(&item.id).cloned();
        let left = left.filter(|left| left.asked.key == item.key);
        match left {
            Some(left) => self.go_on(item, &left).await,
            None if self.direct.get() && !again => self.direct(item).await,
            None => self.through(item, None).await,
        }
    }

    /// It is stored, and was looked at there: notes it.
    pub(super) fn stored(&self, item: &Item, size: u64, direct: bool) -> Result<Stored, Failure> {
        let stored = Stored {
            path: item.path.clone(),
            key: item.key.clone(),
            size,
            direct,
        };
        let (id, event) = (item.id, stored.clone());
        self.note(Event::Stored { id, stored: event })?;
        if direct {
            self.uploads.any_came.set(true);
        }
        Ok(stored)
    }

    /// What an earlier process asked for is not asked for again, if it was asked for at all.
    async fn go_on(&self, item: &Item, left: &Left) -> Result<Stored, Failure> {
        let asked = &left.asked;
        if asked.direct {
            if let Some(found) = self.arrived(item, asked).await? {
                return self.stored(item, found.size, true);
            }
        } else if left.fetched {
            return self.through(item, Some(asked.clone())).await;
        }
        let status = self.status(item).await?;
        let is_ready = status == ExportStatus::Finished && !asked.stale;
        if is_under_way(status) || is_ready || left.taken {
            return self.follow(item, asked.clone()).await;
        }
        // It never came to GitLab's ears.
        if asked.direct && self.direct.get() {
            self.direct(item).await
        } else {
            self.through(item, None).await
        }
    }

    /// Sees to it that what was asked for comes, by the one way or the other.
    async fn follow(&self, item: &Item, asked: Asked) -> Result<Stored, Failure> {
        if !asked.direct {
            return self.through(item, Some(asked)).await;
        }
        match self.made(item, &asked).await? {
            Made::Arrived(found) => self.stored(item, found.size, true),
            Made::Ready => {
                let stored = self.through(item, Some(asked)).await?;
                self.missed(&stored);
                Ok(stored)
            }
            Made::Gone(why) => {
                // Among others an export of more than 5 GB, which no single request can store.
                tracing::info!("{}: {why}: it comes through this machine now", item.path);
                self.note(Event::Lost { id: item.id })?;
                self.given_up.borrow_mut().insert(item.id, asked);
                let stored = self.through(item, None).await?;
                self.missed(&stored);
                Ok(stored)
            }
        }
    }

    /// GitLab could make an export, and has not brought it. Where it brings none, it is not asked to any more: each
    /// would be made twice.
    fn missed(&self, stored: &Stored) {
        if stored.size > LARGEST_UPLOAD || self.uploads.any_came.get() {
            return;
        }
        let missed = self.uploads.missed.get() + 1;
        self.uploads.missed.set(missed);
        if missed >= MISSED_UPLOADS && self.direct.replace(false) {
            self.warn(format!(
                "GitLab was asked to put exports there by itself, and none of {missed} came: the others come through this machine\n  \
                 can GitLab's machine reach {}, and does it trust its certificate? `projects.direct = false` asks for none",
                self.destination().name()
            ));
        }
    }

    /// Lets GitLab bring an export to the destination by itself.
    async fn direct(&self, item: &Item) -> Result<Stored, Failure> {
        let (item, before) = self.idle(item).await?;
        match self.ask(&item, before, true).await? {
            Answer::Taken(asked) => self.follow(&item, asked).await,
            Answer::NoUploads(why) => {
                if self.direct.replace(false) && !why.is_empty() {
                    self.warn(format!(
                        "GitLab does not put exports there by itself, so they come through this machine: {why}"
                    ));
                }
                self.through(&item, None).await
            }
        }
    }

    /// Asks GitLab for an export: once, however often the line breaks.
    pub(super) async fn ask(
        &self,
        item: &Item,
        before: ExportStatus,
        direct: bool,
    ) -> Result<Answer, Failure> {
        let upload = if direct {
            let upload = self.destination().presigned_put(&item.key, PRESIGNED).await;
            upload.map_err(|error| Failure::of_place(&error))?
        } else {
            None
        };
        let direct = upload.is_some();
        if self.job.gitlab_is_here {
            memory_for_one_more().await;
        }
        let id = item.id;
        self.asked.borrow_mut().insert(id, item.clone());
        let mut asked = None;
        let mut unwritable = None;
        let noting = || {
            let now = Asked {
                at: self.now(),
                key: item.key.clone(),
                direct,
                stale: before != ExportStatus::None,
            };
            // The first one may be the one that GitLab has taken.
            let asked = asked.get_or_insert(now).clone();
            self.note(Event::Asking { id, asked }).map_err(|failure| {
                let error = Error::new(ErrorKind::Invalid, "noting it", failure.error.clone());
                unwritable = Some(failure);
                error
            })
        };
        let (api, patience) = (self.job.api, self.patience());
        let answer = api.request_export(id, upload.as_ref(), &patience, noting);
        let answer = answer.await;
        if let Some(failure) = unwritable {
            return Err(failure);
        }
        let error = match (answer, asked) {
            (Ok(()), Some(asked)) => {
                self.note(Event::Taken { id })?;
                return Ok(Answer::Taken(asked));
            }
            (Ok(()), None) => Error::new(ErrorKind::Unexpected, "asking", "nothing was sent"),
            (Err(error), _) => error,
        };
        if error.kind() != ErrorKind::Unavailable {
            self.note(Event::Lost { id })?;
        }
        if direct && is_about_the_address(&error) {
            return Ok(Answer::NoUploads(error.to_string()));
        }
        Err(self.of_gitlab(&error).await)
    }
}

/// Whether GitLab will not put anything to such an address.
fn is_about_the_address(error: &Error) -> bool {
    let said = error.to_string();
    refused(error) == Some(Refused::Address)
        || (error.kind() == ErrorKind::Invalid && said.contains(": url "))
}

fn ago(now: DateTime<Utc>, at: DateTime<Utc>) -> Duration {
    // A clock that was set back meanwhile.
    (now - at).to_std().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_namespace_is_all_but_the_last_part() {
        for (path, namespace) in [("group/app", "group"), ("a/b/c", "a/b"), ("odd", "")] {
            let item = Item {
                id: 1,
                path: path.to_owned(),
                key: String::new(),
            };
            assert_eq!(item.namespace(), namespace);
        }
    }
}
