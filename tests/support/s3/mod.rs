//! A stand-in for Amazon S3 that checks every signature as S3 does, those of headers and those of presigned addresses,
//! by a clock of its own; its buckets lie in regions.
//!
//! With TLS it takes `CONNECT` like a proxy, so that clients that insist on Amazon's host names reach it.

#![allow(dead_code, reason = "every test binary uses another part of it")]

mod answer;
mod sign;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use percent_encoding::percent_decode_str;

use super::web::http::{Connection, Framing, Head, Stream};
use super::web::tls::Tls;

/// Who may sign.
pub const KEY_ID: &str = "AKIDEXAMPLEEXAMPLE00";
/// With this key.
pub const SECRET: &str = "marked-secret-access-key-0123456789abcdef";
/// Where a bucket lies unless another region is said.
pub const REGION: &str = "eu-west-3";
/// The first byte of a TLS handshake.
const HANDSHAKE: u8 = 0x16;

/// How it behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// Speaks HTTPS, and tunnels to Amazon's names.
    pub tls: bool,
    /// Its buckets, each with its region.
    pub buckets: Vec<(&'static str, &'static str)>,
    /// Tells nobody which region a bucket is in.
    pub hides_regions: bool,
    /// The longest body of one `PUT`, in bytes; Amazon's limit is 5 GiB.
    pub largest_put: u64,
    /// Keys in one page of a list.
    pub page: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            tls: false,
            buckets: vec![("exports", REGION)],
            hides_regions: false,
            largest_put: 5 << 30,
            page: 1000,
        }
    }
}

/// What is stored under a key.
#[derive(Debug, Clone)]
pub struct Object {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// When it came, by the server's clock.
    pub modified: DateTime<Utc>,
    /// As it was sent.
    pub content_type: String,
    /// The MD5 of the bytes, or of its parts' MD5s and their number.
    pub etag: String,
}

/// A request that came.
#[derive(Debug, Clone)]
pub struct Seen {
    /// `PUT`.
    pub method: String,
    /// `exports/group/app/2026-11-22-04-00-00.tar.gz`: bucket and key, decoded.
    pub path: String,
    /// Whether the signature was in the address.
    pub presigned: bool,
    /// What was answered.
    pub status: u16,
}

struct Fault {
    method: &'static str,
    path: String,
    times: usize,
    status: u16,
    code: &'static str,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<(String, String), Object>,
    uploads: BTreeMap<String, answer::Upload>,
    serial: u64,
    ahead: TimeDelta,
    faults: Vec<Fault>,
    seen: Vec<Seen>,
    open: Vec<Arc<TcpStream>>,
    ended: bool,
}

struct Shared {
    options: Options,
    state: Mutex<State>,
    tls: Option<Tls>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> DateTime<Utc> {
        Utc::now() + self.state().ahead
    }

    fn region(&self, bucket: &str) -> Option<&'static str> {
        let mut buckets = self.options.buckets.iter();
        buckets.find(|(name, _)| *name == bucket).map(|(_, at)| *at)
    }
}

/// A running server; it ends when this is dropped.
pub struct S3 {
    shared: Arc<Shared>,
    port: u16,
}

impl S3 {
    /// Serves on 127.0.0.1.
    pub fn start(options: Options) -> S3 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("a bound listener").port();
        let tls = options.tls.then(|| {
            let regional = |region| {
                [
                    format!("s3.{region}.amazonaws.com"),
                    format!("*.s3.{region}.amazonaws.com"),
                ]
            };
            let regions = options.buckets.iter().map(|(_, region)| *region);
            let mut hosts: Vec<_> = regions.chain(["us-east-1"]).flat_map(regional).collect();
            hosts.extend(["s3.amazonaws.com", "localhost", "127.0.0.1"].map(str::to_owned));
            hosts.sort();
            hosts.dedup();
            Tls::for_hosts(hosts)
        });
        let shared = Arc::new(Shared {
            options,
            state: Mutex::default(),
            tls,
        });
        let by = Arc::clone(&shared);
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let socket = Arc::new(socket);
                let mut state = by.state();
                if state.ended {
                    return;
                }
                state.open.push(Arc::clone(&socket));
                drop(state);
                let shared = Arc::clone(&by);
                std::thread::spawn(move || {
                    // Whatever ends a connection is the client's to notice.
                    let _ = converse(&shared, &socket);
                    let _ = socket.shutdown(Shutdown::Both);
                });
            }
        });
        S3 { shared, port }
    }

    /// Its address, without a bucket.
    pub fn url(&self) -> String {
        let scheme = self.shared.tls.as_ref().map_or("http", |_| "https");
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// The same server as a proxy, for clients that insist on Amazon's names.
    pub fn proxy_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Whose certificate is to be trusted.
    pub fn ca_file(&self) -> &Path {
        self.shared.tls.as_ref().expect("with TLS").ca_file()
    }

    /// The lines of a destination there, without a region.
    pub fn place(&self, bucket: &str) -> String {
        format!("endpoint = \"{}\"\n{}", self.url(), amazon_place(bucket))
    }

    /// Sets its clock, in seconds before (or, negative, behind) ours.
    pub fn set_clock(&self, ahead: i64) {
        self.shared.state().ahead = TimeDelta::seconds(ahead);
    }

    /// From now on: the first `times` requests of this method (`""`: any) whose bucket and key hold `path` get this
    /// status and code, and nothing is done.
    pub fn fault(
        &self,
        method: &'static str,
        path: &str,
        times: usize,
        status: u16,
        code: &'static str,
    ) {
        self.shared.state().faults.push(Fault {
            method,
            path: path.to_owned(),
            times,
            status,
            code,
        });
    }

    /// Everything in a bucket, by its key.
    pub fn objects(&self, bucket: &str) -> BTreeMap<String, Object> {
        let state = self.shared.state();
        let here = state.objects.iter().filter(|((of, _), _)| of == bucket);
        here.map(|((_, key), object)| (key.clone(), object.clone()))
            .collect()
    }

    /// Puts an object there.
    pub fn put_object(&self, bucket: &str, key: &str, bytes: &[u8], modified: DateTime<Utc>) {
        let object = Object {
            bytes: bytes.to_vec(),
            modified,
            content_type: "application/gzip".to_owned(),
            etag: answer::md5(bytes),
        };
        let mut state = self.shared.state();
        state
            .objects
            .insert((bucket.to_owned(), key.to_owned()), object);
    }

    /// Takes an object away.
    pub fn remove_object(&self, bucket: &str, key: &str) {
        let at = (bucket.to_owned(), key.to_owned());
        self.shared.state().objects.remove(&at);
    }

    /// Every request that came, in order.
    pub fn requests(&self) -> Vec<Seen> {
        self.shared.state().seen.clone()
    }

    /// Forgets them.
    pub fn forget(&self) {
        self.shared.state().seen.clear();
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.ended = true;
        for socket in &state.open {
            let _ = socket.shutdown(Shutdown::Both);
        }
        drop(state);
        // Wakes the acceptor.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

/// The lines of a destination at Amazon's own address.
pub fn amazon_place(bucket: &str) -> String {
    format!(
        "type = \"s3\"\nbucket = \"{bucket}\"\naccess_key_id = \"{KEY_ID}\"\n\
         secret_access_key = \"{SECRET}\"\n"
    )
}

/// What is asked of, and by whom.
struct Call<'a> {
    head: &'a Head,
    /// The name that the client believes to talk to.
    host: String,
    bucket: String,
    key: String,
    /// Decoded, in the order in which they came.
    query: Vec<(String, String)>,
}

impl Call<'_> {
    fn parse(head: &Head) -> Call<'_> {
        let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let host = head.header("Host").unwrap_or_default().to_owned();
        let path = decode(head.path().trim_start_matches('/'));
        let (mut bucket, mut key) = match path.split_once('/') {
            Some((bucket, key)) => (bucket.to_owned(), key.to_owned()),
            None => (path.clone(), String::new()),
        };
        if let Some((name, rest)) = host.split_once(".s3.")
            && rest.ends_with("amazonaws.com")
        {
            (bucket, key) = (name.to_owned(), path);
        }
        let pairs = head.query().split('&').filter(|pair| !pair.is_empty());
        let query = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        });
        Call {
            head,
            host,
            bucket,
            key,
            query: query.collect(),
        }
    }

    fn param(&self, name: &str) -> Option<&str> {
        let mut query = self.query.iter();
        query
            .find(|(own, _)| own == name)
            .map(|(_, value)| value.as_str())
    }

    /// The region of the address, if it is one of Amazon's.
    fn region_of_host(&self) -> Option<&str> {
        let host = self.host.strip_suffix(".amazonaws.com")?;
        let region = host
            .strip_prefix("s3")
            .or_else(|| Some(host.split_once(".s3")?.1))?;
        Some(region.strip_prefix('.').unwrap_or("us-east-1"))
    }
}

fn converse(shared: &Shared, socket: &Arc<TcpStream>) -> io::Result<()> {
    socket.set_nodelay(true)?;
    loop {
        let mut first = [0];
        if socket.peek(&mut first)? == 0 {
            return Ok(());
        }
        let stream = match (&shared.tls, first[0]) {
            (Some(tls), HANDSHAKE) => Stream::Tls(Box::new(tls.accept(Arc::clone(socket))?)),
            _ => Stream::Plain(Arc::clone(socket)),
        };
        let mut connection = Connection::new(stream);
        loop {
            let Some(head) = connection.head()? else {
                connection.stream.close();
                return Ok(());
            };
            if head.method == "CONNECT" {
                let reply: &[u8] = if head.target.contains("amazonaws.com:") {
                    b"HTTP/1.1 200 Connection established\r\n\r\n"
                } else {
                    b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
                };
                connection.stream.write(reply)?;
                break;
            }
            if !request(shared, &mut connection, &head)? {
                connection.stream.close();
                return Ok(());
            }
        }
    }
}

/// Answers one request; false if it was the last of its connection.
fn request(shared: &Shared, connection: &mut Connection, head: &Head) -> io::Result<bool> {
    let call = Call::parse(head);
    let path = format!("{}/{}", call.bucket, call.key);
    let mut framing = head.framing()?;
    let too_large =
        matches!(framing, Framing::Length(length) if length > shared.options.largest_put);
    let mut body = Vec::new();
    if !too_large {
        if head.expects_continue() {
            connection.stream.write(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        loop {
            let piece = connection.piece(&mut framing, u64::MAX)?;
            if piece.is_empty() {
                break;
            }
            body.extend_from_slice(piece);
        }
    }
    let fault = {
        let mut state = shared.state();
        let fits = |fault: &&mut Fault| {
            (fault.method.is_empty() || fault.method == head.method)
                && path.contains(&fault.path)
                && fault.times > 0
        };
        state.faults.iter_mut().find(fits).map(|fault| {
            fault.times -= 1;
            answer::Reply::error(fault.status, fault.code)
        })
    };
    let reply = match fault {
        Some(reply) => reply,
        None if too_large => answer::Reply::error(400, "EntityTooLarge"),
        None => answer::answer(shared, &call, body),
    };
    let presigned = call.param("X-Amz-Signature").is_some();
    let now = shared.now();
    shared.state().seen.push(Seen {
        method: head.method.clone(),
        path,
        presigned,
        status: reply.status,
    });
    let last = head.closes() || too_large;
    let mut message = format!(
        "HTTP/1.1 {} x\r\nDate: {}\r\nContent-Length: {}\r\n{}{}\r\n",
        reply.status,
        answer::http_date(now),
        reply.length.unwrap_or(reply.body.len()),
        reply.headers,
        if last { "Connection: close\r\n" } else { "" },
    )
    .into_bytes();
    if head.method != "HEAD" {
        message.extend(reply.body);
    }
    connection.stream.write(&message)?;
    Ok(!last)
}
