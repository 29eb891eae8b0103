//! Project exports (<https://docs.gitlab.com/api/project_import_export/>).

use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;

use super::{Api, Call};
use crate::error::{Error, ErrorKind};
use crate::retry::{Patience, retry};

/// The role that a project's export takes (or the one above it).
const ROLE: &str = "Maintainer";
/// The switch of the instance that lets projects be exported, as GitLab calls it.
const SWITCH: &str = "project_export_enabled";
/// The switch that lets GitLab send something to its own network.
const LOCAL: &str = "allow_local_requests_from_web_hooks_and_services";

/// How far an export is. After GitLab has uploaded one by itself it is `None` again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExportStatus {
    /// There is none, or none any more.
    None,
    /// Waits for its turn.
    Queued,
    /// Is being made.
    Started,
    /// Can be downloaded.
    Finished,
    /// One can be downloaded, and another is being made.
    RegenerationInProgress,
    /// Could not be made.
    Failed,
    /// What this program does not know.
    #[serde(other)]
    Other,
}

impl ExportStatus {
    /// Whether one has been asked for, and is not there yet.
    pub fn is_under_way(self) -> bool {
        matches!(
            self,
            ExportStatus::Queued | ExportStatus::Started | ExportStatus::RegenerationInProgress
        )
    }
}

/// Why GitLab does not export a project, however often it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The token's user has too small a role in it.
    Role,
    /// The instance lets nobody export projects.
    Disabled,
    /// It is not there, or not for this user.
    Gone,
    /// GitLab will not send anything to that address.
    Address,
}

/// Whether an error of an export says so.
pub fn refused(error: &Error) -> Option<Refused> {
    let lacks = |right: &str| error.lacks().iter().any(|lacking| lacking == right);
    match error.kind() {
        ErrorKind::Unauthorized if lacks(ROLE) => Some(Refused::Role),
        ErrorKind::Unauthorized if lacks(SWITCH) => Some(Refused::Disabled),
        ErrorKind::NotFound => Some(Refused::Gone),
        ErrorKind::Invalid if lacks(LOCAL) => Some(Refused::Address),
        _ => None,
    }
}

/// What GitLab tells of the export of a project.
#[derive(Clone, Debug, Deserialize)]
pub struct ExportState {
    /// How far it is.
    #[serde(rename = "export_status")]
    pub status: ExportStatus,
    /// Where the project is now, with its groups.
    #[serde(default, rename = "path_with_namespace")]
    pub path: Option<String>,
}

impl Api {
    /// Asks for an export. GitLab puts it to `upload` by itself if that is given, else it can be downloaded. What
    /// [`refused`] knows cannot be helped by asking again.
    ///
    /// Every request waits for the limit on exports that this client was told of. One whose answer was lost is not
    /// sent again if GitLab has begun. `before` is called directly before each request is sent, and can forbid it.
    pub async fn request_export(
        &self,
        project: u64,
        upload: Option<&SecretString>,
        patience: &Patience,
        mut before: impl FnMut() -> Result<(), Error>,
    ) -> Result<(), Error> {
        let id = project.to_string();
        let path = ["projects", &id, "export"];
        let action = format!("asking for an export of the project {id}");
        let url = upload.map_or("", |url| url.expose_secret());
        let form = [("upload[url]", url), ("upload[http_method]", "PUT")];
        let form = if upload.is_some() { &form[..] } else { &[] };
        let call = Call::get(&action, &path).post(form);
        let mut first = Some(self.exports.window.take().await);
        // However long others were served before: what counts begins now.
        patience.renew();
        let mut may_have_come = false;
        retry(&self.exports.pause, patience, async || {
            self.pause.over().await;
            if may_have_come && self.export_once(project).await?.status.is_under_way() {
                return Ok(());
            }
            let slot = match first.take() {
                Some(slot) => slot,
                None => self.exports.window.take().await,
            };
            if let Err(error) = before() {
                slot.unused();
                return Err(error);
            }
            let reply = match self.attempt(&call).await {
                Ok(reply) => reply,
                Err(error) if error.is_absent() => {
                    // Nothing was asked, so GitLab has counted nothing.
                    slot.unused();
                    return Err(error);
                }
                Err(error) => {
                    may_have_come = true;
                    return Err(error);
                }
            };
            let Some(error) = self.judge(call.action, &reply, self.exports.minute()) else {
                return Ok(());
            };
            may_have_come = error.kind() == ErrorKind::Unavailable;
            Err(self.explained(error, reply.status, project, upload).await)
        })
        .await
    }

    /// How far the export of a project is, and where the project is now.
    pub async fn export_state(
        &self,
        project: u64,
        patience: &Patience,
    ) -> Result<ExportState, Error> {
        let looking = async || self.export_once(project).await;
        retry(&self.pause, patience, looking).await
    }

    async fn export_once(&self, project: u64) -> Result<ExportState, Error> {
        let id = project.to_string();
        let action = format!("asking how far the export of the project {id} is");
        let path = ["projects", &id, "export"];
        let call = Call::get(&action, &path);
        let reply = self.attempt(&call).await?;
        if let Some(error) = self.judge(&action, &reply, super::limits::MINUTE) {
            return Err(self.explained(error, reply.status, project, None).await);
        }
        super::parse(&action, &reply)
    }

    /// What a refusal means, and what the user can do about it.
    pub(super) async fn explained(
        &self,
        error: Error,
        status: u16,
        project: u64,
        upload: Option<&SecretString>,
    ) -> Error {
        let secret = upload.map_or("", |url| url.expose_secret());
        let error = if secret.is_empty() {
            error
        } else {
            error.map_text(|text| text.replace(secret, "[address]"))
        };
        match (status, error.kind()) {
            (403, ErrorKind::Unauthorized) if error.lacks().is_empty() => {
                error.lacking([ROLE]).hint(
                    "an export takes the role Maintainer or Owner: give it to the token's user, in the project or in \
                     its group",
                )
            }
            // Where exports are switched off they are not there, although the project is. That the project is not
            // there GitLab says in other words, and then another request may only have come too early or too late.
            (404, ErrorKind::NotFound) => match self.is_there(project).await {
                Some(true) if error.to_string().contains("Project Not Found") => error.hint(
                    "GitLab shows the project nevertheless; if the next run fails alike, look at it there",
                ),
                Some(true) => Error::new(
                    ErrorKind::Unauthorized,
                    format!("asking for an export of the project {project}"),
                    "this GitLab lets no project be exported",
                )
                .lacking([SWITCH])
                .hint(
                    "an administrator can allow it: Admin area > Settings > General > Import and export settings > \
                     Project export",
                ),
                Some(false) => {
                    error.hint("the project was deleted, or the token's user may no longer see it")
                }
                None => error,
            },
            (400 | 422, ErrorKind::Invalid) if upload.is_some() => {
                let text = error.to_string();
                if text.contains("local network") || text.contains("localhost") || text.contains("loopback") {
                    error.lacking([LOCAL]).hint(
                        "GitLab sends nothing to its own network unless an administrator allows it: Admin area > \
                         Settings > Network > Outbound requests; with `projects.direct = false` exports come through \
                         this machine instead",
                    )
                } else {
                    error.hint("with `projects.direct = false` exports come through this machine instead")
                }
            }
            _ => error,
        }
    }

    /// Whether the project is there; none if that cannot be told now.
    async fn is_there(&self, project: u64) -> Option<bool> {
        let id = project.to_string();
        let path = ["projects", &id];
        let call = Call::get("looking at the project", &path);
        match self.once(&call).await {
            Ok(_) => Some(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Some(false),
            Err(_) => None,
        }
    }
}
