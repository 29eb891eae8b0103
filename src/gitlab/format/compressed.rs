//! Compressed members: gzip by default, whatever `COMPRESS_CMD` made otherwise; the name always ends in
//! `.gz` (<https://docs.gitlab.com/administration/backup_restore/backup_gitlab/#backup-compression>).

use std::io::{self, BufRead, Chain, Cursor, Read};

use flate2::bufread::GzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// A zstd frame wants a window of its own choice to be kept in memory; beyond this many bytes it is not
/// read. `zstd` takes 2 MiB by default, 8 MiB from level 19.
const LARGEST_WINDOW: u64 = 8 * 1024 * 1024;

/// What a zstd frame begins with.
pub const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// What other programs that could be a `COMPRESS_CMD` begin their output with.
const FOREIGN: [(&[u8], &str); 3] = [
    (&[0xfd, b'7', b'z', b'X', b'Z', 0], "xz"),
    (b"BZh", "bzip2"),
    (&[0x04, 0x22, 0x4d, 0x18], "lz4"),
];

/// The decompressed bytes. They are whole once `read` has said that nothing is left: until then checksums,
/// lengths and what follows have not been looked at.
pub enum Expanded<R: BufRead> {
    /// One or more gzip members.
    Gzip(Box<Gzip<R>>),
    /// One or more zstd frames.
    Zstd(Box<Zstd<R>>),
    /// Not compressed.
    Plain(R),
}

/// What an input is continued by that had to be looked at first.
pub type Looked<R> = Chain<Cursor<Vec<u8>>, R>;

/// Tells by the first bytes how the input is compressed. An empty one is an error, for no compressor makes
/// nothing of nothing; one by a compressor that is not built in is an error of the kind `Unsupported`.
pub fn expand<R: BufRead>(mut input: R) -> io::Result<Expanded<Looked<R>>> {
    let mut start = Vec::new();
    input.by_ref().take(6).read_to_end(&mut start)?;
    if start.is_empty() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it is empty"));
    }
    if let Some((_, name)) = FOREIGN.iter().find(|(magic, _)| start.starts_with(magic)) {
        let what = format!("it is compressed by {name}, which cannot be read here");
        return Err(io::Error::new(io::ErrorKind::Unsupported, what));
    }
    let (gzip, zstd) = (
        start.starts_with(&[0x1f, 0x8b]),
        start.starts_with(&ZSTD_MAGIC),
    );
    let input = Cursor::new(start).chain(input);
    Ok(if gzip {
        Expanded::Gzip(Box::new(Gzip {
            member: Some(GzDecoder::new(input)),
        }))
    } else if zstd {
        Expanded::Zstd(Box::new(Zstd::new(input)))
    } else {
        Expanded::Plain(input)
    })
}

impl<R: BufRead> Read for Expanded<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Expanded::Gzip(gzip) => gzip.read(buf),
            Expanded::Zstd(zstd) => zstd.read(buf),
            Expanded::Plain(input) => input.read(buf),
        }
    }
}

/// Gzip members strung together, and the zeros that gzip allows behind them.
pub struct Gzip<R: BufRead> {
    /// None after the last.
    member: Option<GzDecoder<R>>,
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.member {
            let len = member.read(buf).map_err(|error| prefixed("gzip", &error))?;
            if len > 0 || buf.is_empty() {
                return Ok(len);
            }
            let mut input = self
                .member
                .take()
                .map(GzDecoder::into_inner)
                .expect("a member");
            match input.fill_buf()?.first() {
                None => {}
                Some(0x1f) => self.member = Some(GzDecoder::new(input)),
                Some(_) => only_zeros(&mut input)?,
            }
        }
        Ok(0)
    }
}

fn only_zeros(input: &mut impl BufRead) -> io::Result<()> {
    loop {
        let piece = input.fill_buf()?;
        let len = piece.len();
        if len == 0 {
            return Ok(());
        }
        if piece.iter().any(|byte| *byte != 0) {
            return Err(invalid("gzip: something else follows the compressed data"));
        }
        input.consume(len);
    }
}

/// Zstd frames strung together, skippable ones among them.
pub struct Zstd<R: BufRead> {
    decoder: FrameDecoder,
    input: R,
    in_frame: bool,
    /// Bytes of the current frame so far.
    len: u64,
}

impl<R: BufRead> Zstd<R> {
    fn new(input: R) -> Zstd<R> {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(LARGEST_WINDOW);
        Zstd {
            decoder,
            input,
            in_frame: false,
            len: 0,
        }
    }

    fn begin_frame(&mut self) -> io::Result<()> {
        match self.decoder.reset(&mut self.input) {
            Ok(()) => {
                self.in_frame = true;
                self.len = 0;
                Ok(())
            }
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                length,
                ..
            })) => {
                let length = u64::from(length);
                let skipped = io::copy(&mut self.input.by_ref().take(length), &mut io::sink())?;
                if skipped < length {
                    return Err(invalid("zstd: it is cut off"));
                }
                Ok(())
            }
            Err(FrameDecoderError::WindowSizeTooBig { requested, .. }) => {
                let what = format!(
                    "its zstd window of {requested} bytes needs more memory than is used here"
                );
                Err(io::Error::new(io::ErrorKind::Unsupported, what))
            }
            Err(error) => Err(prefixed("zstd", &error)),
        }
    }

    fn end_frame(&mut self) -> io::Result<()> {
        self.in_frame = false;
        let stated = self.decoder.get_checksum_from_data();
        if stated.is_some() && stated != self.decoder.get_calculated_checksum() {
            return Err(invalid("zstd: the checksum is wrong"));
        }
        match self.decoder.content_size() {
            0 => Ok(()),
            size if size == self.len => Ok(()),
            _ => Err(invalid("zstd: the length is wrong")),
        }
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.in_frame {
                if self.input.fill_buf()?.is_empty() {
                    return Ok(0);
                }
                self.begin_frame()?;
                continue;
            }
            let len = self.decoder.read(buf)?;
            self.len += len as u64;
            if len > 0 {
                return Ok(len);
            }
            if self.decoder.is_finished() {
                self.end_frame()?;
            } else {
                self.decoder
                    .decode_blocks(&mut self.input, BlockDecodingStrategy::UptoBlocks(1))
                    .map_err(|error| prefixed("zstd", &error))?;
            }
        }
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn prefixed(program: &str, error: &dyn std::fmt::Display) -> io::Error {
    invalid(&format!("{program}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    fn pipe(words: &[&str], input: &[u8]) -> Vec<u8> {
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().expect("the program runs");
        let mut stdin = child.stdin.take().expect("its input");
        std::thread::scope(|scope| {
            scope.spawn(move || stdin.write_all(input).expect("its input"));
            child.wait_with_output().expect("its output").stdout
        })
    }

    fn sample() -> Vec<u8> {
        (0..60_000_u32)
            .flat_map(|i| (i / 7 * i).to_le_bytes())
            .collect()
    }

    fn read(bytes: &[u8]) -> Result<Vec<u8>, String> {
        let mut read = Vec::new();
        // A small buffer, so that every boundary is met.
        let input = io::BufReader::with_capacity(3, bytes);
        let mut expanded = expand(input).map_err(|error| error.to_string())?;
        expanded
            .read_to_end(&mut read)
            .map_err(|error| error.to_string())?;
        Ok(read)
    }

    fn zstd(input: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(input, ruzstd::encoding::CompressionLevel::Fastest)
    }

    #[test]
    fn every_form_is_expanded() {
        let sample = sample();
        let gzip = pipe(&["gzip", "-1"], &sample);
        let named = pipe(&["gzip", "--best", "--name"], &sample);
        assert_eq!(read(&gzip).as_ref(), Ok(&sample));
        assert_eq!(read(&named).as_ref(), Ok(&sample));
        assert_eq!(read(&sample).as_ref(), Ok(&sample));
        assert_eq!(read(&[1, 2]), Ok(vec![1, 2]));
        assert_eq!(read(&zstd(&sample)).as_ref(), Ok(&sample));
        let twice = [&sample[..], &sample].concat();
        assert_eq!(read(&[&gzip[..], &named].concat()).as_ref(), Ok(&twice));
        assert_eq!(read(&[&gzip[..], &[0; 700]].concat()).as_ref(), Ok(&sample));
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
        let frames = [&zstd(&sample)[..], &skippable, &zstd(&sample)].concat();
        assert_eq!(read(&frames).as_ref(), Ok(&twice));
        assert_eq!(read(&pipe(&["gzip"], b"")), Ok(Vec::new()));
    }

    #[test]
    fn every_cut_is_noticed() {
        let sample = &sample()[..20_000];
        for whole in [pipe(&["gzip", "-1"], sample), zstd(sample)] {
            for len in (6..whole.len())
                .step_by(97)
                .chain(whole.len() - 12..whole.len())
            {
                assert!(
                    read(&whole[..len]).is_err(),
                    "cut at {len} of {}",
                    whole.len()
                );
            }
        }
        assert_eq!(read(b""), Err("it is empty".to_owned()));
    }

    #[test]
    fn every_flipped_bit_of_the_data_is_noticed() {
        let sample = &sample()[..20_000];
        for (mut whole, header) in [(pipe(&["gzip", "-n", "-1"], sample), 10), (zstd(sample), 4)] {
            for at in (header..whole.len())
                .step_by(61)
                .chain(whole.len() - 8..whole.len())
            {
                whole[at] ^= 1;
                assert!(read(&whole).is_err(), "at {at} of {}", whole.len());
                whole[at] ^= 1;
            }
        }
    }

    #[test]
    fn what_follows_is_noticed() {
        let gzip = pipe(&["gzip"], b"abc");
        for end in [&b"x"[..], &[0, 0, 1], &[0x1f, 0x8b], &[0x1f]] {
            assert!(read(&[&gzip[..], end].concat()).is_err(), "{end:?}");
            assert!(read(&[&zstd(b"abc")[..], end].concat()).is_err(), "{end:?}");
        }
    }

    #[test]
    fn what_cannot_be_judged_is_no_damage() {
        let large = [&ZSTD_MAGIC[..], &[0x00, 0x88], &[0; 20]].concat();
        for (bytes, what) in [
            (&large[..], "window"),
            (b"\xfd7zXZ\0abc", "xz"),
            (b"BZh91AY", "bzip2"),
        ] {
            let error = match expand(bytes) {
                Ok(mut expanded) => expanded.read_to_end(&mut Vec::new()).expect_err(what),
                Err(error) => error,
            };
            assert_eq!(error.kind(), io::ErrorKind::Unsupported);
            assert!(error.to_string().contains(what), "{error}");
        }
    }
}
