//! Paths: which the service takes, and when two of them are the same.

use super::answer::{Answer, bad_input};

/// The tags of an error union from the outside in, without the endpoint's own.
pub type Tags = &'static [&'static str];

/// Names the service never stores.
const DISALLOWED: [&str; 6] = [
    "desktop.ini",
    "thumbs.db",
    ".ds_store",
    "icon\r",
    ".dropbox",
    ".dropbox.attr",
];

/// Longest name, in UTF-16 units.
const LONGEST_NAME: usize = 255;

/// A well-formed path below the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathName {
    /// What it is found by.
    pub lower: String,
    /// As the client wrote it.
    pub display: String,
}

impl PathName {
    /// A path to write to.
    pub fn parse(path: &str) -> Result<Self, Tags> {
        let path = without_namespace(path);
        let names: Vec<&str> = path
            .strip_prefix('/')
            .ok_or(&["malformed_path"] as Tags)?
            .split('/')
            .collect();
        for name in names {
            let malformed = matches!(name, "" | "." | "..")
                || name.ends_with(' ')
                || name.contains(['\\', '\0'])
                || name.encode_utf16().count() > LONGEST_NAME;
            if malformed {
                return Err(&["malformed_path"]);
            }
            if DISALLOWED.contains(&name.to_lowercase().as_str()) {
                return Err(&["disallowed_name"]);
            }
        }
        Ok(Self {
            lower: path.to_lowercase(),
            display: path.to_owned(),
        })
    }

    /// The same path with another last name.
    pub fn renamed(&self, name: &str) -> Self {
        let folder = self
            .display
            .rsplit_once('/')
            .map_or("", |(folder, _)| folder);
        let display = format!("{folder}/{name}");
        Self {
            lower: display.to_lowercase(),
            display,
        }
    }

    /// The folders above it, from the root down, without the root.
    pub fn ancestors(&self) -> impl Iterator<Item = Self> {
        let cuts = self.display.match_indices('/').skip(1).map(|(at, _)| at);
        cuts.map(|at| {
            let display = self.display[..at].to_owned();
            Self {
                lower: display.to_lowercase(),
                display,
            }
        })
    }
}

/// `ns:123/x` is `/x`: there is one namespace only.
pub fn without_namespace(path: &str) -> &str {
    match path.strip_prefix("ns:") {
        Some(rest) => rest.find('/').map_or("", |at| &rest[at..]),
        None => path,
    }
}

/// The last name of a path.
pub fn name_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

/// Refuses what is not even shaped like a path; the root is refused where it makes no sense.
pub fn check_shape(call: &str, field: &str, path: &str, root: bool) -> Answer<()> {
    let shaped = ["/", "id:", "rev:", "ns:"]
        .iter()
        .any(|start| path.starts_with(start));
    if path == "/" && root {
        let text = "Specify the root folder as an empty string rather than as \"/\".";
        return Err(bad_input(call, format!("request body: {field}: {text}")));
    }
    if path.is_empty() && !root {
        return Err(bad_input(
            call,
            format!("request body: {field}: The root folder is unsupported."),
        ));
    }
    if shaped || path.is_empty() {
        return Ok(());
    }
    Err(bad_input(
        call,
        format!("request body: {field}: '{path}' did not match pattern"),
    ))
}
