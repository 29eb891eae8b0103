//! When a destination will be full.

use chrono::{DateTime, TimeDelta, Utc};

use super::text::float;
use super::{Clock, Entry};

/// Retention lets the used space rise at first and then stand still, or climb by a monthly step: what was before says
/// nothing of what comes.
const WINDOW_DAYS: i64 = 120;
/// A few runs on an afternoon say nothing of a year.
const LEAST_DAYS: i64 = 7;
const LEAST_POINTS: usize = 3;

/// The last that is known of a destination's room, and where it leads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Room {
    pub(super) measured_at: DateTime<Utc>,
    pub(super) free: Option<u64>,
    pub(super) used: Option<u64>,
    pub(super) total: Option<u64>,
    pub(super) trend: Trend,
}

/// How the used space changes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Trend {
    /// Too few measurements, or over too short a time.
    NotKnown,
    /// It stands still or falls.
    NotGrowing,
    /// Bytes a day; and in how many days it is full, counted from the last measurement, if that can be said.
    Growing {
        per_day: f64,
        full_in_days: Option<f64>,
    },
}

/// What the runs have measured.
pub(super) fn room(runs: &[Entry<'_>], destination: &str, clock: &Clock<'_>) -> Option<Room> {
    let rows = runs.iter().flat_map(|entry| {
        let rows = entry.run.space.iter();
        rows.filter(|row| row.destination == destination)
            .map(|row| (entry.at, row))
    });
    let recent = clock.now() - TimeDelta::days(WINDOW_DAYS);
    let points = rows
        .clone()
        .filter(|(at, _)| *at >= recent)
        .filter_map(|(at, row)| Some((at, row.used?)));
    let (measured_at, last) = rows.last()?;
    Some(Room {
        measured_at,
        free: last.free,
        used: last.used,
        total: last.total,
        trend: trend(&points.collect::<Vec<_>>(), last.free),
    })
}

/// A straight line through all points, by least squares.
fn trend(points: &[(DateTime<Utc>, u64)], free: Option<u64>) -> Trend {
    let (Some((first, base)), Some((last, _))) = (points.first(), points.last()) else {
        return Trend::NotKnown;
    };
    if points.len() < LEAST_POINTS || *last - *first < TimeDelta::days(LEAST_DAYS) {
        return Trend::NotKnown;
    }
    let days = |at: &DateTime<Utc>| (*at - *first).as_seconds_f64() / 86_400.0;
    // Against the first one: terabytes squared would lose what changes.
    let more = |bytes: &u64| float(*bytes) - float(*base);
    let n = float(points.len() as u64);
    let mean_x = points.iter().map(|(at, _)| days(at)).sum::<f64>() / n;
    let mean_y = points.iter().map(|(_, bytes)| more(bytes)).sum::<f64>() / n;
    let (mut above, mut below) = (0.0, 0.0);
    for (at, bytes) in points {
        above += (days(at) - mean_x) * (more(bytes) - mean_y);
        below += (days(at) - mean_x).powi(2);
    }
    let per_day = above / below;
    // Less than a kilobyte a day is the noise of a straight line.
    if !per_day.is_finite() || per_day < 1_000.0 {
        return Trend::NotGrowing;
    }
    Trend::Growing {
        per_day,
        full_in_days: free.map(|free| float(free) / per_day),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GB: u64 = 1_000_000_000;

    fn points(used: &[(i64, u64)]) -> Vec<(DateTime<Utc>, u64)> {
        let at = |day: &i64| DateTime::UNIX_EPOCH + TimeDelta::days(20_000 + day);
        used.iter().map(|(day, used)| (at(day), *used)).collect()
    }

    #[test]
    fn only_what_grows_gets_full() {
        let not_known: [&[(i64, u64)]; 4] = [
            &[],
            &[(0, GB)],
            &[(0, GB), (30, 2 * GB)],
            &[(0, GB), (1, 2 * GB), (2, 3 * GB)],
        ];
        for used in not_known {
            assert_eq!(trend(&points(used), Some(GB)), Trend::NotKnown, "{used:?}");
        }
        let not_growing: [&[(i64, u64)]; 4] = [
            &[(0, GB), (7, GB), (14, GB)],
            &[(0, 3 * GB), (7, 2 * GB), (14, GB)],
            // Retention's saw teeth.
            &[(0, GB), (7, 2 * GB), (14, GB), (21, 2 * GB), (28, GB)],
            &[(0, GB), (0, GB), (9, GB)],
        ];
        for used in not_growing {
            assert_eq!(
                trend(&points(used), Some(GB)),
                Trend::NotGrowing,
                "{used:?}"
            );
        }
        let grows = points(&[(0, GB), (10, 2 * GB), (20, 3 * GB), (30, 4 * GB)]);
        for (free, days) in [
            (Some(5 * GB), Some(50.0)),
            (Some(0), Some(0.0)),
            (None, None),
        ] {
            let Trend::Growing {
                per_day,
                full_in_days,
            } = trend(&grows, free)
            else {
                panic!("it grows")
            };
            assert!((per_day - 100_000_000.0).abs() < 1.0, "{per_day}");
            assert_eq!(full_in_days.map(f64::round), days);
        }
        let huge = points(&[(0, u64::MAX), (10, u64::MAX), (20, u64::MAX)]);
        assert_eq!(trend(&huge, Some(0)), Trend::NotGrowing);
    }
}
