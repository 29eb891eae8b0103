//! The exports of projects: how the last one ended, what failed in it, and those before.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};

use super::clock::to_minutes;
use super::last::sign;
use super::text::{Escaped, count, first_line};
use super::{Clock, Ending};
use crate::history::past::PastExport;
use crate::status::Exports;
use crate::units::{Size, Span};

const MOST_EXPORTS: usize = 10;
const MOST_FAILURES: usize = 20;
const LONGEST_ERROR: usize = 300;
const LONGEST_PATH: usize = 120;
/// More bytes are not believed, and would not fit on a telephone.
const MOST_BYTES: u64 = 1 << 53;

/// A table of the last exports, the newest first, and what failed in the newest; nothing where projects are not
/// exported, and never were.
pub(super) fn section(exports: &Exports<'_>, clock: &Clock<'_>) -> String {
    if !exports.is_configured && exports.past.is_empty() {
        return String::new();
    }
    let time = |export: &PastExport| clock.believable(export.started_at.or(export.finished_at)?);
    let past = exports.past.iter();
    let past = past.filter_map(|export| Some((time(export)?, export)));
    let mut past: Vec<_> = past.collect();
    past.sort_by_key(|(at, _)| *at);
    let (lead, body) = match past.last() {
        None => ("No export has been recorded yet.".to_owned(), String::new()),
        Some((at, last)) => {
            let word = Ending::of_job(&last.status, last.exit).word();
            let lead = format!(
                "The last one began {} ago: {word}, {}.",
                clock.age(*at),
                counts(last)
            );
            (lead, failures(last) + &table(&past, clock))
        }
    };
    let lead = if exports.is_configured {
        lead
    } else {
        format!("{lead} Projects are no longer exported.")
    };
    format!(
        "<section aria-labelledby=\"exports\">\n<h2 id=\"exports\">Project exports</h2>\n\
         <p class=\"note\">{}</p>\n{body}</section>\n",
        Escaped(lead)
    )
}

fn table(past: &[(DateTime<Utc>, &PastExport)], clock: &Clock<'_>) -> String {
    let mut rows = String::new();
    for (at, export) in past.iter().rev().take(MOST_EXPORTS) {
        let ending = Ending::of_job(&export.status, export.exit);
        let took = export.finished_at.zip(export.started_at);
        let took = took.and_then(|(end, start)| (end - start).to_std().ok());
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(
            rows,
            "<tr><th scope=\"row\">{}</th><td>{}</td><td class=\"number\">{}</td><td class=\"number\">{}</td>\
             <td class=\"wide\">{}</td></tr>",
            clock.short(*at),
            sign(ending, ending.word()),
            took.map_or("–".to_owned(), |took| Span(to_minutes(took)).to_string()),
            stored(export),
            Escaped(counts(export)),
        );
        if let Some(error) = &export.error {
            let _ = writeln!(
                rows,
                "<tr class=\"error\"><td colspan=\"5\">{}</td></tr>",
                Escaped(first_line(error, LONGEST_ERROR))
            );
        }
    }
    format!(
        "<table>\n<thead><tr><th scope=\"col\">Begun</th><th scope=\"col\">Result</th>\
         <th scope=\"col\" class=\"number\">Took</th><th scope=\"col\" class=\"number\">Stored</th>\
         <th scope=\"col\" class=\"wide\">Projects</th></tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n"
    )
}

fn stored(export: &PastExport) -> String {
    let bytes = Some(export.bytes).filter(|bytes| *bytes < MOST_BYTES);
    bytes.map_or("–".to_owned(), |bytes| Size(bytes).to_string())
}

/// The projects that failed in it, each with its reason.
fn failures(export: &PastExport) -> String {
    let mut items = String::new();
    for failure in export.failures.iter().take(MOST_FAILURES) {
        let why = failure.error.as_deref().unwrap_or("it does not say why");
        let _ = writeln!(
            items,
            "<li>{}<span>{}</span></li>",
            Escaped(first_line(&failure.path, LONGEST_PATH)),
            Escaped(first_line(why, LONGEST_ERROR))
        );
    }
    let shown = export.failures.len().min(MOST_FAILURES) as u64;
    let more = export.counts.failed.saturating_sub(shown);
    if more > 0 && !items.is_empty() {
        let _ = writeln!(items, "<li>and {more} more</li>");
    }
    if items.is_empty() {
        return items;
    }
    format!("<h3>Projects that failed in it</h3>\n<ul class=\"reasons failures\">\n{items}</ul>\n")
}

/// `41 projects: 38 exported, 3 failed`.
fn counts(export: &PastExport) -> String {
    let all = usize::try_from(export.counts.all()).unwrap_or(usize::MAX);
    let named = export.counts.named().into_iter();
    let named = named.filter(|(_, count)| *count > 0);
    let named = named.map(|(name, count)| format!("{count} {}", name.replace('_', " ")));
    let named: Vec<_> = named.collect();
    if named.is_empty() {
        "no project".to_owned()
    } else {
        format!("{}: {}", count(all, "project"), named.join(", "))
    }
}
