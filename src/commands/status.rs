//! `status`

use std::fmt::Write as _;
use std::time::Duration;

use chrono::{DateTime, Local, Utc};
use futures_util::future::join_all;
use serde::Serialize;
use serde_json::Value;

use super::known::Found;
use super::setup::{Failure, Setup, is_passed_over};
use super::{ExitStatus, USAGE, print, tell};
use crate::catalog::Catalog;
use crate::cli::Global;
use crate::cli::upkeep::StatusArgs;
use crate::config::Config;
use crate::history::is_end_damaged;
use crate::history::past::{exports, rehearsals, runs};
use crate::job::Job;
use crate::report::Status;
use crate::restore;
use crate::state::StateDir;
use crate::status::{Health, Known, Projects, judge, judge_stored};
use crate::units::{Size, Span};

/// What monitoring knows as "critical" and "unknown".
const CRITICAL: ExitStatus = 2;
const UNKNOWN: ExitStatus = 3;
/// What one line of a plug-in may hold, in characters.
const LONGEST_LINE: usize = 1000;

/// What `--json` shows.
#[derive(Serialize)]
struct Report {
    command: &'static str,
    status: Status,
    #[serde(flatten)]
    health: Health,
    error: Option<String>,
    /// Something could not be looked at, so that being unhealthy is no finding.
    #[serde(skip)]
    is_blind: bool,
}

/// Whether the newest backup is complete and fresh.
pub fn run(global: &Global, arguments: &StatusArgs) -> Result<ExitStatus, Failure> {
    if arguments.nagios && global.json {
        // Options that stand before the command are not compared with those behind it.
        let message = "--nagios and --json: standard output takes only one of both";
        return Err((USAGE, message.to_owned()));
    }
    let now = Utc::now();
    let report = look(global, arguments, now);
    if !arguments.nagios {
        let report = report?;
        tell(global, &report, || text(&report.health, now));
        return Ok(ExitStatus::from(!report.health.healthy));
    }
    let report = match report {
        Ok(report) => report,
        Err((_, message)) => return Ok(unknown(&message)),
    };
    let (word, status) = match (report.health.healthy, report.is_blind) {
        (true, _) => ("OK", 0),
        (false, true) => ("UNKNOWN", UNKNOWN),
        (false, false) => ("CRITICAL", CRITICAL),
    };
    print(&plugin_line(word, &report.health));
    Ok(status)
}

/// For monitoring, what keeps us from looking at all.
pub fn unknown(message: &str) -> ExitStatus {
    print(&format!("GITLAB BACKUP UNKNOWN - {}\n", one_line(message)));
    UNKNOWN
}

fn look(global: &Global, arguments: &StatusArgs, now: DateTime<Utc>) -> Result<Report, Failure> {
    let (config, selected) = Setup::load(global, &[])?;
    let state = StateDir::new(&config.state_dir);
    let destinations = config.destinations.iter();
    let destinations = destinations.filter(|settings| settings.gets_backups());
    let found = Found::look(
        &state,
        destinations.map(|settings| (settings.name.as_str(), settings.kinds())),
        config.projects.is_some(),
    );
    let known = found.known(arguments.max_age.map(|span| span.0));
    let mut is_blind = false;
    let mut health = if arguments.remote {
        let (catalogs, errors) = ask(global, (config, selected))?;
        let mut health = judge_stored(&known, &catalogs, now);
        if !errors.is_empty() && !health.healthy {
            // What is missing may be at the destination that did not answer.
            is_blind = true;
            health.reasons.clear();
        }
        for error in errors {
            if health.healthy {
                health.remarks.push(one_line(&error));
            } else {
                health.add_reason(one_line(&error));
            }
        }
        health
    } else {
        judge(&known, now)
    };
    match &found.history {
        Err(error) => {
            let folder = state.path().display();
            let why = format!("reading the history in {folder}: {error}; run this as root");
            if arguments.remote {
                health.remarks.push(why);
            } else {
                is_blind = true;
                health.reasons.clear();
                health.add_reason(why);
            }
        }
        Ok((entries, damaged)) => {
            let of = |command: &str| {
                entries
                    .iter()
                    .filter(|entry| entry["command"] == command)
                    .count()
            };
            let odd = (of("run") - found.runs.len())
                + (of("rehearse") - found.rehearsals.len())
                + (of(Job::Projects.command()) - found.exports.len())
                + entries.iter().filter(|entry| !entry.is_object()).count();
            let is_end =
                is_end_damaged(&state).unwrap_or(true) || entries.last().is_some_and(is_odd);
            note_damage(
                &mut health,
                &state,
                damaged + odd,
                is_end && !arguments.remote,
            );
        }
    }
    if let Some(why) = restore::unfinished(&state) {
        health.add_reason(one_line(&why));
    }
    note_schedule(&mut health, &found, &known);
    let error = health.reasons.first().cloned();
    Ok(Report {
        command: "status",
        status: if health.healthy {
            Status::Ok
        } else {
            Status::Failed
        },
        health,
        error,
        is_blind,
    })
}

/// The catalogs of the destinations that answer, and why the others do not.
fn ask(
    global: &Global,
    loaded: (Config, Vec<String>),
) -> Result<(Vec<Catalog>, Vec<String>), Failure> {
    Setup::carry_out(global, loaded, async |setup| {
        let asked = setup.taking_part().map(async |destination| {
            let patience = destination.patience(setup.short());
            let read = Catalog::read(destination, &setup.state, &patience);
            (destination, read.await)
        });
        let answers = tokio::select! {
            answers = join_all(asked) => answers,
            signal = setup.stop.requested() => {
                return Err((signal.exit_status(), format!("stopped by {}", signal.name())));
            }
        };
        let (mut catalogs, mut errors) = (Vec::new(), Vec::new());
        for (destination, answer) in answers {
            match answer {
                Ok(catalog) => catalogs.push(catalog),
                Err(error) if is_passed_over(destination, &error) => {}
                Err(error) => errors.push(error.to_string()),
            }
        }
        Ok((catalogs, errors))
    })
}

/// Whether an entry is a run, a rehearsal or an export that cannot be understood.
fn is_odd(entry: &Value) -> bool {
    let one = std::slice::from_ref(entry);
    match entry.get("command").and_then(Value::as_str) {
        Some("run") => runs(one).is_empty(),
        Some("rehearse") => rehearsals(one).is_empty(),
        Some(command) if command == Job::Projects.command() => exports(one).is_empty(),
        _ => !entry.is_object(),
    }
}

/// A damaged line of long ago is only told; where the end is damaged, what happened last is not known.
fn note_damage(health: &mut Health, state: &StateDir, damaged: usize, is_end: bool) {
    if damaged == 0 {
        return;
    }
    let folder = state.path().display();
    let what = format!("the history in {folder} has damaged lines ({damaged})");
    if is_end {
        health.add_reason(format!(
            "{what}, the last one among them: the next run makes it good"
        ));
    } else {
        health.remarks.push(what);
    }
}

fn note_schedule(health: &mut Health, found: &Found, known: &Known<'_>) {
    if let Err(why) = &found.schedule {
        let why = one_line(why);
        let remark = format!("what starts runs could not be asked: {why}");
        health.remarks.push(remark);
        return;
    }
    let wanted = |job: &Job| match job {
        Job::Run => known.wants_backups(),
        Job::Projects => known.exports.is_configured,
    };
    for job in Job::ALL.into_iter().filter(wanted) {
        if found.schedule_of(job).is_none() {
            health.remarks.push(format!(
                "nothing starts {}s by itself: gitlab-pi-backup schedule install",
                job.noun()
            ));
        }
    }
}

/// Several lines as one, without what means something to monitoring.
fn one_line(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let text = lines.collect::<Vec<_>>().join("; ");
    // What ends in a colon goes on in the next line.
    let text = text.replace(":; ", ": ").replace('|', "/");
    text.chars()
        .filter(|c| !c.is_control())
        .take(LONGEST_LINE)
        .collect()
}

/// One line and its figures, as the guidelines of the Monitoring Plugins have it.
fn plugin_line(word: &str, health: &Health) -> String {
    let projects = health.projects.as_ref();
    let exported = projects.and_then(|projects| projects.age_seconds);
    let said = match (&health.backup_id, health.age_seconds) {
        _ if !health.healthy => health.reasons.join("; "),
        (Some(id), Some(age)) => {
            let exported = exported.map(|age| format!("; projects exported {} ago", ago(age)));
            let exported = exported.unwrap_or_default();
            format!("newest complete backup {id}, {} old{exported}", ago(age))
        }
        _ => format!(
            "projects exported {} ago",
            ago(exported.unwrap_or_default())
        ),
    };
    let mut line = format!("GITLAB BACKUP {word} - {}", one_line(&said));
    let mut figures = String::new();
    // Writing to a string cannot fail, here and below.
    if let (Some(age), max) = (health.age_seconds, health.max_age_seconds) {
        let _ = write!(figures, " age={age}s;{max};{max};0");
        if let Some(size) = health.size {
            let _ = write!(figures, " size={size}B;;;0");
        }
    }
    if let Some(projects) = projects {
        let (failed, max) = (projects.failed, projects.max_age_seconds);
        if let Some(age) = exported {
            let _ = write!(figures, " projects_age={age}s;{max};{max};0");
        }
        let _ = write!(figures, " projects_failed={failed};;0;0");
    }
    if !figures.is_empty() {
        let _ = write!(line, " |{figures}");
    }
    line + "\n"
}

fn ago(seconds: u64) -> Span {
    Span(Duration::from_secs(seconds))
}

fn day(at: DateTime<Utc>) -> String {
    at.with_timezone(&Local)
        .format("%a %Y-%m-%d %H:%M")
        .to_string()
}

fn text(health: &Health, now: DateTime<Utc>) -> String {
    let mut text = String::new();
    let max = ago(health.max_age_seconds);
    // Writing to a string cannot fail, here and below.
    let _ = match (&health.backup_id, health.age_seconds, &health.reasons[..]) {
        (Some(id), Some(age), []) => writeln!(
            text,
            "healthy: the newest complete backup is {} old",
            ago(age)
        )
        .and_then(|()| writeln!(text, "backup          {id} (at most {max} old)")),
        (_, _, []) => {
            let age = health
                .projects
                .as_ref()
                .and_then(|projects| projects.age_seconds);
            let age = ago(age.unwrap_or_default());
            writeln!(text, "healthy: the last project export is {age} old")
        }
        (id, age, reasons) => {
            let _ = writeln!(
                text,
                "NOT HEALTHY: {}",
                reasons.first().map_or("", |first| first)
            );
            for reason in reasons.iter().skip(1) {
                let _ = writeln!(text, "             {reason}");
            }
            match (id, age) {
                (Some(id), Some(age)) => {
                    writeln!(
                        text,
                        "backup          {id}, {} old (at most {max})",
                        ago(age)
                    )
                }
                _ => Ok(()),
            }
        }
    };
    for place in &health.destinations {
        let name = &place.destination;
        let _ = match (&place.backup_id, place.age_seconds) {
            (Some(id), Some(age)) => write!(text, "{name:<15} {id}, {} old", ago(age)),
            _ => write!(text, "{name:<15} no complete backup"),
        };
        if let Some(free) = place.free {
            let _ = write!(text, ", {} free", Size(free));
        }
        if let Some(error) = &place.error {
            let _ = write!(text, "\n{:<15} last error: {error}", "");
        }
        text.push('\n');
    }
    if let Some(run) = &health.last_run {
        let when = run.started_at.map_or("at an unknown time".to_owned(), day);
        let _ = writeln!(text, "last run        {when}, {}", run.status);
    }
    if let Some(rehearsal) = &health.last_rehearsal {
        let verdict = match rehearsal.restorable {
            Some(true) => "restorable",
            Some(false) => "NOT RESTORABLE",
            None => "could not be read to its end",
        };
        let (when, id) = (day(rehearsal.finished_at), &rehearsal.backup_id);
        let _ = writeln!(
            text,
            "last rehearsal  {when}, {id} at {}: {verdict}",
            rehearsal.destination
        );
    } else if health.last_run.is_some() {
        text += "last rehearsal  none: gitlab-pi-backup rehearse\n";
    }
    if let Some(projects) = &health.projects {
        text += &last_export(projects);
    }
    if let Some(next) = health.next_run {
        let until = Span((next - now).to_std().unwrap_or_default());
        let _ = writeln!(text, "next run        {}, in {until}", day(next));
    }
    if let Some(next) = health
        .projects
        .as_ref()
        .and_then(|projects| projects.next_run)
    {
        let until = Span((next - now).to_std().unwrap_or_default());
        let _ = writeln!(text, "next export     {}, in {until}", day(next));
    }
    for remark in &health.remarks {
        let _ = writeln!(text, "note: {remark}");
    }
    text
}

fn last_export(projects: &Projects) -> String {
    let Some(last) = &projects.last_run else {
        return "last export     none: gitlab-pi-backup export projects\n".to_owned();
    };
    let when = last.started_at.map_or("at an unknown time".to_owned(), day);
    let counts = [
        (projects.exported, "exported"),
        (projects.already_done, "already done"),
        (projects.failed, "failed"),
        (projects.skipped, "skipped"),
    ];
    let counts = counts.iter().filter(|(count, _)| *count > 0);
    let counts: Vec<_> = counts
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
    let counts = if counts.is_empty() {
        "no project".to_owned()
    } else {
        counts.join(", ")
    };
    format!("last export     {when}, {}: {counts}\n", last.status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_plugin_line_means_what_it_should_not() {
        assert_eq!(one_line("a | b\n  c\u{1b}[0m\r\n\n"), "a / b; c[0m");
        assert_eq!(
            one_line("2 faults:\n  this\n  that"),
            "2 faults: this; that"
        );
        assert_eq!(one_line(&"x".repeat(5_000)).len(), LONGEST_LINE);
    }
}
