//! A file that is to be sent: its bytes, and how they are cut into parts.

use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};

use super::place::blocking;
use super::wire::Ledger;
use crate::content_hash::ContentHasher;
use crate::error::{Error, ErrorKind};
use crate::http::{Bandwidth, source_error};
use crate::progress::Progress;
use crate::retry::Patience;
use crate::source::{Fingerprint, Source, read_exact_at};
use crate::units::MIB;

/// How long a part is at least, in bytes: what Amazon's own tool takes. Each is held in memory until it has arrived;
/// with [`WAITING`] that is (`concurrency` + 2) × 8 MiB.
const PART_LEN: u64 = 8 * MIB;
/// One part waits its turn, and one is being read.
const WAITING: u64 = 2;
/// No service takes more parts (S3's and Google's limit; Azure's is higher).
const MOST_PARTS: u64 = 10_000;
/// No part but the last may be shorter (S3's limit), and OpenDAL collects what is.
const SHORTEST_PART: u64 = 5 * MIB;
/// A file on its way to one path.
pub(super) struct Freight<'a> {
    pub(super) action: &'a str,
    pub(super) source: Arc<dyn Source>,
    /// What it must look like; none if nobody else can change it.
    pub(super) fingerprint: Option<&'a Fingerprint>,
    pub(super) path: &'a str,
    /// Whether a file of that name may be there.
    pub(super) replace: bool,
    /// How it is cut where it is sent in parts.
    pub(super) cut: Cut,
    pub(super) bandwidth: Option<Arc<Bandwidth>>,
    pub(super) progress: Option<&'a Progress>,
    /// The time it is stored with, where there is one.
    pub(super) modified: Option<SystemTime>,
    pub(super) memory: Memory,
}

/// Parts whose memory is used again once everybody has let go of them: freed and taken anew by ever other threads
/// it would grow to twice as much.
#[derive(Clone, Default)]
pub(super) struct Memory(Arc<Mutex<Vec<Bytes>>>);

impl Memory {
    fn take(&self) -> BytesMut {
        let free = self.0.lock().ok().and_then(|mut used| {
            let free = used.iter().position(Bytes::is_unique)?;
            Some(used.swap_remove(free))
        });
        free.and_then(|free| free.try_into_mut().ok())
            .unwrap_or_default()
    }

    fn lend(&self, memory: BytesMut) -> Bytes {
        let part = memory.freeze();
        if let Ok(mut used) = self.0.lock() {
            used.push(part.clone());
        }
        part
    }
}

/// How parts are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// How long each is at least, in bytes.
    least: u64,
    /// How many are on their way at a time.
    pub(super) in_flight: usize,
}

impl Cut {
    /// One after the other.
    pub(super) const ONE: Cut = Cut {
        least: PART_LEN,
        in_flight: 1,
    };

    /// So many at a time, or fewer and shorter ones if only `room` bytes of memory are theirs.
    pub(super) fn new(concurrency: usize, room: Option<u64>) -> Cut {
        let wanted = (concurrency as u64).max(1);
        match room {
            Some(room) if room < (wanted + WAITING) * PART_LEN => {
                let fitting = (room / SHORTEST_PART).saturating_sub(WAITING);
                Cut {
                    least: SHORTEST_PART,
                    in_flight: usize::try_from(fitting.clamp(1, wanted)).unwrap_or(1),
                }
            }
            _ => Cut {
                least: PART_LEN,
                in_flight: concurrency.max(1),
            },
        }
    }
}

/// How a length is cut into parts of `least` bytes or more: at most 10,000, none but an only one shorter than 5 MiB.
pub(super) fn parts(len: u64, Cut { least, .. }: Cut) -> Vec<Range<u64>> {
    let part = len
        .div_ceil(MOST_PARTS - 1)
        .next_multiple_of(MIB)
        .max(least);
    // Of equal length, so that the last one does not take more memory than the others, nor is too short.
    let mut count = len.div_ceil(part).max(1);
    while count > 1 && len.saturating_sub((count - 1) * len.div_ceil(count)) < SHORTEST_PART {
        count -= 1;
    }
    let step = len.div_ceil(count);
    let starts = (0..count).map(|n| n * step);
    let parts = starts.map(|start| start..(start + step).min(len));
    parts.filter(|part| !part.is_empty()).collect()
}

impl Freight<'_> {
    pub(super) fn error(&self, kind: ErrorKind, what: &str) -> Error {
        Error::new(kind, self.action, what)
    }

    /// Says how much has arrived by now, which renews patience.
    pub(super) fn tell(&self, ledger: &Ledger, patience: &Patience) {
        let news = ledger.news();
        if news > 0 {
            patience.renew();
            if let Some(progress) = self.progress {
                progress.add(news);
            }
        }
    }

    /// Reads a range and hashes it, and says whether the source is still what it was.
    pub(super) async fn take(
        &self,
        range: Range<u64>,
        mut hasher: ContentHasher,
    ) -> Result<(Bytes, ContentHasher), Error> {
        let (source, expected) = (self.source.clone(), self.fingerprint.cloned());
        let (action, memory) = (self.action.to_owned(), self.memory.clone());
        blocking(self.action, move || {
            let len = usize::try_from(range.end - range.start).expect("a part fits memory");
            let mut buf = memory.take();
            buf.resize(len, 0);
            read_exact_at(&*source, range.start, &mut buf)
                .map_err(|error| source_error(&action, &error))?;
            hasher.update(&buf);
            source.release(range);
            unchanged(&action, &*source, expected.as_ref())?;
            Ok((memory.lend(buf), hasher))
        })
        .await
    }

    /// The last look before it gets its name.
    pub(super) async fn check(&self) -> Result<(), Error> {
        let (source, expected) = (self.source.clone(), self.fingerprint.cloned());
        let action = self.action.to_owned();
        blocking(self.action, move || {
            unchanged(&action, &*source, expected.as_ref())
        })
        .await
    }
}

fn unchanged(
    action: &str,
    source: &dyn Source,
    expected: Option<&Fingerprint>,
) -> Result<(), Error> {
    let Some(expected) = expected else {
        return Ok(());
    };
    let changed = |what: &str| Err(Error::new(ErrorKind::SourceChanged, action, what));
    match source.fingerprint() {
        Ok(found) if found == *expected => Ok(()),
        Ok(_) => changed("the file changed while it was read"),
        Err(error) => changed(&error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_thousand_parts_suffice_and_none_is_too_short() {
        for len in [
            0,
            1,
            SHORTEST_PART,
            PART_LEN,
            PART_LEN + 1,
            PART_LEN + SHORTEST_PART,
            3 * PART_LEN - 1,
            256 * MIB + 512,
            9_999 * PART_LEN,
            9_999 * PART_LEN + 1,
            9_999 * PART_LEN + SHORTEST_PART,
            200 * 1024 * MIB + 77,
            5 * 1024 * 1024 * MIB,
        ] {
            let parts = parts(len, Cut::ONE);
            assert!(parts.len() <= 10_000, "{len}: {} parts", parts.len());
            let mut end = 0;
            for part in &parts {
                assert_eq!(part.start, end, "{len}");
                end = part.end;
                let part_len = part.end - part.start;
                assert!(parts.len() == 1 || part_len >= SHORTEST_PART, "{len}");
                if len <= 9_999 * PART_LEN {
                    assert!(part_len < PART_LEN + SHORTEST_PART, "{len}");
                }
            }
            assert_eq!(end, len);
        }
    }

    #[test]
    fn little_memory_makes_parts_short_and_few() {
        for (concurrency, room, least, in_flight) in [
            (4, None, PART_LEN, 4),
            (0, None, PART_LEN, 1),
            (4, Some(48 * MIB), PART_LEN, 4),
            (4, Some(48 * MIB - 1), SHORTEST_PART, 4),
            (32, Some(21 * MIB), SHORTEST_PART, 2),
            (4, Some(16 * MIB), SHORTEST_PART, 1),
            (1, Some(24 * MIB), PART_LEN, 1),
            (4, Some(0), SHORTEST_PART, 1),
        ] {
            let cut = Cut { least, in_flight };
            assert_eq!(Cut::new(concurrency, room), cut, "{concurrency} {room:?}");
        }
        let lens = parts(256 * MIB + 512, Cut::new(4, Some(16 * MIB)));
        let lens: Vec<_> = lens.iter().map(|part| part.end - part.start).collect();
        assert_eq!(lens.len(), 51);
        let is_fair = |len: &u64| (SHORTEST_PART..SHORTEST_PART + MIB).contains(len);
        assert!(lens.iter().all(is_fair), "{lens:?}");
    }
}
