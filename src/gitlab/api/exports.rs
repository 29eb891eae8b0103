//! Project exports (<https://docs.gitlab.com/api/project_import_export/>).

use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;

use super::{Api, Call};
use crate::error::Error;
use crate::retry::Patience;

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

#[derive(Deserialize)]
struct Told {
    export_status: ExportStatus,
}

impl Api {
    /// Asks for an export. GitLab puts it to `upload` by itself if that is given, else it can be downloaded.
    pub async fn request_export(
        &self,
        project: u64,
        upload: Option<&SecretString>,
        patience: &Patience,
    ) -> Result<(), Error> {
        let id = project.to_string();
        let path = ["projects", &id, "export"];
        let action = format!("asking for an export of the project {id}");
        let url = upload.map(|url| url.expose_secret()).unwrap_or_default();
        let form = [("upload[url]", url), ("upload[http_method]", "PUT")];
        let form = if upload.is_some() { &form[..] } else { &[] };
        let call = Call::get(&action, &path).post(form);
        self.reply(&call, patience).await?;
        Ok(())
    }

    /// How far the export of a project is.
    pub async fn export_status(
        &self,
        project: u64,
        patience: &Patience,
    ) -> Result<ExportStatus, Error> {
        let id = project.to_string();
        let action = format!("asking how far the export of the project {id} is");
        let path = ["projects", &id, "export"];
        let told: Told = self.json(&Call::get(&action, &path), patience).await?;
        Ok(told.export_status)
    }
}
