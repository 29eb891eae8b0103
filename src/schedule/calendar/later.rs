//! When a second job starts that is to follow the first.

use super::set::Set;
use super::{Calendar, Rule};

impl Calendar {
    /// An hour later, also over midnight; the same where it starts every hour, and where the next day cannot be
    /// written as a rule (the day after the end of a month, of a year).
    #[must_use]
    pub fn later(&self) -> Calendar {
        let rules: Option<Vec<_>> = self.rules.iter().map(Rule::later).collect();
        rules.map_or_else(
            || self.clone(),
            |rules| Calendar {
                rules: rules.into_iter().flatten().collect(),
            },
        )
    }
}

impl Rule {
    fn later(&self) -> Option<Vec<Rule>> {
        let same_day = self.hours.iter().filter(|hour| *hour < 23);
        let mut rules = Vec::new();
        match self.hours.len() {
            24 => return None,
            1 if self.hours.contains(23) => {}
            _ => rules.push(Rule {
                hours: same_day.map(|hour| hour + 1).collect(),
                ..self.clone()
            }),
        }
        if self.hours.contains(23) {
            rules.push(self.next_day()?);
        }
        Some(rules)
    }

    /// At the first hour of the days behind its own.
    fn next_day(&self) -> Option<Rule> {
        let every_day = self.days.len() == 31 && self.months.len() == 12 && self.years.is_none();
        // Each month has a day after these.
        let days = if every_day {
            self.days
        } else if self.days.iter().all(|day| day < 28) {
            self.days.iter().map(|day| day + 1).collect()
        } else {
            return None;
        };
        Some(Rule {
            weekdays: self.weekdays.iter().map(|day| (day + 1) % 7).collect(),
            days,
            hours: Set::range(0, 0),
            ..self.clone()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_later_may_be_the_next_day() {
        for (text, later) in [
            ("Wed,Sat 04:00", "Wed,Sat *-*-* 05:00:00"),
            ("0 4,12 1 * *", "*-*-01 05,13:00:00"),
            ("0 4 1 * 1", "*-*-01 05:00:00 and Mon *-*-* 05:00:00"),
            ("23:30", "*-*-* 00:30:00"),
            ("Sat 23:30", "Sun *-*-* 00:30:00"),
            ("Mon..Fri,Sun 23:00", "Mon..Sat *-*-* 00:00:00"),
            ("Mon 04,23:15", "Mon *-*-* 05:15:00 and Tue *-*-* 00:15:00"),
            ("*-*-01,27 23:30", "*-*-02,28 00:30:00"),
            ("Fri *-*-13 23:30", "Sat *-*-14 00:30:00"),
            // The day behind it is not the same in each month.
            ("*-*-28 23:30", "*-*-28 23:30:00"),
            ("*-12-* 23:30", "*-12-* 23:30:00"),
            ("hourly", "*-*-* *:00:00"),
        ] {
            assert_eq!(
                Calendar::parse(text)
                    .map(|calendar| calendar.later().to_string())
                    .as_deref(),
                Ok(later),
                "{text}"
            );
        }
    }
}
