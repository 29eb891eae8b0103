//! What starts runs, how the last one went, and who is told when one fails: backups that nobody starts, or whose failure
//! nobody hears of, are found out in six months.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Local, Utc};
use rustix::fs::{Access, access};

use super::{Check, Subject};
use crate::history::past::{PastExport, PastRun};
use crate::schedule::{Installed, Manager};
use crate::units::Span;

/// A run that is late by less than this is not: the machine may have been off, or GitLab busy.
const SLACK: Duration = Duration::from_hours(24);
/// Where cron looks for a mail program, whatever its PATH.
const MAIL_FOLDERS: &str = "/usr/sbin:/usr/lib";

/// What starts runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Who.
    pub manager: Manager,
    /// The longest time between two runs.
    pub longest_gap: Option<Duration>,
    /// When the next one starts.
    pub next: Option<DateTime<Local>>,
    /// Why it would not start any, each with the way out.
    pub faults: Vec<String>,
}

impl Plan {
    /// Of what is installed.
    pub fn of(installed: &Installed, now: &DateTime<Local>) -> Plan {
        Plan {
            manager: installed.manager,
            longest_gap: installed.calendar.longest_gap(now),
            next: installed.calendar.next_after(now),
            faults: installed.faults.clone(),
        }
    }
}

/// Exports of projects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exports {
    /// Whether any are to be made.
    pub is_configured: bool,
    /// What starts them.
    pub plan: Option<Plan>,
}

/// Somebody who is told how a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// What it is: `mail`, `webhook`, … Its address may be a secret.
    pub name: String,
    /// What a look at it showed; or why it cannot be reached, and the way out.
    pub reached: Result<String, String>,
}

pub(super) fn checks(
    subject: &Subject<'_>,
    targets: &[Target],
    runs: &[PastRun],
    now: DateTime<Utc>,
) -> Vec<Check> {
    let plan = subject.plan.as_ref().ok().and_then(Option::as_ref);
    let mail = mail_program(subject.path.as_deref());
    let manager = plan.or(subject.exports.plan.as_ref());
    let manager = manager.map(|plan| plan.manager);
    vec![
        schedule(&subject.plan, &subject.exports),
        last_run(runs, plan.and_then(|plan| plan.longest_gap), now),
        notifications(targets, manager),
        mail_system(manager, mail, targets),
    ]
}

fn schedule(plan: &Result<Option<Plan>, String>, exports: &Exports) -> Check {
    const NAME: &str = "schedule";
    const INSTALL: &str = "sudo gitlab-pi-backup schedule install";
    let plan = match plan {
        Err(message) => {
            let mut check = Check::failed(NAME, message);
            check.hint.get_or_insert_with(|| {
                "what do `crontab -l` and `systemctl list-timers` say?".to_owned()
            });
            return check;
        }
        Ok(plan) => plan.as_ref(),
    };
    let by = |plan: &Plan| match plan.manager {
        Manager::Systemd => "a systemd timer",
        Manager::Cron => "root's crontab",
    };
    let mut faults: Vec<String> = Vec::new();
    let plans = [(plan, "run"), (exports.plan.as_ref(), "project export")];
    for (plan, noun) in plans {
        let Some(plan) = plan else { continue };
        faults.extend(plan.faults.iter().cloned());
        if plan.faults.is_empty() && plan.next.is_none() {
            let by = by(plan);
            faults.push(format!(
                "{by} starts no {noun} at any time to come\n  {INSTALL}"
            ));
        }
    }
    match (plan, &exports.plan, exports.is_configured) {
        (Some(_), None, true) => faults.push(format!(
            "nothing starts project exports: the schedule was installed before there was [projects]\n  {INSTALL}"
        )),
        (_, Some(plan), false) => faults.push(format!(
            "{} starts project exports, but there is no [projects]\n  {INSTALL}",
            by(plan)
        )),
        _ => {}
    }
    let next = |plan: &Plan| {
        let next = plan
            .next
            .map(|next| next.format("%a %Y-%m-%d %H:%M").to_string());
        format!("next {}", next.unwrap_or_default())
    };
    together(NAME, faults.iter()).unwrap_or_else(|| match (plan, &exports.plan) {
        (None, None) => Check::skipped(
            NAME,
            "no timer and no crontab entry: runs start by hand alone",
        ),
        (Some(plan), None) => Check::ok(NAME, format!("{}, {}", by(plan), next(plan))),
        (Some(run), Some(export)) => Check::ok(
            NAME,
            format!(
                "{}, {}; project exports {}",
                by(run),
                next(run),
                next(export)
            ),
        ),
        (None, Some(export)) => Check::ok(
            NAME,
            format!("{} for project exports, {}", by(export), next(export)),
        ),
    })
}

/// How the last export of projects went; nothing where none is to be made, and none was.
pub(super) fn last_export(
    exports: &Exports,
    past: &[PastExport],
    now: DateTime<Utc>,
) -> Option<Check> {
    const NAME: &str = "last_export";
    let last = match past.last() {
        None if exports.is_configured => {
            return Some(Check::skipped(NAME, "there was no export of projects yet"));
        }
        last => last.filter(|_| exports.is_configured)?,
    };
    let ended = last.finished_at.or(last.started_at);
    let age = ended.map(|ended| (now - ended).to_std().unwrap_or_default());
    let ago = age.map_or_else(
        || "at an unknown time".to_owned(),
        |age| format!("{} ago", Span(age)),
    );
    if last.status != "ok" {
        let failure = || {
            let failure = last.failures.first()?;
            let why = failure.error.as_deref().unwrap_or("it does not say why");
            Some(format!("{}: {why}", failure.path))
        };
        let error = last.error.clone().or_else(failure);
        let error = error.unwrap_or_else(|| "it does not say why".to_owned());
        let check = Check::failed(NAME, &format!("{}, {ago}: {error}", last.status));
        return Some(match &check.hint {
            Some(_) => check,
            None => check.hint("sudo gitlab-pi-backup export projects -v"),
        });
    }
    let gap = exports.plan.as_ref().and_then(|plan| plan.longest_gap);
    Some(match (age, gap) {
        (Some(age), Some(gap)) if age > gap + SLACK => {
            let what = format!(
                "{ago}, but the schedule starts one at least every {}",
                Span(gap)
            );
            Check::failed(NAME, &what).hint(
                "is what starts it alive? `systemctl list-timers`, `journalctl -u gitlab-pi-backup-projects` or `journalctl -u cron`",
            )
        }
        _ => Check::ok(NAME, format!("ok, {ago}: {} projects", last.counts.all())),
    })
}

fn last_run(runs: &[PastRun], gap: Option<Duration>, now: DateTime<Utc>) -> Check {
    const NAME: &str = "last_run";
    let Some(run) = runs.last() else {
        return Check::skipped(NAME, "there was no run yet");
    };
    let ended = run.finished_at.or(run.started_at);
    let age = ended.map(|ended| (now - ended).to_std().unwrap_or_default());
    let ago = age.map_or_else(
        || "at an unknown time".to_owned(),
        |age| format!("{} ago", Span(age)),
    );
    if run.status != "ok" {
        let error = run
            .error
            .as_deref()
            .or(run.warnings.first().map(String::as_str));
        let error = error.unwrap_or("it does not say why");
        let check = Check::failed(NAME, &format!("{}, {ago}: {error}", run.status));
        return match &check.hint {
            Some(_) => check,
            None => check.hint("sudo gitlab-pi-backup run -v"),
        };
    }
    let id = run.backup_id.as_deref().unwrap_or("no data backup");
    match (age, gap) {
        (Some(age), Some(gap)) if age > gap + SLACK => {
            let what = format!(
                "{ago}, but the schedule starts one at least every {}",
                Span(gap)
            );
            Check::failed(NAME, &what).hint(
                "is what starts it alive? `systemctl list-timers`, `journalctl -u gitlab-pi-backup` or `journalctl -u cron`",
            )
        }
        _ => Check::ok(NAME, format!("ok, {ago}: {id}")),
    }
}

fn notifications(targets: &[Target], manager: Option<Manager>) -> Check {
    const NAME: &str = "notifications";
    if targets.is_empty() {
        return match manager {
            Some(Manager::Systemd) => Check::failed(
                NAME,
                "nobody is told when a run fails: systemd sends no mail",
            )
            .hint("configure [notify], and try it: gitlab-pi-backup notify test"),
            Some(Manager::Cron) => {
                Check::skipped(NAME, "none are configured; cron mails what a run prints")
            }
            None => Check::skipped(NAME, "none are configured"),
        };
    }
    let looks: Vec<_> = targets
        .iter()
        .map(|target| (&target.name, &target.reached))
        .collect();
    let failed = looks
        .iter()
        .filter_map(|(_, reached)| reached.as_ref().err());
    let failed = together(NAME, failed);
    failed.unwrap_or_else(|| {
        let told = looks
            .iter()
            .filter_map(|(name, reached)| Some(format!("{name}: {}", reached.as_ref().ok()?)));
        Check::ok(NAME, told.collect::<Vec<_>>().join("\n"))
    })
}

/// One failed check of several messages; none of none.
fn together<'a>(name: &'static str, messages: impl Iterator<Item = &'a String>) -> Option<Check> {
    let each = messages.map(|message| Check::failed(name, message));
    each.reduce(|first, next| Check {
        detail: first.detail + "\n" + &next.detail,
        hint: match (first.hint, next.hint) {
            (Some(first), Some(next)) if first != next => Some(first + "\n" + &next),
            (first, next) => first.or(next),
        },
        ..first
    })
}

/// Raspberry Pi OS comes without a mail system: what cron would mail is thrown away without a word.
fn mail_system(manager: Option<Manager>, program: Option<PathBuf>, targets: &[Target]) -> Check {
    const NAME: &str = "mail";
    match (manager, program) {
        (None, _) => Check::skipped(NAME, "no schedule"),
        (Some(Manager::Systemd), _) => Check::skipped(NAME, "systemd sends no mail"),
        (Some(Manager::Cron), Some(program)) => {
            Check::ok(NAME, format!("cron mails by {}", program.display()))
        }
        (Some(Manager::Cron), None) if !targets.is_empty() => Check::skipped(
            NAME,
            "cron has no program to mail by; [notify] tells instead",
        ),
        (Some(Manager::Cron), None) => Check::failed(
            NAME,
            "nobody is told when a run fails: cron has no program to mail by (sendmail)",
        )
        .hint("configure [notify], or install one: sudo apt-get install msmtp-mta"),
    }
}

/// What cron mails by.
fn mail_program(path: Option<&OsStr>) -> Option<PathBuf> {
    let mut folders = path.unwrap_or_default().to_owned();
    if !folders.is_empty() {
        folders.push(":");
    }
    folders.push(MAIL_FOLDERS);
    let mut programs = std::env::split_paths(&folders).map(|folder| folder.join("sendmail"));
    programs.find(|program| program.is_file() && access(program, Access::EXEC_OK).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::CheckStatus::{self, Failed, Ok as Good, Skipped};
    use chrono::TimeDelta;

    const DAY: Duration = Duration::from_hours(24);

    fn told(check: &Check) -> (CheckStatus, &str) {
        (check.status, &check.detail)
    }

    fn plan(faults: &[&str], next: bool) -> Plan {
        Plan {
            manager: Manager::Cron,
            longest_gap: Some(4 * DAY),
            next: next.then(|| DateTime::UNIX_EPOCH.into()),
            faults: faults.iter().map(|fault| (*fault).to_owned()).collect(),
        }
    }

    #[test]
    fn a_schedule_is_there_and_starts_something() {
        let failed = |plan| {
            let check = schedule(&plan, &Exports::default());
            (check.status == Failed).then(|| (check.detail, check.hint.expect("a hint")))
        };
        let pair = |detail: &str, hint: &str| Some((detail.to_owned(), hint.to_owned()));
        let never = "root's crontab starts no run at any time to come";
        for (plan, told) in [
            (Ok(Some(plan(&[], true))), None),
            (Ok(None), None),
            (Ok(Some(plan(&["a\n  b"], true))), pair("a", "b")),
            (
                Ok(Some(plan(&["a\n  b", "c\n  d"], true))),
                pair("a\nc", "b\nd"),
            ),
            (
                Ok(Some(plan(&["a\n  b", "c\n  b"], true))),
                pair("a\nc", "b"),
            ),
            (Err("e\n  f".to_owned()), pair("e", "f")),
            (
                Err("e".to_owned()),
                pair("e", "what do `crontab -l` and `systemctl list-timers` say?"),
            ),
            (
                Ok(Some(plan(&[], false))),
                pair(never, "sudo gitlab-pi-backup schedule install"),
            ),
        ] {
            assert_eq!(failed(plan), told);
        }
    }

    #[test]
    fn the_last_run_is_judged_by_how_it_ended_and_when() {
        let now = DateTime::UNIX_EPOCH + TimeDelta::days(20_000);
        let run = |status: &str, days: i64, error: Option<&str>| PastRun {
            status: status.to_owned(),
            finished_at: Some(now - TimeDelta::days(days)),
            backup_id: Some("ID".to_owned()),
            error: error.map(str::to_owned),
            ..PastRun::default()
        };
        for (run, gap, status, detail, hint) in [
            (
                run("ok", 5, None),
                Some(4 * DAY),
                Good,
                "ok, 5d ago: ID",
                None,
            ),
            (run("ok", 50, None), None, Good, "ok, 50d ago: ID", None),
            (
                run("ok", 6, None),
                Some(4 * DAY),
                Failed,
                "6d ago, but the schedule starts one at least every 4d",
                Some(
                    "is what starts it alive? `systemctl list-timers`, `journalctl -u gitlab-pi-backup` or `journalctl -u cron`",
                ),
            ),
            (
                run("failed", 1, Some("pg_dump died\n  look there")),
                None,
                Failed,
                "failed, 1d ago: pg_dump died",
                Some("look there"),
            ),
            (
                run("partial", 1, None),
                None,
                Failed,
                "partial, 1d ago: it does not say why",
                Some("sudo gitlab-pi-backup run -v"),
            ),
        ] {
            let check = last_run(&[PastRun::default(), run], gap, now);
            assert_eq!(told(&check), (status, detail));
            assert_eq!(check.hint.as_deref(), hint);
        }
        assert_eq!(
            told(&last_run(&[], None, now)),
            (Skipped, "there was no run yet")
        );
    }

    #[test]
    fn somebody_is_told_when_a_run_fails() {
        let target = |name: &str, reached: Result<&str, &str>| Target {
            name: name.to_owned(),
            reached: reached.map(str::to_owned).map_err(str::to_owned),
        };
        let (good, bad) = (
            target("ntfy", Ok("it answers")),
            target("email", Err("no\n  why")),
        );
        let (systemd, cron) = (Some(Manager::Systemd), Some(Manager::Cron));
        let sendmail = || Some(PathBuf::from("/usr/sbin/sendmail"));
        for (targets, manager, mail, expected) in [
            (vec![], None, None, (Skipped, Skipped)),
            (vec![], systemd, sendmail(), (Failed, Skipped)),
            (vec![], cron, None, (Skipped, Failed)),
            (vec![], cron, sendmail(), (Skipped, Good)),
            (vec![good.clone()], cron, None, (Good, Skipped)),
            (vec![good.clone(), bad], systemd, None, (Failed, Skipped)),
        ] {
            let both = (
                notifications(&targets, manager),
                mail_system(manager, mail, &targets),
            );
            assert_eq!((both.0.status, both.1.status), expected, "{both:?}");
            assert!(
                [&both.0, &both.1]
                    .iter()
                    .all(|check| (check.status == Failed) == check.hint.is_some())
            );
        }
        assert_eq!(
            told(&notifications(&[good], cron)),
            (Good, "ntfy: it answers")
        );
    }
}
