//! The retention plan against a slow reference that was written independently of it, on histories nobody
//! would think of; and above all: the newest complete backup survives every one of them.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{
    DateTime, FixedOffset, MappedLocalTime, NaiveDate, NaiveDateTime, NaiveTime, Offset, TimeDelta,
    TimeZone, Timelike, Utc,
};
use gitlab_pi_backup::retention::{Action, Candidate, RetentionPolicy, State, Unmanaged};

const HISTORIES: u64 = 10_000;

/// Clocks go forward on the last of March and back on the 27th of October, each time one minute past
/// midnight, as they did in Newfoundland until 2011: a day ends, and begins again.
#[derive(Clone, Copy, Debug)]
struct Newfoundland;

const WINTER: i32 = -(3 * 3600 + 1800);

impl Newfoundland {
    fn offset(utc: NaiveDateTime) -> FixedOffset {
        let at = |month, day, hour, minute| {
            let day = NaiveDate::from_ymd_opt(chrono::Datelike::year(&utc), month, day);
            day.and_then(|day| day.and_hms_opt(hour, minute, 0))
                .expect("a time")
        };
        let summer = at(3, 31, 3, 31) <= utc && utc < at(10, 27, 2, 31);
        FixedOffset::east_opt(WINTER + if summer { 3600 } else { 0 }).expect("an offset")
    }
}

impl TimeZone for Newfoundland {
    type Offset = FixedOffset;

    fn from_offset(_: &FixedOffset) -> Newfoundland {
        Newfoundland
    }

    fn offset_from_local_date(&self, local: &NaiveDate) -> MappedLocalTime<FixedOffset> {
        self.offset_from_local_datetime(&local.and_time(NaiveTime::MIN))
    }

    fn offset_from_local_datetime(&self, local: &NaiveDateTime) -> MappedLocalTime<FixedOffset> {
        MappedLocalTime::Single(Newfoundland::offset(
            *local - TimeDelta::seconds(WINTER.into()),
        ))
    }

    fn offset_from_utc_date(&self, utc: &NaiveDate) -> FixedOffset {
        Newfoundland::offset(utc.and_time(NaiveTime::MIN))
    }

    fn offset_from_utc_datetime(&self, utc: &NaiveDateTime) -> FixedOffset {
        Newfoundland::offset(*utc)
    }
}

/// A zone of either sort.
#[derive(Clone, Copy, Debug)]
enum Zone {
    Fixed(i32),
    Changing,
}

/// Xorshift: the same histories every time.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).expect("an index")]
    }

    fn policy(&mut self) -> RetentionPolicy {
        let mut count = || match self.below(4) {
            0 | 1 => 0,
            2 => u32::try_from(1 + self.below(3)).expect("few"),
            _ => u32::try_from(self.below(40)).expect("few"),
        };
        let [
            keep_last,
            keep_daily,
            keep_weekly,
            keep_monthly,
            keep_yearly,
        ] = [count(), count(), count(), count(), count()];
        let spans = [0, 0, 1, 3_600, 86_400, 10 * 86_400, 400 * 86_400];
        RetentionPolicy {
            keep_last,
            keep_daily,
            keep_weekly,
            keep_monthly,
            keep_yearly,
            keep_within: Duration::from_secs(self.pick(&spans)),
            unmanaged: self.pick(&[Unmanaged::Keep, Unmanaged::Prune]),
            local: None,
        }
    }

    /// Backups in no order, some made in the same second, some in the minutes around midnight.
    fn history(&mut self) -> Vec<Candidate> {
        // Around a change of clocks, a turn of the year, a leap day.
        let mut time = self.pick(&[
            1_711_860_000_u64,
            1_730_003_000,
            1_735_600_000,
            1_709_100_000,
        ]);
        let steps = [
            0, 0, 1, 20, 600, 1_800, 1_800, 3_600, 7_200, 43_200, 86_400, 86_400, 86_401, 302_400,
            604_800, 2_629_746, 31_104_000, 40_000_000,
        ];
        let complete = self.pick(&[1, 3, 9]);
        let mut history = Vec::new();
        for _ in 0..self.below(25) {
            time -= self.pick(&steps);
            let version = self.pick(&["17.8.2", "17.8.10", "17.8.2-ee", "17.8.20", "18.0.0"]);
            let created_at = DateTime::from_timestamp(time.cast_signed(), 0).expect("a time");
            let id = format!("{time}_{}_{version}", created_at.format("%Y_%m_%d"));
            if history.iter().any(|known: &Candidate| known.id == id) {
                continue;
            }
            let state = match self.below(complete + 2) {
                0 => State::Incomplete("config archive missing".to_owned()),
                1 => State::Unmanaged,
                _ => State::Complete,
            };
            history.push(Candidate {
                id,
                created_at,
                stamp: time,
                state,
                rehearsed_at: (self.below(6) == 0).then_some(created_at + TimeDelta::hours(30)),
            });
        }
        for end in (1..history.len()).rev() {
            history.swap(
                end,
                usize::try_from(self.below(end as u64 + 1)).expect("an index"),
            );
        }
        history
    }
}

/// What a backup looks like to the reference: its archive's place in the order, and its periods.
struct Seen<'a> {
    backup: &'a Candidate,
    name: (u64, String),
    periods: [String; 4],
}

fn see<'a, Tz: TimeZone>(backup: &'a Candidate, zone: &Tz) -> Seen<'a>
where
    Tz::Offset: std::fmt::Display,
{
    let local = backup.created_at.with_timezone(zone);
    Seen {
        backup,
        name: (backup.stamp, format!("{}_gitlab_backup.tar", backup.id)),
        periods: ["%F", "%G/%V", "%Y %m", "%Y"].map(|form| local.format(form).to_string()),
    }
}

/// Whether a rule keeps `one` among `others` (itself one of them): every rule asked for itself, every
/// backup compared with every other.
fn is_kept(policy: &RetentionPolicy, one: &Seen<'_>, others: &[&Seen<'_>]) -> bool {
    let newer: Vec<_> = others
        .iter()
        .filter(|other| other.name > one.name)
        .collect();
    let rank = newer.len() as u64;
    if rank < u64::from(policy.keep_last) {
        return true;
    }
    let counts = [
        policy.keep_daily,
        policy.keep_weekly,
        policy.keep_monthly,
        policy.keep_yearly,
    ];
    for (rule, count) in counts.into_iter().enumerate() {
        let is_newest_of_its_period = newer
            .iter()
            .all(|other| other.periods[rule] != one.periods[rule]);
        let more_recent: BTreeSet<_> = newer.iter().map(|other| &other.periods[rule]).collect();
        if is_newest_of_its_period && (more_recent.len() as u64) < u64::from(count) {
            return true;
        }
    }
    let too_far = |other: &&&Seen<'_>| {
        let limit = one.backup.stamp + policy.keep_within.as_secs();
        other.backup.stamp >= limit
    };
    if !policy.keep_within.is_zero() && !others.iter().any(|other| too_far(&other)) {
        return true;
    }
    one.backup.rehearsed_at.is_some()
        && newer
            .iter()
            .all(|other| other.backup.rehearsed_at.is_none())
}

/// The IDs that go; none at all, if the clock is behind.
fn reference<Tz: TimeZone>(
    policy: &RetentionPolicy,
    history: &[Candidate],
    now: &DateTime<Tz>,
) -> Option<BTreeSet<String>>
where
    Tz::Offset: std::fmt::Display,
{
    let now_seconds = now.to_utc().timestamp();
    if history
        .iter()
        .any(|backup| backup.stamp.cast_signed() > now_seconds + 60)
    {
        return None;
    }
    let seen: Vec<_> = history
        .iter()
        .map(|backup| see(backup, &now.timezone()))
        .collect();
    let of = |states: &[State]| {
        let wanted = |one: &&Seen<'_>| states.contains(&one.backup.state);
        seen.iter().filter(wanted).collect::<Vec<_>>()
    };
    let complete = of(&[State::Complete]);
    let both = of(&[State::Complete, State::Unmanaged]);
    let newest = complete.iter().map(|one| &one.name).max();
    let has_rules = policy.has_rules();
    let goes = |one: &&Seen<'_>| {
        has_rules
            && match one.backup.state {
                State::Complete => Some(&one.name) != newest && !is_kept(policy, one, &complete),
                State::Incomplete(_) => false,
                State::Unmanaged => {
                    policy.unmanaged == Unmanaged::Prune
                        && newest.is_some()
                        && !is_kept(policy, one, &both)
                }
            }
    };
    Some(
        seen.iter()
            .filter(goes)
            .map(|one| one.backup.id.clone())
            .collect(),
    )
}

/// Compares, and says how many go.
fn compare<Tz: TimeZone>(
    policy: &RetentionPolicy,
    history: &[Candidate],
    now: &DateTime<Tz>,
) -> Option<usize>
where
    Tz::Offset: std::fmt::Display,
{
    let told = || format!("{policy:?}\n{history:#?}\n{now:?}");
    let expected = reference(policy, history, now);
    let plan = match (policy.plan(history, now), &expected) {
        (Ok(plan), Some(_)) => plan,
        (Err(_), None) => return None,
        (plan, _) => panic!("{plan:?}\n{}", told()),
    };
    let expected = expected.expect("the clock is right");
    let gone: BTreeSet<_> = plan.deleted().map(str::to_owned).collect();
    assert_eq!(gone, expected, "{}", told());
    assert_eq!(plan.backups.len(), history.len());

    let order: Vec<_> = plan
        .backups
        .iter()
        .map(|row| format!("{}_gitlab_backup.tar", row.id))
        .collect();
    let mut sorted = order.clone();
    sorted.sort_unstable_by(|a, b| b.cmp(a));
    // All stamps have ten digits, so that names can be compared as they are.
    assert_eq!(order, sorted, "{}", told());
    for row in &plan.backups {
        let says_no_rule = row.reasons == ["no rule keeps it"];
        assert_eq!(row.action == Action::Delete, says_no_rule, "{row:?}");
        assert!(!row.reasons.is_empty(), "{row:?}");
    }

    // The bar.
    let complete = history
        .iter()
        .filter(|backup| backup.state == State::Complete);
    let newest =
        complete.max_by_key(|backup| (backup.stamp, format!("{}_gitlab_backup.tar", backup.id)));
    assert!(
        newest.is_none_or(|newest| !gone.contains(&newest.id)),
        "{}",
        told()
    );

    // What is left is what the rules want: pruning again deletes nothing.
    let left: Vec<_> = history
        .iter()
        .filter(|backup| !gone.contains(&backup.id))
        .cloned()
        .collect();
    let again = policy.plan(&left, now).expect("the clock is right");
    assert_eq!(again.deleted().count(), 0, "{}", told());
    Some(gone.len())
}

#[test]
fn ten_thousand_histories_are_planned_as_the_reference_plans_them() {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let (mut refused, mut deleting, mut deleted, mut backups) = (0, 0, 0, 0);
    for _ in 0..HISTORIES {
        let policy = random.policy();
        let history = random.history();
        let newest = history.iter().map(|backup| backup.created_at).max();
        let newest = newest.unwrap_or(DateTime::<Utc>::UNIX_EPOCH);
        let ahead = random.pick(&[
            0,
            1,
            3_600,
            86_400,
            90 * 86_400,
            3_600,
            86_400,
            -59,
            -60,
            -61,
            -86_400,
        ]);
        let now = newest + TimeDelta::seconds(ahead);
        let zone = match random.below(3) {
            0 => Zone::Changing,
            1 => Zone::Fixed(0),
            _ => Zone::Fixed(random.pick(&[-43_200, -12_600, 3_600, 19_800, 45_900, 50_400])),
        };
        let gone = match zone {
            Zone::Changing => compare(&policy, &history, &now.with_timezone(&Newfoundland)),
            Zone::Fixed(seconds) => {
                let zone = FixedOffset::east_opt(seconds).expect("an offset");
                compare(&policy, &history, &now.with_timezone(&zone))
            }
        };
        backups += history.len();
        refused += usize::from(gone.is_none());
        deleting += usize::from(gone.is_some_and(|gone| gone > 0));
        deleted += gone.unwrap_or_default();
    }
    // Were the histories dull, the comparison would say little.
    assert!(refused > 500 && deleting > 3_000, "{refused} {deleting}");
    assert!(
        deleted > backups / 6 && deleted < backups * 5 / 6,
        "{deleted} of {backups}"
    );
}

#[test]
fn the_zone_of_the_test_has_a_day_that_begins_twice() {
    let local = |text: &str| {
        let time: DateTime<Utc> = text.parse().expect("a time");
        let local = time.with_timezone(&Newfoundland);
        (
            local.offset().fix().local_minus_utc(),
            local.format("%d").to_string(),
            local.hour(),
        )
    };
    assert_eq!(local("2024-10-27T02:30:30Z"), (-9_000, "27".to_owned(), 0));
    assert_eq!(
        local("2024-10-27T02:31:00Z"),
        (-12_600, "26".to_owned(), 23)
    );
    assert_eq!(local("2024-10-27T03:30:00Z"), (-12_600, "27".to_owned(), 0));
}
