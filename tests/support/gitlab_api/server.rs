//! Connections, and the requests on them one after the other.

use std::fmt::Write as _;
use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use socket2::SockRef;

use super::super::web::http::{Connection, Head, Stream};
use super::super::web::line::Pace;
use super::super::web::random;
use super::answer::{Payload, Reply};
use super::download;
use super::fault::{Kind, What};
use super::imports::Form;
use super::routes::{self, Call};
use super::{Mode, Seen, Shared};

/// The first byte of a TLS handshake.
const HANDSHAKE: u8 = 0x16;
/// The most bytes of a form or of JSON.
const MOST_FORM: usize = 1 << 20;

/// Takes connections until the server ends.
pub fn accept(shared: &Arc<Shared>, listener: &TcpListener) {
    for (number, socket) in (1..).zip(listener.incoming()) {
        // The client may have gone before it was accepted.
        if let Ok(socket) = socket {
            let socket = Arc::new(socket);
            shared.state().open.insert(number, Arc::clone(&socket));
            let shared = Arc::clone(shared);
            std::thread::spawn(move || {
                // Whatever ends a connection is the client's to notice.
                let _ = converse(&shared, &socket, number);
                shared.state().open.remove(&number);
            });
        }
        // Looked at after the connection is known: whoever ends the server closes all known ones.
        if shared.end.has_come() {
            return;
        }
    }
}

/// How a request ends that is not simply answered.
enum Ending {
    /// By a TCP reset.
    Reset,
    /// The connection is gone.
    Gone(io::Error),
}

impl From<io::Error> for Ending {
    fn from(error: io::Error) -> Self {
        Self::Gone(error)
    }
}

fn converse(shared: &Arc<Shared>, socket: &Arc<TcpStream>, number: u64) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut first = [0];
    if shared.end.has_come() || socket.peek(&mut first)? == 0 {
        return socket.shutdown(Shutdown::Both);
    }
    let stream = match (&shared.tls, first[0]) {
        (Some(tls), HANDSHAKE) => Stream::Tls(Box::new(tls.accept(Arc::clone(socket))?)),
        (None, HANDSHAKE) => return Ok(()),
        _ => Stream::Plain(Arc::clone(socket)),
    };
    let clear = matches!(stream, Stream::Plain(_)) && shared.tls.is_some();
    let mut connection = Connection::new(stream);
    while let Some(head) = connection.head()? {
        if clear {
            // What nginx says.
            let reply = Reply::new(
                400,
                "text/html",
                "The plain HTTP request was sent to HTTPS port",
            );
            send(shared, &mut connection, &head, &reply, None, true)?;
            return Ok(());
        }
        match request(shared, &mut connection, &head, number) {
            Ok(true) => {}
            Ok(false) => {
                connection.stream.close();
                return socket.shutdown(Shutdown::Write);
            }
            Err(Ending::Reset) => return SockRef::from(&**socket).set_linger(Some(Duration::ZERO)),
            Err(Ending::Gone(error)) => return Err(error),
        }
    }
    Ok(())
}

/// Answers one request; false if it was the last of its connection.
fn request(
    shared: &Arc<Shared>,
    connection: &mut Connection,
    head: &Head,
    number: u64,
) -> Result<bool, Ending> {
    let parts = routes::parts(head.path());
    let kind = match &parts {
        Some(parts) => routes::kind(&head.method, parts),
        None if head.path().starts_with("/object-storage/") => Kind::Download,
        None => Kind::Other,
    };
    let secret = secret(head);
    let (hit, seen, mode) = note(shared, head, kind, secret.as_deref(), number);
    if let Some(What::Reset) = hit {
        return Err(Ending::Reset);
    }
    let mut call = Call {
        shared,
        method: &head.method,
        target: &head.target,
        parts: parts.clone().unwrap_or_default(),
        parameters: routes::parameters(head.query()),
        secret,
        user: None,
        range: (
            head.header("Range").map(str::to_owned),
            head.header("If-Range").map(str::to_owned),
        ),
        file: None,
    };
    let malformed = read_body(connection, head, &mut call)?;
    if let Some(What::Before(function)) = &hit {
        function();
    }
    if let Some(What::Stall(time)) = &hit
        && shared.end.wait(*time)
    {
        return Err(Ending::Gone(io::ErrorKind::Interrupted.into()));
    }
    let reply = match (mode, &hit, malformed) {
        (_, Some(What::Reply(reply)), _) => reply.clone(),
        (Mode::Maintenance, ..) => Reply::html(503).with("Retry-After", "60"),
        (Mode::Proxy, ..) => Reply::html(200),
        (_, _, Some(reply)) => reply,
        _ if parts.is_none() => outside(&call),
        _ => match routes::who(shared, call.secret.as_deref(), kind, hit.as_ref()) {
            Err(refusal) => refusal,
            Ok(user) => {
                call.user = user;
                routes::answer(&call, kind).unwrap_or_else(|refusal| refusal)
            }
        },
    };
    let reply = match hit {
        Some(What::Truncated(len)) => shorter(reply, len),
        _ => reply,
    };
    if let Some(What::After(function)) = &hit {
        function();
    }
    settle(shared, seen, &reply);
    if let Some(What::LostReply) = hit {
        return Err(Ending::Reset);
    }
    let last = head.closes();
    send(shared, connection, head, &reply, hit.as_ref(), last)?;
    if let Some(What::Cut(_)) = hit {
        return Ok(false);
    }
    Ok(!last)
}

/// What is asked for that is no API: the object store, or a page.
fn outside(call: &Call) -> Reply {
    let path = call.target.split('?').next().unwrap_or_default();
    let number = path
        .strip_prefix("/object-storage/")
        .and_then(|text| text.parse::<usize>().ok());
    let state = call.shared.state();
    match number.and_then(|number| state.stored.get(number)) {
        Some(archive) => download::serve(archive, call, download::Validators::Both),
        None if path == "/users/sign_in" => Reply::html(200),
        None => Reply::html(404),
    }
}

/// The token, however it is sent.
fn secret(head: &Head) -> Option<String> {
    let bearer = head.header("Authorization");
    let bearer = bearer.and_then(|value| value.strip_prefix("Bearer "));
    let token = head.header("PRIVATE-TOKEN").or(bearer).map(str::to_owned);
    token.or_else(|| routes::parameters(head.query()).remove("private_token"))
}

/// Records a request and finds its fault, in one step so that their orders agree.
fn note(
    shared: &Shared,
    head: &Head,
    kind: Kind,
    secret: Option<&str>,
    connection: u64,
) -> (Option<What>, usize, Mode) {
    let mut state = shared.state();
    let hit = state.faults.hit(kind, &head.target);
    let token = secret.map(|secret| {
        let known = state.world.tokens.get(secret);
        known.map_or_else(|| "unknown".to_owned(), |token| token.name.clone())
    });
    state.seen.push(Seen {
        kind,
        method: head.method.clone(),
        path: head.path().to_owned(),
        query: head.query().to_owned(),
        token,
        range: head.header("Range").map(str::to_owned),
        status: None,
        answered: 0,
        connection,
        faulted: hit.is_some(),
        at: Instant::now(),
    });
    (hit, state.seen.len() - 1, state.mode)
}

fn settle(shared: &Shared, seen: usize, reply: &Reply) {
    let mut state = shared.state();
    state.seen[seen].status = Some(reply.status);
    state.seen[seen].answered = reply.body.len();
}

/// Reads the body into the parameters; what comes back is what there is to complain about.
fn read_body(
    connection: &mut Connection,
    head: &Head,
    call: &mut Call,
) -> Result<Option<Reply>, Ending> {
    let mut framing = head.framing()?;
    if head.expects_continue() {
        connection.stream.write(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let media = head.header("Content-Type").unwrap_or_default().to_owned();
    if let Some(boundary) = media
        .strip_prefix("multipart/form-data")
        .and_then(|rest| rest.split_once("boundary="))
    {
        let mut form = Form::new(boundary.1.trim_matches('"'));
        loop {
            let piece = connection.piece(&mut framing, u64::MAX)?;
            if piece.is_empty() {
                break;
            }
            form.feed(piece)?;
        }
        let (fields, file) = form.finish();
        call.parameters.extend(fields);
        call.file = file;
        return Ok(None);
    }
    let mut body = Vec::new();
    loop {
        let piece = connection.piece(&mut framing, u64::MAX)?;
        if piece.is_empty() {
            break;
        }
        if body.len() + piece.len() > MOST_FORM {
            return Err(Ending::Reset);
        }
        body.extend_from_slice(piece);
    }
    if body.is_empty() {
        return Ok(None);
    }
    if media.starts_with("application/json") {
        let Ok(Value::Object(object)) = serde_json::from_slice(&body) else {
            return Ok(Some(Reply::error(400, "Problems parsing JSON")));
        };
        let text = |value: &Value| {
            value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned)
        };
        for (name, value) in &object {
            if let Value::Object(inner) = value {
                let pairs = inner
                    .iter()
                    .map(|(below, value)| (format!("{name}[{below}]"), text(value)));
                call.parameters.extend(pairs);
            } else {
                call.parameters.insert(name.clone(), text(value));
            }
        }
        return Ok(None);
    }
    if media.starts_with("application/x-www-form-urlencoded") {
        call.parameters
            .extend(routes::parameters(&String::from_utf8_lossy(&body)));
        return Ok(None);
    }
    Ok(Some(Reply::error(
        415,
        format!("The provided content-type '{media}' is not supported."),
    )))
}

/// The same reply with fewer bytes, as if there were no more.
fn shorter(mut reply: Reply, most: u64) -> Reply {
    match &mut reply.body {
        Payload::Bytes(bytes) => bytes.truncate(usize::try_from(most).unwrap_or(usize::MAX)),
        Payload::Archive { len, .. } => *len = (*len).min(most),
    }
    reply
}

fn send(
    shared: &Shared,
    connection: &mut Connection,
    head: &Head,
    reply: &Reply,
    hit: Option<&What>,
    last: bool,
) -> io::Result<()> {
    let len = reply.body.len();
    let mut message = format!("HTTP/1.1 {} {}\r\n", reply.status, reason(reply.status));
    for (name, value) in &reply.headers {
        let _ = write!(message, "{name}: {value}\r\n");
    }
    let now = chrono::Utc::now() + chrono::TimeDelta::seconds(shared.options.clock_ahead);
    let date = now.format("%a, %d %b %Y %H:%M:%S GMT");
    let id = random::id();
    let close = if last || matches!(hit, Some(What::Cut(_))) {
        "close"
    } else {
        "keep-alive"
    };
    let _ = write!(
        message,
        "Server: nginx\r\nDate: {date}\r\nContent-Length: {len}\r\nX-Request-Id: {id}\r\nVary: Origin\r\n\
         Cache-Control: max-age=0, private, must-revalidate\r\nConnection: {close}\r\n\r\n"
    );
    connection.stream.write(message.as_bytes())?;
    if head.method == "HEAD" {
        return Ok(());
    }
    let most = if let Some(What::Cut(bytes)) = hit {
        len.min(*bytes)
    } else {
        len
    };
    let rate = if let Some(What::Slow(rate)) = hit {
        *rate
    } else {
        0
    };
    let changed = matches!(hit, Some(What::Changed)).then_some(len / 2);
    let pace = Pace::new(rate);
    let mut sent = 0;
    let mut sink = |piece: &[u8]| {
        let step = usize::try_from(pace.stride())
            .unwrap_or(usize::MAX)
            .min(64 << 10);
        for piece in piece.chunks(step) {
            let end = sent + piece.len() as u64;
            match changed {
                Some(at) if (sent..end).contains(&at) => {
                    let mut other = piece.to_vec();
                    other[usize::try_from(at - sent).expect("within a piece")] ^= 0x20;
                    connection.stream.write(&other)?;
                }
                _ => connection.stream.write(piece)?,
            }
            sent = end;
            let wait = pace.take(piece.len() as u64);
            if !wait.is_zero() && shared.end.wait(Some(wait)) {
                return Err(io::ErrorKind::Interrupted.into());
            }
        }
        Ok(())
    };
    match &reply.body {
        Payload::Bytes(bytes) => sink(&bytes[..usize::try_from(most).expect("in memory")]),
        Payload::Archive { archive, from, .. } => archive.read(*from, most, sink),
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        415 => "Unsupported Media Type",
        416 => "Requested Range Not Satisfiable",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Other",
    }
}
