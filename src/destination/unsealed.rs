//! A stored archive as GitLab made it, whether it is stored so or encrypted: the one place where archives are
//! decrypted.
//!
//! Nothing is handed on that is not authenticated: of an encrypted archive only whole chunks are, each opened under
//! its own number.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use super::fetch::{Arriving, fetch, pipe};
use super::{Destination, LONGEST_RANGE};
use crate::error::{Error, ErrorKind};
use crate::retry::Patience;

/// A stored archive, open for reading.
pub struct Unsealed<'a> {
    destination: &'a Destination,
    path: String,
    stored_len: u64,
    /// Bytes that came from the destination, whatever they were read for.
    fetched: AtomicU64,
}

impl<'a> Unsealed<'a> {
    /// Of a file that is stored as it is.
    pub fn plain(destination: &'a Destination, path: &str, stored_len: u64) -> Unsealed<'a> {
        Unsealed {
            destination,
            path: path.to_owned(),
            stored_len,
            fetched: AtomicU64::new(0),
        }
    }

    /// Its length as GitLab made it, in bytes.
    pub fn len(&self) -> u64 {
        self.stored_len
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where it is stored, for messages.
    pub fn place(&self) -> String {
        format!("{}:{}", self.destination.name(), self.path)
    }

    /// How many bytes have been downloaded so far.
    pub fn fetched(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }

    /// Reads a part of at most [`LONGEST_RANGE`] bytes; shorter only at the end.
    pub async fn read(&self, offset: u64, len: u64, patience: &Patience) -> Result<Vec<u8>, Error> {
        let len = len
            .min(LONGEST_RANGE)
            .min(self.len().saturating_sub(offset));
        if len == 0 {
            return Ok(Vec::new());
        }
        let part = self.destination.read(&self.path, offset, len, patience);
        let part = part.await?;
        patience.renew();
        self.fetched.fetch_add(part.len() as u64, Ordering::Relaxed);
        if part.len() as u64 == len {
            return Ok(part);
        }
        let action = format!("reading {}", self.place());
        let end = offset + part.len() as u64;
        let what = format!("it ends at byte {end} of {}", self.len());
        Err(Error::new(ErrorKind::SourceChanged, action, what)
            .hint("has somebody changed it? `gitlab-pi-backup verify` tells what is stored"))
    }

    /// Hands the bytes of `range` to `take`, in order.
    pub async fn fetch(
        &self,
        range: Range<u64>,
        patience: &Patience,
        mut take: impl AsyncFnMut(Vec<u8>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let counted = async |part: Vec<u8>| {
            self.fetched.fetch_add(part.len() as u64, Ordering::Relaxed);
            take(part).await
        };
        fetch(self.destination, &self.path, range, patience, counted).await
    }

    /// Lets `reading` read `range` on a thread of its own while it comes. What it does not read is not fetched, as
    /// soon as it ends. An error is the line's; a reader is told of it, too.
    pub async fn stream<T: Send + 'static>(
        &self,
        range: Range<u64>,
        patience: &Patience,
        reading: impl FnOnce(Arriving) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (sending, arriving) = pipe();
        let mut reading = tokio::task::spawn_blocking(move || reading(arriving));
        let fetching = async {
            let fetched = self
                .fetch(range, patience, async |part| {
                    sending.send(part).await;
                    Ok(())
                })
                .await;
            sending.end(&fetched).await;
            fetched
        };
        let read = tokio::select! {
            fetched = fetching => {
                let read = (&mut reading).await;
                fetched?;
                read
            }
            read = &mut reading => read,
        };
        read.map_err(|_| {
            let action = format!("reading {}", self.place());
            Error::new(ErrorKind::Unexpected, action, "the program is ending")
        })
    }
}
