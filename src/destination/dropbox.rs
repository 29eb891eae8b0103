//! Dropbox: the client for its HTTP API. The only place that knows it.

mod api;
mod auth;
mod consent;
mod files;
mod journal;
mod upload;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use chrono::TimeDelta;
use reqwest::Url;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::content_hash::Digest;
use crate::destination::Shipment;
use crate::destination::dropbox::api::{Answer, Outcome};
use crate::destination::dropbox::auth::{Auth, Credentials, Token};
use crate::destination::dropbox::upload::Transfer;
use crate::error::{Error, ErrorKind};
use crate::http::{Http, Line, Method, Payload, Reply, Request, is_loopback};
use crate::retry::{Patience, Pause, retry};
use crate::settings::Section;

pub use crate::destination::dropbox::api::SCOPES;
pub use crate::destination::dropbox::consent::{
    APPS_PAGE, CONNECTED_APPS_PAGE, Consent, Grant, Revoked,
};
pub use crate::destination::dropbox::journal::{
    Header, JOURNALS, Unfinished, acknowledged, awaited, discard, unfinished,
};

/// `[destinations.NAME]` with `type = "dropbox"`.
#[derive(Debug)]
pub struct Settings {
    credentials: Credentials,
    /// Where the refresh token itself is given, in words; none if it is read from its file.
    token_place: Option<String>,
    api_url: Url,
    content_url: Url,
}

impl Settings {
    /// Reads the keys that only this type has. None if something is missing; that is noted.
    pub fn read(name: &str, section: &mut Section<'_>) -> Option<Settings> {
        let app_key = section.require::<String>("app_key");
        let app_secret = section.secret("app_secret");
        let mut refresh_token = section.secret("refresh_token");
        let refresh_token_file = section.get("refresh_token_file");
        match (
            section.in_file("refresh_token"),
            section.in_file("refresh_token_file"),
        ) {
            (true, true) => {
                section.fault(
                    "refresh_token_file",
                    "give either this or `refresh_token`, not both",
                );
            }
            // The environment names another place than the file.
            (true, false) if refresh_token_file.is_some() => refresh_token = None,
            _ => {}
        }
        let token_place = refresh_token
            .is_some()
            .then(|| section.place("refresh_token"))
            .flatten();
        // Where a log-in writes it.
        let refresh_token_file = refresh_token_file
            .unwrap_or_else(|| PathBuf::from(format!("/etc/gitlab-pi-backup/{name}.token")));
        let api_url = url(section, "api_url", "https://api.dropboxapi.com");
        let content_url = url(section, "content_url", "https://content.dropboxapi.com");
        let authorize_url = url(
            section,
            "authorize_url",
            "https://www.dropbox.com/oauth2/authorize",
        );
        let credentials = Credentials {
            app_key: app_key?,
            app_secret,
            refresh_token,
            refresh_token_file,
            authorize_url: authorize_url?,
        };
        Some(Settings {
            credentials,
            token_place,
            api_url: api_url?,
            content_url: content_url?,
        })
    }

    /// The file that holds the refresh token, if it is one that is used.
    pub fn token_file(&self) -> Option<&PathBuf> {
        self.credentials
            .refresh_token
            .is_none()
            .then_some(&self.credentials.refresh_token_file)
    }

    /// Whether log-ins are proven by the app's secret.
    pub fn has_secret(&self) -> bool {
        self.credentials.app_secret.is_some()
    }

    /// Where a log-in stores the refresh token.
    pub fn login_file(&self) -> &Path {
        &self.credentials.refresh_token_file
    }

    /// Where the refresh token itself is given, in words; none if it is read from its file.
    pub fn token_place(&self) -> Option<&str> {
        self.token_place.as_deref()
    }
}

/// An address of the service: HTTPS, or HTTP to this very machine.
fn url(section: &mut Section<'_>, key: &str, default: &str) -> Option<Url> {
    let text = section
        .get::<String>(key)
        .unwrap_or_else(|| default.to_owned());
    let url = Url::parse(&text).ok();
    let allowed = url.as_ref().is_some_and(|url| match url.scheme() {
        "https" => url.has_host(),
        "http" => is_loopback(url),
        _ => false,
    });
    if !allowed {
        section.fault(
            key,
            "takes an address that starts with https:// (or http:// to this machine's loopback)",
        );
    }
    url.filter(|_| allowed)
}

/// A client for one Dropbox account.
pub struct Dropbox {
    name: String,
    http: Http,
    /// To the host that takes JSON.
    api_line: Line,
    /// To the host that takes files; the appends of an upload have lines of their own.
    content_line: Line,
    /// To the same host, for reading; as many as there have been readers at a time.
    idle_readers: Mutex<Vec<Line>>,
    auth: Auth,
    /// When the service asks to wait, everybody waits.
    pause: Pause,
    /// Keeps threads free for reading what is being sent.
    hashing: Semaphore,
    api_url: Url,
    content_url: Url,
}

impl Dropbox {
    /// `stall`: a connection that moves nothing for so long is given up. `hashers`: so many threads hash
    /// at a time.
    pub fn new(name: &str, settings: Settings, stall: Duration, hashers: usize) -> Dropbox {
        // Plain HTTP goes to this very machine: never through a proxy.
        let direct = settings.api_url.scheme() == "http" || settings.content_url.scheme() == "http";
        let http = Http::new(stall, direct);
        let token_url = at(&settings.api_url, "/oauth2/token");
        Dropbox {
            name: name.to_owned(),
            api_line: http.line(),
            content_line: http.line(),
            idle_readers: Mutex::default(),
            http,
            auth: Auth::new(name, settings.credentials, token_url, stall),
            pause: Pause::default(),
            hashing: Semaphore::new(hashers),
            api_url: settings.api_url,
            content_url: settings.content_url,
        }
    }

    /// Proves the credentials by obtaining an access token.
    pub async fn authenticate(&self, patience: &Patience) -> Result<(), Error> {
        retry(&self.pause, patience, async || {
            self.auth.token(&self.api_line).await.map(drop)
        })
        .await
    }

    /// Stores an archive through an upload session, and returns its content hash. On an error what was acknowledged
    /// stays in the journal for the next run.
    pub async fn store(&self, shipment: &Shipment<'_>) -> Result<Digest, Error> {
        let dropbox = self;
        Transfer { dropbox, shipment }.run().await
    }

    /// How far this machine's clock is behind the service's, by its last reply.
    pub fn clock_lag(&self) -> Option<TimeDelta> {
        self.http.clock_lag()
    }

    /// A call with JSON in and out.
    async fn rpc(
        &self,
        action: &str,
        endpoint: &str,
        argument: &Value,
        patience: &Patience,
    ) -> Result<Answer, Error> {
        let json = HeaderValue::from_static("application/json");
        let call = Call {
            action,
            url: at(&self.api_url, &format!("/2/{endpoint}")),
            headers: vec![(CONTENT_TYPE, json)],
            reply_wait: self.http.stall(),
            empty_reply: false,
        };
        let body = Bytes::from(argument.to_string());
        retry(&self.pause, patience, async || {
            self.call(&self.api_line, &call, Payload::Bytes(body.clone()))
                .await
        })
        .await
    }

    /// One attempt at a call whose answer is JSON.
    async fn call(&self, line: &Line, call: &Call<'_>, body: Payload) -> Result<Answer, Error> {
        let reply = self.exchange(line, call, body).await?;
        self.understand(call, &reply)
    }

    fn understand(&self, call: &Call<'_>, reply: &Reply) -> Result<Answer, Error> {
        if reply.status == 200 && reply.body.is_empty() && call.empty_reply {
            return Ok(Ok(Value::Null));
        }
        match api::read(call.action, reply) {
            Outcome::Answer(answer) => Ok(answer),
            Outcome::Failed(error) => Err(error.map_text(|text| self.auth.redact(text))),
            // The attempt with a fresh token was refused as well: a moment later it may not be.
            Outcome::ExpiredToken => Err(Error::new(
                ErrorKind::Unavailable,
                call.action,
                "Dropbox takes a fresh access token for an old one",
            )),
        }
    }

    /// Sends a request with a token; once more with a new one if the service finds it too old. A reply
    /// that is no success comes without secrets.
    async fn exchange(&self, line: &Line, call: &Call<'_>, body: Payload) -> Result<Reply, Error> {
        let again = body.clone();
        let token = self.auth.token(&self.api_line).await?;
        let reply = line.send(call.action, call.request(&token, body)).await?;
        if reply.status != 401 || !matches!(api::read(call.action, &reply), Outcome::ExpiredToken) {
            return Ok(self.auth.redacted(reply));
        }
        self.auth.expired(&token).await;
        let token = self.auth.token(&self.api_line).await?;
        let reply = line.send(call.action, call.request(&token, again)).await?;
        Ok(self.auth.redacted(reply))
    }
}

/// A call, without its token and body.
struct Call<'a> {
    action: &'a str,
    url: Url,
    headers: Vec<(HeaderName, HeaderValue)>,
    reply_wait: Duration,
    /// Whether success may come without a word: documented as "no return values".
    empty_reply: bool,
}

impl Call<'_> {
    fn request(&self, token: &Token, body: Payload) -> Request {
        let mut headers = self.headers.clone();
        headers.push((AUTHORIZATION, token.header()));
        Request {
            method: Method::POST,
            url: self.url.clone(),
            headers,
            body,
            reply_wait: self.reply_wait,
        }
    }
}

fn argument_header(argument: &Value) -> (HeaderName, HeaderValue) {
    let value =
        HeaderValue::from_str(&api::header_argument(argument)).expect("plain ASCII makes a header");
    (HeaderName::from_static("dropbox-api-arg"), value)
}

fn at(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}{path}", base.path().trim_end_matches('/')));
    url
}
