//! `WebDAV` servers: Nextcloud, ownCloud, `rclone serve webdav`, Apache's `mod_dav`. The only place that knows
//! the protocol (<https://www.rfc-editor.org/rfc/rfc4918>).
//!
//! Nothing can be continued there: an upload that breaks begins again. It goes to a temporary name and is
//! moved to its own one when it is proved to be whole, so that there never is half a file under it.

mod answer;
mod auth;
mod get;
mod multistatus;
mod observed;
mod settings;
mod store;

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use chrono::TimeDelta;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Url;
use reqwest::header::{
    AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, IF_MATCH, LOCATION,
};

use self::answer::{failed, sent_elsewhere};
use self::auth::Auth;
use self::multistatus::Item;
use crate::destination::{Entry, FileEntry, Space};
use crate::error::{Error, ErrorKind};
use crate::http::{Http, Line, Method, Payload, Reply, Request};
use crate::retry::{Patience, Pause, retry};
use crate::units::MIB;

pub use self::settings::Settings;

/// A longer file holds no certificates that are meant; bytes.
const LONGEST_CA_FILE: u64 = MIB;
/// All but what has no meaning anywhere (<https://www.rfc-editor.org/rfc/rfc3986#section-2.3>).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
/// So often a server may send on to another address of its own.
const MOST_REDIRECTS: u32 = 3;

/// A client for one folder of one server.
pub struct WebDav {
    name: String,
    root: Url,
    /// Or why nothing can be asked: a file of the configuration cannot be read.
    service: Result<Service, String>,
    /// Connections that nobody uses now; as many as there have been users at a time.
    idle: Mutex<Vec<Line>>,
    /// When the server asks to wait, everybody waits.
    pause: Pause,
    /// Whether the folder of `url` has been seen, without which nothing that is not there says anything.
    is_seen: AtomicBool,
    /// Whether it is ownCloud's kind of server, which tells checksums.
    is_owncloud: AtomicBool,
    /// Folders that have been looked through for what killed runs left.
    swept: Mutex<Vec<String>>,
    stall: Duration,
}

struct Service {
    http: Http,
    auth: Auth,
}

/// A request, without what is shown to the server.
struct Call<'a> {
    action: &'a str,
    method: Method,
    url: Url,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Payload,
    reply_wait: Duration,
}

/// How far a folder is looked into.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    Itself,
    Children,
}

impl WebDav {
    /// `stall`: a connection that moves nothing for so long is given up.
    pub fn new(name: &str, settings: Settings, stall: Duration) -> WebDav {
        // Plain HTTP goes to this very machine: never through a proxy.
        let direct = settings.url.scheme() == "http";
        let service = || -> Result<Service, String> {
            let ca = settings.ca_file.as_deref().map(read_ca).transpose()?;
            let http = Http::trusting(stall, direct, ca.as_deref().unwrap_or_default());
            let http = http.map_err(|error| {
                let file = settings.ca_file.as_deref().unwrap_or(Path::new(""));
                format!(
                    "the certificates in {}: {error}\n  `ca_file` takes a file in PEM form, with BEGIN CERTIFICATE",
                    file.display()
                )
            })?;
            let auth = settings.credentials.auth()?;
            Ok(Service { http, auth })
        };
        WebDav {
            name: name.to_owned(),
            service: service(),
            root: settings.url,
            idle: Mutex::default(),
            pause: Pause::default(),
            is_seen: AtomicBool::new(false),
            is_owncloud: AtomicBool::new(false),
            swept: Mutex::default(),
            stall,
        }
    }

    /// Proves that the folder is there and the credentials are right.
    pub async fn authenticate(&self, patience: &Patience) -> Result<(), Error> {
        self.is_seen.store(false, Ordering::Relaxed);
        self.see(patience).await
    }

    /// How far this machine's clock is behind its, by its last reply.
    pub fn clock_lag(&self) -> Option<TimeDelta> {
        self.service.as_ref().ok()?.http.clock_lag()
    }

    /// What is at a path; none if nothing is.
    pub async fn stat(&self, path: &str, patience: &Patience) -> Result<Option<Entry>, Error> {
        let item = self.item(path, patience).await?;
        Ok(item.as_ref().map(entry))
    }

    async fn item(&self, path: &str, patience: &Patience) -> Result<Option<Item>, Error> {
        let action = format!("{}: looking at {path}", self.name);
        let question = multistatus::QUESTION;
        let found = self.ask(&action, path, Depth::Itself, question, patience);
        let Some(mut items) = found.await? else {
            self.see(patience).await?;
            return Ok(None);
        };
        let wanted = self.parts(path);
        let found = items.iter().position(|item| item.path == wanted);
        // Behind a proxy a server may tell another beginning of the path.
        let found = found.or((items.len() == 1).then_some(0));
        let unknown = || {
            Error::new(
                ErrorKind::Unexpected,
                &action,
                "the reply is about something else",
            )
        };
        found
            .map(|found| Some(items.swap_remove(found)))
            .ok_or_else(unknown)
    }

    /// How full it is.
    pub async fn space(&self, patience: &Patience) -> Result<Space, Error> {
        let action = format!("{}: asking for free space", self.name);
        let asked = self.ask(&action, "", Depth::Itself, multistatus::SPACE, patience);
        let item = asked
            .await?
            .and_then(|mut items| items.pop())
            .unwrap_or_default();
        let total = item.available.zip(item.used);
        Ok(Space {
            free: item.available,
            used: item.used,
            total: total.map(|(free, used)| free.saturating_add(used)),
        })
    }

    /// Everything directly in a folder; none if there is no such folder.
    pub async fn list(
        &self,
        folder: &str,
        patience: &Patience,
    ) -> Result<Option<Vec<Entry>>, Error> {
        let items = self.items(folder, patience).await?;
        let is_ours = |item: &&Item| {
            let name = item.path.last().map_or("", String::as_str);
            !item.is_folder && store::is_partial(name)
        };
        let entries = |items: Vec<Item>| {
            let others = items.iter().filter(|item| !is_ours(item));
            others.map(entry).collect()
        };
        Ok(items.map(entries))
    }

    async fn items(&self, folder: &str, patience: &Patience) -> Result<Option<Vec<Item>>, Error> {
        let shown = if folder.is_empty() { "/" } else { folder };
        let action = format!("{}: listing {shown}", self.name);
        let question = multistatus::QUESTION;
        let found = self.ask(&action, folder, Depth::Children, question, patience);
        let Some(items) = found.await? else {
            self.see(patience).await?;
            return Ok(None);
        };
        let wanted = self.parts(folder);
        let own = items.iter().find(|item| item.path == wanted);
        // Behind a proxy a server may tell another beginning of all paths.
        let own = own.or_else(|| items.iter().min_by_key(|item| item.path.len()));
        let Some(own) = own.cloned() else {
            return Err(Error::new(
                ErrorKind::Unexpected,
                action,
                "the reply is empty",
            ));
        };
        if !own.is_folder {
            return Err(Error::new(
                ErrorKind::Invalid,
                action,
                "it is a file, not a folder",
            ));
        }
        let is_child = |item: &Item| {
            let parent = item.path.split_last().map(|(_, parent)| parent);
            parent == Some(&own.path[..])
        };
        Ok(Some(items.into_iter().filter(is_child).collect()))
    }

    /// Deletes a file, but only if it still is the content that `rev` names; `false` if it is gone.
    pub async fn delete(&self, path: &str, rev: &str, patience: &Patience) -> Result<bool, Error> {
        let action = format!("{}: deleting {path}", self.name);
        // Not every server heeds the condition, so it is looked at first.
        let Some(item) = self.item(path, patience).await? else {
            return Ok(false);
        };
        let other = |what: &str| {
            Error::new(
                ErrorKind::Invalid,
                &action,
                format!("{what}; nothing was touched"),
            )
        };
        if item.is_folder {
            return Err(other("it is a folder"));
        }
        if self::rev(&item) != rev {
            return Err(other("it is no longer the file that was listed"));
        }
        let mut call = self.call(&action, Method::DELETE, path);
        // A weak one never matches.
        let strong = item.etag.as_deref().filter(|etag| etag.starts_with('"'));
        if let Some(etag) = strong.and_then(|etag| HeaderValue::from_str(etag).ok()) {
            call.headers.push((IF_MATCH, etag));
        }
        let reply = self
            .repeat(&call, patience, |status| {
                matches!(status, 200..=204 | 404 | 410 | 412)
            })
            .await?;
        match reply.status {
            412 => Err(other("it is no longer the file that was listed")),
            404 | 410 => Ok(false),
            _ => Ok(true),
        }
    }

    /// Makes sure that the folder of `url` is there, once.
    async fn see(&self, patience: &Patience) -> Result<(), Error> {
        if self.is_seen.load(Ordering::Relaxed) {
            return Ok(());
        }
        let action = format!("{}: looking at the folder of `url`", self.name);
        let found = self.ask(&action, "", Depth::Itself, multistatus::QUESTION, patience);
        let item = found.await?.and_then(|mut items| items.pop());
        match item {
            Some(item) if item.is_folder => {
                self.is_seen.store(true, Ordering::Relaxed);
                Ok(())
            }
            Some(_) => Err(Error::new(ErrorKind::Invalid, action, "it is no folder")
                .hint("check `url`; Nextcloud's is https://HOST/remote.php/dav/files/USER/")),
            None => Err(Error::new(ErrorKind::NotFound, action, "it is not there")
                .hint("make it there, or check `url`; Nextcloud's is https://HOST/remote.php/dav/files/USER/")),
        }
    }

    /// What there is at a path; none if nothing is.
    async fn ask(
        &self,
        action: &str,
        path: &str,
        depth: Depth,
        question: &'static str,
        patience: &Patience,
    ) -> Result<Option<Vec<Item>>, Error> {
        let depth = HeaderValue::from_static(if depth == Depth::Itself { "0" } else { "1" });
        let xml = HeaderValue::from_static("application/xml; charset=utf-8");
        let call = Call {
            headers: vec![
                (HeaderName::from_static("depth"), depth),
                (CONTENT_TYPE, xml),
            ],
            body: Payload::Bytes(Bytes::from_static(question.as_bytes())),
            ..self.call(action, method(b"PROPFIND"), path)
        };
        let reply = self
            .repeat(&call, patience, |status| matches!(status, 207 | 404))
            .await?;
        if reply.status == 404 {
            return Ok(None);
        }
        let text = String::from_utf8_lossy(&reply.body);
        let items = multistatus::parse(&text).map_err(|what| {
            Error::new(ErrorKind::Unexpected, action, what)
                .hint("is `url` the address of a WebDAV folder? is a proxy on the way?")
        })?;
        if items.iter().any(|item| item.is_owncloud) {
            self.is_owncloud.store(true, Ordering::Relaxed);
        }
        Ok(Some(items))
    }

    fn call<'a>(&self, action: &'a str, method: Method, path: &str) -> Call<'a> {
        Call {
            action,
            method,
            url: self.at(path),
            headers: Vec::new(),
            body: Payload::Bytes(Bytes::new()),
            reply_wait: self.stall,
        }
    }

    /// Asks until the status is one of those that are `expected`, or patience ends.
    async fn repeat(
        &self,
        call: &Call<'_>,
        patience: &Patience,
        expected: impl Fn(u16) -> bool,
    ) -> Result<Reply, Error> {
        retry(&self.pause, patience, async || {
            let reply = self.receive(call, &mut |_, _, _| false).await?;
            if expected(reply.status) {
                Ok(reply)
            } else {
                Err(self.failed(call.action, &reply))
            }
        })
        .await
    }

    /// One attempt. The body of a success goes to `take`; redirections are followed on the same server.
    async fn receive(
        &self,
        call: &Call<'_>,
        take: &mut (dyn FnMut(u16, &HeaderMap, &[u8]) -> bool + Send),
    ) -> Result<Reply, Error> {
        let service = self.service.as_ref().map_err(|why| {
            let (what, way_out) = why
                .split_once("\n  ")
                .unwrap_or((why, "check the configuration"));
            Error::new(ErrorKind::Invalid, call.action, what).hint(way_out)
        })?;
        let idle = self.idle.lock().ok().and_then(|mut idle| idle.pop());
        let line = idle.unwrap_or_else(|| service.http.line());
        let mut url = call.url.clone();
        for _ in 0..=MOST_REDIRECTS {
            let mut headers = call.headers.clone();
            headers.extend(service.auth.header().map(|header| (AUTHORIZATION, header)));
            let request = Request {
                method: call.method.clone(),
                url: url.clone(),
                headers,
                body: call.body.clone(),
                reply_wait: call.reply_wait,
            };
            let reply = line.receive(call.action, request, &mut *take).await?;
            if !matches!(reply.status, 301 | 302 | 307 | 308) {
                if let Ok(mut idle) = self.idle.lock() {
                    idle.push(line);
                }
                return Ok(reply);
            }
            let to = reply.headers.get(LOCATION).and_then(|to| to.to_str().ok());
            let to = to.and_then(|to| url.join(to).ok());
            match to {
                Some(to) if to.origin() == url.origin() => url = to,
                to => return Err(sent_elsewhere(call.action, to.as_ref())),
            }
        }
        let what = "the server sends on again and again";
        Err(Error::new(ErrorKind::Unexpected, call.action, what).hint("check `url`"))
    }

    /// What a reply means that is not the one that was hoped for.
    fn failed(&self, action: &str, reply: &Reply) -> Error {
        let auth = self.service.as_ref().map(|service| &service.auth);
        failed(action, reply)
            .map_text(|text| auth.map_or_else(|_| text.to_owned(), |auth| auth.redact(text)))
    }

    /// The address of a path of ours. Some servers take `;` and the like for more than letters, so everything is
    /// escaped that may be.
    fn at(&self, path: &str) -> Url {
        let mut whole = self.root.path().trim_end_matches('/').to_owned();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            whole.push('/');
            whole.extend(utf8_percent_encode(part, ESCAPED));
        }
        if path.is_empty() {
            whole.push('/');
        }
        let mut url = self.root.clone();
        url.set_path(&whole);
        url
    }

    /// The parts of the path of ours on the server, decoded.
    fn parts(&self, path: &str) -> Vec<String> {
        multistatus::path_of(self.at(path).path()).unwrap_or_default()
    }
}

/// The methods of WebDAV's own.
fn method(name: &'static [u8]) -> Method {
    Method::from_bytes(name).expect("letters make a method")
}

fn entry(item: &Item) -> Entry {
    let file = (!item.is_folder).then(|| FileEntry {
        size: item.size.unwrap_or(0),
        content_hash: None,
        rev: rev(item),
        modified: item.modified_at(),
    });
    Entry {
        name: item.path.last().cloned().unwrap_or_default(),
        file,
    }
}

/// Names this content: the entity tag, which a server may call weak now and strong a second later; without one
/// what changes with the content.
fn rev(item: &Item) -> String {
    match &item.etag {
        Some(etag) => etag.trim_start_matches("W/").to_owned(),
        None => format!(
            "{}-{}",
            item.size.unwrap_or(0),
            item.modified.as_deref().unwrap_or_default()
        ),
    }
}

fn read_ca(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(LONGEST_CA_FILE).read_to_end(&mut bytes));
    match read {
        Ok(0) => Err(format!(
            "{} is empty\n  `ca_file` takes certificates in PEM form",
            path.display()
        )),
        Ok(_) => Ok(bytes),
        Err(error) => Err(format!(
            "reading the certificates in {}: {error}\n  check `ca_file`",
            path.display()
        )),
    }
}
