//! How a database dump begins, in whatever it is packed.

use std::io::{self, Read};

use super::LONGEST_LOOK;
use crate::gitlab::format::compressed::ZSTD_MAGIC;
use crate::gitlab::format::dump;
use crate::source::Source;
use crate::tar::Member;

/// The contents of a member as a stream.
pub(super) fn contents<'a>(member: &Member, source: &'a dyn Source) -> MemberReader<'a> {
    MemberReader {
        source,
        offset: member.offset,
        end: member.offset + member.size,
    }
}

pub(super) struct MemberReader<'a> {
    source: &'a dyn Source,
    offset: u64,
    end: u64,
}

impl Read for MemberReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len =
            usize::try_from(self.end - self.offset).map_or(buf.len(), |left| left.min(buf.len()));
        let n = self.source.read_at(self.offset, &mut buf[..len])?;
        self.offset += n as u64;
        Ok(n)
    }
}

/// SQL, or gzip or zstd of it, told by the first bytes.
pub(super) fn begins_like_a_dump(mut contents: MemberReader<'_>) -> bool {
    let start = contents.offset;
    let mut magic = [0; 4];
    let known = contents.read(&mut magic).unwrap_or(0);
    contents.offset = start;
    let mut contents = contents.take(LONGEST_LOOK);
    match &magic[..known] {
        [0x1f, 0x8b, ..] => begins_like_sql(flate2::read::GzDecoder::new(contents)),
        magic if *magic == ZSTD_MAGIC => {
            let mut frame = Vec::new();
            // A shorter one is judged by what is there.
            let _ = contents.read_to_end(&mut frame);
            let block = first_block(&frame).unwrap_or_default();
            ruzstd::decoding::StreamingDecoder::new(&block[..]).is_ok_and(begins_like_sql)
        }
        _ => begins_like_sql(contents),
    }
}

/// The first block of a zstd frame as a frame by itself (RFC 8878, section 3.1.1). From the whole frame
/// nothing would come before its window is full, which may be of any size the frame likes.
fn first_block(frame: &[u8]) -> Option<Vec<u8>> {
    let descriptor = *frame.get(4)?;
    let single_segment = descriptor & 0x20 != 0;
    let content_size_len = [usize::from(single_segment), 2, 4, 8][usize::from(descriptor >> 6)];
    let dictionary_len = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let header_len = 5 + usize::from(!single_segment) + dictionary_len + content_size_len;
    let block = frame.get(header_len..)?;
    let header = u32::from_le_bytes([*block.first()?, *block.get(1)?, *block.get(2)?, 0]);
    let repeats_one_byte = header >> 1 & 3 == 1;
    let len = if repeats_one_byte {
        1
    } else {
        usize::try_from(header >> 3).ok()?
    };
    // No checksum, a window of 128 KiB as large as any block, and the block marked as the last.
    let mut alone = ZSTD_MAGIC.to_vec();
    alone.extend([0, 7 << 3, block[0] | 1]);
    alone.extend(block.get(1..3 + len)?);
    Some(alone)
}

fn begins_like_sql(contents: impl Read) -> bool {
    let mut text = Vec::new();
    // What was decoded before an error still counts: a look ends in the middle of a stream.
    let _ = contents.take(256).read_to_end(&mut text);
    dump::begins_like_sql(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUMP: &[u8] = b"--\n-- PostgreSQL database dump\n--\n\n";

    #[test]
    fn the_first_block_is_taken_out_of_every_form_of_frame() {
        let block = [&[0x19, 0x01, 0x00][..], DUMP].concat();
        let alone = [&ZSTD_MAGIC[..], &[0, 7 << 3], &block].concat();
        for header in [
            &[0x20, 35][..],                                   // one segment, size in a byte
            &[0x00, 0x88],                                     // a window of gigabytes, no size
            &[0x40, 0x58, 1, 2],                               // size in two bytes
            &[0xc3, 0x58, 1, 2, 3, 4, 1, 2, 3, 4, 5, 6, 7, 8], // a dictionary, size in eight
        ] {
            let frame = [&ZSTD_MAGIC[..], header, &block].concat();
            assert_eq!(first_block(&frame).as_ref(), Some(&alone), "{header:?}");
            for cut in 0..frame.len() {
                assert!(first_block(&frame[..cut]).is_none_or(|block| block.len() < alone.len()));
            }
        }
    }
}
