//! The configuration file: what is wrong with it, who may touch it, and which settings come from elsewhere.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::process::geteuid;

use super::{Check, Subject};
use crate::settings::{ENV_CONFIG, ENV_PREFIX};

/// The configuration file and what is wrong with it.
pub struct Configuration<'a> {
    /// Where it is.
    pub path: &'a Path,
    /// Why it cannot be read, and the way out.
    pub unreadable: Option<&'a str>,
    /// What is wrong with the settings.
    pub faults: &'a [String],
    /// The files with secrets that others may read or change, and the way out.
    pub exposed: &'a [String],
}

/// Variables that change what a run does, by their names.
pub struct Environment<'a> {
    /// Those that are set.
    pub given: &'a [String],
    /// Those that only the user's shell had, when this is looked at as cron would see it.
    pub of_shell: Option<&'a [String]>,
}

/// Beside the settings: where trust and the way out into the network come from. Small letters count, too.
const NETWORK: [&str; 6] = [
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
];

/// Which of these variables change what a run does: those of the settings, those `of_others` that count as such, and
/// those of the network. The one that names the configuration counts unless `-c` does.
pub fn telling(
    names: impl Iterator<Item = String>,
    of_others: &[String],
    config_is_given: bool,
) -> Vec<String> {
    let tells = |name: &String| {
        let setting = name.starts_with(ENV_PREFIX) && !(config_is_given && name == ENV_CONFIG);
        setting || of_others.contains(name) || NETWORK.contains(&name.to_ascii_uppercase().as_str())
    };
    let mut names: Vec<_> = names.filter(tells).collect();
    names.sort();
    names
}

pub(super) fn checks(
    configuration: &Configuration<'_>,
    environment: &Environment<'_>,
    subject: &Subject<'_>,
) -> Vec<Check> {
    vec![
        settings(configuration),
        permissions(configuration, subject.state.path()),
        variables(environment),
    ]
}

fn settings(configuration: &Configuration<'_>) -> Check {
    const NAME: &str = "configuration";
    let path = configuration.path.display();
    if let Some(message) = configuration.unreadable {
        return Check::failed(NAME, message);
    }
    match configuration.faults {
        [] => Check::ok(NAME, path.to_string()),
        [fault] => Check::failed(NAME, &format!("{path}: {fault}"))
            .hint("config.example.toml shows every key with its default"),
        faults => {
            let mut check = Check::failed(NAME, "");
            check.detail = format!("{path}: {} faults\n{}", faults.len(), faults.join("\n"));
            check.hint("config.example.toml shows every key with its default")
        }
    }
}

/// Who can change the configuration decides what is run as root; who can read the state sees what is uploaded.
fn permissions(configuration: &Configuration<'_>, state_dir: &Path) -> Check {
    const NAME: &str = "permissions";
    let mut faults: Vec<(String, String)> = Vec::new();
    for message in configuration.exposed {
        let (fault, way_out) = message.split_once('\n').unwrap_or((message, ""));
        faults.push((fault.to_owned(), way_out.trim().to_owned()));
    }
    let path = configuration.path;
    let told = faults
        .iter()
        .any(|(fault, _)| fault.starts_with(&path.display().to_string()));
    if let Some(fault) = changeable(path, false).filter(|_| !told) {
        faults.push(fault);
    }
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    faults.extend(folder.and_then(|folder| changeable(folder, true)));
    faults.extend(private(state_dir));
    if faults.is_empty() {
        let who = if geteuid().is_root() {
            "nobody else can change what is run, or read what is kept".to_owned()
        } else {
            format!(
                "this is looked at as the user with the number {}, not as root",
                geteuid().as_raw()
            )
        };
        return Check::ok(NAME, who);
    }
    let (details, hints): (Vec<_>, Vec<_>) = faults.into_iter().unzip();
    let mut check = Check::failed(NAME, "");
    check.detail = details.join("\n");
    check.hint(hints.join("\n"))
}

/// A fault if somebody else may change a file or folder; a missing one has none.
fn changeable(path: &Path, is_folder: bool) -> Option<(String, String)> {
    let metadata = fs::metadata(path).ok()?;
    let (mode, owner) = (metadata.mode() & 0o7777, metadata.uid());
    let shown = path.display();
    if owner != 0 && owner != geteuid().as_raw() {
        return Some((
            format!(
                "{shown} belongs to the user with the number {owner}, who can change what is run as root"
            ),
            format!("chown root: {shown}"),
        ));
    }
    // In a folder like /tmp only the owner replaces a file.
    let sticky = is_folder && mode & 0o1000 != 0;
    (mode & 0o022 != 0 && !sticky).then(|| {
        (
            format!("{shown} can be changed by others (mode {mode:04o}), and with it what is run as root"),
            format!("chmod go-w {shown}"),
        )
    })
}

/// A fault if the state folder is somebody else's, or open to others.
fn private(state_dir: &Path) -> Option<(String, String)> {
    let metadata = fs::metadata(state_dir).ok().filter(fs::Metadata::is_dir)?;
    let (mode, owner) = (metadata.mode() & 0o777, metadata.uid());
    let shown = state_dir.display();
    if owner != geteuid().as_raw() && owner != 0 {
        return Some((
            format!("{shown} belongs to the user with the number {owner}"),
            format!("chown root: {shown}"),
        ));
    }
    (mode & 0o077 != 0).then(|| {
        (
            format!("{shown} is open to others (mode {mode:04o})"),
            format!("chmod 700 {shown}"),
        )
    })
}

fn variables(environment: &Environment<'_>) -> Check {
    const NAME: &str = "environment";
    match (environment.of_shell, environment.given) {
        (Some([]), _) => Check::ok(
            NAME,
            "as cron gives it; nothing that only this shell has is needed",
        ),
        (Some(names), _) => {
            let those = format!(
                "only this shell has {}: runs that cron or systemd start do without",
                names.join(", ")
            );
            Check::failed(NAME, &those).hint(
                "put settings into the configuration file; a proxy or certificates into the crontab above the entry, or \
                 into the unit: `systemctl edit gitlab-pi-backup.service`, [Service], Environment=",
            )
        }
        (None, []) => Check::ok(NAME, "no variable changes what a run does"),
        (None, names) => Check::ok(NAME, format!("from this shell: {}", names.join(", ")))
            .hint("`doctor --as-cron` looks at it without them"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_that_change_a_run_are_told_by_name() {
        let names = [
            "PATH",
            "https_proxy",
            "GITLAB_PI_BACKUP_STATE_DIR",
            "GITLAB_PI_BACKUP_CONFIG",
            "SSL_CERT_FILE",
            "GITLAB_TOKEN",
        ];
        let told = |of_others: &[String], given| {
            telling(
                names.iter().map(|name| (*name).to_owned()),
                of_others,
                given,
            )
        };
        assert_eq!(
            told(&[], true),
            ["GITLAB_PI_BACKUP_STATE_DIR", "SSL_CERT_FILE", "https_proxy"]
        );
        assert_eq!(told(&[], false).len(), 4);
        assert_eq!(told(&["GITLAB_TOKEN".to_owned()], false).len(), 5);
    }
}
