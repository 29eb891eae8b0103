//! As much of HTTP/1.1 as clients of the stand-ins use, blocking.

use std::fmt::Display;
use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::sync::Arc;

use super::tls::TlsStream;

/// Room for a request's head, and the size of the pieces in which a body is read.
const BUFFER: usize = 64 << 10;

/// A TCP socket that reads ahead and can be shared with whoever wants to shut it down.
pub struct Socket(BufReader<Half>);

impl Socket {
    /// Around an accepted connection.
    pub fn new(socket: Arc<TcpStream>) -> Self {
        Self(BufReader::with_capacity(4 * BUFFER, Half(socket)))
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Socket {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        (&*self.0.get_ref().0).write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Half(Arc<TcpStream>);

impl Read for Half {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self.0).read(buffer)
    }
}

/// A connection in clear text or under TLS.
pub enum Stream {
    /// Clear text.
    Plain(Arc<TcpStream>),
    /// TLS.
    Tls(Box<TlsStream>),
}

impl Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match self {
            Self::Plain(socket) => (&**socket).read(buffer),
            Self::Tls(tls) => tls.read(buffer),
        };
        match read {
            // Clients often leave without a close_notify; for HTTP with lengths that is an ordinary end.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(0),
            read => read,
        }
    }

    /// Sends all of it.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(socket) => (&**socket).write_all(bytes),
            Self::Tls(tls) => tls.write_all(bytes).and_then(|()| tls.flush()),
        }
    }

    /// Says goodbye the way TLS wants it.
    pub fn close(&mut self) {
        if let Self::Tls(tls) = self {
            tls.conn.send_close_notify();
            // The client may be gone already, and then there is nobody to tell.
            let _ = tls.flush();
        }
    }
}

/// The head of a request.
#[derive(Debug)]
pub struct Head {
    /// `GET`, `POST`, `CONNECT`.
    pub method: String,
    /// Path and query, or host and port.
    pub target: String,
    headers: Vec<(String, Vec<u8>)>,
}

impl Head {
    /// A header's value as it was sent.
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        let found = self
            .headers
            .iter()
            .find(|(own, _)| own.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_slice())
    }

    /// A header's value, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.bytes(name)
            .and_then(|value| std::str::from_utf8(value).ok())
    }

    /// The names of all headers, in small letters.
    pub fn names(&self) -> Vec<String> {
        let names = self.headers.iter();
        names.map(|(name, _)| name.to_ascii_lowercase()).collect()
    }

    /// The target without the query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// What follows the `?`.
    pub fn query(&self) -> &str {
        self.target.split_once('?').map_or("", |(_, query)| query)
    }

    /// The host the client believes to talk to, without the port.
    pub fn host(&self) -> &str {
        self.header("Host")
            .and_then(|host| host.split(':').next())
            .unwrap_or_default()
    }

    /// How much of the body is to come.
    pub fn framing(&self) -> io::Result<Framing> {
        if self
            .header("Transfer-Encoding")
            .is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"))
        {
            return Ok(Framing::Chunked {
                left: 0,
                first: true,
            });
        }
        match self.header("Content-Length").map(str::parse) {
            None => Ok(Framing::Length(0)),
            Some(Ok(length)) => Ok(Framing::Length(length)),
            Some(Err(_)) => Err(malformed("Content-Length")),
        }
    }

    /// Whether the client waits for a "100 Continue" before it sends the body.
    pub fn expects_continue(&self) -> bool {
        self.header("Expect")
            .is_some_and(|value| value.eq_ignore_ascii_case("100-continue"))
    }

    /// Whether the client ends the connection after this request.
    pub fn closes(&self) -> bool {
        self.header("Connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

/// How the end of a body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes are left.
    Length(u64),
    /// Chunks with their lengths in front.
    Chunked {
        /// What is left of the current chunk.
        left: u64,
        /// Whether no chunk has been read yet.
        first: bool,
    },
}

/// A stream and what was read from it ahead of need.
pub struct Connection {
    /// Where replies go.
    pub stream: Stream,
    buffer: Box<[u8]>,
    unread: Range<usize>,
}

impl Connection {
    /// Nothing read yet.
    pub fn new(stream: Stream) -> Self {
        Self {
            stream,
            buffer: vec![0; BUFFER].into_boxed_slice(),
            unread: 0..0,
        }
    }

    /// The next request's head; none if the client has gone.
    pub fn head(&mut self) -> io::Result<Option<Head>> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; 64];
            let mut request = httparse::Request::new(&mut headers);
            let parsed = request
                .parse(&self.buffer[self.unread.clone()])
                .map_err(malformed)?;
            if let httparse::Status::Complete(length) = parsed {
                let head = Head {
                    method: request.method.unwrap_or_default().to_owned(),
                    target: request.path.unwrap_or_default().to_owned(),
                    headers: request
                        .headers
                        .iter()
                        .map(|header| (header.name.to_owned(), header.value.to_vec()))
                        .collect(),
                };
                self.unread.start += length;
                return Ok(Some(head));
            }
            if !self.more()? {
                return if self.unread.is_empty() {
                    Ok(None)
                } else {
                    Err(ErrorKind::UnexpectedEof.into())
                };
            }
        }
    }

    /// Up to `most` bytes of a body; empty at its end.
    pub fn piece(&mut self, framing: &mut Framing, most: u64) -> io::Result<&[u8]> {
        let left = match framing {
            Framing::Length(left) => left,
            Framing::Chunked { left, first } => {
                if *left == 0 {
                    if !std::mem::take(first) {
                        self.line()?;
                    }
                    let size = self.line()?;
                    let size = size.split(';').next().unwrap_or_default().trim();
                    *left = u64::from_str_radix(size, 16).map_err(malformed)?;
                    if *left == 0 {
                        while !self.line()?.is_empty() {}
                        *framing = Framing::Length(0);
                        return Ok(&[]);
                    }
                }
                left
            }
        };
        if *left == 0 {
            return Ok(&[]);
        }
        if self.unread.is_empty() && !self.more()? {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let length = (self.unread.len() as u64).min(*left).min(most);
        *left -= length;
        let start = self.unread.start;
        self.unread.start += usize::try_from(length).expect("at most the buffer");
        Ok(&self.buffer[start..self.unread.start])
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            let unread = &self.buffer[self.unread.clone()];
            if let Some(end) = unread.iter().position(|byte| *byte == b'\n') {
                let line = String::from_utf8_lossy(&unread[..end])
                    .trim_end()
                    .to_owned();
                self.unread.start += end + 1;
                return Ok(line);
            }
            if !self.more()? {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Reads some more; false at the end of the stream.
    fn more(&mut self) -> io::Result<bool> {
        if self.unread.is_empty() {
            self.unread = 0..0;
        } else if self.unread.start > 0 {
            self.buffer.copy_within(self.unread.clone(), 0);
            self.unread = 0..self.unread.len();
        }
        if self.unread.end == self.buffer.len() {
            return Err(malformed("a head or line of more than 64 KiB"));
        }
        let read = self.stream.read(&mut self.buffer[self.unread.end..])?;
        self.unread.end += read;
        Ok(read > 0)
    }
}

fn malformed(what: impl Display) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what.to_string())
}
