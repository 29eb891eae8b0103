//! What the configuration says of a `WebDAV` server.

use std::path::PathBuf;

use reqwest::Url;

use super::auth::Credentials;
use crate::http::is_loopback;
use crate::settings::Section;

/// `[destinations.NAME]` with `type = "webdav"`.
#[derive(Debug)]
pub struct Settings {
    pub(super) url: Url,
    pub(super) credentials: Credentials,
    pub(super) ca_file: Option<PathBuf>,
}

impl Settings {
    /// Reads the keys that only this type has. None if something is missing; that is noted.
    pub fn read(section: &mut Section<'_>) -> Option<Settings> {
        let url = url(section);
        let credentials = Credentials::read(section);
        let ca_file = section.get("ca_file");
        Some(Settings {
            url: url?,
            credentials,
            ca_file,
        })
    }

    /// A file outside the configuration that holds a secret of this destination, if one is used.
    pub fn secret_file(&self) -> Option<&PathBuf> {
        self.credentials.file()
    }
}

/// The folder that ours lie in: by HTTPS, or by HTTP on this very machine, as a password is shown there.
fn url(section: &mut Section<'_>) -> Option<Url> {
    // By OpenDAL's name, too, as the keys of the other services are named.
    let other = section.get::<String>("endpoint");
    let root = section.get::<String>("root").unwrap_or_default();
    let text = match (section.get::<String>("url"), other) {
        (Some(_), Some(_)) => {
            section.fault("endpoint", "give either this or `url`, not both");
            return None;
        }
        (Some(text), None) | (None, Some(text)) => text,
        (None, None) => section.require("url")?,
    };
    let url = Url::parse(&text).ok().filter(Url::has_host);
    let Some(url) = url else {
        section.fault(
            "url",
            "takes an address, like \"https://cloud.example.org/remote.php/dav/files/USER/\"",
        );
        return None;
    };
    let fault = match url.scheme() {
        "https" => None,
        "http" if is_loopback(&url) => None,
        _ => Some(
            "takes an address that starts with https:// (or http:// to this machine's loopback); \
             a certificate of your own goes into `ca_file`",
        ),
    };
    let fault = if !url.username().is_empty() || url.password().is_some() {
        Some("takes an address without a name or password: they go into `username` and `password`")
    } else if url.query().is_some() || url.fragment().is_some() {
        Some("takes an address without `?` and `#`")
    } else {
        fault
    };
    match fault {
        Some(fault) => {
            section.fault("url", fault);
            None
        }
        None => Some(below(url, &root)),
    }
}

/// A folder of a server's folder.
fn below(mut url: Url, root: &str) -> Url {
    if !root.trim_matches('/').is_empty()
        && let Ok(mut path) = url.path_segments_mut()
    {
        path.pop_if_empty();
        path.extend(root.split('/').filter(|part| !part.is_empty()));
    }
    url
}
