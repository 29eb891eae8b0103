//! A set of small numbers: minutes, days, weekdays.

/// Numbers from 0 to 63.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Set(u64);

/// What is written in lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// One number.
    One(u32),
    /// From the first to the last of them.
    Range(u32, u32),
}

impl Set {
    /// From `low` to `high`, both among them.
    pub(super) fn range(low: u32, high: u32) -> Set {
        (low..=high).collect()
    }

    pub(super) fn contains(self, number: u32) -> bool {
        number < 64 && self.0 & (1 << number) != 0
    }

    /// In order.
    pub(super) fn iter(self) -> impl Iterator<Item = u32> {
        (0..64).filter(move |number| self.contains(*number))
    }

    pub(super) fn len(self) -> u32 {
        self.0.count_ones()
    }

    pub(super) fn first(self) -> u32 {
        self.0.trailing_zeros()
    }

    /// If it is every `step`-th number from its first one up to `high`, and there are at least three: the step.
    pub(super) fn step(self, high: u32) -> Option<u32> {
        let first = self.first();
        let step = self.iter().nth(1)? - first;
        let same: Set = (first..=high).step_by(step as usize).collect();
        (step > 1 && self.len() > 2 && same == self).then_some(step)
    }

    /// As a list with ranges.
    pub(super) fn pieces(self) -> Vec<Piece> {
        let mut runs: Vec<(u32, u32)> = Vec::new();
        for number in self.iter() {
            match runs.last_mut() {
                Some((_, end)) if *end + 1 == number => *end = number,
                _ => runs.push((number, number)),
            }
        }
        let piece = |(first, last): (u32, u32)| match last - first {
            0 => vec![Piece::One(first)],
            1 => vec![Piece::One(first), Piece::One(last)],
            _ => vec![Piece::Range(first, last)],
        };
        runs.into_iter().flat_map(piece).collect()
    }
}

impl FromIterator<u32> for Set {
    fn from_iter<I: IntoIterator<Item = u32>>(numbers: I) -> Set {
        let bits = numbers.into_iter().filter(|number| *number < 64);
        Set(bits.fold(0, |set, number| set | 1 << number))
    }
}

/// Digits alone, and few.
pub(super) fn number(text: &str) -> Option<u32> {
    let good = !text.is_empty() && text.len() <= 4 && text.bytes().all(|b| b.is_ascii_digit());
    good.then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_told_in_the_fewest_words() {
        let set = |numbers: &[u32]| numbers.iter().copied().collect::<Set>();
        assert_eq!(set(&[0, 15, 30, 45]).step(59), Some(15));
        assert_eq!(set(&[5, 25, 45]).step(59), Some(20));
        assert_eq!(set(&[0, 20, 40]).step(60), None);
        assert_eq!(set(&[0, 30]).step(59), None);
        assert_eq!(set(&[1, 2, 3]).step(3), None);
        assert_eq!(
            set(&[1, 2, 4, 5, 6, 9]).pieces(),
            [
                Piece::One(1),
                Piece::One(2),
                Piece::Range(4, 6),
                Piece::One(9)
            ]
        );
        assert_eq!(number("007"), Some(7));
        for bad in ["", "+1", "-1", "1 ", "99999", "x"] {
            assert_eq!(number(bad), None, "{bad}");
        }
    }
}
