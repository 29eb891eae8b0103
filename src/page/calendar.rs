//! A year of runs, a column for each week.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use chrono::{Datelike, Days, NaiveDate};

use super::text::{Escaped, count, first_line};
use super::{Clock, Ending, Entry};

/// Side by side on a desk, one above the other on a phone.
const HALVES: u64 = 2;
const WEEKS_PER_HALF: u64 = 27;
/// Of a day and the gap beside it.
const PITCH: u64 = 14;

/// The runs of a day.
struct Day {
    worst: Ending,
    runs: usize,
    error: Option<String>,
}

/// The section, with a legend that counts.
pub(super) fn section(runs: &[Entry<'_>], clock: &Clock<'_>) -> String {
    let first = clock.monday(HALVES * WEEKS_PER_HALF - 1);
    let mut days: BTreeMap<NaiveDate, Day> = BTreeMap::new();
    let mut counts = [0; Ending::ALL.len()];
    for entry in runs {
        let date = clock.local(entry.at).date();
        if date < first || date > clock.today() {
            continue;
        }
        counts[entry.ending as usize] += 1;
        let day = days.entry(date).or_insert(Day {
            worst: entry.ending,
            runs: 0,
            error: None,
        });
        day.runs += 1;
        if entry.ending >= day.worst {
            day.worst = entry.ending;
            day.error = entry
                .run
                .error
                .as_deref()
                .map(|error| first_line(error, 120));
        }
    }
    let counted = Ending::ALL.into_iter().zip(counts);
    let told: Vec<_> = counted.filter(|(_, n)| *n > 0).collect();
    let summary = told
        .iter()
        .map(|(ending, n)| format!("{n} {}", ending.word()));
    let (summary, note) = if told.is_empty() {
        ("no run".to_owned(), "no run in the last year")
    } else {
        let summary: Vec<_> = summary.collect();
        (summary.join(", "), "the worst run of each day")
    };
    let mut html = "<section aria-labelledby=\"calendar\">\n<h2 id=\"calendar\">A year of runs</h2>\n<div class=\"year\">\n".to_owned();
    for half in 0..HALVES {
        let start = first + Days::new(half * WEEKS_PER_HALF * 7);
        html += &weeks(half, start, &days, &summary, clock);
    }
    html += "</div>\n<ul class=\"legend\">\n";
    for (ending, n) in told {
        // Writing to a string cannot fail.
        let _ = writeln!(
            html,
            "<li class=\"{class}\"><svg viewBox=\"0 0 12 12\" aria-hidden=\"true\"><use href=\"#day\"/><use href=\"#s-{class}\"/></svg>{n} {word}</li>",
            class = ending.class(),
            word = ending.word()
        );
    }
    let _ = writeln!(html, "<li>{note}</li>");
    html + "</ul>\n</section>\n"
}

fn weeks(
    half: u64,
    start: NaiveDate,
    days: &BTreeMap<NaiveDate, Day>,
    summary: &str,
    clock: &Clock<'_>,
) -> String {
    let (mut months, mut empty, mut cells) = (String::new(), String::new(), String::new());
    let mut last = start;
    for week in 0..WEEKS_PER_HALF {
        let monday = start + Days::new(week * 7);
        // A month's name stands over the week of its first day, unless it would not fit.
        let sunday = monday + Days::new(6);
        if sunday.day() <= 7 && week + 2 < WEEKS_PER_HALF {
            let _ = write!(
                months,
                "<span style=\"grid-column:{}\">{}</span>",
                week + 1,
                sunday.format("%b")
            );
        }
        for (row, date) in (0..7).map(|row| (row, monday + Days::new(row))) {
            if date > clock.today() {
                break;
            }
            last = date;
            let (x, y) = (week * PITCH + 1, row * PITCH + 1);
            let Some(day) = days.get(&date) else {
                let _ = write!(empty, "<use href=\"#day\" x=\"{x}\" y=\"{y}\"/>");
                continue;
            };
            let class = day.worst.class();
            let error = day
                .error
                .as_ref()
                .map(|error| format!(": {error}"))
                .unwrap_or_default();
            let many = if day.runs > 1 {
                format!(" ({})", count(day.runs, "run"))
            } else {
                String::new()
            };
            let told = format!(
                "{}{many}, {}{error}",
                date.format("%a %-d %b %Y"),
                day.worst.word()
            );
            let _ = writeln!(
                cells,
                "<g class=\"{class}\"><title>{}</title><use href=\"#day\" x=\"{x}\" y=\"{y}\"/>\
                 <use href=\"#s-{class}\" x=\"{x}\" y=\"{y}\"/></g>",
                Escaped(told)
            );
        }
    }
    format!(
        "<figure class=\"weeks\">\n<div class=\"months\" aria-hidden=\"true\">{months}</div>\n\
         <div class=\"weekdays\" aria-hidden=\"true\"><span>Mon</span><span></span><span>Wed</span><span></span><span>Fri</span><span></span><span></span></div>\n\
         <svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-labelledby=\"c{half}t c{half}d\">\
         <title id=\"c{half}t\">Runs from {} to {}</title>\
         <desc id=\"c{half}d\">A column for each week, a square for each day. The year in all: {summary}.</desc>\n\
         <g class=\"none\">{empty}</g>\n{cells}</svg>\n</figure>\n",
        start.format("%-d %b %Y"),
        last.format("%-d %b %Y"),
        width = WEEKS_PER_HALF * PITCH,
        height = 7 * PITCH,
    )
}
