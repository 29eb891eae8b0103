//! Places that keep archives.

pub mod dropbox;
pub mod fetch;
mod limits;
pub mod opendal;
pub mod unsealed;
pub mod webdav;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use secrecy::SecretString;
use serde::Deserialize;

use crate::archive::ArchiveKind;
use crate::content_hash::Digest;
use crate::destination::dropbox::Dropbox;
use crate::destination::opendal::{OpenDal, Scheme};
use crate::destination::webdav::WebDav;
use crate::error::Error;
use crate::http::Bandwidth;
use crate::progress::Progress;
use crate::retry::Patience;
use crate::settings::Section;
use crate::source::{Fingerprint, Source};
use crate::units::MIB;

/// The longest part of a stored file that is read at once, in bytes.
pub const LONGEST_RANGE: u64 = 4 * MIB;
/// A destination that may be absent is asked again for so long: enough for a hiccup.
const OPTIONAL_PATIENCE: Duration = Duration::from_secs(3);
/// The largest file that is stored in one request, in bytes; Dropbox's limit is 150 MiB.
pub const LARGEST_SMALL_FILE: u64 = 148 * MIB;

/// `[destinations.NAME]`.
#[derive(Debug)]
pub struct Settings {
    /// The name of the table.
    pub name: String,
    kinds: Vec<ArchiveKind>,
    config_folder: String,
    data_folder: String,
    manifest_folder: String,
    optional: bool,
    service: ServiceSettings,
}

#[derive(Debug)]
enum ServiceSettings {
    Dropbox(dropbox::Settings),
    OpenDal(opendal::Settings),
    WebDav(webdav::Settings),
}

/// `type`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ServiceType {
    Dropbox,
    WebDav,
    Fs,
    S3,
    Sftp,
    Gcs,
    Azblob,
    B2,
}

impl ServiceType {
    /// Of those that are reached by way of OpenDAL.
    fn scheme(self) -> Option<Scheme> {
        match self {
            ServiceType::Dropbox | ServiceType::WebDav => None,
            ServiceType::Fs => Some(Scheme::Fs),
            ServiceType::S3 => Some(Scheme::S3),
            ServiceType::Sftp => Some(Scheme::Sftp),
            ServiceType::Gcs => Some(Scheme::Gcs),
            ServiceType::Azblob => Some(Scheme::Azblob),
            ServiceType::B2 => Some(Scheme::B2),
        }
    }
}

impl Settings {
    /// Reads the section. None if something is missing; that is noted. `gets_exports`: it may get no backups.
    pub fn read(name: &str, section: &mut Section<'_>, gets_exports: bool) -> Option<Settings> {
        let service_type = section.require::<ServiceType>("type");
        let kinds = section
            .get("kinds")
            .unwrap_or_else(|| ArchiveKind::ALL.to_vec());
        if kinds.is_empty() && !gets_exports {
            section.fault(
                "kinds",
                "names no kind: give \"config\", \"data\" or both; or let `projects.destination` name this place, if \
                 it gets nothing but exports of projects",
            );
        }
        // Where the older Python script put them, so its users' backups are found.
        let config_folder = folder(section, "config_folder", "/Config");
        let data_folder = folder(section, "data_folder", "/Data");
        let manifest_folder = folder(section, "manifest_folder", "/Manifests");
        let optional = section.get("optional").unwrap_or(false);
        let Some(service_type) = service_type else {
            section.pass_over();
            return None;
        };
        let service = match (service_type, service_type.scheme()) {
            (_, Some(scheme)) => {
                ServiceSettings::OpenDal(opendal::Settings::read(scheme, section)?)
            }
            (ServiceType::WebDav, None) => {
                ServiceSettings::WebDav(webdav::Settings::read(section)?)
            }
            (_, None) => ServiceSettings::Dropbox(dropbox::Settings::read(name, section)?),
        };
        Some(Settings {
            name: name.to_owned(),
            kinds,
            config_folder,
            data_folder,
            manifest_folder,
            optional,
            service,
        })
    }

    /// What it gets.
    pub fn kinds(&self) -> &[ArchiveKind] {
        &self.kinds
    }

    /// Whether backups go there; exports of projects only, if not.
    pub fn gets_backups(&self) -> bool {
        !self.kinds.is_empty()
    }

    /// What only a Dropbox destination has; none for one of another type.
    pub fn dropbox(&self) -> Option<&dropbox::Settings> {
        match &self.service {
            ServiceSettings::Dropbox(settings) => Some(settings),
            ServiceSettings::OpenDal(_) | ServiceSettings::WebDav(_) => None,
        }
    }

    /// The folder of this machine that it is, if it is one.
    pub fn local_root(&self) -> Option<&Path> {
        match &self.service {
            ServiceSettings::OpenDal(settings) => settings.folder(),
            ServiceSettings::Dropbox(_) | ServiceSettings::WebDav(_) => None,
        }
    }

    /// A file outside the configuration that holds a secret of this destination, if one is used.
    pub fn secret_file(&self) -> Option<&PathBuf> {
        match &self.service {
            ServiceSettings::Dropbox(settings) => settings.token_file(),
            ServiceSettings::OpenDal(settings) => settings.secret_file(),
            ServiceSettings::WebDav(settings) => settings.secret_file(),
        }
    }
}

/// Whether a destination may be called so: its name becomes part of file names and environment variables.
pub fn is_name(name: &str) -> bool {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    !name.is_empty() && name.chars().all(good)
}

/// A folder: absolute, without a slash at its end, empty for the root.
fn folder(section: &mut Section<'_>, key: &str, default: &str) -> String {
    let text = section
        .get::<String>(key)
        .unwrap_or_else(|| default.to_owned());
    let folder = text.trim_end_matches('/');
    let bad = |part: &str| {
        part.is_empty() || part == "." || part == ".." || part.ends_with(' ') || part.contains('\\')
    };
    if !text.starts_with('/') || folder.split('/').skip(1).any(bad) {
        section.fault(key, "takes a folder that starts with `/`, like \"/Data\"");
    }
    folder.to_owned()
}

/// A named place that archives are sent to.
pub struct Destination {
    name: String,
    kinds: Vec<ArchiveKind>,
    config_folder: String,
    data_folder: String,
    manifest_folder: String,
    optional: bool,
    service: Service,
}

/// A file or folder that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its last path component, with its own capitals.
    pub name: String,
    /// None for a folder.
    pub file: Option<FileEntry>,
}

/// What is known of a stored file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// In bytes.
    pub size: u64,
    /// As the service computed it; none where a service does not.
    pub content_hash: Option<Digest>,
    /// Names this content at this path.
    pub rev: String,
    /// When it came there, by the clock of the service, often in whole seconds; none where it does not tell. What was
    /// stored by [`Destination::store`] may have the time that was asked for.
    pub modified: Option<DateTime<Utc>>,
}

/// How archives are sent, whatever they are.
#[derive(Clone, Debug)]
pub struct Options {
    /// In bytes; a multiple of 4 MiB.
    pub chunk_len: u64,
    /// Chunks in flight.
    pub concurrency: usize,
    /// A limit for all of them together.
    pub bandwidth: Option<Arc<Bandwidth>>,
    /// How long an upload may go without progress.
    pub retry_for: Duration,
    /// What the parts of an upload to an object store, which lie in memory until they have arrived, may take of it
    /// together, in bytes; none: as much as `concurrency` of them take.
    pub room: Option<u64>,
}

/// One archive on its way to one path.
pub struct Shipment<'a> {
    /// What is sent.
    pub source: Arc<dyn Source>,
    /// What it looked like when it was looked into: only these bytes are stored.
    pub fingerprint: &'a Fingerprint,
    /// Where it lies on this machine, for a journal.
    pub source_path: &'a Path,
    /// Where it is stored.
    pub path: &'a str,
    /// What is wrong with it, for a journal.
    pub doubts: &'a [String],
    /// The time it is stored with.
    pub client_modified: DateTime<Utc>,
    /// The folder of journals; none if there is no place for them.
    pub journals: Option<&'a Path>,
    /// How it is sent.
    pub options: &'a Options,
    /// Who is told how far it is.
    pub progress: &'a Progress,
}

/// How full a place is, in bytes; none: it does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// What still fits.
    pub free: Option<u64>,
    /// What is taken, also by files that are not ours.
    pub used: Option<u64>,
    /// What would fit if it were empty.
    pub total: Option<u64>,
}

/// What a place is.
#[expect(clippy::large_enum_variant, reason = "there is a handful of them")]
enum Service {
    /// A Dropbox account, or the folder of an app in it.
    Dropbox(Dropbox),
    /// A folder of this machine, or an object store.
    OpenDal(OpenDal),
    /// A `WebDAV` server, as Nextcloud is one.
    WebDav(WebDav),
}

impl Destination {
    /// `stall`: a connection that moves nothing for so long is given up. `hashers`: so many threads hash
    /// at a time.
    pub fn new(settings: Settings, stall: Duration, hashers: usize) -> Destination {
        let service = match settings.service {
            ServiceSettings::Dropbox(service) => {
                Service::Dropbox(Dropbox::new(&settings.name, service, stall, hashers))
            }
            ServiceSettings::OpenDal(service) => {
                Service::OpenDal(OpenDal::new(&settings.name, service, stall))
            }
            ServiceSettings::WebDav(service) => {
                Service::WebDav(WebDav::new(&settings.name, service, stall))
            }
        };
        Destination {
            name: settings.name,
            kinds: settings.kinds,
            config_folder: settings.config_folder,
            data_folder: settings.data_folder,
            manifest_folder: settings.manifest_folder,
            optional: settings.optional,
            service,
        }
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The kinds it gets.
    pub fn kinds(&self) -> &[ArchiveKind] {
        &self.kinds
    }

    /// Whether it gets archives of this kind.
    pub fn takes(&self, kind: ArchiveKind) -> bool {
        self.kinds.contains(&kind)
    }

    /// The folder of a kind; empty for the root.
    pub fn folder(&self, kind: ArchiveKind) -> &str {
        match kind {
            ArchiveKind::Config => &self.config_folder,
            ArchiveKind::Data => &self.data_folder,
        }
    }

    /// Where an archive is stored.
    pub fn path(&self, kind: ArchiveKind, name: &str) -> String {
        format!("{}/{name}", self.folder(kind))
    }

    /// The folder of manifests; empty for the root.
    pub fn manifest_folder(&self) -> &str {
        &self.manifest_folder
    }

    /// Whether it may be absent: a disk that is not always there.
    pub fn is_optional(&self) -> bool {
        self.optional
    }

    /// How long it is asked again whether it is there: one that may be absent is not waited for.
    pub fn patience(&self, allowed: Duration) -> Patience {
        Patience::new(if self.optional {
            allowed.min(OPTIONAL_PATIENCE)
        } else {
            allowed
        })
    }

    /// Dropbox, for what only it can do.
    pub fn dropbox(&self) -> Option<&Dropbox> {
        match &self.service {
            Service::Dropbox(dropbox) => Some(dropbox),
            Service::OpenDal(_) | Service::WebDav(_) => None,
        }
    }

    /// The folder of this machine that it is, if it is one.
    pub fn local_root(&self) -> Option<&Path> {
        match &self.service {
            Service::OpenDal(opendal) => opendal.folder(),
            Service::Dropbox(_) | Service::WebDav(_) => None,
        }
    }

    /// Proves the credentials.
    pub async fn authenticate(&self, patience: &Patience) -> Result<(), Error> {
        match &self.service {
            Service::Dropbox(dropbox) => dropbox.authenticate(patience).await,
            Service::OpenDal(opendal) => opendal.authenticate(patience).await,
            Service::WebDav(webdav) => webdav.authenticate(patience).await,
        }
    }

    /// How far this machine's clock is behind its, by its last reply; negative if it is ahead, none if no reply
    /// told the time.
    pub fn clock_lag(&self) -> Option<TimeDelta> {
        match &self.service {
            Service::Dropbox(dropbox) => dropbox.clock_lag(),
            Service::OpenDal(opendal) => opendal.clock_lag(),
            Service::WebDav(webdav) => webdav.clock_lag(),
        }
    }

    /// What is at a path; none if nothing is.
    pub async fn stat(&self, path: &str, patience: &Patience) -> Result<Option<Entry>, Error> {
        match &self.service {
            Service::Dropbox(dropbox) => dropbox.stat(path, patience).await,
            Service::OpenDal(opendal) => opendal.stat(path, patience).await,
            Service::WebDav(webdav) => webdav.stat(path, patience).await,
        }
    }

    /// How full it is.
    pub async fn space(&self, patience: &Patience) -> Result<Space, Error> {
        match &self.service {
            Service::Dropbox(dropbox) => dropbox.space(patience).await,
            Service::OpenDal(opendal) => opendal.space(patience).await,
            Service::WebDav(webdav) => webdav.space(patience).await,
        }
    }

    /// Everything directly in a folder; none if there is no such folder.
    pub async fn list(
        &self,
        folder: &str,
        patience: &Patience,
    ) -> Result<Option<Vec<Entry>>, Error> {
        match &self.service {
            Service::Dropbox(dropbox) => dropbox.list(folder, patience).await,
            Service::OpenDal(opendal) => opendal.list(folder, patience).await,
            Service::WebDav(webdav) => webdav.list(folder, patience).await,
        }
    }

    /// Reads a part of a file, at most [`LONGEST_RANGE`] bytes; shorter only at its end.
    pub async fn read(
        &self,
        path: &str,
        offset: u64,
        len: u64,
        patience: &Patience,
    ) -> Result<Vec<u8>, Error> {
        match &self.service {
            Service::Dropbox(dropbox) => dropbox.read(path, offset, len, patience).await,
            Service::OpenDal(opendal) => opendal.read(path, offset, len, patience).await,
            Service::WebDav(webdav) => webdav.read(path, offset, len, patience).await,
        }
    }

    /// Stores a small file of at most [`LARGEST_SMALL_FILE`] bytes, whose content hash is `hash`, in the
    /// place of whatever file has that path.
    pub async fn put(
        &self,
        path: &str,
        source: &Arc<dyn Source>,
        hash: Digest,
        patience: &Patience,
    ) -> Result<FileEntry, Error> {
        match &self.service {
            Service::Dropbox(dropbox) => dropbox.put(path, source, hash, patience).await,
            Service::OpenDal(opendal) => opendal.put(path, source, hash, patience).await,
            Service::WebDav(webdav) => webdav.put(path, source, hash, patience).await,
        }
    }

    /// Removes what killed uploads of a path left, which takes room that the next one needs.
    pub async fn sweep(&self, path: &str, patience: &Patience) {
        match &self.service {
            // An upload session takes none.
            Service::Dropbox(_) => {}
            Service::OpenDal(opendal) => opendal.sweep(path).await,
            Service::WebDav(webdav) => webdav.sweep_for(path, patience).await,
        }
    }

    /// Stores an archive, complete or not at all, and returns the content hash of what was sent; what is stored has
    /// been compared with it.
    pub async fn store(&self, shipment: &Shipment<'_>) -> Result<Digest, Error> {
        match &self.service {
            Service::Dropbox(dropbox) => dropbox.store(shipment).await,
            Service::OpenDal(opendal) => opendal.store(shipment).await,
            Service::WebDav(webdav) => webdav.store(shipment).await,
        }
    }

    /// An address to which somebody else may put a file of one path for so long (a week at most), without any
    /// credentials of theirs; none where the service has no such thing, or wants to be told more beside the bytes.
    pub async fn presigned_put(
        &self,
        path: &str,
        valid: Duration,
    ) -> Result<Option<SecretString>, Error> {
        match &self.service {
            Service::Dropbox(_) | Service::WebDav(_) => Ok(None),
            Service::OpenDal(opendal) => opendal.presigned_put(path, valid).await,
        }
    }

    /// Deletes a file, but only if it still is the content that `rev` names; `false` if it is gone.
    pub async fn delete(&self, path: &str, rev: &str, patience: &Patience) -> Result<bool, Error> {
        match &self.service {
            Service::Dropbox(dropbox) => dropbox.delete(path, rev, patience).await,
            Service::OpenDal(opendal) => opendal.delete(path, rev, patience).await,
            Service::WebDav(webdav) => webdav.delete(path, rev, patience).await,
        }
    }
}
