//! What starts runs by itself: a systemd timer, or a marked block in root's crontab.

use chrono::{DateTime, Local};

/// When runs start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calendar;

/// Who starts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
}

impl Calendar {
    /// The next time after `now`, in local time; none if there is no such time.
    pub fn next_after(&self, _now: &DateTime<Local>) -> Option<DateTime<Local>> {
        None
    }
}

/// The schedule of this machine, if it has one. The error says what could not be asked.
pub fn installed() -> Result<Option<Installed>, String> {
    Ok(None)
}
