//! A file on its way to a place that OpenDAL knows: complete or not at all, and verified.
//!
//! ```text
//! what can rename (fs, sftp):  a hidden name ─ pieces in order ─ on the disk ─ read back ─ its own name
//! an object store:             parts, several in flight ─ only the last step makes an object of them
//!                              ─ proven by the service's checksums, or else read back
//! ```
//!
//! No upload is continued by another process: OpenDAL keeps its upload's ID to itself. An error of the line is tried
//! again here and nowhere else; a part that fails is the only one that is sent again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use opendal::{Operator, Writer};
use tokio::time::timeout;

use super::freight::{Freight, parts};
use super::partial::{is_left_over, is_partial, partial, split};
use super::place::{OpenDal, blocking, key};
use super::wire::Ledger;
use crate::content_hash::{ContentHasher, Digest};
use crate::destination::LONGEST_RANGE;
use crate::error::{Error, ErrorKind};
use crate::retry::{Patience, retry};
use crate::units::MIB;

/// What is written in order goes in pieces of so many bytes.
const PIECE_LEN: u64 = MIB;
/// How often everything is begun again.
const LONGEST_SERIES: usize = 3;
/// Taking back what was begun takes no longer, or it stays for the next run.
const TAKING_BACK: Duration = Duration::from_secs(10);

/// Why an upload did not end in a stored file.
enum Halt {
    /// A new one may succeed.
    Lost(Error),
    /// A new one would fail as well.
    Failed(Error),
}

impl From<Error> for Halt {
    fn from(error: Error) -> Halt {
        Halt::Failed(error)
    }
}

impl OpenDal {
    /// Stores a file, complete or not at all; the content hash of what was sent.
    pub(super) async fn ship(
        &self,
        freight: &Freight<'_>,
        patience: &Patience,
    ) -> Result<Digest, Error> {
        if self.can_rename() {
            self.sweep(freight.path).await;
            let mut breaks = 0;
            return retry(&self.wire.pause, patience, async || {
                // What renews the patience of one attempt must not give time for ever more of them: each writes the
                // whole file again.
                let within = patience.again();
                let stored = self.by_name(freight, &within).await;
                if stored.is_err() && breaks < LONGEST_SERIES {
                    breaks += 1;
                    patience.renew();
                }
                stored
            })
            .await;
        }
        let mut why = None;
        for _ in 0..LONGEST_SERIES {
            if let Some(progress) = freight.progress {
                progress.resumed(0);
            }
            match self.by_parts(freight, patience).await {
                Ok(hash) => return Ok(hash),
                Err(Halt::Failed(error)) => return Err(error),
                Err(Halt::Lost(error)) => {
                    tracing::warn!("{error}; beginning anew");
                    why = Some(error);
                }
            }
        }
        Err(why.unwrap_or_else(|| freight.error(ErrorKind::Unexpected, "nothing was tried")))
    }

    /// Removes what a killed program left of the same file, and what anybody left long ago.
    pub async fn sweep(&self, path: &str) {
        if !self.can_rename() {
            return;
        }
        let (folder, wanted) = split(path);
        let action = format!("{}: removing what an upload left in {folder}/", self.name);
        let sweeping = async {
            let client = self.client(&action).await?;
            let found: Vec<_> = if let Some(disk) = &self.disk {
                let folder = folder.to_owned();
                let found = self.on_disk(&action, disk, move |disk| disk.partials(&folder));
                found.await?
            } else {
                let found = self.entries(&client, folder, &action).await?;
                let found = found.unwrap_or_default().into_iter();
                let found = found.filter(|(name, _)| is_partial(name));
                found
                    .map(|(name, metadata)| {
                        let modified = metadata.last_modified().map(SystemTime::from);
                        (name, modified.unwrap_or_else(SystemTime::now))
                    })
                    .collect()
            };
            for (name, modified) in found {
                let age = modified.elapsed().unwrap_or_default();
                if is_left_over(&name, wanted, age) {
                    let path = format!("{folder}/{name}");
                    let deleted = client.delete(key(&path)).await;
                    deleted.map_err(|error| self.error(&action, &error))?;
                    tracing::info!("{}: removed {path}, which an upload left", self.name);
                }
            }
            Ok::<_, Error>(())
        };
        // What stays is seen by the next run; it stands in nobody's way.
        if let Err(error) = sweeping.await {
            tracing::debug!("{error}");
        }
    }

    /// One attempt with a hidden name.
    async fn by_name(&self, freight: &Freight<'_>, patience: &Patience) -> Result<Digest, Error> {
        if let Some(progress) = freight.progress {
            progress.resumed(0);
        }
        let client = self.client(freight.action).await?;
        let hidden = partial(freight.path);
        let stored = self.hidden(freight, &client, &hidden, patience).await;
        if stored.is_err() {
            let taken_back = timeout(TAKING_BACK, client.delete(key(&hidden))).await;
            if let Ok(Err(error)) = taken_back {
                tracing::debug!("{}", self.error(freight.action, &error));
            }
        }
        stored
    }

    async fn hidden(
        &self,
        freight: &Freight<'_>,
        client: &Operator,
        hidden: &str,
        patience: &Patience,
    ) -> Result<Digest, Error> {
        let action = freight.action;
        let theirs = |error: opendal::Error| self.error(action, &error);
        if let Some(disk) = &self.disk {
            let path = hidden.to_owned();
            self.on_disk(action, disk, move |disk| disk.create(&path))
                .await?;
        }
        let mut writer = client.writer(key(hidden)).await.map_err(theirs)?;
        let (len, mut start) = (freight.source.len(), 0);
        let mut hasher = ContentHasher::default();
        while start < len {
            let end = len.min(start + PIECE_LEN);
            let piece;
            (piece, hasher) = freight.take(start..end, hasher).await?;
            if let Some(bandwidth) = &freight.bandwidth {
                bandwidth.pass(end - start).await;
            }
            writer.write(piece).await.map_err(theirs)?;
            if let Some(progress) = freight.progress {
                progress.add(end - start);
            }
            patience.renew();
            start = end;
        }
        writer.close().await.map_err(theirs)?;
        if let Some(disk) = &self.disk {
            let (path, modified) = (hidden.to_owned(), freight.modified);
            let settling = self.on_disk(action, disk, move |disk| disk.settle(&path, modified));
            settling.await?;
        }
        let hash = hasher.finish();
        if self
            .read_back(client, hidden, len, action, patience)
            .await?
            != hash
        {
            let what = "what was read back is not what was written";
            return Err(freight
                .error(ErrorKind::Corrupt, what)
                .hint("is the disk there all right? look at `dmesg`"));
        }
        freight.check().await?;
        if let Some(disk) = &self.disk {
            let (from, to, replace) = (hidden.to_owned(), freight.path.to_owned(), freight.replace);
            let publishing =
                self.on_disk(action, disk, move |disk| disk.publish(&from, &to, replace));
            publishing.await?;
            return Ok(hash);
        }
        let (from, to) = (key(hidden), key(freight.path));
        if !freight.replace && self.stat(freight.path, patience).await?.is_some() {
            let what = "something of that name is there by now; nothing was touched";
            return Err(freight.error(ErrorKind::AlreadyExists, what));
        }
        match client.rename(from, to).await {
            // A server that does not know the renaming of POSIX replaces nothing.
            // If only the reply was lost, there is nothing left to rename.
            Err(error)
                if freight.replace && !error.is_temporary() && client.stat(from).await.is_ok() =>
            {
                client.delete(to).await.map_err(theirs)?;
                client.rename(from, to).await.map_err(theirs)?;
            }
            renamed => renamed.map_err(theirs)?,
        }
        Ok(hash)
    }

    /// One upload in parts.
    async fn by_parts(&self, freight: &Freight<'_>, patience: &Patience) -> Result<Digest, Halt> {
        self.client(freight.action).await?;
        let ledger: Arc<Ledger> = Arc::default();
        let bandwidth = freight.bandwidth.clone();
        let client = self.fresh_client(freight.action, bandwidth, ledger.clone())?;
        let knows_conditions = client.info().capability().write_with_if_not_exists;
        let conditional =
            !freight.replace && knows_conditions && !self.unconditional.load(Ordering::Relaxed);
        let writer = client
            .writer_with(key(freight.path))
            .concurrent(freight.cut.in_flight)
            .if_not_exists(conditional);
        let mut writer = writer
            .await
            .map_err(|error| self.error(freight.action, &error))?;
        let sent = self.parts(freight, &mut writer, &ledger, patience).await;
        let hash = match sent {
            Ok(hash) => hash,
            Err(error) => {
                self.take_back(freight, &mut writer).await;
                // What the upload was named by is gone: the service gave it up.
                return Err(match error.kind() {
                    ErrorKind::NotFound => Halt::Lost(error),
                    _ => Halt::Failed(error),
                });
            }
        };
        let certain = self
            .close(freight, &mut writer, &ledger, conditional, patience)
            .await?;
        let found = self.stat(freight.path, patience).await?;
        let found = found.and_then(|entry| entry.file);
        let len = freight.source.len();
        if found.as_ref().is_none_or(|file| file.size != len) {
            let what = "what is there after the upload is not as long as what was sent";
            let error = freight.error(ErrorKind::Corrupt, what);
            return Err(match found {
                Some(_) if !certain => Halt::Failed(freight.error(
                    ErrorKind::AlreadyExists,
                    "something else of that name is there by now; nothing was touched",
                )),
                // It is ours, and wrong.
                Some(file) => {
                    self.delete(freight.path, &file.rev, patience).await?;
                    Halt::Lost(error)
                }
                None => Halt::Lost(error),
            });
        }
        if certain && (len == 0 || ledger.is_proven()) {
            return Ok(hash);
        }
        let action = freight.action;
        let back = self
            .read_back(&client, freight.path, len, action, patience)
            .await?;
        if back == hash {
            return Ok(hash);
        }
        let what = "what is stored is not what was sent";
        let error = freight.error(ErrorKind::Corrupt, what);
        match found.filter(|_| certain) {
            // It is ours, and wrong.
            Some(file) => {
                self.delete(freight.path, &file.rev, patience).await?;
                Err(Halt::Lost(error))
            }
            None => Err(Halt::Failed(freight.error(
                ErrorKind::AlreadyExists,
                "something else of that name is there by now; nothing was touched",
            ))),
        }
    }

    /// Sends every part; their content hash.
    async fn parts(
        &self,
        freight: &Freight<'_>,
        writer: &mut Writer,
        ledger: &Ledger,
        patience: &Patience,
    ) -> Result<Digest, Error> {
        let mut hasher = ContentHasher::default();
        for range in parts(freight.source.len(), freight.cut) {
            let part;
            (part, hasher) = freight.take(range, hasher).await?;
            retry(&self.wire.pause, patience, async || {
                let written = writer.write(part.clone()).await;
                // Others arrive while one waits for another try.
                freight.tell(ledger, patience);
                written.map_err(|error| self.error(freight.action, &error))
            })
            .await?;
        }
        freight.check().await?;
        Ok(hasher.finish())
    }

    /// Makes an object of the parts. Whether it is certain that the object is ours.
    async fn close(
        &self,
        freight: &Freight<'_>,
        writer: &mut Writer,
        ledger: &Ledger,
        conditional: bool,
        patience: &Patience,
    ) -> Result<bool, Halt> {
        if !freight.replace {
            let error = match self.stat(freight.path, patience).await {
                Ok(None) => None,
                Ok(Some(_)) => Some(freight.error(
                    ErrorKind::AlreadyExists,
                    "something of that name is there by now; nothing was touched",
                )),
                Err(error) => Some(error),
            };
            if let Some(error) = error {
                self.take_back(freight, writer).await;
                return Err(error.into());
            }
        }
        let mut tries = 0;
        let closed = retry(&self.wire.pause, patience, async || {
            tries += 1;
            let closed = writer.close().await;
            freight.tell(ledger, patience);
            closed.map_err(|error| self.error(freight.action, &error))
        });
        let Err(error) = closed.await else {
            return Ok(true);
        };
        // The reply to an earlier try was lost: the service knows no such upload any more, or finds our own
        // object in the way.
        let lost = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists);
        if tries > 1 && lost && self.stat(freight.path, patience).await?.is_some() {
            return Ok(false);
        }
        self.take_back(freight, writer).await;
        if conditional && error.to_string().contains("NotImplemented") {
            self.unconditional.store(true, Ordering::Relaxed);
            return Err(Halt::Lost(error));
        }
        Err(match error.kind() {
            ErrorKind::NotFound => Halt::Lost(error),
            ErrorKind::AlreadyExists => {
                let what = "something of that name is there by now; nothing was touched";
                freight.error(ErrorKind::AlreadyExists, what).into()
            }
            _ => error.into(),
        })
    }

    /// Gives an upload up, so that its parts take no room.
    async fn take_back(&self, freight: &Freight<'_>, writer: &mut Writer) {
        match timeout(TAKING_BACK, writer.abort()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!("{}", self.error(freight.action, &error)),
            Err(_) => tracing::debug!("{}: the upload was not given up in time", freight.action),
        }
    }

    /// The content hash of what is stored.
    async fn read_back(
        &self,
        client: &Operator,
        path: &str,
        len: u64,
        action: &str,
        patience: &Patience,
    ) -> Result<Digest, Error> {
        // A disk is near: it is asked often, and for little.
        let piece = if self.can_rename() {
            PIECE_LEN
        } else {
            LONGEST_RANGE
        };
        let mut hasher = ContentHasher::default();
        let mut offset = 0;
        while offset < len {
            let end = len.min(offset + piece);
            let read = retry(&self.wire.pause, patience, async || {
                let asked = client.read_with(key(path)).range(offset..end).await;
                asked.map_err(|error| self.error(action, &error))
            });
            let read = read.await?;
            patience.renew();
            if read.len() as u64 != end - offset {
                let what = "what is stored ends too early";
                return Err(Error::new(ErrorKind::Corrupt, action, what));
            }
            hasher = blocking(action, move || {
                for piece in read {
                    hasher.update(&piece);
                }
                Ok(hasher)
            })
            .await?;
            offset = end;
        }
        Ok(hasher.finish())
    }
}
