//! What an export is called where it is stored: `projects.name`, by default `{path}/{time}.tar.gz`; and back again, which
//! project's export a name is and of when.

use chrono::{DateTime, NaiveDateTime, Utc};

/// As in `2026-11-22-04-00-00`, in UTC; sorts by time.
pub const TIME: &str = "%Y-%m-%d-%H-%M-%S";
/// The length of such a time, in bytes.
const TIME_LEN: usize = "2026-11-22-04-00-00".len();
/// What an encrypted export's name ends in.
pub const ENCRYPTED: &str = ".age";
/// What the names of the older Python program ended in, and what its manual said.
const FOREIGN: [&str; 3] = [".tgz", ".tar.gz", ".gz"];

/// A part of a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part<'t> {
    /// As it stands.
    Text(&'t str),
    Path,
    Id,
    Time,
}

/// The names of exports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(String);

/// What a name of an export says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    /// When the run began that made it.
    pub time: DateTime<Utc>,
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// Whether the template makes this name; it is that of another program otherwise, and never deleted.
    pub is_ours: bool,
}

impl Default for Template {
    fn default() -> Template {
        Template("{path}/{time}.tar.gz".to_owned())
    }
}

impl Template {
    /// Folders and a name, in which `{path}`, `{id}` and `{time}` stand for what they say. The error says what is
    /// wrong.
    pub fn parse(text: &str) -> Result<Template, String> {
        let text = text.strip_prefix('/').unwrap_or(text);
        let parts = split(text)?;
        if text.chars().any(char::is_control) || text.contains('\\') {
            return Err("holds a character that no name can have".to_owned());
        }
        if !parts.contains(&Part::Time) {
            return Err(
                "needs {time}: each export would take the place of the one before".to_owned(),
            );
        }
        if !parts.contains(&Part::Path) && !parts.contains(&Part::Id) {
            return Err("needs {path} or {id}: two projects would have the same name".to_owned());
        }
        // `a{time}` and `{id}{id}` could not be read again.
        let (mut times, mut after_name) = (0, false);
        for part in &parts {
            let is_name = !matches!(part, Part::Text(_));
            if is_name && after_name {
                return Err("needs something between {…} and {…}, like a `/`".to_owned());
            }
            after_name = is_name;
            times += usize::from(*part == Part::Time);
        }
        if times > 1 {
            return Err("takes {time} once".to_owned());
        }
        let last = text.rsplit('/').next().unwrap_or_default();
        if !last.contains("{time}") {
            return Err(
                "needs {time} behind the last `/`: what is before it is the project's folder"
                    .to_owned(),
            );
        }
        if last.ends_with(ENCRYPTED) {
            return Err("must not end in .age, which is what encrypted exports end in".to_owned());
        }
        let bad = |part: &str| {
            matches!(part, "" | "." | "..") || part.ends_with(' ') || part.starts_with(' ')
        };
        if text.split('/').any(bad) {
            return Err(
                "takes folders with names, without `.`, `..` and blanks at their ends".to_owned(),
            );
        }
        Ok(Template(text.to_owned()))
    }

    /// As it stands in the configuration.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn parts(&self) -> Vec<Part<'_>> {
        split(&self.0).unwrap_or_default()
    }

    /// Where the export of a project is stored that a run made which began at `time`: below the root of the
    /// destination, with a slash at its beginning. `path` is GitLab's `path_with_namespace`.
    pub fn key(&self, path: &str, id: u64, time: DateTime<Utc>) -> String {
        let time = time.format(TIME).to_string();
        format!("/{}", fill(&self.parts(), path, id, &time))
    }

    /// The folder that all exports of a project lie in.
    pub fn folder(&self, path: &str, id: u64) -> String {
        let key = format!("/{}", fill(&self.parts(), path, id, ""));
        let folder = key.rsplit_once('/').map_or("", |(folder, _)| folder);
        folder.to_owned()
    }

    /// When the run began that made the export which this key names, if this template makes such a key for the
    /// project; encrypted or not.
    pub fn time_of(&self, key: &str, path: &str, id: u64) -> Option<DateTime<Utc>> {
        let plain = key.strip_suffix(ENCRYPTED).unwrap_or(key);
        let plain = plain.strip_prefix('/')?;
        // The project's own path may look like anything, a time too: only what this template would write counts.
        let parts = self.parts();
        let at = parts.iter().position(|part| *part == Part::Time)?;
        let before = fill(&parts[..at], path, id, "");
        let behind = fill(&parts[at + 1..], path, id, "");
        let time = plain.strip_prefix(&before)?.strip_suffix(&behind)?;
        parse_time(time)
    }

    /// What a key in the project's folder says: one of ours, or one of the older Python program's, which named
    /// them `<time>.tgz`.
    pub fn understand(&self, key: &str, path: &str, id: u64) -> Option<Named> {
        let encrypted = key.ends_with(ENCRYPTED);
        let named = |time, is_ours| Named {
            time,
            encrypted,
            is_ours,
        };
        if let Some(time) = self.time_of(key, path, id) {
            return Some(named(time, true));
        }
        let plain = key.strip_suffix(ENCRYPTED).unwrap_or(key);
        let (folder, name) = plain.rsplit_once('/')?;
        let is_here = folder == self.folder(path, id) || folder.strip_prefix('/') == Some(path);
        let mut ends = FOREIGN.iter();
        let time = ends.find_map(|end| parse_time(name.strip_suffix(end)?))?;
        is_here.then(|| named(time, false))
    }
}

/// Exactly as [`TIME`] writes it; other digits or blanks are none of ours.
fn parse_time(text: &str) -> Option<DateTime<Utc>> {
    let digits = |c: char| c.is_ascii_digit() || c == '-';
    if text.len() != TIME_LEN || !text.chars().all(digits) {
        return None;
    }
    let time = NaiveDateTime::parse_from_str(text, TIME).ok()?.and_utc();
    // A leap second is read, and never written.
    let time = DateTime::from_timestamp(time.timestamp(), 0)?;
    (time.format(TIME).to_string() == text).then_some(time)
}

fn fill(parts: &[Part<'_>], path: &str, id: u64, time: &str) -> String {
    let mut key = String::new();
    for part in parts {
        match part {
            Part::Text(text) => key.push_str(text),
            Part::Path => key.push_str(path),
            Part::Id => key.push_str(&id.to_string()),
            Part::Time => key.push_str(time),
        }
    }
    key
}

fn split(text: &str) -> Result<Vec<Part<'_>>, String> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let (before, from) = rest.split_at(at);
        if !before.is_empty() {
            parts.push(Part::Text(before));
        }
        let names = [
            ("{path}", Part::Path),
            ("{id}", Part::Id),
            ("{time}", Part::Time),
        ];
        let mut known = names.into_iter();
        let Some((name, part)) = known.find(|(name, _)| from.starts_with(name)) else {
            return Err("knows {path}, {id} and {time}, and no other braces".to_owned());
        };
        parts.push(part);
        rest = &from[name.len()..];
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> DateTime<Utc> {
        DateTime::parse_from_rfc3339(text).expect("a time").to_utc()
    }

    fn template(text: &str) -> Template {
        Template::parse(text).expect("a template")
    }

    #[test]
    fn a_template_names_the_project_and_the_time() {
        for (text, why) in [
            ("{path}/{time}.tar.gz", ""),
            ("/{path}/{time}.tar.gz", ""),
            ("exports/{path}/{time}", ""),
            ("{id}/{time}.tgz", ""),
            ("a b/{id}-{time}.tar.gz", ""),
            ("{path}/{path}-{time}.tar.gz", ""),
            ("", "needs {time}"),
            ("{path}.tar.gz", "needs {time}"),
            ("{time}.tar.gz", "needs {path} or {id}"),
            ("{time}/{path}.tar.gz", "behind the last `/`"),
            ("{path}/{time}{id}.tar.gz", "something between"),
            ("{id}{time}", "something between"),
            ("{path}/{time}-{time}", "once"),
            ("{path}/../{time}", "takes folders"),
            ("..//{path}/{time}", "takes folders"),
            ("./{path}/{time}", "takes folders"),
            ("{path}//{time}", "takes folders"),
            ("//{path}/{time}", "takes folders"),
            ("{path}/ {time}", "takes folders"),
            ("{path}/{time} ", "takes folders"),
            ("{path}/{time}/", "behind the last"),
            ("{path}/{time}\n", "no name can have"),
            ("{path}\\{time}", "no name can have"),
            ("{path}/{date}", "no other braces"),
            ("{path}/{time}}", "no other braces"),
            ("{{path}}/{time}", "no other braces"),
            ("{path}/{time}.tar.gz.age", "must not end in .age"),
        ] {
            match Template::parse(text) {
                Ok(_) => assert_eq!(why, "", "{text} was taken"),
                Err(told) => assert!(!why.is_empty() && told.contains(why), "{text}: {told}"),
            }
        }
    }

    #[test]
    fn a_key_is_made_and_read_again() {
        let at = time("2026-11-22T04:00:00Z");
        let long = format!("{}/{}", "g".repeat(255), "p".repeat(255));
        for (text, path, id, key) in [
            (
                "{path}/{time}.tar.gz",
                "team/sub/app",
                7,
                "/team/sub/app/2026-11-22-04-00-00.tar.gz",
            ),
            (
                "gitlab/{id}/{time}.tgz",
                "team/app",
                7,
                "/gitlab/7/2026-11-22-04-00-00.tgz",
            ),
            (
                "{path}-{id}-{time}",
                "team/app.v1.0",
                7,
                "/team/app.v1.0-7-2026-11-22-04-00-00",
            ),
            (
                "{path}/{time}.tar.gz",
                "team/🦊-{time}-{id}",
                7,
                "/team/🦊-{time}-{id}/2026-11-22-04-00-00.tar.gz",
            ),
            (
                "{path}/{time}.tar.gz",
                "2026-11-22-04-00-00.tar.gz/x",
                7,
                "/2026-11-22-04-00-00.tar.gz/x/2026-11-22-04-00-00.tar.gz",
            ),
            (
                "{path}/{time}.tar.gz",
                long.as_str(),
                u64::MAX,
                format!("/{long}/2026-11-22-04-00-00.tar.gz").as_str(),
            ),
        ] {
            let template = template(text);
            assert_eq!(template.key(path, id, at), key);
            assert_eq!(template.time_of(key, path, id), Some(at), "{key}");
            let sealed = format!("{key}.age");
            assert_eq!(template.time_of(&sealed, path, id), Some(at), "{sealed}");
            let folder = template.folder(path, id);
            assert_eq!(
                key.rsplit_once('/').map(|(folder, _)| folder),
                Some(&*folder)
            );
        }
    }

    #[test]
    fn what_another_template_or_program_named_is_none_of_ours() {
        let template = Template::default();
        for key in [
            "/team/app/2026-11-22-04-00-00.tgz",
            "/team/app/2026-11-22-04-00-00.tar.gz.part",
            "/team/app/2026-11-22-04-00-00.tar.gz.age.age",
            "/team/app/2026-11-22-04-00.tar.gz",
            "/team/app/2026-13-22-04-00-00.tar.gz",
            "/team/app/2026-11-22-24-00-00.tar.gz",
            "/team/app/2026-11-22-04-00-60.tar.gz",
            "/team/app/+026-11-22-04-00-00.tar.gz",
            "/team/app/ 2026-11-22-4-00-00.tar.gz",
            "/team/app/２026-11-22-04-00.tar.gz",
            "/team/app/sub/2026-11-22-04-00-00.tar.gz",
            "/team/apps/2026-11-22-04-00-00.tar.gz",
            "/team/App/2026-11-22-04-00-00.tar.gz",
            "team/app/2026-11-22-04-00-00.tar.gz",
            "/team/app/.tar.gz",
            "/team/app/",
            "",
        ] {
            assert_eq!(template.time_of(key, "team/app", 7), None, "{key}");
        }
        // A project whose name begins with another's.
        let template = self::template("{path}-{time}");
        let key = "/team/app-2026-11-22-04-00-00-2026-11-22-04-00-00";
        assert_eq!(template.time_of(key, "team/app", 7), None);
        assert!(
            template
                .time_of(key, "team/app-2026-11-22-04-00-00", 7)
                .is_some()
        );
    }

    #[test]
    fn exports_of_the_older_program_are_known_for_what_they_are() {
        let at = time("2021-05-06T07:08:09Z");
        for (text, key, ours) in [
            (
                "{path}/{time}.tar.gz",
                "/team/app/2021-05-06-07-08-09.tgz",
                Some(false),
            ),
            (
                "{path}/{time}.tar.gz",
                "/team/app/2021-05-06-07-08-09.gz",
                Some(false),
            ),
            (
                "{path}/{time}.tar.gz",
                "/team/app/2021-05-06-07-08-09.tar.gz",
                Some(true),
            ),
            (
                "{path}/{time}.tgz",
                "/team/app/2021-05-06-07-08-09.tgz",
                Some(true),
            ),
            (
                "x/{id}/{time}.tgz",
                "/team/app/2021-05-06-07-08-09.tgz",
                Some(false),
            ),
            (
                "{path}/{time}.tar.gz",
                "/team/other/2021-05-06-07-08-09.tgz",
                None,
            ),
            ("{path}/{time}.tar.gz", "/team/app/2021-05-06.tgz", None),
            ("{path}/{time}.tar.gz", "/team/app/notes.tgz", None),
        ] {
            let named = template(text).understand(key, "team/app", 7);
            let expected = ours.map(|is_ours| Named {
                time: at,
                encrypted: false,
                is_ours,
            });
            assert_eq!(named, expected, "{text} {key}");
        }
        let sealed = "/team/app/2021-05-06-07-08-09.tar.gz.age";
        let named = Template::default().understand(sealed, "team/app", 7);
        assert!(named.expect("known").encrypted);
    }
}
