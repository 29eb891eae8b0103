//! A build without any of these services: such a destination cannot be configured, so there is none.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use secrecy::SecretString;

use super::Scheme;
use crate::content_hash::Digest;
use crate::destination::{Entry, FileEntry, Shipment, Space};
use crate::error::Error;
use crate::retry::Patience;
use crate::settings::Section;
use crate::source::Source;

/// `[destinations.NAME]` of a type that OpenDAL knows; nobody has one.
#[derive(Debug)]
pub struct Settings(Infallible);

impl Settings {
    /// Notes that there is no such type.
    pub fn read(scheme: Scheme, section: &mut Section<'_>) -> Option<Settings> {
        section.fault("type", &scheme.lacking());
        section.pass_over();
        None
    }

    /// A file outside the configuration that holds a secret of this destination, if one is used.
    pub fn secret_file(&self) -> Option<&PathBuf> {
        match self.0 {}
    }

    /// The folder of this machine that it is, if it is one.
    pub fn folder(&self) -> Option<&Path> {
        match self.0 {}
    }
}

/// A client for such a place; there is none.
pub struct OpenDal(Infallible);

impl OpenDal {
    /// Cannot be called.
    pub fn new(_name: &str, settings: Settings, _stall: Duration) -> OpenDal {
        match settings.0 {}
    }

    /// The folder of this machine that it is, if it is one.
    pub fn folder(&self) -> Option<&Path> {
        match self.0 {}
    }

    /// Whether it has names that can be changed, so that a file gets its own when it is whole.
    pub fn can_rename(&self) -> bool {
        match self.0 {}
    }

    /// Proves that the place is there and the credentials are right.
    pub async fn authenticate(&self, _patience: &Patience) -> Result<(), Error> {
        match self.0 {}
    }

    /// How far this machine's clock is behind its, by its last reply.
    pub fn clock_lag(&self) -> Option<TimeDelta> {
        match self.0 {}
    }

    /// What is at a path; none if nothing is.
    pub async fn stat(&self, _path: &str, _patience: &Patience) -> Result<Option<Entry>, Error> {
        match self.0 {}
    }

    /// How full it is.
    pub async fn space(&self, _patience: &Patience) -> Result<Space, Error> {
        match self.0 {}
    }

    /// Everything directly in a folder; none if there is no such folder.
    pub async fn list(
        &self,
        _folder: &str,
        _patience: &Patience,
    ) -> Result<Option<Vec<Entry>>, Error> {
        match self.0 {}
    }

    /// Reads a part of a file; shorter only at its end.
    pub async fn read(
        &self,
        _path: &str,
        _offset: u64,
        _len: u64,
        _patience: &Patience,
    ) -> Result<Vec<u8>, Error> {
        match self.0 {}
    }

    /// Stores a small file in the place of whatever file has that path.
    pub async fn put(
        &self,
        _path: &str,
        _source: &Arc<dyn Source>,
        _hash: Digest,
        _patience: &Patience,
    ) -> Result<FileEntry, Error> {
        match self.0 {}
    }

    /// Removes what killed uploads left.
    pub async fn sweep(&self, _path: &str) {
        match self.0 {}
    }

    /// Stores an archive.
    pub async fn store(&self, _shipment: &Shipment<'_>) -> Result<Digest, Error> {
        match self.0 {}
    }

    /// An address to which somebody else may put a file.
    pub async fn presigned_put(
        &self,
        _path: &str,
        _valid: Duration,
    ) -> Result<Option<SecretString>, Error> {
        match self.0 {}
    }

    /// Deletes a file.
    pub async fn delete(
        &self,
        _path: &str,
        _rev: &str,
        _patience: &Patience,
    ) -> Result<bool, Error> {
        match self.0 {}
    }
}
