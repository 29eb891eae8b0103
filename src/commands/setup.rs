//! What the commands that work with destinations start from: the configuration, made into parts.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;

use super::{ExitStatus, LOCKED, USAGE};
use crate::archive::ArchiveKind;
use crate::cli::Global;
use crate::config::{self, Config};
use crate::destination::{Destination, Options};
use crate::error::Error;
use crate::gitlab::api::Api;
use crate::gitlab::host;
use crate::guard;
use crate::hooks;
use crate::notify;
use crate::progress::Show;
use crate::projects;
use crate::retention::RetentionPolicy;
use crate::retry::{Patience, SHORT_PATIENCE};
use crate::seal::Encryption;
use crate::state::{LockError, RunLock, StateDir};
use crate::stop::Stop;

/// Why a command did not come about: an exit status, and a message that the caller tells.
pub type Failure = (ExitStatus, String);

/// Where there is nothing that a command for backups could work with.
pub(super) const NO_BACKUPS: &str = "no destination gets backups: `kinds` of each is empty\n  \
     see `kinds` in the configuration; `export projects` brings exports of projects";

/// The parts that the configuration describes.
pub struct Setup {
    /// `[gitlab]`.
    pub gitlab: host::Settings,
    /// `[guard]`.
    pub guard: guard::Settings,
    /// `[hooks]`.
    pub hooks: hooks::Settings,
    /// `[notify]`.
    pub notify: notify::Settings,
    /// `[projects]`, if there is one.
    pub projects: Option<projects::Settings>,
    /// `[retention]`, if there is one.
    pub retention: Option<RetentionPolicy>,
    /// All configured destinations.
    pub destinations: Vec<Destination>,
    /// The names of those that take part.
    pub selected: Vec<String>,
    /// Where the report page is written after each run, if anywhere.
    pub report_file: Option<PathBuf>,
    /// How archives are sent and fetched.
    pub upload: Options,
    /// Lock, journals, history, cache.
    pub state: StateDir,
    /// Who is told how far something is.
    pub show: Show,
    /// Whether the program has been asked to stop.
    pub stop: Stop,
}

impl Setup {
    /// Reads the configuration and checks that it knows the destinations that are `given`.
    pub fn load(global: &Global, given: &[String]) -> Result<(Config, Vec<String>), Failure> {
        let path = config::path(global.config.clone());
        let config = config::load(&path).map_err(|message| (USAGE, message))?;
        let selected = select(&config, given).map_err(|message| (USAGE, message))?;
        Ok((config, selected))
    }

    /// Like [`load`](Setup::load), with all destinations; where there is no file, the environment may be enough.
    pub fn load_or_environment(global: &Global) -> Result<(Config, Vec<String>), Failure> {
        let config = config::load_or_environment(global.config.clone());
        let config = config.map_err(|message| (USAGE, message))?;
        let selected = select(&config, &[]).map_err(|message| (USAGE, message))?;
        Ok((config, selected))
    }

    /// What is encrypted, and to whom, for the commands that store something.
    pub fn encryption(config: &Config) -> Result<Option<Encryption>, Failure> {
        let settings = config.encryption.as_ref();
        let resolved = settings.map(crate::seal::Settings::resolve).transpose();
        resolved.map_err(|message| (USAGE, message))
    }

    /// The client of GitLab's API, for the commands that ask it for something.
    pub fn gitlab_api(config: &Config) -> Result<Api, Failure> {
        match config.gitlab_api.lacking() {
            None => Ok(Api::new(&config.gitlab_api, config.upload.stall_timeout)),
            Some(message) => Err((USAGE, message.to_owned())),
        }
    }

    /// Makes the parts, and carries `operation` out with them on the one I/O thread.
    pub fn carry_out<T>(
        global: &Global,
        (config, selected): (Config, Vec<String>),
        operation: impl AsyncFnOnce(Setup) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        on_the_io_thread(async |stop, processors| {
            let stall = config.upload.stall_timeout;
            let settings = config.destinations.into_iter();
            let destinations =
                settings.map(|settings| Destination::new(settings, stall, processors));
            let setup = Setup {
                gitlab: config.gitlab,
                guard: config.guard,
                hooks: config.hooks,
                notify: config.notify,
                projects: config.projects,
                retention: config.retention,
                destinations: destinations.collect(),
                selected,
                report_file: config.report_file,
                upload: config.upload.options,
                state: StateDir::new(&config.state_dir),
                show: show(global),
                stop,
            };
            operation(setup).await
        })
    }

    /// The destinations that take part.
    pub fn taking_part(&self) -> impl Iterator<Item = &Destination> {
        let selected = |destination: &&Destination| {
            self.selected.iter().any(|name| name == destination.name())
        };
        self.destinations.iter().filter(selected)
    }

    /// All destinations of backups by their names, and the kinds that each gets.
    pub fn known(&self) -> Vec<(String, Vec<ArchiveKind>)> {
        let known = |place: &Destination| (place.name().to_owned(), place.kinds().to_vec());
        let all = self.destinations.iter();
        all.map(known)
            .filter(|(_, kinds)| !kinds.is_empty())
            .collect()
    }

    /// For what somebody waits for in front of a terminal.
    pub fn short_patience(&self) -> Patience {
        Patience::short(self.upload.retry_for)
    }

    /// How long that is.
    pub fn short(&self) -> Duration {
        self.upload.retry_for.min(SHORT_PATIENCE)
    }

    /// Takes the lock that keeps runs apart, waiting for it as long as `wait` says.
    pub async fn lock(&self, wait: Duration) -> Result<RunLock, Failure> {
        let state = &self.state;
        let locked = tokio::select! {
            locked = state.lock(wait) => locked,
            signal = self.stop.requested() => {
                let message = format!("stopped by {} while waiting for the lock", signal.name());
                return Err((signal.exit_status(), message));
            }
        };
        locked.map_err(|error| match error {
            LockError::Held(message) => {
                let hint = "wait for it to end, or let this one wait with --wait 30m";
                (LOCKED, format!("{message}\n  {hint}"))
            }
            LockError::Unusable(error) => {
                let folder = state.path().display();
                let hint = "run as root, or set `state_dir` (or the variable GITLAB_PI_BACKUP_STATE_DIR) to a folder \
                            you may write";
                (
                    1,
                    format!("using the state folder {folder}: {error}\n  {hint}"),
                )
            }
        })
    }
}

/// Whether a destination is not there and need not be; that is told.
pub fn is_passed_over(destination: &Destination, error: &Error) -> bool {
    let passed_over = destination.is_optional() && error.is_absent();
    if passed_over {
        let name = destination.name();
        tracing::warn!("{name} is not there, and need not be (`optional`): {error}");
    }
    passed_over
}

/// Carries `operation` out on the one I/O thread; it is told of signals, and how many processors there are.
pub fn on_the_io_thread<T>(
    operation: impl AsyncFnOnce(Stop, usize) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Hashing takes a processor each, reading a disk; more threads would only take memory.
        .max_blocking_threads(processors + 2)
        .thread_keep_alive(Duration::from_mins(1))
        .build()
        .context("starting the I/O thread")
        .map_err(|error| host_failure(&error))?;
    let result = runtime.block_on(async {
        let stop = Stop::listen()
            .context("listening for signals")
            .map_err(|error| host_failure(&error))?;
        operation(stop, processors).await
    });
    // A read that hangs on a dead disk must not keep the program from ending.
    runtime.shutdown_timeout(Duration::from_millis(200));
    result
}

/// What the machine does not let us do.
fn host_failure(error: &anyhow::Error) -> Failure {
    (1, format!("{error:#}"))
}

/// The names that take part: those given, or all that get backups.
fn select(config: &Config, given: &[String]) -> Result<Vec<String>, String> {
    let known: Vec<_> = config
        .destinations
        .iter()
        .map(|settings| settings.name.clone())
        .collect();
    match given.iter().find(|name| !known.contains(name)) {
        Some(unknown) => Err(format!(
            "no destination is named `{unknown}`\n  the configuration knows: {}",
            known.join(", ")
        )),
        None if given.is_empty() => {
            let all = config.destinations.iter();
            let wanted = all.filter(|settings| settings.gets_backups());
            Ok(wanted.map(|settings| settings.name.clone()).collect())
        }
        None => Ok(given.to_vec()),
    }
}

fn show(global: &Global) -> Show {
    let terminal = io::stderr().is_terminal();
    match (terminal, global.no_progress || global.quiet) {
        (true, false) => Show::Bar,
        (true, true) => Show::Nothing,
        (false, _) => Show::Log,
    }
}
