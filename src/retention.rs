//! Which backups of a destination are kept, and why.
//!
//! The rules are restic's (<https://restic.readthedocs.io/en/stable/060_forget.html>): the newest n, and
//! the newest of each of the n most recent days, ISO weeks, months and years that have a backup, in the
//! local time zone; a backup that any rule keeps is kept. What may not happen is settled here as well:
//!
//! - Only complete backups count and only they are deleted. One that is incomplete is never deleted and
//!   never takes another's place: a run of bad nights cannot push the last good backup out.
//! - The newest complete backup stays, and the newest that was rehearsed, whatever the rules say.
//! - A backup without a manifest is deleted only where that is asked for, only where a complete backup
//!   exists, and it never takes a complete one's place either: complete ones are planned among themselves,
//!   those without a manifest among all.
//! - Under a clock that is behind nothing is deleted at all: it would call old what is new.

mod policy;

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::error::Error;
use std::fmt;

use chrono::{DateTime, Datelike, SecondsFormat, TimeDelta, TimeZone, Utc};
use serde::Serialize;

use crate::units::Span;

pub use policy::{RetentionPolicy, Unmanaged};

/// A backup may be this much ahead of the clock: two machines' clocks differ a little.
const CLOCK_TOLERANCE: TimeDelta = TimeDelta::minutes(1);

impl RetentionPolicy {
    /// How many, what of, and the name of the period a time lies in.
    fn rules(&self) -> [(u32, &'static str, Period); 4] {
        [
            (self.keep_daily, "daily", |time| {
                format!("{:04}-{:02}-{:02}", time.year, time.month, time.day)
            }),
            (self.keep_weekly, "weekly", |time| {
                format!("{:04}-W{:02}", time.week_year, time.week)
            }),
            (self.keep_monthly, "monthly", |time| {
                format!("{:04}-{:02}", time.year, time.month)
            }),
            (self.keep_yearly, "yearly", |time| {
                format!("{:04}", time.year)
            }),
        ]
    }

    /// What happens to each backup of one destination, the newest first. Days and weeks are those of the
    /// time zone of `now`.
    pub fn plan<Tz: TimeZone>(
        &self,
        backups: &[Candidate],
        now: &DateTime<Tz>,
    ) -> Result<RetentionPlan, ClockBehind> {
        let now_utc = now.to_utc();
        if let Some(newest) = backups.iter().max_by_key(|backup| backup.created_at)
            && newest.created_at.signed_duration_since(now_utc) > CLOCK_TOLERANCE
        {
            return Err(ClockBehind {
                backup: newest.id.clone(),
                created_at: newest.created_at,
                now: now_utc,
            });
        }
        let mut newest_first: Vec<_> = backups.iter().collect();
        newest_first.sort_by(|a, b| b.age_order(a));
        let zone = now.timezone();
        let is_complete = |backup: &&Candidate| backup.state == State::Complete;
        let complete: Vec<_> = newest_first.iter().copied().filter(is_complete).collect();
        let managed_or_not: Vec<_> = newest_first
            .iter()
            .copied()
            .filter(|backup| is_complete(backup) || backup.state == State::Unmanaged)
            .collect();
        // Both lists are in the order of `newest_first`: each backup takes the next row of its list.
        let mut of_complete = self.reasons(&complete, &zone).into_iter();
        let mut of_both = self.reasons(&managed_or_not, &zone).into_iter();
        let mut is_newest = true;
        let rows = newest_first.iter().map(|backup| {
            let mut reasons = Vec::new();
            match &backup.state {
                State::Complete => {
                    of_both.next();
                    if std::mem::take(&mut is_newest) {
                        reasons.push("newest complete backup".to_owned());
                    }
                    reasons.extend(of_complete.next().unwrap_or_default());
                }
                State::Incomplete(why) => {
                    reasons.push(format!("incomplete: {why}; it is not counted"));
                }
                State::Unmanaged => {
                    let kept = of_both.next().unwrap_or_default();
                    if self.unmanaged == Unmanaged::Keep {
                        reasons.push("no manifest (unmanaged = keep)".to_owned());
                    } else {
                        reasons.extend(kept);
                        if complete.is_empty() {
                            reasons.push("there is no complete backup yet".to_owned());
                        }
                    }
                }
            }
            if !self.has_rules() {
                reasons.push("no keep_… rule is given".to_owned());
            }
            let action = if reasons.is_empty() {
                reasons.push("no rule keeps it".to_owned());
                Action::Delete
            } else {
                Action::Keep
            };
            PlannedBackup {
                id: backup.id.clone(),
                action,
                reasons,
            }
        });
        Ok(RetentionPlan {
            backups: rows.collect(),
        })
    }

    /// Why each backup of a list, the newest first, is kept; those without a reason are not.
    fn reasons<Tz: TimeZone>(&self, list: &[&Candidate], zone: &Tz) -> Vec<Vec<String>> {
        let latest = list.iter().map(|backup| backup.created_at).max();
        let mut seen: [BTreeSet<String>; 4] = Default::default();
        let mut nobody_rehearsed = true;
        let mut reasons = Vec::with_capacity(list.len());
        for (number, backup) in (1_u64..).zip(list) {
            let mut kept = Vec::new();
            if number <= u64::from(self.keep_last) {
                kept.push(format!("last {number}"));
            }
            let time = LocalTime::of(backup.created_at, zone);
            for ((count, name, period), seen) in self.rules().into_iter().zip(&mut seen) {
                // Not only the period before this one is asked: where clocks go back at midnight, a day
                // begins twice.
                let period = period(&time);
                if (seen.len() as u64) < u64::from(count) && seen.insert(period.clone()) {
                    kept.push(format!("{name} {period}"));
                }
            }
            let age = latest.map(|latest| latest - backup.created_at);
            let age = age.and_then(|age| age.to_std().ok()).unwrap_or_default();
            if age < self.keep_within {
                kept.push(format!("within {}", Span(self.keep_within)));
            }
            if backup.rehearsed_at.is_some() && std::mem::take(&mut nobody_rehearsed) {
                kept.push("newest rehearsed backup".to_owned());
            }
            reasons.push(kept);
        }
        reasons
    }
}

/// Names the day, week, month or year.
type Period = fn(&LocalTime) -> String;

/// A time as the calendar on the wall tells it.
struct LocalTime {
    year: i32,
    month: u32,
    day: u32,
    week_year: i32,
    week: u32,
}

impl LocalTime {
    fn of<Tz: TimeZone>(time: DateTime<Utc>, zone: &Tz) -> LocalTime {
        let date = time.with_timezone(zone).date_naive();
        let week = date.iso_week();
        LocalTime {
            year: date.year(),
            month: date.month(),
            day: date.day(),
            week_year: week.year(),
            week: week.week(),
        }
    }
}

/// What is known about a backup when it is decided over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Every kind is there and verified, without doubts, and the manifest.
    Complete,
    /// Something is missing or doubtful: this.
    Incomplete(String),
    /// There is no manifest.
    Unmanaged,
}

/// A backup at a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// GitLab's backup ID.
    pub id: String,
    /// When GitLab began it.
    pub created_at: DateTime<Utc>,
    /// The Unix seconds its name starts with; they alone order backups.
    pub stamp: u64,
    /// Whether it counts.
    pub state: State,
    /// When it was last proved that it can be restored.
    pub rehearsed_at: Option<DateTime<Utc>>,
}

impl Candidate {
    /// Older before newer, as [`ArchiveName::age_order`](crate::archive::ArchiveName::age_order) puts
    /// their data archives.
    fn age_order(&self, other: &Candidate) -> Ordering {
        let name = |backup: &'_ Candidate| {
            let id = backup.id.clone().into_bytes();
            id.into_iter().chain(*b"_gitlab_backup.tar")
        };
        let by_stamp = self.stamp.cmp(&other.stamp);
        by_stamp.then_with(|| name(self).cmp(name(other)))
    }
}

/// What happens to a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It stays.
    Keep,
    /// It goes.
    Delete,
}

/// A row of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedBackup {
    /// GitLab's backup ID.
    pub id: String,
    /// What happens to it.
    pub action: Action,
    /// Why; at least one reason.
    pub reasons: Vec<String>,
}

/// What happens to every backup of a destination.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetentionPlan {
    /// The newest first.
    pub backups: Vec<PlannedBackup>,
}

impl RetentionPlan {
    /// The IDs of those that go, the newest first.
    pub fn deleted(&self) -> impl Iterator<Item = &str> {
        let gone = |backup: &&PlannedBackup| backup.action == Action::Delete;
        self.backups.iter().filter(gone).map(|backup| &*backup.id)
    }
}

/// The clock is behind a backup, so that nothing can be said about ages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClockBehind {
    /// The newest backup's ID.
    pub backup: String,
    /// When it was made, according to its name.
    pub created_at: DateTime<Utc>,
    /// What the clock says.
    pub now: DateTime<Utc>,
}

impl fmt::Display for ClockBehind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |time: &DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Secs, true);
        write!(
            f,
            "the clock says {}, but backup {} was made at {}: nothing is deleted\n  \
             set the clock (a Raspberry Pi needs the network for it: timedatectl); if it is right, that \
             backup was made under a wrong one: delete it by hand",
            shown(&self.now),
            self.backup,
            shown(&self.created_at)
        )
    }
}

impl Error for ClockBehind {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Reader;

    fn policy(rules: &str) -> RetentionPolicy {
        let mut reader = Reader::new(&format!("[retention]\n{rules}"), [], None);
        let policy = RetentionPolicy::read(&mut reader.root().section("retention"));
        assert_eq!(reader.finish().len(), 0, "{rules}");
        policy.expect("a policy")
    }

    fn backup(time: &str, state: State) -> Candidate {
        let created_at: DateTime<Utc> = time.parse().expect("a time");
        let stamp = created_at.timestamp().unsigned_abs();
        Candidate {
            id: format!("{stamp}_{}_17.8.2", created_at.format("%Y_%m_%d")),
            created_at,
            stamp,
            state,
            rehearsed_at: None,
        }
    }

    fn complete(time: &str) -> Candidate {
        backup(time, State::Complete)
    }

    /// `keep: reason, reason` or `delete: …` for each, the newest first.
    fn planned(rules: &str, backups: &[Candidate], now: &str) -> Vec<String> {
        let now = DateTime::parse_from_rfc3339(now).expect("a time");
        let plan = policy(rules).plan(backups, &now).expect("a plan");
        let shown = plan.backups.iter().map(|backup| {
            let action = format!("{:?}", backup.action).to_lowercase();
            format!("{action}: {}", backup.reasons.join(", "))
        });
        shown.collect()
    }

    #[test]
    fn every_rule_says_what_it_keeps() {
        let backups = [
            complete("2026-11-20T03:00:00Z"),
            complete("2026-11-20T01:00:00Z"),
            complete("2026-11-19T01:00:00Z"),
            complete("2026-11-12T01:00:00Z"),
            complete("2026-10-31T01:00:00Z"),
            complete("2025-12-31T01:00:00Z"),
        ];
        let rules = "keep_last = 2\nkeep_daily = 2\nkeep_weekly = 1\nkeep_monthly = 2\nkeep_yearly = 2\nkeep_within = \"10d\"";
        let expected = [
            "keep: newest complete backup, last 1, daily 2026-11-20, weekly 2026-W47, monthly 2026-11, yearly 2026, within 10d",
            "keep: last 2, within 10d",
            "keep: daily 2026-11-19, within 10d",
            "keep: within 10d",
            "keep: monthly 2026-10",
            "keep: yearly 2025",
        ];
        assert_eq!(planned(rules, &backups, "2026-11-21T00:00:00Z"), expected);
        let few = planned(
            "keep_last = 0\nkeep_daily = 1",
            &backups,
            "2026-11-21T00:00:00Z",
        );
        assert_eq!(few[0], "keep: newest complete backup, daily 2026-11-20");
        assert_eq!(few[1..], ["delete: no rule keeps it"; 5]);
    }

    #[test]
    fn without_rules_nothing_is_deleted() {
        let backups = [
            complete("2026-11-20T02:00:00Z"),
            complete("2026-11-19T23:30:00Z"),
            backup("2026-11-19T20:00:00Z", State::Unmanaged),
        ];
        let rules = "local = 1\nunmanaged = \"prune\"";
        let expected = [
            "keep: newest complete backup, no keep_… rule is given",
            "keep: no keep_… rule is given",
            "keep: no keep_… rule is given",
        ];
        assert_eq!(planned(rules, &backups, "2026-11-21T00:00:00Z"), expected);
    }

    #[test]
    fn days_are_those_of_the_time_zone() {
        let backups = [
            complete("2026-11-20T02:00:00Z"),
            complete("2026-11-19T23:30:00Z"),
        ];
        let rules = "keep_last = 0\nkeep_daily = 9";
        let here = planned(rules, &backups, "2026-11-20T09:00:00+01:00");
        assert_eq!(here[1], "delete: no rule keeps it");
        let there = planned(rules, &backups, "2026-11-20T09:00:00Z");
        assert_eq!(there[1], "keep: daily 2026-11-19");
        // The last days of a year belong to the first ISO week of the next.
        let weekly = planned(
            "keep_last = 0\nkeep_weekly = 9",
            &[complete("2024-12-30T12:00:00Z")],
            "2026-01-01T00:00:00Z",
        );
        assert_eq!(weekly, ["keep: newest complete backup, weekly 2025-W01"]);
    }

    #[test]
    fn what_is_incomplete_stays_and_takes_no_place() {
        let why = "config archive missing".to_owned();
        let mut rehearsed = complete("2026-11-10T00:00:00Z");
        rehearsed.rehearsed_at = Some(rehearsed.created_at);
        let backups = [
            complete("2026-11-12T00:00:00Z"),
            backup("2026-11-14T00:00:00Z", State::Incomplete(why)),
            complete("2026-11-11T00:00:00Z"),
            rehearsed,
            backup("2026-11-13T00:00:00Z", State::Unmanaged),
        ];
        let expected = [
            "keep: incomplete: config archive missing; it is not counted",
            "keep: no manifest (unmanaged = keep)",
            "keep: newest complete backup, last 1",
            "delete: no rule keeps it",
            "keep: newest rehearsed backup",
        ];
        assert_eq!(
            planned("keep_last = 1", &backups, "2026-11-15T00:00:00Z"),
            expected
        );
    }

    #[test]
    fn unmanaged_ones_go_where_asked_for_and_never_take_a_complete_ones_place() {
        let unmanaged = |time| backup(time, State::Unmanaged);
        let rules = "keep_last = 1\nunmanaged = \"prune\"";
        let mut backups = vec![
            unmanaged("2026-11-14T00:00:00Z"),
            complete("2026-11-13T00:00:00Z"),
            unmanaged("2026-11-12T00:00:00Z"),
        ];
        let expected = [
            "keep: last 1",
            "keep: newest complete backup, last 1",
            "delete: no rule keeps it",
        ];
        assert_eq!(planned(rules, &backups, "2026-11-15T00:00:00Z"), expected);
        backups.remove(1);
        let expected = [
            "keep: last 1, there is no complete backup yet",
            "keep: there is no complete backup yet",
        ];
        assert_eq!(planned(rules, &backups, "2026-11-15T00:00:00Z"), expected);
    }

    #[test]
    fn a_clock_that_is_behind_deletes_nothing() {
        let policy = policy("keep_last = 1");
        let backups = [
            backup("2026-11-14T00:00:00Z", State::Unmanaged),
            complete("2026-11-12T00:00:00Z"),
            complete("2026-11-11T00:00:00Z"),
        ];
        let plan = |now: &str| {
            let now = DateTime::parse_from_rfc3339(now).expect("a time");
            policy.plan(&backups, &now)
        };
        let gone: Vec<_> = plan("2026-11-13T23:59:00Z").into_iter().collect();
        assert_eq!(gone[0].deleted().count(), 1);
        let refused = plan("2026-11-13T23:58:59Z").expect_err("a minute and a second");
        let text = refused.to_string();
        assert!(
            text.starts_with("the clock says 2026-11-13T23:58:59Z, but backup 1794614400_2026_11_14_17.8.2 was made at 2026-11-14T00:00:00Z: nothing is deleted\n  set the clock"),
            "{text}"
        );
    }

    #[test]
    fn equal_stamps_are_ordered_by_the_archives_names() {
        let id = |version: &str| Candidate {
            id: format!("1700000000_2023_11_14_{version}"),
            ..complete("2023-11-14T22:13:20Z")
        };
        let versions = ["17.8.10", "17.8.2-ee", "17.8.20", "17.8.2"];
        let mut backups = versions.map(id);
        backups.reverse();
        let now = DateTime::from_timestamp(1_800_000_000, 0).expect("a time");
        let plan = policy("keep_last = 9")
            .plan(&backups, &now)
            .expect("a plan");
        let mut by_name: Vec<_> = backups
            .iter()
            .map(|backup| {
                crate::archive::ArchiveName::parse(&format!("{}_gitlab_backup.tar", backup.id))
                    .expect("a name")
            })
            .collect();
        by_name.sort_by(|a, b| b.age_order(a));
        let expected: Vec<_> = by_name.iter().filter_map(|name| name.backup_id()).collect();
        let order: Vec<_> = plan
            .backups
            .iter()
            .map(|backup| backup.id.as_str())
            .collect();
        assert_eq!(order, expected);
    }
}
