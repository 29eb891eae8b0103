//! Cron's form of a calendar: five fields, as crontab(5) of Debian's cron tells it.
//!
//! Where day of month and day of week are both restricted, a time fits if one of them does; a field that begins
//! with `*` is not restricted, even `*/2`.

use super::Rule;
use super::set::{Piece, Set, number};

/// A field, from where to where, and names that count up from the first number.
struct Field {
    name: &'static str,
    low: u32,
    high: u32,
    names: &'static [&'static str],
}

const MINUTE: Field = field("minute", 0, 59, &[]);
const HOUR: Field = field("hour", 0, 23, &[]);
const DAY: Field = field("day of month", 1, 31, &[]);
const MONTH: Field = field(
    "month",
    1,
    12,
    &[
        "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
    ],
);
/// Sunday is 0 and 7.
const WEEKDAY: Field = field(
    "day of week",
    0,
    7,
    &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
);

const fn field(name: &'static str, low: u32, high: u32, names: &'static [&'static str]) -> Field {
    Field {
        name,
        low,
        high,
        names,
    }
}

/// `@daily` and the like.
pub(super) fn nickname(word: &str) -> Result<Vec<Rule>, String> {
    let fields = match word.to_ascii_lowercase().as_str() {
        "@yearly" | "@annually" => ["0", "0", "1", "1", "*"],
        "@monthly" => ["0", "0", "1", "*", "*"],
        "@weekly" => ["0", "0", "*", "*", "0"],
        "@daily" | "@midnight" => ["0", "0", "*", "*", "*"],
        "@hourly" => ["0", "*", "*", "*", "*"],
        "@reboot" => {
            return Err("`@reboot` is no time: a backup belongs to the clock".to_owned());
        }
        _ => return Err(format!("cron knows no `{word}`")),
    };
    parse(&fields)
}

/// Understands five fields.
pub(super) fn parse(fields: &[&str]) -> Result<Vec<Rule>, String> {
    let &[minute, hour, day, month, weekday] = fields else {
        return Err("cron's form has five fields".to_owned());
    };
    let mut rule = Rule::daily();
    rule.minutes = set(minute, &MINUTE)?;
    rule.hours = set(hour, &HOUR)?;
    rule.months = set(month, &MONTH)?;
    let days = set(day, &DAY)?;
    let weekdays = set(weekday, &WEEKDAY)?.iter();
    // Monday is 0 for us.
    let weekdays: Set = weekdays.map(|day| (day + 6) % 7).collect();
    if day.starts_with('*') || weekday.starts_with('*') {
        return Ok(vec![Rule {
            weekdays,
            days,
            ..rule
        }]);
    }
    let by_day = Rule {
        days,
        ..rule.clone()
    };
    let by_weekday = Rule { weekdays, ..rule };
    Ok(vec![by_day, by_weekday])
}

fn set(text: &str, field: &Field) -> Result<Set, String> {
    let &Field {
        name,
        low,
        high,
        names,
    } = field;
    let value = |word: &str| {
        let lower = word.to_ascii_lowercase();
        let named = names.iter().position(|name| **name == lower);
        let named = named.and_then(|index| Some(u32::try_from(index).ok()? + low));
        named
            .or_else(|| number(word))
            .filter(|value| (low..=high).contains(value))
            .ok_or_else(|| format!("`{word}` is no {name}, which is {low} to {high}"))
    };
    let mut all = Vec::new();
    for item in text.split(',') {
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => (range, Some(step)),
            None => (item, None),
        };
        let (first, last) = match range.split_once('-') {
            _ if range == "*" => (low, high),
            Some((first, last)) => (value(first)?, value(last)?),
            None if step.is_some() => {
                return Err(format!(
                    "`{item}` takes steps through a single {name}; write {range}-{high}/…"
                ));
            }
            None => (value(range)?, value(range)?),
        };
        if first > last {
            return Err(format!("`{range}` runs backwards"));
        }
        let step = step.map_or(Some(1), |step| number(step).filter(|step| *step > 0));
        let step = step.ok_or_else(|| format!("`{item}` has no step, like */15"))?;
        all.extend((first..=last).step_by(step as usize));
    }
    Ok(all.into_iter().collect())
}

/// The lines for these rules.
pub(super) fn spell(rules: &[Rule]) -> Result<Vec<String>, String> {
    let mut lines = Vec::new();
    let mut rest = rules;
    while let [rule, behind @ ..] = rest {
        if let [other, behind @ ..] = behind
            && let Some(line) = either(rule, other)
        {
            lines.push(line);
            rest = behind;
        } else {
            lines.push(line(rule)?);
            rest = behind;
        }
    }
    Ok(lines)
}

const ALL_DAYS: (u32, u32) = (1, 31);

/// One line for two rules that are the same but for the day: cron's "or".
fn either(by_day: &Rule, by_weekday: &Rule) -> Option<String> {
    let (all_days, all_weekdays) = (Set::range(ALL_DAYS.0, ALL_DAYS.1), Set::range(0, 6));
    let same = Rule {
        weekdays: by_weekday.weekdays,
        days: all_days,
        ..by_day.clone()
    };
    let is_pair = by_day.weekdays == all_weekdays
        && by_day.days != all_days
        && by_weekday.weekdays != all_weekdays
        && same == *by_weekday;
    let (time, months) = time_and_months(by_day).ok().filter(|_| is_pair)?;
    Some(format!(
        "{time} {} {months} {}",
        list(by_day.days, &DAY),
        list(cron_weekdays(by_weekday.weekdays), &WEEKDAY)
    ))
}

fn line(rule: &Rule) -> Result<String, String> {
    let (time, months) = time_and_months(rule)?;
    let weekdays = cron_weekdays(rule.weekdays);
    let all_days = rule.days == Set::range(ALL_DAYS.0, ALL_DAYS.1);
    let all_weekdays = rule.weekdays == Set::range(0, 6);
    let (day, weekday) = match (all_days, all_weekdays) {
        (true, true) => ("*".to_owned(), "*".to_owned()),
        (true, false) => ("*".to_owned(), list(weekdays, &WEEKDAY)),
        (false, true) => (list(rule.days, &DAY), "*".to_owned()),
        // Both must fit, which cron only does where one of them begins with a star.
        (false, false) => {
            // Sunday is the 0 and the 7 of these steps.
            let both = weekdays.iter().chain(weekdays.contains(0).then_some(7));
            match (starred(rule.days, &DAY), starred(both.collect(), &WEEKDAY)) {
                (Some(day), _) => (day, list(weekdays, &WEEKDAY)),
                (None, Some(weekday)) => (list(rule.days, &DAY), weekday),
                (None, None) => starred(weekdays, &WEEKDAY)
                    .map(|weekday| (list(rule.days, &DAY), weekday))
                    .ok_or_else(|| {
                        format!(
                            "`{}`: cron cannot say that day of month and day of week must both fit\n  \
                             use a systemd timer",
                            super::systemd::spell(rule)
                        )
                    })?,
            }
        }
    };
    Ok(format!("{time} {day} {months} {weekday}"))
}

fn time_and_months(rule: &Rule) -> Result<(String, String), String> {
    let what = if rule.seconds != Set::range(0, 0) {
        "seconds"
    } else if rule.years.is_some() {
        "years"
    } else if rule.utc {
        "time zones"
    } else {
        let spelled = |set: Set, field: &Field| match set.step(field.high) {
            _ if set == Set::range(field.low, field.high) => "*".to_owned(),
            Some(step) if set.first() == field.low => format!("*/{step}"),
            _ => list(set, field),
        };
        let (minutes, hours) = (spelled(rule.minutes, &MINUTE), spelled(rule.hours, &HOUR));
        return Ok((format!("{minutes} {hours}"), spelled(rule.months, &MONTH)));
    };
    let text = super::systemd::spell(rule);
    Err(format!(
        "`{text}`: cron knows no {what}\n  use a systemd timer, or leave them out"
    ))
}

fn cron_weekdays(weekdays: Set) -> Set {
    weekdays.iter().map(|day| (day + 1) % 7).collect()
}

/// `*` or `*/15`, if it can be said so.
fn starred(set: Set, field: &Field) -> Option<String> {
    let &Field { low, high, .. } = field;
    if set == Set::range(low, high) {
        return Some("*".to_owned());
    }
    let same = |step: &u32| (low..=high).step_by(*step as usize).collect::<Set>() == set;
    let step = (2..=high).find(same)?;
    Some(format!("*/{step}"))
}

/// Without a star at its beginning.
fn list(set: Set, field: &Field) -> String {
    let first = set.first();
    if let Some(step) = set.step(field.high).filter(|_| field.names.is_empty()) {
        return format!("{first}-{}/{step}", field.high);
    }
    let piece = |piece: Piece| match piece {
        Piece::One(number) => number.to_string(),
        Piece::Range(first, last) => format!("{first}-{last}"),
    };
    let pieces = set.pieces().into_iter().map(piece);
    pieces.collect::<Vec<_>>().join(",")
}
