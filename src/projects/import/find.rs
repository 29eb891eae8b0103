//! Which of a project's stored exports is imported.

use chrono::{DateTime, NaiveDateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Halt, Job};
use crate::content_hash::Digest;
use crate::destination::Entry;
use crate::error::{Error, ErrorKind};
use crate::projects::name::{TIME, Template};
use crate::retry::Patience;
use crate::seal::SUFFIX;

/// So many times are told where the wanted one is not there.
const SHOWN: usize = 5;

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
    let id = number(job, &patience).await?;
    let folder = job.name.folder(job.project, id);
    let entries = job.destination.list(&folder, &patience).await?;
    let understood = |entry| stored(job.name, entry, &folder, (job.project, id));
    let mut found: Vec<_> = entries
        .into_iter()
        .flatten()
        .filter_map(understood)
        .collect();
    // What is not encrypted needs no key: it comes last among equals, and the last is taken.
    found.sort_by_key(|stored| (stored.time, !stored.path.ends_with(SUFFIX)));
    let action = format!("looking for an export of the project {}", job.project);
    let place = format!("{}:{folder}", job.destination.name());
    let missing = |what: String, way_out: String| {
        Err(Error::new(ErrorKind::NotFound, action.as_str(), what).hint(way_out))
    };
    if found.is_empty() {
        let way_out = "is this the path that it had when it was exported? `gitlab-pi-backup export projects` makes exports";
        missing(format!("there is none in {place}"), way_out.to_owned())?;
    }
    let times: Vec<_> = found
        .iter()
        .rev()
        .take(SHOWN)
        .map(|stored| stored.time.format(TIME).to_string())
        .collect();
    let is_wanted = |stored: &Stored| job.wanted.is(stored.time);
    let Some(stored) = found.into_iter().rfind(is_wanted) else {
        let way_out = format!("the newest there: {}", times.join(", "));
        return Ok(missing(
            format!("there is none of that time in {place}"),
            way_out,
        )?);
    };
    if stored.size == 0 {
        let what = format!("{}:{} is empty", job.destination.name(), stored.path);
        let way_out = format!(
            "name another one by its time; the newest there: {}",
            times.join(", ")
        );
        return Ok(missing(what, way_out)?);
    }
    Ok(stored)
}

/// The number of the project, where names are made of it.
async fn number(job: &Job<'_>, patience: &Patience) -> Result<u64, Halt> {
    if !job.name.as_str().contains("{id}") {
        return Ok(0);
    }
    if let Some(project) = job.api.project_at(job.project, patience).await? {
        return Ok(project.id);
    }
    let action = format!("looking for an export of the project {}", job.project);
    let what = format!(
        "exports are named by the project's number (`projects.name`), and {} has no project of this path to tell it",
        job.api.host()
    );
    let way_out = "copy the export to a folder of the project's path, and set `projects.name` to \"{path}/{time}.tar.gz\"";
    Err(Error::new(ErrorKind::NotFound, action, what)
        .hint(way_out)
        .into())
}

/// An entry of the folder, if its name is that of an export of the project, given by its path and number.
fn stored(name: &Template, entry: Entry, folder: &str, project: (&str, u64)) -> Option<Stored> {
    let file = entry.file?;
    let path = format!("{folder}/{}", entry.name);
    let named = name.understand(&path, project.0, project.1)?;
    Some(Stored {
        time: named.time,
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
