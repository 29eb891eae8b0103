//! A stand-in for a `WebDAV` server, with the ways of those that are around, and misbehaving on demand.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};

use super::web::http::{Connection, Head, Stream};
use super::web::tls::Tls;

/// Where the folder lies that clients are given.
pub const ROOT: &str = "/remote.php/dav/files/pi";
/// Whom it lets in.
pub const USER: &str = "pi";
/// With this password.
pub const PASSWORD: &str = "marked-app-password";
/// `pi:marked-app-password`.
const BASIC: &str = "Basic cGk6bWFya2VkLWFwcC1wYXNzd29yZA==";

/// Whose ways it has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Flavour {
    /// Nothing but the standard.
    #[default]
    Plain,
    /// Tells the hash of what it received, if asked.
    Nextcloud,
    /// Tells the checksums of what it stores.
    OwnCloud,
}

/// How it behaves.
#[derive(Debug, Clone, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fault of its own")]
pub struct Options {
    /// Speaks HTTPS.
    pub tls: bool,
    /// Whose ways it has.
    pub flavour: Flavour,
    /// Sends whole files, whatever part is asked for.
    pub no_ranges: bool,
    /// Bytes that fit.
    pub quota: Option<u64>,
    /// Stores nothing.
    pub read_only: bool,
    /// Stores this many bytes less, and says that it stored them.
    pub swallows: usize,
    /// Flips a bit of what it stores.
    pub corrupts: bool,
    /// Tells sizes that are larger by this.
    pub lies: u64,
    /// Tells no entity tags.
    pub no_etags: bool,
    /// Takes only a path for a destination, as behind a proxy.
    pub behind_proxy: bool,
}

/// What happens to a request instead of, or beside, being answered.
#[derive(Clone)]
pub enum What {
    /// This status and body, and nothing is done.
    Answer(u16, &'static str),
    /// It is sent on to this address.
    Redirect(String),
    /// It is carried out, and the connection ends without a reply.
    LostReply,
    /// Called when the head has come.
    AtHead(Arc<dyn Fn() + Send + Sync>),
    /// Called in the middle of the body.
    InBody(Arc<dyn Fn() + Send + Sync>),
    /// Called when it has been carried out.
    AtEnd(Arc<dyn Fn() + Send + Sync>),
}

struct Fault {
    method: &'static str,
    path: String,
    skip: usize,
    times: usize,
    what: What,
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, (Vec<u8>, u64)>,
    folders: Vec<String>,
    faults: Vec<Fault>,
    requests: Vec<String>,
    open: Vec<Arc<TcpStream>>,
    serial: u64,
    ended: bool,
}

/// A running server; it ends when this is dropped.
pub struct Dav {
    state: Arc<Mutex<State>>,
    tls: Option<Arc<Tls>>,
    port: u16,
}

impl Dav {
    /// Serves on 127.0.0.1.
    pub fn start(options: Options) -> Dav {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("a bound listener").port();
        let state = Arc::<Mutex<State>>::default();
        lock(&state).folders.push(String::new());
        let tls = options.tls.then(|| Arc::new(Tls::create()));
        let (shared, by) = (Arc::clone(&state), tls.clone());
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let socket = Arc::new(socket);
                let mut state = lock(&shared);
                if state.ended {
                    return;
                }
                state.open.push(Arc::clone(&socket));
                drop(state);
                let (shared, tls, options) = (Arc::clone(&shared), by.clone(), options.clone());
                std::thread::spawn(move || {
                    // Whatever ends a connection is the client's to notice.
                    let _ = converse(&shared, &options, tls.as_deref(), &socket);
                    let _ = socket.shutdown(Shutdown::Both);
                });
            }
        });
        Dav { state, tls, port }
    }

    /// Where its folder is.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}{ROOT}/", self.port)
    }

    /// Whose certificate is to be trusted.
    pub fn ca_file(&self) -> &Path {
        self.tls.as_ref().expect("with TLS").ca_file()
    }

    /// From now on: the first `times` requests of this method, behind the first `skip`, whose path holds `path`.
    pub fn fault(&self, method: &'static str, path: &str, skip: usize, times: usize, what: What) {
        let path = path.to_owned();
        lock(&self.state).faults.push(Fault {
            method,
            path,
            skip,
            times,
            what,
        });
    }

    /// No more of them.
    pub fn clear_faults(&self) {
        lock(&self.state).faults.clear();
    }

    /// All files by their paths.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let state = lock(&self.state);
        let files = state.files.iter();
        files
            .map(|(path, (bytes, _))| (path.clone(), bytes.clone()))
            .collect()
    }

    /// Puts a file there, and the folders it lies in.
    pub fn put_file(&self, path: &str, bytes: &[u8]) {
        let mut state = lock(&self.state);
        for (end, _) in path.match_indices('/').skip(1) {
            let folder = path[..end].to_owned();
            if !state.folders.contains(&folder) {
                state.folders.push(folder);
            }
        }
        state.serial += 1;
        let serial = state.serial;
        state
            .files
            .insert(path.to_owned(), (bytes.to_vec(), serial));
    }

    /// Takes a file away.
    pub fn remove(&self, path: &str) {
        lock(&self.state).files.remove(path);
    }

    /// Takes everything away, the folder of clients too.
    pub fn remove_root(&self) {
        let mut state = lock(&self.state);
        state.files.clear();
        state.folders.clear();
    }

    /// Method and path of every request, in order.
    pub fn requests(&self) -> Vec<String> {
        lock(&self.state).requests.clone()
    }

    /// Forgets them.
    pub fn forget(&self) {
        lock(&self.state).requests.clear();
    }
}

impl Drop for Dav {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        state.ended = true;
        for socket in &state.open {
            let _ = socket.shutdown(Shutdown::Both);
        }
        drop(state);
        // Wakes the acceptor.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Reply {
    status: u16,
    headers: String,
    body: Vec<u8>,
}

impl Reply {
    fn new(status: u16, body: impl Into<Vec<u8>>) -> Reply {
        let (headers, body) = (String::new(), body.into());
        Reply {
            status,
            headers,
            body,
        }
    }
}

fn converse(
    shared: &Mutex<State>,
    options: &Options,
    tls: Option<&Tls>,
    socket: &Arc<TcpStream>,
) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let stream = match tls {
        Some(tls) => Stream::Tls(Box::new(tls.accept(Arc::clone(socket))?)),
        None => Stream::Plain(Arc::clone(socket)),
    };
    let mut connection = Connection::new(stream);
    while let Some(head) = connection.head()? {
        let path = percent_decode_str(head.path())
            .decode_utf8_lossy()
            .into_owned();
        let path = path
            .strip_prefix(ROOT)
            .unwrap_or("/nowhere")
            .trim_end_matches('/')
            .to_owned();
        let fault = {
            let mut state = lock(shared);
            state.requests.push(format!("{} {path}", head.method));
            let fits = |fault: &&mut Fault| {
                (fault.method.is_empty() || fault.method == head.method)
                    && path.contains(&fault.path)
                    && fault.times > 0
            };
            state.faults.iter_mut().find(fits).and_then(|fault| {
                if fault.skip > 0 {
                    fault.skip -= 1;
                    return None;
                }
                fault.times -= 1;
                Some(fault.what.clone())
            })
        };
        if let Some(What::AtHead(call)) = &fault {
            call();
        }
        let mut framing = head.framing()?;
        let length = head
            .header("Content-Length")
            .and_then(|text| text.parse().ok())
            .unwrap_or(0);
        let mut body: Vec<u8> = Vec::new();
        loop {
            let piece = connection.piece(&mut framing, u64::MAX)?;
            if piece.is_empty() {
                break;
            }
            body.extend_from_slice(piece);
            if let Some(What::InBody(call)) = &fault
                && body.len() >= length / 2
            {
                call();
            }
        }
        let reply = match &fault {
            Some(What::Answer(status, text)) => Reply::new(*status, *text),
            Some(What::Redirect(to)) => Reply {
                headers: format!("Location: {to}\r\n"),
                ..Reply::new(307, "")
            },
            _ if head.header("Authorization") != Some(BASIC) => Reply {
                headers: "WWW-Authenticate: Basic realm=\"x\"\r\n".to_owned(),
                // It repeats what it was shown, as careless servers do.
                ..Reply::new(
                    401,
                    format!("not {}", head.header("Authorization").unwrap_or_default()),
                )
            },
            _ => answer(&mut lock(shared), options, &head, &path, body),
        };
        match &fault {
            Some(What::AtEnd(call)) => call(),
            Some(What::LostReply) => return Ok(()),
            _ => {}
        }
        let Reply {
            status,
            headers,
            body,
        } = reply;
        let mut message = format!(
            "HTTP/1.1 {status} x\r\nContent-Length: {}\r\n{headers}\r\n",
            body.len()
        )
        .into_bytes();
        if head.method != "HEAD" {
            message.extend(body);
        }
        connection.stream.write(&message)?;
    }
    Ok(())
}

#[allow(clippy::too_many_lines, reason = "one method after the other")]
fn answer(state: &mut State, options: &Options, head: &Head, path: &str, body: Vec<u8>) -> Reply {
    let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
    let is_folder = |state: &State, path: &str| state.folders.iter().any(|folder| folder == path);
    let writes = matches!(head.method.as_str(), "PUT" | "MOVE" | "MKCOL" | "DELETE");
    if writes && options.read_only {
        return Reply::new(403, "");
    }
    match head.method.as_str() {
        "PROPFIND" => {
            let file = state.files.get(path);
            if file.is_none() && !is_folder(state, path) {
                return Reply::new(404, "");
            }
            let mut text = String::from(
                "<?xml version=\"1.0\"?><d:multistatus xmlns:d=\"DAV:\" xmlns:oc=\"http://owncloud.org/ns\">",
            );
            tell(&mut text, state, options, path);
            if head.header("Depth") == Some("1") {
                let child = |other: &&String| {
                    other
                        .rsplit_once('/')
                        .is_some_and(|(folder, _)| folder == path)
                        && !other.is_empty()
                };
                for name in state.folders.iter().chain(state.files.keys()).filter(child) {
                    tell(&mut text, state, options, name);
                }
            }
            Reply::new(207, text + "</d:multistatus>")
        }
        "MKCOL" if is_folder(state, path) => Reply::new(405, ""),
        "MKCOL" | "PUT" if !is_folder(state, parent) => Reply::new(409, ""),
        "MKCOL" => {
            state.folders.push(path.to_owned());
            Reply::new(201, "")
        }
        "PUT" => {
            let taken: u64 = state
                .files
                .values()
                .map(|(bytes, _)| bytes.len() as u64)
                .sum();
            if options
                .quota
                .is_some_and(|quota| taken + body.len() as u64 > quota)
            {
                return Reply::new(
                    507,
                    "<?xml version=\"1.0\"?><d:error xmlns:d=\"DAV:\" xmlns:s=\"http://sabredav.org/ns\"><s:message>no room for it</s:message></d:error>",
                );
            }
            let mut headers = String::new();
            if options.flavour == Flavour::Nextcloud && head.header("X-Hash") == Some("sha256") {
                let _ = write!(
                    headers,
                    "X-Hash-SHA256: {}\r\n",
                    hex(digest(&SHA256, &body).as_ref())
                );
            }
            let mut bytes = body;
            bytes.truncate(bytes.len().saturating_sub(options.swallows));
            if options.corrupts && !bytes.is_empty() {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
            }
            state.serial += 1;
            let serial = state.serial;
            state.files.insert(path.to_owned(), (bytes, serial));
            Reply {
                headers,
                ..Reply::new(201, "")
            }
        }
        "GET" => get(state, options, head, path),
        "DELETE" => match state.files.get(path) {
            None => Reply::new(404, ""),
            Some((_, serial)) => {
                let tag = format!("\"{serial}\"");
                if head.header("If-Match").is_some_and(|wanted| wanted != tag) {
                    return Reply::new(412, "");
                }
                state.files.remove(path);
                Reply::new(204, "")
            }
        },
        "MOVE" => {
            let to = head.header("Destination").unwrap_or_default();
            if options.behind_proxy && to.contains("://") {
                return Reply::new(502, "");
            }
            let to = percent_decode_str(to).decode_utf8_lossy().into_owned();
            let Some((_, to)) = to.split_once(ROOT) else {
                return Reply::new(400, "");
            };
            if !state.files.contains_key(path) {
                return Reply::new(404, "");
            }
            let is_there = state.files.contains_key(to) || is_folder(state, to);
            if is_there && head.header("Overwrite") == Some("F") {
                return Reply::new(412, "");
            }
            let file = state.files.remove(path).expect("looked at above");
            state.files.insert(to.to_owned(), file);
            Reply::new(if is_there { 204 } else { 201 }, "")
        }
        _ => Reply::new(405, ""),
    }
}

fn get(state: &State, options: &Options, head: &Head, path: &str) -> Reply {
    let Some((bytes, _)) = state.files.get(path) else {
        return Reply::new(404, "");
    };
    let range = head
        .header("Range")
        .and_then(|range| range.strip_prefix("bytes="));
    let Some((first, last)) = range
        .and_then(|range| range.split_once('-'))
        .filter(|_| !options.no_ranges)
    else {
        return Reply::new(200, bytes.clone());
    };
    let first: usize = first.parse().expect("a number");
    if first >= bytes.len() {
        return Reply::new(416, "");
    }
    let last = last.parse().unwrap_or(usize::MAX).min(bytes.len() - 1);
    Reply {
        headers: format!("Content-Range: bytes {first}-{last}/{}\r\n", bytes.len()),
        ..Reply::new(206, &bytes[first..=last])
    }
}

fn tell(text: &mut String, state: &State, options: &Options, path: &str) {
    let parts = path
        .split('/')
        .map(|part| utf8_percent_encode(part, NON_ALPHANUMERIC).to_string());
    let href = ROOT.to_owned() + &parts.collect::<Vec<_>>().join("/");
    let _ = write!(text, "<d:response><d:href>{href}");
    let owncloud = options.flavour != Flavour::Plain;
    let permissions = if owncloud {
        "<oc:permissions>RGDNVW</oc:permissions>"
    } else {
        ""
    };
    let _ = match state.files.get(path) {
        None => write!(
            text,
            "/</d:href><d:propstat><d:prop><d:resourcetype><d:collection/></d:resourcetype>"
        ),
        Some((bytes, serial)) => {
            let mut etag = format!("<d:getetag>&quot;{serial}&quot;</d:getetag>");
            if options.no_etags {
                etag.clear();
            }
            let sums = if options.flavour == Flavour::OwnCloud {
                let sum = hex(digest(&SHA1_FOR_LEGACY_USE_ONLY, bytes).as_ref());
                format!("<oc:checksums><oc:checksum>SHA1:{sum} MD5:0</oc:checksum></oc:checksums>")
            } else {
                String::new()
            };
            write!(
                text,
                "</d:href><d:propstat><d:prop><d:resourcetype/><d:getcontentlength>{}</d:getcontentlength>{etag}{sums}\
                 <d:getlastmodified>Sat, 16 Dec 2023 20:29:43 GMT</d:getlastmodified>",
                bytes.len() as u64 + options.lies
            )
        }
    };
    if let Some(quota) = options.quota {
        let taken: u64 = state
            .files
            .values()
            .map(|(bytes, _)| bytes.len() as u64)
            .sum();
        let free = quota.saturating_sub(taken);
        let _ = write!(
            text,
            "<d:quota-available-bytes>{free}</d:quota-available-bytes><d:quota-used-bytes>{taken}</d:quota-used-bytes>"
        );
    }
    let _ = write!(
        text,
        "{permissions}</d:prop><d:status>HTTP/1.1 200 OK</d:status></d:propstat></d:response>"
    );
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
