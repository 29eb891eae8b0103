//! The exports of one project that are at a destination.

use std::cmp::Reverse;

use crate::destination::{Destination, Entry};
use crate::error::Error;
use crate::projects::name::{Named, Template};
use crate::retry::Patience;

/// An export that is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Where, below the root of the destination.
    pub key: String,
    /// Of what is stored, in bytes.
    pub size: u64,
    /// Names this content at this key.
    pub rev: String,
    /// What its name says.
    pub named: Named,
}

/// A project, as its exports' names tell of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Project<'a> {
    /// With its groups: `group/app`.
    pub path: &'a str,
    /// Its number in GitLab.
    pub id: u64,
}

/// The exports of a project, the newest first: those that `name` makes, and those of the older Python program that lie
/// among them.
pub async fn exports(
    destination: &Destination,
    name: &Template,
    project: Project<'_>,
    patience: &Patience,
) -> Result<Vec<Stored>, Error> {
    let folder = name.folder(project.path, project.id);
    let entries = destination.list(&folder, patience).await?;
    Ok(understand(
        entries.unwrap_or_default(),
        &folder,
        name,
        project,
    ))
}

fn understand(
    entries: Vec<Entry>,
    folder: &str,
    name: &Template,
    project: Project<'_>,
) -> Vec<Stored> {
    let known = entries.into_iter().filter_map(|entry| {
        let file = entry.file?;
        let key = format!("{folder}/{}", entry.name);
        let named = name.understand(&key, project.path, project.id)?;
        Some(Stored {
            key,
            size: file.size,
            rev: file.rev,
            named,
        })
    });
    let mut stored: Vec<_> = known.collect();
    // Of two at one time always the same one is first.
    stored.sort_by_cached_key(|export| Reverse((export.named.time, export.key.clone())));
    stored
}

/// The newest one with anything in it.
pub fn latest(exports: &[Stored]) -> Option<&Stored> {
    exports.iter().find(|export| export.size > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::FileEntry;

    fn entry(name: &str, size: Option<u64>) -> Entry {
        Entry {
            name: name.to_owned(),
            file: size.map(|size| FileEntry {
                size,
                content_hash: None,
                rev: format!("rev of {name}"),
                modified: None,
            }),
        }
    }

    #[test]
    fn the_exports_of_a_folder_are_told_the_newest_first() {
        let name = Template::default();
        let entries = vec![
            entry("2026-11-21-04-00-00.tar.gz", Some(7)),
            entry("2026-11-22-04-00-00.tar.gz", Some(0)),
            entry("2021-05-06-07-08-09.tgz", Some(5)),
            entry("2026-11-21-04-00-00.tar.gz.age", Some(8)),
            entry("2026-11-20-04-00-00.tar.gz", None),
            entry("notes.txt", Some(1)),
            entry("sub", None),
        ];
        let project = Project {
            path: "team/app",
            id: 7,
        };
        let folder = name.folder(project.path, project.id);
        let found = understand(entries, &folder, &name, project);
        let keys: Vec<_> = found.iter().map(|export| export.key.as_str()).collect();
        assert_eq!(
            keys,
            [
                "/team/app/2026-11-22-04-00-00.tar.gz",
                "/team/app/2026-11-21-04-00-00.tar.gz.age",
                "/team/app/2026-11-21-04-00-00.tar.gz",
                "/team/app/2021-05-06-07-08-09.tgz",
            ]
        );
        assert_eq!(latest(&found).map(|export| export.size), Some(8));
        assert!(!found[3].named.is_ours && found[1].named.encrypted);
        assert_eq!(latest(&[]), None);
    }
}
