//! What starts jobs by itself: systemd timers, or a marked block in root's crontab.

mod calendar;
mod clock;
mod cron;
mod crontab;
mod ended;
mod files;
mod installed;
mod program;
mod service;
mod systemd;
mod units;

use std::path::{Path, PathBuf};

use chrono::{DateTime, Local, Utc};
use rustix::process::geteuid;
use serde::Serialize;

use crate::job::Job;
use crate::report::{Status, rfc3339_or_null};

pub use crate::schedule::calendar::Calendar;
pub use crate::schedule::clock::await_clock;
pub use crate::schedule::ended::ended;
pub use crate::schedule::installed::{again, installed, of};
pub use crate::schedule::service::Service;

/// Who starts runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Manager {
    /// A timer of systemd.
    Systemd,
    /// Root's crontab.
    Cron,
}

/// Behind a command where there are several jobs: they take turns, and none is given up because another one is long.
const WAIT: &str = " --wait 12h";

/// A schedule of a job that was found on this machine.
#[derive(Clone, Debug)]
pub struct Installed {
    /// What is started.
    pub job: Job,
    /// Who starts it.
    pub manager: Manager,
    /// When.
    pub calendar: Calendar,
    /// Why it would not be started: the timer is not enabled, the program is gone. In words, with the way out.
    pub faults: Vec<String>,
    /// What systemd lets it do; none where cron starts it.
    pub service: Option<Service>,
}

/// A job, and when it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// The job.
    pub job: Job,
    /// When.
    pub calendar: Calendar,
}

/// What is started, and what it needs.
#[derive(Clone, Debug)]
pub struct Order {
    /// The jobs, at least one.
    pub starts: Vec<Start>,
    /// The absolute path of the program.
    pub program: String,
    /// The configuration, if it is not the usual one.
    pub config: Option<String>,
    /// Where the program keeps its own.
    pub state_dir: PathBuf,
    /// What GitLab's commands write to beside `/var/opt/gitlab` and `/var/log/gitlab`.
    pub gitlab_writable: Vec<PathBuf>,
    /// What the program itself writes to beside its state folder.
    pub writable: Vec<PathBuf>,
    /// Secrets that systemd hands over.
    pub credentials: Vec<Credential>,
}

impl Order {
    /// The arguments with which a job is started.
    fn arguments(&self, job: Job) -> String {
        let wait = if self.starts.len() > 1 { WAIT } else { "" };
        format!("{}{wait}", job.command())
    }
}

/// A secret that systemd hands over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// The dotted key of the configuration.
    pub name: String,
    /// The file that holds it.
    pub path: PathBuf,
    /// Whether `systemd-creds encrypt` made it.
    pub is_encrypted: bool,
}

/// What was shown, installed or removed.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Always `schedule`.
    pub command: &'static str,
    /// The outcome.
    pub status: Status,
    /// `show`, `install`, `remove`.
    pub action: &'static str,
    /// Who starts runs; none after they were taken away.
    pub manager: Option<Manager>,
    /// When the first of the jobs is started, in the form of whoever starts it.
    pub calendar: Vec<String>,
    /// The next time.
    #[serde(serialize_with = "rfc3339_or_null")]
    pub next_run: Option<DateTime<Utc>>,
    /// One row for each job.
    pub jobs: Vec<JobReport>,
    /// What was written, or would be.
    pub files: Vec<FileReport>,
    /// Whether anything was.
    pub changed: bool,
    /// What else is to be known, in words.
    pub notes: Vec<String>,
    /// None: what fails has no report.
    pub error: Option<String>,
}

/// A job that is started.
#[derive(Debug, Serialize)]
pub struct JobReport {
    /// Its command.
    pub job: &'static str,
    /// When, in the form of whoever starts it.
    pub calendar: Vec<String>,
    /// The next time.
    #[serde(serialize_with = "rfc3339_or_null")]
    pub next_run: Option<DateTime<Utc>>,
}

/// A file of a schedule.
#[derive(Debug, Serialize)]
pub struct FileReport {
    /// Where it is; `crontab` for root's.
    pub path: String,
    /// What it says of ours; none for one that was taken away.
    pub text: Option<String>,
    /// What happened to it.
    pub change: Change,
}

/// What happened to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It would be written.
    Planned,
    /// It was made or changed.
    Written,
    /// It was so already.
    Unchanged,
    /// It was taken away.
    Removed,
}

/// What `path` is called for root's crontab.
const CRONTAB: &str = "crontab";

impl Report {
    /// Of something that changed nothing.
    pub fn new(action: &'static str) -> Report {
        Report {
            command: "schedule",
            status: Status::Ok,
            action,
            manager: None,
            calendar: Vec::new(),
            next_run: None,
            jobs: Vec::new(),
            files: Vec::new(),
            changed: false,
            notes: Vec::new(),
            error: None,
        }
    }

    fn file(&mut self, path: impl AsRef<Path>, text: Option<String>, change: Change) {
        let path = path.as_ref().display().to_string();
        self.changed |= matches!(change, Change::Written | Change::Removed);
        self.files.push(FileReport { path, text, change });
    }
}

/// Who starts runs on this machine unless somebody else is named. The error says what to do about a machine that
/// has neither.
pub fn usual_manager() -> Result<Manager, String> {
    if installed::has_systemd() {
        Ok(Manager::Systemd)
    } else if installed::has_cron() {
        Ok(Manager::Cron)
    } else {
        Err(
            "this machine runs neither systemd nor a cron that takes a crontab\n  \
             install one (apt install cron), or start `gitlab-pi-backup run` by whatever starts things here"
                .to_owned(),
        )
    }
}

/// What [`install`] would write. `packaged`: the units as a package brings them, wherever this is.
pub fn show(
    order: &Order,
    manager: Manager,
    packaged: bool,
    now: DateTime<Utc>,
) -> Result<Report, String> {
    let mut report = begin("show", order, manager, now)?;
    match manager {
        Manager::Systemd if packaged => {
            for (name, text) in units::units(order, true) {
                let path = Path::new("/usr/lib/systemd/system").join(name);
                report.file(path, Some(text), Change::Planned);
            }
        }
        Manager::Systemd => systemd::show(order, &mut report),
        Manager::Cron => cron::show(order, &mut report)?,
    }
    Ok(report)
}

/// Writes it and switches it on; whatever else of ours started runs is taken away. Doing so twice changes nothing.
pub fn install(order: &Order, manager: Manager, now: DateTime<Utc>) -> Result<Report, String> {
    let mut report = begin("install", order, manager, now)?;
    let never = report.jobs.iter().find(|job| job.next_run.is_none());
    if let Some(never) = never {
        let calendar = never.calendar.join(" and ");
        return Err(format!("{calendar}: no such time comes any more"));
    }
    // Only for a note: what cannot be asked hinders nothing.
    let before = installed().unwrap_or_default();
    match manager {
        Manager::Systemd => {
            systemd::install(order, &mut report)?;
            if installed::has_cron() {
                cron::remove(
                    &mut report,
                    "root's crontab would start runs, too: its block is taken out",
                )?;
            }
        }
        Manager::Cron => {
            cron::install(order, &mut report)?;
            systemd::remove(
                &mut report,
                "the systemd timer would start runs, too: it is taken away",
            )?;
        }
    }
    for before in before {
        let start = order.starts.iter().find(|start| start.job == before.job);
        let other = start.filter(|start| start.calendar != before.calendar);
        if let Some(at) = other.and_then(|_| before.calendar.as_argument()) {
            let (noun, option) = (before.job.noun(), installed::option(before.job));
            report.notes.push(format!(
                "until now {noun}s started at {at}; `schedule install {option} '{at}'` brings that back"
            ));
        }
    }
    Ok(report)
}

/// Takes it away without a trace; none: both.
pub fn remove(manager: Option<Manager>) -> Result<Report, String> {
    let mut report = Report::new("remove");
    if manager != Some(Manager::Cron) {
        systemd::remove(&mut report, "")?;
    }
    if manager != Some(Manager::Systemd) && (installed::has_cron() || manager.is_some()) {
        cron::remove(&mut report, "")?;
    }
    Ok(report)
}

fn begin(
    action: &'static str,
    order: &Order,
    manager: Manager,
    now: DateTime<Utc>,
) -> Result<Report, String> {
    let mut report = Report {
        manager: Some(manager),
        ..Report::new(action)
    };
    for Start { job, calendar } in &order.starts {
        let next = calendar.next_after(&now.with_timezone(&Local));
        report.jobs.push(JobReport {
            job: job.command(),
            calendar: match manager {
                Manager::Systemd => calendar.to_systemd(),
                Manager::Cron => calendar.to_cron()?,
            },
            next_run: next.map(|next| next.with_timezone(&Utc)),
        });
    }
    if let Some(first) = report.jobs.first() {
        report.calendar.clone_from(&first.calendar);
        report.next_run = first.next_run;
    }
    Ok(report)
}

/// What `action`, `install` or `remove`, needs; the error says how it is done.
pub fn must_be_root(action: &str) -> Result<(), String> {
    if geteuid().is_root() {
        return Ok(());
    }
    Err(format!(
        "only root can {action} a schedule\n  sudo gitlab-pi-backup schedule {action}"
    ))
}
