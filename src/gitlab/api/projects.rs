//! Projects, as the API tells of them (<https://docs.gitlab.com/api/projects/>).

use serde::Deserialize;

use super::pages::Pages;
use super::{Api, Call};
use crate::error::Error;
use crate::retry::Patience;

/// A project.
#[derive(Clone, Debug, Deserialize)]
pub struct Project {
    /// Its number.
    pub id: u64,
    /// With its groups: `group/app`.
    pub path_with_namespace: String,
    /// Whether nothing in it changes any more.
    #[serde(default)]
    pub archived: bool,
}

impl Api {
    /// The projects of a group, by its number or path, and of the groups below it.
    pub fn projects_of_group(&self, group: &str, query: &[(&str, &str)]) -> Pages<'_, Project> {
        let action = format!("listing the projects of the group {group}");
        Pages::new(self, &action, &["groups", group, "projects"], query)
    }

    /// All projects that are visible.
    pub fn projects(&self, query: &[(&str, &str)]) -> Pages<'_, Project> {
        Pages::new(self, "listing projects", &["projects"], query)
    }

    /// A project by its number or path.
    pub async fn project(&self, project: &str, patience: &Patience) -> Result<Project, Error> {
        let action = format!("looking at the project {project}");
        self.json(&Call::get(&action, &["projects", project]), patience)
            .await
    }
}
