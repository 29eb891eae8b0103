//! The last rehearsal of each place, and the last runs, one by one.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::clock::to_minutes;
use super::text::{Escaped, first_line};
use super::{Clock, Ending, Entry};
use crate::history::past::{PastRehearsal, PastRun};
use crate::status::Known;
use crate::units::{Size, Span};

const MOST_RUNS: usize = 10;
/// Places that are no longer configured are shown, too, but not without end.
const MOST_PLACES: usize = 24;
const LONGEST_ERROR: usize = 300;

/// A table of the last rehearsal of each place.
pub(super) fn rehearsals(known: &Known<'_>, clock: &Clock<'_>) -> String {
    let mut last: BTreeMap<&str, &PastRehearsal> = BTreeMap::new();
    for past in known
        .rehearsals
        .iter()
        .filter(|past| clock.believable(past.finished_at).is_some())
    {
        last.insert(&past.destination, past);
    }
    let configured: Vec<_> = known
        .destinations
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    let others = last
        .keys()
        .copied()
        .filter(|name| !configured.contains(name));
    let mut rows = String::new();
    for place in configured.iter().copied().chain(others).take(MOST_PLACES) {
        let shown = if place == "local" {
            "this machine".to_owned()
        } else {
            first_line(place, 60)
        };
        let told = match last.get(place) {
            None => "<td colspan=\"3\" class=\"quiet\">never, as far as this machine knows</td>"
                .to_owned(),
            Some(past) => {
                let (ending, word) = match past.restorable {
                    Some(true) => (Ending::Good, "restorable"),
                    Some(false) => (Ending::Failed, "not restorable"),
                    None => (Ending::Unknown, "not read to its end"),
                };
                format!(
                    "<td>{}</td><td>{} ago</td><td class=\"wide\">{}</td>",
                    sign(ending, word),
                    clock.age(past.finished_at),
                    Escaped(first_line(&past.backup_id, 80))
                )
            }
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            rows,
            "<tr><th scope=\"row\" class=\"place\">{}</th>{told}</tr>",
            Escaped(shown)
        );
    }
    format!(
        "<section aria-labelledby=\"rehearsals\">\n<h2 id=\"rehearsals\">Last rehearsals</h2>\n\
         <p class=\"note\">A rehearsal reads a whole backup and proves that it would restore.</p>\n\
         <table>\n<thead><tr><th scope=\"col\">Place</th><th scope=\"col\">Result</th><th scope=\"col\">When</th>\
         <th scope=\"col\" class=\"wide\">Backup</th></tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n</section>\n"
    )
}

/// A table of the last runs, the newest first, each with the first line of its error.
pub(super) fn runs(runs: &[Entry<'_>], clock: &Clock<'_>) -> String {
    let mut rows = String::new();
    for entry in runs.iter().rev().take(MOST_RUNS) {
        let run = entry.run;
        let _ = writeln!(
            rows,
            "<tr><th scope=\"row\">{}</th><td>{}</td><td class=\"number\">{}</td><td class=\"number\">{}</td>\
             <td class=\"wide\">{}</td></tr>",
            clock.short(entry.at),
            sign(entry.ending, entry.ending.word()),
            took(run).map_or("–".to_owned(), |took| Span(took).to_string()),
            size(run).map_or("–".to_owned(), |size| Size(size).to_string()),
            Escaped(first_line(run.backup_id.as_deref().unwrap_or("–"), 80)),
        );
        if let Some(error) = &run.error {
            let _ = writeln!(
                rows,
                "<tr class=\"error\"><td colspan=\"5\">{}</td></tr>",
                Escaped(first_line(error, LONGEST_ERROR))
            );
        }
    }
    let body = if rows.is_empty() {
        "<p class=\"note\">No run has been recorded yet.</p>\n".to_owned()
    } else {
        format!(
            "<table>\n<thead><tr><th scope=\"col\">Begun</th><th scope=\"col\">Result</th>\
             <th scope=\"col\" class=\"number\">Took</th><th scope=\"col\" class=\"number\">Size</th>\
             <th scope=\"col\" class=\"wide\">Backup</th></tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n"
        )
    };
    format!(
        "<section aria-labelledby=\"runs\">\n<h2 id=\"runs\">Last ten runs</h2>\n{body}</section>\n"
    )
}

pub(super) fn sign(ending: Ending, word: &str) -> String {
    let class = ending.class();
    format!(
        "<span class=\"ending {class}\"><svg viewBox=\"0 0 12 12\" aria-hidden=\"true\"><use href=\"#day\"/>\
         <use href=\"#s-{class}\"/></svg>{word}</span>"
    )
}

fn took(run: &PastRun) -> Option<Duration> {
    let took = (run.finished_at? - run.started_at?).to_std().ok()?;
    Some(to_minutes(took))
}

/// What it brought away, all archives together.
fn size(run: &PastRun) -> Option<u64> {
    let sizes = run.archives.iter().map(|archive| archive.size);
    sizes.reduce(u64::saturating_add)
}
