//! `[projects]`

use std::fmt;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};

use crate::notify::address::Address;
use crate::notify::settings::address;
use crate::projects::name::Template;
use crate::settings::Section;
use crate::units::{Quota, Span};

/// The variable of gitlab-backup-management that names groups, with commas between them.
pub const GROUPS_VARIABLE: &str = "GROUPS_TO_BACKUP";

/// GitLab lets one user ask for six exports a minute, unless its administrator has changed that; each that is made
/// takes memory and disk there, and more at a time would only wait.
const MOST_AT_A_TIME: usize = 6;

/// What was asked for is remembered over restarts for so long.
const LONGEST_PERIOD: Duration = Duration::from_hours(1);

/// So many imports GitLab takes of one user unless it is told otherwise.
pub const IMPORT_LIMIT: Quota = Quota(Some((6, Duration::from_mins(1))));
/// So long an export or an import may take.
pub const TIMEOUT: Duration = Duration::from_hours(6);

/// Which projects are exported, where to, and how.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a key of its own")]
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
    /// How many projects one user may import.
    pub import_limit: Quota,
    /// So long an export may take to be made.
    pub timeout: Duration,
    /// Of a check of its own: pings of the exports would hide that runs fail.
    pub healthcheck: Option<Address>,
}

impl Settings {
    /// Reads the section; none if there is none, or something is missing, which is noted.
    pub fn read(section: &mut Section<'_>) -> Option<Settings> {
        if !section.is_given() {
            return None;
        }
        // GitLab's defaults: <https://docs.gitlab.com/administration/settings/import_export_rate_limits/>.
        let minute = Duration::from_mins(1);
        let destination = section.require("destination");
        let groups: Option<Names> = section.get_or_variable("groups", GROUPS_VARIABLE);
        let projects: Option<Names> = section.get("projects");
        let all = section.get("all").unwrap_or(false);
        let wrong = [("groups", &groups), ("projects", &projects)]
            .into_iter()
            .filter(|(key, names)| names.is_none() && section.place(key).is_some());
        let something_is_wrong = wrong.count() > 0;
        let groups = groups.unwrap_or_default().0;
        let projects = projects.unwrap_or_default().0;
        if groups.is_empty() && projects.is_empty() && !all && !something_is_wrong {
            section.fault(
                "groups",
                "no project is selected\n    \
                 name groups here (`[42, \"team/sub\"]`) or projects in `projects.projects`, or set `projects.all = true`",
            );
        }
        let include = globs(section, "include");
        let exclude = globs(section, "exclude");
        let concurrency = section.get("concurrency");
        if concurrency.is_some_and(|count| !(1..=MOST_AT_A_TIME).contains(&count)) {
            section.fault(
                "concurrency",
                "takes 1 to 6: GitLab lets one user ask for six exports a minute",
            );
        }
        let name = match section
            .get::<String>("name")
            .as_deref()
            .map(Template::parse)
        {
            None => Template::default(),
            Some(Ok(template)) => template,
            Some(Err(message)) => {
                section.fault("name", &message);
                Template::default()
            }
        };
        let timeout = section.get("timeout");
        let timeout = timeout.unwrap_or(Span(TIMEOUT)).0;
        if timeout.is_zero() {
            section.fault("timeout", "takes at least one second");
        }
        let archived = section.get("archived").unwrap_or(true);
        let shared = section.get("shared").unwrap_or(true);
        let direct = section.get("direct").unwrap_or(true);
        let export_limit = section.get::<Quota>("export_limit");
        let download_limit = section.get::<Quota>("download_limit");
        let import_limit = section.get::<Quota>("import_limit");
        for (key, limit) in [
            ("export_limit", &export_limit),
            ("download_limit", &download_limit),
            ("import_limit", &import_limit),
        ] {
            if matches!(limit, Some(Quota(Some((_, period)))) if *period > LONGEST_PERIOD) {
                section.fault(key, "takes at most an hour: `600/1h`");
            }
        }
        let healthcheck = address(section, "healthcheck_url");
        Some(Settings {
            destination: destination?,
            groups,
            projects,
            all,
            archived,
            shared,
            include,
            exclude,
            direct,
            name,
            concurrency,
            export_limit: export_limit.unwrap_or(Quota(Some((6, minute)))),
            download_limit: download_limit.unwrap_or(Quota(Some((1, minute)))),
            import_limit: import_limit.unwrap_or(IMPORT_LIMIT),
            timeout,
            healthcheck,
        })
    }
}

/// Patterns of paths; each that is none is noted.
fn globs(section: &mut Section<'_>, key: &str) -> Vec<glob::Pattern> {
    let mut patterns = Vec::new();
    for text in section.get::<Vec<String>>(key).unwrap_or_default() {
        let way_out = "write it like \"team/*\" (one level) or \"team/**\" (all below)";
        match glob::Pattern::new(&text) {
            Ok(_) if text.is_empty() || text.starts_with('/') || text.ends_with('/') => section
                .fault(
                    key,
                    &format!("`{text}` fits no path of a project, which has no slash at its ends\n    {way_out}"),
                ),
            Ok(pattern) => patterns.push(pattern),
            Err(error) => section.fault(
                key,
                &format!("`{text}` is no pattern: {}\n    {way_out}", error.msg),
            ),
        }
    }
    patterns
}

/// Numbers and paths of groups or projects: a list, or a text with commas between them.
#[derive(Debug, Default)]
struct Names(Vec<String>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Names, D::Error> {
        struct List;

        impl<'de> Visitor<'de> for List {
            type Value = Names;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of numbers and paths, like [42, \"team/sub\"]")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Names, E> {
                // A list that was given as a text is read as one.
                if text.trim_start().starts_with('[') {
                    return Err(E::invalid_type(serde::de::Unexpected::Str(text), &self));
                }
                let parts = text.split(',').map(str::trim);
                let names = parts.filter(|part| !part.is_empty()).map(name);
                names
                    .collect::<Result<_, _>>()
                    .map(Names)
                    .map_err(E::custom)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Names, A::Error> {
                let mut names = Vec::new();
                while let Some(Name(name)) = list.next_element()? {
                    names.push(name);
                }
                Ok(Names(names))
            }
        }

        deserializer.deserialize_any(List)
    }
}

/// One of them.
struct Name(String);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Name, D::Error> {
        struct One;

        impl Visitor<'_> for One {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number or a path, like 42 or \"team/sub\"")
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Name, E> {
                name(&number.to_string()).map(Name).map_err(E::custom)
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Name, E> {
                name(text.trim()).map(Name).map_err(E::custom)
            }
        }

        deserializer.deserialize_any(One)
    }
}

/// A number or a path as GitLab has it: without slashes at its ends.
fn name(text: &str) -> Result<String, String> {
    let path = text.trim_matches('/');
    let number = path.parse::<i64>();
    let bad_part = |part: &str| part.is_empty() || part == "." || part == "..";
    let bad = path.split('/').any(bad_part)
        || path.contains("://")
        || path.contains(|c: char| c.is_control() || c.is_whitespace());
    if bad || number.is_ok_and(|number| number <= 0) {
        return Err(format!(
            "`{}` is neither a number nor a path; write it like 42 or \"team/sub\", as in its address",
            text.escape_debug()
        ));
    }
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Reader;

    fn read(text: &str, variables: &[(&str, &str)]) -> (Option<Settings>, Vec<String>) {
        let pairs = variables.iter();
        let pairs = pairs.map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        let mut reader = Reader::new(text, pairs, None);
        let mut root = reader.root();
        let mut section = root.section("projects");
        let settings = Settings::read(&mut section);
        section.finish();
        root.finish();
        let faults = reader.finish();
        (settings, faults.iter().map(ToString::to_string).collect())
    }

    const OURS: &str = "GITLAB_PI_BACKUP_PROJECTS__GROUPS";
    const THEIRS: &str = GROUPS_VARIABLE;

    #[test]
    fn groups_are_numbers_and_paths_wherever_they_are_named() {
        for (file, variables, expected) in [
            (
                "groups = [42, \"team/sub\"]",
                &[][..],
                &["42", "team/sub"][..],
            ),
            ("groups = [\" /team/ \", \"7\"]", &[], &["team", "7"]),
            ("groups = \"42, team/sub,\"", &[], &["42", "team/sub"]),
            ("", &[(THEIRS, "42,12")], &["42", "12"]),
            ("", &[(THEIRS, " 42 , team/sub , ")], &["42", "team/sub"]),
            ("groups = [1]", &[(THEIRS, "42")], &["1"]),
            (
                "groups = [1]",
                &[(OURS, "[2, \"a\"]"), (THEIRS, "42")],
                &["2", "a"],
            ),
            ("groups = [1]", &[(OURS, "2,a")], &["2", "a"]),
        ] {
            let text = format!("[projects]\ndestination = \"s3\"\n{file}\n");
            let (settings, faults) = read(&text, variables);
            assert_eq!(faults, [""; 0], "{file} {variables:?}");
            assert_eq!(settings.expect("settings").groups, expected, "{file}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_all_together() {
        let nothing = "no project is selected";
        for (text, expected) in [
            ("groups = [1]", &["`projects.destination` is missing"][..]),
            ("destination = \"s3\"", &[nothing]),
            (
                "destination = \"s3\"\ngroups = []\nprojects = []",
                &[nothing],
            ),
            ("destination = \"s3\"\nall = false", &[nothing]),
            ("", &["`projects.destination` is missing", nothing]),
            (
                "destination = \"s3\"\ngroups = [0]",
                &["line 3: `projects.groups`: `0` is neither"],
            ),
            ("destination = \"s3\"\ngroups = [-4]", &["`-4` is neither"]),
            (
                "destination = \"s3\"\ngroups = [\"a/../b\"]",
                &["`a/../b` is neither"],
            ),
            ("destination = \"s3\"\ngroups = [\"\"]", &["`` is neither"]),
            (
                "destination = \"s3\"\ngroups = [\"https://gitlab.com/team\"]",
                &["`https://gitlab.com/team` is neither"],
            ),
            (
                "destination = \"s3\"\ngroups = [1.5]",
                &["a number or a path"],
            ),
            (
                "destination = \"s3\"\ngroups = 42",
                &["a list of numbers and paths"],
            ),
            (
                "destination = \"s3\"\nprojects = [true]",
                &["a number or a path"],
            ),
            (
                "destination = \"s3\"\nall = true\nconcurrency = 0\ntimeout = \"0s\"\ninclude = [\"a[\"]\n\
                 exclude = [\"a***\", \"/a/*\"]\nexport_limit = \"6\"\nname = \"x\"",
                &[
                    "1 to 6",
                    "at least one second",
                    "`a[` is no pattern",
                    "`a***` is no pattern",
                    "`/a/*` fits no",
                    "6/1m",
                    "{time}",
                ],
            ),
            (
                "destination = \"s3\"\nall = true\nconcurrency = 7",
                &["1 to 6"],
            ),
            (
                "destination = \"s3\"\nall = true\nexlude = []",
                &["did you mean `exclude`?"],
            ),
        ] {
            let (_, faults) = read(&format!("[projects]\n{text}\n"), &[]);
            assert_eq!(faults.len(), expected.len(), "{text}: {faults:?}");
            for part in expected {
                assert!(
                    faults.iter().any(|fault| fault.contains(part)),
                    "{text}: {faults:?}"
                );
            }
        }
    }

    #[test]
    fn without_the_table_a_variable_of_others_selects_nothing() {
        let (settings, faults) = read("", &[(THEIRS, "42")]);
        assert!(settings.is_none() && faults.is_empty(), "{faults:?}");
    }
}
