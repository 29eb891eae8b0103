//! The steps back to a running GitLab, in order: what `--plan` prints and `--apply` carries out, from one
//! list, so that neither can tell another story than the other. Needs names, sizes and folders, and no
//! network.
//!
//! The order is GitLab's own
//! (<https://docs.gitlab.com/administration/backup_restore/restore_gitlab/>): the config archive first,
//! because it holds the keys that the data is encrypted with.

mod data;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use self::data::{place_data, restore_data};
use super::package::{package, product};
use crate::archive::ArchiveKind;
use crate::manifest::edition;
use crate::units::Size;

/// What a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Both archives are brought here and proved.
    Fetch,
    /// Exactly the backup's version and edition of GitLab is installed.
    Version,
    /// The present `/etc/gitlab` is moved beside itself.
    MoveConfig,
    /// The config archive becomes `/etc/gitlab`.
    UnpackConfig,
    /// `gitlab-ctl reconfigure`, with the restored configuration.
    Reconfigure,
    /// The data archive is where GitLab looks for it, and GitLab's own.
    PlaceData,
    /// `gitlab-ctl stop puma`
    StopPuma,
    /// `gitlab-ctl stop sidekiq`
    StopSidekiq,
    /// `gitlab-backup restore`
    RestoreData,
    /// `gitlab-ctl reconfigure`, with the restored data.
    ReconfigureAgain,
    /// `gitlab-ctl start`
    Start,
    /// `gitlab-rake gitlab:check`
    Check,
    /// `gitlab-rake gitlab:doctor:secrets`
    CheckSecrets,
}

/// A step as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RunbookStep {
    /// Which one.
    pub step: Step,
    /// What is done, for people.
    pub title: String,
    /// What is run; for what this program does by itself, what does the same by hand.
    pub command: Option<Vec<String>>,
    /// Variables that the command needs in its environment.
    pub environment: BTreeMap<&'static str, &'static str>,
    /// What else should be known.
    pub notes: Vec<String>,
}

/// What is known of the backup.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// GitLab's ID.
    pub backup_id: &'a str,
    /// GitLab's version, with `-ee` if it is that edition.
    pub version: Option<&'a str>,
    /// Name and size of the config archive, if it is stored.
    pub config: Option<(&'a str, u64)>,
    /// Name and size of the data archive, if it is stored.
    pub data: Option<(&'a str, u64)>,
    /// The parts that GitLab left out.
    pub skipped: &'a [String],
}

/// The folders of the machine.
#[derive(Clone, Copy, Debug)]
pub struct Places<'a> {
    /// GitLab's configuration: `/etc/gitlab`.
    pub etc_dir: &'a Path,
    /// What the present one is moved to.
    pub kept: &'a Path,
    /// Where config archives lie.
    pub config_dir: &'a Path,
    /// Where data archives lie.
    pub data_dir: &'a Path,
    /// Where the fetched archives are, if not in those two.
    pub fetched: Option<&'a Path>,
}

/// All steps, in order. What the backup lacks is left out, and said.
pub fn runbook(known: &Known<'_>, places: &Places<'_>) -> Vec<RunbookStep> {
    let mut steps = vec![fetch_what_is_there(known, places), version(known)];
    if let Some((name, _)) = known.config {
        steps.extend([move_config(places), unpack_config(name, places)]);
    }
    steps.push(reconfigure(known, places));
    if let Some((name, size)) = known.data {
        steps.push(place_data(name, size, places));
        steps.extend(restore_data(known));
    }
    steps.push(
        gitlab(Step::Start, "start all of GitLab", "gitlab-ctl start")
            .note("it takes some minutes on a Raspberry Pi until the first page is shown"),
    );
    let check = "gitlab-rake gitlab:check SANITIZE=true";
    steps.push(gitlab(Step::Check, "let GitLab check itself", check));
    let title = "prove that the restored keys decrypt the restored data";
    let command = "gitlab-rake gitlab:doctor:secrets";
    steps.push(gitlab(Step::CheckSecrets, title, command).note(
        "every line must end in `failures: 0`; else gitlab-secrets.json does not belong to this data",
    ));
    steps
}

/// Fetching a backup, or one kind of it, into GitLab's folders or into `to`.
pub fn fetch(backup_id: &str, only: Option<ArchiveKind>, to: Option<&Path>) -> RunbookStep {
    let mut command = words("gitlab-pi-backup restore");
    command.push(backup_id.to_owned());
    if let Some(kind) = only {
        command.extend(["--only".to_owned(), kind.to_string()]);
    }
    if let Some(folder) = to {
        command.extend(["--to".to_owned(), folder.display().to_string()]);
    }
    let title = "fetch the archives, and compare their sizes and hashes";
    by_hand(Step::Fetch, title, Some(command))
}

fn fetch_what_is_there(known: &Known<'_>, places: &Places<'_>) -> RunbookStep {
    let only = match (known.config, known.data) {
        (Some(_), None) => Some(ArchiveKind::Config),
        (None, Some(_)) => Some(ArchiveKind::Data),
        _ => None,
    };
    let mut step = fetch(known.backup_id, only, places.fetched);
    for (kind, archive) in ArchiveKind::ALL.into_iter().zip([known.config, known.data]) {
        step.notes.push(match (archive, kind) {
            (Some((name, size)), _) => format!("{kind}: {name}, {}", Size(size)),
            (None, ArchiveKind::Config) => {
                "no config archive is stored: without the keys in gitlab-secrets.json \
                 the data cannot be decrypted"
                    .to_owned()
            }
            (None, ArchiveKind::Data) => {
                "no data archive is stored: only the configuration can be restored".to_owned()
            }
        });
    }
    step
}

fn version(known: &Known<'_>) -> RunbookStep {
    let Some(version) = known.version else {
        let title = "have exactly the version and edition of GitLab installed that made the backup";
        return by_hand(Step::Version, title, None);
    };
    let title = format!("have exactly {} installed", product(version));
    let package = package(version);
    let command = package.as_ref().map(|package| {
        let mut command = words("apt-get install");
        command.push(package.deb.clone());
        command
    });
    let mut step = by_hand(Step::Version, &title, command);
    if let Some(package) = package {
        step.notes.push(format!(
            "where its packages are: https://packages.gitlab.com/gitlab/gitlab-{}",
            edition(version)
        ));
        let rpm = format!("with rpm packages: dnf install {}", package.rpm);
        step.notes.push(rpm);
    } else {
        let note = "this is a nightly build: no package repository keeps it";
        step.notes.push(note.to_owned());
    }
    let major = version
        .split('.')
        .next()
        .and_then(|major| major.parse().ok());
    step.notes.push(
        if major.is_some_and(|major: u32| major >= 18) {
            "on a Raspberry Pi: a 64-bit system, since there are no 32-bit packages from 18.0 on"
        } else {
            "on a Raspberry Pi with a 32-bit system: there are packages up to 17.11 only, none from 18.0 on"
        }
        .to_owned(),
    );
    step
}

fn move_config(places: &Places<'_>) -> RunbookStep {
    let (etc, kept) = (places.etc_dir.display(), places.kept.display());
    let command = ["mv".to_owned(), etc.to_string(), kept.to_string()];
    by_hand(
        Step::MoveConfig,
        &format!("move the present {etc} to {kept}"),
        Some(command.into()),
    )
    .note("on a new machine there may be none: then there is nothing to move")
}

fn unpack_config(name: &str, places: &Places<'_>) -> RunbookStep {
    let etc = places.etc_dir;
    // It moved away together with what it lay in.
    let moved = places.config_dir.strip_prefix(etc).ok();
    let folder = match (places.fetched, moved) {
        (Some(folder), _) => folder.to_owned(),
        (None, Some(below)) => places.kept.join(below),
        (None, None) => places.config_dir.to_owned(),
    };
    let mut command = words("tar -xpf");
    command.extend([folder.join(name).display().to_string(), "-C".to_owned()]);
    let root = etc.ancestors().nth(2).unwrap_or(Path::new("/"));
    command.push(root.display().to_string());
    let title = format!("unpack {name}: it becomes {}", etc.display());
    let mut step = by_hand(Step::UnpackConfig, &title, Some(command));
    if let Some(below) = moved {
        step.notes.push(format!(
            "older config archives stay in {}",
            places.kept.join(below).display()
        ));
    }
    step
}

fn reconfigure(known: &Known<'_>, places: &Places<'_>) -> RunbookStep {
    let title = "let GitLab take the restored configuration";
    let step = gitlab(Step::Reconfigure, title, "gitlab-ctl reconfigure");
    if known.config.is_none() {
        let etc = places.etc_dir.display();
        return step.note(&format!(
            "before: gitlab.rb and gitlab-secrets.json belong into {etc}"
        ));
    }
    step
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

fn gitlab(step: Step, title: &str, command: &str) -> RunbookStep {
    by_hand(step, title, Some(words(command)))
}

fn by_hand(step: Step, title: &str, command: Option<Vec<String>>) -> RunbookStep {
    RunbookStep {
        step,
        title: title.to_owned(),
        command,
        environment: BTreeMap::new(),
        notes: Vec::new(),
    }
}

impl Step {
    /// Whether it is a command of GitLab's, run as it is shown.
    pub fn is_gitlabs(self) -> bool {
        match self {
            Step::Fetch
            | Step::Version
            | Step::MoveConfig
            | Step::UnpackConfig
            | Step::PlaceData => false,
            Step::Reconfigure
            | Step::StopPuma
            | Step::StopSidekiq
            | Step::RestoreData
            | Step::ReconfigureAgain
            | Step::Start
            | Step::Check
            | Step::CheckSecrets => true,
        }
    }
}

impl RunbookStep {
    fn note(mut self, note: &str) -> RunbookStep {
        self.notes.push(note.to_owned());
        self
    }

    /// The command as it is typed into a shell.
    pub fn shell(&self) -> Option<String> {
        let command = self.command.as_ref()?;
        let mut line = String::new();
        for (name, value) in &self.environment {
            // Writing to a string cannot fail.
            let _ = write!(line, "{name}={value} ");
        }
        let quoted: Vec<_> = command.iter().map(|word| quote(word)).collect();
        Some(line + &quoted.join(" "))
    }
}

/// A word as a shell takes it for one.
pub fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@+~%".contains(c);
    if !word.is_empty() && word.chars().all(plain) && !word.starts_with('~') {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// The steps as numbered text, each with what else should be known.
pub fn text(steps: &[RunbookStep]) -> String {
    let mut text = String::new();
    for (number, step) in steps.iter().enumerate() {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{:>2}. {}", number + 1, step.title);
        if let Some(command) = step.shell() {
            let _ = writeln!(text, "      {command}");
        }
        for note in &step.notes {
            let _ = writeln!(text, "    {note}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "1702758583_2023_12_16_17.8.2";
    const DATA: &str = "1702758583_2023_12_16_17.8.2_gitlab_backup.tar";
    const CONFIG: &str = "gitlab_config_1702758583_2023_12_16.tar";

    fn known() -> Known<'static> {
        Known {
            backup_id: ID,
            version: Some("17.8.2"),
            config: Some((CONFIG, 1 << 10)),
            data: Some((DATA, 1 << 30)),
            skipped: &[],
        }
    }

    fn places() -> Places<'static> {
        Places {
            etc_dir: Path::new("/etc/gitlab"),
            kept: Path::new("/etc/gitlab.20231217T000000Z"),
            config_dir: Path::new("/etc/gitlab/config_backup"),
            data_dir: Path::new("/var/opt/gitlab/backups"),
            fetched: None,
        }
    }

    fn commands(steps: &[RunbookStep]) -> Vec<String> {
        steps.iter().filter_map(RunbookStep::shell).collect()
    }

    #[test]
    fn the_steps_are_gitlabs_in_gitlabs_order() {
        let steps = runbook(&known(), &places());
        let expected = [
            "gitlab-pi-backup restore 1702758583_2023_12_16_17.8.2",
            "apt-get install gitlab-ce=17.8.2-ce.0",
            "mv /etc/gitlab /etc/gitlab.20231217T000000Z",
            "tar -xpf /etc/gitlab.20231217T000000Z/config_backup/gitlab_config_1702758583_2023_12_16.tar -C /",
            "gitlab-ctl reconfigure",
            "chown git:git /var/opt/gitlab/backups/1702758583_2023_12_16_17.8.2_gitlab_backup.tar",
            "gitlab-ctl stop puma",
            "gitlab-ctl stop sidekiq",
            "GITLAB_ASSUME_YES=1 gitlab-backup restore BACKUP=1702758583_2023_12_16_17.8.2 force=yes",
            "gitlab-ctl reconfigure",
            "gitlab-ctl start",
            "gitlab-rake gitlab:check SANITIZE=true",
            "gitlab-rake gitlab:doctor:secrets",
        ];
        assert_eq!(commands(&steps), expected);
        let mut sorted: Vec<_> = steps.iter().map(|step| step.step).collect();
        sorted.sort_unstable();
        assert_eq!(
            sorted,
            steps.iter().map(|step| step.step).collect::<Vec<_>>()
        );
    }

    #[test]
    fn archives_in_a_folder_of_their_own_are_taken_from_there() {
        let places = Places {
            fetched: Some(Path::new("/root/the restore")),
            ..places()
        };
        let all = commands(&runbook(&known(), &places)).join("\n");
        for part in [
            "restore 1702758583_2023_12_16_17.8.2 --to '/root/the restore'",
            "tar -xpf '/root/the restore/gitlab_config_1702758583_2023_12_16.tar' -C /",
            "install -o git -g git -m 600 '/root/the restore/1702758583_2023_12_16_17.8.2_gitlab_backup.tar' /var/opt/gitlab/backups/",
        ] {
            assert!(all.contains(part), "{part} is not in\n{all}");
        }
    }

    #[test]
    fn what_is_missing_is_left_out_and_said() {
        let without = |known: Known<'_>| {
            let steps = runbook(&known, &places());
            let kinds: Vec<_> = steps.iter().map(|step| step.step).collect();
            (kinds, text(&steps))
        };
        let (steps, shown) = without(Known {
            config: None,
            ..known()
        });
        assert!(!steps.contains(&Step::UnpackConfig) && steps.contains(&Step::RestoreData));
        assert!(
            shown.contains("no config archive is stored: without"),
            "{shown}"
        );
        assert!(shown.contains("--only data"), "{shown}");
        let (steps, shown) = without(Known {
            data: None,
            ..known()
        });
        assert!(steps.contains(&Step::UnpackConfig) && !steps.contains(&Step::RestoreData));
        assert!(shown.contains("no data archive is stored"), "{shown}");
        let skipped = ["registry".to_owned(), "artifacts".to_owned()];
        let (_, shown) = without(Known {
            skipped: &skipped,
            ..known()
        });
        assert!(
            shown.contains("not restored: registry, artifacts"),
            "{shown}"
        );
    }

    #[test]
    fn the_version_decides_what_is_installed() {
        let shown = |version| text(&runbook(&Known { version, ..known() }, &places()));
        assert!(shown(Some("18.2.0-ee")).contains("have exactly GitLab EE 18.2.0 installed"));
        assert!(shown(Some("18.2.0-ee")).contains("a 64-bit system"));
        assert!(shown(Some("17.8.2")).contains("up to 17.11"));
        assert!(!shown(None).contains("apt-get"));
    }

    #[test]
    fn words_are_quoted_where_a_shell_would_split_them() {
        assert_eq!(quote("a=b"), "a=b");
        assert_eq!(quote("a b"), "'a b'");
        assert_eq!(quote("it's"), "'it'\\''s'");
        assert_eq!(quote(""), "''");
    }
}
