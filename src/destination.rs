//! Places that keep archives.

pub mod dropbox;

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::archive::ArchiveKind;
use crate::destination::dropbox::{Dropbox, Entry};
use crate::error::Error;
use crate::retry::Patience;
use crate::settings::Section;

/// `[destinations.NAME]`.
#[derive(Debug)]
pub struct Settings {
    /// The name of the table.
    pub name: String,
    kinds: Vec<ArchiveKind>,
    config_folder: String,
    data_folder: String,
    service: ServiceSettings,
}

#[derive(Debug)]
enum ServiceSettings {
    Dropbox(dropbox::Settings),
}

/// `type`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ServiceType {
    Dropbox,
}

impl Settings {
    /// Reads the section. None if something is missing; that is noted.
    pub fn read(name: &str, section: &mut Section<'_>) -> Option<Settings> {
        let service_type = section.require::<ServiceType>("type");
        let kinds = section
            .get("kinds")
            .unwrap_or_else(|| ArchiveKind::ALL.to_vec());
        if kinds.is_empty() {
            section.fault("kinds", "names no kind: give \"config\", \"data\" or both");
        }
        // Where the older Python script put them, so its users' backups are found.
        let config_folder = folder(section, "config_folder", "/Config");
        let data_folder = folder(section, "data_folder", "/Data");
        let Some(service_type) = service_type else {
            section.pass_over();
            return None;
        };
        let service = match service_type {
            ServiceType::Dropbox => {
                ServiceSettings::Dropbox(dropbox::Settings::read(name, section)?)
            }
        };
        Some(Settings {
            name: name.to_owned(),
            kinds,
            config_folder,
            data_folder,
            service,
        })
    }

    /// What it gets.
    pub fn kinds(&self) -> &[ArchiveKind] {
        &self.kinds
    }

    /// A file outside the configuration that holds a secret of this destination, if one is used.
    pub fn secret_file(&self) -> Option<&PathBuf> {
        match &self.service {
            ServiceSettings::Dropbox(settings) => settings.token_file(),
        }
    }
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
    service: Service,
}

/// What a place is.
pub enum Service {
    /// A Dropbox account, or the folder of an app in it.
    Dropbox(Dropbox),
}

impl Destination {
    /// `stall`: a connection that moves nothing for so long is given up. `hashers`: so many threads hash
    /// at a time.
    pub fn new(settings: Settings, stall: Duration, hashers: usize) -> Destination {
        let service = match settings.service {
            ServiceSettings::Dropbox(service) => {
                Service::Dropbox(Dropbox::new(&settings.name, service, stall, hashers))
            }
        };
        Destination {
            name: settings.name,
            kinds: settings.kinds,
            config_folder: settings.config_folder,
            data_folder: settings.data_folder,
            service,
        }
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &str {
        &self.name
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

    /// What it is, for what only one service can do.
    pub fn service(&self) -> &Service {
        &self.service
    }

    /// Proves the credentials.
    pub async fn authenticate(&self, patience: &Patience) -> Result<(), Error> {
        match &self.service {
            Service::Dropbox(dropbox) => dropbox.authenticate(patience).await,
        }
    }

    /// What is at a path; none if nothing is.
    pub async fn stat(&self, path: &str, patience: &Patience) -> Result<Option<Entry>, Error> {
        match &self.service {
            Service::Dropbox(dropbox) => dropbox.stat(path, patience).await,
        }
    }

    /// Bytes that still fit; none if it does not say.
    pub async fn space(&self, patience: &Patience) -> Result<Option<u64>, Error> {
        match &self.service {
            Service::Dropbox(dropbox) => dropbox.space(patience).await,
        }
    }
}
