//! The body of one request, read piece by piece at the speed of the line, with the faults on its way.

use super::Shared;
use super::answer::{Answer, bad_input};
use super::fault::{Hit, What};
use super::http::{Connection, Framing, Head};
use super::line::Pace;

/// The most bytes the argument of an RPC call may have.
const MOST_JSON: usize = 4 << 20;

/// A body that has not been read, or not to its end.
pub struct Body<'a> {
    connection: &'a mut Connection,
    framing: Framing,
    continue_due: bool,
    shared: &'a Shared,
    hit: &'a Hit,
    line: &'a Pace,
    slow: Pace,
    begun: bool,
    ended: bool,
    received: u64,
}

impl<'a> Body<'a> {
    /// What follows a head.
    pub fn new(
        shared: &'a Shared,
        connection: &'a mut Connection,
        head: &Head,
        line: &'a Pace,
        hit: &'a Hit,
    ) -> std::io::Result<Self> {
        let rate = if let Some(What::SlowRead(rate)) = hit.0 {
            rate
        } else {
            0
        };
        Ok(Self {
            connection,
            framing: head.framing()?,
            continue_due: head.expects_continue(),
            shared,
            hit,
            line,
            slow: Pace::new(rate),
            begun: false,
            ended: false,
            received: 0,
        })
    }

    /// How many bytes were read so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// The length the client named; none if the body comes in chunks.
    pub fn length(&self) -> Option<u64> {
        match self.framing {
            Framing::Length(left) => Some(self.received + left),
            Framing::Chunked { .. } => None,
        }
    }

    /// The next bytes; empty at the end.
    pub fn piece(&mut self) -> Answer<&[u8]> {
        if self.ended {
            return Ok(&[]);
        }
        if std::mem::take(&mut self.continue_due) && self.framing != Framing::Length(0) {
            self.connection
                .stream
                .write(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        if !std::mem::replace(&mut self.begun, true) {
            self.hit.in_body(0, &self.shared.end)?;
        }
        let most = self
            .hit
            .allowance(self.received)
            .min(self.slow.stride())
            .min(self.line.stride());
        let piece = self.connection.piece(&mut self.framing, most)?;
        let length = piece.len() as u64;
        if length == 0 {
            self.ended = true;
            self.hit.after_body()?;
            return Ok(&[]);
        }
        self.received += length;
        let wait = self
            .line
            .take(length)
            .max(self.shared.whole_line.take(length))
            .max(self.slow.take(length));
        if !wait.is_zero() {
            self.shared.end.wait(Some(wait));
        }
        self.hit.in_body(self.received, &self.shared.end)?;
        Ok(piece)
    }

    /// Reads to the end and keeps nothing.
    pub fn drain(&mut self) -> Answer<()> {
        while !self.piece()?.is_empty() {}
        Ok(())
    }

    /// The whole body of an RPC call.
    pub fn collect(&mut self, call: &str) -> Answer<Vec<u8>> {
        let mut whole = Vec::new();
        loop {
            let piece = self.piece()?;
            if piece.is_empty() {
                return Ok(whole);
            }
            whole.extend_from_slice(piece);
            if whole.len() > MOST_JSON {
                return Err(bad_input(call, "request body: too large"));
            }
        }
    }

    /// What is still to be read; none if the client waits to be asked for it.
    pub fn rest(self) -> Option<Framing> {
        (!self.continue_due || self.framing == Framing::Length(0)).then_some(self.framing)
    }
}
