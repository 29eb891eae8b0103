//! The timer: written, switched on, switched off.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::files::{Files, apply, ours, package, refuse_foreign, take_back, wanted};
use super::installed::{Timer, has_systemd};
use super::program::run;
use super::units::TIMER;
use super::{Calendar, Change, Job, Report};

/// Reading all units again takes a while on a small machine.
const LONG: Duration = Duration::from_secs(90);
/// When the timer last fired, for `Persistent=true`: without it a later timer owes nothing.
const STAMP: &str = "/var/lib/systemd/timers/stamp-gitlab-pi-backup.timer";
/// What `systemctl enable` leaves.
const ENABLED: &str = "/etc/systemd/system/timers.target.wants/gitlab-pi-backup.timer";

/// What would be written.
pub(super) fn show(job: &Job, calendar: &Calendar, report: &mut Report) {
    for (path, text) in wanted(job, calendar, package()) {
        report.file(path, text, Change::Planned);
    }
}

/// Writes it and switches it on; if that fails, all is as it was.
pub(super) fn install(job: &Job, calendar: &Calendar, report: &mut Report) -> Result<(), String> {
    if !has_systemd() {
        return Err("systemd does not run this machine\n  schedule install --cron".to_owned());
    }
    refuse_foreign()?;
    let wanted = wanted(job, calendar, package());
    let before = ours();
    let mut files = wanted.clone();
    for path in before.keys() {
        files.entry(path.clone()).or_insert(None);
    }
    let was = |path: &Path| before.get(path).cloned().flatten();
    let is_changed = files.iter().any(|(path, text)| was(path) != *text);
    let is_new_time = files
        .iter()
        .any(|(path, text)| path.to_string_lossy().contains(TIMER) && was(path) != *text);
    apply(&files)?;
    let switched = switch_on(is_changed, is_new_time).map_err(|why| {
        let all: Files = files.keys().map(|path| (path.clone(), was(path))).collect();
        if is_changed {
            take_back(&all);
            // Whatever hinders it was told already.
            let _ = systemctl(&["daemon-reload"]);
        }
        let hint =
            "what was written is taken back; `systemctl status` and `journalctl -b` may tell more";
        format!("{why}\n  {hint}")
    })?;
    for (path, text) in files {
        let change = match (&text, was(&path) == text) {
            (_, true) => Change::Unchanged,
            (Some(_), false) => Change::Written,
            (None, false) => Change::Removed,
        };
        report.file(path, text, change);
    }
    report.changed |= switched;
    Ok(())
}

/// Whether anything had to be done.
fn switch_on(is_changed: bool, is_new_time: bool) -> Result<bool, String> {
    let before = Timer::ask()?;
    if is_changed || before.is_outdated {
        systemctl(&["daemon-reload"])?;
    }
    if !before.is_enabled || !before.is_active {
        systemctl(&["enable", "--now", TIMER]).inspect_err(|_| {
            if !before.is_enabled {
                let _ = systemctl(&["disable", "--now", TIMER]);
            }
        })?;
        return Ok(true);
    }
    if is_new_time {
        // A running timer keeps the time it was waiting for.
        systemctl(&["restart", TIMER])?;
    }
    Ok(is_changed || before.is_outdated)
}

/// Takes it away. `note`: what to say if there was something.
pub(super) fn remove(report: &mut Report, note: &str) -> Result<(), String> {
    let runs = has_systemd();
    let before = ours();
    let is_packaged = package().is_some();
    let timer = if runs { Some(Timer::ask()?) } else { None };
    let is_on = timer.is_some_and(|timer| timer.is_enabled || timer.is_active);
    let is_foreign = refuse_foreign().is_err();
    if before.is_empty() && (!is_on || is_foreign || !is_packaged) {
        if is_on || is_foreign {
            report.notes.push(format!(
                "{TIMER} was not written by this program, and is left as it is"
            ));
        }
        return Ok(());
    }
    if is_on && !is_foreign {
        systemctl(&["disable", "--now", TIMER])?;
    }
    let nothing: Files = before.keys().map(|path| (path.clone(), None)).collect();
    apply(&nothing)?;
    for path in before.into_keys() {
        report.file(path, None, Change::Removed);
    }
    report.changed = true;
    if !runs && fs::symlink_metadata(ENABLED).is_ok() {
        gone(Path::new(ENABLED))?;
    }
    if runs {
        systemctl(&["daemon-reload"])?;
    }
    gone(Path::new(STAMP))?;
    if !note.is_empty() {
        report.notes.push(note.to_owned());
    }
    Ok(())
}

fn gone(path: &Path) -> Result<(), String> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(format!("removing {}: {error}", path.display()))
        }
        _ => Ok(()),
    }
}

fn systemctl(arguments: &[&str]) -> Result<(), String> {
    let ended = run("systemctl", arguments, None, LONG)?;
    if ended.status.success() {
        return Ok(());
    }
    let shown = arguments.join(" ");
    Err(format!("`systemctl {shown}`: {}", ended.why()))
}
