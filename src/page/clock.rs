//! Times as the people who look at the page have them.

use std::time::Duration;

use chrono::{DateTime, Datelike, Days, NaiveDate, NaiveDateTime, TimeDelta, Utc};

use crate::units::Span;

/// The moment of the page, and local time.
pub(super) struct Clock<'a> {
    now: DateTime<Utc>,
    local: &'a dyn Fn(DateTime<Utc>) -> NaiveDateTime,
}

impl Clock<'_> {
    pub(super) fn new(
        now: DateTime<Utc>,
        local: &dyn Fn(DateTime<Utc>) -> NaiveDateTime,
    ) -> Clock<'_> {
        Clock { now, local }
    }

    pub(super) fn now(&self) -> DateTime<Utc> {
        self.now
    }

    /// A time that can be shown: one written by a clock that was not set, or by nobody, cannot. What lies in the future
    /// is no news of the past.
    pub(super) fn believable(&self, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
        (time.year() >= 2000 && time - self.now <= TimeDelta::days(1)).then_some(time)
    }

    /// Local time; of what is beyond all calendars, today.
    pub(super) fn local(&self, time: DateTime<Utc>) -> NaiveDateTime {
        let can_be_shown = (1970..=9000).contains(&time.year());
        (self.local)(if can_be_shown { time } else { self.now })
    }

    pub(super) fn today(&self) -> NaiveDate {
        self.local(self.now).date()
    }

    /// The Monday of the week that lies so many weeks before this one.
    pub(super) fn monday(&self, weeks_ago: u64) -> NaiveDate {
        let today = self.today();
        let days = u64::from(today.weekday().num_days_from_monday()) + 7 * weeks_ago;
        today.checked_sub_days(Days::new(days)).unwrap_or(today)
    }

    /// `Wed 18 Nov 2026, 04:12`, for people and machines.
    pub(super) fn moment(&self, time: DateTime<Utc>) -> String {
        let machines = time.format("%Y-%m-%dT%H:%M:%SZ");
        let people = self.local(time).format("%a %-d %b %Y, %H:%M");
        format!("<time datetime=\"{machines}\">{people}</time>")
    }

    /// `18 Nov, 04:12`, with the year where that is not clear.
    pub(super) fn short(&self, time: DateTime<Utc>) -> String {
        let machines = time.format("%Y-%m-%dT%H:%M:%SZ");
        let form = if self.now - time < TimeDelta::days(300) {
            "%-d %b, %H:%M"
        } else {
            "%-d %b %Y"
        };
        format!(
            "<time datetime=\"{machines}\">{}</time>",
            self.local(time).format(form)
        )
    }

    /// `18 Nov 2026`.
    pub(super) fn day(&self, time: DateTime<Utc>) -> String {
        self.local(time).format("%-d %b %Y").to_string()
    }

    /// `3d 4h`: how long ago it was.
    pub(super) fn age(&self, time: DateTime<Utc>) -> Span {
        Span(to_minutes((self.now - time).to_std().unwrap_or_default()))
    }
}

/// Nobody wants seconds of what took minutes or more.
pub(super) fn to_minutes(time: Duration) -> Duration {
    let seconds = time.as_secs();
    Duration::from_secs(if seconds < 60 {
        seconds
    } else {
        seconds / 60 * 60
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{FixedOffset, TimeZone};

    #[test]
    fn days_are_local_and_impossible_times_do_no_harm() {
        let now: DateTime<Utc> = "2026-11-20T23:30:00Z".parse().expect("a time");
        let zone = FixedOffset::east_opt(3_600).expect("a zone");
        let local = |time: DateTime<Utc>| zone.from_utc_datetime(&time.naive_utc()).naive_local();
        let clock = Clock::new(now, &local);
        assert_eq!(clock.today().to_string(), "2026-11-21");
        assert_eq!(clock.monday(0).to_string(), "2026-11-16");
        assert_eq!(clock.monday(53).to_string(), "2025-11-10");
        let shown = "<time datetime=\"2026-11-20T23:30:00Z\">Sat 21 Nov 2026, 00:30</time>";
        assert_eq!(clock.moment(now), shown);
        assert_eq!(
            clock.age(now - TimeDelta::seconds(3_725)).to_string(),
            "1h 2m"
        );
        assert_eq!(clock.age(now + TimeDelta::days(1)).to_string(), "0s");
        for (time, believed) in [
            (now, true),
            (now + TimeDelta::hours(20), true),
            (now + TimeDelta::hours(30), false),
            (DateTime::UNIX_EPOCH, false),
            (DateTime::<Utc>::MAX_UTC, false),
            (DateTime::<Utc>::MIN_UTC, false),
        ] {
            assert_eq!(clock.believable(time).is_some(), believed, "{time}");
            assert!(!clock.short(time).is_empty() && !clock.day(time).is_empty());
        }
    }
}
