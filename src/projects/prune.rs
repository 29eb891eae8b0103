//! Retention of exports: the rules of `[retention]`, for each project by itself.
//!
//! It comes after an export of this project was stored and looked at, and goes no further than that project: what is
//! deleted is only what the template names, of this very project, while the newest one is there and is not much smaller
//! than what would go. What is kept for being larger is kept until somebody has looked at it, so that a project that
//! was emptied does not push out the exports from before, however many runs follow.

use chrono::{DateTime, TimeZone, Utc};

use crate::destination::Destination;
use crate::error::Error;
use crate::guard;
use crate::projects::name::Template;
use crate::projects::stored::{Project, Stored, exports};
use crate::report::Pruned;
use crate::retention::{Candidate, RetentionPolicy, State};
use crate::retry::Patience;
use crate::units::{Percent, Size};

/// What is asked for.
pub struct Request<'a> {
    /// `projects.name`.
    pub name: &'a Template,
    /// `[retention]`.
    pub policy: &'a RetentionPolicy,
    /// `guard.shrink`
    pub shrink: Percent,
    /// Where the export of this run is stored.
    pub made: &'a str,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What was deleted.
    pub pruned: Vec<Pruned>,
    /// Why nothing was, though the rules would have it.
    pub warning: Option<String>,
    /// What went wrong.
    pub error: Option<Error>,
}

/// What goes, or why nothing may.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    doomed: Vec<Stored>,
    warning: Option<String>,
}

/// Applies the rules to the exports of one project, one of which has just been stored. Days are those of the zone of
/// `now`. What is deleted stands in `outcome` as soon as it is: the caller may stop waiting at any moment.
pub async fn prune<Tz: TimeZone>(
    destination: &Destination,
    project: Project<'_>,
    request: &Request<'_>,
    patience: &Patience,
    now: &DateTime<Tz>,
    outcome: &mut Outcome,
) {
    if !request.policy.has_rules() {
        return;
    }
    let stored = match exports(destination, request.name, project, patience).await {
        Ok(stored) => stored,
        Err(error) => {
            outcome.error = Some(error);
            return;
        }
    };
    let plan = plan(&stored, project, request, now);
    outcome.warning = plan.warning;
    for export in plan.doomed {
        let deleted = destination.delete(&export.key, &export.rev, patience).await;
        if let Err(error) = deleted {
            outcome.error = Some(error);
            return;
        }
        patience.renew();
        tracing::info!("deleted {}:{}", destination.name(), export.key);
        outcome.pruned.push(Pruned {
            destination: destination.name().to_owned(),
            path: export.key,
            size: export.size,
        });
    }
}

/// `stored`: the newest first.
fn plan<Tz: TimeZone>(
    stored: &[Stored],
    project: Project<'_>,
    request: &Request<'_>,
    now: &DateTime<Tz>,
) -> Plan {
    let ours: Vec<_> = stored
        .iter()
        .filter(|export| export.named.is_ours)
        .collect();
    let keep_all = |warning: Option<String>| Plan {
        warning,
        ..Plan::default()
    };
    let is_made = |export: &&&Stored| export.key == request.made && export.size > 0;
    let Some(made) = ours.iter().find(is_made) else {
        // A list that lags behind is no list to delete by.
        return keep_all(Some(format!(
            "{}: {} is not in the list of its exports: none is deleted",
            project.path, request.made
        )));
    };
    let candidates: Vec<_> = ours.iter().map(|export| candidate(export)).collect();
    let planned = match request.policy.plan(&candidates, now) {
        Ok(planned) => planned,
        Err(behind) => return keep_all(Some(behind.to_string())),
    };
    let goes = |export: &&&Stored| planned.deleted().any(|key| key == export.key);
    // Whatever the clock was when it was named.
    let goes = |export: &&&Stored| goes(export) && export.key != made.key;
    let doomed: Vec<_> = ours.iter().filter(goes).collect();
    let older = |export: &&&Stored| export.named.time < made.named.time && export.size > 0;
    let before = ours.iter().find(older);
    let fell = before.into_iter().chain(doomed.iter().copied());
    let fell = fell.filter_map(|export| {
        let percent = guard::shrank(export.size, made.size, request.shrink)?;
        Some((export, percent))
    });
    if let Some((large, percent)) = fell.max_by_key(|(export, _)| export.size) {
        return keep_all(Some(format!(
            "{}: its export fell from {} to {} ({percent} %), against {}\n  is something missing in GitLab? none of its \
             exports is deleted; if it is right, delete those that are so much larger by hand",
            project.path,
            Size(large.size),
            Size(made.size),
            large.key
        )));
    }
    Plan {
        doomed: doomed.into_iter().map(|export| (*export).clone()).collect(),
        warning: None,
    }
}

fn candidate(export: &Stored) -> Candidate {
    let time: DateTime<Utc> = export.named.time;
    Candidate {
        id: export.key.clone(),
        created_at: time,
        stamp: u64::try_from(time.timestamp()).unwrap_or(0),
        state: if export.size > 0 {
            State::Complete
        } else {
            State::Incomplete("it is empty".to_owned())
        },
        rehearsed_at: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Reader;

    const PROJECT: Project<'_> = Project {
        path: "team/app",
        id: 7,
    };

    fn policy(rules: &str) -> RetentionPolicy {
        let mut reader = Reader::new(&format!("[retention]\n{rules}"), [], None);
        let policy = RetentionPolicy::read(&mut reader.root().section("retention"));
        assert_eq!(reader.finish().len(), 0, "{rules}");
        policy.expect("a policy")
    }

    /// Exports by their names and sizes, the newest first.
    fn stored(list: &[(&str, u64)]) -> Vec<Stored> {
        let name = Template::default();
        let list = list.iter().map(|(file, size)| {
            let key = format!("/team/app/{file}");
            Stored {
                named: name.understand(&key, "team/app", 7).expect("an export"),
                key,
                size: *size,
                rev: "1".to_owned(),
            }
        });
        list.collect()
    }

    fn planned(rules: &str, made: &str, now: &str, list: &[(&str, u64)]) -> (Vec<String>, String) {
        let now = DateTime::parse_from_rfc3339(now).expect("a time").to_utc();
        let made = format!("/team/app/{made}");
        let request = Request {
            name: &Template::default(),
            policy: &policy(rules),
            shrink: Percent(30),
            made: &made,
        };
        let plan = plan(&stored(list), PROJECT, &request, &now);
        let doomed = plan.doomed.iter();
        let names = doomed.map(|export| export.key.replace("/team/app/", ""));
        (names.collect(), plan.warning.unwrap_or_default())
    }

    const NOW: &str = "2026-11-22T05:00:00Z";
    const MADE: &str = "2026-11-22-04-00-00.tar.gz";

    #[test]
    fn what_no_rule_keeps_goes_and_only_of_what_the_template_names() {
        let list = [
            (MADE, 100),
            ("2026-11-21-04-00-00.tar.gz", 100),
            ("2026-11-20-04-00-00.tar.gz.age", 100),
            ("2026-11-19-04-00-00.tgz", 100),
            ("2026-11-18-04-00-00.tar.gz", 0),
            ("2026-11-17-04-00-00.tar.gz", 100),
        ];
        for (rules, doomed) in [
            ("", [].as_slice()),
            ("keep_last = 3", &["2026-11-17-04-00-00.tar.gz"]),
            (
                "keep_last = 1",
                &[
                    "2026-11-21-04-00-00.tar.gz",
                    "2026-11-20-04-00-00.tar.gz.age",
                    "2026-11-17-04-00-00.tar.gz",
                ],
            ),
            (
                "keep_last = 0\nkeep_monthly = 5",
                &[
                    "2026-11-21-04-00-00.tar.gz",
                    "2026-11-20-04-00-00.tar.gz.age",
                    "2026-11-17-04-00-00.tar.gz",
                ],
            ),
            ("keep_daily = 30", &[]),
        ] {
            let (names, warning) = planned(rules, MADE, NOW, &list);
            assert_eq!(
                (names.as_slice(), warning.as_str()),
                (
                    &doomed
                        .iter()
                        .map(|name| (*name).to_owned())
                        .collect::<Vec<_>>()[..],
                    ""
                ),
                "{rules}"
            );
        }
    }

    #[test]
    fn nothing_goes_while_the_new_one_is_not_seen_or_the_clock_is_behind() {
        let list = [
            ("2026-11-21-04-00-00.tar.gz", 100),
            ("2026-11-20-04-00-00.tar.gz", 100),
        ];
        let (names, warning) = planned("keep_last = 1", MADE, NOW, &list);
        assert!(
            names.is_empty() && warning.contains("is not in the list"),
            "{warning}"
        );
        let (names, warning) = planned("keep_last = 1", MADE, NOW, &[(MADE, 0), list[0], list[1]]);
        assert!(
            names.is_empty() && warning.contains("is not in the list"),
            "{warning}"
        );
        let late = [("2027-01-01-00-00-00.tar.gz", 100), (MADE, 100), list[0]];
        let (names, warning) = planned("keep_last = 1", MADE, NOW, &late);
        assert!(
            names.is_empty() && warning.contains("the clock says"),
            "{warning}"
        );
    }

    #[test]
    fn the_export_of_this_run_stays_even_if_it_is_not_the_newest() {
        // A run that was interrupted keeps its time; another one came in between.
        let list = [
            ("2026-11-22-04-30-00.tar.gz", 100),
            (MADE, 100),
            ("2026-11-21-04-00-00.tar.gz", 100),
        ];
        let (names, _) = planned("keep_last = 1", MADE, NOW, &list);
        assert_eq!(names, ["2026-11-21-04-00-00.tar.gz"]);
    }

    #[test]
    fn what_shrank_keeps_what_was_larger_run_after_run() {
        let large = 100 << 20;
        let days = [
            (MADE, 1 << 20),
            ("2026-11-21-04-00-00.tar.gz", large),
            ("2026-11-20-04-00-00.tar.gz", large),
        ];
        let (names, warning) = planned("keep_last = 1", MADE, NOW, &days);
        assert!(names.is_empty(), "{names:?}");
        assert!(
            warning.contains("team/app: its export fell from 100.0 MiB to 1.0 MiB (99 %)"),
            "{warning}"
        );
        // Also where no rule would have deleted anything yet.
        let (_, warning) = planned("keep_last = 9", MADE, NOW, &days);
        assert!(warning.contains("fell from"), "{warning}");
        // The next run: its neighbour is as small as it is, the good ones stay nevertheless.
        let next = ["2026-11-23-04-00-00.tar.gz", "2026-11-24-04-00-00.tar.gz"];
        let all = [
            (next[1], 1 << 20),
            (next[0], 1 << 20),
            days[0],
            days[1],
            days[2],
        ];
        let (names, warning) = planned("keep_last = 2", next[1], "2026-11-24T05:00:00Z", &all);
        assert!(
            names.is_empty() && warning.contains("2026-11-2"),
            "{warning}"
        );
        // Within the limit it is daily life, and a few bytes are nothing.
        for (before, now) in [(100 << 20, 71 << 20), (900, 500)] {
            let list = [(MADE, now), (days[1].0, before), (days[2].0, before)];
            let (names, warning) = planned("keep_last = 2", MADE, NOW, &list);
            assert_eq!(
                (names.as_slice(), warning.as_str()),
                (&[days[2].0.to_owned()][..], "")
            );
        }
    }
}
