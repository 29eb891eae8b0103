//! Connections: clear text, TLS or a tunnel, and the requests on them one after the other.

use std::fmt::Write as _;
use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use socket2::SockRef;

use super::answer::{Payload, Reply, Stop};
use super::api::{self, Call};
use super::body::Body;
use super::clock;
use super::fault::{Delivery, Hit};
use super::http::{Connection, Head, Stream};
use super::line::Pace;
use super::random;
use super::tls::HOSTS;
use super::{Seen, Shared};

/// The first byte of a TLS handshake.
const HANDSHAKE: u8 = 0x16;

/// Receive buffer of a paced connection: with the usual one the client would be done long before the line is.
const PACED_BUFFER: usize = 64 << 10;

/// Takes connections until the server ends.
pub fn accept(shared: &Arc<Shared>, listener: &TcpListener) {
    let line = shared.line();
    if line.per_connection > 0 || line.whole > 0 {
        // Taken over by accepted sockets; set later it would not shrink the window already offered.
        let _ = SockRef::from(listener).set_recv_buffer_size(PACED_BUFFER);
    }
    for (number, socket) in (1..).zip(listener.incoming()) {
        // The client may have gone before it was accepted.
        if let Ok(socket) = socket {
            serve(shared, Arc::new(socket), number);
        }
        // Looked at after the connection is known: whoever ends the server closes all known ones.
        if shared.end.has_come() {
            return;
        }
    }
}

/// Lets a connection have a thread of its own.
fn serve(shared: &Arc<Shared>, socket: Arc<TcpStream>, number: u64) {
    shared.state().open.insert(number, Arc::clone(&socket));
    if shared.end.has_come() {
        let _ = socket.shutdown(Shutdown::Both);
    }
    let shared = Arc::clone(shared);
    std::thread::spawn(move || {
        // Whatever ends a connection is the client's to notice.
        let _ = converse(&shared, &socket, number);
        shared.state().open.remove(&number);
    });
}

/// What comes after the requests that could be read from a stream.
enum Next {
    /// Nothing.
    End,
    /// The client asked for a tunnel; what it says next may be TLS.
    Tunnel,
}

fn converse(shared: &Shared, socket: &Arc<TcpStream>, number: u64) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let pace = Pace::new(shared.line().per_connection);
    loop {
        let mut first = [0];
        if socket.peek(&mut first)? == 0 {
            return Ok(());
        }
        let stream = match (&shared.tls, first[0]) {
            (Some(tls), HANDSHAKE) => Stream::Tls(Box::new(tls.accept(Arc::clone(socket))?)),
            (None, HANDSHAKE) => return Ok(()),
            _ => Stream::Plain(Arc::clone(socket)),
        };
        let clear = matches!(stream, Stream::Plain(_));
        let mut connection = Connection::new(stream);
        match requests(shared, &mut connection, number, &pace, clear) {
            Ok(Next::Tunnel) => {}
            Ok(Next::End) => {
                connection.stream.close();
                return Ok(());
            }
            Err(Stop::Reset) => return SockRef::from(&**socket).set_linger(Some(Duration::ZERO)),
            Err(_) => return Ok(()),
        }
    }
}

fn requests(
    shared: &Shared,
    connection: &mut Connection,
    number: u64,
    pace: &Pace,
    clear: bool,
) -> Result<Next, Stop> {
    while let Some(head) = connection.head()? {
        if head.method == "CONNECT" {
            let host = head.target.split(':').next().unwrap_or_default();
            if !HOSTS.contains(&host) {
                send(
                    shared,
                    connection,
                    &Reply::text(403, "not a host of Dropbox"),
                    Delivery::Whole,
                    true,
                )?;
                return Ok(Next::End);
            }
            connection
                .stream
                .write(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
            return Ok(Next::Tunnel);
        }
        if clear && shared.tls.is_some() {
            send(
                shared,
                connection,
                &Reply::text(400, "this server speaks HTTPS"),
                Delivery::Whole,
                true,
            )?;
            return Ok(Next::End);
        }
        if !request(shared, connection, &head, number, pace)? {
            return Ok(Next::End);
        }
    }
    Ok(Next::End)
}

/// Answers one request; false if it was the last of its connection.
fn request(
    shared: &Shared,
    connection: &mut Connection,
    head: &Head,
    number: u64,
    pace: &Pace,
) -> Result<bool, Stop> {
    let (hit, seen) = note(shared, head, number);
    let mut body = Body::new(shared, connection, head, pace, &hit)?;
    let call = Call {
        shared,
        head,
        hit: &hit,
        seen,
    };
    let outcome = hit
        .at_head(&shared.end)
        .and_then(|()| api::answer(&call, &mut body));
    let outcome = match outcome {
        Ok(reply) => body.drain().map(|()| reply),
        Err(Stop::Reply(reply)) => body.drain().map(|()| *reply),
        Err(stop) => Err(stop),
    };
    let outcome = outcome.and_then(|reply| Ok((hit.applied(&shared.end)?, reply)));
    let (delivery, reply, early) = match outcome {
        Ok((delivery, reply)) => (delivery, reply, false),
        Err(Stop::Reply(reply)) => (Delivery::Whole, *reply, false),
        Err(Stop::Early(reply)) => (Delivery::Whole, *reply, true),
        Err(stop) => {
            settle(shared, seen, body.received(), None);
            return Err(stop);
        }
    };
    settle(shared, seen, body.received(), Some(&reply));
    let rest = body.rest();
    let last = head.closes() || rest.is_none() || delivery == Delivery::Truncated;
    send(shared, connection, &reply, delivery, last)?;
    if let (true, Some(mut framing)) = (early, rest) {
        while !connection.piece(&mut framing, u64::MAX)?.is_empty() {}
    }
    Ok(!last)
}

/// Records a request and finds its fault, in one step so that their orders agree.
fn note(shared: &Shared, head: &Head, connection: u64) -> (Hit, usize) {
    let mut state = shared.state();
    let hit = Hit(state.faults.hit(head.path()));
    state.seen.push(Seen {
        endpoint: head.path().to_owned(),
        arg: Value::Null,
        received: 0,
        status: None,
        answered: 0,
        token: head
            .header("Authorization")
            .and_then(|value| value.strip_prefix("Bearer "))
            .map(String::from),
        connection,
        faulted: hit.0.is_some(),
        at: Instant::now(),
    });
    (hit, state.seen.len() - 1)
}

fn settle(shared: &Shared, seen: usize, received: u64, reply: Option<&Reply>) {
    let mut state = shared.state();
    state.seen[seen].received = received;
    state.seen[seen].status = reply.map(|reply| reply.status);
    state.seen[seen].answered = reply.map_or(0, |reply| reply.body.len());
}

fn send(
    shared: &Shared,
    connection: &mut Connection,
    reply: &Reply,
    delivery: Delivery,
    last: bool,
) -> io::Result<()> {
    let mut body = match &reply.body {
        Payload::Bytes(bytes) => bytes.as_slice(),
        Payload::Stored { .. } => &[],
    };
    if delivery == Delivery::Broken {
        body = &body[..body.len() / 2];
    }
    let length = match reply.body {
        Payload::Bytes(_) => body.len() as u64,
        Payload::Stored { len, .. } => len,
    };
    let mut message = format!("HTTP/1.1 {} {}\r\n", reply.status, reason(reply.status));
    for (name, value) in &reply.headers {
        let _ = write!(message, "{name}: {value}\r\n");
    }
    let date = clock::http_date(shared.options.clock_ahead);
    let id = random::id();
    let close = if last { "Connection: close\r\n" } else { "" };
    let _ = write!(
        message,
        "Date: {date}\r\nContent-Length: {length}\r\nX-Dropbox-Request-Id: {id}\r\n{close}\r\n"
    );
    let mut message = message.into_bytes();
    let cut = delivery == Delivery::Truncated;
    message.extend_from_slice(if cut { &body[..body.len() / 2] } else { body });
    connection.stream.write(&message)?;
    if let Payload::Stored { content, from, len } = &reply.body {
        let len = if cut { len / 2 } else { *len };
        content.read(&shared.log, *from, len, |piece| {
            connection.stream.write(piece)
        })?;
    }
    Ok(())
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        206 => "Partial Content",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        416 => "Range Not Satisfiable",
        422 => "Unprocessable Entity",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Other",
    }
}
