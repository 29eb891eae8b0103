//! Whether a token can do what backups need: a small file is stored, looked at, read back and deleted.
//!
//! Every right that is missing shows, not only the first: a step that lacks one is passed over, and the steps
//! behind it ask for something that is not there, which needs their right all the same.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use ring::rand::{SecureRandom as _, SystemRandom};

use crate::content_hash::{Digest, hash_source};
use crate::destination::dropbox::SCOPES;
use crate::destination::{Destination, FileEntry};
use crate::error::{Error, ErrorKind};
use crate::retry::Patience;
use crate::source::Source;
use crate::source::memory::MemorySource;

/// What a probe found.
#[derive(Debug, Default)]
pub struct Proof {
    /// Whose account it is.
    pub account: Option<String>,
    /// Bytes that still fit.
    pub free: Option<u64>,
    /// The rights that are missing, by the service's names.
    pub missing: BTreeSet<String>,
    /// What else went wrong; the steps behind it were not tried.
    pub error: Option<Error>,
}

impl Proof {
    /// Whether the token can do everything.
    pub fn is_good(&self) -> bool {
        self.missing.is_empty() && self.error.is_none()
    }

    /// The rights it showed to have.
    pub fn scopes(&self) -> Vec<String> {
        let has = |scope: &&str| self.error.is_none() && !self.missing.contains(*scope);
        SCOPES.into_iter().filter(has).map(str::to_owned).collect()
    }

    /// What a step came to; none if it lacked a right, which is noted.
    fn unless_lacking<T>(&mut self, result: Result<T, Error>) -> Result<Option<T>, Error> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.lacks().is_empty() => Err(error),
            Err(error) => {
                self.missing.extend(error.lacks().iter().cloned());
                Ok(None)
            }
        }
    }
}

/// Whether what is there is what was stored, as far as the service tells.
fn is_it(file: &FileEntry, hash: Digest, len: u64) -> bool {
    file.size == len && file.content_hash.is_none_or(|told| told == hash)
}

/// A probe of one destination; nothing is stored before it is made.
pub struct Probe<'a> {
    destination: &'a Destination,
    /// At the root of the app's folder: no folder of backups is needed, nor filled.
    path: String,
    content: String,
    allowed: Duration,
}

impl Probe<'_> {
    /// Each step is tried again for a minute, or for `allowed` if that is less.
    pub fn new(destination: &Destination, allowed: Duration) -> Probe<'_> {
        let mut random = [0; 16];
        // Without a random source the name is one that an earlier probe may have left; it is replaced.
        let _ = SystemRandom::new().fill(&mut random);
        let mut unique = String::new();
        for byte in random {
            // Writing to a string cannot fail.
            let _ = write!(unique, "{byte:02x}");
        }
        Probe {
            destination,
            path: format!("/gitlab-pi-backup-probe-{unique}.txt"),
            content: format!(
                "gitlab-pi-backup stored this file to prove that it can. It may be deleted.\n{unique}\n"
            ),
            allowed,
        }
    }

    /// Makes it, and leaves nothing behind.
    pub async fn make(&self) -> Proof {
        let mut proof = Proof::default();
        if let Err(error) = self.steps(&mut proof).await {
            proof.error = Some(error);
            self.clean_up().await;
        }
        proof
    }

    async fn steps(&self, proof: &mut Proof) -> Result<(), Error> {
        let (destination, path) = (self.destination, self.path.as_str());
        let patience = || Patience::short(self.allowed);
        proof.unless_lacking(destination.authenticate(&patience()).await)?;
        if let Some(dropbox) = destination.dropbox() {
            let account = proof.unless_lacking(dropbox.account(&patience()).await)?;
            proof.account = account.flatten();
        }
        let free = proof.unless_lacking(destination.space(&patience()).await)?;
        proof.free = free.and_then(|space| space.free);

        let source = MemorySource::new(self.content.clone());
        let source: Arc<dyn Source> = Arc::new(source);
        let hash = hash_source(source.as_ref()).expect("memory is always read");
        let stored = destination.put(path, &source, hash, &patience()).await;
        let stored = proof.unless_lacking(stored)?;
        let looked = destination.stat(path, &patience()).await;
        let looked = proof.unless_lacking(looked)?;
        let wrong = |what: &str| {
            let action = format!("{}: proving the token with {path}", destination.name());
            Error::new(ErrorKind::Corrupt, action, what)
        };
        if stored.is_some()
            && let Some(entry) = looked
        {
            let file = entry.and_then(|entry| entry.file);
            if file.is_none_or(|file| !is_it(&file, hash, source.len())) {
                return Err(wrong("what was stored is not what is there"));
            }
        }
        let read = destination.read(path, 0, source.len(), &patience()).await;
        let read = match read {
            // Nothing is there to be read, but it may be.
            Err(error) if stored.is_none() && error.kind() == ErrorKind::NotFound => None,
            read => proof.unless_lacking(read)?,
        };
        if read.is_some_and(|read| read != self.content.as_bytes()) {
            return Err(wrong("what was stored is not what is read"));
        }
        if let Some(stored) = stored {
            destination.delete(path, &stored.rev, &patience()).await?;
        }
        Ok(())
    }

    /// Deletes what a probe that was broken off may have left, if that is possible at once.
    pub async fn clean_up(&self) {
        let at_once = Patience::new(Duration::ZERO);
        let there = self.destination.stat(&self.path, &at_once).await;
        if let Ok(Some(entry)) = there
            && let Some(file) = entry.file
        {
            let deleted = self.destination.delete(&self.path, &file.rev, &at_once);
            if let Err(error) = deleted.await {
                tracing::debug!("{error}");
            }
        }
    }
}
