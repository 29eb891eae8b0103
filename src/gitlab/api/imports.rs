//! Project imports (<https://docs.gitlab.com/api/project_import_export/#import-a-file>).

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use serde::{Deserialize, Serialize};

use super::limits::MINUTE;
use super::multipart::Multipart;
use super::projects::Project;
use super::{Api, Asking, Call, explained, parse};
use crate::error::{Error, ErrorKind};
use crate::http::{Bandwidth, Method, Payload, Reply, Request};
use crate::retry::{Patience, retry};
use crate::source::Source;

/// GitLab puts a file of many gigabytes where it keeps such before it answers.
const REPLY_WAIT: Duration = Duration::from_mins(10);
/// So often all of it is sent, however long that takes.
const MOST_TRIES: u32 = 4;
/// GitLab tells its time to the second only.
const SECOND: TimeDelta = TimeDelta::seconds(2);

/// How far an import is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ImportStatus {
    /// The project was not imported.
    None,
    /// Waits for its turn.
    Scheduled,
    /// Is being carried out.
    Started,
    /// Is done.
    Finished,
    /// Could not be carried out.
    Failed,
    /// Somebody stopped it.
    Canceled,
    /// What this program does not know.
    #[serde(other)]
    Other,
}

/// An import, as GitLab tells of it.
#[derive(Clone, Debug, Deserialize)]
pub struct Import {
    /// The project's number.
    pub id: u64,
    /// The project's path, with its groups.
    #[serde(default)]
    pub path_with_namespace: String,
    /// When the project was made.
    pub created_at: Option<DateTime<Utc>>,
    /// How far it is.
    pub import_status: ImportStatus,
    /// Why it failed.
    pub import_error: Option<String>,
    /// What of the project could not be brought back.
    pub failed_relations: Option<Vec<FailedRelation>>,
}

/// A part of a project that could not be imported.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct FailedRelation {
    /// What it is: `merge_requests`, `issues`, …
    pub relation_name: Option<String>,
    /// GitLab's name for what happened.
    pub exception_class: Option<String>,
    /// What happened; most versions do not tell it.
    pub exception_message: Option<String>,
    /// What GitLab was doing.
    pub source: Option<String>,
    /// Where in the export it stands.
    pub line_number: Option<u64>,
    /// When it failed.
    pub created_at: Option<String>,
}

/// What a project is imported from and to.
pub struct NewImport<'a> {
    /// The number of the namespace.
    pub namespace: u64,
    /// Its path in there.
    pub path: &'a str,
    /// The path with the namespace.
    pub full_path: &'a str,
    /// The export.
    pub file: Arc<dyn Source>,
    /// A limit for what is sent.
    pub bandwidth: Option<Arc<Bandwidth>>,
    /// When it was begun, by GitLab's clock: what was made before is not ours.
    pub since: DateTime<Utc>,
    /// Whether it may have arrived already, sent by an earlier call.
    pub again: bool,
    /// How long GitLab counts imports; none: a minute.
    pub minute: Option<Duration>,
}

impl Api {
    /// The project of a path, in any case; none if there is none that this user can see.
    pub async fn project_at(
        &self,
        path: &str,
        patience: &Patience,
    ) -> Result<Option<Project>, Error> {
        let action = format!("looking whether there is a project {path}");
        let call_path = ["projects", path];
        let project = found(
            self.json::<Project>(&Call::get(&action, &call_path), patience)
                .await,
        )?;
        // GitLab finds a project under the paths that it had before, too; these can be taken.
        Ok(project.filter(|project| is_same(&project.path_with_namespace, path)))
    }

    /// Sends an export, and lets GitLab make a project of it. It never is sent a second time while the first has
    /// arrived: whenever that is not known, it is looked for.
    pub async fn import(&self, new: &NewImport<'_>, patience: &Patience) -> Result<Import, Error> {
        let action = format!("importing the project {}", new.full_path);
        let namespace = new.namespace.to_string();
        let fields = [("path", new.path), ("namespace", &namespace)];
        let form = Multipart::new(
            &fields,
            "project_export.tar.gz",
            "application/gzip",
            new.file.clone(),
        );
        let form = Arc::new(form);
        let (mut again, mut tries) = (new.again, 0);
        let importing = retry(&self.pause, patience, async || {
            if again && let Some(import) = self.imported(new.full_path, new.since).await? {
                return Ok(import);
            }
            let resent = std::mem::replace(&mut again, true);
            let failed = match self.send_import(&action, new, &form).await {
                Ok(reply) => return parse(&action, &reply),
                Err(error) => error,
            };
            // Sending hours of bytes is no time without progress; but a line that always breaks is not tried for ever.
            tries += 1;
            if tries < MOST_TRIES {
                patience.renew();
            }
            // What has taken the name may be what was sent before, whose reply was lost.
            if resent
                && failed.kind() == ErrorKind::Invalid
                && let Ok(Some(import)) = self.imported(new.full_path, new.since).await
            {
                return Ok(import);
            }
            Err(failed)
        });
        importing.await
    }

    /// The import that made the project of this path, if it was begun after `since`, by GitLab's clock. Asks once.
    async fn imported(&self, path: &str, since: DateTime<Utc>) -> Result<Option<Import>, Error> {
        let action = format!("looking whether the project {path} has been made");
        let project = ["projects", path];
        let call = Call::get(&action, &project);
        let reply = found(self.once(&call).await)?;
        let Some(reply) = reply else {
            return Ok(None);
        };
        let project: Project = parse(&action, &reply)?;
        if !is_same(&project.path_with_namespace, path) {
            return Ok(None);
        }
        let id = project.id.to_string();
        let import = ["projects", &id, "import"];
        let Some(reply) = found(self.once(&Call::get(&action, &import)).await)? else {
            return Ok(None);
        };
        let import: Import = parse(&action, &reply)?;
        let is_new = import
            .created_at
            .is_some_and(|created| created >= since - SECOND);
        Ok((is_new && import.import_status != ImportStatus::None).then_some(import))
    }

    /// Like [`Api::import`], where an earlier call has sent the export: what came of it, if it arrived.
    pub async fn earlier_import(
        &self,
        path: &str,
        since: DateTime<Utc>,
        patience: &Patience,
    ) -> Result<Option<Import>, Error> {
        let looking = async || self.imported(path, since).await;
        retry(&self.pause, patience, looking).await
    }

    /// How far an import is; none if the project is gone.
    pub async fn import_status(
        &self,
        project: u64,
        patience: &Patience,
    ) -> Result<Option<Import>, Error> {
        let id = project.to_string();
        let action = format!("asking how far the import of the project {id} is");
        let path = ["projects", &id, "import"];
        found(self.json(&Call::get(&action, &path), patience).await)
    }

    /// The time by GitLab's clock, as far as it has told it.
    pub fn clock(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        now + self.clock_lag().unwrap_or_default()
    }

    async fn send_import(
        &self,
        action: &str,
        new: &NewImport<'_>,
        form: &Arc<Multipart>,
    ) -> Result<Reply, Error> {
        let service = self.service.as_ref().map_err(Clone::clone)?;
        let mut headers = Vec::new();
        headers.extend(service.token.clone());
        let media_type = HeaderValue::from_str(&form.media_type()).map_err(|_| {
            Error::new(
                ErrorKind::Unexpected,
                action,
                "no header takes the boundary",
            )
        })?;
        headers.push((CONTENT_TYPE, media_type));
        let path = ["projects", "import"];
        let request = Request {
            method: Method::POST,
            url: self.url(&Call::get(action, &path)),
            headers,
            body: Payload::Range(form.clone(), 0..form.len(), new.bandwidth.clone()),
            reply_wait: REPLY_WAIT.max(self.stall),
        };
        // Its body may be cut off by an early answer: nobody else is to use the connection.
        let line = service.http.line();
        let _asking = Asking::begin(&self.asking);
        let reply = line.send(action, request).await.map_err(explained)?;
        self.heed(&reply.headers, reply.status);
        match self.judge(action, &reply, new.minute.unwrap_or(MINUTE)) {
            None => Ok(reply),
            Some(error) => Err(explain(error, action, &reply, new)),
        }
    }
}

/// What is not there is none.
fn found<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// GitLab takes paths for the same whatever their case.
fn is_same(one: &str, other: &str) -> bool {
    one.to_lowercase() == other.to_lowercase()
}

/// What the user can do about a refusal.
fn explain(error: Error, action: &str, reply: &Reply, new: &NewImport<'_>) -> Error {
    let said = String::from_utf8_lossy(&reply.body).to_lowercase();
    let is_too_big = reply.status == 413 || said.contains("too big") || said.contains("too large");
    if is_too_big {
        let error = match reply.status {
            // From a proxy it comes as a page, which says nothing.
            413 => Error::new(
                ErrorKind::Invalid,
                action,
                "GitLab answered 413: the export is too large",
            ),
            _ => error,
        };
        return error.hint(
            "an administrator of GitLab can allow more: Admin area > Settings > General > Import and export settings > \
             Maximum import size; a proxy before GitLab may have a limit of its own (nginx['client_max_body_size'])",
        );
    }
    match reply.status {
        403 if !said.contains("insufficient_scope") => error.hint(format!(
            "the token's user must be allowed to make projects in {} (Maintainer or Owner), and an administrator must have \
             allowed the import source \"GitLab export\" (Admin area > Settings > General > Import and export settings > \
             Import sources)",
            parent(new.full_path)
        )),
        404 => error.hint(format!(
            "the namespace {} is gone, or the token's user may not import into it",
            parent(new.full_path)
        )),
        400 if said.contains("taken") => error.hint(
            "something that the token's user cannot see may have this path: give another one with --as NEW/PATH",
        ),
        400 | 422 => error.hint("give another path with --as NEW/PATH if that is what GitLab refuses"),
        _ => error,
    }
}

/// The namespace of a path.
fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(parent, _)| parent)
}
