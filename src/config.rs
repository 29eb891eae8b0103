//! The configuration file: finds it, checks it, and gathers the settings that each part declares.

mod environment;
mod file;
mod upload;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::config::file::{open_to_others, text_of};
use crate::destination;
use crate::gitlab::{api, host};
use crate::guard;
use crate::hooks;
use crate::job::Job;
use crate::notify;
use crate::projects;
use crate::retention::RetentionPolicy;
use crate::seal;
use crate::settings::{ENV_CONFIG, ENV_PREFIX, Reader, Section};

pub use self::upload::Upload;

/// Used when neither `-c` nor the environment names another.
pub const DEFAULT_PATH: &str = "/etc/gitlab-pi-backup/config.toml";

/// Everything the configuration says.
#[derive(Debug)]
pub struct Config {
    /// Lock, journals, history.
    pub state_dir: PathBuf,
    /// `[gitlab]`.
    pub gitlab: host::Settings,
    /// `[gitlab]`, as far as it is about its API.
    pub gitlab_api: api::Settings,
    /// `[destinations.*]`, in the order of their names.
    pub destinations: Vec<destination::Settings>,
    /// `[upload]`.
    pub upload: Upload,
    /// `[encryption]`; none: archives are stored as GitLab made them.
    pub encryption: Option<seal::Settings>,
    /// `[retention]`; none: nothing is ever deleted.
    pub retention: Option<RetentionPolicy>,
    /// `[guard]`.
    pub guard: guard::Settings,
    /// `[hooks]`.
    pub hooks: hooks::Settings,
    /// `[notify]`.
    pub notify: notify::Settings,
    /// `[projects]`; none: no project is exported.
    pub projects: Option<projects::Settings>,
    /// `[report]`: where the report page is written after each run; none: nowhere.
    pub report_file: Option<PathBuf>,
}

/// The path of the file: `-c`, the environment, the default.
pub fn path(argument: Option<PathBuf>) -> PathBuf {
    let variable = || {
        std::env::var_os(ENV_CONFIG)
            .filter(|path| !path.is_empty())
            .map(PathBuf::from)
    };
    argument
        .or_else(variable)
        .unwrap_or_else(|| DEFAULT_PATH.into())
}

/// What a look at the file showed.
pub struct Look {
    /// What it says; the defaults where it says nothing or is wrong.
    pub config: Config,
    /// Why it cannot be read, and the way out.
    pub unreadable: Option<String>,
    /// What is wrong with the settings.
    pub faults: Vec<String>,
    /// The files with secrets that others may read or change, and the way out.
    pub exposed: Vec<String>,
    /// The variables without our prefix that exports of projects go by; none where there are no such exports.
    pub variables: Vec<String>,
}

/// Reads and checks the file, with this process's environment. The error names all faults.
pub fn load(path: &Path) -> Result<Config, String> {
    check(path, &text_of(path)?)
}

/// Whether this process's environment says what to export where, as it does for [`load_or_environment`].
pub fn is_in_environment() -> bool {
    environment::as_file(environment::is_given).is_some()
}

/// Like [`load`] of the file that is named, or of the one at the usual place; if that is not there, what the variables of
/// gitlab-backup-management say, for whom they are enough.
pub fn load_or_environment(argument: Option<PathBuf>) -> Result<Config, String> {
    let path = path(argument);
    let is_there = |path: &Path| fs::symlink_metadata(path).is_ok();
    if path != Path::new(DEFAULT_PATH) || is_there(&path) {
        return load(&path);
    }
    let (variables, faults) = variables();
    match environment::complete(variables) {
        None => load(&path),
        Some(Err(missing)) => Err(format!(
            "there is no configuration {DEFAULT_PATH}, and the environment lacks {}\n  \
             set what is missing, or write a configuration with the table [projects]",
            missing.join(", ")
        )),
        Some(Ok(variables)) => {
            let look = look_with("", variables, faults, None);
            outcome(look, "the environment")
        }
    }
}

/// Checks what is in the file, or would be, with this process's environment. The error names all faults.
pub fn check(path: &Path, text: &str) -> Result<Config, String> {
    let look = look_at(path, text);
    outcome(look, &format!("the configuration {}", path.display()))
}

/// What `what` says, or all that is wrong with it.
fn outcome(look: Look, what: &str) -> Result<Config, String> {
    let faults = [look.faults, look.exposed].concat();
    if faults.is_empty() {
        return Ok(look.config);
    }
    let mut message = format!("{what} has {}:", count(faults.len()));
    for fault in faults {
        // Writing to a string cannot fail.
        let _ = write!(message, "\n  {fault}");
    }
    Err(message)
}

/// As much of `[notify]` as can be understood, whatever is wrong with the rest of the file: that something is
/// wrong with it is what is to be told. The health check is that of `job`.
pub fn notify_alone(path: &Path, job: Job) -> Option<notify::Settings> {
    let look = look_at(path, &text_of(path).ok()?);
    let (notify, projects) = (look.config.notify, look.config.projects);
    Some(match job {
        Job::Run => notify,
        Job::Projects => {
            let healthcheck = projects.and_then(|projects| projects.healthcheck);
            notify.with_healthcheck(healthcheck)
        }
    })
}

/// Reads and checks the file, with this process's environment, and goes on whatever is wrong with it.
pub fn look(path: &Path) -> Look {
    match text_of(path) {
        Ok(text) => look_at(path, &text),
        // Whatever an empty file lacks is no fault of this one.
        Err(message) => Look {
            unreadable: Some(message),
            faults: Vec::new(),
            ..look_at(path, "")
        },
    }
}

/// What the text says, and what is wrong with it.
fn look_at(path: &Path, text: &str) -> Look {
    let (variables, faults) = variables();
    look_with(text, variables, faults, Some(path))
}

/// This process's environment, and what is wrong with it.
fn variables() -> (BTreeMap<String, String>, Vec<String>) {
    let mut variables = BTreeMap::new();
    let mut faults = Vec::new();
    for (name, value) in std::env::vars_os() {
        let Some(name) = name.to_str() else {
            continue;
        };
        match value.into_string() {
            Ok(value) => {
                variables.insert(name.to_owned(), value);
            }
            // What others use is none of our business.
            Err(_) if !name.starts_with(ENV_PREFIX) => {}
            Err(_) => faults.push(format!("environment variable {name}: is no UTF-8")),
        }
    }
    (variables, faults)
}

/// `path` is the file of the text, if it comes from one.
fn look_with(
    text: &str,
    variables: BTreeMap<String, String>,
    mut faults: Vec<String>,
    path: Option<&Path>,
) -> Look {
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    let mut reader = Reader::new(text, variables, credentials);
    let config = gather(&mut reader);
    let secret_in_file = reader.secret_in_file();
    let mut variables = reader.used_of_others();
    // Many a shell has GITLAB_TOKEN for other tools.
    variables.retain(|_| config.projects.is_some());
    faults.extend(reader.finish().iter().map(ToString::to_string));
    let mut exposed = Vec::new();
    if secret_in_file {
        exposed.extend(path.and_then(open_to_others));
    }
    let secret_files = config
        .destinations
        .iter()
        .filter_map(destination::Settings::secret_file)
        .chain(config.notify.secret_file())
        .chain(config.gitlab_api.secret_file());
    exposed.extend(secret_files.filter_map(|path| open_to_others(path)));
    Look {
        config,
        unreadable: None,
        faults,
        exposed,
        variables,
    }
}

/// What counts where there is no file.
pub fn defaults() -> Config {
    gather(&mut Reader::new("", [], None))
}

/// Asks for every key there is.
fn gather(reader: &mut Reader) -> Config {
    let mut root = reader.root();
    let state_dir = root
        .get("state_dir")
        .unwrap_or_else(|| "/var/lib/gitlab-pi-backup".into());
    let mut section = root.section("gitlab");
    let gitlab = host::Settings::read(&mut section);
    let gitlab_api = api::Settings::read(&mut section);
    section.finish();
    let mut section = root.section("upload");
    let upload = Upload::read(&mut section);
    section.finish();
    let mut section = root.section("encryption");
    let encryption = seal::Settings::read(&mut section);
    section.finish();
    let mut section = root.section("retention");
    let retention = RetentionPolicy::read(&mut section);
    section.finish();
    let mut section = root.section("guard");
    let guard = guard::Settings::read(&mut section);
    section.finish();
    let mut section = root.section("hooks");
    let hooks = hooks::Settings::read(&mut section);
    section.finish();
    let mut section = root.section("notify");
    let notify = notify::Settings::read(&mut section);
    section.finish();
    let mut of_projects = root.section("projects");
    let projects = projects::Settings::read(&mut of_projects);
    let mut section = root.section("report");
    let report_file = report_file(&mut section);
    section.finish();
    let mut destinations = Vec::new();
    let sections = root.section("destinations").sections();
    let names: Vec<_> = sections.iter().map(|(name, _)| name.clone()).collect();
    let wanted = projects.as_ref().map(|projects| &projects.destination);
    let is_unknown = |wanted: &&String| !names.is_empty() && !names.contains(wanted);
    if let Some(wanted) = wanted.filter(is_unknown) {
        let known = names.join(", ");
        let fault = format!("no destination is named `{wanted}`; the configuration has: {known}");
        of_projects.fault("destination", &fault);
    }
    of_projects.finish();
    if sections.is_empty() {
        root.fault(
            "destinations",
            "no destination is configured; add a table like this\n    \
             [destinations.dropbox]\n    type = \"dropbox\"\n    app_key = \"…\"",
        );
    }
    for (name, mut section) in sections {
        let gets_exports = wanted == Some(&name);
        destinations.extend(destination::Settings::read(
            &name,
            &mut section,
            gets_exports,
        ));
        if !destination::is_name(&name) {
            section.fault(
                "type",
                "the destination's name takes lower-case letters, digits, `-` and `_`",
            );
        }
        section.finish();
    }
    root.finish();
    Config {
        state_dir,
        gitlab,
        gitlab_api,
        destinations,
        upload,
        encryption,
        retention,
        guard,
        hooks,
        notify,
        projects,
        report_file,
    }
}

/// A run has no folder of its own that a shorter name could start from.
fn report_file(section: &mut Section<'_>) -> Option<PathBuf> {
    let file = section.get::<PathBuf>("file")?;
    if !file.is_absolute() || file.file_name().is_none() {
        section.fault(
            "file",
            "takes the full path of a file, like \"/var/www/html/backup.html\"",
        );
    }
    Some(file)
}

fn count(faults: usize) -> String {
    if faults == 1 {
        "a fault".to_owned()
    } else {
        format!("{faults} faults")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../config.example.toml");

    fn parse(text: &str) -> (Config, Vec<String>, Vec<String>) {
        let mut reader = Reader::new(text, [], None);
        let config = gather(&mut reader);
        let asked = reader.asked();
        (
            config,
            asked,
            reader.finish().iter().map(ToString::to_string).collect(),
        )
    }

    #[test]
    fn the_example_is_right_shows_every_key_and_only_defaults() {
        let (example, asked, faults) = parse(EXAMPLE);
        assert_eq!(faults, [""; 0]);
        for dotted in asked {
            let key = dotted.rsplit('.').next().unwrap_or_default();
            let shown = EXAMPLE.lines().any(|line| {
                line.trim_start_matches("# ")
                    .split_once('=')
                    .is_some_and(|(name, _)| name.trim() == key)
            });
            assert!(shown, "config.example.toml does not show {dotted}");
        }
        let least = "[destinations.dropbox]\ntype = \"dropbox\"\napp_key = \"0123456789abcde\"\n";
        let (defaults, _, faults) = parse(least);
        assert_eq!(faults, [""; 0]);
        let without_secrets = |config: &Config| {
            format!("{config:?}")
                .split("spent_until")
                .next()
                .map(str::to_owned)
        };
        assert_eq!(without_secrets(&example), without_secrets(&defaults));
    }

    #[test]
    fn the_examples_of_what_is_off_by_default_are_right_too() {
        let keys = |table: &str| {
            let (_, keys) = EXAMPLE.split_once(table).expect("the table");
            let keys = keys.lines().map_while(|line| line.strip_prefix("# "));
            keys.filter(|line| line.contains(" = ")).collect::<Vec<_>>()
        };
        let encryption = keys("# [encryption]\n");
        assert_eq!(encryption.len(), 3, "{encryption:?}");
        assert!(
            encryption.contains(&"kinds = [\"config\", \"data\"]"),
            "{encryption:?}"
        );
        let keys = keys("# [retention]\n");
        let least = "[destinations.dropbox]\ntype = \"dropbox\"\napp_key = \"0123456789abcde\"\n";
        let (config, _, faults) = parse(&format!("{least}[retention]\n{}\n", keys.join("\n")));
        assert_eq!(faults, [""; 0]);
        let retention = config.retention.expect("a policy");
        assert_eq!((retention.keep_daily, retention.local), (7, Some(1)));
        let (_, projects) = EXAMPLE.split_once("# [projects]\n").expect("the table");
        let projects = projects.lines().map_while(|line| line.strip_prefix("# "));
        let projects: Vec<_> = projects.filter(|line| line.contains(" = ")).collect();
        let shown = |keys: &[&str]| {
            let (config, _, faults) = parse(&format!("{least}[projects]\n{}\n", keys.join("\n")));
            assert_eq!(faults, [""; 0]);
            config.projects.expect("settings")
        };
        // What selects something is an example; everything else is the default.
        let mut all = shown(&projects);
        assert_eq!(all.concurrency.take(), Some(6));
        assert_eq!(all.groups, ["42", "team/sub"]);
        let given = |line: &&&str| {
            ["destination", "groups", "projects", "healthcheck_url"]
                .iter()
                .any(|key| line.starts_with(key))
        };
        let least: Vec<_> = projects.iter().filter(given).copied().collect();
        assert_eq!(format!("{all:?}"), format!("{:?}", shown(&least)));
    }

    #[test]
    fn what_is_moved_beside_itself_has_a_name_and_a_place() {
        let least = "[destinations.a]\ntype = \"dropbox\"\napp_key = \"k\"\n";
        for (path, faults) in [("/srv/gitlab", 0), ("etc/gitlab", 1), ("/", 1), ("", 1)] {
            let (_, _, told) = parse(&format!("[gitlab]\netc_dir = \"{path}\"\n{least}"));
            assert_eq!(told.len(), faults, "{path}: {told:?}");
            assert!(
                told.iter()
                    .all(|fault| fault.contains("`gitlab.etc_dir`: takes")),
                "{told:?}"
            );
        }
    }

    #[test]
    fn the_report_page_has_a_full_path() {
        let least = "[destinations.a]\ntype = \"dropbox\"\napp_key = \"k\"\n";
        for (path, right) in [
            ("/srv/page.html", true),
            ("page.html", false),
            ("/", false),
            ("", false),
        ] {
            let (config, _, told) = parse(&format!("[report]\nfile = \"{path}\"\n{least}"));
            assert_eq!(told.is_empty(), right, "{path}: {told:?}");
            assert_eq!(config.report_file, Some(path.into()));
        }
    }

    #[test]
    fn values_out_of_range_are_told_with_what_is_in_range() {
        let text = "[upload]\nchunk_size = \"5 MiB\"\nconcurrency = 0\nbandwidth_limit = \"5 B/s\"\n\
            [gitlab]\nnice = 20\nskip = [\"a b\"]\nconfig_command = []\nstrategy = \"move\"\nengine = \"other\"\n\
            [destinations.A]\ntype = \"dropbox\"\napp_key = \"k\"\nkinds = []\napi_url = \"http://example.org\"\n\
            data_folder = \"Data\"\n[destinations.b]\ntype = \"tape\"\n[destinations.c]\n";
        let (_, _, faults) = parse(text);
        let all = faults.join("\n");
        for part in [
            "line 2: `upload.chunk_size`: takes a multiple of 4 MiB",
            "line 3: `upload.concurrency`: takes 1 to 32",
            "line 4: `upload.bandwidth_limit`",
            "line 6: `gitlab.nice`: takes 0 to 19",
            "line 7: `gitlab.skip`",
            "line 8: `gitlab.config_command`",
            "line 9: `gitlab.strategy`",
            "line 10: `gitlab.engine`: unknown variant `other`, expected `gitlab-backup`",
            "line 12: `destinations.A.type`: the destination's name",
            "line 14: `destinations.A.kinds`: names no kind",
            "line 15: `destinations.A.api_url`: takes an address that starts with https://",
            "line 16: `destinations.A.data_folder`",
            "line 18: `destinations.b.type`: unknown variant `tape`, expected one of `dropbox`, `webdav`",
            "`destinations.c.type` is missing",
        ] {
            assert!(all.contains(part), "{part} is not in\n{all}");
        }
    }
}
