//! Whether the exports of projects succeed, and are made as often as they should be.

use std::time::Duration;

use chrono::{DateTime, Local, Utc};

use super::{CLOCK_SLACK, Exports, behind, first_line, max_age, next_run};
use crate::history::past::PastExport;
use crate::status::health::{LastRun, Projects};
use crate::units::Span;

/// What is known of them, and why they are not as they should be; nothing where no project is to be exported.
pub(super) fn judge(
    exports: &Exports<'_>,
    given_age: Option<Duration>,
    now: DateTime<Utc>,
) -> Option<(Projects, Vec<String>)> {
    if !exports.is_configured {
        return None;
    }
    let max_age = max_age(given_age, exports.schedule, now);
    let last = exports.past.last();
    let mut good = exports.past.iter().rev();
    let good = good.find(|export| export.status == "ok");
    // What an export holds is as old as its beginning, at least.
    let begun = good.and_then(|export| export.started_at.or(export.finished_at));
    let age = begun.map(|at| (now - at).to_std().unwrap_or_default());
    let counts = last.map(|export| export.counts).unwrap_or_default();
    let projects = Projects {
        last_run: last.map(last_run),
        status: last.map(|export| export.status.clone()),
        age_seconds: age.map(|age| age.as_secs()),
        max_age_seconds: max_age.as_secs(),
        exported: counts.exported,
        already_done: counts.already_done,
        failed: counts.failed,
        skipped: counts.skipped,
        next_run: next_run(exports.schedule, now),
    };
    let mut reasons = Vec::new();
    let Some(last) = last else {
        reasons.push(never(projects.next_run));
        return Some((projects, reasons));
    };
    if last.status != "ok" {
        reasons.push(failed(last));
    }
    match age {
        None => reasons.push("no project export has ever brought everything".to_owned()),
        Some(age) if age > max_age => reasons.push(format!(
            "the last good project export is {} old, more than {}",
            Span(Duration::from_secs(age.as_secs())),
            Span(max_age)
        )),
        Some(_) => {}
    }
    if let Some(begun) = last.started_at.filter(|begun| *begun - now > CLOCK_SLACK) {
        reasons.push(behind(begun));
    }
    Some((projects, reasons))
}

fn last_run(export: &PastExport) -> LastRun {
    let first_failure = || {
        let failure = export.failures.first()?;
        let why = failure.error.as_deref().unwrap_or("it does not say why");
        Some(format!("{}: {why}", failure.path))
    };
    let error = export.error.clone().or_else(first_failure);
    LastRun {
        run_id: export.run_id.clone(),
        started_at: export.started_at,
        finished_at: export.finished_at,
        status: export.status.clone(),
        error: error.as_deref().and_then(first_line),
    }
}

fn failed(export: &PastExport) -> String {
    let when = export.started_at.map_or_else(String::new, |at| {
        format!(" of {}", at.format("%Y-%m-%d %H:%M UTC"))
    });
    let why = last_run(export).error;
    let why = why.as_deref().unwrap_or("it does not say why");
    let (failed, all) = (export.counts.failed, export.counts.all());
    match export.error {
        None if failed > 0 => {
            format!("in the last project export{when} {failed} of {all} projects failed: {why}")
        }
        _ => format!("the last project export{when} failed: {why}"),
    }
}

/// What was configured yesterday is not late.
fn never(next: Option<DateTime<Utc>>) -> String {
    let way_out = match next {
        Some(next) => format!(
            "the first one starts at {}",
            next.with_timezone(&Local).format("%Y-%m-%d %H:%M")
        ),
        None => "nothing would start one: gitlab-pi-backup schedule install".to_owned(),
    };
    format!("no project export was ever recorded on this machine; {way_out}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::past;
    use serde_json::{Value, json};

    const DAY: u64 = 86_400;

    fn now() -> DateTime<Utc> {
        "2026-11-22T04:00:00Z".parse().expect("a time")
    }

    fn export(days_ago: i64, status: &str, counts: &Value, error: Option<&str>) -> Value {
        let at = now() - chrono::TimeDelta::days(days_ago);
        let failures =
            [json!({ "path": "team/app", "error": "it is too large\n  make it smaller" })];
        let failures = &failures[..usize::from(counts["failed"].as_u64() > Some(0))];
        json!({ "command": "export projects", "run_id": "e", "status": status, "started_at": at,
            "counts": counts, "failures": failures, "error": error })
    }

    fn judged(entries: &[Value], max_age_days: Option<u64>) -> (Projects, String) {
        let exports = Exports {
            is_configured: true,
            past: &past::exports(entries),
            schedule: None,
        };
        let given = max_age_days.map(|days| Duration::from_secs(days * DAY));
        let (projects, reasons) = judge(&exports, given, now()).expect("a judgement");
        (projects, reasons.join("\n"))
    }

    #[test]
    fn it_succeeded_and_is_fresh() {
        let all = json!({ "exported": 7, "already_done": 1 });
        let some = json!({ "exported": 5, "failed": 2 });
        let none = json!({});
        let (good, bad) = (
            export(1, "ok", &all, None),
            export(0, "partial", &some, None),
        );
        let refused = export(0, "failed", &none, Some("the token is refused\n  renew it"));
        let old = export(6, "ok", &all, None);
        for (entries, age, told) in [
            (vec![good.clone()], Some(1), ""),
            (vec![refused.clone(), good.clone()], Some(1), ""),
            (
                vec![],
                None,
                "no project export was ever recorded on this machine; nothing would start one: \
                 gitlab-pi-backup schedule install",
            ),
            (
                vec![good, bad.clone()],
                Some(1),
                "in the last project export of 2026-11-22 04:00 UTC 2 of 7 projects failed: team/app: it is too large",
            ),
            (
                vec![old.clone()],
                Some(6),
                "the last good project export is 6d old, more than 5d",
            ),
            (
                vec![refused],
                None,
                "the last project export of 2026-11-22 04:00 UTC failed: the token is refused\n\
                 no project export has ever brought everything",
            ),
            (
                vec![export(-1, "ok", &all, None)],
                Some(0),
                "the clock of this machine is behind its last backup, of 2026-11-23 04:00 UTC",
            ),
        ] {
            let (projects, reasons) = judged(&entries, None);
            assert_eq!(reasons, told);
            assert_eq!(projects.age_seconds, age.map(|days| days * DAY), "{told}");
        }
        let (projects, reasons) = judged(&[old, bad], Some(7));
        assert_eq!(
            (
                projects.exported,
                projects.failed,
                projects.status.as_deref()
            ),
            (5, 2, Some("partial"))
        );
        assert_eq!(reasons.lines().count(), 1, "{reasons}");
    }

    #[test]
    fn where_no_project_is_to_be_exported_nothing_is_late() {
        assert!(judge(&Exports::default(), None, now()).is_none());
    }
}
