//! `doctor`

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Stdio;
use std::time::Duration;

use chrono::{Local, Utc};
use nix::unistd::{User, geteuid};
use rustix::fs::Mode;
use rustix::process::{Pid, Signal, kill_process, umask};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::notify::EXPORTS;
use super::schedule::written;
use super::setup::{Failure, Setup};
use super::{ExitStatus, complain, fail, print, tell};
use crate::cli::upkeep::DoctorArgs;
use crate::cli::{Global, LogFormat};
use crate::config::{self, Config, DEFAULT_PATH, Look};
use crate::doctor::configuration::{Configuration, Environment, telling};
use crate::doctor::schedule::{Exports, Plan, Target};

use crate::doctor::{Examination, Subject, examine};
use crate::gitlab::api::Api;
use crate::job::Job;
use crate::login;
use crate::notify::{self, reachable, usable};
use crate::schedule::{self, Installed, again};
use crate::stop::{Stop, StopSignal};

/// So long a stopped one may take to delete what it has stored.
const CLEARING: Duration = Duration::from_millis(1500);

/// So long for each of the three steps of reaching one who is told.
const PER_TARGET: Duration = Duration::from_secs(3);

/// Checks everything a run needs.
pub fn run(global: &Global, arguments: &DoctorArgs) -> Result<ExitStatus, Failure> {
    if arguments.as_cron {
        return as_cron(global, arguments);
    }
    // Who may change the folder it lies in matters, too.
    let path = absolute(&config::path(global.config.clone()));
    let Look {
        config,
        unreadable,
        mut faults,
        exposed,
        variables: of_others,
    } = config::look(&path);
    // What stands in the file of recipients keeps a run from beginning as well.
    faults.extend(Setup::encryption(&config).err().map(|(_, message)| message));
    let (given, program) = (variables(global, &of_others), program(global));
    let api = api(&config);
    let (examination, stopped) = Setup::carry_out(global, (config, Vec::new()), async |setup| {
        let now = Utc::now();
        let found = schedule::installed().map(|mut found| {
            let times: Vec<_> = found
                .iter()
                .map(|one| (one.job, one.calendar.clone()))
                .collect();
            let again = again(times.iter().map(|(job, calendar)| (*job, calendar)));
            for one in &mut found {
                let fault = outdated(one, &path, &setup, &again);
                one.faults.extend(fault);
            }
            found
        });
        let plan_of = |found: &Vec<Installed>, job: Job| {
            schedule::of(found, job).map(|one| Plan::of(one, &now.with_timezone(&Local)))
        };
        let exports = Exports {
            is_configured: setup.projects.is_some(),
            plan: found
                .as_ref()
                .ok()
                .and_then(|found| plan_of(found, Job::Projects)),
        };
        let plan = found.map(|found| plan_of(&found, Job::Run));
        let subject = Subject {
            configuration: Configuration {
                path: &path,
                unreadable: unreadable.as_deref(),
                faults: &faults,
                exposed: &exposed,
            },
            environment: Environment {
                given: &given,
                of_shell: arguments.of_shell.as_ref().map(|names| names.0.as_slice()),
            },
            gitlab: &setup.gitlab,
            api: api.as_ref(),
            destinations: &setup.destinations,
            state: &setup.state,
            plan,
            exports,
            path: std::env::var_os("PATH"),
            program: &program,
            offline: arguments.offline,
            stop: &setup.stop,
        };
        let mut examination = pin!(examine(
            &subject,
            all_targets(&setup, arguments.offline),
            now
        ));
        let ended = tokio::select! {
            examination = &mut examination => Some(examination),
            _ = setup.stop.requested() => timeout(CLEARING, examination).await.ok(),
        };
        Ok(match (ended, setup.stop.signal()) {
            (Some(examination), None) => (examination, None),
            (_, signal) => {
                let name = signal.map_or("a signal", StopSignal::name);
                (
                    Examination::stopped(name),
                    signal.map(StopSignal::exit_status),
                )
            }
        })
    })?;
    tell(global, &examination, || examination.text());
    if global.quiet && !global.json {
        for check in examination.failed() {
            let lines = [Some(&check.detail), check.hint.as_ref()];
            let lines: Vec<_> = lines
                .into_iter()
                .flatten()
                .flat_map(|text| text.lines())
                .collect();
            complain(&format!("{}: {}", check.check, lines.join("\n  ")));
        }
    }
    if stopped.is_some() && !global.json {
        complain(examination.error.as_deref().unwrap_or_default());
    }
    let failed = ExitStatus::from(examination.error.is_some());
    Ok(stopped.unwrap_or(failed))
}

/// A fault if the service cannot write what the configuration, changed since, wants it to.
fn outdated(installed: &Installed, path: &Path, setup: &Setup, again: &str) -> Option<String> {
    let config = (path != Path::new(DEFAULT_PATH)).then_some(path);
    let service = installed.service.as_ref()?;
    service.lacks(config, &written(setup, installed.job), again)
}

/// Who is told how a job ended; exports of projects have a health check of their own.
async fn all_targets(setup: &Setup, offline: bool) -> Vec<Target> {
    let exports = setup.projects.as_ref();
    let exports = exports.and_then(|projects| projects.healthcheck.clone());
    let exports = async {
        let settings = setup.notify.healthcheck_alone(exports?);
        Some(targets(&settings, offline).await)
    };
    let (mut all, exports) = tokio::join!(targets(&setup.notify, offline), exports);
    all.extend(exports.into_iter().flatten().map(|target| Target {
        name: EXPORTS.to_owned(),
        ..target
    }));
    all
}

/// Who is told how a run ended, and whether each can be reached.
async fn targets(settings: &notify::Settings, offline: bool) -> Vec<Target> {
    let looks = if offline {
        usable(settings)
    } else {
        // What it takes in all stays below what a destination may take.
        let timeout = settings.timeout.min(PER_TARGET);
        reachable(&notify::Settings {
            timeout,
            ..settings.clone()
        })
        .await
    };
    let looks = looks.into_iter().map(|look| Target {
        name: look.target.as_str().to_owned(),
        reached: look.result,
    });
    looks.collect()
}

/// How the program is called with this configuration, for what comes next.
pub(super) fn program(global: &Global) -> String {
    let path = absolute(&config::path(global.config.clone()));
    login::program((path != Path::new(DEFAULT_PATH)).then_some(&path))
}

/// The names of the variables that change what a run does.
fn variables(global: &Global, of_others: &[String]) -> Vec<String> {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    telling(names, of_others, global.config.is_some())
}

/// GitLab's API, where it is used, or what is missing to ask it.
fn api(config: &Config) -> Option<Result<Api, String>> {
    let is_used = config.projects.is_some() || config.gitlab_api.is_given();
    is_used.then(|| Setup::gitlab_api(config).map_err(|(_, message)| message))
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// This program once more, in the environment that cron gives: almost none, in the home folder, without a terminal.
/// What only this shell has is told by its names.
fn as_cron(global: &Global, arguments: &DoctorArgs) -> Result<ExitStatus, Failure> {
    let failure = |what: &str, error: &io::Error| (1, format!("{what}: {error}"));
    let program =
        std::env::current_exe().map_err(|error| failure("finding this program", &error))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| failure("starting the I/O thread", &error))?;
    // Whatever this shell's is.
    umask(Mode::WGRP | Mode::WOTH);
    runtime.block_on(async {
        let stop = Stop::listen().map_err(|error| failure("listening for signals", &error))?;
        let mut command = Command::new(program);
        // cron names a shell as well; nothing here starts one.
        let home = User::from_uid(geteuid()).ok().flatten();
        let (home, name) = home.map_or(("/".into(), "root".to_owned()), |user| {
            (user.dir, user.name)
        });
        command
            .args(words(global, arguments))
            .env_clear()
            .env("HOME", &home)
            .env("LOGNAME", name)
            .env("PATH", "/usr/bin:/bin")
            .current_dir(if home.is_dir() { &home } else { Path::new("/") })
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = command
            .spawn()
            .map_err(|error| failure("starting this program as cron does", &error))?;
        pass_on(child, &stop, global.json)
            .await
            .map_err(|error| failure("checking as cron does", &error))
    })
}

/// The same options again; paths are no longer relative to where this was called.
fn words(global: &Global, arguments: &DoctorArgs) -> Vec<OsString> {
    let mut words: Vec<OsString> = vec![
        "-c".into(),
        absolute(&config::path(global.config.clone())).into(),
    ];
    words.extend((0..global.verbose).map(|_| "-v".into()));
    let flags = [
        (global.quiet, "-q"),
        (global.json, "--json"),
        (
            matches!(global.log_format, LogFormat::Json),
            "--log-format=json",
        ),
        (global.no_progress, "--no-progress"),
    ];
    words.extend(
        flags
            .iter()
            .filter(|(is_set, _)| *is_set)
            .map(|(_, flag)| flag.into()),
    );
    words.push("doctor".into());
    words.extend(arguments.offline.then(|| "--offline".into()));
    let of_others = config::look(&absolute(&config::path(global.config.clone()))).variables;
    words.push(format!("--of-shell={}", variables(global, &of_others).join(",")).into());
    words
}

/// Passes on what it says while it says it, and the signals that this program gets; its exit status is ours.
async fn pass_on(mut child: Child, stop: &Stop, json: bool) -> io::Result<ExitStatus> {
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let speaking = tokio::spawn(async move {
        let mut spoken = false;
        let out = async {
            if let Some(out) = out {
                spoken = copy(out, print).await;
            }
        };
        let err = async {
            if let Some(err) = err {
                copy(err, |text| {
                    // A closed standard error changes nothing.
                    let _ = io::Write::write_all(&mut io::stderr(), text.as_bytes());
                })
                .await;
            }
        };
        tokio::join!(out, err);
        spoken
    });
    let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let status = tokio::select! {
        status = child.wait() => status?,
        _ = stop.requested() => {
            if let Some(pid) = pid {
                // It may have ended already.
                let _ = kill_process(pid, Signal::TERM);
            }
            child.wait().await?
        }
    };
    let spoken = speaking.await.unwrap_or(true);
    match status.code().and_then(|code| u8::try_from(code).ok()) {
        Some(code) => Ok(code),
        // Nothing it could have caught has ended it.
        None => Ok(fail(
            json && !spoken,
            Some("doctor"),
            1,
            "checking as cron does: the program was killed",
        )),
    }
}

/// Hands on lines as they come; whether there were any.
async fn copy(mut from: impl AsyncRead + Unpin, to: impl Fn(&str)) -> bool {
    let mut waiting = Vec::new();
    let mut buffer = [0; 4096];
    let mut any = false;
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        any = true;
        waiting.extend_from_slice(&buffer[..read]);
        if let Some(end) = waiting.iter().rposition(|byte| *byte == b'\n') {
            let lines: Vec<u8> = waiting.drain(..=end).collect();
            to(&String::from_utf8_lossy(&lines));
        }
    }
    if !waiting.is_empty() {
        to(&String::from_utf8_lossy(&waiting));
    }
    any
}
