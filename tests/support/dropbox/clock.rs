//! Dropbox's timestamps: UTC, whole seconds, `2015-05-12T15:50:38Z`.

use std::time::{SystemTime, UNIX_EPOCH};

/// The present time.
pub fn now() -> String {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock after 1970");
    stamp(since.as_secs())
}

/// The time of a reply's `Date` header, `Sun, 06 Nov 1994 08:49:37 GMT`, so many seconds from now.
pub fn http_date(ahead: i64) -> String {
    let time = chrono::Utc::now() + chrono::TimeDelta::seconds(ahead);
    time.format("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// Whether a text is a timestamp the service accepts.
pub fn is_stamp(text: &str) -> bool {
    let bytes = text.as_bytes();
    let shape = b"dddd-dd-ddTdd:dd:ddZ";
    let fits = bytes.len() == shape.len()
        && bytes.iter().zip(shape).all(|(byte, want)| match want {
            b'd' => byte.is_ascii_digit(),
            _ => byte == want,
        });
    let number = |at: usize| text[at..at + 2].parse::<u8>().unwrap_or(u8::MAX);
    fits && (1..=12).contains(&number(5))
        && (1..=31).contains(&number(8))
        && number(11) < 24
        && number(14) < 60
        && number(17) < 60
}

/// Howard Hinnant's `civil_from_days`, for dates after 1970.
fn stamp(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::{is_stamp, stamp};

    #[test]
    fn known_days() {
        assert_eq!(stamp(0), "1970-01-01T00:00:00Z");
        assert_eq!(stamp(1_709_208_000), "2024-02-29T12:00:00Z");
        assert_eq!(stamp(1_735_689_599), "2024-12-31T23:59:59Z");
    }

    #[test]
    fn only_the_one_format() {
        assert!(is_stamp("2015-05-12T15:50:38Z"));
        for wrong in [
            "2015-05-12T15:50:38.5Z",
            "2015-05-12T15:50:38+00:00",
            "2015-13-12T15:50:38Z",
            "",
        ] {
            assert!(!is_stamp(wrong), "{wrong}");
        }
    }
}
