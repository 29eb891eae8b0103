//! Runs GitLab's commands as root's cron would, and watches what they say.
//!
//! No shell; their own process group, so that a time-out ends all of it; standard input closed; every
//! line to the log, and judged: older versions of GitLab end with 0 although a part of the backup failed.

mod lines;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::archive::ArchiveKind;
use crate::settings::Section;
use crate::stop::Stop;
use crate::units::Span;

/// Between SIGTERM and SIGKILL.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// How long output is awaited after the command ended: something it left behind may hold it open.
const LATE_OUTPUT: Duration = Duration::from_secs(1);
/// The rest of a longer line is passed over, in bytes.
const LONGEST_LINE: usize = 4096;
/// How many lines of each sort a failure shows.
const SHOWN_LINES: usize = 5;

/// Where cron does not look but GitLab's commands may be.
const USUAL_FOLDERS: &str =
    "/opt/gitlab/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Variables that would change the backup behind the configuration's back.
const STEERING: [&str; 11] = [
    "SKIP",
    "STRATEGY",
    "BACKUP",
    "CRON",
    "INCREMENTAL",
    "PREVIOUS_BACKUP",
    "DIRECTORY",
    "REPOSITORIES_STORAGES",
    "REPOSITORIES_PATHS",
    "SKIP_REPOSITORIES_PATHS",
    "REPOSITORIES_SERVER_SIDE",
];
/// Variables that may hold a secret a child has no business with.
const SECRET: [&str; 8] = [
    "CREDENTIALS_DIRECTORY",
    "GITLAB_TOKEN",
    "GITLAB_OAUTH",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "BIGQUERY_SERVICE_ACCOUNT_JSON",
];

/// Which of GitLab's tools makes the data archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// `gitlab-backup create`.
    #[default]
    GitlabBackup,
}

/// How hard the commands may press on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IoPriority {
    /// Only when nobody else wants it.
    #[default]
    Idle,
    /// The lowest of the normal ones.
    BestEffort,
    /// As it is.
    None,
}

/// `[gitlab]`.
#[derive(Clone, Debug)]
pub struct Settings {
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
    timeout: Duration,
    nice: u8,
    ionice: IoPriority,
}

impl Settings {
    /// Reads the section; the defaults are those of a Linux package.
    pub fn read(section: &mut Section<'_>) -> Settings {
        let words = |command: &str| command.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let Engine::GitlabBackup = section.get("engine").unwrap_or_default();
        let settings = Settings {
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
                .unwrap_or_else(|| words("gitlab-backup create")),
            skip: section.get("skip").unwrap_or_default(),
            strategy: section.get("strategy").unwrap_or_default(),
            // A big instance on an SD card takes hours, a hanging one for ever.
            timeout: section
                .get("timeout")
                .unwrap_or(Span(Duration::from_hours(6)))
                .0,
            nice: section.get("nice").unwrap_or(10),
            ionice: section.get("ionice").unwrap_or_default(),
        };
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
        if settings.skip.iter().any(|part| part == "tar") {
            section.fault("skip", "`tar` would leave no archive to send");
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

    fn command(&self, kind: ArchiveKind) -> Vec<String> {
        match kind {
            ArchiveKind::Config => self.config_command.clone(),
            ArchiveKind::Data => {
                let mut command = self.data_command.clone();
                // As arguments they reach GitLab through wrappers like `docker exec` too.
                if !self.skip.is_empty() {
                    command.push(format!("SKIP={}", self.skip.join(",")));
                }
                if !self.strategy.is_empty() {
                    command.push(format!("STRATEGY={}", self.strategy));
                }
                command
            }
        }
    }
}

/// How a command failed, although it may have made an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandFailure {
    /// For the report: what was run, what came back, what to do.
    pub message: String,
    /// For the archive's doubts: the same in one line.
    pub doubt: String,
}

/// Runs the command that makes the archive of `kind`, to its end.
pub async fn make_archive(
    settings: &Settings,
    kind: ArchiveKind,
    stop: &Stop,
) -> Result<(), CommandFailure> {
    let command = settings.command(kind);
    let shown = command.join(" ");
    let fail = |doubt: String, hint: &str| {
        let message = format!("running `{shown}`: {doubt}{hint}");
        Err(CommandFailure {
            message,
            doubt: format!("`{shown}` {doubt}"),
        })
    };
    let path = search_path();
    let Some(program) = find_program(&command[0], &path) else {
        return fail(
            "it is not on this machine".to_owned(),
            &format!("\n  is GitLab installed? if it is elsewhere, set `gitlab.{kind}_command`"),
        );
    };
    let words = prioritised(settings, program, &command[1..], &path);
    let mut child = match prepared(&words, &path).spawn() {
        Ok(child) => child,
        Err(error) => return fail(format!("it cannot be started: {error}"), ""),
    };
    tracing::info!("running `{shown}`");
    let group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
    let (sender, receiver) = mpsc::channel(64);
    let readers = [
        child
            .stdout
            .take()
            .map(|pipe| tokio::spawn(read_lines(pipe, sender.clone()))),
        child
            .stderr
            .take()
            .map(|pipe| tokio::spawn(read_lines(pipe, sender))),
    ];
    let listening = tokio::spawn(listen(receiver, kind));
    let deadline = Instant::now() + settings.timeout;
    let ended = tokio::select! {
        status = timeout_at(deadline, child.wait()) => status.map_err(|_| format!("took longer than {}", Span(settings.timeout))),
        signal = stop.requested() => Err(format!("was stopped by {}", signal.name())),
    };
    let ended = match ended {
        Ok(status) => status.map_err(|error| format!("cannot be waited for: {error}")),
        Err(reason) => {
            group.end(&mut child).await;
            Err(reason)
        }
    };
    for reader in readers.into_iter().flatten() {
        let abort = reader.abort_handle();
        if timeout(LATE_OUTPUT, reader).await.is_err() {
            abort.abort();
        }
    }
    let heard = listening.await.unwrap_or_default();
    match ended {
        Err(reason) => fail(reason, &heard.shown()),
        Ok(status) if !status.success() => fail(describe(status), &heard.shown()),
        Ok(_) if !heard.failures.is_empty() => fail(
            "ended with exit status 0, but reported a failure".to_owned(),
            &heard.shown(),
        ),
        Ok(_) => Ok(()),
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit status {code}"),
        (None, Some(signal)) => {
            let name = Signal::from_named_raw(signal)
                .map(|signal| format!(" ({signal:?})"))
                .unwrap_or_default();
            format!("was killed by signal {signal}{name}")
        }
        (None, None) => "ended without a status".to_owned(),
    }
}

/// The process group of a command.
struct Group(Option<Pid>);

impl Group {
    /// Asks all of it to end, and makes what is still there after [`LAST_WORDS`].
    async fn end(&self, child: &mut Child) {
        self.signal(Signal::TERM);
        let deadline = Instant::now() + LAST_WORDS;
        while Instant::now() < deadline && (matches!(child.try_wait(), Ok(None)) || self.is_alive())
        {
            sleep(Duration::from_millis(50)).await;
        }
        self.signal(Signal::KILL);
        // Not for ever: a process that waits for a dead disk cannot be ended.
        let _ = timeout(LAST_WORDS, child.wait()).await;
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.0 {
            // It may have ended already.
            let _ = kill_process_group(pid, signal);
        }
    }

    /// Whether a process of it is left that has not ended.
    fn is_alive(&self) -> bool {
        self.0
            .is_some_and(|pid| test_kill_process_group(pid).is_ok())
    }
}

/// What of a command's output is worth showing.
#[derive(Default)]
struct Heard {
    failures: Vec<String>,
    last: VecDeque<String>,
}

impl Heard {
    /// Indented lines for a message: those that tell of a failure, else the last ones.
    fn shown(&self) -> String {
        let lines: Vec<_> = if self.failures.is_empty() {
            self.last.iter().collect()
        } else {
            self.failures.iter().collect()
        };
        lines
            .into_iter()
            .fold(String::new(), |text, line| text + "\n  | " + line)
    }
}

/// Logs and judges every line until the output ends.
async fn listen(mut lines: mpsc::Receiver<String>, kind: ArchiveKind) -> Heard {
    let mut heard = Heard::default();
    while let Some(raw) = lines.recv().await {
        let line = lines::plain(&raw);
        // `gitlab-ctl backup-etc` lists files of any name, and ends with tar's status.
        if kind == ArchiveKind::Data && lines::tells_of_failure(&line) {
            tracing::warn!("gitlab: {line}");
            if heard.failures.len() < SHOWN_LINES {
                heard.failures.push(line.clone());
            }
        } else {
            tracing::debug!("gitlab: {line}");
        }
        if !line.is_empty() {
            heard.last.push_back(line);
            if heard.last.len() > SHOWN_LINES {
                heard.last.pop_front();
            }
        }
    }
    heard
}

/// Splits output into lines of bounded length.
async fn read_lines(pipe: impl AsyncRead + Unpin, lines: mpsc::Sender<String>) {
    let mut reader = BufReader::new(pipe);
    let mut line = Vec::new();
    while let Ok(buffer) = reader.fill_buf().await {
        if buffer.is_empty() {
            break;
        }
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let part = &buffer[..end.unwrap_or(buffer.len())];
        line.extend_from_slice(&part[..part.len().min(LONGEST_LINE - line.len())]);
        let consumed = part.len() + usize::from(end.is_some());
        if end.is_some() {
            let text = String::from_utf8_lossy(&line).into_owned();
            line.clear();
            if lines.send(text).await.is_err() {
                break;
            }
        }
        reader.consume(consumed);
    }
    if !line.is_empty() {
        let _ = lines
            .send(String::from_utf8_lossy(&line).into_owned())
            .await;
    }
}

/// The inherited `PATH`, and the folders where GitLab's commands are.
fn search_path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    if !path.is_empty() {
        path.push(":");
    }
    path.push(USUAL_FOLDERS);
    path
}

fn find_program(name: &str, path: &OsString) -> Option<PathBuf> {
    let is_program = |path: &PathBuf| {
        path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
    };
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(is_program);
    }
    std::env::split_paths(path)
        .map(|folder| folder.join(name))
        .find(is_program)
}

/// Lets `nice` and `ionice`, where they are, start the program; each becomes it, so it keeps its process.
fn prioritised(
    settings: &Settings,
    program: PathBuf,
    arguments: &[String],
    path: &OsString,
) -> Vec<OsString> {
    let mut words = Vec::new();
    let mut wrap = |wrapper: &str, options: &[&str]| {
        if let Some(wrapper) = find_program(wrapper, path) {
            words.push(wrapper.into_os_string());
            words.extend(options.iter().map(OsString::from));
        }
    };
    if settings.nice > 0 {
        wrap("nice", &["-n", &settings.nice.to_string()]);
    }
    match settings.ionice {
        IoPriority::Idle => wrap("ionice", &["-t", "-c", "3"]),
        IoPriority::BestEffort => wrap("ionice", &["-t", "-c", "2", "-n", "7"]),
        IoPriority::None => {}
    }
    words.push(program.into_os_string());
    words.extend(arguments.iter().map(OsString::from));
    words
}

fn prepared(words: &[OsString], path: &OsString) -> Command {
    let mut command = Command::new(&words[0]);
    command
        .args(&words[1..])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .env("PATH", path);
    for (name, value) in std::env::vars_os() {
        let text = name.to_string_lossy();
        // A proxy's address may hold a password.
        let password =
            text.to_ascii_lowercase().ends_with("_proxy") && value.to_string_lossy().contains('@');
        let removed = text.starts_with(crate::settings::ENV_PREFIX)
            || STEERING.contains(&&*text)
            || SECRET.contains(&&*text)
            || password;
        if removed {
            command.env_remove(&name);
        }
    }
    if std::env::var_os("HOME").is_none() {
        command.env("HOME", "/root");
    }
    command
}
