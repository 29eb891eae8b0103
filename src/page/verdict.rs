//! Is it safe now?

use std::fmt::Write as _;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::clock::to_minutes;
use super::text::{Escaped, count, first_line};
use super::{Clock, Facts};
use crate::units::Span;

/// More are not read.
const MOST_REASONS: usize = 12;
const LONGEST_REASON: usize = 300;

/// For the window's title.
pub(super) fn title(facts: &Facts<'_>) -> String {
    format!("{} · GitLab backups", word(facts))
}

fn word(facts: &Facts<'_>) -> &'static str {
    match (
        &facts.history,
        facts.health.healthy,
        facts.health.created_at,
    ) {
        (Err(_), false, _) => "Not known",
        (_, true, _) => "Safe",
        (_, false, Some(_)) => "Not safe",
        (_, false, None) => "No complete backup",
    }
}

/// The first thing on the page.
pub(super) fn section(facts: &Facts<'_>, clock: &Clock<'_>) -> String {
    let health = facts.health;
    let class = if health.healthy { "good" } else { "bad" };
    let made = health.created_at;
    let lead = match made {
        Some(made) => format!("The newest complete backup is {} old.", clock.age(made)),
        None if facts.history.is_err() => "What earlier runs did cannot be read.".to_owned(),
        None if facts.known.runs.is_empty() => {
            "No run has been recorded on this machine.".to_owned()
        }
        None => "No run that is remembered has stored a whole backup.".to_owned(),
    };
    let mut html = format!(
        "<section class=\"verdict {class}\" aria-labelledby=\"verdict\">\n\
         <svg class=\"sign\" viewBox=\"0 0 12 12\" aria-hidden=\"true\"><use href=\"#day\"/><use href=\"#s-{class}\"/></svg>\n\
         <div>\n<h1 id=\"verdict\">{}</h1>\n<p class=\"lead\">{}</p>\n",
        word(facts),
        Escaped(lead)
    );
    html += &reasons(facts);
    html += "<dl class=\"facts\">\n";
    let mut fact = |name: &str, value: &str, more: &str| {
        let more = if more.is_empty() {
            String::new()
        } else {
            format!("<span>{more}</span>")
        };
        // Writing to a string cannot fail.
        let _ = writeln!(html, "<div><dt>{name}</dt><dd>{value}{more}</dd></div>");
    };
    if let Some(made) = made {
        let id = health.backup_id.as_deref().unwrap_or_default();
        fact(
            "Newest complete backup",
            &clock.moment(made),
            &Escaped(first_line(id, 80)).to_string(),
        );
    }
    match health.next_run {
        Some(next) => {
            let wait = (next - clock.now()).to_std().unwrap_or_default();
            let wait = format!("in {}", Span(to_minutes(wait)));
            fact(
                "Next run",
                &clock.moment(next),
                if next > clock.now() { &wait } else { "" },
            );
        }
        None => match &facts.schedule_error {
            None => fact("Next run", "none is scheduled", ""),
            Some(error) => fact(
                "Next run",
                "not known",
                &Escaped(first_line(error, LONGEST_REASON)).to_string(),
            ),
        },
    }
    if let Some(until) = good_until(facts) {
        fact(
            "This holds until",
            &clock.moment(until),
            "later, look for a newer page",
        );
    }
    html + "</dl>\n</div>\n</section>\n"
}

/// What is wrong, and what is wrong with the history itself.
fn reasons(facts: &Facts<'_>) -> String {
    let mut reasons: Vec<String> = Vec::new();
    match &facts.history {
        Ok(0) => {}
        Ok(damaged) => reasons.push(format!(
            "{} of the history cannot be read; runs may be missing here",
            count(*damaged, "line")
        )),
        Err(error) => reasons.push(error.clone()),
    }
    reasons.extend(facts.health.reasons.iter().cloned());
    let more = reasons.len().saturating_sub(MOST_REASONS);
    reasons.truncate(MOST_REASONS);
    let mut items: String = String::new();
    for reason in &reasons {
        // The second line is the way out.
        let mut lines = reason.lines().filter(|line| !line.trim().is_empty());
        let what = Escaped(first_line(lines.next().unwrap_or_default(), LONGEST_REASON));
        let hint = first_line(lines.next().unwrap_or_default(), LONGEST_REASON);
        let hint = if hint.is_empty() {
            String::new()
        } else {
            format!("<span>{}</span>", Escaped(hint))
        };
        let _ = writeln!(items, "<li>{what}{hint}</li>");
    }
    if more > 0 {
        let _ = writeln!(items, "<li>and {more} more</li>");
    }
    if items.is_empty() {
        items
    } else {
        format!("<ul class=\"reasons\">\n{items}</ul>\n")
    }
}

/// When the newest backup will be too old; only of a healthy one.
fn good_until(facts: &Facts<'_>) -> Option<DateTime<Utc>> {
    let health = facts.health;
    let may_be_old = Duration::from_secs(health.max_age_seconds);
    let made = health
        .created_at
        .filter(|_| health.healthy && !may_be_old.is_zero())?;
    made.checked_add_signed(TimeDelta::from_std(may_be_old).ok()?)
}
