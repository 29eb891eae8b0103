//! `[projects]`

use std::time::Duration;

use crate::projects::name::Template;
use crate::settings::Section;
use crate::units::{Quota, Span};

/// Which projects are exported, where to, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The name of the destination that they go to.
    pub destination: String,
    /// Groups, by their numbers or paths; the groups below them, too.
    pub groups: Vec<String>,
    /// Projects, by their numbers or paths.
    pub projects: Vec<String>,
    /// Every project that the token's user is a member of.
    pub all: bool,
    /// Archived ones, too.
    pub archived: bool,
    /// Projects that are shared with the groups, too.
    pub shared: bool,
    /// Only those whose path one of these globs fits; empty: all.
    pub include: Vec<glob::Pattern>,
    /// None of these.
    pub exclude: Vec<glob::Pattern>,
    /// Whether GitLab sends exports by itself to a destination that can be sent to so.
    pub direct: bool,
    /// What exports are called.
    pub name: Template,
    /// How many exports are made at a time; none: as many as this machine bears.
    pub concurrency: Option<usize>,
    /// How many exports one user may ask for.
    pub export_limit: Quota,
    /// How many exports one user may download of one namespace.
    pub download_limit: Quota,
    /// So long an export may take to be made.
    pub timeout: Duration,
}

impl Settings {
    /// Reads the section; none if there is none.
    pub fn read(section: &mut Section<'_>) -> Option<Settings> {
        if !section.is_given() {
            return None;
        }
        // GitLab's defaults: <https://docs.gitlab.com/administration/settings/import_export_rate_limits/>.
        let minute = Duration::from_mins(1);
        let destination = section.require("destination")?;
        Some(Settings {
            destination,
            groups: section.get("groups").unwrap_or_default(),
            projects: section.get("projects").unwrap_or_default(),
            all: section.get("all").unwrap_or(false),
            archived: section.get("archived").unwrap_or(true),
            shared: section.get("shared").unwrap_or(true),
            include: Vec::new(),
            exclude: Vec::new(),
            direct: section.get("direct").unwrap_or(true),
            name: Template::default(),
            concurrency: section.get("concurrency"),
            export_limit: section
                .get("export_limit")
                .unwrap_or(Quota(Some((6, minute)))),
            download_limit: section
                .get("download_limit")
                .unwrap_or(Quota(Some((1, minute)))),
            timeout: section
                .get("timeout")
                .unwrap_or(Span(Duration::from_hours(6)))
                .0,
        })
    }
}
