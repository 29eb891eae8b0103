//! The report page: one HTML file that tells at a glance whether the backups are safe, and at a second one how
//! they have been for a year.
//!
//! It is a picture of one moment: nothing in it is fetched or computed when it is looked at, so it says itself until
//! when it can be believed. Everything it shows stands in the history, which is not trusted: each text is escaped and
//! cut, each time and number has bounds, and what is drawn is thinned out, so that the page stays small.

mod calendar;
mod chart;
mod clock;
mod exports;
mod file;
mod growth;
mod last;
mod places;
mod style;
mod text;
mod verdict;

use chrono::{DateTime, TimeZone, Utc};

use crate::history::past::PastRun;
use crate::page::clock::Clock;
use crate::page::text::{Escaped, VERSION};
use crate::status::{Health, Known};

pub use crate::page::file::write;

/// What the page tells of.
pub struct Facts<'a> {
    /// What is known on this machine.
    pub known: &'a Known<'a>,
    /// How that was judged.
    pub health: &'a Health,
    /// How many lines of the history are damaged, or why it could not be read.
    pub history: Result<usize, String>,
    /// Why it is not known what starts runs.
    pub schedule_error: Option<String>,
}

/// How a run ended, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ending {
    Good,
    InPart,
    Stopped,
    Failed,
    Unknown,
}

impl Ending {
    const ALL: [Ending; 5] = [
        Ending::Good,
        Ending::InPart,
        Ending::Stopped,
        Ending::Failed,
        Ending::Unknown,
    ];

    fn of(run: &PastRun) -> Ending {
        Ending::of_job(&run.status, run.exit)
    }

    fn of_job(status: &str, exit: Option<u8>) -> Ending {
        match (status, exit) {
            (_, Some(129 | 130 | 143)) => Ending::Stopped,
            ("ok", _) => Ending::Good,
            ("partial", _) => Ending::InPart,
            ("failed", _) => Ending::Failed,
            _ => Ending::Unknown,
        }
    }

    /// In words, beside its sign.
    fn word(self) -> &'static str {
        match self {
            Ending::Good => "ok",
            Ending::InPart => "in part",
            Ending::Stopped => "stopped",
            Ending::Failed => "failed",
            Ending::Unknown => "unknown",
        }
    }

    /// The class that colours it, and with `s-` before it the name of its sign.
    fn class(self) -> &'static str {
        match self {
            Ending::Good => "good",
            Ending::InPart => "part",
            Ending::Stopped => "stop",
            Ending::Failed => "bad",
            Ending::Unknown => "dim",
        }
    }
}

/// A run that has a time.
struct Entry<'a> {
    run: &'a PastRun,
    at: DateTime<Utc>,
    ending: Ending,
}

/// The runs in the order of their times: a clock may have jumped.
fn entries<'a>(runs: &'a [PastRun], clock: &Clock<'_>) -> Vec<Entry<'a>> {
    let time = |run: &PastRun| clock.believable(run.started_at.or(run.finished_at)?);
    let entry = |run: &'a PastRun| {
        Some(Entry {
            run,
            at: time(run)?,
            ending: Ending::of(run),
        })
    };
    let mut entries: Vec<_> = runs.iter().filter_map(entry).collect();
    entries.sort_by_key(|entry| entry.at);
    entries
}

/// The page, as it is at `now`, in the time zone of `now`.
pub fn html<Tz: TimeZone>(facts: &Facts<'_>, now: &DateTime<Tz>) -> String {
    let zone = now.timezone();
    let local = |time: DateTime<Utc>| time.with_timezone(&zone).naive_local();
    let clock = Clock::new(now.with_timezone(&Utc), &local);
    let runs = entries(facts.known.runs, &clock);
    let exports = exports::section(&facts.known.exports, &clock);
    // A machine that only exports projects, and never did anything else, has nothing to tell of runs.
    let sections = if facts.known.wants_backups() || !runs.is_empty() {
        vec![
            places::section(facts, &runs, &clock),
            calendar::section(&runs, &clock),
            chart::sizes(&runs, &clock),
            chart::durations(&runs, &clock),
            exports,
            last::rehearsals(facts.known, &clock),
            last::runs(&runs, &clock),
        ]
    } else {
        vec![exports]
    };
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta name=\"robots\" content=\"noindex\">\n\
         <title>{title}</title>\n<style>\n{css}</style>\n</head>\n<body>\n{signs}\
         <header><p class=\"name\">GitLab backups</p><p>as of {now}</p></header>\n\
         <main>\n{verdict}{sections}</main>\n\
         <footer><p>A picture of one moment, made by gitlab-pi-backup {version} from its history on this machine. It \
         does not change by itself: <code>gitlab-pi-backup status --remote</code> asks the destinations \
         now.</p></footer>\n\
         </body>\n</html>\n",
        title = Escaped(verdict::title(facts)),
        css = style::CSS,
        signs = style::SIGNS,
        now = clock.moment(clock.now()),
        verdict = verdict::section(facts, &clock),
        sections = sections.concat(),
        version = VERSION,
    )
}
