//! Reading: a part of a file, or all of it to prove what is stored.

use reqwest::header::{CONTENT_RANGE, HeaderMap, HeaderValue, RANGE};

use super::{Call, WebDav};
use crate::content_hash::{ContentHasher, Digest};
use crate::destination::LONGEST_RANGE;
use crate::error::{Error, ErrorKind};
use crate::http::Method;
use crate::retry::{Patience, retry};
use crate::units::{MIB, Size};

/// A server that sends nothing but whole files is read so far for a part, in bytes.
const LONGEST_SKIP: u64 = 16 * MIB;

impl WebDav {
    /// Reads a part of a file; shorter only at its end.
    pub async fn read(
        &self,
        path: &str,
        offset: u64,
        len: u64,
        patience: &Patience,
    ) -> Result<Vec<u8>, Error> {
        let action = format!("{}: reading {path} from byte {offset}", self.name);
        let len = usize::try_from(len.min(LONGEST_RANGE)).unwrap_or_default();
        if len == 0 {
            return Ok(Vec::new());
        }
        let last = offset.saturating_add(len as u64 - 1);
        let call = Call {
            headers: vec![(RANGE, range(offset, Some(last)))],
            ..self.call(&action, Method::GET, path)
        };
        retry(&self.pause, patience, async || {
            let mut part = Vec::with_capacity(len);
            self.receive_from(&call, offset, LONGEST_SKIP, &mut |piece| {
                part.extend_from_slice(&piece[..piece.len().min(len - part.len())]);
                part.len() < len
            })
            .await?;
            Ok(part)
        })
        .await
    }

    /// The content hash of the `len` bytes that are stored, by reading all of them; what is read is not kept.
    pub(super) async fn read_back(
        &self,
        path: &str,
        len: u64,
        patience: &Patience,
    ) -> Result<Digest, Error> {
        let action = format!("{}: reading {path} back", self.name);
        let mut hasher = ContentHasher::default();
        retry(&self.pause, patience, async || {
            let from = hasher.len();
            if from >= len {
                return Ok(());
            }
            let mut call = self.call(&action, Method::GET, path);
            if from > 0 {
                call.headers.push((RANGE, range(from, None)));
            }
            let result = self
                .receive_from(&call, from, u64::MAX, &mut |piece| {
                    hasher.update(piece);
                    hasher.len() <= len
                })
                .await;
            if hasher.len() > from {
                patience.renew();
            }
            result?;
            if hasher.len() == len {
                return Ok(());
            }
            let what = format!("{} came back of {}", Size(hasher.len()), Size(len));
            Err(Error::new(ErrorKind::Corrupt, &action, what))
        })
        .await?;
        Ok(hasher.finish())
    }

    /// One attempt at the bytes of a file from `offset` on, whether the server sends them alone or the whole file;
    /// of that no more than `longest_skip` are passed over.
    async fn receive_from(
        &self,
        call: &Call<'_>,
        offset: u64,
        longest_skip: u64,
        take: &mut (dyn FnMut(&[u8]) -> bool + Send),
    ) -> Result<(), Error> {
        // Where the next byte of the body lies in the file.
        let mut next = None;
        let mut refused = None;
        let mut take = |status: u16, headers: &HeaderMap, piece: &[u8]| {
            let begins = match next {
                Some(next) => Some(next),
                None if status == 206 => first_byte(headers),
                None => Some(0),
            };
            let good = begins.filter(|begins| {
                next.is_some() || (*begins <= offset && offset - begins <= longest_skip)
            });
            let Some(here) = good else {
                refused = Some(status);
                return false;
            };
            next = Some(here + piece.len() as u64);
            let skip = usize::try_from(offset.saturating_sub(here)).unwrap_or(usize::MAX);
            let piece = piece.get(skip..).unwrap_or_default();
            piece.is_empty() || take(piece)
        };
        let reply = self.receive(call, &mut take).await?;
        match (reply.status, refused) {
            (_, Some(200)) => {
                let what = format!(
                    "the server sends whole files and no parts of them, and this part begins at {}",
                    Size(offset)
                );
                Err(Error::new(ErrorKind::Invalid, call.action, what)
                    .hint("is it a proxy on the way that ignores `Range`?"))
            }
            (_, Some(_)) => {
                let what = "another part came than the one that was asked for";
                Err(Error::new(ErrorKind::Unexpected, call.action, what))
            }
            // 416: the part begins behind the end.
            (200 | 206 | 416, None) => Ok(()),
            _ => Err(self.failed(call.action, &reply)),
        }
    }
}

fn range(first: u64, last: Option<u64>) -> HeaderValue {
    let last = last.map(|last| last.to_string()).unwrap_or_default();
    HeaderValue::from_str(&format!("bytes={first}-{last}")).expect("digits make a header")
}

/// The first byte of a part: `bytes 5-9/100`.
fn first_byte(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    let (first, _) = range.strip_prefix("bytes ")?.split_once('-')?;
    first.trim().parse().ok()
}
