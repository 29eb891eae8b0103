//! GitLab's REST API (<https://docs.gitlab.com/api/rest/>). The only place that speaks it.

mod answer;
pub mod exports;
pub mod pages;
pub mod projects;
mod settings;

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use reqwest::Url;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use secrecy::ExposeSecret as _;
use serde::de::DeserializeOwned;

use crate::error::{Error, ErrorKind};
use crate::gitlab::api::answer::understand;
use crate::gitlab::api::settings::Token;
use crate::http::{Http, Line, Method, Payload, Reply, Request};
use crate::retry::{Patience, Pause, retry};

pub use self::settings::Settings;

/// A client for one GitLab, as one user.
pub struct Api {
    base: Url,
    /// Or why nothing can be asked.
    service: Result<Service, Error>,
    /// Connections that nobody uses now; as many as there have been users at a time.
    idle: Mutex<Vec<Line>>,
    /// When GitLab asks to wait, everybody waits.
    pause: Pause,
    stall: Duration,
}

struct Service {
    http: Http,
    /// The name and value of the header that shows who asks; sensitive.
    token: Option<(HeaderName, HeaderValue)>,
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

impl Api {
    /// `stall`: a connection that moves nothing for so long is given up.
    pub fn new(settings: &Settings, stall: Duration) -> Api {
        let base = settings.url();
        let direct = base.scheme() == "http";
        Api {
            service: service(settings, stall, direct),
            base,
            idle: Mutex::default(),
            pause: Pause::default(),
            stall,
        }
    }

    /// Its address, for people.
    pub fn host(&self) -> &str {
        self.base.host_str().unwrap_or_default()
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
        let service = self.service.as_ref().map_err(Clone::clone)?;
        let mut headers = Vec::new();
        headers.extend(service.token.clone());
        let body = call.form.clone().unwrap_or_default();
        if call.form.is_some() {
            let form = HeaderValue::from_static("application/x-www-form-urlencoded");
            headers.push((CONTENT_TYPE, form));
        }
        let request = Request {
            method: call.method.clone(),
            url: self.url(call),
            headers,
            body: Payload::Bytes(body),
            reply_wait: self.stall,
        };
        let idle = self.idle.lock().ok().and_then(|mut idle| idle.pop());
        let line = idle.unwrap_or_else(|| service.http.line());
        let reply = line.send(call.action, request).await?;
        if let Ok(mut idle) = self.idle.lock() {
            idle.push(line);
        }
        match understand(call.action, &reply) {
            None => Ok(reply),
            Some(error) => Err(error),
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

fn service(settings: &Settings, stall: Duration, direct: bool) -> Result<Service, Error> {
    let action = "preparing to ask GitLab";
    let refuse = |what: String| Error::new(ErrorKind::Invalid, action, what);
    let unreadable = |path: &Path, error: &std::io::Error| {
        refuse(format!("reading {}: {error}", path.display()))
    };
    let pem = match &settings.ca_file {
        Some(path) => fs::read(path).map_err(|error| unreadable(path, &error))?,
        None => Vec::new(),
    };
    let http = Http::trusting(stall, direct, &pem).map_err(|why| {
        refuse(why).hint("`gitlab.ca_file` takes the authority's certificate as PEM")
    })?;
    let token = match settings.token()? {
        None => None,
        Some(token) => {
            let (name, secret) = match token {
                Token::Private(secret) => (
                    HeaderName::from_static("private-token"),
                    secret.expose_secret().to_owned(),
                ),
                Token::OAuth(secret) => {
                    (AUTHORIZATION, format!("Bearer {}", secret.expose_secret()))
                }
            };
            let mut value = HeaderValue::from_str(&secret)
                .map_err(|_| refuse("the token has characters that no header takes".to_owned()))?;
            value.set_sensitive(true);
            Some((name, value))
        }
    };
    Ok(Service { http, token })
}

/// The JSON of a reply.
fn parse<T: DeserializeOwned>(action: &str, reply: &Reply) -> Result<T, Error> {
    serde_json::from_slice(&reply.body).map_err(|error| {
        let what = format!("the answer is not what GitLab's API gives: {error}");
        Error::new(ErrorKind::Unexpected, action, what)
            .hint("is `gitlab.url` the address of a GitLab?")
    })
}

/// The text of a header.
fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}
