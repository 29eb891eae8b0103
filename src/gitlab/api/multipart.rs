//! A form with a file in it (<https://www.rfc-editor.org/rfc/rfc7578>), read while it is sent: only what stands before and
//! behind the file is in memory.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use ring::rand::{SecureRandom as _, SystemRandom};

use crate::source::{Fingerprint, Source};

/// The form: what is before the file, the file, what is behind it.
pub(super) struct Multipart {
    boundary: String,
    head: Vec<u8>,
    file: Arc<dyn Source>,
    tail: Vec<u8>,
}

impl Multipart {
    /// `fields` are names and values; `file_name` is a fixed one, without quotes. The file's field is called `file`.
    pub(super) fn new(
        fields: &[(&str, &str)],
        file_name: &str,
        media_type: &str,
        file: Arc<dyn Source>,
    ) -> Multipart {
        // Nobody can have put it into a value, or into the file, beforehand.
        let boundary = loop {
            let boundary = boundary();
            if !fields.iter().any(|(_, value)| value.contains(&boundary)) {
                break boundary;
            }
        };
        let begin = format!("--{boundary}\r\nContent-Disposition: form-data; name=");
        let fields = fields
            .iter()
            .map(|(name, value)| format!("{begin}\"{name}\"\r\n\r\n{value}\r\n"));
        let file_head = format!(
            "{begin}\"file\"; filename=\"{file_name}\"\r\nContent-Type: {media_type}\r\n\r\n"
        );
        let head: String = fields.chain([file_head]).collect();
        Multipart {
            head: head.into_bytes(),
            file,
            tail: format!("\r\n--{boundary}--\r\n").into_bytes(),
            boundary,
        }
    }

    /// What the header `Content-Type` says.
    pub(super) fn media_type(&self) -> String {
        format!("multipart/form-data; boundary={}", self.boundary)
    }

    /// Fills `buf` from `offset`; `read` reads the file.
    fn fill(
        &self,
        offset: u64,
        buf: &mut [u8],
        mut read: impl FnMut(u64, &mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let (head, file) = (self.head.len() as u64, self.file.len());
        let mut filled = 0;
        while filled < buf.len() {
            let at = offset + filled as u64;
            let rest = &mut buf[filled..];
            let copied = if at < head {
                copy(&self.head, at, rest)
            } else if at < head + file {
                let left = usize::try_from(head + file - at).unwrap_or(usize::MAX);
                let most = rest.len().min(left);
                read(at - head, &mut rest[..most])?
            } else {
                copy(&self.tail, at - head - file, rest)
            };
            if copied == 0 {
                break;
            }
            filled += copied;
        }
        Ok(filled)
    }
}

impl Source for Multipart {
    fn len(&self) -> u64 {
        self.head.len() as u64 + self.file.len() + self.tail.len() as u64
    }

    fn fingerprint(&self) -> io::Result<Fingerprint> {
        self.file.fingerprint()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.fill(offset, buf, |at, rest| self.file.read_at(at, rest))
    }

    fn read_ready(&self, offset: u64, buf: &mut [u8]) -> usize {
        let ready = |at, rest: &mut [u8]| Ok(self.file.read_ready(at, rest));
        self.fill(offset, buf, ready).unwrap_or(0)
    }

    fn release(&self, range: Range<u64>) {
        let (head, end) = (self.head.len() as u64, self.file.len());
        let place = |offset: u64| offset.saturating_sub(head).min(end);
        let range = place(range.start)..place(range.end);
        if !range.is_empty() {
            self.file.release(range);
        }
    }
}

/// As many of `bytes` from `at` on as there is room for.
fn copy(bytes: &[u8], at: u64, buf: &mut [u8]) -> usize {
    let at = usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
    let len = (bytes.len() - at).min(buf.len());
    buf[..len].copy_from_slice(&bytes[at..at + len]);
    len
}

fn boundary() -> String {
    let mut random = [0; 16];
    // Without a random source it is a fixed one, which no export contains by chance.
    let _ = SystemRandom::new().fill(&mut random);
    // Of its digits 70 are the most that are allowed.
    format!("gitlab-pi-backup-{:032x}", u128::from_le_bytes(random))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::memory::MemorySource;

    fn read_by(form: &Multipart, piece: usize) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let mut buf = vec![0; piece];
            let len = form.read_at(all.len() as u64, &mut buf).expect("read");
            all.extend_from_slice(&buf[..len]);
            if len < piece {
                return all;
            }
        }
    }

    #[test]
    fn it_is_the_same_form_however_it_is_read() {
        let content = b"\x1f\x8b\r\n--not a boundary\r\n".repeat(3);
        let file = Arc::new(MemorySource::new(content.clone()));
        let fields = [("namespace", "42"), ("path", "app")];
        let form = Multipart::new(&fields, "a.tar.gz", "application/gzip", file);
        let boundary = form.boundary.clone();
        let expected = [
            format!(
                "--{boundary}\r\nContent-Disposition: form-data; name=\"namespace\"\r\n\r\n42\r\n"
            ),
            format!("--{boundary}\r\nContent-Disposition: form-data; name=\"path\"\r\n\r\napp\r\n"),
            format!(
                "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.tar.gz\"\r\n\
                 Content-Type: application/gzip\r\n\r\n"
            ),
        ];
        let expected = [
            expected.concat().into_bytes(),
            content,
            format!("\r\n--{boundary}--\r\n").into_bytes(),
        ]
        .concat();
        for piece in [1, 2, 7, 64, 100, 100_000] {
            assert_eq!(read_by(&form, piece), expected, "{piece} bytes at a time");
        }
        assert_eq!(form.len(), expected.len() as u64);
        assert!(form.media_type().ends_with(&boundary));
    }

    #[test]
    fn no_two_forms_have_one_boundary() {
        assert_ne!(boundary(), boundary());
    }
}
