//! Calendars against systemd itself: hundreds of them, in several time zones, over changes of the clock.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::Command;

use chrono::{DateTime, Local, NaiveDateTime, TimeZone as _, Utc};
use gitlab_pi_backup::schedule::Calendar;

const ZONES: [&str; 5] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kolkata",
];
/// Quiet days, and the nights around changes of the clock.
const BASES: [&str; 9] = [
    "2026-11-21 18:30:00",
    "2027-02-27 23:59:59",
    "2028-02-28 12:00:00",
    "2026-12-31 23:59:00",
    // Europe, America, Australia: forward and back.
    "2027-03-27 22:00:00",
    "2027-10-30 20:00:00",
    "2027-03-14 02:00:00",
    "2027-11-07 01:00:00",
    "2027-10-02 10:00:00",
];
const TIMES: usize = 5;
const CALENDARS: usize = 60;

/// Numbers that look random and are the same every time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }

    fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.roll(high - low + 1)
    }

    /// A part of a date or time.
    fn part(&mut self, low: u64, high: u64) -> String {
        let item = |dice: &mut Dice| {
            let first = dice.between(low, high - 1);
            let last = dice.between(first + 1, high);
            match dice.roll(5) {
                0 => format!("{first}..{last}"),
                1 => format!("{first}/{}", dice.between(1, high - first)),
                2 => format!("{first}..{last}/{}", dice.between(1, last - first)),
                _ => format!("{last:02}"),
            }
        };
        match self.roll(4) {
            0 => "*".to_owned(),
            1 => format!("{},{}", item(self), item(self)),
            _ => item(self),
        }
    }

    fn calendar(&mut self) -> String {
        let days = ["Mon", "Tue", "wed", "THURSDAY", "Fri", "Sat", "Sunday"];
        let mut text = String::new();
        match self.roll(4) {
            0 => {
                let first = self.roll(6);
                let last = usize::try_from(self.between(first, 6)).expect("small");
                let first = usize::try_from(first).expect("small");
                let _ = write!(text, "{}..{} ", days[first], days[last]);
            }
            1 => {
                let [a, b] =
                    [self.roll(7), self.roll(7)].map(|day| usize::try_from(day).expect("small"));
                let _ = write!(text, "{},{} ", days[a], days[b]);
            }
            _ => {}
        }
        match self.roll(3) {
            0 => {}
            1 => text = format!("{text}{}-{} ", self.part(1, 12), self.part(1, 31)),
            _ => {
                let year = ["*", "2027", "2026..2029", "27,28", "2026/2"];
                let year = year[usize::try_from(self.roll(5)).expect("small")];
                text = format!("{text}{year}-{}-{} ", self.part(1, 12), self.part(1, 31));
            }
        }
        // At night, where clocks change, more often than not.
        let hour = if self.roll(2) == 0 {
            format!("{:02}", self.roll(4))
        } else {
            self.part(0, 23)
        };
        text = format!("{text}{hour}:{}", self.part(0, 59));
        if self.roll(4) == 0 {
            text = format!("{text}:{}", self.part(0, 59));
        }
        if self.roll(6) == 0 {
            text += " UTC";
        }
        text
    }
}

/// What systemd says comes after: times in UTC.
fn asked(calendar: &str, base: &str) -> Option<Vec<DateTime<Utc>>> {
    let output = Command::new("systemd-analyze")
        .args([
            "calendar",
            &format!("--iterations={TIMES}"),
            &format!("--base-time={base} UTC"),
            calendar,
        ])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{calendar}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let is_utc = std::env::var("TZ").as_deref() == Ok("UTC")
        || calendar.ends_with(" UTC") && !text.contains("(in UTC)");
    let keys: &[&str] = if is_utc {
        &["Next elapse:", "Iter. #"]
    } else {
        &["(in UTC):"]
    };
    let lines = text.lines().map(str::trim);
    let lines = lines
        .filter(|line| keys.iter().any(|key| line.starts_with(key)) && !line.ends_with("never"));
    let times = lines.map(|line| {
        let words: Vec<_> = line.split_ascii_whitespace().rev().take(3).collect();
        let time = format!("{} {}", words[2], words[1]);
        let naive = NaiveDateTime::parse_from_str(&time, "%Y-%m-%d %H:%M:%S").expect("a time");
        naive.and_utc()
    });
    Some(times.collect())
}

fn ours(calendar: &Calendar, base: &str) -> Vec<DateTime<Utc>> {
    let naive = NaiveDateTime::parse_from_str(base, "%Y-%m-%d %H:%M:%S").expect("a time");
    let mut now: DateTime<Local> = Local.from_utc_datetime(&naive);
    let mut times = Vec::new();
    while times.len() < TIMES
        && let Some(next) = calendar.next_after(&now)
    {
        times.push(next.to_utc());
        now = next;
    }
    times
}

/// Whether one of these is in the hour that comes twice, or after it on the same night: systemd leaves the choice of
/// the two to the C library.
fn is_twice(times: &[DateTime<Utc>]) -> bool {
    times.iter().any(|time| {
        let local = time.with_timezone(&Local).naive_local();
        matches!(
            Local.from_local_datetime(&local),
            chrono::LocalResult::Ambiguous(..)
        )
    })
}

#[test]
fn the_next_times_are_those_of_systemd() {
    if Command::new("systemd-analyze")
        .arg("--version")
        .output()
        .is_err()
    {
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: there is no systemd-analyze to compare with"
        );
        return;
    }
    let own = std::env::current_exe().expect("a path");
    let children = ZONES.map(|zone| {
        let mut child = Command::new(&own);
        child
            .args(["--exact", "in_one_zone", "--ignored", "--nocapture"])
            .env("TZ", zone);
        (zone, child.output().expect("started"))
    });
    for (zone, output) in children {
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{zone}: {said}{err}");
        assert!(said.contains("1 passed"), "{zone}: {said}");
    }
}

#[test]
#[ignore = "is started by the test above for each time zone"]
fn in_one_zone() {
    let mut dice = Dice(std::env::var("TZ").map_or(1, |zone| 77 + zone.len() as u64));
    let (mut compared, mut twice, mut times) = (0, 0, 0);
    for number in 0..CALENDARS {
        let text = dice.calendar();
        let base = BASES[number % BASES.len()];
        let calendar = Calendar::parse(&text).unwrap_or_else(|why| panic!("{why}"));
        let theirs = asked(&text, base).expect("systemd-analyze");
        let ours = ours(&calendar, base);
        if is_twice(&theirs) || is_twice(&ours) {
            twice += 1;
        } else {
            assert_eq!(
                ours,
                theirs,
                "{text} after {base}, TZ={:?}",
                std::env::var("TZ")
            );
            compared += 1;
            times += ours.len();
        }
        // What we write, systemd understands, and means the same by it.
        let [spelled] = &calendar.to_systemd()[..] else {
            panic!("{text}: {calendar:?}")
        };
        assert_eq!(
            asked(spelled, base).expect("systemd-analyze"),
            theirs,
            "{text} as {spelled}"
        );
    }
    assert!(
        compared > 10 * twice && times > 3 * compared,
        "{compared} {twice} {times}"
    );
}
