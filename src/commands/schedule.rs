//! `schedule`

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, Local, Utc};

use super::setup::{Failure, Setup};
use super::{ExitStatus, USAGE, tell};
use crate::cli::Global;
use crate::cli::upkeep::{ScheduleArgs, ScheduleCommand};
use crate::config::{self, Config};
use crate::destination::{self, Destination, Settings};
use crate::gitlab::host;
use crate::job::Job;
use crate::notify;
use crate::schedule::{
    Calendar, Change, Credential, Manager, Order, Report, Start, await_clock, install,
    must_be_root, remove, show, usual_manager,
};
use crate::settings::{ENV_CONFIG, ENV_PREFIX};
use crate::units::Span;

/// So long, at most, for a clock that is right.
const LONGEST_WAIT: Duration = Duration::from_mins(3);
/// Where a package puts the program.
const PACKAGED: &str = "/usr/bin/gitlab-pi-backup";

/// Shows, installs or removes what starts runs.
pub fn run(global: &Global, arguments: &ScheduleCommand) -> Result<ExitStatus, Failure> {
    let now = Utc::now();
    let report = match arguments {
        ScheduleCommand::Show(arguments) => {
            let times = Times::of(arguments)?;
            let manager = manager(arguments, &times)?;
            let order = order(global, arguments, times, false)?;
            show(&order, manager, arguments.packaged, now)
        }
        ScheduleCommand::Install(arguments) => {
            let times = Times::of(arguments)?;
            must_be_root("install").map_err(host_failure)?;
            let manager = manager(arguments, &times)?;
            let order = order(global, arguments, times, true)?;
            install(&order, manager, now).map(|mut report| {
                report.notes.extend(notes(&order, manager));
                report
            })
        }
        ScheduleCommand::Remove(arguments) => {
            let only = match (arguments.systemd, arguments.cron) {
                (true, _) => Some(Manager::Systemd),
                (_, true) => Some(Manager::Cron),
                _ => None,
            };
            must_be_root("remove").map_err(host_failure)?;
            remove(only)
        }
        ScheduleCommand::AwaitClock => {
            match await_clock(LONGEST_WAIT) {
                Some(true) => {}
                Some(false) => tracing::warn!(
                    "nothing has set the clock within {}; going on",
                    Span(LONGEST_WAIT)
                ),
                None => tracing::info!("whether the clock is set cannot be asked; going on"),
            }
            Ok(Report::new("await_clock"))
        }
    };
    let report = report.map_err(host_failure)?;
    tell(global, &report, || text(&report, now));
    Ok(0)
}

/// What the machine does not let us do.
fn host_failure(message: String) -> Failure {
    (1, message)
}

/// When jobs start, as the arguments say.
struct Times {
    runs: Calendar,
    /// None: as the runs, but later.
    projects: Option<Calendar>,
}

impl Times {
    fn of(arguments: &ScheduleArgs) -> Result<Times, Failure> {
        let parse = |option: &str, text: &str| {
            Calendar::parse(text).map_err(|why| (USAGE, format!("{option} {why}")))
        };
        let projects = arguments.projects_at.as_deref();
        Ok(Times {
            runs: parse("--at", &arguments.at)?,
            projects: projects
                .map(|text| parse("--projects-at", text))
                .transpose()?,
        })
    }

    /// The jobs that the configuration has something to do for.
    fn starts(self, config: &Config) -> Result<Vec<Start>, Failure> {
        let mut kinds = config.destinations.iter().flat_map(Settings::kinds);
        let exports = config.projects.is_some();
        if self.projects.is_some() && !exports {
            let message = "--projects-at: no project is exported\n  \
                           name some in [projects], as config.example.toml shows";
            return Err((USAGE, message.to_owned()));
        }
        let wanted = |job: &Job| match job {
            // A machine that only exports projects makes no backups.
            Job::Run => !exports || kinds.next().is_some(),
            Job::Projects => exports,
        };
        let later = self.projects.unwrap_or_else(|| self.runs.later());
        let calendar = |job: Job| match job {
            Job::Run => self.runs.clone(),
            Job::Projects => later.clone(),
        };
        let jobs: Vec<_> = Job::ALL.into_iter().filter(wanted).collect();
        let starts = jobs.into_iter().map(|job| Start {
            job,
            calendar: calendar(job),
        });
        Ok(starts.collect())
    }
}

/// Who starts jobs: as the arguments say, or as is usual here.
fn manager(arguments: &ScheduleArgs, times: &Times) -> Result<Manager, Failure> {
    let manager = match (arguments.systemd || arguments.packaged, arguments.cron) {
        (true, _) => Manager::Systemd,
        (_, true) => Manager::Cron,
        _ => usual_manager().map_err(host_failure)?,
    };
    if manager == Manager::Cron {
        let all = [
            ("--at", Some(&times.runs)),
            ("--projects-at", times.projects.as_ref()),
        ];
        for (option, calendar) in all {
            let lines = calendar.map(Calendar::to_cron).transpose();
            lines.map_err(|why| (USAGE, format!("{option} {why}")))?;
        }
    }
    Ok(manager)
}

/// What is started, from the configuration; what is only shown needs none yet.
fn order(
    global: &Global,
    arguments: &ScheduleArgs,
    times: Times,
    is_needed: bool,
) -> Result<Order, Failure> {
    let given = config::path(global.config.clone());
    let path = std::path::absolute(&given).unwrap_or(given);
    let is_default = path == Path::new(config::DEFAULT_PATH);
    let there = fs::File::open(&path).map_err(|error| error.kind());
    let config = match there {
        _ if arguments.packaged => config::defaults(),
        // Runs are not what somebody wants to have started whose environment tells of exports.
        Err(io::ErrorKind::NotFound)
            if is_default && !is_needed && !config::is_in_environment() =>
        {
            config::defaults()
        }
        Err(io::ErrorKind::PermissionDenied) if is_default && !is_needed => {
            tracing::warn!(
                "{} can only be read by root: this is what would be written without it",
                path.display()
            );
            config::defaults()
        }
        _ => config::load(&path).map_err(|message| (USAGE, message))?,
    };
    let program = match &arguments.program {
        Some(program) => program.clone(),
        None if arguments.packaged => PACKAGED.into(),
        None => std::env::current_exe()
            .map_err(|error| (1, format!("asking where this program is: {error}")))?,
    };
    let text = |path: &Path| {
        let text = path.to_str().filter(|text| !text.contains('\n'));
        let why = format!(
            "{}: such a path cannot be written into a schedule",
            path.display()
        );
        text.map(str::to_owned).ok_or((1, why))
    };
    let folder = path.parent().unwrap_or(Path::new("/"));
    Ok(Order {
        starts: times.starts(&config)?,
        program: text(&program)?,
        config: if is_default || arguments.packaged {
            None
        } else {
            Some(text(&path)?)
        },
        gitlab_writable: if arguments.packaged {
            gitlab_writable(&config.gitlab)
        } else {
            with_targets(gitlab_writable(&config.gitlab))
        },
        writable: with_targets(writable(
            &config.notify,
            config.report_file.as_deref(),
            config
                .destinations
                .iter()
                .filter_map(destination::Settings::local_root),
        )),
        credentials: if arguments.packaged {
            Vec::new()
        } else {
            credentials(folder)
        },
        state_dir: config.state_dir,
    })
}

/// Where a run writes for others: their folders, since it replaces files whole, and destinations that are folders
/// of this machine.
fn writable<'a>(
    notify: &'a notify::Settings,
    report_file: Option<&'a Path>,
    roots: impl Iterator<Item = &'a Path>,
) -> Vec<PathBuf> {
    let files = [notify.metrics_file.as_deref(), report_file];
    let folders = files.into_iter().flatten().filter_map(|file| file.parent());
    folders.chain(roots).map(Path::to_owned).collect()
}

/// Where GitLab's commands put archives, with the folder they make if it is missing, and their lock.
fn gitlab_writable(gitlab: &host::Settings) -> Vec<PathBuf> {
    let above = gitlab.config_dir.parent();
    let above = above.filter(|folder| folder.parent().is_some());
    vec![
        above.unwrap_or(&gitlab.config_dir).to_owned(),
        gitlab.config_dir.clone(),
        gitlab.data_dir.clone(),
        gitlab.install_dir.join("embedded/service/gitlab-rails/tmp"),
    ]
}

/// Every folder that a job writes to.
pub(super) fn written(setup: &Setup, job: Job) -> Vec<PathBuf> {
    let mut folders = match job {
        Job::Run => gitlab_writable(&setup.gitlab),
        Job::Projects => Vec::new(),
    };
    folders.extend(writable(
        &setup.notify,
        setup.report_file.as_deref(),
        setup
            .destinations
            .iter()
            .filter_map(Destination::local_root),
    ));
    folders.push(setup.state.path().to_owned());
    folders
}

/// These folders, and those that they are links to: what is writable is decided where a link leads, and the backups
/// of a small machine often lie on a disk of their own.
fn with_targets(mut folders: Vec<PathBuf>) -> Vec<PathBuf> {
    // One that is not there yet leads nowhere.
    let targets: Vec<_> = folders
        .iter()
        .filter_map(|folder| fs::canonicalize(folder).ok())
        .collect();
    folders.extend(targets);
    folders
}

/// Files named by a dotted key of the configuration, in the folders that are for them.
fn credentials(folder: &Path) -> Vec<Credential> {
    let mut found = Vec::new();
    for (name, is_encrypted) in [("credentials", false), ("credentials.encrypted", true)] {
        for entry in fs::read_dir(folder.join(name))
            .into_iter()
            .flatten()
            .flatten()
        {
            let path = entry.path();
            let key = entry.file_name().into_string().unwrap_or_default();
            let is_sign = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            if path.is_file()
                && key.contains('.')
                && !key.starts_with('.')
                && key.chars().all(is_sign)
            {
                found.push(Credential {
                    name: key,
                    path,
                    is_encrypted,
                });
            }
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// What would make a run started by the schedule another one than a run started here.
fn notes(order: &Order, manager: Manager) -> Vec<String> {
    let mut notes = Vec::new();
    let parts = ["/target/debug/", "/target/release/"];
    if parts.iter().any(|part| order.program.contains(part)) {
        notes.push(format!(
            "{} is in a build folder: install it where it stays, and repeat this",
            order.program
        ));
    }
    let hidden = ["/tmp/", "/var/tmp/"];
    let is_hidden = |path: &&str| hidden.iter().any(|folder| path.starts_with(folder));
    let config = order.config.as_deref();
    let state = order.state_dir.to_str();
    let all = [Some(order.program.as_str()), config, state];
    if manager == Manager::Systemd {
        for path in all.into_iter().flatten().filter(is_hidden) {
            notes.push(format!(
                "{path}: the service has a /tmp of its own and does not see it"
            ));
        }
    }
    let variables = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let ours = variables.filter(|name| name.starts_with(ENV_PREFIX) && name != ENV_CONFIG);
    notes.extend(ours.map(|name| {
        format!("{name} is set here, but not for what the schedule starts: write it into the configuration")
    }));
    notes
}

fn text(report: &Report, now: DateTime<Utc>) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail, here and below.
    for file in &report.files {
        let path = &file.path;
        let _ = match (&file.text, file.change) {
            (Some(content), Change::Planned) if path == "crontab" => write!(text, "{content}"),
            (Some(content), Change::Planned) => writeln!(text, "# {path}\n{content}"),
            (_, Change::Written) => writeln!(text, "wrote {}", shown(path)),
            (_, Change::Removed) => writeln!(text, "took away {}", shown(path)),
            (_, Change::Unchanged | Change::Planned) => Ok(()),
        };
    }
    for note in &report.notes {
        let _ = writeln!(text, "note: {note}");
    }
    match (report.action, report.changed) {
        ("install", _) => {}
        ("remove", false) => return text + "there is no schedule to remove\n",
        _ => return text,
    }
    if !report.changed {
        text += "nothing was to be changed\n";
    }
    for job in &report.jobs {
        let Some(next) = job.next_run else { continue };
        let noun = Job::ALL
            .into_iter()
            .find(|known| known.command() == job.job);
        let noun = noun.map_or(job.job, Job::noun);
        let until = (next - now).to_std().unwrap_or_default();
        let _ = writeln!(
            text,
            "{noun}s start at {}; the next one on {}, in {}",
            job.calendar.join(" and "),
            next.with_timezone(&Local).format("%a %Y-%m-%d %H:%M"),
            Span(until)
        );
    }
    text + "how the backups are: sudo gitlab-pi-backup status\n"
}

fn shown(path: &str) -> &str {
    if path == "crontab" {
        "the block in root's crontab"
    } else {
        path
    }
}
