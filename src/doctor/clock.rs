//! The clock: a Raspberry Pi has none that runs without power, and signatures, certificates and retention go by it.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::{Check, Subject};
use crate::destination::Destination;
use crate::history::past::PastRun;
use crate::units::Span;

const NAME: &str = "clock";
/// By so much a clock may be wrong.
const TOLERATED: TimeDelta = TimeDelta::minutes(5);
const WAY_OUT: &str = "let it be set: `timedatectl set-ntp true`, then `timedatectl status`";

pub(super) fn check(subject: &Subject<'_>, runs: &[PastRun], now: DateTime<Utc>) -> Check {
    let ended = runs.iter().filter_map(|run| run.finished_at).max();
    let lags = subject
        .destinations
        .iter()
        .filter_map(Destination::clock_lag);
    judge(now, ended, lags.max_by_key(TimeDelta::abs), subject.offline)
}

/// `ended`: when the last run ended. `lag`: how far the clock is behind a server's.
fn judge(
    now: DateTime<Utc>,
    ended: Option<DateTime<Utc>>,
    lag: Option<TimeDelta>,
    offline: bool,
) -> Check {
    if let Some(ended) = ended.filter(|ended| *ended - now > TOLERATED) {
        let (now, ended) = (
            now.format("%Y-%m-%d %H:%M UTC"),
            ended.format("%Y-%m-%d %H:%M UTC"),
        );
        return Check::failed(
            NAME,
            &format!("it is {now} here, before the last run ended ({ended})"),
        )
        .hint(WAY_OUT);
    }
    let Some(lag) = lag else {
        let why = if offline {
            "--offline"
        } else {
            "no destination told the time"
        };
        return match ended {
            Some(_) => Check::ok(
                NAME,
                format!("not behind the last run; not compared with a server: {why}"),
            ),
            None => Check::skipped(NAME, why),
        };
    };
    let wrong = Span(Duration::from_secs(lag.num_seconds().unsigned_abs()));
    match lag {
        lag if lag > TOLERATED => {
            Check::failed(NAME, &format!("it is {wrong} behind the destination's")).hint(WAY_OUT)
        }
        lag if lag < -TOLERATED => {
            Check::failed(NAME, &format!("it is {wrong} ahead of the destination's")).hint(WAY_OUT)
        }
        _ => Check::ok(NAME, "as the destination's"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::CheckStatus;

    #[test]
    fn the_clock_is_judged_by_whatever_is_known() {
        let now = DateTime::UNIX_EPOCH + TimeDelta::days(20_000);
        let minutes = TimeDelta::minutes;
        for (ended, lag, detail) in [
            (None, None, "--offline"),
            (
                Some(-9),
                None,
                "not behind the last run; not compared with a server: --offline",
            ),
            (
                Some(9),
                None,
                "it is 2024-10-04 00:00 UTC here, before the last run ended (2024-10-04 00:09 UTC)",
            ),
            (Some(-9), Some(4), "as the destination's"),
            (None, Some(-4), "as the destination's"),
            (None, Some(6), "it is 6m behind the destination's"),
            (None, Some(-90), "it is 1h 30m ahead of the destination's"),
        ] {
            let check = judge(now, ended.map(|m| now + minutes(m)), lag.map(minutes), true);
            assert_eq!(check.detail, detail);
            assert_eq!(
                check.status == CheckStatus::Failed,
                check.hint.is_some(),
                "{detail}"
            );
        }
    }
}
