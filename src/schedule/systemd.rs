//! The timer: written, switched on, switched off.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::files::{Files, apply, ours, package, refuse_foreign, take_back, wanted};
use super::installed::{Timer, has_systemd};
use super::program::run;
use super::units::timer_of;
use super::{Change, Order, Report};
use crate::job::Job;

/// Reading all units again takes a while on a small machine.
const LONG: Duration = Duration::from_secs(90);
/// When the timer of a job last fired, for `Persistent=true`: without it a later timer owes nothing.
fn stamp(job: Job) -> String {
    format!("/var/lib/systemd/timers/stamp-{}", timer_of(job))
}

/// What `systemctl enable` leaves.
fn enabled(job: Job) -> String {
    format!("/etc/systemd/system/timers.target.wants/{}", timer_of(job))
}

/// What would be written.
pub(super) fn show(order: &Order, report: &mut Report) {
    for (path, text) in wanted(order, package()) {
        report.file(path, text, Change::Planned);
    }
}

/// Writes it and switches it on; if that fails, all is as it was.
pub(super) fn install(order: &Order, report: &mut Report) -> Result<(), String> {
    if !has_systemd() {
        return Err("systemd does not run this machine\n  schedule install --cron".to_owned());
    }
    refuse_foreign()?;
    let wanted = wanted(order, package());
    let before = ours();
    let mut files = wanted.clone();
    for path in before.keys() {
        files.entry(path.clone()).or_insert(None);
    }
    let was = |path: &Path| before.get(path).cloned().flatten();
    let is_changed = files.iter().any(|(path, text)| was(path) != *text);
    let is_new_time = |job: Job| {
        let timer = timer_of(job);
        let mut files = files.iter();
        files.any(|(path, text)| path.to_string_lossy().contains(&timer) && was(path) != *text)
    };
    // What is no longer wanted is switched off while systemd still knows it.
    let mut switched = switch_off_others(order)?;
    apply(&files)?;
    switched |= switch_on(order, is_changed, is_new_time).map_err(|why| {
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

/// Whether a timer of ours was on whose job is no longer to be started.
fn switch_off_others(order: &Order) -> Result<bool, String> {
    let mut any = false;
    let wanted = |job: &Job| order.starts.iter().any(|start| start.job == *job);
    for job in Job::ALL.into_iter().filter(|job| !wanted(job)) {
        if Timer::ask(job)?.is_on() {
            systemctl(&["disable", "--now", &timer_of(job)])?;
            gone(Path::new(&stamp(job)))?;
            any = true;
        }
    }
    Ok(any)
}

/// Whether anything had to be done. If it cannot be, what was off before is off.
fn switch_on(
    order: &Order,
    is_changed: bool,
    is_new_time: impl Fn(Job) -> bool,
) -> Result<bool, String> {
    let jobs = order.starts.iter().map(|start| start.job);
    let mut before = Vec::new();
    for job in jobs {
        before.push((job, Timer::ask(job)?));
    }
    let is_outdated = before.iter().any(|(_, timer)| timer.is_outdated);
    if is_changed || is_outdated {
        systemctl(&["daemon-reload"])?;
    }
    let mut switched = is_changed || is_outdated;
    let mut new = Vec::new();
    for (job, timer) in before {
        let name = timer_of(job);
        if !timer.is_enabled {
            new.push(name.clone());
        }
        if !timer.is_enabled || !timer.is_active {
            systemctl(&["enable", "--now", &name]).inspect_err(|_| {
                for name in &new {
                    let _ = systemctl(&["disable", "--now", name]);
                }
            })?;
            switched = true;
        } else if is_new_time(job) {
            // A running timer keeps the time it was waiting for.
            systemctl(&["restart", &name])?;
        }
    }
    Ok(switched)
}

/// Takes it away. `note`: what to say if there was something.
pub(super) fn remove(report: &mut Report, note: &str) -> Result<(), String> {
    let runs = has_systemd();
    let before = ours();
    let is_packaged = package().is_some();
    let mut on = Vec::new();
    for job in Job::ALL.into_iter().filter(|_| runs) {
        if Timer::ask(job)?.is_on() {
            on.push(timer_of(job));
        }
    }
    let is_foreign = refuse_foreign().is_err();
    if before.is_empty() && (on.is_empty() || is_foreign || !is_packaged) {
        if !on.is_empty() || is_foreign {
            let timer = on.into_iter().next();
            report.notes.push(format!(
                "{} was not written by this program, and is left as it is",
                timer.unwrap_or_else(|| timer_of(Job::Run))
            ));
        }
        return Ok(());
    }
    for timer in on.iter().filter(|_| !is_foreign) {
        systemctl(&["disable", "--now", timer])?;
    }
    let nothing: Files = before.keys().map(|path| (path.clone(), None)).collect();
    apply(&nothing)?;
    for path in before.into_keys() {
        report.file(path, None, Change::Removed);
    }
    report.changed = true;
    for job in Job::ALL {
        let enabled = enabled(job);
        if !runs && fs::symlink_metadata(&enabled).is_ok() {
            gone(Path::new(&enabled))?;
        }
    }
    if runs {
        systemctl(&["daemon-reload"])?;
    }
    for job in Job::ALL {
        gone(Path::new(&stamp(job)))?;
    }
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
