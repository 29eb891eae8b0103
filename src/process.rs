//! One command, run to its end: no shell; its own process group, so that a time-out ends all of it; standard
//! input closed; every line to the log, and judged.

pub mod git;

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::stop::{Stop, StopSignal};
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

/// How hard a command may press on the disk.
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

/// How a command failed, although it may have made an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandFailure {
    /// For the report: what was run, what came back, what to do.
    pub message: String,
    /// For the archive's doubts: the same in one line.
    pub doubt: String,
    /// Whether only its own words tell of it: its exit status was 0.
    pub ended_well: bool,
}

/// How the output of a command is read.
#[derive(Clone, Copy)]
pub struct Output {
    /// Whose it is, before each line in the log.
    pub label: &'static str,
    /// A line as it is judged and shown.
    pub plain: fn(&str) -> String,
    /// Whether such a line means that the command failed, whatever its exit status says.
    pub tells_of_failure: fn(&str) -> bool,
}

/// What is run, and how.
pub struct Invocation<'a> {
    /// The program and its arguments.
    pub words: &'a [String],
    /// Variables it gets beside the inherited ones.
    pub environment: &'a BTreeMap<&'a str, &'a str>,
    /// How little it presses on processor and disk; nothing where somebody waits for it.
    pub priority: Option<(u8, IoPriority)>,
    /// It is ended when it takes longer.
    pub timeout: Duration,
    /// How its output is read.
    pub output: Output,
    /// What to do where it is not on this machine.
    pub where_to_look: &'a str,
}

/// Runs a command to its end; a signal ends it, too, if somebody listens for one.
pub async fn run(invocation: &Invocation<'_>, stop: Option<&Stop>) -> Result<(), CommandFailure> {
    let shown = invocation.words.join(" ");
    let failure = |doubt: String, hint: &str| CommandFailure {
        message: format!("running `{shown}`: {doubt}{hint}"),
        doubt: format!("`{shown}` {doubt}"),
        ended_well: false,
    };
    let fail = |doubt, hint: &str| Err(failure(doubt, hint));
    let path = search_path();
    let Some(program) = find_program(&invocation.words[0], &path) else {
        return fail(
            "it is not on this machine".to_owned(),
            &format!("\n  {}", invocation.where_to_look),
        );
    };
    let words = prioritised(invocation, program, &path);
    let mut command = prepared(&words, &path);
    command.envs(invocation.environment);
    let mut child = match command.spawn() {
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
    let listening = tokio::spawn(listen(receiver, invocation.output));
    let deadline = Instant::now() + invocation.timeout;
    let ended = tokio::select! {
        status = timeout_at(deadline, child.wait()) => {
            status.map_err(|_| format!("took longer than {}", Span(invocation.timeout)))
        }
        signal = requested(stop) => Err(format!("was stopped by {}", signal.name())),
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
        Ok(_) if !heard.failures.is_empty() => {
            let doubt = "ended with exit status 0, but reported a failure".to_owned();
            Err(CommandFailure {
                ended_well: true,
                ..failure(doubt, &heard.shown())
            })
        }
        Ok(_) => Ok(()),
    }
}

async fn requested(stop: Option<&Stop>) -> StopSignal {
    match stop {
        Some(stop) => stop.requested().await,
        None => std::future::pending().await,
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
async fn listen(mut lines: mpsc::Receiver<String>, output: Output) -> Heard {
    let label = output.label;
    let mut heard = Heard::default();
    let mut aborted = false;
    while let Some(raw) = lines.recv().await {
        let line = (output.plain)(&raw);
        // What rake was aborted by stands in the line behind.
        let tells = (output.tells_of_failure)(&line) || aborted && !line.is_empty();
        aborted = tells && line == "rake aborted!";
        if tells {
            tracing::warn!("{label}: {line}");
            if heard.failures.len() < SHOWN_LINES {
                heard.failures.push(line.clone());
            }
        } else {
            tracing::debug!("{label}: {line}");
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

/// A line without colours and what else would steer a terminal.
pub fn without_colours(line: &str) -> String {
    let mut text = String::new();
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' && chars.next_if_eq(&'[').is_some() {
            // A control sequence ends in a letter or another sign from `@` on.
            while chars.next_if(|c| !('@'..='~').contains(c)).is_some() {}
            chars.next();
        } else if !c.is_control() || c == '\t' {
            text.push(c);
        }
    }
    text.trim().to_owned()
}

/// The inherited `PATH`, and the folders where GitLab's commands are.
pub fn search_path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    if !path.is_empty() {
        path.push(":");
    }
    path.push(USUAL_FOLDERS);
    path
}

/// Where a program is: at its path, or in the first folder of `path` that has it.
pub fn find_program(name: &str, path: &OsString) -> Option<PathBuf> {
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
fn prioritised(invocation: &Invocation<'_>, program: PathBuf, path: &OsString) -> Vec<OsString> {
    let mut words = Vec::new();
    let mut wrap = |wrapper: &str, options: &[&str]| {
        if let Some(wrapper) = find_program(wrapper, path) {
            words.push(wrapper.into_os_string());
            words.extend(options.iter().map(OsString::from));
        }
    };
    let (nice, ionice) = invocation.priority.unwrap_or((0, IoPriority::None));
    if nice > 0 {
        wrap("nice", &["-n", &nice.to_string()]);
    }
    match ionice {
        IoPriority::Idle => wrap("ionice", &["-t", "-c", "3"]),
        IoPriority::BestEffort => wrap("ionice", &["-t", "-c", "2", "-n", "7"]),
        IoPriority::None => {}
    }
    words.push(program.into_os_string());
    words.extend(invocation.words[1..].iter().map(OsString::from));
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
