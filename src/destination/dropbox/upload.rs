//! The transfer engine: one archive through a concurrent upload session.
//!
//! ```text
//! journal of the same source, younger than six days? ─ yes: continue its session ─ no: start one
//! for each chunk not acknowledged, `concurrency` at a time, in any order:
//!     hash its blocks (this warms the page cache) ─ append with their hash, the body read while it is sent
//!     ─ note the acknowledgement ─ tell the kernel to drop those pages
//! the remainder below 4 MiB goes last and closes ─ finish ─ the reply's hash is ours ─ drop the journal
//! ```
//!
//! What the service says is the truth. `incorrect_offset` that names our chunk's end, and `closed` for
//! the closing chunk, are lost replies and not errors. A session that is gone: is the archive already
//! there with the same hash, that was a lost reply too; else a new session is started. A service that
//! stored something else has it deleted again, by its revision, and gets everything anew.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use chrono::{SecondsFormat, Utc};
use futures_util::future::try_join_all;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use serde_json::{Value, json};

use super::journal::{self, Header, Journal};
use super::{Call, Dropbox, argument_header, at};
use crate::content_hash::{Digest, combine, hash_blocks};
use crate::destination::Entry;
use crate::destination::Shipment;
use crate::destination::dropbox::api::{DIFFERENT_DATA, Refusal};
use crate::error::{Error, ErrorKind};
use crate::http::{Line, Payload, source_error};
use crate::retry::{Patience, retry};

/// Committing a big file can take the service minutes.
const FINISH_WAIT: Duration = Duration::from_mins(10);
/// How often everything is begun again before the upload fails.
const LONGEST_SERIES: usize = 3;

/// One archive on its way to one account.
pub(super) struct Transfer<'a> {
    pub(super) dropbox: &'a Dropbox,
    pub(super) shipment: &'a Shipment<'a>,
}

/// Why a session did not end in a stored archive.
enum Halt {
    /// The session cannot be continued; a new one may succeed.
    Lost(String),
    /// A new one would fail as well.
    Failed(Error),
}

impl From<Error> for Halt {
    fn from(error: Error) -> Halt {
        Halt::Failed(error)
    }
}

impl Transfer<'_> {
    /// Stores the archive and returns its content hash, which is also what the service computed.
    /// On an error what was acknowledged stays in the journal for the next run.
    pub(super) async fn run(&self) -> Result<Digest, Error> {
        let patience = Patience::new(self.shipment.options.retry_for);
        self.unchanged()?;
        let mut resumed = self.resumable();
        for _ in 0..LONGEST_SERIES {
            let journal = match resumed.take() {
                Some(journal) => journal,
                None => self.start(&patience).await?,
            };
            self.shipment.progress.resumed(journal.acknowledged_bytes());
            let journal = Arc::new(Mutex::new(journal));
            let result = self.send(&journal, &patience).await;
            match result {
                Ok(hash) => {
                    self.note(lock(&journal).remove());
                    return Ok(hash);
                }
                Err(Halt::Failed(error)) => {
                    if error.kind() == ErrorKind::SourceChanged {
                        self.note(lock(&journal).remove());
                        return Err(error);
                    }
                    return Err(match lock(&journal).acknowledged_bytes() {
                        0 => error,
                        _ => error.hint("what has arrived is kept, the next run goes on there"),
                    });
                }
                Err(Halt::Lost(reason)) => {
                    tracing::warn!("{}: {reason}; beginning anew", self.action("uploading to"));
                    self.note(lock(&journal).remove());
                    self.shipment.progress.resumed(0);
                }
            }
        }
        Err(Error::new(
            ErrorKind::Corrupt,
            self.action("uploading to"),
            format!("{LONGEST_SERIES} upload sessions in a row were lost"),
        ))
    }

    /// The journal of an earlier run, if its session can be continued with the same bytes.
    fn resumable(&self) -> Option<Journal> {
        let journal = Journal::resume(&self.journal_path()?).ok()?;
        let header = journal.header();
        let same = header.fingerprint == *self.shipment.fingerprint
            && header.path == self.shipment.path
            && header.destination == self.dropbox.name
            && header.len == self.shipment.source.len();
        (same && journal.is_alive(Utc::now())).then_some(journal)
    }

    /// Begins a session and its journal.
    async fn start(&self, patience: &Patience) -> Result<Journal, Error> {
        let action = self.action("starting an upload session for");
        let call = self.call(
            &action,
            "start",
            &json!({ "session_type": "concurrent" }),
            self.dropbox.http.stall(),
        );
        let dropbox = self.dropbox;
        let answer = retry(&dropbox.pause, patience, async || {
            let body = Payload::Bytes(Bytes::new());
            dropbox.call(&dropbox.content_line, &call, body).await
        });
        let answer = answer.await?;
        let value = answer.map_err(|refusal| refusal.error(ErrorKind::Unexpected, &action))?;
        let session = value
            .get("session_id")
            .and_then(Value::as_str)
            .filter(|id| !id.is_empty());
        let session = session
            .ok_or_else(|| Error::new(ErrorKind::Unexpected, &action, "no session ID came back"))?;
        let header = Header {
            destination: self.dropbox.name.clone(),
            path: self.shipment.path.to_owned(),
            source: self.shipment.source_path.to_owned(),
            fingerprint: self.shipment.fingerprint.clone(),
            len: self.shipment.source.len(),
            chunk_len: self.shipment.options.chunk_len,
            session: session.to_owned(),
            begun_at: Utc::now(),
            doubts: self.shipment.doubts.to_vec(),
        };
        let path = self.journal_path().unwrap_or_default();
        let (journal, error) = tokio::task::spawn_blocking(move || Journal::create(&path, header))
            .await
            .map_err(|_| Error::new(ErrorKind::Unexpected, &action, "the program is ending"))?;
        self.note(
            error
                .filter(|_| self.shipment.journals.is_some())
                .map_or(Ok(()), Err),
        );
        Ok(journal)
    }

    /// Sends what is missing, closes, and finishes.
    async fn send(
        &self,
        journal: &Arc<Mutex<Journal>>,
        patience: &Patience,
    ) -> Result<Digest, Halt> {
        let (plan, session) = {
            let journal = lock(journal);
            (journal.plan(), journal.header().session.clone())
        };
        let missing: Vec<_> = (0..plan.last())
            .filter(|number| !lock(journal).has(*number))
            .collect();
        let next = AtomicUsize::new(0);
        let append = async |line: &Line, number: usize| {
            let range = plan.range(number);
            let len = range.end - range.start;
            let closing = number == plan.last();
            let blocks = self
                .append(line, &session, range, closing, patience)
                .await?;
            patience.renew();
            self.shipment.progress.add(len);
            self.acknowledge(journal, number, blocks).await;
            Ok::<_, Halt>(())
        };
        let workers = (0..self.shipment.options.concurrency.min(missing.len())).map(async |_| {
            let line = self.dropbox.http.line();
            while let Some(number) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                append(&line, *number).await?;
            }
            Ok::<_, Halt>(())
        });
        try_join_all(workers).await?;
        // Once it is closed the session takes nothing any more: the closing chunk must be the last, and the
        // journal must not lack another one by then.
        self.note(lock(journal).sync());
        if !lock(journal).has(plan.last()) {
            append(&self.dropbox.content_line, plan.last()).await?;
        }
        self.note(lock(journal).sync());
        let hash = lock(journal)
            .content_hash()
            .ok_or_else(|| Halt::Lost("a chunk is missing".to_owned()))?;
        self.unchanged_as_a_whole().await?;
        self.finish(&session, hash, patience).await?;
        self.unchanged_as_a_whole().await?;
        self.shipment.source.release(0..self.shipment.source.len());
        Ok(hash)
    }

    /// Sends one chunk and returns the digests of its blocks.
    async fn append(
        &self,
        line: &Line,
        session: &str,
        range: Range<u64>,
        closing: bool,
        patience: &Patience,
    ) -> Result<Vec<Digest>, Halt> {
        let action = format!(
            "{} (bytes {} to {})",
            self.action("uploading to"),
            range.start,
            range.end
        );
        let blocks = self.hash(&action, range.clone()).await?;
        self.unchanged()?;
        let argument = json!({
            "cursor": { "session_id": session, "offset": range.start },
            "close": closing,
            "content_hash": combine(&blocks),
        });
        let call = self.call(&action, "append_v2", &argument, self.dropbox.http.stall());
        let answer = retry(&self.dropbox.pause, patience, async || {
            let bandwidth = self.shipment.options.bandwidth.clone();
            let body = Payload::Range(self.shipment.source.clone(), range.clone(), bandwidth);
            match self.dropbox.call(line, &call, body).await? {
                Err(refusal) if refusal.tags == "content_hash_mismatch" => {
                    // Either the bytes were damaged on their way, or they are no longer the ones hashed.
                    self.unchanged()?;
                    Err(refusal.error(ErrorKind::Corrupt, &action))
                }
                answer => Ok(answer),
            }
        })
        .await?;
        match answer {
            Ok(_) => {}
            Err(Refusal {
                correct_offset: Some(offset),
                ..
            }) if offset == range.end => {}
            Err(refusal) if closing && refusal.tags == "closed" => {}
            Err(refusal) => match refusal.tags.as_str() {
                DIFFERENT_DATA => {
                    let why = "the session holds other bytes than the file";
                    return Err(Halt::Lost(why.to_owned()));
                }
                tag if tag.starts_with("concurrent_session") || tag == "not_closed" => {
                    return Err(Halt::Lost(format!("the session takes no chunk ({tag})")));
                }
                "not_found" => return Err(Halt::Lost("the upload session has expired".to_owned())),
                "closed" => return Err(Halt::Lost("the upload session was closed".to_owned())),
                "incorrect_offset" => {
                    return Err(Halt::Lost("somebody else writes to the session".to_owned()));
                }
                _ => return Err(refusal.error(ErrorKind::Invalid, &action).into()),
            },
        }
        self.unchanged()?;
        self.shipment.source.release(range);
        Ok(blocks)
    }

    /// Notes a chunk, in the blocking pool: an SD card may take seconds to bring it to the disk.
    async fn acknowledge(&self, journal: &Arc<Mutex<Journal>>, number: usize, blocks: Vec<Digest>) {
        let journal = journal.clone();
        let noting =
            tokio::task::spawn_blocking(move || lock(&journal).acknowledge(number, blocks));
        self.note(noting.await.unwrap_or(Ok(())));
    }

    /// The digests of the blocks of a chunk; reading them brings it into the page cache.
    async fn hash(&self, action: &str, range: Range<u64>) -> Result<Vec<Digest>, Error> {
        let ending = || Error::new(ErrorKind::Unexpected, action, "the program is ending");
        let _turn = self.dropbox.hashing.acquire().await.map_err(|_| ending())?;
        let source = self.shipment.source.clone();
        let hashing = tokio::task::spawn_blocking(move || hash_blocks(&*source, range));
        let blocks = hashing.await.map_err(|_| ending())?;
        blocks.map_err(|error| source_error(action, &error))
    }

    /// Turns the session into a file whose hash is `hash`.
    async fn finish(&self, session: &str, hash: Digest, patience: &Patience) -> Result<(), Halt> {
        let action = self.action("finishing the upload to");
        let argument = json!({
            "cursor": { "session_id": session, "offset": self.shipment.source.len() },
            "commit": {
                "path": self.shipment.path,
                "mode": "add",
                "autorename": false,
                "client_modified": self.shipment.client_modified.to_rfc3339_opts(SecondsFormat::Secs, true),
            },
        });
        let call = self.call(&action, "finish", &argument, FINISH_WAIT);
        let dropbox = self.dropbox;
        let answer = retry(&dropbox.pause, patience, async || {
            let body = Payload::Bytes(Bytes::new());
            match dropbox.call(&dropbox.content_line, &call, body).await? {
                Ok(stored) if Entry::parse(&stored).is_none() => {
                    let what = "the reply does not describe the stored file";
                    Err(Error::new(ErrorKind::Unavailable, &action, what))
                }
                answer => Ok(answer),
            }
        });
        match answer.await? {
            Ok(stored) if self.is_stored(Entry::parse(&stored).as_ref(), hash) => Ok(()),
            // The reply does not name our hash: believe what lies there, and take away what is not ours.
            Ok(stored) => {
                let found = self.dropbox.stat(self.shipment.path, patience).await?;
                if self.is_stored(found.as_ref(), hash) {
                    return Ok(());
                }
                if let Some(file) = Entry::parse(&stored).and_then(|entry| entry.file) {
                    self.dropbox
                        .delete(self.shipment.path, &file.rev, patience)
                        .await?;
                }
                Err(Halt::Lost(
                    "what was stored has another content hash than the file".to_owned(),
                ))
            }
            Err(refusal) => {
                let failed = |kind| Halt::Failed(refusal.error(kind, &action));
                let tag = refusal.tags.as_str();
                if tag.starts_with("path/insufficient_space") {
                    return Err(Halt::Failed(
                        refusal
                            .error(ErrorKind::NoSpace, &action)
                            .hint("make room in Dropbox; nothing needs to be sent again"),
                    ));
                }
                if !(tag.starts_with("path/conflict")
                    || tag.starts_with("lookup_failed")
                    || tag.starts_with("concurrent_session"))
                {
                    return Err(failed(ErrorKind::Invalid));
                }
                let found = self.dropbox.stat(self.shipment.path, patience).await?;
                if self.is_stored(found.as_ref(), hash) {
                    return Ok(());
                }
                if tag.starts_with("path/conflict") {
                    return Err(failed(ErrorKind::AlreadyExists));
                }
                Err(Halt::Lost(format!(
                    "the upload session cannot be finished ({tag})"
                )))
            }
        }
    }

    /// Whether an entry is this archive, whole.
    fn is_stored(&self, entry: Option<&Entry>, hash: Digest) -> bool {
        let file = entry.and_then(|entry| entry.file.as_ref());
        file.is_some_and(|file| {
            file.size == self.shipment.source.len() && file.content_hash == Some(hash)
        })
    }

    /// A call to the content host about a session.
    fn call<'a>(
        &self,
        action: &'a str,
        route: &str,
        argument: &Value,
        reply_wait: Duration,
    ) -> Call<'a> {
        let url = at(
            &self.dropbox.content_url,
            &format!("/2/files/upload_session/{route}"),
        );
        let octets = (
            CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        );
        Call {
            action,
            url,
            headers: vec![argument_header(argument), octets],
            reply_wait,
            empty_reply: route == "append_v2",
        }
    }

    fn action(&self, what: &str) -> String {
        format!("{}: {what} {}", self.dropbox.name, self.shipment.path)
    }

    /// Fails if what was read so far is no longer what was looked into.
    fn unchanged(&self) -> Result<(), Error> {
        self.judge(self.shipment.source.is_still(self.shipment.fingerprint))
    }

    /// The same for all of it, in the blocking pool: a tree looks at every file.
    async fn unchanged_as_a_whole(&self) -> Result<(), Error> {
        let (source, expected) = (
            self.shipment.source.clone(),
            self.shipment.fingerprint.clone(),
        );
        let looking = tokio::task::spawn_blocking(move || Ok(source.fingerprint()? == expected));
        self.judge(
            looking
                .await
                .unwrap_or_else(|_| Err(io::Error::other("the program is ending"))),
        )
    }

    fn judge(&self, is_still: io::Result<bool>) -> Result<(), Error> {
        let action = format!("reading {}", self.shipment.source_path.display());
        if is_still.map_err(|error| source_error(&action, &error))? {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::SourceChanged,
            action,
            "the file changed while it was uploaded",
        )
        .hint("is another backup running? the next run takes it from the beginning"))
    }

    fn journal_path(&self) -> Option<std::path::PathBuf> {
        self.shipment
            .journals
            .map(|folder| journal::path_of(folder, &self.dropbox.name, self.shipment.path))
    }

    /// The journal is a hint: that it cannot be kept is told and keeps no archive from being stored.
    fn note(&self, result: std::io::Result<()>) {
        if let Err(error) = result {
            tracing::warn!(
                "{}: the upload journal cannot be written ({error}), so an interruption would start it over",
                self.action("uploading to")
            );
        }
    }
}

fn lock(journal: &Mutex<Journal>) -> MutexGuard<'_, Journal> {
    journal.lock().unwrap_or_else(PoisonError::into_inner)
}
