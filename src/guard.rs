//! A backup that shrank: was something lost, before the good backups are pruned?
//!
//! A disk that was not mounted, a restore that stopped half-way or a deleted group leave a backup that is
//! whole and much smaller than the one before. Nobody looks at sizes every night, so they are compared here.

use crate::gitlab::contents::Contents;
use crate::settings::Section;
use crate::units::{Percent, Size};

/// A part without files is a compressed tar of one folder, whose size wobbles with the folder's times; what
/// falls by less than a tar's block, in bytes, has lost nothing.
const WOBBLE: u64 = 512;

/// `[guard]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// A part may become smaller by this much from one backup to the next.
    pub shrink: Percent,
}

impl Settings {
    /// Reads the section.
    pub fn read(section: &mut Section<'_>) -> Settings {
        Settings {
            // Clearing old job artifacts stays below it, losing a directory does not.
            shrink: section.get("shrink").unwrap_or(Percent(30)),
        }
    }
}

/// A line for each part of a data archive, and one for the number of repositories, that fell by more than
/// `threshold` since the backup before. A part that was left out on purpose did not fall.
pub fn shrinkage(before: &Contents, now: &Contents, threshold: Percent) -> Vec<String> {
    let is_skipped = |part: &str| now.skipped.iter().any(|skipped| skipped == part);
    let mut lines = Vec::new();
    for (part, &was) in &before.parts {
        if is_skipped(part) {
            continue;
        }
        let is = now.parts.get(part).copied();
        let Some(percent) = fall(was, is.unwrap_or(0), threshold) else {
            continue;
        };
        match is {
            None => lines.push(format!("{part} is gone; it had {}", Size(was))),
            Some(is) if was - is >= WOBBLE => lines.push(format!(
                "{part} fell from {} to {} ({percent} %)",
                Size(was),
                Size(is)
            )),
            Some(_) => {}
        }
    }
    let (was, is) = (before.repositories, now.repositories);
    if let Some(percent) = fall(was, is, threshold).filter(|_| !is_skipped("repositories")) {
        lines.push(format!(
            "the number of repositories fell from {was} to {is} ({percent} %)"
        ));
    }
    lines
}

/// By how many hundredths a size fell, rounded down, if that is more than `threshold` and no wobble.
pub fn shrank(was: u64, is: u64, threshold: Percent) -> Option<u128> {
    fall(was, is, threshold).filter(|_| was - is >= WOBBLE)
}

/// By how many hundredths a number fell, rounded down; none if that is not more than `threshold`.
fn fall(was: u64, is: u64, threshold: Percent) -> Option<u128> {
    let hundredfold = u128::from(was.saturating_sub(is)) * 100;
    let is_more = hundredfold > u128::from(was) * u128::from(threshold.0);
    is_more.then(|| hundredfold / u128::from(was.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::MIB;

    fn contents(parts: &[(&str, u64)], repositories: u64, skipped: &[&str]) -> Contents {
        let parts = parts.iter().map(|(part, size)| ((*part).to_owned(), *size));
        Contents {
            parts: parts.collect(),
            repositories,
            skipped: skipped.iter().map(|&part| part.to_owned()).collect(),
            ..Contents::default()
        }
    }

    #[test]
    fn what_fell_by_more_than_the_threshold_is_told() {
        let before = contents(
            &[
                ("db", 1_000_000),
                ("lfs", 5 << 30),
                ("repositories", 200 * MIB),
                ("uploads", 1200 * MIB),
            ],
            40,
            &[],
        );
        let now = contents(
            &[
                ("artifacts", 7),
                ("db", 700_000),
                ("repositories", 201 * MIB),
                ("uploads", 300 * MIB),
            ],
            12,
            &[],
        );
        let expected = [
            "lfs is gone; it had 5.0 GiB",
            "uploads fell from 1.1 GiB to 300.0 MiB (75 %)",
            "the number of repositories fell from 40 to 12 (70 %)",
        ];
        assert_eq!(shrinkage(&before, &now, Percent(30)), expected);
        assert_eq!(shrinkage(&before, &now, Percent(29)).len(), 4);
        assert_eq!(shrinkage(&before, &now, Percent(75)).len(), 1);
        assert_eq!(shrinkage(&before, &now, Percent(100)), [""; 0]);
        // What grew did not fall, and neither did what stayed.
        assert_eq!(shrinkage(&now, &now, Percent(0)), [""; 0]);
    }

    #[test]
    fn parts_left_out_and_empty_parts_do_not_count() {
        let before = contents(&[("pages", 600), ("uploads", 50_000)], 9, &[]);
        let wobbled = contents(&[("pages", 89), ("uploads", 50_000)], 9, &[]);
        assert_eq!(shrinkage(&before, &wobbled, Percent(0)), [""; 0]);
        let fell = contents(&[("pages", 88), ("uploads", 50_000)], 9, &[]);
        assert_eq!(shrinkage(&before, &fell, Percent(0)).len(), 1);

        let small = contents(&[("pages", 120)], 0, &[]);
        let gone = contents(&[], 0, &[]);
        let expected = ["pages is gone; it had 120 B"];
        assert_eq!(shrinkage(&small, &gone, Percent(99)), expected);

        let skipped = contents(&[("pages", 600)], 0, &["uploads", "repositories"]);
        assert_eq!(shrinkage(&before, &skipped, Percent(0)), [""; 0]);
    }

    #[test]
    fn numbers_of_any_size_are_compared() {
        let before = contents(&[("lfs", u64::MAX), ("pages", 0)], 0, &[]);
        let now = contents(&[("lfs", u64::MAX / 2)], 1, &[]);
        let expected = ["lfs fell from 16777215.9 TiB to 8388607.9 TiB (50 %)"];
        assert_eq!(shrinkage(&before, &now, Percent(49)), expected);
        assert_eq!(shrinkage(&before, &now, Percent(50)).len(), 1);
        assert_eq!(shrinkage(&before, &now, Percent(51)), [""; 0]);
    }
}
