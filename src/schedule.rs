//! What starts runs by itself: a systemd timer, or a marked block in root's crontab.

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

use crate::report::{Status, rfc3339_or_null};

pub use crate::schedule::calendar::Calendar;
pub use crate::schedule::clock::await_clock;
pub use crate::schedule::ended::ended;
pub use crate::schedule::installed::{again, installed};
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

/// A schedule that was found on this machine.
#[derive(Clone, Debug)]
pub struct Installed {
    /// Who starts runs.
    pub manager: Manager,
    /// When.
    pub calendar: Calendar,
    /// Why it would not start any: the timer is not enabled, the program is gone. In words, with the way out.
    pub faults: Vec<String>,
    /// What systemd lets the runs do; none where cron starts them.
    pub service: Option<Service>,
}

/// What is started, and what it needs.
#[derive(Clone, Debug)]
pub struct Job {
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
    /// When, in the form of whoever starts them.
    pub calendar: Vec<String>,
    /// The next time.
    #[serde(serialize_with = "rfc3339_or_null")]
    pub next_run: Option<DateTime<Utc>>,
    /// What was written, or would be.
    pub files: Vec<FileReport>,
    /// Whether anything was.
    pub changed: bool,
    /// What else is to be known, in words.
    pub notes: Vec<String>,
    /// None: what fails has no report.
    pub error: Option<String>,
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
    job: &Job,
    calendar: &Calendar,
    manager: Manager,
    packaged: bool,
    now: DateTime<Utc>,
) -> Result<Report, String> {
    let mut report = begin("show", calendar, manager, now)?;
    match manager {
        Manager::Systemd if packaged => {
            for (name, text) in units::units(job, calendar, true) {
                let path = Path::new("/usr/lib/systemd/system").join(name);
                report.file(path, Some(text), Change::Planned);
            }
        }
        Manager::Systemd => systemd::show(job, calendar, &mut report),
        Manager::Cron => cron::show(job, calendar, &mut report)?,
    }
    Ok(report)
}

/// Writes it and switches it on; whatever else of ours started runs is taken away. Doing so twice changes nothing.
pub fn install(
    job: &Job,
    calendar: &Calendar,
    manager: Manager,
    now: DateTime<Utc>,
) -> Result<Report, String> {
    let mut report = begin("install", calendar, manager, now)?;
    if report.next_run.is_none() {
        return Err(format!("{calendar}: no such time comes any more"));
    }
    // Only for a note: what cannot be asked hinders nothing.
    let before = installed().ok().flatten().map(|before| before.calendar);
    match manager {
        Manager::Systemd => {
            systemd::install(job, calendar, &mut report)?;
            if installed::has_cron() {
                cron::remove(
                    &mut report,
                    "root's crontab would start runs, too: its block is taken out",
                )?;
            }
        }
        Manager::Cron => {
            cron::install(job, calendar, &mut report)?;
            systemd::remove(
                &mut report,
                "the systemd timer would start runs, too: it is taken away",
            )?;
        }
    }
    let before = before.filter(|before| before != calendar);
    if let Some(at) = before.and_then(|before| before.as_argument()) {
        report.notes.push(format!(
            "until now runs started at {at}; `schedule install --at '{at}'` brings that back"
        ));
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
    calendar: &Calendar,
    manager: Manager,
    now: DateTime<Utc>,
) -> Result<Report, String> {
    let next = calendar.next_after(&now.with_timezone(&Local));
    Ok(Report {
        manager: Some(manager),
        calendar: match manager {
            Manager::Systemd => calendar.to_systemd(),
            Manager::Cron => calendar.to_cron()?,
        },
        next_run: next.map(|next| next.with_timezone(&Utc)),
        ..Report::new(action)
    })
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
