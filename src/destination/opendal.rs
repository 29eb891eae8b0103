//! Folders of this machine and object stores, by way of OpenDAL. The only place that knows it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;

use crate::content_hash::Digest;
use crate::destination::{Entry, FileEntry, Shipment, Space};
use crate::error::{Error, ErrorKind};
use crate::retry::Patience;
use crate::settings::Section;
use crate::source::Source;

/// Which service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// A folder of this machine: a disk, a network mount.
    Fs,
    /// Amazon S3 and everything that speaks its protocol.
    S3,
    /// A machine that is reached by SSH.
    Sftp,
    /// Google Cloud Storage.
    Gcs,
    /// Azure Blob Storage.
    Azblob,
    /// Backblaze B2.
    B2,
}

/// `[destinations.NAME]` of such a type.
#[derive(Debug)]
pub struct Settings {}

impl Settings {
    /// Reads the keys that only this type has. None if something is missing; that is noted.
    pub fn read(_scheme: Scheme, section: &mut Section<'_>) -> Option<Settings> {
        section.pass_over();
        None
    }

    /// A file outside the configuration that holds a secret of this destination, if one is used.
    pub fn secret_file(&self) -> Option<&PathBuf> {
        None
    }
}

/// A client for one such place.
pub struct OpenDal {
    name: String,
}

impl OpenDal {
    /// `stall`: a connection that moves nothing for so long is given up.
    pub fn new(name: &str, _settings: Settings, _stall: Duration) -> OpenDal {
        OpenDal {
            name: name.to_owned(),
        }
    }

    /// Proves that the place is there and the credentials are right.
    pub async fn authenticate(&self, _patience: &Patience) -> Result<(), Error> {
        Err(self.unknown())
    }

    /// How far this machine's clock is behind its, by its last reply.
    pub fn clock_lag(&self) -> Option<TimeDelta> {
        None
    }

    /// What is at a path; none if nothing is.
    pub async fn stat(&self, _path: &str, _patience: &Patience) -> Result<Option<Entry>, Error> {
        Err(self.unknown())
    }

    /// How full it is.
    pub async fn space(&self, _patience: &Patience) -> Result<Space, Error> {
        Err(self.unknown())
    }

    /// Everything directly in a folder; none if there is no such folder.
    pub async fn list(
        &self,
        _folder: &str,
        _patience: &Patience,
    ) -> Result<Option<Vec<Entry>>, Error> {
        Err(self.unknown())
    }

    /// Reads a part of a file; shorter only at its end.
    pub async fn read(
        &self,
        _path: &str,
        _offset: u64,
        _len: u64,
        _patience: &Patience,
    ) -> Result<Vec<u8>, Error> {
        Err(self.unknown())
    }

    /// Stores a small file, whose content hash is `hash`, in the place of whatever file has that path.
    pub async fn put(
        &self,
        _path: &str,
        _source: &Arc<dyn Source>,
        _hash: Digest,
        _patience: &Patience,
    ) -> Result<FileEntry, Error> {
        Err(self.unknown())
    }

    /// Stores an archive, complete or not at all, and returns the content hash of what was sent.
    pub async fn store(&self, _shipment: &Shipment<'_>) -> Result<Digest, Error> {
        Err(self.unknown())
    }

    /// Deletes a file, but only if it still is the content that `rev` names; `false` if it is gone.
    pub async fn delete(
        &self,
        _path: &str,
        _rev: &str,
        _patience: &Patience,
    ) -> Result<bool, Error> {
        Err(self.unknown())
    }

    fn unknown(&self) -> Error {
        Error::new(ErrorKind::Invalid, &self.name, "not known yet")
    }
}
