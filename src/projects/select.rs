//! Which projects are exported: what the lists of GitLab hold and the globs leave, each once, in the order of paths.
//!
//! A project's path is GitLab's word, and becomes a path at the destination: what cannot be one is told, and not
//! exported. So is what would overwrite another where names that differ only in case are the same.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use glob::{MatchOptions, Pattern};

use crate::destination::Destination;
use crate::error::{Error, ErrorKind};
use crate::gitlab::api::pages::Pages;
use crate::gitlab::api::projects::Project;
use crate::projects::report::{ProjectReport, ProjectStatus};
use crate::projects::{Job, Settings};
use crate::retry::Patience;

/// As a shell reads them in paths: `*` stays between two slashes, `**` does not.
const GLOB: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

/// What was found.
#[derive(Debug, Default)]
pub struct Selection {
    /// What is exported, in the order of paths.
    pub projects: Vec<Project>,
    /// What cannot be, with the reason.
    pub failed: Vec<ProjectReport>,
    /// What is not as it should be, and keeps nothing from being exported.
    pub warnings: Vec<String>,
    /// Why something that was asked for could not be looked at: a group that is not there, a GitLab that is down. More
    /// of the kind are among the warnings.
    pub error: Option<String>,
}

/// Asks GitLab. `time` is the one that the exports get into their names.
pub async fn select(job: &Job<'_>, time: DateTime<Utc>) -> Selection {
    let mut listing = Listing {
        job,
        found: BTreeMap::new(),
        named: BTreeSet::new(),
        selection: Selection::default(),
    };
    // What ends it has been noted; what was found until then is exported.
    let _ = listing.ask().await;
    let Listing {
        found,
        named,
        selection,
        ..
    } = listing;
    let mut selection = choose(
        job.settings,
        found.into_values().collect(),
        &named,
        selection,
    );
    let key = |project: &Project| job.key(&project.path_with_namespace, project.id, time);
    refuse(&mut selection, key, Some(job.destination));
    selection
}

/// What the lists hold so far.
struct Listing<'a> {
    job: &'a Job<'a>,
    /// By their numbers: a project can be in several lists.
    found: BTreeMap<u64, Project>,
    /// Those that were asked for by themselves.
    named: BTreeSet<u64>,
    selection: Selection,
}

/// GitLab does not answer, or not this token: the other lists would not come, either.
struct Hopeless;

impl Listing<'_> {
    async fn ask(&mut self) -> Result<(), Hopeless> {
        let (job, settings) = (self.job, self.job.settings);
        let mut query = vec![("order_by", "id"), ("sort", "asc"), ("simple", "true")];
        if !settings.archived {
            query.push(("archived", "false"));
        }
        let shared = if settings.shared { "true" } else { "false" };
        for group in &settings.groups {
            let mut query = query.clone();
            query.extend([("include_subgroups", "true"), ("with_shared", shared)]);
            let pages = job.api.projects_of_group(group, &query);
            match self.read(pages).await {
                Ok(0) => self.selection.warnings.push(format!(
                    "the group {group} has no projects that the token's user can see"
                )),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    let error = self.unknown_group(group, error).await;
                    self.note_text(error.to_string());
                }
                Err(error) => self.note(&error).await?,
            }
        }
        if settings.all {
            query.extend([("membership", "true"), ("pagination", "keyset")]);
            match self.read(job.api.projects(&query)).await {
                Ok(0) => self
                    .selection
                    .warnings
                    .push("the token's user is a member of no project (`projects.all`)".to_owned()),
                Ok(_) => {}
                Err(error) => self.note(&error).await?,
            }
        }
        for name in &settings.projects {
            match job.api.project(name, &self.patience()).await {
                Ok(project) => {
                    self.named.insert(project.id);
                    self.found.insert(project.id, project);
                }
                Err(error) if self.is_hopeless(&error).await => {
                    self.note_text(error.to_string());
                    return Err(Hopeless);
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    let error = error.hint(
                        "is its path right (`projects.projects`), and is the token's user a member of it?",
                    );
                    self.selection
                        .failed
                        .push(unexportable(0, name, error.to_string()));
                }
                Err(error) => {
                    let row = unexportable(0, name, error.to_string());
                    self.selection.failed.push(row);
                }
            }
        }
        Ok(())
    }

    fn patience(&self) -> Patience {
        Patience::new(self.job.upload.retry_for)
    }

    /// Reads a list to its end, and says how many it holds.
    async fn read(&mut self, mut pages: Pages<'_, Project>) -> Result<usize, Error> {
        let patience = self.patience();
        let mut count = 0;
        while let Some(page) = pages.next(&patience).await? {
            count += page.len();
            self.found
                .extend(page.into_iter().map(|project| (project.id, project)));
        }
        Ok(count)
    }

    /// Notes an error of a list, and whether the next one can be asked for.
    async fn note(&mut self, error: &Error) -> Result<(), Hopeless> {
        self.note_text(error.to_string());
        if self.is_hopeless(error).await {
            Err(Hopeless)
        } else {
            Ok(())
        }
    }

    /// Whether the next question would be answered in the same way: GitLab answers nothing else, either. What one
    /// group refuses (its own addresses, its own way to sign in), or cannot list, says nothing about the others.
    async fn is_hopeless(&self, error: &Error) -> bool {
        if !matches!(
            error.kind(),
            ErrorKind::Unauthorized | ErrorKind::Unavailable | ErrorKind::RateLimited(_)
        ) {
            return false;
        }
        let patience = Patience::short(self.job.upload.retry_for);
        let access = self.job.api.access(&patience).await;
        access.is_err()
    }

    fn note_text(&mut self, error: String) {
        let selection = &mut self.selection;
        if selection.error.is_none() {
            selection.error = Some(error);
        } else {
            selection.warnings.push(error);
        }
    }

    /// What to do where there is no such group.
    async fn unknown_group(&self, group: &str, error: Error) -> Error {
        match self.job.api.namespace(group, &self.patience()).await {
            Ok(namespace) if namespace.kind == "user" => error.hint(format!(
                "{} is a person, and no group: name its projects in `projects.projects`, or set `projects.all = true`",
                namespace.full_path.escape_debug()
            )),
            _ => error.hint(
                "is its number or its path with the groups above it right (`projects.groups`), and is the token's \
                 user a member of it?",
            ),
        }
    }
}

/// What the globs leave; they say nothing about a project that was asked for by itself.
fn choose(
    settings: &Settings,
    found: Vec<Project>,
    named: &BTreeSet<u64>,
    mut selection: Selection,
) -> Selection {
    let any = |globs: &[Pattern], path: &str| {
        let mut globs = globs.iter();
        globs.any(|glob| glob.matches_with(path, GLOB))
    };
    for glob in &settings.include {
        let mut paths = found.iter().map(|project| &project.path_with_namespace);
        if !found.is_empty() && !paths.any(|path| glob.matches_with(path, GLOB)) {
            let warning = format!("`{glob}` of `projects.include` fits no project");
            selection.warnings.push(warning);
        }
    }
    let is_wanted = |project: &Project| {
        let path = &project.path_with_namespace;
        let included = settings.include.is_empty() || any(&settings.include, path);
        named.contains(&project.id) || (included && !any(&settings.exclude, path))
    };
    let count = found.len();
    selection.projects = found.into_iter().filter(is_wanted).collect();
    if count > 0 && selection.projects.is_empty() {
        selection.warnings.push(format!(
            "`projects.include` and `projects.exclude` leave none of {count} projects"
        ));
    }
    let path = |project: &Project| project.path_with_namespace.clone();
    selection
        .projects
        .sort_by_cached_key(|project| (path(project), project.id));
    selection
}

/// Takes out what has no place at the destination.
fn refuse(
    selection: &mut Selection,
    key: impl Fn(&Project) -> String,
    destination: Option<&Destination>,
) {
    let ignores_case = destination.is_some_and(Destination::ignores_case);
    // The first of them keeps its place, at every run.
    let mut taken: BTreeMap<String, String> = BTreeMap::new();
    let mut refusal = |project: &Project| {
        let path = &project.path_with_namespace;
        if !is_usable(path) {
            return Some("GitLab tells of a path that cannot be one".to_owned());
        }
        let key = key(project);
        if let Some(refusal) = destination.and_then(|place| place.refusal_of(&key)) {
            return Some(format!(
                "{refusal}\n  shorten its path in GitLab, or `projects.name`"
            ));
        }
        let place = if ignores_case {
            key.to_lowercase()
        } else {
            key
        };
        let other = taken.get(&place).cloned();
        let Some(other) = other else {
            taken.insert(place, path.clone());
            return None;
        };
        Some(format!(
            "its export would have the name of that of {other}, as the destination ignores case\n  \
             put {{id}} into `projects.name`"
        ))
    };
    let projects = std::mem::take(&mut selection.projects);
    for project in projects {
        match refusal(&project) {
            None => selection.projects.push(project),
            Some(why) => {
                let path = &project.path_with_namespace;
                selection.failed.push(unexportable(project.id, path, why));
            }
        }
    }
}

/// Whether it can be a part of another path.
pub(super) fn is_usable(path: &str) -> bool {
    let bad = |part: &str| part.is_empty() || part == "." || part == "..";
    !path.split('/').any(bad) && !path.contains(|c: char| c.is_control() || c == '\\')
}

fn unexportable(id: u64, path: &str, error: String) -> ProjectReport {
    ProjectReport {
        id,
        // Nothing from the network writes to a terminal.
        path: if path.contains(char::is_control) {
            path.escape_debug().to_string()
        } else {
            path.to_owned()
        },
        status: ProjectStatus::Failed,
        key: None,
        size: None,
        direct: false,
        seconds: 0.0,
        error: Some(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Reader;

    fn project(id: u64, path: &str) -> Project {
        let value = serde_json::json!({ "id": id, "path_with_namespace": path });
        serde_json::from_value(value).expect("a project")
    }

    fn settings(globs: &str) -> Settings {
        let text = format!("[projects]\ndestination = \"s3\"\nall = true\n{globs}\n");
        let mut reader = Reader::new(&text, [], None);
        let mut root = reader.root();
        let mut section = root.section("projects");
        Settings::read(&mut section).expect("settings")
    }

    #[test]
    fn globs_choose_by_whole_paths() {
        let all = [
            "team/app",
            "team/sub/web",
            "team/sub/deep/db",
            "Team/x",
            "other/app",
            "a.b/c-d",
        ];
        for (globs, expected) in [
            (
                "",
                "Team/x a.b/c-d other/app team/app team/sub/deep/db team/sub/web",
            ),
            ("include = [\"team/*\"]", "team/app"),
            (
                "include = [\"team/**\"]",
                "team/app team/sub/deep/db team/sub/web",
            ),
            ("include = [\"**/app\"]", "other/app team/app"),
            (
                "include = [\"team/**\"]\nexclude = [\"team/sub/**\"]",
                "team/app",
            ),
            (
                "include = [\"team/*/web\", \"a.b/?-d\"]",
                "a.b/c-d team/sub/web",
            ),
            ("exclude = [\"*/*\"]", "team/sub/deep/db team/sub/web"),
            ("include = [\"[Tt]eam/?*\"]", "Team/x team/app"),
            ("exclude = [\"**\"]", ""),
        ] {
            let found = (1..).zip(all).map(|(id, path)| project(id, path)).collect();
            let chosen = choose(
                &settings(globs),
                found,
                &BTreeSet::new(),
                Selection::default(),
            );
            let paths = chosen
                .projects
                .iter()
                .map(|project| project.path_with_namespace.as_str());
            assert_eq!(paths.collect::<Vec<_>>().join(" "), expected, "{globs}");
            assert_eq!(chosen.warnings.is_empty(), !expected.is_empty(), "{globs}");
        }
    }

    #[test]
    fn a_project_that_is_asked_for_by_itself_is_no_matter_of_globs() {
        let found = vec![project(1, "team/app"), project(2, "team/web")];
        let settings = settings("include = [\"nothing/*\"]\nexclude = [\"team/*\"]");
        let chosen = choose(&settings, found, &[2].into(), Selection::default());
        assert_eq!(chosen.projects.len(), 1);
        assert_eq!(chosen.projects[0].id, 2);
        assert_eq!(
            chosen.warnings,
            ["`nothing/*` of `projects.include` fits no project"]
        );
    }

    #[test]
    fn what_is_no_path_has_no_place() {
        for (path, usable) in [
            ("team/app", true),
            ("team/.app..x", true),
            ("team/\u{1f980}", true),
            ("team/..", false),
            ("../etc/passwd", false),
            ("/etc/passwd", false),
            ("team//app", false),
            ("team/./app", false),
            ("team/app/", false),
            ("team/a\\b", false),
            ("team/a\u{1b}[31m", false),
            ("team/a\nb", false),
            ("", false),
        ] {
            let mut selection = Selection {
                projects: vec![project(7, path)],
                ..Selection::default()
            };
            refuse(
                &mut selection,
                |project| format!("/{}/t", project.path_with_namespace),
                None,
            );
            assert_eq!(selection.projects.len(), usize::from(usable), "{path:?}");
            assert_eq!(selection.failed.len(), usize::from(!usable), "{path:?}");
            let told = selection
                .failed
                .iter()
                .map(|row| row.path.as_str())
                .collect::<String>();
            assert!(!told.contains(char::is_control), "{path:?}");
        }
    }

    #[test]
    fn names_that_differ_only_in_case_are_one_at_dropbox() {
        let text = "[destinations.box]\ntype = \"dropbox\"\napp_key = \"k\"\n\
                    [destinations.disk]\ntype = \"fs\"\nroot = \"/mnt\"\n";
        let mut reader = Reader::new(text, [], None);
        let sections = reader.root().section("destinations").sections();
        let places = sections.into_iter().map(|(name, mut section)| {
            let settings = crate::destination::Settings::read(&name, &mut section, true);
            Destination::new(
                settings.expect("settings"),
                std::time::Duration::from_secs(1),
                1,
            )
        });
        for place in places {
            let paths = ["TEAM/app", "Team/App", "team/app", "team/other"];
            let by_path = |project: &Project| format!("/{}/t", project.path_with_namespace);
            let by_id = |project: &Project| format!("/{}/t", project.id);
            for (key, refused) in [(&by_path as &dyn Fn(&Project) -> String, 2), (&by_id, 0)] {
                let mut selection = Selection {
                    projects: (1..)
                        .zip(paths)
                        .map(|(id, path)| project(id, path))
                        .collect(),
                    ..Selection::default()
                };
                refuse(&mut selection, key, Some(&place));
                let refused = if place.name() == "box" { refused } else { 0 };
                assert_eq!(selection.failed.len(), refused, "{}", place.name());
                assert_eq!(selection.projects[0].path_with_namespace, "TEAM/app");
                for row in &selection.failed {
                    let error = row.error.as_deref().unwrap_or_default();
                    assert!(
                        error.contains("TEAM/app") && error.contains("{id}"),
                        "{error}"
                    );
                }
            }
        }
    }
}
