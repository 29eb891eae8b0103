//! Sizes, durations, rates and percentages as people write them: `8 MiB`, `500 kB`, `90s`, `1h30m`, `2 MiB/s`,
//! `30%`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

/// One mebibyte in bytes.
pub const MIB: u64 = 1024 * 1024;

const SIZE_UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// A number of bytes, written `8 MiB` or `500 kB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        let wrong = || format!("`{text}` is not a size; write it like `8 MiB` or `500 kB`");
        let text = text.trim();
        let (number, unit) = split_number(text);
        let factor = match unit {
            "" if number == "0" => 1,
            unit => SIZE_UNITS
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(unit))
                .map(|(_, factor)| *factor)
                .ok_or_else(wrong)?,
        };
        scale(number, factor).map(Size).ok_or_else(wrong)
    }
}

impl fmt::Display for Size {
    /// In binary units with one decimal: `11.6 MiB`; below 1 KiB in bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
        match unit.iter().find(|(_, shift)| self.0 >> shift > 0) {
            Some((name, shift)) => {
                let tenths = (u128::from(self.0) * 10) >> shift;
                write!(f, "{}.{} {name}", tenths / 10, tenths % 10)
            }
            None => write!(f, "{} B", self.0),
        }
    }
}

/// Bytes per second, written `2 MiB/s`; `0` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(pub u64);

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Rate, String> {
        let wrong = || format!("`{text}` is not a rate; write it like `2 MiB/s`, or `0` for none");
        if text.trim() == "0" {
            return Ok(Rate(0));
        }
        let size = text.trim().strip_suffix("/s").ok_or_else(wrong)?;
        size.parse::<Size>()
            .map(|size| Rate(size.0))
            .map_err(|_| wrong())
    }
}

/// A length of time, written `90s`, `6h`, `4d` or `1h30m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Span, String> {
        let wrong = || format!("`{text}` is not a duration; write it like `90s`, `6h` or `4d`");
        let mut rest = text.trim();
        if rest.is_empty() {
            return Err(wrong());
        }
        let mut total = Duration::ZERO;
        while !rest.is_empty() {
            let (number, tail) = split_number(rest);
            let unit_len = tail
                .find(|c: char| c.is_ascii_digit() || c == ' ')
                .unwrap_or(tail.len());
            let factor = match &tail[..unit_len] {
                "s" => 1,
                "m" | "min" => 60,
                "h" => 3_600,
                "d" => 86_400,
                "w" => 604_800,
                _ => return Err(wrong()),
            };
            let seconds = scale(number, factor).ok_or_else(wrong)?;
            total = total
                .checked_add(Duration::from_secs(seconds))
                .ok_or_else(wrong)?;
            rest = tail[unit_len..].trim_start();
        }
        Ok(Span(total))
    }
}

impl fmt::Display for Span {
    /// The two largest units: `3d 4h`, `1m 5s`; below a second `0s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let parts = [
            (seconds / 86_400, "d"),
            (seconds / 3_600 % 24, "h"),
            (seconds / 60 % 60, "m"),
            (seconds % 60, "s"),
        ];
        let first = parts.iter().position(|(n, _)| *n > 0).unwrap_or(3);
        write!(f, "{}{}", parts[first].0, parts[first].1)?;
        match parts.get(first + 1) {
            Some((n, unit)) if *n > 0 => write!(f, " {n}{unit}"),
            _ => Ok(()),
        }
    }
}

/// Hundredths of a whole, written `30%`: 0 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(pub u8);

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Percent, String> {
        let wrong =
            || format!("`{text}` is not a percentage; write it like `30%`, from 0% to 100%");
        let number = text.trim().strip_suffix('%').ok_or_else(wrong)?.trim_end();
        let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
        let percent = number.parse().ok().filter(|_| is_number);
        percent
            .filter(|percent| *percent <= 100)
            .map(Percent)
            .ok_or_else(wrong)
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", self.0)
    }
}

/// `8.5 MiB` → (`8.5`, `MiB`).
fn split_number(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

/// A decimal number times a factor, exactly; none if it is no number or does not fit.
fn scale(number: &str, factor: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.len() > 9 {
        return None;
    }
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let value =
        digits.checked_mul(u128::from(factor))? / 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    u64::try_from(value).ok()
}

/// So many in so long, written `6/1m`; `0` for any number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota(pub Option<(u32, Duration)>);

impl FromStr for Quota {
    type Err = String;

    fn from_str(text: &str) -> Result<Quota, String> {
        let wrong = || format!("`{text}` is no limit; write it like `6/1m`, or `0` for none");
        if text.trim() == "0" {
            return Ok(Quota(None));
        }
        let (count, period) = text.split_once('/').ok_or_else(wrong)?;
        let count = count.trim().parse().map_err(|_| wrong())?;
        let Span(period) = period.parse().map_err(|_| wrong())?;
        if count == 0 || period.is_zero() {
            return Err(wrong());
        }
        Ok(Quota(Some((count, period))))
    }
}

macro_rules! deserialize_from_text {
    ($($name:ident),*) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
deserialize_from_text!(Size, Rate, Span, Percent, Quota);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_exactly_and_nonsense_is_refused() {
        for (text, bytes) in [
            ("8 MiB", Some(8 << 20)),
            ("16MiB", Some(16 << 20)),
            ("500 kB", Some(500_000)),
            ("1.5 GiB", Some(3 << 29)),
            ("0", Some(0)),
            ("7 B", Some(7)),
            ("16777216.1 TiB", None),
            ("99999999999999999999 B", None),
            ("8", None),
            ("-1 MiB", None),
            ("MiB", None),
            ("8 MiB/s", None),
            ("", None),
        ] {
            assert_eq!(text.parse::<Size>().ok().map(|s| s.0), bytes, "{text}");
        }
    }

    #[test]
    fn durations_and_rates() {
        let seconds = |text: &str| text.parse::<Span>().ok().map(|s| s.0.as_secs());
        assert_eq!(seconds("90s"), Some(90));
        assert_eq!(seconds("6h"), Some(21_600));
        assert_eq!(seconds("1h30m"), Some(5_400));
        assert_eq!(seconds("4d 1s"), Some(345_601));
        assert_eq!(seconds("6"), None);
        assert_eq!(seconds(""), None);
        assert_eq!(seconds("six hours"), None);
        assert_eq!("2 MiB/s".parse(), Ok(Rate(2 << 20)));
        assert_eq!("0".parse(), Ok(Rate(0)));
        assert!("2 MiB".parse::<Rate>().is_err());
    }

    #[test]
    fn percentages_are_whole_and_no_more_than_all() {
        for (text, percent) in [
            ("30%", Some(30)),
            (" 30 % ", Some(30)),
            ("0%", Some(0)),
            ("100%", Some(100)),
            ("101%", None),
            ("256%", None),
            ("-1%", None),
            ("+1%", None),
            ("12.5%", None),
            ("30", None),
            ("%", None),
            ("30%%", None),
        ] {
            let read = text.parse::<Percent>().ok();
            assert_eq!(read.map(|percent| percent.0), percent, "{text}");
        }
        assert_eq!(Percent(7).to_string().parse(), Ok(Percent(7)));
    }

    #[test]
    fn people_can_read_them() {
        assert_eq!(Size(0).to_string(), "0 B");
        assert_eq!(Size(12_164_506).to_string(), "11.6 MiB");
        assert_eq!(Size(u64::MAX).to_string(), "16777215.9 TiB");
        assert_eq!(Span(Duration::from_hours(76)).to_string(), "3d 4h");
        assert_eq!(Span(Duration::from_millis(400)).to_string(), "0s");
        assert_eq!(Span(Duration::from_secs(3_605)).to_string(), "1h");
    }
}
