//! A connection to a mail server, under TLS before anything worth hiding is said.
//!
//! TLS is ours and not the mail library's for three reasons: it trusts the same certificates as the HTTP client;
//! nothing that somebody slips in before STARTTLS is taken for the server's word behind it; and a server that
//! never ends its line cannot fill the memory.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use lettre::transport::smtp::client::AsyncTokioStream;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf, Take};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::error::{Error, ErrorKind, printable};
use crate::http::{Http, connection_error};
use crate::notify::message::beginning;
use crate::notify::settings::Server;

/// Nothing a mail server has to say is longer, in bytes.
const LONGEST_TALK: u64 = 64 * 1024;
/// What the mail library waits for first, where the server has greeted before TLS.
const GREETED: &[u8] = b"220 greeted before\r\n";

const SMTP_IS_STARTTLS: &str =
    "smtp:// is for STARTTLS (port 587); for TLS from the first byte (port 465) write smtps://";

/// A connection under TLS.
#[derive(Debug)]
pub struct Wire {
    stream: Take<TlsStream<TcpStream>>,
    /// What is read before what the server says.
    before: &'static [u8],
}

/// Connects, and goes no further without TLS.
pub async fn connect(
    http: &Http,
    action: &str,
    server: &Server,
    own_name: &str,
) -> Result<Wire, Error> {
    let mut tcp = TcpStream::connect((server.host.as_str(), server.port))
        .await
        .map_err(|error| connection_error(action, &error))?;
    if !server.implicit_tls {
        upgrade(action, &mut tcp, own_name).await?;
    }
    let name = ServerName::try_from(server.host.clone()).map_err(|error| {
        Error::new(
            ErrorKind::Invalid,
            action,
            format!("the server's name: {error}"),
        )
    })?;
    let tls = TlsConnector::from(http.tls());
    let stream = tls.connect(name, tcp).await.map_err(|error| {
        let error = connection_error(action, &error);
        if server.implicit_tls {
            error.hint(other_scheme(server))
        } else {
            error
        }
    })?;
    Ok(Wire {
        stream: stream.take(LONGEST_TALK),
        before: if server.implicit_tls { b"" } else { GREETED },
    })
}

/// The usual mistake, and the way out.
pub fn other_scheme(server: &Server) -> &'static str {
    if server.implicit_tls {
        "smtps:// is for TLS from the first byte (port 465); for STARTTLS (port 587) write smtp://"
    } else {
        SMTP_IS_STARTTLS
    }
}

/// As far as STARTTLS: <https://www.rfc-editor.org/rfc/rfc3207>.
async fn upgrade(action: &str, tcp: &mut TcpStream, own_name: &str) -> Result<(), Error> {
    let mut talk = Talk {
        action,
        tcp,
        heard: Vec::new(),
    };
    talk.reply(220).await?;
    let offers = talk.ask(&format!("EHLO {own_name}\r\n"), 250).await?;
    let offered = |line: &str| {
        line.get(4..)
            .is_some_and(|word| word.trim().eq_ignore_ascii_case("STARTTLS"))
    };
    if !offers.lines().any(offered) {
        let reply = "the server offers no STARTTLS, and nothing is sent without TLS";
        let hint =
            "write smtps:// if it speaks TLS from the first byte (port 465), or use another server";
        return Err(Error::new(ErrorKind::Invalid, action, reply).hint(hint));
    }
    talk.ask("STARTTLS\r\n", 220).await?;
    if talk.heard.is_empty() {
        return Ok(());
    }
    let reply = "the server went on talking before TLS: somebody may be in between";
    Err(Error::new(ErrorKind::Unexpected, action, reply))
}

/// The little that is said without TLS.
struct Talk<'a> {
    action: &'a str,
    tcp: &'a mut TcpStream,
    /// What has been read and not been looked at.
    heard: Vec<u8>,
}

impl Talk<'_> {
    async fn ask(&mut self, command: &str, expected: u16) -> Result<String, Error> {
        let sent = self.tcp.write_all(command.as_bytes()).await;
        sent.map_err(|error| connection_error(self.action, &error))?;
        self.reply(expected).await
    }

    /// A whole reply, all its lines.
    async fn reply(&mut self, expected: u16) -> Result<String, Error> {
        let mut reply = String::new();
        loop {
            let line = self.line().await?;
            let code = line.get(..3).and_then(|code| code.parse::<u16>().ok());
            let Some(code) = code else {
                let reply = "what answers there is no mail server";
                let hint = "is the port right? STARTTLS is usually spoken at 587, TLS from the first byte (smtps://) at 465";
                return Err(Error::new(ErrorKind::Unexpected, self.action, reply).hint(hint));
            };
            let is_last = line.as_bytes().get(3) != Some(&b'-');
            if is_last && code != expected {
                let kind = if code / 100 == 4 {
                    ErrorKind::Unavailable
                } else {
                    ErrorKind::Invalid
                };
                let reply = format!("the server answered {}", beginning(&printable(&line), 200));
                return Err(Error::new(kind, self.action, reply));
            }
            reply += &line;
            reply.push('\n');
            if is_last {
                return Ok(reply);
            }
        }
    }

    async fn line(&mut self) -> Result<String, Error> {
        let mut all = 0;
        loop {
            if let Some(end) = self.heard.iter().position(|byte| *byte == b'\n') {
                let line = self.heard.drain(..=end).collect::<Vec<_>>();
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            let mut piece = [0; 512];
            let read = self.tcp.read(&mut piece).await;
            let read = read.map_err(|error| connection_error(self.action, &error))?;
            all += read as u64;
            if read == 0 || all > LONGEST_TALK {
                let reply = if read == 0 {
                    "the server closed the connection"
                } else {
                    "the server says too much"
                };
                let kind = if read == 0 {
                    ErrorKind::Unavailable
                } else {
                    ErrorKind::Unexpected
                };
                return Err(Error::new(kind, self.action, reply).hint(SMTP_IS_STARTTLS));
            }
            self.heard.extend_from_slice(&piece[..read]);
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.before.is_empty() {
            let (now, later) = self
                .before
                .split_at(self.before.len().min(buffer.remaining()));
            buffer.put_slice(now);
            self.before = later;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.stream.get_mut()).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.stream.get_mut()).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.stream.get_mut()).poll_shutdown(context)
    }
}

impl AsyncTokioStream for Wire {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.stream.get_ref().get_ref().0.peer_addr()
    }
}
