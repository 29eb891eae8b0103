//! Whether the newest backup is complete and fresh.
//!
//! From the history alone: which archives earlier runs stored and verified, where they wrote manifests, and which
//! rehearsals failed. Complete means what it means in [`crate::catalog`]; what happened at a destination behind the
//! history's back only the destination itself can tell.

mod exports;
mod health;
mod past;
mod remote;

use std::time::Duration;

use chrono::{DateTime, Local, TimeDelta, Utc};

use crate::archive::ArchiveKind;
use crate::catalog::{Catalog, failed_rehearsal};
use crate::history::past::{PastExport, PastRehearsal, PastRun};
use crate::schedule::Installed;
use crate::status::past::Stored;
use crate::units::Span;

pub use crate::status::health::{Health, LastRehearsal, LastRun, Place, Projects};

const DAY: Duration = Duration::from_hours(24);
/// How old the newest complete backup may be where nothing tells how often runs start: twice a week, and a day.
const WITHOUT_SCHEDULE: Duration = Duration::from_hours(5 * 24);
/// So far two clocks may be apart.
const CLOCK_SLACK: TimeDelta = TimeDelta::minutes(5);

/// What is known on this machine.
pub struct Known<'a> {
    /// The oldest first.
    pub runs: &'a [PastRun],
    /// The oldest first.
    pub rehearsals: &'a [PastRehearsal],
    /// The configured destinations, and which kinds each gets.
    pub destinations: &'a [(String, Vec<ArchiveKind>)],
    /// What starts runs.
    pub schedule: Option<&'a Installed>,
    /// How old the newest complete backup, and the last good export, may be; none: as the schedule says.
    pub max_age: Option<Duration>,
    /// The exports of projects.
    pub exports: Exports<'a>,
}

/// What is known of the exports of projects.
#[derive(Clone, Copy, Default)]
pub struct Exports<'a> {
    /// Whether any are to be made.
    pub is_configured: bool,
    /// The oldest first.
    pub past: &'a [PastExport],
    /// What starts them.
    pub schedule: Option<&'a Installed>,
}

impl Known<'_> {
    /// Whether GitLab is to be backed up as a whole; if not, this machine only exports projects.
    pub fn wants_backups(&self) -> bool {
        !self.exports.is_configured || !wanted(self.destinations).is_empty()
    }
}

/// How old the newest complete backup may be: as given, else the schedule's longest interval and a day.
pub fn max_age(
    given: Option<Duration>,
    schedule: Option<&Installed>,
    now: DateTime<Utc>,
) -> Duration {
    let local = now.with_timezone(&Local);
    let gap = || schedule.and_then(|schedule| schedule.calendar.longest_gap(&local));
    given.unwrap_or_else(|| gap().map_or(WITHOUT_SCHEDULE, |gap| gap + DAY))
}

/// Judges what is known.
pub fn judge(known: &Known<'_>, now: DateTime<Utc>) -> Health {
    let stored = Stored::read(known.runs, known.rehearsals);
    let mut health = conclude(known, &stored.evidence(known.destinations, now), now);
    let mut reasons = Vec::new();
    if known.wants_backups() && known.runs.is_empty() {
        reasons.push(never_ran(health.next_run));
    } else if known.wants_backups() {
        reasons.append(&mut health.reasons);
        reasons.extend(failed_run(&health));
    }
    let begun = known.runs.last().and_then(|run| run.started_at);
    if let Some(begun) = begun.filter(|begun| *begun - now > CLOCK_SLACK) {
        reasons.insert(0, behind(begun));
    }
    if let Some((projects, why)) = exports::judge(&known.exports, known.max_age, now) {
        health.projects = Some(projects);
        reasons.extend(why);
    }
    health.healthy = reasons.is_empty();
    health.reasons = reasons;
    health
}

/// Judges what the destinations say: `catalogs` of those that answered. The history only adds what is known beside.
pub fn judge_stored(known: &Known<'_>, catalogs: &[Catalog], now: DateTime<Utc>) -> Health {
    let mut health = conclude(
        known,
        &remote::evidence(known.destinations, catalogs, now),
        now,
    );
    let run = failed_run(&health);
    health.remarks.extend(run);
    // Only the history knows of them.
    if let Some((projects, why)) = exports::judge(&known.exports, known.max_age, now) {
        health.projects = Some(projects);
        health.remarks.extend(why);
    }
    health
}

/// A backup as far as it matters here.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    id: String,
    created_at: DateTime<Utc>,
    size: u64,
}

/// What history or destinations tell.
#[derive(Debug, Default)]
struct Evidence {
    /// The newest complete backup.
    newest: Option<Seen>,
    /// A newer one, and what is wrong with it.
    worse: Option<(String, Vec<String>)>,
    /// The newest complete one of each destination, in their order.
    places: Vec<Option<Seen>>,
    /// One that was made under a wrong clock.
    from_the_future: Option<String>,
}

fn conclude(known: &Known<'_>, evidence: &Evidence, now: DateTime<Utc>) -> Health {
    let newest = evidence.newest.as_ref();
    let age = |seen: &Seen| u64::try_from((now - seen.created_at).num_seconds()).unwrap_or(0);
    let max_age = max_age(known.max_age, known.schedule, now);
    let mut reasons = Vec::new();
    if let Some(newest) = newest.filter(|newest| newest.created_at - now > CLOCK_SLACK) {
        reasons.push(behind(newest.created_at));
    }
    match newest.map(age) {
        None => reasons.push("no backup is complete".to_owned()),
        Some(age) if age > max_age.as_secs() => reasons.push(format!(
            "the newest complete backup is {} old, more than {}",
            Span(Duration::from_secs(age)),
            Span(max_age)
        )),
        Some(_) => {}
    }
    if let Some((id, why)) = &evidence.worse {
        reasons.push(format!("{id} is not complete: {}", why.join("; ")));
    }
    let places = known.destinations.iter().zip(&evidence.places);
    let places = places.map(|((name, _), seen)| Place {
        destination: name.clone(),
        backup_id: seen.as_ref().map(|seen| seen.id.clone()),
        created_at: seen.as_ref().map(|seen| seen.created_at),
        age_seconds: seen.as_ref().map(age),
        free: past::free(known.runs, name),
        error: past::error(known.runs, name),
    });
    let mut health = Health {
        healthy: reasons.is_empty(),
        backup_id: newest.map(|seen| seen.id.clone()),
        created_at: newest.map(|seen| seen.created_at),
        age_seconds: newest.map(age),
        max_age_seconds: max_age.as_secs(),
        size: newest.map(|seen| seen.size),
        next_run: next_run(known.schedule, now),
        last_run: known.runs.last().map(last_run),
        last_rehearsal: known.rehearsals.last().map(last_rehearsal),
        projects: None,
        destinations: places.collect(),
        reasons,
        remarks: Vec::new(),
    };
    health.remarks = remarks(known, evidence, &health);
    health
}

fn behind(latest: DateTime<Utc>) -> String {
    format!(
        "the clock of this machine is behind its last backup, of {}",
        latest.format("%Y-%m-%d %H:%M UTC")
    )
}

fn failed_run(health: &Health) -> Option<String> {
    let run = health.last_run.as_ref()?;
    let when = run.started_at.map_or_else(String::new, |at| {
        format!(" of {}", at.format("%Y-%m-%d %H:%M UTC"))
    });
    let why = run.error.as_deref().unwrap_or("it does not say why");
    (run.status == "failed").then(|| format!("the last run{when} failed: {why}"))
}

/// The kinds that any destination gets.
fn wanted(destinations: &[(String, Vec<ArchiveKind>)]) -> Vec<ArchiveKind> {
    let gets = |kind: &ArchiveKind| destinations.iter().any(|(_, kinds)| kinds.contains(kind));
    ArchiveKind::ALL.into_iter().filter(gets).collect()
}

fn next_run(schedule: Option<&Installed>, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let schedule = schedule.filter(|schedule| schedule.faults.is_empty())?;
    let next = schedule.calendar.next_after(&now.with_timezone(&Local))?;
    Some(next.with_timezone(&Utc))
}

fn last_run(run: &PastRun) -> LastRun {
    LastRun {
        run_id: run.run_id.clone(),
        started_at: run.started_at,
        finished_at: run.finished_at,
        status: run.status.clone(),
        error: run.error.as_deref().and_then(first_line),
    }
}

fn last_rehearsal(rehearsal: &PastRehearsal) -> LastRehearsal {
    LastRehearsal {
        backup_id: rehearsal.backup_id.clone(),
        destination: rehearsal.destination.clone(),
        restorable: rehearsal.restorable,
        finished_at: rehearsal.finished_at,
    }
}

fn first_line(text: &str) -> Option<String> {
    text.lines().next().map(str::to_owned)
}

/// A machine that was set up yesterday is not late.
fn never_ran(next: Option<DateTime<Utc>>) -> String {
    let way_out = match next {
        Some(next) => format!(
            "the first one starts at {}",
            next.with_timezone(&Local).format("%Y-%m-%d %H:%M")
        ),
        None => "nothing would start one: gitlab-pi-backup schedule install".to_owned(),
    };
    format!("no run was ever recorded on this machine; {way_out}")
}

fn remarks(known: &Known<'_>, evidence: &Evidence, health: &Health) -> Vec<String> {
    let mut remarks = Vec::new();
    let lacking = health
        .destinations
        .iter()
        .filter(|_| evidence.newest.is_some());
    for place in lacking.filter(|place| place.backup_id != health.backup_id) {
        let has = match (&place.backup_id, place.age_seconds) {
            (Some(id), Some(age)) => {
                format!(
                    "the newest there is {id}, {} old",
                    Span(Duration::from_secs(age))
                )
            }
            _ => "there is no complete one".to_owned(),
        };
        let name = &place.destination;
        remarks.push(format!(
            "{name} does not have all of the newest backup: {has}"
        ));
    }
    if let Some(run) = health
        .last_run
        .as_ref()
        .filter(|run| run.status == "partial")
    {
        let why = run.error.as_deref().unwrap_or("it does not say why");
        remarks.push(format!("the last run was done in part: {why}"));
    }
    let mut rehearsals = known.rehearsals.iter().rev();
    if let Some(rehearsal) = rehearsals.find(|past| past.restorable.is_some())
        && rehearsal.restorable == Some(false)
    {
        remarks.push(format!(
            "{} at {}: {}",
            rehearsal.backup_id,
            rehearsal.destination,
            failed_rehearsal(rehearsal.finished_at)
        ));
    }
    if let Some(id) = &evidence.from_the_future {
        remarks.push(format!(
            "{id} was made under a wrong clock and does not count"
        ));
    }
    let faults = known.schedule.iter().flat_map(|schedule| &schedule.faults);
    remarks.extend(faults.map(|fault| fault.replace("\n  ", ": ")));
    remarks
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const NOW: i64 = 1_702_900_000;

    fn id(day: i64) -> String {
        format!("{}_2023_12_16_17.8.2", NOW - 86_400 * day - 3_600)
    }

    fn data(day: i64) -> String {
        format!("{}_gitlab_backup.tar", id(day))
    }

    fn config(day: i64) -> String {
        format!(
            "gitlab_config_{}_2023_12_16.tar",
            NOW - 86_400 * day - 3_660
        )
    }

    fn archive(kind: &str, name: &str, uploads: &[(&str, &str)]) -> Value {
        let rows: Vec<_> = uploads
            .iter()
            .map(|(place, status)| {
                let stored = matches!(*status, "uploaded" | "already_present");
                json!({ "destination": place, "path": "/x", "status": status, "verified": stored,
                    "error": (!stored).then_some("refused\n  do this") })
            })
            .collect();
        json!({ "kind": kind, "name": name, "size": 10, "made_by_this_run": true, "doubts": [], "uploads": rows })
    }

    /// A run so many days ago that stored both archives at these places.
    fn good(day: i64, places: &[&str]) -> Value {
        let uploads: Vec<_> = places.iter().map(|place| (*place, "uploaded")).collect();
        let manifests: Vec<_> = places
            .iter()
            .map(|place| json!({ "destination": place, "backup_id": id(day), "status": "written" }))
            .collect();
        json!({ "command": "run", "run_id": "r", "status": "ok", "backup_id": id(day),
            "started_at": DateTime::from_timestamp(NOW - 86_400 * day - 3_700, 0),
            "archives": [archive("config", &config(day), &uploads), archive("data", &data(day), &uploads)],
            "manifests": manifests, "space": [{ "destination": "a", "free": 7 }] })
    }

    fn failed(day: i64) -> Value {
        json!({ "command": "run", "run_id": "f", "status": "failed", "error": "no token\n  log in",
            "started_at": DateTime::from_timestamp(NOW - 86_400 * day - 3_700, 0) })
    }

    fn rehearsed(day: i64, place: &str, restorable: bool) -> Value {
        json!({ "command": "rehearse", "backup_id": id(day), "destination": place, "restorable": restorable,
            "finished_at": "2023-12-17T00:00:00Z" })
    }

    fn health(entries: &[Value], max_age_days: u64) -> Health {
        let both = vec![ArchiveKind::Config, ArchiveKind::Data];
        judged(entries, &[("a".to_owned(), both)], max_age_days)
    }

    fn judged(entries: &[Value], destinations: &[(String, Vec<ArchiveKind>)], days: u64) -> Health {
        let known = Known {
            runs: &crate::history::past::runs(entries),
            rehearsals: &crate::history::past::rehearsals(entries),
            destinations,
            schedule: None,
            max_age: Some(DAY * u32::try_from(days).expect("few")),
            exports: Exports::default(),
        };
        judge(&known, DateTime::from_timestamp(NOW, 0).expect("a time"))
    }

    #[test]
    fn the_newest_complete_backup_decides() {
        let fresh = health(&[good(9, &["a"]), good(1, &["a"])], 5);
        assert!(fresh.healthy, "{fresh:?}");
        assert_eq!(fresh.backup_id, Some(id(1)));
        assert_eq!(fresh.age_seconds, Some(86_400 + 3_600));
        assert_eq!(fresh.size, Some(20));
        assert_eq!(fresh.destinations[0].free, Some(7));
        let no_doubts = |entries: &[Value], expected: &str| {
            let health = health(entries, 5);
            assert!(!health.healthy);
            let all = health.reasons.join("\n");
            assert!(all.contains(expected), "{expected} is not in\n{all}");
        };
        no_doubts(&[], "no run was ever recorded");
        no_doubts(&[good(9, &["a"])], "is 9d 1h old, more than 5d");
        no_doubts(&[good(1, &["a"]), failed(0)], "failed: no token");
        no_doubts(&[failed(0)], "no backup is complete");
        no_doubts(&[good(1, &["b"])], "the config archive is not at a");
        no_doubts(
            &[good(1, &["a"]), rehearsed(1, "a", false)],
            "it was not restorable",
        );
        no_doubts(&[good(-3, &["a"])], "the clock of this machine is behind");
        let doubtful = |mut run: Value| {
            run["archives"][1]["doubts"] = json!(["no database dump"]);
            run
        };
        no_doubts(&[doubtful(good(1, &["a"]))], "data: no database dump");
        let without = |mut run: Value, key: &str| {
            run[key] = json!([]);
            run
        };
        no_doubts(&[without(good(1, &["a"]), "manifests")], "no manifest at a");
        no_doubts(&[without(good(1, &["a"]), "archives")], "no config archive");
    }

    #[test]
    fn what_later_runs_mended_is_whole_and_what_they_hurt_is_not() {
        let uploads = |mut run: Value, index: usize, status: &str| {
            let name = run["archives"][index]["name"]
                .as_str()
                .expect("a name")
                .to_owned();
            let kind = run["archives"][index]["kind"]
                .as_str()
                .expect("a kind")
                .to_owned();
            run["archives"][index] = archive(&kind, &name, &[("a", status)]);
            run
        };
        let mut torn = uploads(good(1, &["a"]), 1, "failed");
        torn["manifests"] = json!([]);
        assert_eq!(health(std::slice::from_ref(&torn), 5).reasons.len(), 2);
        // The next run sends the rest, and writes the manifest, without making anything.
        let mut rest = good(1, &["a"]);
        rest["archives"] = json!([archive("data", &data(1), &[("a", "uploaded")])]);
        rest["archives"][0]["made_by_this_run"] = json!(false);
        rest["run_id"] = json!("rest");
        let mended = health(&[torn.clone(), rest], 5);
        assert!(mended.healthy, "{mended:?}");
        // A later run that could not ask changes nothing about what is there; a conflict does.
        let later = |status| uploads(good(1, &["a"]), 0, status);
        assert!(health(&[good(1, &["a"]), later("failed")], 5).healthy);
        assert!(!health(&[good(1, &["a"]), later("conflict")], 5).healthy);
        let rehearsals = [
            good(1, &["a"]),
            rehearsed(1, "a", false),
            rehearsed(1, "a", true),
        ];
        assert!(health(&rehearsals, 5).healthy);
    }

    #[test]
    fn one_place_that_has_it_is_enough_and_the_others_are_told() {
        let both = vec![ArchiveKind::Config, ArchiveKind::Data];
        let places = [
            ("a".to_owned(), both.clone()),
            ("b".to_owned(), vec![ArchiveKind::Data]),
        ];
        let partial = judged(&[good(4, &["a", "b"]), good(1, &["a"])], &places, 5);
        assert!(partial.healthy, "{partial:?}");
        assert_eq!(partial.backup_id, Some(id(1)));
        assert_eq!(partial.destinations[1].backup_id, Some(id(4)));
        assert_eq!(
            partial.remarks[0],
            format!(
                "b does not have all of the newest backup: the newest there is {}, 4d 1h old",
                id(4)
            )
        );
        // Each kind at another place.
        let apart = [
            ("a".to_owned(), vec![ArchiveKind::Config]),
            ("b".to_owned(), vec![ArchiveKind::Data]),
        ];
        assert!(judged(&[good(1, &["a", "b"])], &apart, 5).healthy);
        assert!(!judged(&[good(1, &["a"])], &apart, 5).healthy);
    }

    #[test]
    fn a_config_archive_belongs_to_the_backup_of_its_run() {
        // The config command failed; yesterday's archive does not stand for today's.
        let mut today = good(0, &["a"]);
        today["archives"] = json!([archive("data", &data(0), &[("a", "uploaded")])]);
        today["steps"] = json!([{ "step": "config_command", "status": "failed" }]);
        let health_of = |runs: &[Value]| health(runs, 5);
        assert!(!health_of(&[good(1, &["a"]), today.clone()]).healthy);
        // One that was made alone, later, does.
        let mut alone = good(0, &["a"]);
        alone["archives"] = json!([archive("config", &config(0), &[("a", "uploaded")])]);
        alone["backup_id"] = Value::Null;
        let mended = health_of(&[good(1, &["a"]), today.clone(), alone]);
        assert_eq!(mended.backup_id, Some(id(0)));
        // It was not asked for: the nearest one of the day does.
        today["steps"] = json!([{ "step": "config_command", "status": "skipped" }]);
        let config_of_yesterday = health_of(&[good(1, &["a"]), today]);
        assert!(
            config_of_yesterday.backup_id == Some(id(1)),
            "{config_of_yesterday:?}"
        );
    }
}
