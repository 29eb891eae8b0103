//! Bytes that can be read again: the one property that retry without buffering, parallel chunks and
//! resume after a power cut all rest on.

pub mod file;
pub mod memory;
pub mod sealed;
pub mod tree;

use std::fmt;
use std::io;
use std::ops::Range;

use serde::{Deserialize, Serialize};

/// Something with a length that can be read at any offset, from several threads at once, any number
/// of times, always with the same bytes — or the fingerprint has changed.
pub trait Source: Send + Sync {
    /// The length in bytes, fixed when the source was opened.
    fn len(&self) -> u64;

    /// Whether there is nothing to read.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Looks anew; the value changes whenever the bytes could have: inode, length, mtime and ctime in
    /// nanoseconds. An error says that the bytes can no longer be reached under their name.
    fn fingerprint(&self) -> io::Result<Fingerprint>;

    /// Whether all that has been read so far was as `expected` says. Asked again and again while it is read, and
    /// therefore not of a tree's hundred thousand files: [`fingerprint`](Source::fingerprint) asks at the end.
    fn is_still(&self, expected: &Fingerprint) -> io::Result<bool> {
        Ok(self.fingerprint()? == *expected)
    }

    /// Fills `buf` from `offset`; short only at the end. Blocks: call it from the blocking pool.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// Like [`read_at`](Source::read_at), but only what is there without waiting for a disk; how much that
    /// is. May be called from anywhere; 0 sends the caller to the blocking pool.
    fn read_ready(&self, _offset: u64, _buf: &mut [u8]) -> usize {
        0
    }

    /// Brings the bytes onto the disk, so that after a power cut they are still what was hashed.
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    /// What could not be taken into it, in words: a doubt each.
    fn left_out(&self) -> Vec<String> {
        Vec::new()
    }

    /// Tells the kernel that this part will not be read again soon. A hint.
    fn release(&self, range: Range<u64>);
}

/// What a source looked like at one moment; equal fingerprints mean equal bytes. No device number is
/// in it: that changes over reboots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(pub String);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A file of a source is no longer what it was; the name is shown as it is.
pub fn changed(name: &str) -> io::Error {
    // Not its kind of file system, but what it says: the handle leads to nothing that is known any more.
    io::Error::new(
        io::ErrorKind::StaleNetworkFileHandle,
        format!("{name} has changed, or is gone"),
    )
}

/// Fills all of `buf` from `offset`, or fails with `UnexpectedEof`: the source got shorter.
pub fn read_exact_at(source: &dyn Source, offset: u64, buf: &mut [u8]) -> io::Result<()> {
    match source.read_at(offset, buf)? {
        n if n == buf.len() => Ok(()),
        _ => Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the file ends earlier than it did",
        )),
    }
}
