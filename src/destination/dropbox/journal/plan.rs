//! How an archive is cut into chunks.

use std::ops::Range;

use crate::content_hash::BLOCK_LEN;

/// How many chunks at the start are shorter.
const RAMP: usize = 3;

/// How an archive is cut: chunks of whole blocks, and a remainder of less than a block, possibly empty,
/// that closes the session and is the chunk with the last number.
///
/// The first chunks are shorter, a quarter, a half and three quarters: on a line that all connections share,
/// chunks of one length would all end together, and then the line would be idle for a round trip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    len: u64,
    chunk_len: u64,
}

impl Plan {
    /// `chunk_len` is a multiple of the block length.
    pub fn new(len: u64, chunk_len: u64) -> Plan {
        Plan { len, chunk_len }
    }

    /// The number of the closing chunk.
    pub fn last(self) -> usize {
        let ramp = (0..RAMP)
            .take_while(|number| self.start(*number) < self.aligned())
            .count();
        let rest = self
            .aligned()
            .saturating_sub(self.start(RAMP))
            .div_ceil(self.chunk_len);
        ramp + usize::try_from(rest).expect("chunks fit memory")
    }

    /// The bytes of a chunk.
    pub fn range(self, number: usize) -> Range<u64> {
        if number == self.last() {
            return self.aligned()..self.len;
        }
        self.start(number)..self.aligned().min(self.start(number + 1))
    }

    /// Where a chunk would start in a file without an end.
    fn start(self, number: usize) -> u64 {
        let step = (self.chunk_len / 4 / BLOCK_LEN).max(1) * BLOCK_LEN;
        let ramp: u64 = (1..=number.min(RAMP) as u64)
            .map(|n| self.chunk_len.min(n * step))
            .sum();
        ramp + number.saturating_sub(RAMP) as u64 * self.chunk_len
    }

    fn aligned(self) -> u64 {
        self.len - self.len % BLOCK_LEN
    }
}
