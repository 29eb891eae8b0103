//! A few bytes in memory as a [`Source`]: what this program writes itself.

use std::io;
use std::ops::Range;

use bytes::Bytes;

use crate::content_hash::Digest;
use crate::source::{Fingerprint, Source};

/// Bytes in memory.
#[derive(Clone, Debug)]
pub struct MemorySource(Bytes);

impl MemorySource {
    /// Takes the bytes.
    pub fn new(bytes: impl Into<Bytes>) -> MemorySource {
        MemorySource(bytes.into())
    }
}

impl Source for MemorySource {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn fingerprint(&self) -> io::Result<Fingerprint> {
        Ok(Fingerprint(format!("memory:{}", Digest::of(&self.0))))
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.read_ready(offset, buf);
        Ok(n)
    }

    fn read_ready(&self, offset: u64, buf: &mut [u8]) -> usize {
        let rest = usize::try_from(offset)
            .ok()
            .and_then(|offset| self.0.get(offset..))
            .unwrap_or_default();
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        len
    }

    fn release(&self, _range: Range<u64>) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content_hash::hash_source;

    #[test]
    fn it_reads_like_a_file() {
        let source = MemorySource::new(&b"hello"[..]);
        let mut buf = [0; 4];
        assert_eq!(source.read_at(3, &mut buf).expect("read"), 2);
        assert_eq!(&buf[..2], b"lo");
        assert_eq!(source.read_at(9, &mut buf).expect("read"), 0);
        assert!(hash_source(&source).is_ok());
    }
}
