//! What GitLab says of its limits, and what is known of them where it says nothing.
//!
//! Its application limits, as that of exports, are counted in fixed minutes of its own clock, refused calls among
//! them, and answered without a word on when to come back (`lib/gitlab/application_rate_limiter.rb`); those of the
//! whole API tell it in headers
//! (<https://docs.gitlab.com/administration/settings/user_and_ip_rate_limits/#response-headers>).

use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};

use super::header;

/// How long GitLab counts where nothing else is known.
pub(super) const MINUTE: Duration = Duration::from_mins(1);
/// Before anything was refused nobody waits longer because of a header.
const LONGEST_BEFORE: Duration = Duration::from_mins(5);

/// How long it asks to wait, if it says so.
pub(super) fn asked_to_wait(headers: &HeaderMap) -> Option<Duration> {
    let told = headers.get(RETRY_AFTER).and_then(|told| told.to_str().ok());
    let told = told.and_then(|told| {
        let seconds = told.trim().parse().ok().map(Duration::from_secs);
        seconds.or_else(|| Some(until(time(told)?, headers)))
    });
    told.or_else(|| until_reset(headers))
}

/// How long to wait before anything is refused: what is left is no more than what `others` have asked already.
pub(super) fn used_up(headers: &HeaderMap, others: usize) -> Option<Duration> {
    let left: usize = header(headers, "ratelimit-remaining")?
        .trim()
        .parse()
        .ok()?;
    let wait = until_reset(headers)?;
    (left <= others && wait <= LONGEST_BEFORE).then_some(wait)
}

/// To the end of the fixed minute that GitLab is in by its own clock, and a little more.
pub(super) fn rest_of(minute: Duration, headers: &HeaderMap) -> Duration {
    let more = (minute / 10).min(Duration::from_secs(1));
    let seconds = minute.as_secs();
    if seconds == 0 || minute.subsec_nanos() > 0 {
        return minute + more;
    }
    // The clock is told in whole seconds, the smaller one: it is never waited too short.
    let passed = now(headers).timestamp().unsigned_abs() % seconds;
    Duration::from_secs(seconds - passed) + more
}

fn until_reset(headers: &HeaderMap) -> Option<Duration> {
    let reset = header(headers, "ratelimit-reset")?.trim().parse().ok()?;
    Some(until(DateTime::from_timestamp(reset, 0)?, headers))
}

fn until(then: DateTime<Utc>, headers: &HeaderMap) -> Duration {
    let wait = then.signed_duration_since(now(headers));
    // What is over is over: at once.
    wait.to_std().unwrap_or_default()
}

/// By the clock of the server, whatever ours says.
fn now(headers: &HeaderMap) -> DateTime<Utc> {
    let told = headers.get(DATE).and_then(|told| told.to_str().ok());
    told.and_then(time).unwrap_or_else(Utc::now)
}

fn time(text: &str) -> Option<DateTime<Utc>> {
    let time = DateTime::parse_from_rfc2822(text.trim()).ok()?;
    Some(time.to_utc())
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::{HeaderName, HeaderValue};

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter();
        pairs
            .map(|(name, text)| {
                let name = HeaderName::from_static(name);
                (name, HeaderValue::from_static(text))
            })
            .collect()
    }

    /// 1795406445 s since 1970, 45 s into a minute.
    const NOW: (&str, &str) = ("date", "Mon, 23 Nov 2026 04:00:45 GMT");

    #[test]
    fn what_it_says_is_waited_for_by_its_own_clock() {
        for (pairs, seconds) in [
            (&[NOW][..], None),
            (&[NOW, ("retry-after", "30")], Some(30)),
            (
                &[NOW, ("retry-after", "Mon, 23 Nov 2026 04:01:00 GMT")],
                Some(15),
            ),
            (
                &[NOW, ("retry-after", "Mon, 23 Nov 2026 03:01:00 GMT")],
                Some(0),
            ),
            (&[NOW, ("ratelimit-reset", "1795406460")], Some(15)),
            (
                &[NOW, ("retry-after", "7"), ("ratelimit-reset", "1795406460")],
                Some(7),
            ),
            (
                &[NOW, ("retry-after", "soon"), ("ratelimit-reset", "x")],
                None,
            ),
        ] {
            let told = asked_to_wait(&headers(pairs)).map(|wait| wait.as_secs());
            assert_eq!(told, seconds, "{pairs:?}");
        }
    }

    #[test]
    fn what_is_almost_used_up_is_left_alone() {
        let reset = ("ratelimit-reset", "1795406460");
        for (left, others, seconds) in [
            ("0", 0, Some(15)),
            ("1", 0, None),
            ("5", 5, Some(15)),
            ("6", 5, None),
            ("x", 9, None),
        ] {
            let told = used_up(
                &headers(&[NOW, reset, ("ratelimit-remaining", left)]),
                others,
            );
            assert_eq!(told.map(|wait| wait.as_secs()), seconds, "{left} {others}");
        }
        let far = ("ratelimit-reset", "1895406460");
        assert_eq!(
            used_up(&headers(&[NOW, far, ("ratelimit-remaining", "0")]), 0),
            None
        );
    }

    #[test]
    fn a_minute_ends_where_its_clock_says_also_a_short_one() {
        for (minute, milliseconds) in [
            (60_000, 16_000),
            (30_000, 16_000),
            (4_000, 3_400),
            (1_000, 1_100),
            (500, 550),
            (2_500, 2_750),
        ] {
            let minute = Duration::from_millis(minute);
            let rest = rest_of(minute, &headers(&[NOW]));
            assert_eq!(rest, Duration::from_millis(milliseconds), "{minute:?}");
        }
        let unknown = rest_of(MINUTE, &headers(&[]));
        assert!(unknown > Duration::from_secs(1) && unknown <= Duration::from_secs(61));
    }
}
