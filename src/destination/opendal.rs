//! Folders of this machine and object stores, by way of OpenDAL. The only place that knows it.

#[cfg(feature = "opendal")]
mod answer;
#[cfg(feature = "opendal")]
mod disk;
#[cfg(feature = "opendal")]
mod freight;
#[cfg(feature = "opendal")]
mod keys;
#[cfg(not(feature = "opendal"))]
mod missing;
#[cfg(feature = "opendal")]
mod partial;
#[cfg(feature = "opendal")]
mod place;
#[cfg(feature = "opendal")]
mod presign;
#[cfg(feature = "opendal")]
mod region;
#[cfg(feature = "opendal")]
mod send;
#[cfg(feature = "opendal")]
mod wire;

#[cfg(feature = "opendal")]
pub use crate::destination::opendal::keys::Settings;
#[cfg(not(feature = "opendal"))]
pub use crate::destination::opendal::missing::{OpenDal, Settings};
#[cfg(feature = "opendal")]
pub use crate::destination::opendal::place::OpenDal;

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

impl Scheme {
    const ALL: [Scheme; 6] = [
        Scheme::Fs,
        Scheme::S3,
        Scheme::Sftp,
        Scheme::Gcs,
        Scheme::Azblob,
        Scheme::B2,
    ];

    /// Its name in the configuration, which is that of the cargo feature, too.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::Fs => "fs",
            Scheme::S3 => "s3",
            Scheme::Sftp => "sftp",
            Scheme::Gcs => "gcs",
            Scheme::Azblob => "azblob",
            Scheme::B2 => "b2",
        }
    }

    /// Whether this build of the program can reach it.
    pub fn is_built_in(self) -> bool {
        match self {
            Scheme::Fs => cfg!(feature = "fs"),
            Scheme::S3 => cfg!(feature = "s3"),
            Scheme::Sftp => cfg!(feature = "sftp"),
            Scheme::Gcs => cfg!(feature = "gcs"),
            Scheme::Azblob => cfg!(feature = "azblob"),
            Scheme::B2 => cfg!(feature = "b2"),
        }
    }

    /// The names of those that this build can reach.
    pub fn built_in() -> Vec<&'static str> {
        let built_in = Scheme::ALL
            .into_iter()
            .filter(|scheme| scheme.is_built_in());
        built_in.map(Scheme::name).collect()
    }

    /// A fault that says how to get what this build lacks.
    fn lacking(self) -> String {
        let mut known = vec!["dropbox", "webdav"];
        known.extend(Scheme::built_in());
        format!(
            "`{name}` is not in this build of the program, which knows {}\n    \
             build it with `cargo build --release --features {name}`",
            known.join(", "),
            name = self.name(),
        )
    }
}
