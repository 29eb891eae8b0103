//! Storing: to a temporary name, proved, and only then moved to the name it is to have.
//!
//! What a killed run leaves is hidden, is called `.NAME.RANDOM.partial`, and goes when the next archive is
//! stored in that folder.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use ring::rand::{SecureRandom as _, SystemRandom};

use super::multistatus::Item;
use super::observed::{Observed, Sums};
use super::{WebDav, entry, method};
use crate::content_hash::Digest;
use crate::destination::{FileEntry, LARGEST_SMALL_FILE, Shipment};
use crate::error::{Error, ErrorKind};
use crate::http::{Bandwidth, Method, Payload, source_error};
use crate::progress::Progress;
use crate::retry::{Patience, retry};
use crate::source::Source;
use crate::units::Size;

/// How a temporary name ends.
const PARTIAL: &str = ".partial";
/// Hex digits before that.
const RANDOM_LEN: usize = 16;
/// A server may look through the whole of a file, or copy it, before it answers.
const LONGEST_WAIT: Duration = Duration::from_mins(10);
/// An upload that got somewhere and broke is begun again so often, however long it took.
const MOST_BREAKS: u32 = 5;
/// What another upload may be sending now is not taken for what one left.
const LEFT_FOR: TimeDelta = TimeDelta::days(1);

/// Something on its way.
struct Delivery<'a> {
    action: &'a str,
    source: Arc<dyn Source>,
    path: &'a str,
    /// Whether it takes the place of what is there.
    replaces: bool,
    bandwidth: Option<Arc<Bandwidth>>,
    progress: Option<Progress>,
    patience: &'a Patience,
    /// Fails if the bytes are no longer those that are to be sent.
    unchanged: &'a (dyn Fn() -> Result<(), Error> + Sync),
}

impl WebDav {
    /// Stores a small file, whose content hash is `hash`, in the place of whatever file has that path.
    pub async fn put(
        &self,
        path: &str,
        source: &Arc<dyn Source>,
        hash: Digest,
        patience: &Patience,
    ) -> Result<FileEntry, Error> {
        let action = format!("{}: storing {path}", self.name);
        if source.len() > LARGEST_SMALL_FILE {
            let what = format!("it is larger than {}", Size(LARGEST_SMALL_FILE));
            return Err(Error::new(ErrorKind::Invalid, action, what));
        }
        self.sweep_once(path, patience).await;
        let delivery = Delivery {
            action: &action,
            source: source.clone(),
            path,
            replaces: true,
            bandwidth: None,
            progress: None,
            patience,
            unchanged: &|| Ok(()),
        };
        let expected = |sums: Digest| {
            let what = "the file is not what it was when it was hashed";
            (sums == hash)
                .then_some(())
                .ok_or_else(|| Error::new(ErrorKind::SourceChanged, &action, what))
        };
        self.deliver(&delivery, expected)
            .await
            .map(|(file, _)| file)
    }

    /// Stores an archive, complete or not at all, and returns the content hash of what was sent.
    pub async fn store(&self, shipment: &Shipment<'_>) -> Result<Digest, Error> {
        let action = format!("{}: uploading to {}", self.name, shipment.path);
        let patience = Patience::new(shipment.options.retry_for);
        let unchanged = || {
            let action = format!("reading {}", shipment.source_path.display());
            let now = shipment.source.fingerprint();
            if now.map_err(|error| source_error(&action, &error))? == *shipment.fingerprint {
                return Ok(());
            }
            let what = "the file changed while it was uploaded";
            Err(Error::new(ErrorKind::SourceChanged, action, what)
                .hint("is another backup running? the next run takes it from the beginning"))
        };
        let delivery = Delivery {
            action: &action,
            source: shipment.source.clone(),
            path: shipment.path,
            replaces: false,
            bandwidth: shipment.options.bandwidth.clone(),
            progress: Some(shipment.progress.clone()),
            patience: &patience,
            unchanged: &unchanged,
        };
        self.deliver(&delivery, |_| unchanged())
            .await
            .map(|(_, hash)| hash)
    }

    /// `last_look` decides, when all has arrived, whether it was the right thing.
    async fn deliver(
        &self,
        delivery: &Delivery<'_>,
        last_look: impl Fn(Digest) -> Result<(), Error>,
    ) -> Result<(FileEntry, Digest), Error> {
        let (folder, name) = split(delivery.path);
        self.make_folder(folder, delivery.patience).await?;
        let partial = format!("{folder}/.{name}.{}{PARTIAL}", random());
        let result = async {
            let hash = self.send(delivery, &partial).await?;
            last_look(hash)?;
            let file = self.rename(delivery, &partial).await?;
            Ok((file, hash))
        };
        let result: Result<_, Error> = result.await;
        if let Err(error) = &result
            && !error.is_absent()
        {
            self.discard(&partial).await;
        }
        result
    }

    /// Brings the bytes to the temporary name, and proves that they are there.
    async fn send(&self, delivery: &Delivery<'_>, partial: &str) -> Result<Digest, Error> {
        let with_sha1 = self.is_owncloud.load(Ordering::Relaxed);
        let observed = Observed::new(
            delivery.source.clone(),
            with_sha1,
            delivery.progress.clone(),
        );
        let observed = Arc::new(observed);
        let len = observed.len();
        let mut breaks = 0;
        let sent = retry(&self.pause, delivery.patience, async || {
            // Other bytes must not follow under the same name, nor under the same key.
            (delivery.unchanged)()?;
            observed.begin_again();
            let result = self.send_once(delivery, partial, &observed, len).await;
            if result.is_err() && observed.position() > 0 && breaks < MOST_BREAKS {
                // It got somewhere, if only to begin again.
                breaks += 1;
                delivery.patience.renew();
            }
            result
        });
        let (sums, hashed) = sent.await?;
        if !hashed {
            let there = self.read_back(partial, len, delivery.patience).await?;
            if there != sums.content {
                let what = "the server has stored other bytes than were sent";
                return Err(Error::new(ErrorKind::Corrupt, delivery.action, what).hint(
                    "nothing was stored; run it again, and look at the server's disk if it stays",
                ));
            }
        }
        Ok(sums.content)
    }

    /// One attempt: what was sent, and whether the server has proved it by a hash of its own.
    async fn send_once(
        &self,
        delivery: &Delivery<'_>,
        partial: &str,
        observed: &Arc<Observed>,
        len: u64,
    ) -> Result<(Sums, bool), Error> {
        let action = delivery.action;
        let source: Arc<dyn Source> = observed.clone();
        let mut call = self.call(action, Method::PUT, partial);
        call.headers = vec![
            (
                CONTENT_TYPE,
                HeaderValue::from_static("application/octet-stream"),
            ),
            // Nextcloud tells the hash of what it has received.
            (
                HeaderName::from_static("x-hash"),
                HeaderValue::from_static("sha256"),
            ),
        ];
        call.body = Payload::Range(source, 0..len, delivery.bandwidth.clone());
        call.reply_wait = self.stall.max(LONGEST_WAIT);
        let reply = self.receive(&call, &mut |_, _, _| false).await?;
        if !matches!(reply.status, 200 | 201 | 204) {
            return Err(self.failed(action, &reply));
        }
        let corrupt = |what: String| Error::new(ErrorKind::Corrupt, action, what);
        let Some(sums) = observed.sums() else {
            return Err(corrupt(
                "the server did not wait for the end of the file".to_owned(),
            ));
        };
        let item = self.item(partial, delivery.patience).await?;
        let size = item.as_ref().and_then(|item| item.size);
        if len > 0 && size != Some(len) {
            let there = size.map_or("nothing".to_owned(), |size| Size(size).to_string());
            return Err(corrupt(format!(
                "{} were sent, but {there} arrived",
                Size(len)
            )));
        }
        let told = reply.headers.get("x-hash-sha256");
        let told = told.and_then(|told| told.to_str().ok());
        let own = item.and_then(|item| sha1(&item)).zip(sums.sha1.clone());
        match (told, own) {
            (Some(told), _) if !told.eq_ignore_ascii_case(&sums.sha256) => Err(corrupt(
                "the server received other bytes than were sent".to_owned(),
            )),
            (None, Some((there, here))) if !there.eq_ignore_ascii_case(&here) => Err(corrupt(
                "the server stored other bytes than were sent".to_owned(),
            )),
            (told, own) => {
                let is_proved = told.is_some() || own.is_some();
                Ok((sums, is_proved))
            }
        }
    }

    /// Gives it the name it is to have.
    async fn rename(&self, delivery: &Delivery<'_>, partial: &str) -> Result<FileEntry, Error> {
        let (action, patience) = (delivery.action, delivery.patience);
        let mut call = self.call(action, method(b"MOVE"), partial);
        let overwrite = if delivery.replaces { "T" } else { "F" };
        let to = self.at(delivery.path);
        let address = |to: &str| HeaderValue::from_str(to).expect("an address is plain ASCII");
        call.headers = vec![
            (
                HeaderName::from_static("overwrite"),
                HeaderValue::from_static(overwrite),
            ),
            (HeaderName::from_static("destination"), address(to.as_str())),
        ];
        call.reply_wait = self.stall.max(LONGEST_WAIT);
        let mut attempts = 0;
        let moved = retry(&self.pause, patience, async || {
            attempts += 1;
            let mut reply = self.receive(&call, &mut |_, _, _| false).await?;
            if matches!(reply.status, 400 | 502) && attempts == 1 {
                // Behind a proxy a server may know itself by another name: a path alone is right everywhere.
                call.headers[1].1 = address(to.path());
                reply = self.receive(&call, &mut |_, _, _| false).await?;
            }
            match reply.status {
                200..=204 => Ok(()),
                // The reply to an earlier attempt was lost.
                404 | 412 if attempts > 1 && self.has_moved(delivery, partial).await? => Ok(()),
                412 if !delivery.replaces => {
                    let what =
                        "something of that name has come there meanwhile; nothing was touched";
                    Err(Error::new(ErrorKind::AlreadyExists, action, what)
                        .hint("rename or delete it there, then run again with --skip-create"))
                }
                _ => Err(self.failed(action, &reply)),
            }
        });
        moved.await?;
        let item = self.item(delivery.path, patience).await?;
        let file = item.and_then(|item| entry(&item).file);
        let len = delivery.source.len();
        file.filter(|file| file.size == len).ok_or_else(|| {
            let what = "it was moved to its name, and is not what is there now";
            Error::new(ErrorKind::Corrupt, action, what).hint("is somebody else at work there?")
        })
    }

    /// Whether the temporary name is gone and the file is there under its own.
    async fn has_moved(&self, delivery: &Delivery<'_>, partial: &str) -> Result<bool, Error> {
        if self.item(partial, delivery.patience).await?.is_some() {
            return Ok(false);
        }
        let there = self.item(delivery.path, delivery.patience).await?;
        Ok(there.is_some_and(|item| !item.is_folder && item.size == Some(delivery.source.len())))
    }

    /// Makes a folder, and those above it, if they are missing.
    async fn make_folder(&self, folder: &str, patience: &Patience) -> Result<(), Error> {
        let action = format!("{}: making the folder {folder}", self.name);
        if folder.is_empty() || self.item(folder, patience).await?.is_some() {
            return Ok(());
        }
        let ends = folder.match_indices('/').map(|(index, _)| index).skip(1);
        for end in ends.chain([folder.len()]) {
            let call = self.call(&action, method(b"MKCOL"), &folder[..end]);
            // 405: it is there already.
            let made = |status| matches!(status, 200..=204 | 405);
            self.repeat(&call, patience, made).await?;
        }
        Ok(())
    }

    /// Deletes a temporary file of this run, if that is possible at once.
    async fn discard(&self, partial: &str) {
        let action = format!("{}: deleting {partial}", self.name);
        let call = self.call(&action, Method::DELETE, partial);
        let gone = |status| matches!(status, 200..=204 | 404 | 410);
        let at_once = Patience::new(Duration::ZERO);
        if let Err(error) = self.repeat(&call, &at_once, gone).await {
            tracing::debug!("{error}");
        }
    }

    /// Deletes what killed runs left of a file.
    pub async fn sweep_for(&self, path: &str, patience: &Patience) {
        let (folder, name) = split(path);
        self.sweep(folder, name, patience).await;
    }

    /// Deletes what killed runs left in the folder of a small file; once, as there are many of those.
    async fn sweep_once(&self, path: &str, patience: &Patience) {
        let (folder, name) = split(path);
        let is_new = self.swept.lock().is_ok_and(|mut swept| {
            let is_new = !swept.iter().any(|known| known == folder);
            if is_new {
                swept.push(folder.to_owned());
            }
            is_new
        });
        if is_new {
            self.sweep(folder, name, patience).await;
        }
    }

    /// Deletes what killed runs left in a folder: of this very file, or old. That it fails keeps nothing from
    /// being stored.
    async fn sweep(&self, folder: &str, name: &str, patience: &Patience) {
        let items = match self.items(folder, patience).await {
            Ok(items) => items.unwrap_or_default(),
            Err(error) => return tracing::debug!("{error}"),
        };
        let now = Utc::now() + self.clock_lag().unwrap_or_default();
        for item in items.iter().filter(|item| !item.is_folder) {
            let called = item.path.last().map_or("", String::as_str);
            let Some(of) = left_over(called) else {
                continue;
            };
            if of == name || is_old(item, now) {
                tracing::info!(
                    "{}: deleting {folder}/{called}, which an upload that was killed left",
                    self.name
                );
                self.discard(&format!("{folder}/{called}")).await;
            }
        }
    }
}

/// Folder and name of a path.
fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// Whether a name is a temporary one of ours.
pub(super) fn is_partial(name: &str) -> bool {
    left_over(name).is_some()
}

/// What a file was to be called that has a temporary name of ours.
fn left_over(name: &str) -> Option<&str> {
    let (of, random) = name
        .strip_prefix('.')?
        .strip_suffix(PARTIAL)?
        .rsplit_once('.')?;
    let is_random =
        random.len() == RANDOM_LEN && random.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_random && !of.is_empty()).then_some(of)
}

fn is_old(item: &Item, now: DateTime<Utc>) -> bool {
    item.modified_at()
        .is_some_and(|modified| now - modified > LEFT_FOR)
}

fn random() -> String {
    let mut bytes = [0; RANDOM_LEN / 2];
    // Without a random source the name is one that an earlier run may have left; it is replaced.
    let _ = SystemRandom::new().fill(&mut bytes);
    let mut text = String::new();
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The SHA-1 that the server tells, in hex.
fn sha1(item: &Item) -> Option<String> {
    let all = item.checksums.as_deref()?.split_ascii_whitespace();
    let mut sums = all.filter_map(|sum| sum.split_once(':'));
    let (_, sum) = sums.find(|(kind, _)| kind.eq_ignore_ascii_case("SHA1"))?;
    Some(sum.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_left_overs_are_told() {
        let name = format!(".a.tar.{}{PARTIAL}", random());
        assert_eq!(left_over(&name), Some("a.tar"));
        for other in [
            "a.tar",
            ".a.tar.partial",
            ".a.tar.0123456789abcdeX.partial",
            "..0123456789abcdef.partial",
            "a.tar.0123456789abcdef.partial",
            ".a.tar.0123456789abcdef.part",
        ] {
            assert_eq!(left_over(other), None, "{other}");
        }
    }

    #[test]
    fn what_may_be_on_its_way_is_not_old() {
        let now = DateTime::from_timestamp(1_702_900_000, 0).expect("a time");
        let item = |text: Option<&str>| Item {
            modified: text.map(str::to_owned),
            ..Item::default()
        };
        assert!(is_old(&item(Some("Sat, 16 Dec 2023 01:00:00 GMT")), now));
        for young in [
            Some("Mon, 18 Dec 2023 01:00:00 GMT"),
            Some("Mon, 18 Dec 2033 01:00:00 GMT"),
            Some("x"),
            None,
        ] {
            assert!(!is_old(&item(young), now), "{young:?}");
        }
    }

    #[test]
    fn the_servers_sums_are_found() {
        let item = |text: &str| Item {
            checksums: Some(text.to_owned()),
            ..Item::default()
        };
        assert_eq!(
            sha1(&item("SHA1:ab MD5:cd ADLER32:ef")).as_deref(),
            Some("ab")
        );
        assert_eq!(sha1(&item("MD5:cd")), None);
        assert_eq!(sha1(&item("")), None);
    }
}
