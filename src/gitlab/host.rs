//! GitLab's commands: which they are, and that they are run as root's cron would. What they say is judged:
//! older versions of GitLab end with 0 although a part of the backup failed.

mod lines;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::archive::ArchiveKind;
use crate::process::{self, Invocation, Output};
use crate::settings::Section;
use crate::stop::Stop;
use crate::units::Span;

pub use crate::gitlab::host::lines::tells_of_failure;
pub use crate::process::{CommandFailure, IoPriority};

/// Which of GitLab's tools makes the data archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// `gitlab-backup create`, which leaves a tar.
    #[default]
    GitlabBackup,
    /// `gitlab-backup-cli backup all`, which leaves a folder; an experiment of GitLab 17 and later.
    GitlabBackupCli,
}

impl Engine {
    /// Its program.
    pub fn program(self) -> &'static str {
        match self {
            Engine::GitlabBackup => "gitlab-backup",
            Engine::GitlabBackupCli => "gitlab-backup-cli",
        }
    }

    fn default_command(self) -> &'static str {
        match self {
            Engine::GitlabBackup => "gitlab-backup create",
            Engine::GitlabBackupCli => "gitlab-backup-cli backup all",
        }
    }
}

/// `[gitlab]`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which tool makes data archives.
    pub engine: Engine,
    /// Where config archives appear.
    pub config_dir: PathBuf,
    /// Where data archives appear.
    pub data_dir: PathBuf,
    /// GitLab's configuration.
    pub etc_dir: PathBuf,
    /// Where the package put GitLab.
    pub install_dir: PathBuf,
    config_command: Vec<String>,
    data_command: Vec<String>,
    /// GitLab's SKIP list.
    pub skip: Vec<String>,
    strategy: String,
    /// Whether GitLab leaves the parts of its backup, which are sent as one tar that is never written.
    pub stream: bool,
    timeout: Duration,
    nice: u8,
    ionice: IoPriority,
}

impl Settings {
    /// Reads the section; the defaults are those of a Linux package.
    pub fn read(section: &mut Section<'_>) -> Settings {
        let words = |command: &str| command.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let engine: Engine = section.get("engine").unwrap_or_default();
        let settings = Settings {
            engine,
            config_dir: section
                .get("config_dir")
                .unwrap_or_else(|| "/etc/gitlab/config_backup".into()),
            data_dir: section
                .get("data_dir")
                .unwrap_or_else(|| "/var/opt/gitlab/backups".into()),
            etc_dir: section
                .get("etc_dir")
                .unwrap_or_else(|| "/etc/gitlab".into()),
            install_dir: section
                .get("install_dir")
                .unwrap_or_else(|| "/opt/gitlab".into()),
            config_command: section
                .get("config_command")
                .unwrap_or_else(|| words("gitlab-ctl backup-etc")),
            data_command: section
                .get("data_command")
                .unwrap_or_else(|| words(engine.default_command())),
            skip: section.get("skip").unwrap_or_default(),
            strategy: section.get("strategy").unwrap_or_default(),
            // Off, because whoever has the room may want the tar beside the copies elsewhere.
            stream: section.get("stream").unwrap_or(false),
            // A big instance on an SD card takes hours, a hanging one for ever.
            timeout: section
                .get("timeout")
                .unwrap_or(Span(Duration::from_hours(6)))
                .0,
            nice: section.get("nice").unwrap_or(10),
            ionice: section.get("ionice").unwrap_or_default(),
        };
        // It is moved beside itself.
        if !settings.etc_dir.is_absolute() || settings.etc_dir.file_name().is_none() {
            section.fault("etc_dir", "takes an absolute path, like \"/etc/gitlab\"");
        }
        for (key, command) in [
            ("config_command", &settings.config_command),
            ("data_command", &settings.data_command),
        ] {
            if command.first().is_none_or(String::is_empty) {
                section.fault(
                    key,
                    "takes a program and its arguments, like [\"gitlab-ctl\", \"backup-etc\"]",
                );
            }
        }
        if engine == Engine::GitlabBackupCli {
            for (key, is_set) in [
                ("skip", !settings.skip.is_empty()),
                ("strategy", !settings.strategy.is_empty()),
                ("stream", settings.stream),
            ] {
                if is_set {
                    section.fault(
                        key,
                        "is not for the engine `gitlab-backup-cli`, which has no such option: \
                         leave it out, or set `engine = \"gitlab-backup\"`",
                    );
                }
            }
        }
        if settings.skip.iter().any(|part| part == "tar") {
            section.fault(
                "skip",
                "`tar` would leave no archive to send; to send the parts themselves, set `stream = true`",
            );
        }
        // GitLab neither trims the words nor takes blanks between them.
        let is_word = |part: &String| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        };
        if !settings.skip.iter().all(is_word) {
            section.fault(
                "skip",
                "takes GitLab's names of parts, like [\"registry\", \"artifacts\"]",
            );
        }
        if !["", "copy"].contains(&settings.strategy.as_str()) {
            section.fault("strategy", "takes \"copy\" or nothing");
        }
        if settings.nice > 19 {
            section.fault("nice", "takes 0 to 19");
        }
        settings
    }

    /// Where archives of a kind appear.
    pub fn folder(&self, kind: ArchiveKind) -> &Path {
        match kind {
            ArchiveKind::Config => &self.config_dir,
            ArchiveKind::Data => &self.data_dir,
        }
    }

    /// Whether GitLab copies what it packs first.
    pub fn copies_first(&self) -> bool {
        self.strategy == "copy"
    }

    fn command(&self, kind: ArchiveKind) -> Vec<String> {
        match kind {
            ArchiveKind::Config => self.config_command.clone(),
            ArchiveKind::Data => {
                let mut command = self.data_command.clone();
                // As arguments they reach GitLab through wrappers like `docker exec` too.
                let mut skip = self.skip.clone();
                if self.stream {
                    skip.push("tar".to_owned());
                }
                if !skip.is_empty() {
                    command.push(format!("SKIP={}", skip.join(",")));
                }
                if !self.strategy.is_empty() {
                    command.push(format!("STRATEGY={}", self.strategy));
                }
                command
            }
        }
    }
}

/// Runs the command that makes the archive of `kind`, to its end.
pub async fn make_archive(
    settings: &Settings,
    kind: ArchiveKind,
    stop: &Stop,
) -> Result<(), CommandFailure> {
    let look = format!("is GitLab installed? if it is elsewhere, set `gitlab.{kind}_command`");
    let invocation = Invocation {
        words: &settings.command(kind),
        environment: &BTreeMap::new(),
        priority: Some((settings.nice, settings.ionice)),
        timeout: settings.timeout,
        output: output(match kind {
            // `gitlab-ctl backup-etc` lists files of any name, and ends with tar's status.
            ArchiveKind::Config => |_| false,
            ArchiveKind::Data => lines::tells_of_failure,
        }),
        where_to_look: &look,
    };
    process::run(&invocation, Some(stop)).await
}

/// Runs one of the commands that put a backup back, to its end. `tells_of_failure` judges its lines.
pub async fn run_command(
    settings: &Settings,
    words: &[String],
    environment: &BTreeMap<&'static str, &'static str>,
    tells_of_failure: fn(&str) -> bool,
    stop: &Stop,
) -> Result<(), CommandFailure> {
    let invocation = Invocation {
        words,
        environment,
        priority: None,
        timeout: settings.timeout,
        output: output(tells_of_failure),
        where_to_look: "is GitLab installed?",
    };
    process::run(&invocation, Some(stop)).await
}

fn output(tells_of_failure: fn(&str) -> bool) -> Output {
    Output {
        label: "gitlab",
        plain: lines::plain,
        tells_of_failure,
    }
}

/// The program that makes the archive of `kind`, where it is on this machine; the error is its name.
pub fn program(settings: &Settings, kind: ArchiveKind) -> Result<PathBuf, String> {
    let mut words = settings.command(kind).into_iter();
    let name = words.next().unwrap_or_default();
    find_program(&name).ok_or(name)
}

/// Whether a program is on this machine, where its commands are looked for.
pub fn has_program(name: &str) -> bool {
    find_program(name).is_some()
}

/// Where a program is on this machine: by `PATH`, then where cron does not look but commands may be.
pub fn find_program(name: &str) -> Option<PathBuf> {
    process::find_program(name, &process::search_path())
}
