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
    // What only exports projects has no backup to be complete.
    let exported = facts.health.projects.as_ref();
    let exported = exported.filter(|_| !facts.known.wants_backups());
    match (
        &facts.history,
        facts.health.healthy,
        facts.health.created_at.is_some() || exported.is_some(),
    ) {
        (Err(_), false, _) => "Not known",
        (_, true, _) => "Safe",
        (_, false, true) => "Not safe",
        (_, false, false) => "No complete backup",
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
        None if !facts.known.wants_backups() => exported(facts),
        None if facts.known.runs.is_empty() => "This machine remembers no run.".to_owned(),
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
    if facts.known.wants_backups() {
        let (next, more) = next_run(facts, clock);
        fact("Next run", &next, &more);
    }
    if let Some(projects) = &health.projects {
        let next = projects.next_run.map(|next| clock.moment(next));
        let next = next.unwrap_or_else(|| "none is scheduled".to_owned());
        fact("Next project export", &next, "");
    }
    if let Some(until) = good_until(facts, clock) {
        fact(
            "This holds until",
            &clock.moment(until),
            "later, look for a newer page",
        );
    }
    html + "</dl>\n</div>\n</section>\n"
}

/// How old the last good export is, where there is nothing else.
fn exported(facts: &Facts<'_>) -> String {
    let age = facts.health.projects.as_ref();
    match age.and_then(|projects| projects.age_seconds) {
        Some(age) => {
            let age = Span(to_minutes(Duration::from_secs(age)));
            format!("The last good project export is {age} old.")
        }
        None => "No export that is remembered has brought all projects.".to_owned(),
    }
}

/// When, and how long until then; or why not.
fn next_run(facts: &Facts<'_>, clock: &Clock<'_>) -> (String, String) {
    if let Some(next) = facts.health.next_run {
        let wait = (next - clock.now()).to_std().ok();
        let wait = wait.map(|wait| format!("in {}", Span(to_minutes(wait))));
        return (clock.moment(next), wait.unwrap_or_default());
    }
    let why = |why: &String| Escaped(first_line(why, LONGEST_REASON)).to_string();
    if let Some(error) = &facts.schedule_error {
        return ("not known".to_owned(), why(error));
    }
    let faults = facts.known.schedule.map(|found| &found.faults);
    let fault = faults.and_then(|faults| faults.first());
    (
        "none is scheduled".to_owned(),
        fault.map(why).unwrap_or_default(),
    )
}

/// What is wrong, and what is wrong with the history itself; then what else is worth a look.
fn reasons(facts: &Facts<'_>) -> String {
    let mut reasons: Vec<&str> = Vec::new();
    let damage = match &facts.history {
        Ok(0) => None,
        Ok(damaged) => Some(format!(
            "{} of the history cannot be read; runs may be missing here",
            count(*damaged, "line")
        )),
        Err(error) => Some(error.clone()),
    };
    reasons.extend(damage.as_deref());
    reasons.extend(facts.health.reasons.iter().map(String::as_str));
    let remarks: Vec<_> = facts.health.remarks.iter().map(String::as_str).collect();
    list("reasons", &reasons) + &list("remarks", &remarks)
}

fn list(class: &str, texts: &[&str]) -> String {
    let mut items = String::new();
    for text in texts.iter().take(MOST_REASONS) {
        // The second line is the way out.
        let mut lines = text.lines().filter(|line| !line.trim().is_empty());
        let mut line =
            || Escaped(first_line(lines.next().unwrap_or_default(), LONGEST_REASON)).to_string();
        let (what, hint) = (line(), line());
        let hint = if hint.is_empty() {
            hint
        } else {
            format!("<span>{hint}</span>")
        };
        let _ = writeln!(items, "<li>{what}{hint}</li>");
    }
    if texts.len() > MOST_REASONS {
        let _ = writeln!(items, "<li>and {} more</li>", texts.len() - MOST_REASONS);
    }
    if items.is_empty() {
        items
    } else {
        format!("<ul class=\"{class}\">\n{items}</ul>\n")
    }
}

/// When the newest backup, or the last export, will be too old; only of healthy ones.
fn good_until(facts: &Facts<'_>, clock: &Clock<'_>) -> Option<DateTime<Utc>> {
    let health = facts.health;
    let later = |made: DateTime<Utc>, seconds: u64| {
        let may_be_old = Duration::from_secs(seconds);
        let delta = TimeDelta::from_std(may_be_old).ok()?;
        made.checked_add_signed(delta)
            .filter(|_| !may_be_old.is_zero())
    };
    let backup = health.created_at;
    let backup = backup.and_then(|made| later(made, health.max_age_seconds));
    let exports = health.projects.as_ref().and_then(|projects| {
        let age = Duration::from_secs(projects.age_seconds?);
        let made = clock
            .now()
            .checked_sub_signed(TimeDelta::from_std(age).ok()?)?;
        later(made, projects.max_age_seconds)
    });
    let both = [backup, exports].into_iter().flatten();
    both.min().filter(|_| health.healthy)
}
