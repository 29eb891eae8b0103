//! When a second job starts that is to follow the first.

use super::{Calendar, Rule};

impl Calendar {
    /// An hour later, where that is on the same day; else, and where it starts every hour, the same.
    #[must_use]
    pub fn later(&self) -> Calendar {
        let fits = |rule: &Rule| !rule.hours.contains(23);
        if !self.rules.iter().all(fits) {
            return self.clone();
        }
        let rules = self.rules.iter().map(|rule| Rule {
            hours: rule.hours.iter().map(|hour| hour + 1).collect(),
            ..rule.clone()
        });
        Calendar {
            rules: rules.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_later_comes_on_the_same_day() {
        for (text, later) in [
            ("Wed,Sat 04:00", "Wed,Sat *-*-* 05:00:00"),
            ("0 4,12 1 * *", "*-*-01 05,13:00:00"),
            ("0 4 1 * 1", "*-*-01 05:00:00 and Mon *-*-* 05:00:00"),
            ("23:30", "*-*-* 23:30:00"),
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
