//! Whether everything a run needs is there, and whether the runs that were are in order: one verdict per check, each
//! failed one with a hint.
//!
//! Nothing is changed, and no lock is taken: what is tried out is a file without a name on this machine, and one small
//! file at each destination, which is deleted again. A failed check does not keep the others from being made; what
//! cannot be judged because of it is skipped, so that what fails is the cause and not its consequences.
//!
//! `configuration` the file, who may touch it, variables · `gitlab` commands, version, folders, how long archives
//! stay · `leftovers` of backups that did not end · `disk` room ·
//! `destinations` credentials, rights, folders, room · `api` GitLab's API, where it is used · `clock` · `state` the state folder, the lock, an unfinished
//! restore · `schedule` what starts runs, the last one, who is told.

mod api;
mod clock;
pub mod configuration;
mod destinations;
mod disk;
mod gitlab;
mod leftovers;
pub mod schedule;
mod state;

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use serde::Serialize;

use crate::archive::{ArchiveKind, newest};
use crate::destination::Destination;
use crate::doctor::configuration::{Configuration, Environment};
use crate::doctor::schedule::{Exports, Plan, Target};
use crate::gitlab::api::Api;
use crate::gitlab::host;
use crate::history;
use crate::history::past::{self, PastExport, PastRun};
use crate::job::Job;
use crate::local::find_archives;
use crate::report::Status;
use crate::state::StateDir;
use crate::stop::Stop;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckStatus {
    /// Well.
    Ok,
    /// A run would fail, or nobody would notice that it did.
    Failed,
    /// There is nothing to judge, or it cannot be judged now; the detail says why.
    Skipped,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Its name; it never changes.
    pub check: &'static str,
    /// How it ended.
    pub status: CheckStatus,
    /// What was found, in words; more than one line if more than one thing is wrong.
    pub detail: String,
    /// What the user can do; also with a good one, as advice.
    pub hint: Option<String>,
}

impl Check {
    fn new(check: &'static str, status: CheckStatus, detail: impl Into<String>) -> Check {
        Check {
            check,
            status,
            detail: detail.into(),
            hint: None,
        }
    }

    fn ok(check: &'static str, detail: impl Into<String>) -> Check {
        Check::new(check, CheckStatus::Ok, detail)
    }

    fn skipped(check: &'static str, detail: impl Into<String>) -> Check {
        Check::new(check, CheckStatus::Skipped, detail)
    }

    /// From a message as the house writes them: what happened, and in the lines below what can be done.
    fn failed(check: &'static str, message: &str) -> Check {
        let (detail, hint) = message.split_once('\n').unwrap_or((message, ""));
        let hint: Vec<_> = hint.lines().map(str::trim).collect();
        Check {
            hint: Some(hint.join("\n")).filter(|hint| !hint.is_empty()),
            ..Check::new(check, CheckStatus::Failed, detail)
        }
    }

    #[must_use]
    fn hint(mut self, hint: impl Into<String>) -> Check {
        self.hint = Some(hint.into());
        self
    }
}

/// What is examined.
pub struct Subject<'a> {
    /// The configuration file.
    pub configuration: Configuration<'a>,
    /// The variables this program was started with.
    pub environment: Environment<'a>,
    /// `[gitlab]`.
    pub gitlab: &'a host::Settings,
    /// GitLab's API, or what is missing to ask it; none where it is not used.
    pub api: Option<&'a Result<Api, String>>,
    /// All configured destinations.
    pub destinations: &'a [Destination],
    /// Lock, journals, history.
    pub state: &'a StateDir,
    /// What starts runs; the error says what could not be asked.
    pub plan: Result<Option<Plan>, String>,
    /// Exports of projects.
    pub exports: Exports,
    /// Where mail programs are looked for, beside the places where they always are.
    pub path: Option<std::ffi::OsString>,
    /// How this program is called, for what comes next.
    pub program: &'a str,
    /// Nothing is asked over the network.
    pub offline: bool,
    /// Whether the program has been asked to stop.
    pub stop: &'a Stop,
}

/// What was found: the shape of `--json`.
#[derive(Debug, Serialize)]
pub struct Examination {
    /// Always `doctor`.
    pub command: &'static str,
    /// `ok`, or `failed` if a check failed.
    pub status: Status,
    /// All checks, in a fixed order; those of destinations once for each.
    pub checks: Vec<Check>,
    /// The command to type next on the way to backups that make themselves; none on a machine that is set up.
    pub next: Option<String>,
    /// The first failed check.
    pub error: Option<String>,
}

/// What is known of earlier runs.
struct Past {
    runs: Vec<PastRun>,
    exports: Vec<PastExport>,
    /// How many lines of the history cannot be understood.
    damaged: usize,
    /// How large the last archive of each kind was, in bytes.
    sizes: Vec<(ArchiveKind, u64)>,
    /// Why the history cannot be read.
    fault: Option<String>,
}

/// Makes all checks. `targets`: who is told how a run ended, and whether each can be reached; asked while the
/// destinations are.
pub async fn examine(
    subject: &Subject<'_>,
    targets: impl Future<Output = Vec<Target>>,
    now: DateTime<Utc>,
) -> Examination {
    let past = Past::read(subject, now);
    let holder = subject.state.lock_holder();
    let plan = subject.plan.as_ref().ok().and_then(Option::as_ref);
    let mut checks = configuration::checks(&subject.configuration, &subject.environment, subject);
    checks.extend(gitlab::checks(subject.gitlab, subject.makes_backups()));
    let running = matches!(holder, Ok(Some(_)));
    checks.push(leftovers::check(subject.gitlab, running));
    checks.push(gitlab::keep_time(subject.gitlab, plan));
    checks.push(disk::check(subject.gitlab, subject.state, &past.sizes));
    let asked = subject.destinations.iter();
    let asked = asked.map(|destination| {
        destinations::checks(destination, &past.sizes, subject.offline, subject.stop)
    });
    let (asked, api, targets) = tokio::join!(
        join_all(asked),
        api::check(subject.api, subject.offline, now),
        targets
    );
    checks.extend(asked.into_iter().flatten());
    if subject.destinations.is_empty() {
        checks.extend(destinations::none());
    }
    checks.extend(api);
    checks.push(clock::check(subject, &past.runs, now));
    checks.extend(state::checks(subject.state, &past, holder, plan, now));
    checks.extend(schedule::checks(subject, &targets, &past.runs, now));
    checks.extend(schedule::last_export(&subject.exports, &past.exports, now));
    Examination::new(checks, subject.next(&past), subject.program)
}

impl Subject<'_> {
    /// Whether anything is to be made here but exports of projects: those need no GitLab on this machine.
    fn makes_backups(&self) -> bool {
        let backups = |place: &Destination| !place.kinds().is_empty();
        !self.exports.is_configured || self.destinations.iter().any(backups)
    }

    /// The command to type next on the way to jobs that start by themselves, if every check passes.
    fn next(&self, past: &Past) -> Option<&'static str> {
        let makes_backups = self.makes_backups();
        let has_never = |job: &Job| match job {
            Job::Run => makes_backups && past.runs.is_empty(),
            Job::Projects => self.exports.is_configured && past.exports.is_empty(),
        };
        if let Some(job) = Job::ALL.into_iter().find(has_never) {
            return Some(job.command());
        }
        let is_planned = !makes_backups && self.exports.plan.is_some();
        (!is_planned && matches!(self.plan, Ok(None))).then_some("schedule install")
    }
}

impl Past {
    fn read(subject: &Subject<'_>, now: DateTime<Utc>) -> Past {
        let (entries, damaged, fault) = match history::read_and_count_damage(subject.state) {
            Ok((entries, damaged)) => (entries, damaged, None),
            Err(error) => (Vec::new(), 0, Some(error.to_string())),
        };
        let size = |kind: ArchiveKind| {
            let archives = find_archives(subject.gitlab, kind).unwrap_or_default();
            let here = newest(&archives, now).0.map(|archive| archive.size);
            here.or_else(|| history::last_size(&entries, kind.as_str()))
        };
        let sizes = ArchiveKind::ALL.into_iter();
        Past {
            sizes: sizes.filter_map(|kind| Some((kind, size(kind)?))).collect(),
            runs: past::runs(&entries),
            exports: past::exports(&entries),
            damaged,
            fault,
        }
    }
}

impl Examination {
    fn new(checks: Vec<Check>, next: Option<&'static str>, program: &str) -> Examination {
        let mut failed = checks
            .iter()
            .filter(|check| check.status == CheckStatus::Failed);
        let error = failed.next().map(|check| {
            let detail = check.detail.lines().next().unwrap_or_default();
            format!("{}: {detail}", check.check)
        });
        let next = next.filter(|_| error.is_none());
        let next = next.map(|next| format!("{program} {next}"));
        let status = if error.is_some() {
            Status::Failed
        } else {
            Status::Ok
        };
        Examination {
            command: "doctor",
            status,
            checks,
            next,
            error,
        }
    }

    /// That it was stopped before it came to an end.
    pub fn stopped(signal: &str) -> Examination {
        Examination {
            command: "doctor",
            status: Status::Failed,
            checks: Vec::new(),
            next: None,
            error: Some(format!("stopped by {signal}")),
        }
    }

    /// The checks that failed.
    pub fn failed(&self) -> impl Iterator<Item = &Check> {
        let checks = self.checks.iter();
        checks.filter(|check| check.status == CheckStatus::Failed)
    }

    /// For people: a line for each check, hints below.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for check in &self.checks {
            let status = match check.status {
                CheckStatus::Ok => "ok",
                CheckStatus::Failed => "FAILED",
                CheckStatus::Skipped => "skipped",
            };
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "{status:<8} {:<17} {}",
                check.check,
                indented(&check.detail)
            );
            if let Some(hint) = &check.hint {
                let _ = writeln!(text, "         {}", indented(hint));
            }
        }
        let count = |status: CheckStatus| {
            let checks = self.checks.iter();
            checks.filter(|check| check.status == status).count()
        };
        let failed = count(CheckStatus::Failed);
        let _ = match failed {
            0 => writeln!(
                text,
                "ok: {} checks passed, {} skipped",
                count(CheckStatus::Ok),
                count(CheckStatus::Skipped)
            ),
            failed => writeln!(text, "FAILED: {failed} of {} checks", self.checks.len()),
        };
        if let Some(next) = &self.next {
            let _ = writeln!(text, "next: {next}");
        }
        text
    }
}

/// What does not fit the first line stands below, as far in as a hint.
fn indented(text: &str) -> String {
    text.replace('\n', "\n         ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_comes_next_while_something_is_wrong() {
        let bad = vec![Check::failed("disk", "full\n  make room")];
        for (checks, next) in [(Vec::new(), Some("x run")), (bad, None)] {
            let examination = Examination::new(checks, Some("run"), "x");
            assert_eq!(examination.next.as_deref(), next);
        }
    }

    #[test]
    fn a_message_becomes_a_detail_and_a_hint() {
        let checks = vec![
            Check::ok("lock", "free"),
            Check::failed("disk", "full\n  make room,\n  or buy one"),
        ];
        let examination = Examination::new(checks, None, "x");
        assert_eq!(examination.error.as_deref(), Some("disk: full"));
        let expected = "ok       lock              free\n\
             FAILED   disk              full\n         make room,\n         or buy one\n\
             FAILED: 1 of 2 checks\n";
        assert_eq!(examination.text(), expected);
    }
}
