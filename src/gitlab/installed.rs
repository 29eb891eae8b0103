//! Which GitLab is installed on this machine: a backup is taken by its own version and edition alone.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use super::host::{Settings, has_program};

/// What a restore runs.
const PROGRAMS: [&str; 3] = ["gitlab-ctl", "gitlab-backup", "gitlab-rake"];
/// Of a file that tells the version no more is read, in bytes.
const LONGEST_LOOK: u64 = 256 * 1024;

/// What is installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Installed {
    /// Not GitLab, or not all of it: this program is missing.
    Lacks(&'static str),
    /// GitLab, and nothing says which.
    Unknown,
    /// This version, with `-ee` if it is that edition.
    Version(String),
}

/// Looks at what the package left below `gitlab.install_dir`.
pub fn installed(settings: &Settings) -> Installed {
    if let Some(missing) = PROGRAMS.into_iter().find(|program| !has_program(program)) {
        return Installed::Lacks(missing);
    }
    let read = |name: &str| beginning(&settings.install_dir.join(name));
    read("embedded/service/gitlab-rails/VERSION")
        .and_then(|text| rails_version(&text))
        .or_else(|| read("version-manifest.txt").and_then(|text| manifest_version(&text)))
        .or_else(|| read("version-manifest.json").and_then(|text| json_version(&text)))
        .map_or(Installed::Unknown, Installed::Version)
}

fn beginning(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path)
        .ok()?
        .take(LONGEST_LOOK)
        .read_to_end(&mut bytes)
        .ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// GitLab's own file: what it compares with the backup itself, letter by letter.
fn rails_version(text: &str) -> Option<String> {
    let version = text.trim();
    let good = |c: char| c.is_ascii_alphanumeric() || "-.+~".contains(c);
    let is_version = version.starts_with(|c: char| c.is_ascii_digit()) && version.chars().all(good);
    is_version.then(|| version.to_owned())
}

/// The package's list of contents begins with its own name: `gitlab-ee 17.8.2`.
fn manifest_version(text: &str) -> Option<String> {
    let mut words = text.lines().next()?.split_ascii_whitespace();
    let edition = words.next()?.strip_prefix("gitlab-")?;
    let number = number(&rails_version(words.next()?)?);
    match edition {
        "ce" => Some(number),
        "ee" => Some(number + "-ee"),
        _ => None,
    }
}

/// The same list for programs; which edition it is stands only in the version of a released package.
fn json_version(text: &str) -> Option<String> {
    let list: serde_json::Value = serde_json::from_str(text).ok()?;
    let version = rails_version(list.get("build_version")?.as_str()?)?;
    if version.contains("ee.") {
        Some(number(&version) + "-ee")
    } else {
        version.contains("ce.").then(|| number(&version))
    }
}

/// Without what a package adds: `17.8.2-ee.0`, `17.8.0-rc42.ee.0`.
fn number(version: &str) -> String {
    let ends = ["-ce.", "-ee.", "+ce.", "+ee.", ".ce.", ".ee.", "-ce", "-ee"];
    let end = ends.iter().filter_map(|end| version.find(end)).min();
    version[..end.unwrap_or(version.len())].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_whatever_tells_it() {
        for (text, version) in [
            ("17.8.2\n", Some("17.8.2")),
            ("17.8.2-ee\n", Some("17.8.2-ee")),
            ("17.9.0-pre", Some("17.9.0-pre")),
            ("", None),
            ("<html>", None),
            ("17.8.2\n17.8.3", None),
        ] {
            assert_eq!(rails_version(text).as_deref(), version, "{text}");
        }
        for (text, version) in [
            ("gitlab-ce 12.2.5\n\nComponent", Some("12.2.5")),
            ("gitlab-ee 17.8.2\n", Some("17.8.2-ee")),
            ("gitlab-ee 17.8.2-ee.0\n", Some("17.8.2-ee")),
            ("gitlab-jh 17.8.2\n", None),
            ("omnibus 17.8.2\n", None),
            ("", None),
        ] {
            assert_eq!(manifest_version(text).as_deref(), version, "{text}");
        }
        for (text, version) in [
            ("{\"build_version\":\"17.8.2-ce.0\"}", Some("17.8.2")),
            ("{\"build_version\":\"17.8.2+ee.0\"}", Some("17.8.2-ee")),
            (
                "{\"build_version\":\"17.8.0-rc42.ee.0\"}",
                Some("17.8.0-rc42-ee"),
            ),
            // Nothing tells the edition.
            ("{\"build_version\":\"17.8.2\"}", None),
            ("{\"build_version\":7}", None),
            ("{", None),
        ] {
            assert_eq!(json_version(text).as_deref(), version, "{text}");
        }
    }
}
