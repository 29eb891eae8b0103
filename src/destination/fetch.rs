//! Reading a stored file: in order, with several parts on their way at a time, so that the latency of a
//! long line does not count, and in a bounded amount of memory.

use std::ops::Range;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use super::Destination;
use crate::error::{Error, ErrorKind};
use crate::retry::Patience;
use crate::units::MIB;

/// How much is asked for at a time, in bytes.
pub const PART_LEN: u64 = 2 * MIB;
/// Parts on their way at a time; with the one that is being used this bounds the memory to 10 MiB.
const IN_FLIGHT: usize = 4;

/// Hands the bytes of `range` to `take`, in order, in parts of at most [`PART_LEN`]. Each one that arrives
/// renews `patience`. A file that is shorter than `range` is an error; whether the bytes are the right
/// ones is for the caller to find out.
pub async fn fetch(
    destination: &Destination,
    path: &str,
    range: Range<u64>,
    patience: &Patience,
    mut take: impl AsyncFnMut(Vec<u8>) -> Result<(), Error>,
) -> Result<(), Error> {
    let offsets = (0..).map(|n| range.start + n * PART_LEN);
    let parts = offsets
        .take_while(|offset| *offset < range.end)
        .map(async |offset| {
            let len = PART_LEN.min(range.end - offset);
            let part = destination.read(path, offset, len, patience).await?;
            patience.renew();
            if part.len() as u64 == len {
                return Ok(part);
            }
            let action = format!("{}: reading {path}", destination.name());
            let end = offset + part.len() as u64;
            let what = format!("it ends at byte {end}, before byte {}", range.end);
            Err(Error::new(ErrorKind::SourceChanged, action, what)
                .hint("has somebody changed it? `gitlab-pi-backup verify` tells what is stored"))
        });
    let mut parts = stream::iter(parts).buffered(IN_FLIGHT);
    while let Some(part) = parts.try_next().await? {
        take(part).await?;
    }
    Ok(())
}
