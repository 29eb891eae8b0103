//! A request body that is read while it is sent.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep};

use crate::source::{Source, read_exact_at};

/// How much is read at a time, in bytes.
const PIECE_LEN: u64 = 64 * 1024;
/// How much is handed on at a time, in bytes. The HTTP client queues up to 16 of these before it waits for
/// the connection, so this, and not its limit of 400 KiB, bounds what a connection holds: two pieces, and
/// one that is read ahead.
const SLICE_LEN: usize = 8 * 1024;

/// How much of a body has been handed to the connection, and why reading it failed if it did.
#[derive(Debug, Default)]
pub struct Meter {
    handed: AtomicU64,
    received: AtomicU64,
    abandoned: AtomicBool,
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

    /// So many more bytes of the reply have come.
    pub fn received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes of the reply so far.
    pub fn reply_bytes(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// The exchange is over: whatever has not been handed on by now need not be.
    pub fn abandon(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
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

    /// Returns when these bytes may be sent, by whatever way.
    pub async fn pass(&self, bytes: u64) {
        tokio::time::sleep_until(self.book(bytes)).await;
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
    /// What is still to be read, the piece that is being read included.
    unread: Range<u64>,
    /// A piece that has been read and waits for the bandwidth limit.
    next: Option<Bytes>,
    /// What is left of the piece that is being handed on.
    piece: Bytes,
    /// Pieces whose memory is used again once the connection has let go of them.
    used: Vec<Bytes>,
    piece_len: u64,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
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
            unread: range,
            next: None,
            piece: Bytes::new(),
            used: Vec::new(),
            piece_len,
            reading: None,
            waiting: None,
            bandwidth,
            meter,
        }
    }

    /// Starts reading the next piece, if there is one.
    fn read_ahead(&mut self) {
        let len = self.piece_len.min(self.unread.end - self.unread.start);
        let len = usize::try_from(len).expect("a piece fits memory");
        if len == 0 {
            return;
        }
        let free = self
            .used
            .iter()
            .position(Bytes::is_unique)
            .map(|free| self.used.swap_remove(free));
        let mut memory = free
            .and_then(|free| free.try_into_mut().ok())
            .unwrap_or_default();
        memory.resize(len, 0);
        // Hashing has just brought it into the page cache: mostly there is nothing to wait for.
        if self.source.read_ready(self.unread.start, &mut memory) == len {
            self.next = Some(memory.freeze());
            return;
        }
        let (source, offset) = (self.source.clone(), self.unread.start);
        self.reading = Some(tokio::task::spawn_blocking(move || {
            read_exact_at(&*source, offset, &mut memory)?;
            Ok(memory.freeze())
        }));
    }

    /// Waits until the bandwidth limit lets the next piece through.
    fn poll_bandwidth(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(bandwidth) = &self.bandwidth else {
            return Poll::Ready(());
        };
        let len = self.next.as_ref().map_or(0, Bytes::len) as u64;
        let start = || Box::pin(tokio::time::sleep_until(bandwidth.book(len)));
        ready!(
            self.waiting
                .get_or_insert_with(start)
                .as_mut()
                .poll(context)
        );
        self.waiting = None;
        Poll::Ready(())
    }
}

impl Body for Streamed {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.meter.abandoned.load(Ordering::Relaxed) {
            return Poll::Ready(Some(Err(io::Error::other("the exchange is over"))));
        }
        if self.piece.is_empty() {
            if self.unread.is_empty() {
                return Poll::Ready(None);
            }
            if self.next.is_none() {
                if self.reading.is_none() {
                    self.read_ahead();
                }
                if let Some(reading) = &mut self.reading {
                    let piece = ready!(Pin::new(reading).poll(context));
                    self.reading = None;
                    match piece.map_err(io::Error::other).flatten() {
                        Ok(piece) => self.next = Some(piece),
                        Err(error) => {
                            let copy = io::Error::new(error.kind(), error.to_string());
                            if let Ok(mut failure) = self.meter.failure.lock() {
                                *failure = Some(error);
                            }
                            return Poll::Ready(Some(Err(copy)));
                        }
                    }
                }
            }
            ready!(self.poll_bandwidth(context));
            self.piece = self.next.take().unwrap_or_default();
            self.unread.start += self.piece.len() as u64;
            let piece = self.piece.clone();
            self.used.push(piece);
            self.read_ahead();
        }
        let len = self.piece.len().min(SLICE_LEN);
        let slice = self.piece.split_to(len);
        self.meter.add(len as u64);
        Poll::Ready(Some(Ok(Frame::data(slice))))
    }

    fn is_end_stream(&self) -> bool {
        self.piece.is_empty() && self.unread.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.unread.end - self.unread.start + self.piece.len() as u64)
    }
}
