//! What starts runs by itself: a systemd timer, or a marked block in root's crontab.

mod calendar;
mod crontab;
mod installed;
mod program;
mod units;

pub use crate::schedule::calendar::Calendar;
pub use crate::schedule::installed::installed;

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
