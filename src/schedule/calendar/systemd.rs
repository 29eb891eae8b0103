//! Systemd's form of a calendar, as systemd.time(7) tells it and version 252 reads it. Not taken: `~`, days from a
//! month's end; fractions of seconds; time zones but UTC.

use super::set::{Piece, Set, number};
use super::{LAST_YEAR, Rule};

const FIRST_YEAR: i32 = 1970;

const WEEKDAYS: [&str; 7] = [
    "monday",
    "tuesday",
    "wednesday",
    "thursday",
    "friday",
    "saturday",
    "sunday",
];

/// What a number is, and from where to where it may be.
struct Part {
    name: &'static str,
    low: u32,
    high: u32,
}

const fn part(name: &'static str, low: u32, high: u32) -> Part {
    Part { name, low, high }
}

const YEAR: Part = part("year", 1970, 2199);
const MONTH: Part = part("month", 1, 12);
const DAY: Part = part("day", 1, 31);
const HOUR: Part = part("hour", 0, 23);
const MINUTE: Part = part("minute", 0, 59);
const SECOND: Part = part("second", 0, 59);

/// Understands the words of a calendar.
pub(super) fn parse(words: &[&str]) -> Result<Rule, String> {
    let mut rule = Rule::daily();
    let mut words = words.to_vec();
    if words.len() > 1
        && words
            .last()
            .is_some_and(|word| word.eq_ignore_ascii_case("utc"))
    {
        rule.utc = true;
        words.pop();
    }
    if let [word] = words[..]
        && shorthand(&mut rule, word)
    {
        return Ok(rule);
    }
    let mut rest = &words[..];
    if let [word, behind @ ..] = rest
        && word.starts_with(|c: char| c.is_ascii_alphabetic())
    {
        rule.weekdays = weekdays(word)?;
        rest = behind;
    }
    if let [word, behind @ ..] = rest
        && !word.contains(':')
        && word.contains(['-', '~'])
    {
        date(&mut rule, word)?;
        rest = behind;
    }
    if let [word, behind @ ..] = rest
        && word.contains(':')
    {
        time(&mut rule, word)?;
        rest = behind;
    }
    match rest {
        [] => Ok(rule),
        [word] if word.starts_with(|c: char| c.is_ascii_alphabetic()) => Err(format!(
            "`{word}` is no time zone it takes\n  \
             leave it out for the time of this machine, or write UTC"
        )),
        [word, ..] => Err(format!(
            "`{word}` is neither a date, like *-*-01, nor a time, like 04:00"
        )),
    }
}

/// Whether it is one of the words for a whole calendar.
fn shorthand(rule: &mut Rule, word: &str) -> bool {
    let all = |part: &Part| Set::range(part.low, part.high);
    let months = |months: &[u32]| months.iter().copied().collect();
    let first = Set::range(1, 1);
    match word.to_ascii_lowercase().as_str() {
        "minutely" => (rule.hours, rule.minutes) = (all(&HOUR), all(&MINUTE)),
        "hourly" => rule.hours = all(&HOUR),
        "daily" => {}
        "weekly" => rule.weekdays = Set::range(0, 0),
        "monthly" => rule.days = first,
        "quarterly" => (rule.months, rule.days) = (months(&[1, 4, 7, 10]), first),
        "semiannually" | "semi-annually" | "biannually" | "bi-annually" => {
            (rule.months, rule.days) = (months(&[1, 7]), first);
        }
        "yearly" | "annually" => (rule.months, rule.days) = (months(&[1]), first),
        _ => return false,
    }
    true
}

/// `Mon..Fri,Sun`; the older `Mon-Fri` too.
fn weekdays(word: &str) -> Result<Set, String> {
    let number_of = |name: &str| {
        let lower = name.to_ascii_lowercase();
        let is = |day: &str| day == lower || day[..3] == lower;
        let index = WEEKDAYS.iter().position(|day| is(day));
        index
            .and_then(|index| u32::try_from(index).ok())
            .ok_or_else(|| format!("`{name}` is no weekday, like Wed"))
    };
    let mut all = Vec::new();
    let all_items = word.strip_suffix(',').unwrap_or(word).split(',');
    for item in all_items {
        let (first, last) = match item.split_once("..").or_else(|| item.split_once('-')) {
            Some((first, last)) => (number_of(first)?, number_of(last)?),
            None => (number_of(item)?, number_of(item)?),
        };
        if first > last {
            return Err(format!(
                "the weekdays `{item}` run backwards: a week begins on Monday"
            ));
        }
        all.extend(first..=last);
    }
    Ok(all.into_iter().collect())
}

fn date(rule: &mut Rule, word: &str) -> Result<(), String> {
    if word.contains('~') {
        return Err(format!(
            "`{word}` counts days from the end of a month, which is not taken here"
        ));
    }
    let parts: Vec<_> = word.split('-').collect();
    let (year, month, day) = match parts[..] {
        [year, month, day] => (year, month, day),
        [month, day] => ("*", month, day),
        _ => return Err(format!("`{word}` is no date, like *-*-01")),
    };
    rule.years = years(year)?;
    rule.months = set(month, &MONTH)?;
    rule.days = set(day, &DAY)?;
    Ok(())
}

fn time(rule: &mut Rule, word: &str) -> Result<(), String> {
    let parts: Vec<_> = word.split(':').collect();
    let (hour, minute, second) = match parts[..] {
        [hour, minute, second] => (hour, minute, second),
        [hour, minute] => (hour, minute, "0"),
        _ => return Err(format!("`{word}` is no time, like 04:00")),
    };
    rule.hours = set(hour, &HOUR)?;
    rule.minutes = set(minute, &MINUTE)?;
    rule.seconds = set(second, &SECOND)?;
    Ok(())
}

fn set(text: &str, part: &Part) -> Result<Set, String> {
    Ok(numbers(text, part, |number| number)?.into_iter().collect())
}

fn years(text: &str) -> Result<Option<Vec<i32>>, String> {
    if text == "*" {
        return Ok(None);
    }
    // 26 is 2026, 70 is 1970.
    let whole = |year| match year {
        0..70 => 2000 + year,
        70..100 => 1900 + year,
        year => year,
    };
    let mut years: Vec<_> = numbers(text, &YEAR, whole)?
        .into_iter()
        .filter_map(|year| i32::try_from(year).ok())
        .collect();
    years.sort_unstable();
    years.dedup();
    Ok(Some(years))
}

/// `*`, or a list of numbers, ranges `1..5` and steps `0/15`, `1..5/2`.
fn numbers(text: &str, part: &Part, whole: fn(u32) -> u32) -> Result<Vec<u32>, String> {
    let &Part { name, low, high } = part;
    if text == "*" {
        return Ok((low..=high).collect());
    }
    let value = |word: &str| {
        let value = number(word).map(whole);
        value
            .filter(|value| (low..=high).contains(value))
            .ok_or_else(|| format!("`{word}` is no {name}, which is {low} to {high}"))
    };
    let mut all = Vec::new();
    for item in text.split(',') {
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => (range, Some(step)),
            None => (item, None),
        };
        let (first, last) = match (range.split_once(".."), step) {
            (Some((first, last)), _) => (value(first)?, value(last)?),
            // Systemd itself does not take it, but everybody knows what it means.
            (None, Some(_)) if range == "*" => (low, high),
            (None, Some(_)) => (value(range)?, high),
            (None, None) => (value(range)?, value(range)?),
        };
        if first > last {
            return Err(format!("the {name}s `{range}` run backwards"));
        }
        let step = match step {
            None => 1,
            Some(step) => number(step)
                .filter(|step| *step > 0 && first + step <= last)
                .ok_or_else(|| format!("the step of the {name}s `{item}` leads nowhere"))?,
        };
        all.extend((first..=last).step_by(step as usize));
    }
    Ok(all)
}

/// Systemd's own way to write it.
pub(super) fn spell(rule: &Rule) -> String {
    let mut text = String::new();
    if rule.weekdays != Set::range(0, 6) {
        let name = |day: u32| {
            let name = WEEKDAYS[day as usize % 7];
            name[..1].to_ascii_uppercase() + &name[1..3]
        };
        text = list(rule.weekdays, name) + " ";
    }
    text += &match &rule.years {
        None => "*".to_owned(),
        Some(years) => spell_years(years),
    };
    for (sign, part, set) in [
        ('-', MONTH, rule.months),
        ('-', DAY, rule.days),
        (' ', HOUR, rule.hours),
        (':', MINUTE, rule.minutes),
        (':', SECOND, rule.seconds),
    ] {
        text.push(sign);
        let two = |number: u32| format!("{number:02}");
        let spelled = match set.step(part.high) {
            _ if set == Set::range(part.low, part.high) => "*".to_owned(),
            Some(step) => format!("{}/{step}", two(set.first())),
            None => list(set, two),
        };
        text += &spelled;
    }
    if rule.utc {
        text += " UTC";
    }
    text
}

fn list(set: Set, name: impl Fn(u32) -> String) -> String {
    let piece = |piece: Piece| match piece {
        Piece::One(number) => name(number),
        Piece::Range(first, last) => format!("{}..{}", name(first), name(last)),
    };
    set.pieces()
        .into_iter()
        .map(piece)
        .collect::<Vec<_>>()
        .join(",")
}

/// As numbers from the first year that systemd knows they would not fit into a set.
fn spell_years(years: &[i32]) -> String {
    let mut runs: Vec<(i32, i32)> = Vec::new();
    for year in years {
        match runs.last_mut() {
            Some((_, end)) if *end + 1 == *year => *end = *year,
            _ => runs.push((*year, *year)),
        }
    }
    debug_assert!(
        years
            .iter()
            .all(|year| (FIRST_YEAR..=LAST_YEAR).contains(year))
    );
    let run = |(first, last): (i32, i32)| {
        if first == last {
            first.to_string()
        } else {
            format!("{first}..{last}")
        }
    };
    runs.into_iter().map(run).collect::<Vec<_>>().join(",")
}
