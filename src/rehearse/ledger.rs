//! What must be there and what is there, for a hundred thousand repositories in a few megabytes.
//!
//! Manifests and what they name come in any order, so that every name has to be remembered until its
//! counterpart is met, and there may be half a million of them. Two things together keep that small. Of
//! each name only a keyed hash is kept, with a bit for each thing said about it: that tells exactly how much
//! is missing, but not what. And every name is added to a handful of cells when it is needed, and taken away
//! from them again when it is there: at the end the cells hold nothing but the names whose counterpart never
//! came, and as long as these are few they can be read out (an "invertible Bloom lookup table",
//! <https://arxiv.org/abs/1101.2245>).

use std::hash::{BuildHasher, RandomState};

/// Something said about a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Mark {
    RefsNeeded = 1,
    RefsThere = 1 << 1,
    /// They are there, but without a line: then there is no bundle.
    RefsEmpty = 1 << 2,
    BundleNeeded = 1 << 3,
    BundleThere = 1 << 4,
    ManifestNeeded = 1 << 5,
    ManifestThere = 1 << 6,
}

/// What is missing in the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Missing {
    pub(super) refs: u64,
    pub(super) bundles: u64,
    pub(super) manifests: u64,
    /// Bundles of repositories that have no references according to gitaly.
    pub(super) contradicted: u64,
    /// Their names, as far as they can be told.
    pub(super) names: Vec<String>,
}

/// Marks by name.
pub(super) struct Ledger {
    hasher: RandomState,
    table: Table,
    sketch: Sketch,
}

impl Ledger {
    pub(super) fn new() -> Ledger {
        Ledger {
            hasher: RandomState::new(),
            table: Table::new(),
            sketch: Sketch::new(),
        }
    }

    /// Says something about a name; `shown` is what is told to people if the counterpart never comes, and the
    /// same for both.
    pub(super) fn mark(&mut self, name: &[&[u8]], mark: Mark, shown: &[u8]) {
        let hash = self.hasher.hash_one(name);
        let new = self.table.mark(hash, mark as u8);
        // Which two marks cancel each other out, and in which direction.
        let (pair, sign) = match mark {
            Mark::RefsNeeded => (1, 1),
            Mark::RefsThere => (1, -1),
            Mark::BundleNeeded => (2, 1),
            Mark::BundleThere => (2, -1),
            Mark::ManifestNeeded => (3, 1),
            Mark::ManifestThere => (3, -1),
            Mark::RefsEmpty => return,
        };
        if new {
            let key = self.hasher.hash_one((hash, pair));
            self.sketch.add(&self.hasher, key, shown, sign);
        }
    }

    pub(super) fn missing(mut self) -> Missing {
        let mut missing = Missing::default();
        for marks in self.table.marks() {
            let only = |one: Mark, other: Mark| {
                u64::from(marks & one as u8 != 0 && marks & other as u8 == 0)
            };
            missing.refs += only(Mark::RefsNeeded, Mark::RefsThere);
            missing.bundles += only(Mark::BundleNeeded, Mark::BundleThere);
            missing.manifests += only(Mark::ManifestNeeded, Mark::ManifestThere);
            let both = Mark::RefsEmpty as u8 | Mark::BundleThere as u8;
            missing.contradicted += u64::from(marks & both == both);
        }
        missing.names = self.sketch.needed(&self.hasher);
        missing
    }
}

/// How many bits of an entry are marks; the others are the hash.
const MARK_BITS: u32 = 8;

/// How many bits of a hash choose the segment.
const SEGMENT_BITS: u32 = 8;

/// A hash set with a byte for each entry, in eight bytes per entry. In segments that grow one by one:
/// growing as a whole would take it twice for a moment.
struct Table {
    segments: Vec<Segment>,
}

#[derive(Clone, Default)]
struct Segment {
    /// 0 is free.
    slots: Vec<u64>,
    filled: usize,
}

impl Table {
    fn new() -> Table {
        Table {
            segments: vec![Segment::default(); 1 << SEGMENT_BITS],
        }
    }

    /// Whether the mark is new.
    fn mark(&mut self, hash: u64, mark: u8) -> bool {
        let segment = usize::try_from(hash >> (u64::BITS - SEGMENT_BITS)).expect("a byte");
        self.segments[segment].mark(hash >> MARK_BITS, mark)
    }

    fn marks(&self) -> impl Iterator<Item = u8> {
        let slots = self.segments.iter().flat_map(|segment| &segment.slots);
        slots.filter_map(|entry| (*entry != 0).then_some(entry.to_le_bytes()[0]))
    }
}

impl Segment {
    fn mark(&mut self, hash: u64, mark: u8) -> bool {
        if self.filled * 8 >= self.slots.len() * 7 {
            let larger = vec![0; (self.slots.len() / 4 * 5).max(16)];
            let entries = std::mem::replace(&mut self.slots, larger);
            for entry in entries.into_iter().filter(|entry| *entry != 0) {
                *self.find(entry >> MARK_BITS) = entry;
            }
        }
        let slot = self.find(hash);
        let was_free = *slot == 0;
        let new = *slot & u64::from(mark) == 0;
        *slot |= hash << MARK_BITS | u64::from(mark);
        self.filled += usize::from(was_free);
        new
    }

    /// The slot of a hash, or the free one where it belongs.
    fn find(&mut self, hash: u64) -> &mut u64 {
        // All hashes of a segment begin alike; what follows spreads them over it.
        let bits = u64::BITS - MARK_BITS - SEGMENT_BITS;
        let place = (u128::from(hash % (1 << bits)) * self.slots.len() as u128) >> bits;
        let mut at = usize::try_from(place).expect("less than the length");
        while self.slots[at] != 0 && self.slots[at] >> MARK_BITS != hash {
            at = if at + 1 == self.slots.len() {
                0
            } else {
                at + 1
            };
        }
        &mut self.slots[at]
    }
}

/// A name is put into this many cells, one of each row.
const ROWS: usize = 3;
const CELLS_IN_ROW: usize = 24;
/// A longer name is shortened.
const NAME_LEN: usize = 190;

/// Sums of what was put in, and of what was taken out again.
#[derive(Clone)]
struct Cell {
    count: i64,
    keys: u64,
    /// Of keys and names together: tells whether a cell holds only one.
    checks: u64,
    lengths: u8,
    names: [u8; NAME_LEN],
}

struct Sketch {
    cells: Vec<Cell>,
}

impl Sketch {
    fn new() -> Sketch {
        let empty = Cell {
            count: 0,
            keys: 0,
            checks: 0,
            lengths: 0,
            names: [0; NAME_LEN],
        };
        Sketch {
            cells: vec![empty; ROWS * CELLS_IN_ROW],
        }
    }

    fn add(&mut self, hasher: &RandomState, key: u64, name: &[u8], sign: i64) {
        let name = &name[..name.len().min(NAME_LEN)];
        let check = hasher.hash_one((key, name));
        for row in 0..ROWS {
            let bits = usize::try_from(key >> (20 * row) & 0xf_ffff).expect("twenty bits");
            let cell = &mut self.cells[row * CELLS_IN_ROW + bits % CELLS_IN_ROW];
            // A crowd of names can wrap around; it could not be read out anyway.
            cell.count = cell.count.wrapping_add(sign);
            cell.keys ^= key;
            cell.checks ^= check;
            cell.lengths ^= u8::try_from(name.len()).expect("shortened");
            let sums = cell.names.iter_mut().zip(name);
            sums.for_each(|(sum, byte)| *sum ^= byte);
        }
    }

    /// The names that are needed and not there, sorted; none if they are too many to be told apart.
    fn needed(&mut self, hasher: &RandomState) -> Vec<String> {
        let mut needed = Vec::new();
        while let Some((key, name, sign)) = self.alone(hasher) {
            self.add(hasher, key, &name, -sign);
            if sign > 0 {
                needed.push(String::from_utf8_lossy(&name).into_owned());
            }
        }
        needed.sort();
        needed
    }

    /// A name that has some cell for itself.
    fn alone(&self, hasher: &RandomState) -> Option<(u64, Vec<u8>, i64)> {
        self.cells.iter().find_map(|cell| {
            let name = cell.names.get(..usize::from(cell.lengths))?;
            let alone = cell.count.abs() == 1 && hasher.hash_one((cell.keys, name)) == cell.checks;
            alone.then(|| (cell.keys, name.to_vec(), cell.count))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(i: u32) -> String {
        format!("default/@hashed/{i:064x}.git/1739332803_2025_02_12_17.8.2/001")
    }

    fn ledger(needed: impl Iterator<Item = u32>, there: impl Iterator<Item = u32>) -> Missing {
        let mut ledger = Ledger::new();
        for i in needed {
            let name = name(i);
            ledger.mark(
                &[name.as_bytes()],
                Mark::RefsNeeded,
                format!("{name}.refs").as_bytes(),
            );
            ledger.mark(
                &[name.as_bytes()],
                Mark::RefsNeeded,
                format!("{name}.refs").as_bytes(),
            );
        }
        for i in there {
            let name = name(i);
            ledger.mark(
                &[name.as_bytes()],
                Mark::RefsThere,
                format!("{name}.refs").as_bytes(),
            );
            ledger.mark(
                &[name.as_bytes()],
                Mark::BundleThere,
                format!("{name}.bundle").as_bytes(),
            );
            ledger.mark(
                &[name.as_bytes()],
                Mark::BundleNeeded,
                format!("{name}.bundle").as_bytes(),
            );
        }
        ledger.missing()
    }

    #[test]
    fn nothing_is_missing_in_any_order() {
        assert_eq!(ledger(0..5000, (0..5000).rev()), Missing::default());
        assert_eq!(ledger(0..0, 0..5000).refs, 0);
    }

    #[test]
    fn few_missing_names_are_told_among_many() {
        let missing = ledger(0..100_000, (0..100_000).filter(|i| i % 20_000 != 7));
        assert_eq!(missing.refs, 5);
        let names: Vec<_> = (0..5)
            .map(|i| format!("{}.refs", name(i * 20_000 + 7)))
            .collect();
        assert_eq!(missing.names, names);
    }

    #[test]
    fn many_missing_names_are_counted() {
        let missing = ledger(0..20_000, 10_000..30_000);
        assert_eq!(
            (missing.refs, missing.bundles, missing.manifests),
            (10_000, 0, 0)
        );
        assert!(missing.names.len() < 100);
    }

    #[test]
    fn names_that_look_the_same_are_told_apart() {
        let mut ledger = Ledger::new();
        ledger.mark(&[b"a", b"1"], Mark::ManifestNeeded, b"a");
        ledger.mark(&[b"a", b"2"], Mark::ManifestThere, b"a");
        let missing = ledger.missing();
        assert_eq!(
            (missing.manifests, missing.names),
            (1, vec!["a".to_owned()])
        );
    }

    #[test]
    fn an_empty_list_contradicts_a_bundle() {
        let mut ledger = Ledger::new();
        ledger.mark(&[b"a"], Mark::BundleThere, b"a.bundle");
        ledger.mark(&[b"a"], Mark::RefsEmpty, b"");
        ledger.mark(&[b"b"], Mark::RefsEmpty, b"");
        assert_eq!(ledger.missing().contradicted, 1);
    }

    #[test]
    fn three_hundred_thousand_entries_take_few_megabytes() {
        let mut table = Table::new();
        let hasher = RandomState::new();
        for i in 0..300_000 {
            assert!(table.mark(hasher.hash_one(i), 1));
            assert!(!table.mark(hasher.hash_one(i), 1));
            assert!(table.mark(hasher.hash_one(i), 2));
        }
        assert_eq!(table.marks().filter(|marks| *marks == 3).count(), 300_000);
        let slots: usize = table
            .segments
            .iter()
            .map(|segment| segment.slots.len())
            .sum();
        assert!(slots * 8 < 7 << 19, "{slots} slots");
    }
}
