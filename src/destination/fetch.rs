//! Reading a stored file: in order, with several parts on their way at a time, so that the latency of a
//! long line does not count, and in a bounded amount of memory.

use std::io::{self, Read};
use std::ops::Range;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio::sync::mpsc;

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

/// Parts of a download that wait to be read; with those on their way this bounds the memory.
const WAITING: usize = 1;

/// Two ends: what is sent into one is read from the other, on another thread.
pub fn pipe() -> (Sending, Arriving) {
    let (sender, receiver) = mpsc::channel(WAITING);
    let arriving = Arriving {
        receiver,
        part: io::Cursor::default(),
    };
    (Sending(sender), arriving)
}

/// The end that a download goes into.
pub struct Sending(mpsc::Sender<io::Result<Vec<u8>>>);

impl Sending {
    /// Hands a part on, as soon as there is room; `false` if nobody reads any more.
    pub async fn send(&self, part: Vec<u8>) -> bool {
        self.0.send(Ok(part)).await.is_ok()
    }

    /// Ends it: for the reader the end of the file if all went well, else an error.
    pub async fn end(self, result: &Result<(), Error>) {
        if let Err(error) = result {
            let _ = self.0.send(Err(io::Error::other(error.to_string()))).await;
        }
    }
}

/// The bytes of a download, for somebody who reads.
pub struct Arriving {
    receiver: mpsc::Receiver<io::Result<Vec<u8>>>,
    part: io::Cursor<Vec<u8>>,
}

impl Read for Arriving {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let n = self.part.read(buf)?;
            if n > 0 || buf.is_empty() {
                return Ok(n);
            }
            match self.receiver.blocking_recv() {
                Some(part) => self.part = io::Cursor::new(part?),
                None => return Ok(0),
            }
        }
    }
}
