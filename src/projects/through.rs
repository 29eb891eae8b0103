//! An export that comes through this machine: downloaded into the spool, read whole, sent by the usual engine,
//! looked up where it went, and only then removed here.

use std::sync::Arc;

use tokio::sync::MutexGuard;

use super::journal::{Asked, Event, Stored};
use super::made::Made;
use super::receive::Receiver;
use super::run::{Answer, Failure, Item, Namespace, Next, Run};
use super::spool::{Label, Spool};
use super::whole::{Fault, check};
use crate::destination::{Entry, Options, Shipment};
use crate::error::{Error, ErrorKind};
use crate::gitlab::api::Part;
use crate::progress::Progress;
use crate::retry::rhythm::Rhythm;
use crate::retry::window::Slot;
use crate::seal::Sealing;
use crate::source::file::FileSource;
use crate::source::sealed::{Hashing, Sealed};
use crate::source::{Fingerprint, Source};
use crate::units::{MIB, Size};

/// What an upload to an object store may take of memory, in bytes: with it, all of this stays below 32 MiB.
const ROOM: u64 = 16 * MIB;

/// What is sent, and what it looked like.
struct Content {
    source: Arc<dyn Source>,
    fingerprint: Fingerprint,
}

impl Run<'_> {
    /// Brings an export here and from here to its place. `asked`: GitLab was asked for it already.
    pub(super) async fn through(
        &self,
        item: &Item,
        asked: Option<Asked>,
    ) -> Result<Stored, Failure> {
        let (item, asked) = if let Some(asked) = asked {
            (item.clone(), asked)
        } else {
            let (item, before) = self.idle(item).await?;
            match self.ask(&item, before, false).await? {
                Answer::Taken(asked) => (item, asked),
                Answer::NoUploads(why) => return Err(Failure::new(Next::Later, why)),
            }
        };
        let item = &item;
        let spool = if self.is_here(item, &asked) {
            self.spool.lock().await
        } else {
            self.fetched(item, &asked).await?
        };
        let size = self.send(item, &spool).await?;
        let stored = self.stored(item, size, false)?;
        self.clear(&spool)?;
        Ok(stored)
    }

    /// Waits until GitLab has made it, and downloads it.
    async fn fetched(&self, item: &Item, asked: &Asked) -> Result<MutexGuard<'_, Spool>, Failure> {
        let namespace = self.namespace(item.namespace());
        let mut rhythm = Rhythm::default();
        loop {
            if !asked.direct {
                match self.made(item, asked).await? {
                    Made::Ready | Made::Arrived(_) => {}
                    Made::Gone(why) => return Err(self.lost(item, why)?),
                }
            }
            let (slot, spool) = self.turn(&namespace).await;
            let slot = Some(slot);
            if self
                .receive_whole(item, asked, &spool, &namespace, slot)
                .await?
            {
                self.note(Event::Fetched { id: item.id })?;
                return Ok(spool);
            }
            drop(spool);
            let left = self.job.settings.timeout.saturating_sub(rhythm.elapsed());
            if left.is_zero() {
                let why = "GitLab has only an export that was made before this one was asked for";
                return Err(self.lost(item, why)?);
            }
            tracing::info!("{}: GitLab still has the export of before", item.path);
            rhythm.beat(left).await;
        }
    }

    /// The download's turn, and the place for it. Nobody waits for the place with a turn in the hand: whoever has the
    /// place may need that turn to go on with a download of the same namespace that broke.
    async fn turn<'n>(&self, namespace: &'n Namespace) -> (Slot<'n>, MutexGuard<'_, Spool>) {
        loop {
            let slot = namespace.limit.take().await;
            if let Ok(spool) = self.spool.try_lock() {
                return (slot, spool);
            }
            slot.unused();
            let spool = self.spool.lock().await;
            if let Some(slot) = namespace.limit.try_take() {
                return (slot, spool);
            }
        }
    }

    /// Whether an earlier process has downloaded it to its end.
    fn is_here(&self, item: &Item, asked: &Asked) -> bool {
        let left = self.known.left.get(&item.id);
        left.is_some_and(|left| left.fetched && left.asked == *asked)
            && self.spool.try_lock().is_ok_and(|spool| {
                let label = spool.label();
                label.is_some_and(|label| label.is_of(item.id, asked)) && spool.len() > 0
            })
    }

    fn clear(&self, spool: &Spool) -> Result<(), Failure> {
        spool.clear().map_err(|error| self.disk("removing", &error))
    }

    /// The disk of this machine does not do what it should: no other project would fare better.
    fn disk(&self, doing: &str, error: &std::io::Error) -> Failure {
        let folder = self.job.state.path().display();
        let what = format!(
            "{doing} an export in the state folder {folder}: {error}\n  \
             see to it that there is room and that the disk is sound, or set `state_dir` to another one"
        );
        Failure::new(Next::Halt, what)
    }

    /// What was asked for is not to be had; it is asked for anew.
    fn lost(&self, item: &Item, why: &str) -> Result<Failure, Failure> {
        self.note(Event::Lost { id: item.id })?;
        let what = format!("exporting {}: {why}", item.path);
        let hint = "its log /var/log/gitlab/gitlab-rails/exceptions_json.log tells more";
        Ok(Failure::new(Next::Again, format!("{what}\n  {hint}")))
    }

    /// Downloads an export and reads it to its end; what is damaged is downloaded once more. `false`: what GitLab has
    /// is still the export of before.
    async fn receive_whole(
        &self,
        item: &Item,
        asked: &Asked,
        spool: &Spool,
        namespace: &Namespace,
        mut slot: Option<Slot<'_>>,
    ) -> Result<bool, Failure> {
        let mut label = match spool.label() {
            Some(label) if label.is_of(item.id, asked) => label,
            _ => {
                self.clear(spool)?;
                Label {
                    id: item.id,
                    asked: asked.at,
                    validator: None,
                }
            }
        };
        let mut is_second = false;
        loop {
            let receiving = self.receive((item, asked), spool, &mut label, namespace, slot.take());
            if !receiving.await? {
                self.clear(spool)?;
                return Ok(false);
            }
            let path = spool.path();
            let checked = tokio::task::spawn_blocking(move || check(&path)).await;
            let what = match checked {
                Ok(Ok(())) => return Ok(true),
                Ok(Err(Fault::Io(error))) => return Err(self.disk("reading", &error)),
                Ok(Err(Fault::Damaged(what))) => what,
                Err(_) => return Err(Failure::new(Next::Later, "the program is ending")),
            };
            self.clear(spool)?;
            label.validator = None;
            let what = format!("what GitLab sent is no whole export: {what}");
            if is_second {
                return Err(self.lost(item, &what)?);
            }
            tracing::warn!("{}: {what}; it is downloaded again", item.path);
            is_second = true;
        }
    }

    /// Downloads an export to its end, however often the line breaks. `false`: it is the one of before.
    async fn receive(
        &self,
        (item, asked): (&Item, &Asked),
        spool: &Spool,
        label: &mut Label,
        namespace: &Namespace,
        mut slot: Option<Slot<'_>>,
    ) -> Result<bool, Failure> {
        let (api, patience) = (self.job.api, self.patience());
        // Only beyond what was reached before there is progress: what cannot be continued may break at the same place
        // for ever.
        let mut furthest = label.validator.as_ref().map_or(0, |_| spool.len());
        let mut failure = None;
        let received = api.retry_download(&patience, async || {
            let ours = |failed: Failure, failure: &mut Option<Failure>| {
                let error = Error::new(ErrorKind::Invalid, "downloading", failed.error.clone());
                *failure = Some(failed);
                Err(error)
            };
            // GitLab counts each attempt.
            let slot = match slot.take() {
                Some(slot) => slot,
                None => namespace.limit.take().await,
            };
            let (id, namespace) = (item.id, item.namespace().to_owned());
            if let Err(failed) = self.note(Event::Downloading { id, namespace }) {
                return ours(failed, &mut failure);
            }
            let ago = (self.now() - asked.at).to_std().unwrap_or_default();
            let ago = Some(ago).filter(|_| asked.stale);
            let mut receiver = match Receiver::open(spool, label, ago) {
                Ok(receiver) => receiver,
                Err(error) => return ours(self.disk("making room for", &error), &mut failure),
            };
            let (from, validator) = (receiver.from(), receiver.validator().map(str::to_owned));
            let taking = |part: &Part<'_>, bytes: &[u8]| receiver.take(part, bytes);
            let reply = api
                .download_export(item.id, from, validator.as_deref(), taking)
                .await;
            drop(slot);
            if receiver.reached() > furthest {
                furthest = receiver.reached();
                patience.renew();
            }
            if let Err(failed) = receiver.finish().await {
                return ours(failed, &mut failure);
            }
            if let Err(error) = &reply
                && error.kind() == ErrorKind::SourceChanged
            {
                // Another one than the one that was begun: from its beginning.
                label.validator = None;
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    "downloading",
                    error.to_string(),
                ));
            }
            reply
        });
        let received = received.await;
        if let Some(failure) = failure {
            if failure.next == Next::Later {
                self.clear(spool)?;
            }
            return Err(failure);
        }
        match received {
            Ok(is_whole) => Ok(is_whole),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(self.lost(item, &error.to_string())?)
            }
            Err(error) => Err(self.of_gitlab(&error).await),
        }
    }

    /// What is sent of the spool: its bytes, or these encrypted.
    async fn content(&self, spool: &Spool) -> Result<Content, Failure> {
        let path = spool.path();
        let opening = tokio::task::spawn_blocking(move || {
            let source = FileSource::open(&path)?;
            source.sync()?;
            let fingerprint = source.fingerprint()?;
            Ok((source, fingerprint))
        });
        let opened = opening
            .await
            .unwrap_or_else(|error| Err(std::io::Error::other(error)));
        let (source, fingerprint) = opened.map_err(|error| self.disk("reading", &error))?;
        let source: Arc<dyn Source> = Arc::new(source);
        let Some(recipients) = self.job.recipients() else {
            return Ok(Content {
                source,
                fingerprint,
            });
        };
        let sealing = match spool.sealing(&fingerprint) {
            Some(sealing) if sealing.recipients() == recipients.public_keys() => sealing,
            _ => {
                let sealing = Sealing::new(recipients).map_err(|why| {
                    let hint =
                        "check `encryption.recipients`; until then nothing is sent in the clear";
                    let what = format!("encrypting an export: {why}\n  {hint}");
                    Failure::new(Next::Halt, what)
                })?;
                spool
                    .keep_sealing(&fingerprint, &sealing)
                    .map_err(|error| self.disk("noting the encryption of", &error))?;
                Arc::new(sealing)
            }
        };
        let sealed = Sealed::new(source, sealing, Hashing::None);
        Ok(Content {
            fingerprint: sealed.fingerprint_of(&fingerprint),
            source: Arc::new(sealed),
        })
    }

    /// Sends what is in the spool to its place; its size there.
    async fn send(&self, item: &Item, spool: &Spool) -> Result<u64, Failure> {
        let content = self.content(spool).await?;
        let (place, len) = (self.destination(), content.source.len());
        let of_place = |error: Error| Failure::of_place(&error);
        let patience = self.patience();
        if let Some(found) = place.stat(&item.key, &patience).await.map_err(of_place)? {
            if let Some(size) = self.came_late(item).await? {
                return Ok(size);
            }
            // An earlier process came to its end, but could not note it any more.
            return self.compare(item, &content, &found).await;
        }
        place.sweep(&item.key, &patience).await;
        let space = place.space(&patience).await.map_err(of_place)?;
        if let Some(free) = space.free.filter(|free| *free < len) {
            let what = format!(
                "storing {} as {}:{}: it needs {}, but only {} are free; nothing was sent\n  \
                 make room there, then run again",
                item.path,
                place.name(),
                item.key,
                Size(len),
                Size(free)
            );
            return Err(Failure::new(Next::Later, what));
        }
        let progress = Progress::new(self.job.show, item.path.clone(), len);
        let (path, journals) = (spool.path(), spool.journals().ok());
        let options = Options {
            room: Some(ROOM),
            ..self.job.upload.clone()
        };
        let shipment = Shipment {
            source: content.source.clone(),
            fingerprint: &content.fingerprint,
            source_path: &path,
            path: &item.key,
            doubts: &[],
            client_modified: self.journal.time,
            journals: journals.as_deref(),
            options: &options,
            progress: &progress,
        };
        tokio::select! {
            stored = place.store(&shipment) => stored.map_err(of_place)?,
            () = progress.log_now_and_then() => unreachable!("it goes on for ever"),
        };
        let patience = self.patience();
        let found = place.stat(&item.key, &patience).await.map_err(of_place)?;
        match found.and_then(|entry| entry.file) {
            Some(file) if file.size == len => Ok(len),
            _ => {
                let what = format!(
                    "storing {} as {}:{}: what was stored there a moment ago is not there\n  \
                     see who else writes to that destination; the next run tries again",
                    item.path,
                    place.name(),
                    item.key
                );
                Err(Failure::new(Next::Later, what))
            }
        }
    }

    /// The size of what is there, if it is what is in the spool.
    async fn compare(&self, item: &Item, content: &Content, found: &Entry) -> Result<u64, Failure> {
        let Some(file) = &found.file else {
            return Err(self.conflict(item, "a folder has that name"));
        };
        if item.key.rsplit('/').next() != Some(found.name.as_str()) {
            let what = format!(
                "a name that differs only in capitals is there (`{}`)",
                found.name
            );
            return Err(self.conflict(item, &what));
        }
        let source = content.source.clone();
        let is_same = file.size == source.len()
            && match file.content_hash {
                None => true,
                Some(there) => {
                    let hashing = tokio::task::spawn_blocking(move || {
                        crate::content_hash::hash_source(&*source)
                    });
                    let hash = hashing
                        .await
                        .unwrap_or_else(|error| Err(std::io::Error::other(error)));
                    hash.map_err(|error| self.disk("reading", &error))? == there
                }
            };
        if is_same {
            Ok(file.size)
        } else {
            Err(self.conflict(item, "a file with other content is there"))
        }
    }

    fn conflict(&self, item: &Item, what: &str) -> Failure {
        let (place, key) = (self.destination().name(), &item.key);
        let path = &item.path;
        let what = format!(
            "storing {path} as {place}:{key}: {what}; nothing was touched\n  \
             the next run stores beside it, under a time of its own; if something else writes there, too, give \
             `projects.name` a folder that is this program's alone"
        );
        Failure::new(Next::Later, what)
    }
}
