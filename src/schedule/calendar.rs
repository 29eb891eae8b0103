//! When runs start: what systemd's timers and cron's tables say, as one thing.
//!
//! A calendar is a union of rules; a rule is a set of weekdays, years, months, days, hours, minutes and seconds
//! that must all fit. That is systemd's form exactly (systemd.time(7)); cron's is a union of two such rules where
//! day of month and day of week are both restricted (crontab(5)). Times are this machine's local time, or UTC.

mod cron;
mod later;
mod set;
mod systemd;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use chrono::{
    DateTime, Datelike, Days, Local, NaiveDate, NaiveTime, TimeDelta, TimeZone, Timelike, Utc,
};

use crate::schedule::calendar::set::Set;

/// Systemd knows no later year.
const LAST_YEAR: i32 = 2199;
/// So far the longest gap is looked for, in days: a yearly run comes twice.
const GAP_DAYS: u64 = 400;

/// When runs start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Calendar {
    rules: Vec<Rule>,
}

/// Times that fit in every part.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    /// Monday is 0.
    weekdays: Set,
    /// None: every year; else in order.
    years: Option<Vec<i32>>,
    months: Set,
    days: Set,
    hours: Set,
    minutes: Set,
    seconds: Set,
    utc: bool,
}

impl Calendar {
    /// Understands systemd's form (`Wed,Sat 04:00`, `*-*-01 12:00`, `daily`) and cron's (`0 4 * * 3,6`,
    /// `@daily`). The error says what is wrong with it, and how it is written.
    pub fn parse(text: &str) -> Result<Calendar, String> {
        let words: Vec<_> = text.split_ascii_whitespace().collect();
        let rules = match words.as_slice() {
            [] => Err("it is empty".to_owned()),
            [word] if word.starts_with('@') => cron::nickname(word),
            fields if fields.len() == 5 => cron::parse(fields),
            words => systemd::parse(words).map(|rule| vec![rule]),
        };
        let rules = rules.map_err(|why| {
            format!(
                "`{text}` is no calendar: {why}\n  \
                 write it in systemd's form, like `Wed,Sat 04:00`, or in cron's, like `0 4 * * 3,6`"
            )
        })?;
        Ok(Calendar { rules })
    }

    /// When runs start unless other times are given.
    pub fn usual() -> Calendar {
        let rule = Rule {
            weekdays: [2, 5].into_iter().collect(),
            hours: Set::range(4, 4),
            ..Rule::daily()
        };
        Calendar { rules: vec![rule] }
    }

    /// In one word that [`Calendar::parse`] takes; none if it takes several.
    pub fn as_argument(&self) -> Option<String> {
        let one = |mut lines: Vec<String>| lines.pop().filter(|_| lines.is_empty());
        one(self.to_systemd()).or_else(|| one(self.to_cron().ok()?))
    }

    /// Both: what is in one of them.
    #[must_use]
    pub fn and(mut self, other: Calendar) -> Calendar {
        for rule in other.rules {
            if !self.rules.contains(&rule) {
                self.rules.push(rule);
            }
        }
        self
    }

    /// The next time after `now`, in local time; none if there is no such time. A time that the clock jumps over
    /// is none; of one that comes twice the first counts.
    pub fn next_after(&self, now: &DateTime<Local>) -> Option<DateTime<Local>> {
        self.rules.iter().filter_map(|rule| rule.next(now)).min()
    }

    /// The longest time between two runs in the year to come; none if there are no two.
    pub fn longest_gap(&self, now: &DateTime<Local>) -> Option<Duration> {
        let today = now.date_naive();
        let mut longest: Option<TimeDelta> = None;
        let mut last = None;
        // Which rules meet on a day → what happens within it.
        let mut known = BTreeMap::new();
        for date in (0..GAP_DAYS).filter_map(|days| today.checked_add_days(Days::new(days))) {
            let fitting: Vec<_> = self
                .rules
                .iter()
                .enumerate()
                .filter(|(_, rule)| rule.fits(date))
                .collect();
            if fitting.is_empty() {
                continue;
            }
            let which: Vec<_> = fitting.iter().map(|(number, _)| *number).collect();
            let (first, end, within) = *known
                .entry(which)
                .or_insert_with(|| within_a_day(fitting.iter().map(|(_, rule)| *rule)));
            let between = last.map(|last| date.and_time(first) - last);
            longest = longest.max(between).max(within);
            last = Some(date.and_time(end));
        }
        let longest = longest.or_else(|| {
            let first = self.next_after(now)?;
            let second = self.next_after(&first)?;
            Some(second - first)
        });
        longest?.to_std().ok()
    }

    /// What stands behind `OnCalendar=`, a line each.
    pub fn to_systemd(&self) -> Vec<String> {
        self.rules.iter().map(systemd::spell).collect()
    }

    /// What stands before the command in a crontab, a line each. The error says what cron cannot say.
    pub fn to_cron(&self) -> Result<Vec<String>, String> {
        cron::spell(&self.rules)
    }
}

impl fmt::Display for Calendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_systemd().join(" and "))
    }
}

/// The first and the last time on a day that all of these rules fit, and the longest time between two.
fn within_a_day<'a>(
    rules: impl Iterator<Item = &'a Rule>,
) -> (NaiveTime, NaiveTime, Option<TimeDelta>) {
    let mut times: Vec<_> = rules.flat_map(|rule| rule.times(NaiveTime::MIN)).collect();
    times.sort_unstable();
    times.dedup();
    let longest = times.windows(2).map(|pair| pair[1] - pair[0]).max();
    // A rule has a time on every day that fits.
    let (first, last) = (times.first(), times.last());
    (
        first.copied().unwrap_or_default(),
        last.copied().unwrap_or_default(),
        longest,
    )
}

impl Rule {
    /// At midnight of every day.
    fn daily() -> Rule {
        Rule {
            weekdays: Set::range(0, 6),
            years: None,
            months: Set::range(1, 12),
            days: Set::range(1, 31),
            hours: Set::range(0, 0),
            minutes: Set::range(0, 0),
            seconds: Set::range(0, 0),
            utc: false,
        }
    }

    fn fits(&self, date: NaiveDate) -> bool {
        self.fits_year(date.year())
            && self.months.contains(date.month())
            && self.days.contains(date.day())
            && self
                .weekdays
                .contains(date.weekday().num_days_from_monday())
    }

    fn fits_year(&self, year: i32) -> bool {
        let listed = |years: &Vec<i32>| years.binary_search(&year).is_ok();
        year <= LAST_YEAR && self.years.as_ref().is_none_or(listed)
    }

    fn next<Z: TimeZone>(&self, now: &DateTime<Z>) -> Option<DateTime<Z>> {
        if self.utc {
            let next = self.next_in(&now.with_timezone(&Utc))?;
            return Some(next.with_timezone(&now.timezone()));
        }
        self.next_in(now)
    }

    fn next_in<Z: TimeZone>(&self, now: &DateTime<Z>) -> Option<DateTime<Z>> {
        let (zone, here) = (now.timezone(), now.naive_local());
        let mut from = here.date();
        while let Some(date) = self.next_date(from) {
            let begin = if date == here.date() {
                here.time()
            } else {
                NaiveTime::MIN
            };
            let times = self.times(begin);
            // None for what the clock jumps over.
            let mut times =
                times.filter_map(|time| zone.from_local_datetime(&date.and_time(time)).earliest());
            if let Some(next) = times.find(|time| time > now) {
                return Some(next);
            }
            from = date.succ_opt()?;
        }
        None
    }

    /// The first day that fits, from this one on.
    fn next_date(&self, mut date: NaiveDate) -> Option<NaiveDate> {
        while date.year() <= LAST_YEAR {
            if !self.fits_year(date.year()) {
                date = NaiveDate::from_ymd_opt(date.year() + 1, 1, 1)?;
            } else if !self.months.contains(date.month()) {
                let (year, month) = match date.month() {
                    12 => (date.year() + 1, 1),
                    month => (date.year(), month + 1),
                };
                date = NaiveDate::from_ymd_opt(year, month, 1)?;
            } else if self.fits(date) {
                return Some(date);
            } else {
                date = date.succ_opt()?;
            }
        }
        None
    }

    /// The times of a day that fits, in order, from this second on.
    fn times(&self, begin: NaiveTime) -> impl Iterator<Item = NaiveTime> {
        let begin = begin.with_nanosecond(0).unwrap_or(begin);
        let hours = self.hours.iter().filter(move |hour| *hour >= begin.hour());
        let minutes = move |hour: u32| {
            let late = move |minute: &u32| hour > begin.hour() || *minute >= begin.minute();
            self.minutes
                .iter()
                .filter(late)
                .map(move |minute| (hour, minute))
        };
        let times = hours.flat_map(minutes).flat_map(|(hour, minute)| {
            let time = move |second| NaiveTime::from_hms_opt(hour, minute, second);
            self.seconds.iter().filter_map(time)
        });
        times.skip_while(move |time| *time < begin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Calendar {
        Calendar::parse(text).unwrap_or_else(|why| panic!("{why}"))
    }

    fn utc(text: &str) -> DateTime<Utc> {
        text.parse().expect("a time")
    }

    fn next(text: &str, now: &str) -> Option<DateTime<Utc>> {
        let calendar = parsed(text);
        let rules = calendar.rules.iter();
        rules.filter_map(|rule| rule.next(&utc(now))).min()
    }

    #[test]
    fn an_installed_calendar_can_be_given_again() {
        assert_eq!(parsed("Wed,Sat 04:00"), Calendar::usual());
        for (text, argument) in [
            ("daily", Some("*-*-* 00:00:00")),
            ("0 4 1 * 1", Some("0 4 1 * 1")),
        ] {
            let calendar = parsed(text);
            assert_eq!(calendar.as_argument().as_deref(), argument);
            assert_eq!(argument.map(parsed), Some(calendar));
        }
        let several = parsed("Mon 03:00").and(parsed("Tue 05:00"));
        assert_eq!(several.as_argument(), None);
        assert_eq!(Calendar::default().as_argument(), None);
    }

    #[test]
    fn both_forms_say_the_same_in_each_other() {
        for (text, systemd, cron) in [
            ("Wed,Sat 04:00", "Wed,Sat *-*-* 04:00:00", "0 4 * * 3,6"),
            ("0 4 * * 3,6", "Wed,Sat *-*-* 04:00:00", "0 4 * * 3,6"),
            ("0 4 * * wed,SAT", "Wed,Sat *-*-* 04:00:00", "0 4 * * 3,6"),
            ("daily", "*-*-* 00:00:00", "0 0 * * *"),
            ("@daily", "*-*-* 00:00:00", "0 0 * * *"),
            ("weekly", "Mon *-*-* 00:00:00", "0 0 * * 1"),
            ("@weekly", "Sun *-*-* 00:00:00", "0 0 * * 0"),
            ("0 0 * * 7", "Sun *-*-* 00:00:00", "0 0 * * 0"),
            ("quarterly", "*-01/3-01 00:00:00", "0 0 1 */3 *"),
            ("Mon-Fri 4:5", "Mon..Fri *-*-* 04:05:00", "5 4 * * 1-5"),
            ("*/15 * * * *", "*-*-* *:00/15:00", "*/15 * * * *"),
            ("5-59/10 1 * * *", "*-*-* 01:05/10:00", "5-59/10 1 * * *"),
            ("*:*/20", "*-*-* *:00/20:00", "*/20 * * * *"),
            ("0 4 */2 * *", "*-*-01/2 04:00:00", "0 4 1-31/2 * *"),
            // A star at the beginning: both must fit. The well-known first Sunday of a month.
            ("0 4 1-7 * */7", "Sun *-*-01..07 04:00:00", "0 4 1-7 * */7"),
            ("Mon *-*-01 04:00", "Mon *-*-01 04:00:00", "0 4 */31 * 1"),
            ("0 4 */2 * 1", "Mon *-*-01/2 04:00:00", "0 4 */2 * 1"),
        ] {
            let calendar = parsed(text);
            assert_eq!(calendar.to_systemd(), [systemd], "{text}");
            assert_eq!(
                calendar.to_cron().as_deref(),
                Ok(&[cron.to_owned()][..]),
                "{text}"
            );
            assert_eq!(parsed(systemd), calendar, "{text}");
            assert_eq!(parsed(cron), calendar, "{text}");
        }
    }

    #[test]
    fn either_of_two_days_takes_two_lines_of_systemd_and_one_of_cron() {
        let calendar = parsed("30 4 1,15 * 5");
        assert_eq!(
            calendar.to_systemd(),
            ["*-*-01,15 04:30:00", "Fri *-*-* 04:30:00"]
        );
        assert_eq!(calendar.to_cron(), Ok(vec!["30 4 1,15 * 5".to_owned()]));
        let two = parsed("Fri 04:30").and(parsed("*-*-1 05:00"));
        let two = two.and(parsed("Fri 04:30"));
        let lines = ["30 4 * * 5".to_owned(), "0 5 1 * *".to_owned()];
        assert_eq!(two.to_cron().as_deref(), Ok(&lines[..]));
        assert_eq!(two.to_string(), "Fri *-*-* 04:30:00 and *-*-01 05:00:00");
    }

    #[test]
    fn what_cron_cannot_say_is_told() {
        for (text, why) in [
            ("04:00:30", "cron knows no seconds"),
            ("2027-*-* 04:00", "cron knows no years"),
            ("04:00 UTC", "cron knows no time zones"),
            ("Mon *-*-2..8 04:00", "must both fit"),
        ] {
            let told = parsed(text).to_cron().expect_err(text);
            assert!(told.contains(why), "{text}: {told}");
        }
    }

    #[test]
    fn what_is_no_calendar_is_told_with_the_reason() {
        for (text, why) in [
            ("", "it is empty"),
            ("  ", "it is empty"),
            ("noon", "`noon` is no weekday"),
            ("Foo 04:00", "`Foo` is no weekday"),
            ("Sat..Mon 04:00", "run backwards"),
            ("4", "neither a date"),
            ("24:00", "`24` is no hour, which is 0 to 23"),
            ("04:60", "`60` is no minute"),
            ("04:00:00.5", "`00.5` is no second"),
            ("*-13-01", "`13` is no month"),
            ("1969-01-01", "`1969` is no year"),
            ("*-*~01 04:00", "from the end of a month"),
            ("*-*-*-* 04:00", "is no date"),
            ("1:2:3:4", "is no time"),
            ("9..5:00", "run backwards"),
            ("0/0:0", "leads nowhere"),
            ("10/20:0", "leads nowhere"),
            ("*,4:00", "`*` is no hour"),
            ("04:00 Europe/Berlin", "is no time zone it takes"),
            ("04:00 05:00", "neither a date"),
            ("Wed, Sat 04:00", "neither"),
            ("@reboot", "is no time"),
            ("@sometimes", "cron knows no"),
            ("60 4 * * *", "`60` is no minute"),
            ("0 4 * * 8", "`8` is no day of week"),
            ("0 4 0 * *", "`0` is no day of month"),
            ("0 4 * * fri-mon", "runs backwards"),
            ("5/10 4 * * *", "write 5-59/…"),
            ("*/0 4 * * *", "has no step"),
            ("0 4 * * 1 root", "is no weekday"),
            ("-1 4 * * *", "is no minute"),
        ] {
            let told = Calendar::parse(text).expect_err(text);
            let good = told.contains(why) || text.starts_with('0') && told.contains("neither");
            assert!(good, "{text}: {told}");
            assert!(told.contains("like `Wed,Sat 04:00`"), "{told}");
        }
    }

    #[test]
    fn the_next_time_is_the_first_that_fits_all() {
        for (text, now, then) in [
            (
                "Wed,Sat 04:00",
                "2026-11-21T03:59:59Z",
                Some("2026-11-21T04:00:00Z"),
            ),
            (
                "Wed,Sat 04:00",
                "2026-11-21T04:00:00Z",
                Some("2026-11-25T04:00:00Z"),
            ),
            (
                "*-02-29",
                "2026-11-21T04:00:00Z",
                Some("2028-02-29T00:00:00Z"),
            ),
            (
                "Mon *-02-29",
                "2026-11-21T04:00:00Z",
                Some("2044-02-29T00:00:00Z"),
            ),
            ("*-02-30", "2026-11-21T04:00:00Z", None),
            ("2025-*-*", "2026-11-21T04:00:00Z", None),
            (
                "27-12-31 23:59:59",
                "2026-11-21T04:00:00Z",
                Some("2027-12-31T23:59:59Z"),
            ),
            (
                "*:0/15",
                "2026-12-31T23:45:00Z",
                Some("2027-01-01T00:00:00Z"),
            ),
            (
                "30 4 1,15 * 5",
                "2026-11-21T04:00:00Z",
                Some("2026-11-27T04:30:00Z"),
            ),
            (
                "30 4 1,15 * 5",
                "2026-11-27T04:30:00Z",
                Some("2026-12-01T04:30:00Z"),
            ),
        ] {
            assert_eq!(next(text, now), then.map(utc), "{text} after {now}");
        }
    }

    #[test]
    fn the_longest_gap_is_the_one_between_weeks_months_or_years() {
        let now = utc("2026-11-21T12:00:00Z").with_timezone(&Local);
        let hours = |text: &str| {
            let gap = parsed(text).longest_gap(&now);
            gap.map(|gap| gap.as_secs() / 3600)
        };
        for (text, expected) in [
            ("Wed,Sat 04:00", Some(4 * 24)),
            ("daily", Some(24)),
            ("hourly", Some(1)),
            ("*:*:*", Some(0)),
            ("4,16:00", Some(12)),
            ("Mon *:*", Some(6 * 24)),
            ("monthly", Some(31 * 24)),
            ("yearly", Some(365 * 24)),
            ("*-02-29", Some(4 * 365 * 24 + 24)),
            ("0 4 1 * 1", Some(7 * 24)),
            ("2026-12-01", None),
            ("*-02-30", None),
        ] {
            assert_eq!(hours(text), expected, "{text}");
        }
    }
}
