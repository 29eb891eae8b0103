//! Which of a project's stored exports is imported.

use chrono::{DateTime, NaiveDateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Halt, Job};
use crate::content_hash::Digest;
use crate::destination::Entry;
use crate::projects::name::TIME;
use crate::retry::Patience;
use crate::seal::SUFFIX;

/// Which export is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The newest.
    Newest,
    /// The one of this time.
    At(DateTime<Utc>),
}

impl Wanted {
    /// By what the user has written: nothing, `latest`, or a time as it stands in the name of an export.
    pub fn parse(text: Option<&str>) -> Result<Wanted, String> {
        match text {
            None | Some("latest") => Ok(Wanted::Newest),
            Some(text) => match NaiveDateTime::parse_from_str(text, TIME) {
                Ok(time) => Ok(Wanted::At(time.and_utc())),
                Err(_) => Err(format!(
                    "`{text}` names no export of a project\n  \
                     give the time in its name, like 2026-11-22-04-00-00, or `latest`"
                )),
            },
        }
    }

    /// Whether the export of this time is wanted, as far as that can be told without the others.
    pub(super) fn is(self, time: DateTime<Utc>) -> bool {
        match self {
            Wanted::Newest => true,
            Wanted::At(wanted) => wanted == time,
        }
    }
}

/// A stored export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stored {
    /// Where it is, below the root of the destination.
    pub(super) path: String,
    /// When its export was begun.
    pub(super) time: DateTime<Utc>,
    /// As it is stored, in bytes.
    pub(super) size: u64,
    /// Names this content at this path.
    pub(super) rev: String,
    /// Of what is stored, where the destination tells it.
    pub(super) content_hash: Option<Digest>,
}

/// Finds the export that is wanted.
pub(super) async fn find(job: &Job<'_>) -> Result<Stored, Halt> {
    let patience = Patience::short(job.upload.retry_for);
    let key = job.name.key(job.project, 0, DateTime::UNIX_EPOCH);
    let (folder, _) = key.rsplit_once('/').unwrap_or_default();
    let entries = job.destination.list(folder, &patience).await?;
    let marker = DateTime::<Utc>::UNIX_EPOCH.format(TIME).to_string();
    let (before, behind) = key.split_once(&marker).unwrap_or_default();
    let mut found: Vec<_> = entries
        .unwrap_or_default()
        .into_iter()
        .filter_map(|entry| stored(entry, folder, before, behind))
        .collect();
    found.sort_by_key(|stored| stored.time);
    let place = format!("{}:{folder}", job.destination.name());
    if found.is_empty() {
        return Err(Halt::Failed(format!(
            "looking for an export of the project {}: there is none in {place}\n  \
             `gitlab-pi-backup export projects` makes them; is the path that of the time of the export?",
            job.project
        )));
    }
    let last = found.last().map(|stored| stored.time);
    let wanted = match job.wanted {
        Wanted::Newest => last,
        Wanted::At(time) => Some(time),
    };
    let times: Vec<_> = found
        .iter()
        .rev()
        .take(5)
        .map(|stored| stored.time.format(TIME).to_string())
        .collect();
    let mut matching = found
        .into_iter()
        .filter(|stored| Some(stored.time) == wanted);
    let Some(stored) = matching.next() else {
        return Err(Halt::Failed(format!(
            "looking for an export of the project {}: there is none of that time in {place}\n  \
             the newest there are {}",
            job.project,
            times.join(", ")
        )));
    };
    if stored.size == 0 {
        return Err(Halt::Failed(format!(
            "looking for an export of the project {}: {}:{} is empty\n  name another one by its time",
            job.project,
            job.destination.name(),
            stored.path
        )));
    }
    Ok(stored)
}

/// An entry of the folder, if its name is that of an export.
fn stored(entry: Entry, folder: &str, before: &str, behind: &str) -> Option<Stored> {
    let file = entry.file?;
    let path = format!("{folder}/{}", entry.name);
    let name = path.strip_suffix(SUFFIX).unwrap_or(&path);
    let time = name.strip_prefix(before)?.strip_suffix(behind)?;
    let time = NaiveDateTime::parse_from_str(time, TIME).ok()?.and_utc();
    Some(Stored {
        time,
        size: file.size,
        rev: file.rev,
        content_hash: file.content_hash,
        path,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_is_named_by_its_time() {
        let time = "2026-11-22T04:00:00Z".parse().expect("a time");
        for (text, wanted) in [
            (None, Some(Wanted::Newest)),
            (Some("latest"), Some(Wanted::Newest)),
            (Some("2026-11-22-04-00-00"), Some(Wanted::At(time))),
            (Some("2026-11-22"), None),
            (Some("2026-13-22-04-00-00"), None),
            (Some("1702758583_2023_12_16_16.5.1"), None),
        ] {
            assert_eq!(Wanted::parse(text).ok(), wanted, "{text:?}");
        }
    }
}
