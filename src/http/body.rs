//! A request body that is read while it is sent.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep};

use crate::source::{Source, read_exact_at};

/// How much is read and handed on at a time, in bytes. Two such pieces and the client's own send buffer
/// are all the memory a connection takes.
const PIECE_LEN: u64 = 128 * 1024;

/// How much of a body has been handed to the connection, and why reading it failed if it did.
#[derive(Debug, Default)]
pub struct Meter {
    handed: AtomicU64,
    failure: Mutex<Option<io::Error>>,
}

impl Meter {
    /// So many more bytes are on their way.
    pub fn add(&self, bytes: u64) {
        self.handed.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes handed to the connection so far.
    pub fn handed(&self) -> u64 {
        self.handed.load(Ordering::Relaxed)
    }

    /// The error of the source, if that is what broke the request.
    pub fn take_failure(&self) -> Option<io::Error> {
        self.failure.lock().ok()?.take()
    }
}

/// A limit of bytes per second that all bodies keep together.
#[derive(Debug)]
pub struct Bandwidth {
    bytes_per_second: u64,
    /// When the bytes let through so far would be over at exactly the limit.
    spent_until: Mutex<Instant>,
}

impl Bandwidth {
    /// A limit; none for 0.
    pub fn new(bytes_per_second: u64) -> Option<Arc<Bandwidth>> {
        let spent_until = Mutex::new(Instant::now());
        (bytes_per_second > 0).then(|| {
            Arc::new(Bandwidth {
                bytes_per_second,
                spent_until,
            })
        })
    }

    /// Small enough that waiting for one piece never looks like a dead line.
    fn piece_len(&self) -> u64 {
        (self.bytes_per_second / 4).clamp(1, PIECE_LEN)
    }

    /// Books `bytes` and says from when on they may be sent.
    fn book(&self, bytes: u64) -> Instant {
        let now = Instant::now();
        let Ok(mut spent_until) = self.spent_until.lock() else {
            return now;
        };
        let start = (*spent_until).max(now);
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        *spent_until = start + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        start
    }
}

/// A range of a source as a body of known length; each piece is read ahead in the blocking pool while
/// the one before it is sent.
pub struct Streamed {
    source: Arc<dyn Source>,
    /// What is still to be handed on.
    left: Range<u64>,
    piece_len: u64,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
    /// Whether the bandwidth of the next piece is booked.
    booked: bool,
    waiting: Option<Pin<Box<Sleep>>>,
    bandwidth: Option<Arc<Bandwidth>>,
    meter: Arc<Meter>,
}

impl Streamed {
    /// Reads nothing yet.
    pub fn new(
        source: Arc<dyn Source>,
        range: Range<u64>,
        bandwidth: Option<Arc<Bandwidth>>,
        meter: Arc<Meter>,
    ) -> Streamed {
        let piece_len = bandwidth
            .as_ref()
            .map_or(PIECE_LEN, |bandwidth| bandwidth.piece_len());
        Streamed {
            source,
            left: range,
            piece_len,
            reading: None,
            booked: false,
            waiting: None,
            bandwidth,
            meter,
        }
    }

    /// Starts reading the piece at `offset`, if there is one.
    fn read(&self, offset: u64) -> Option<JoinHandle<io::Result<Bytes>>> {
        let len = usize::try_from(self.piece_len.min(self.left.end - offset))
            .expect("a piece fits memory");
        let source = self.source.clone();
        (len > 0).then(|| {
            tokio::task::spawn_blocking(move || {
                let mut piece = vec![0; len];
                read_exact_at(&*source, offset, &mut piece)?;
                Ok(Bytes::from(piece))
            })
        })
    }
}

impl Body for Streamed {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.left.is_empty() {
            return Poll::Ready(None);
        }
        if !self.booked {
            let piece_len = self.piece_len.min(self.left.end - self.left.start);
            let start = self
                .bandwidth
                .as_ref()
                .map(|bandwidth| bandwidth.book(piece_len));
            self.waiting = start.map(|start| Box::pin(tokio::time::sleep_until(start)));
            self.booked = true;
        }
        if let Some(waiting) = &mut self.waiting {
            ready!(waiting.as_mut().poll(context));
            self.waiting = None;
        }
        if self.reading.is_none() {
            self.reading = self.read(self.left.start);
        }
        let Some(reading) = &mut self.reading else {
            return Poll::Ready(None);
        };
        let piece = ready!(Pin::new(reading).poll(context))
            .map_err(io::Error::other)
            .flatten();
        self.reading = None;
        self.booked = false;
        match piece {
            Ok(piece) => {
                self.left.start += piece.len() as u64;
                self.reading = self.read(self.left.start);
                self.meter.add(piece.len() as u64);
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            Err(error) => {
                let copy = io::Error::new(error.kind(), error.to_string());
                if let Ok(mut failure) = self.meter.failure.lock() {
                    *failure = Some(error);
                }
                Poll::Ready(Some(Err(copy)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.end - self.left.start)
    }
}
