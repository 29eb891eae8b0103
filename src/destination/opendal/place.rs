//! A client for one such place.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use futures_util::TryStreamExt as _;
use opendal::{HttpTransporter, Metadata, OperationContext, Operator};
use tokio::time::timeout;

use super::Scheme;
use super::answer::{of_disk, understand};
use super::disk::Disk;
use super::freight::{Cut, Freight, Memory};
use super::keys::Settings;
use super::partial::{is_partial, split};
use super::wire::{Ledger, Transport, Wire};
use crate::content_hash::Digest;
use crate::destination::{Entry, FileEntry, LONGEST_RANGE, Shipment, Space};
use crate::error::{Error, ErrorKind};
use crate::http::{Bandwidth, Http};
use crate::retry::{Patience, retry};
use crate::source::Source;

/// A folder with more than this is not one of ours.
const MOST_ENTRIES: usize = 200_000;
/// Looking whether a folder is there takes no longer, or its file system is dead.
const LONGEST_LOOK: Duration = Duration::from_secs(20);

/// A client for one folder, bucket or server.
pub struct OpenDal {
    pub(super) name: String,
    pub(super) wire: Arc<Wire>,
    pub(super) disk: Option<Disk>,
    /// Why nothing can be done, if that was clear before anything was tried.
    broken: Option<Error>,
    client: OnceLock<Operator>,
    /// Whether the service has shown that it does not know "only if nothing is there".
    pub(super) unconditional: AtomicBool,
    /// A look at the disk has not come back yet.
    is_silent: Arc<AtomicBool>,
}

impl OpenDal {
    /// `stall`: a connection that moves nothing for so long is given up.
    pub fn new(name: &str, settings: Settings, stall: Duration) -> OpenDal {
        let (mut more, mut broken) = (Vec::new(), None);
        let mut refuse = |what: String| {
            let action = format!("{name}: reading `ca_file`");
            let error = Error::new(ErrorKind::Invalid, action, what);
            broken = Some(error.hint("it takes the authority's certificate as PEM"));
        };
        if let Some(path) = &settings.ca_file {
            match fs::read(path) {
                Ok(pem) => more = pem,
                Err(error) => refuse(format!("{}: {error}", path.display())),
            }
        }
        let direct = settings.is_plain;
        let http = Http::trusting(stall, direct, &more).unwrap_or_else(|why| {
            refuse(why);
            Http::new(stall, direct)
        });
        let disk = settings.folder().map(|root| Disk {
            root: root.to_owned(),
            require_mount: settings.require_mount,
        });
        OpenDal {
            name: name.to_owned(),
            wire: Arc::new(Wire::new(http, settings)),
            disk,
            broken,
            client: OnceLock::new(),
            unconditional: AtomicBool::new(false),
            is_silent: Arc::default(),
        }
    }

    /// The folder of this machine that it is, if it is one.
    pub fn folder(&self) -> Option<&Path> {
        self.wire.settings.folder()
    }

    /// Whether it has names that can be changed, so that a file gets its own when it is whole.
    pub fn can_rename(&self) -> bool {
        matches!(self.wire.settings.scheme, Scheme::Fs | Scheme::Sftp)
    }

    /// The client, once the place is known to be there.
    pub(super) async fn client(&self, action: &str) -> Result<Operator, Error> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        if let Some(disk) = self.disk.clone() {
            self.check(disk, action).await?;
        }
        if let Some(client) = self.client.get() {
            return Ok(client.clone());
        }
        self.learn_region(action).await?;
        let client = self.fresh_client(action, None, Arc::default())?;
        Ok(self.client.get_or_init(|| client).clone())
    }

    /// Whether the disk is there. One on a network whose server is gone would never say so.
    async fn check(&self, disk: Disk, action: &str) -> Result<(), Error> {
        let silent = || {
            Error::new(
                ErrorKind::Unexpected,
                action,
                "the file system does not answer",
            )
            .hint("is the server of that mount there? umount -l it, or mount it with `soft`")
            .absent()
        };
        if self.is_silent.load(Ordering::Relaxed) {
            return Err(silent());
        }
        let (told, is_silent) = (action.to_owned(), self.is_silent.clone());
        let checking = blocking(action, move || {
            let checked = disk.check(&told);
            is_silent.store(false, Ordering::Relaxed);
            checked
        });
        if let Ok(checked) = timeout(LONGEST_LOOK, checking).await {
            return checked;
        }
        self.is_silent.store(true, Ordering::Relaxed);
        Err(silent())
    }

    /// A client of its own for one upload. `ledger` notes what becomes of the bodies it sends.
    pub(super) fn fresh_client(
        &self,
        action: &str,
        bandwidth: Option<Arc<Bandwidth>>,
        ledger: Arc<Ledger>,
    ) -> Result<Operator, Error> {
        let transport = Transport {
            wire: self.wire.clone(),
            bandwidth,
            ledger,
        };
        let context = OperationContext::new().with_http_transport(HttpTransporter::new(transport));
        let client = self.wire.settings.operator(action)?;
        Ok(client.with_context(context))
    }

    /// An error of OpenDAL's as the house's, without secrets.
    pub(super) fn error(&self, action: &str, error: &opendal::Error) -> Error {
        understand(action, error).map_text(|text| self.wire.settings.redact(text))
    }

    /// Work with the disk, away from the one I/O thread.
    pub(super) async fn on_disk<T: Send + 'static>(
        &self,
        action: &str,
        disk: &Disk,
        work: impl FnOnce(&Disk) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let disk = disk.clone();
        let told = action.to_owned();
        blocking(action, move || {
            work(&disk).map_err(|error| of_disk(&told, &error))
        })
        .await
    }

    /// Proves that the place is there and the credentials are right.
    pub async fn authenticate(&self, patience: &Patience) -> Result<(), Error> {
        let action = format!("{}: looking whether it is there", self.name);
        retry(&self.wire.pause, patience, async || {
            let client = self.client(&action).await?;
            if self.disk.is_none() {
                // A bucket may well be empty.
                self.any_below(&client, "/", &action).await?;
            }
            Ok(())
        })
        .await
    }

    /// How far this machine's clock is behind its, by its last reply.
    pub fn clock_lag(&self) -> Option<TimeDelta> {
        self.wire.http.clock_lag()
    }

    /// What is at a path; none if nothing is.
    pub async fn stat(&self, path: &str, patience: &Patience) -> Result<Option<Entry>, Error> {
        let action = format!("{}: looking at {path}", self.name);
        retry(&self.wire.pause, patience, async || {
            let client = self.client(&action).await?;
            if let Some(disk) = &self.disk {
                let path = path.to_owned();
                return self
                    .on_disk(&action, disk, move |disk| disk.stat(&path))
                    .await;
            }
            let name = split(path).1.to_owned();
            let folder = || Entry {
                name: name.clone(),
                file: None,
            };
            if name.is_empty() {
                return Ok(Some(folder()));
            }
            match client.stat(key(path)).await {
                Ok(found) if found.is_dir() => Ok(Some(folder())),
                Ok(found) => Ok(Some(Entry {
                    name: name.clone(),
                    file: Some(file(&found)),
                })),
                // What has no folders of its own has those that its names tell of.
                Err(error) if error.kind() == opendal::ErrorKind::NotFound => {
                    let below = format!("{}/", key(path));
                    let any = self.any_below(&client, &below, &action).await?;
                    Ok(any.then(folder))
                }
                Err(error) => Err(self.error(&action, &error)),
            }
        })
        .await
    }

    /// Whether there is anything in a folder.
    async fn any_below(
        &self,
        client: &Operator,
        folder: &str,
        action: &str,
    ) -> Result<bool, Error> {
        let look = async {
            let mut found = client.lister_with(folder).limit(1).await?;
            found.try_next().await
        };
        match look.await {
            Ok(found) => Ok(found.is_some()),
            Err(error) if error.kind() == opendal::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(self.error(action, &error)),
        }
    }

    /// How full it is.
    pub async fn space(&self, patience: &Patience) -> Result<Space, Error> {
        let Some(disk) = &self.disk else {
            return Ok(Space::default());
        };
        let action = format!("{}: asking how full it is", self.name);
        retry(&self.wire.pause, patience, async || {
            self.client(&action).await?;
            self.on_disk(&action, disk, Disk::space).await
        })
        .await
    }

    /// Everything directly in a folder; none if there is no such folder.
    pub async fn list(
        &self,
        folder: &str,
        patience: &Patience,
    ) -> Result<Option<Vec<Entry>>, Error> {
        let shown = if folder.is_empty() { "/" } else { folder };
        let action = format!("{}: listing {shown}", self.name);
        retry(&self.wire.pause, patience, async || {
            let client = self.client(&action).await?;
            if let Some(disk) = &self.disk {
                let folder = folder.to_owned();
                return self
                    .on_disk(&action, disk, move |disk| disk.list(&folder))
                    .await;
            }
            let found = self.entries(&client, folder, &action).await?;
            let Some(found) = found else { return Ok(None) };
            let entries = found.into_iter().filter(|(name, _)| !is_partial(name));
            let entries = entries.map(|(name, metadata)| Entry {
                name,
                file: (!metadata.is_dir()).then(|| file(&metadata)),
            });
            Ok(Some(entries.collect()))
        })
        .await
    }

    /// The names in a folder, with what is known of each; none if there is no such folder.
    pub(super) async fn entries(
        &self,
        client: &Operator,
        folder: &str,
        action: &str,
    ) -> Result<Option<Vec<(String, Metadata)>>, Error> {
        let prefix = format!("{}/", key(folder));
        let client = client.clone();
        // A task of its own: the client of SFTP panics at a name that is no UTF-8.
        let listing = tokio::spawn(async move {
            let mut lister = client.lister(&prefix).await?;
            let (mut entries, mut is_there) = (Vec::new(), prefix == "/");
            while let Some(found) = lister.try_next().await? {
                is_there = true;
                let path = found.path().trim_end_matches('/');
                let name = split(path).1.to_owned();
                let is_itself = format!("{path}/") == prefix;
                if !name.is_empty() && !is_itself {
                    entries.push((name, found.metadata().clone()));
                }
                if entries.len() > MOST_ENTRIES {
                    let what = format!("there are more than {MOST_ENTRIES} files in it");
                    return Err(opendal::Error::new(opendal::ErrorKind::Unsupported, what));
                }
            }
            Ok((is_there, entries))
        });
        match listing.await {
            Ok(Ok((is_there, entries))) => Ok(is_there.then_some(entries)),
            Ok(Err(error)) if error.kind() == opendal::ErrorKind::NotFound => Ok(None),
            Ok(Err(error)) => Err(self.error(action, &error)),
            Err(_) => {
                let what = "the list cannot be read: is there a name in it that is no UTF-8?";
                Err(Error::new(ErrorKind::Unexpected, action, what).hint("rename that file"))
            }
        }
    }

    /// Reads a part of a file; shorter only at its end.
    pub async fn read(
        &self,
        path: &str,
        offset: u64,
        len: u64,
        patience: &Patience,
    ) -> Result<Vec<u8>, Error> {
        let action = format!("{}: reading {path} from byte {offset}", self.name);
        let len = len.min(LONGEST_RANGE);
        retry(&self.wire.pause, patience, async || {
            let client = self.client(&action).await?;
            if len == 0 {
                return Ok(Vec::new());
            }
            let asked = client.read_with(key(path)).range(offset..offset + len);
            match asked.await {
                Ok(read) => Ok(read.to_vec()),
                // A range that ends behind the end is an error, of one kind or the other.
                Err(error)
                    if matches!(
                        error.kind(),
                        opendal::ErrorKind::RangeNotSatisfied | opendal::ErrorKind::Unexpected
                    ) =>
                {
                    let there = client.stat(key(path)).await;
                    let there = there.map_err(|error| self.error(&action, &error))?;
                    let end = there.content_length();
                    if end >= offset + len {
                        return Err(self.error(&action, &error));
                    }
                    if offset >= end {
                        return Ok(Vec::new());
                    }
                    let rest = client.read_with(key(path)).range(offset..end).await;
                    let rest = rest.map_err(|error| self.error(&action, &error))?;
                    Ok(rest.to_vec())
                }
                Err(error) => Err(self.error(&action, &error)),
            }
        })
        .await
    }

    /// Stores a small file, whose content hash is `hash`, in the place of whatever file has that path.
    pub async fn put(
        &self,
        path: &str,
        source: &Arc<dyn Source>,
        hash: Digest,
        patience: &Patience,
    ) -> Result<FileEntry, Error> {
        let action = format!("{}: storing {path}", self.name);
        let freight = Freight {
            action: &action,
            source: source.clone(),
            fingerprint: None,
            path,
            replace: true,
            cut: Cut::ONE,
            bandwidth: None,
            progress: None,
            modified: None,
            memory: Memory::default(),
        };
        if self.ship(&freight, patience).await? != hash {
            let what = "the bytes changed while they were sent";
            return Err(Error::new(ErrorKind::SourceChanged, &action, what));
        }
        let stored = self
            .stat(path, patience)
            .await?
            .and_then(|entry| entry.file);
        stored
            .filter(|file| file.size == source.len())
            .ok_or_else(|| {
                let what = "what was stored is not what is there";
                Error::new(ErrorKind::Corrupt, &action, what)
            })
    }

    /// Stores an archive, complete or not at all, and returns the content hash of what was sent.
    pub async fn store(&self, shipment: &Shipment<'_>) -> Result<Digest, Error> {
        let action = format!("{}: uploading to {}", self.name, shipment.path);
        let patience = Patience::new(shipment.options.retry_for);
        let freight = Freight {
            action: &action,
            source: shipment.source.clone(),
            fingerprint: Some(shipment.fingerprint),
            path: shipment.path,
            replace: false,
            cut: Cut::new(shipment.options.concurrency, shipment.options.room),
            bandwidth: shipment.options.bandwidth.clone(),
            progress: Some(shipment.progress),
            modified: Some(shipment.client_modified.into()),
            memory: Memory::default(),
        };
        self.ship(&freight, &patience).await
    }

    /// Deletes a file, but only if it still is the content that `rev` names; `false` if it is gone.
    pub async fn delete(&self, path: &str, rev: &str, patience: &Patience) -> Result<bool, Error> {
        let action = format!("{}: deleting {path}", self.name);
        let found = self.stat(path, patience).await?;
        let Some(found) = found else { return Ok(false) };
        if found.file.is_none_or(|file| file.rev != rev) {
            let what = "something else is there by now; nothing was touched";
            return Err(Error::new(ErrorKind::Invalid, &action, what));
        }
        retry(&self.wire.pause, patience, async || {
            let client = self.client(&action).await?;
            let deleted = client.delete(key(path)).await;
            deleted.map_err(|error| self.error(&action, &error))?;
            if let Some(disk) = &self.disk {
                let path = path.to_owned();
                self.on_disk(&action, disk, move |disk| disk.sync_names(&path))
                    .await?;
            }
            Ok(true)
        })
        .await
    }
}

/// Without the slash that our paths begin with and OpenDAL's do not.
pub(super) fn key(path: &str) -> &str {
    path.trim_start_matches('/')
}

/// What is known of a stored file. No service tells the content hash; the tag, or else size and time, tell whether
/// it is still the same.
fn file(metadata: &Metadata) -> FileEntry {
    let size = metadata.content_length();
    let tag = metadata.etag().map(|tag| tag.trim_start_matches("W/"));
    // Some servers quote it in one reply and not in another.
    let tag = tag.map(|tag| tag.trim_matches('"')).unwrap_or_default();
    let rev = if tag.is_empty() {
        let modified = metadata.last_modified();
        let modified = modified.map(|time| time.to_string());
        format!("{size}:{}", modified.unwrap_or_default())
    } else {
        tag.to_owned()
    };
    // One reply tells it in seconds, another one more exactly.
    let modified = metadata.last_modified().map(SystemTime::from);
    let modified = modified.map(|time| DateTime::<Utc>::from(time).trunc_subsecs(0));
    FileEntry {
        size,
        content_hash: None,
        rev,
        modified,
    }
}

/// Work in the blocking pool.
pub(super) async fn blocking<T: Send + 'static>(
    action: &str,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| {
        Err(Error::new(
            ErrorKind::Unexpected,
            action,
            "the program is ending",
        ))
    })
}
