//! GitLab's REST API (<https://docs.gitlab.com/api/rest/>). The only place that speaks it.

mod access;
mod answer;
mod download;
pub mod exports;
pub mod groups;
pub mod imports;
mod limits;
mod multipart;
pub mod pages;
pub mod projects;
mod settings;

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use chrono::TimeDelta;
use reqwest::Url;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION};
use secrecy::{ExposeSecret as _, SecretString};
use serde::de::DeserializeOwned;

use crate::error::{Error, ErrorKind};
use crate::gitlab::api::answer::{not_understood, sent_elsewhere, understand};
use crate::gitlab::api::limits::{MINUTE, asked_to_wait, used_up};
use crate::gitlab::api::settings::Token;
use crate::http::{Http, Line, Method, Payload, Reply, Request, is_loopback};
use crate::retry::window::Window;
use crate::retry::{Patience, Pause, retry};
use crate::units::{MIB, Quota};

pub use self::access::Access;
pub use self::download::Part;
pub use self::settings::Settings;

/// A longer file holds no certificates that are meant; bytes.
const LONGEST_CA_FILE: u64 = MIB;
/// So often GitLab may send on to another address of its own, as it does for a project that has moved.
const MOST_REDIRECTS: u32 = 3;
/// However long GitLab asks to wait, what has not asked yet tries it after this.
const LONGEST_PAUSE: Duration = Duration::from_mins(15);

/// A client for one GitLab, as one user.
pub struct Api {
    base: Url,
    /// Or why nothing can be asked.
    service: Result<Service, Error>,
    /// Connections that nobody uses now; as many as there have been users at a time.
    idle: Mutex<Vec<Line>>,
    /// How many have asked and have no answer yet.
    asking: AtomicUsize,
    /// When GitLab asks to wait, everybody waits.
    pause: Pause,
    /// How often exports may be asked for.
    exports: Limit,
    /// How often they may be downloaded.
    downloads: Limit,
    stall: Duration,
}

/// A limit of GitLab's beside that of all calls. It says nothing of it before it is broken.
struct Limit {
    window: Window,
    /// When it was broken, those wait who would break it again.
    pause: Pause,
}

struct Service {
    http: Http,
    /// The name and value of the header that shows who asks; sensitive.
    token: Option<(HeaderName, HeaderValue)>,
    /// What could come back in a reply.
    secret: Option<SecretString>,
}

/// A question to the API.
#[derive(Clone)]
pub struct Call<'a> {
    /// What it is for, in an error.
    pub action: &'a str,
    /// GET, POST, …
    pub method: Method,
    /// Below `/api/v4`; a part with slashes, like a project's path, is escaped.
    pub path: &'a [&'a str],
    /// Name and value.
    pub query: &'a [(&'a str, &'a str)],
    /// A form; none: no body.
    pub form: Option<Bytes>,
}

impl<'a> Call<'a> {
    /// Asks for something.
    pub fn get(action: &'a str, path: &'a [&'a str]) -> Call<'a> {
        Call {
            action,
            method: Method::GET,
            path,
            query: &[],
            form: None,
        }
    }

    /// With these parameters.
    #[must_use]
    pub fn query(mut self, query: &'a [(&'a str, &'a str)]) -> Call<'a> {
        self.query = query;
        self
    }

    /// Sends a form instead. It is made of names and values.
    #[must_use]
    pub fn post(mut self, form: &[(&str, &str)]) -> Call<'a> {
        let mut encoder = Url::parse("http://form").expect("a fixed address");
        encoder.query_pairs_mut().extend_pairs(form);
        self.method = Method::POST;
        self.form = Some(Bytes::from(encoder.query().unwrap_or_default().to_owned()));
        self
    }
}

impl Limit {
    fn new(quota: Quota) -> Limit {
        Limit {
            window: Window::new(quota),
            pause: Pause::default(),
        }
    }

    /// How long GitLab counts.
    fn minute(&self) -> Duration {
        self.window.period().unwrap_or(MINUTE)
    }
}

impl Api {
    /// `stall`: a connection that moves nothing for so long is given up.
    pub fn new(settings: &Settings, stall: Duration) -> Api {
        let base = settings.url();
        // What goes to this very machine never goes through a proxy.
        let direct = is_loopback(&base);
        Api {
            service: service(settings, stall, direct),
            base,
            idle: Mutex::default(),
            asking: AtomicUsize::new(0),
            pause: Pause::default(),
            exports: Limit::new(Quota(None)),
            downloads: Limit::new(Quota(None)),
            stall,
        }
    }

    /// Keeps these limits: how many exports one user may ask for, which every request for one then waits for, and how
    /// many of one namespace may be downloaded, which the caller keeps, who knows the namespaces.
    #[must_use]
    pub fn limited(mut self, exports: Quota, downloads: Quota) -> Api {
        self.exports = Limit::new(exports);
        self.downloads = Limit::new(downloads);
        self
    }

    /// The limit on exports, to tell it what an earlier process has used.
    pub fn export_window(&self) -> &Window {
        &self.exports.window
    }

    /// Its address, for people.
    pub fn host(&self) -> &str {
        self.base.host_str().unwrap_or_default()
    }

    /// Its whole address, which tells it from every other one.
    pub fn address(&self) -> &str {
        self.base.as_str()
    }

    /// Whether its address is this very machine's own.
    pub fn is_here(&self) -> bool {
        is_loopback(&self.base)
    }

    /// How far this machine's clock is behind its, by its last reply.
    pub fn clock_lag(&self) -> Option<TimeDelta> {
        self.service.as_ref().ok()?.http.clock_lag()
    }

    /// Asks, and reads the JSON that comes back.
    pub async fn json<T: DeserializeOwned>(
        &self,
        call: &Call<'_>,
        patience: &Patience,
    ) -> Result<T, Error> {
        let reply = self.reply(call, patience).await?;
        parse(call.action, &reply)
    }

    /// Asks until an answer comes that is a success, or none will.
    pub async fn reply(&self, call: &Call<'_>, patience: &Patience) -> Result<Reply, Error> {
        retry(&self.pause, patience, async || self.once(call).await).await
    }

    /// Asks once.
    async fn once(&self, call: &Call<'_>) -> Result<Reply, Error> {
        let reply = self.attempt(call).await?;
        match self.judge(call.action, &reply, MINUTE) {
            None => Ok(reply),
            Some(error) => Err(error),
        }
    }

    /// What a reply means that is no success; `minute`: how long GitLab counts what was asked.
    fn judge(&self, action: &str, reply: &Reply, minute: Duration) -> Option<Error> {
        let error = understand(action, reply, minute)?;
        Some(error.map_text(|text| self.redact(text)))
    }

    /// A text from elsewhere without the token.
    fn redact(&self, text: &str) -> String {
        let service = self.service.as_ref().ok();
        match service.and_then(|service| service.secret.as_ref()) {
            Some(secret) => text.replace(secret.expose_secret(), "[secret]"),
            None => text.to_owned(),
        }
    }

    /// Sends a call and hands back whatever comes. What is only looked at may lie at another address of the same API.
    async fn attempt(&self, call: &Call<'_>) -> Result<Reply, Error> {
        let asked = self.url(call);
        let mut url = asked.clone();
        for _ in 0..=MOST_REDIRECTS {
            let reply = self.send(call, url.clone()).await?;
            if !is_redirect(reply.status) {
                return Ok(reply);
            }
            let to = header(&reply.headers, LOCATION.as_str()).and_then(|to| url.join(to).ok());
            match to {
                Some(to) if call.method == Method::GET && self.is_ours(&to) => url = to,
                to => return Err(sent_elsewhere(call.action, &asked, to.as_ref())),
            }
        }
        let what = "GitLab sends on again and again";
        Err(Error::new(ErrorKind::Unexpected, call.action, what).hint("check `gitlab.url`"))
    }

    /// Whether it is an address of this API, so that the token may be shown there.
    fn is_ours(&self, url: &Url) -> bool {
        let api = format!("{}/api/v4/", self.base.path().trim_end_matches('/'));
        url.origin() == self.base.origin() && url.path().starts_with(&api)
    }

    async fn send(&self, call: &Call<'_>, url: Url) -> Result<Reply, Error> {
        let service = self.service.as_ref().map_err(Clone::clone)?;
        let mut headers = Vec::new();
        headers.extend(service.token.clone());
        if call.form.is_some() {
            let form = HeaderValue::from_static("application/x-www-form-urlencoded");
            headers.push((CONTENT_TYPE, form));
        }
        let request = Request {
            method: call.method.clone(),
            url,
            headers,
            body: Payload::Bytes(call.form.clone().unwrap_or_default()),
            reply_wait: self.stall,
        };
        let line = self.line(service);
        let _asking = Asking::begin(&self.asking);
        let reply = line.send(call.action, request).await.map_err(explained)?;
        self.put_back(line);
        self.heed(&reply.headers, reply.status);
        Ok(reply)
    }

    /// A connection that nobody else uses.
    fn line(&self, service: &Service) -> Line {
        let idle = self.idle.lock().ok().and_then(|mut idle| idle.pop());
        idle.unwrap_or_else(|| service.http.line())
    }

    fn put_back(&self, line: Line) {
        if let Ok(mut idle) = self.idle.lock() {
            idle.push(line);
        }
    }

    /// Whatever was asked for, everybody waits if GitLab says so, or is about to.
    fn heed(&self, headers: &HeaderMap, status: u16) {
        let wait = match status {
            429 | 503 => asked_to_wait(headers),
            _ => {
                // This one is among those who ask.
                let others = self.asking.load(Ordering::Relaxed).saturating_sub(1);
                used_up(headers, others)
            }
        };
        if let Some(wait) = wait {
            tracing::debug!(
                "GitLab's limit on calls is used up for {} s",
                wait.as_secs()
            );
            self.pause.ask_for(wait.min(LONGEST_PAUSE));
        }
    }

    fn url(&self, call: &Call<'_>) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["api", "v4"]).extend(call.path);
        }
        if !call.query.is_empty() {
            url.query_pairs_mut().extend_pairs(call.query);
        }
        url
    }
}

/// Counts one that asks, until it is dropped.
struct Asking<'a>(&'a AtomicUsize);

impl Asking<'_> {
    fn begin(count: &AtomicUsize) -> Asking<'_> {
        count.fetch_add(1, Ordering::Relaxed);
        Asking(count)
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The only thing that can be wrong for good before an answer comes is the certificate.
fn explained(error: Error) -> Error {
    if error.kind() != ErrorKind::Invalid {
        return error;
    }
    error.hint(
        "`gitlab.ca_file` takes a certificate authority of one's own, beside the system's; if this one has expired or \
         is not valid yet, look at this machine's clock, too",
    )
}

fn service(settings: &Settings, stall: Duration, direct: bool) -> Result<Service, Error> {
    let action = "preparing to ask GitLab";
    let refuse = |what: String| Error::new(ErrorKind::Invalid, action, what);
    let pem = match &settings.ca_file {
        Some(path) => certificates(path).map_err(|error| {
            refuse(format!(
                "reading the certificates in {}: {error}",
                path.display()
            ))
            .hint("check `gitlab.ca_file`")
        })?,
        None => Vec::new(),
    };
    let http = Http::trusting(stall, direct, &pem).map_err(|why| {
        let path = settings.ca_file.as_deref().unwrap_or(Path::new(""));
        refuse(format!("the certificates in {}: {why}", path.display()))
            .hint("`gitlab.ca_file` takes a file in PEM form, with BEGIN CERTIFICATE")
    })?;
    let Some(token) = settings.token()? else {
        return Ok(Service {
            http,
            token: None,
            secret: None,
        });
    };
    let (name, secret) = match token {
        Token::Private(secret) => (HeaderName::from_static("private-token"), secret),
        Token::OAuth(secret) => (AUTHORIZATION, secret),
    };
    let value = if name == AUTHORIZATION {
        HeaderValue::from_str(&format!("Bearer {}", secret.expose_secret()))
    } else {
        HeaderValue::from_str(secret.expose_secret())
    };
    let mut value = value.map_err(|_| {
        refuse("the token has characters that no header takes".to_owned())
            .hint("`gitlab.token` takes the token alone, in one line")
    })?;
    value.set_sensitive(true);
    let secret = Some(secret).filter(|secret| !secret.expose_secret().is_empty());
    Ok(Service {
        http,
        token: Some((name, value)).filter(|_| secret.is_some()),
        secret,
    })
}

fn certificates(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut pem = Vec::new();
    File::open(path)?
        .take(LONGEST_CA_FILE)
        .read_to_end(&mut pem)?;
    if pem.is_empty() {
        return Err(std::io::Error::other("it is empty"));
    }
    Ok(pem)
}

/// The JSON of a reply.
fn parse<T: DeserializeOwned>(action: &str, reply: &Reply) -> Result<T, Error> {
    serde_json::from_slice(&reply.body).map_err(|error| not_understood(action, reply, &error))
}

fn is_redirect(status: u16) -> bool {
    matches!(status, 301 | 302 | 303 | 307 | 308)
}

/// The text of a header.
fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}
