//! Which of a project's stored exports is imported.

use chrono::{DateTime, NaiveDateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Halt, Job};
use crate::content_hash::Digest;
use crate::error::{Error, ErrorKind};
use crate::projects::name::TIME;
use crate::projects::stored::{Project, exports, latest};
use crate::retry::Patience;

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
    let project = Project {
        path: job.project,
        id,
    };
    let found = exports(job.destination, job.name, project, &patience).await?;
    let action = format!("looking for an export of the project {}", job.project);
    let folder = job.name.folder(job.project, id);
    let place = format!("{}:{folder}", job.destination.name());
    let missing = |what: String, way_out: String| {
        Err(Error::new(ErrorKind::NotFound, action.as_str(), what).hint(way_out))
    };
    if found.is_empty() {
        let way_out = "is this the path that it had when it was exported? `gitlab-pi-backup export projects` makes exports";
        missing(format!("there is none in {place}"), way_out.to_owned())?;
    }
    let times = found.iter().take(SHOWN).map(|export| export.named.time);
    let times: Vec<_> = times.map(|time| time.format(TIME).to_string()).collect();
    let way_out = format!("the newest there: {}", times.join(", "));
    let time = match job.wanted {
        // What is empty was broken off; an older one is better.
        Wanted::Newest => latest(&found)
            .or(found.first())
            .map(|export| export.named.time),
        Wanted::At(time) => Some(time),
    };
    let at_that_time = || {
        found
            .iter()
            .filter(|export| Some(export.named.time) == time)
    };
    // What is not encrypted needs no key.
    let plain = at_that_time().find(|export| !export.named.encrypted);
    let Some(export) = plain.or(at_that_time().next()) else {
        return Ok(missing(
            format!("there is none of that time in {place}"),
            way_out,
        )?);
    };
    let entry = job.destination.stat(&export.key, &patience).await?;
    let Some(file) = entry.and_then(|entry| entry.file) else {
        return Ok(missing(format!("{} is gone", export.key), way_out)?);
    };
    if file.size == 0 {
        let what = format!("{}:{} is empty", job.destination.name(), export.key);
        return Ok(missing(what, way_out)?);
    }
    Ok(Stored {
        path: export.key.clone(),
        time: export.named.time,
        size: file.size,
        rev: file.rev,
        content_hash: file.content_hash,
    })
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
