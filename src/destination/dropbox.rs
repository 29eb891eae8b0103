//! Dropbox: the client for its HTTP API. The only place that knows it.

mod api;
mod auth;
mod journal;
mod upload;

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use reqwest::Url;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, RANGE};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::destination::dropbox::api::{Answer, Outcome};
use crate::destination::dropbox::auth::{Auth, Credentials, Token};
use crate::error::{Error, ErrorKind};
use crate::http::{Http, Line, Payload, Reply, Request};
use crate::retry::{Patience, Pause, retry};
use crate::settings::Section;

pub use crate::destination::dropbox::api::{Entry, FileEntry};
pub use crate::destination::dropbox::journal::{Header, Unfinished, discard, unfinished};
pub use crate::destination::dropbox::upload::{Options, Transfer};

/// The longest part of a file that is read at once, in bytes.
pub const LONGEST_RANGE: u64 = 4 * 1024 * 1024;

/// `[destinations.NAME]` with `type = "dropbox"`.
#[derive(Debug)]
pub struct Settings {
    credentials: Credentials,
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
        // Where a later log-in writes it.
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
}

/// An address of the service: HTTPS, or HTTP to this very machine.
fn url(section: &mut Section<'_>, key: &str, default: &str) -> Option<Url> {
    let text = section
        .get::<String>(key)
        .unwrap_or_else(|| default.to_owned());
    let url = Url::parse(&text).ok();
    let allowed = url
        .as_ref()
        .is_some_and(|url| match (url.scheme(), url.host_str()) {
            ("https", Some(_)) => true,
            ("http", Some(host)) => {
                let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
                host == "localhost" || address.is_ok_and(|address| address.is_loopback())
            }
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

    /// What is at a path; none if nothing is.
    pub async fn stat(&self, path: &str, patience: &Patience) -> Result<Option<Entry>, Error> {
        let action = format!("{}: looking at {path}", self.name);
        match self
            .rpc(
                &action,
                "files/get_metadata",
                &json!({ "path": path }),
                patience,
            )
            .await?
        {
            Ok(value) if value.get(".tag").and_then(Value::as_str) == Some("deleted") => Ok(None),
            Ok(value) => {
                let unknown = || {
                    Error::new(
                        ErrorKind::Unexpected,
                        &action,
                        "neither a file nor a folder",
                    )
                };
                Entry::parse(&value).map(Some).ok_or_else(unknown)
            }
            Err(refusal) if refusal.tags == "path/not_found" => Ok(None),
            Err(refusal) => Err(refusal.error(ErrorKind::Invalid, &action)),
        }
    }

    /// Everything directly in a folder; none if there is no such folder.
    pub async fn list(
        &self,
        folder: &str,
        patience: &Patience,
    ) -> Result<Option<Vec<Entry>>, Error> {
        let action = format!("{}: listing {folder}", self.name);
        let (mut endpoint, mut argument) = (
            "files/list_folder",
            json!({ "path": folder, "limit": 1000 }),
        );
        let mut entries = Vec::new();
        loop {
            let page = match self.rpc(&action, endpoint, &argument, patience).await? {
                Ok(page) => page,
                Err(refusal) if refusal.tags == "path/not_found" => return Ok(None),
                Err(refusal) if refusal.tags == "reset" => {
                    entries.clear();
                    (endpoint, argument) = (
                        "files/list_folder",
                        json!({ "path": folder, "limit": 1000 }),
                    );
                    continue;
                }
                Err(refusal) => return Err(refusal.error(ErrorKind::Invalid, &action)),
            };
            let found = page.get("entries").and_then(Value::as_array);
            entries.extend(found.into_iter().flatten().filter_map(Entry::parse));
            match (
                page.get("has_more").and_then(Value::as_bool),
                page.get("cursor"),
            ) {
                (Some(true), Some(cursor)) => {
                    (endpoint, argument) =
                        ("files/list_folder/continue", json!({ "cursor": cursor }));
                }
                _ => return Ok(Some(entries)),
            }
        }
    }

    /// Bytes that still fit; none if the account does not say.
    pub async fn space(&self, patience: &Patience) -> Result<Option<u64>, Error> {
        let action = format!("{}: asking for free space", self.name);
        let answer = self
            .rpc(&action, "users/get_space_usage", &Value::Null, patience)
            .await?;
        let usage = answer.map_err(|refusal| refusal.error(ErrorKind::Unexpected, &action))?;
        Ok(free_space(&usage))
    }

    /// Deletes a file, but only if it still is the content that `rev` names; `false` if it is gone.
    pub async fn delete(&self, path: &str, rev: &str, patience: &Patience) -> Result<bool, Error> {
        let action = format!("{}: deleting {path}", self.name);
        let argument = json!({ "path": path, "parent_rev": rev });
        match self
            .rpc(&action, "files/delete_v2", &argument, patience)
            .await?
        {
            Ok(_) => Ok(true),
            Err(refusal) if refusal.tags == "path_lookup/not_found" => Ok(false),
            Err(refusal) => Err(refusal.error(ErrorKind::Invalid, &action)),
        }
    }

    /// Reads a part of a file, at most [`LONGEST_RANGE`] bytes; shorter only at its end.
    pub async fn read(
        &self,
        path: &str,
        offset: u64,
        len: u64,
        patience: &Patience,
    ) -> Result<Vec<u8>, Error> {
        let action = format!("{}: reading {path} from byte {offset}", self.name);
        let last = offset + len.min(LONGEST_RANGE).saturating_sub(1);
        let range =
            HeaderValue::from_str(&format!("bytes={offset}-{last}")).expect("digits make a header");
        let call = Call {
            action: &action,
            url: at(&self.content_url, "/2/files/download"),
            headers: vec![argument_header(&json!({ "path": path })), (RANGE, range)],
            reply_wait: self.http.stall(),
            empty_reply: false,
        };
        let answer = retry(&self.pause, patience, async || {
            let reply = self
                .exchange(&self.api_line, &call, Payload::Bytes(Bytes::new()))
                .await?;
            match reply.status {
                206 => Ok(Ok(reply.body)),
                // A range that starts behind the end.
                416 => Ok(Ok(Vec::new())),
                _ => match self.understand(&call, &reply)? {
                    Ok(_) => Err(Error::new(
                        ErrorKind::Unexpected,
                        &action,
                        "the whole file instead of a part",
                    )),
                    Err(refusal) => Ok(Err(refusal)),
                },
            }
        });
        answer
            .await?
            .map_err(|refusal| refusal.error(ErrorKind::NotFound, &action))
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

/// What an account or a member of a team may still store.
fn free_space(usage: &Value) -> Option<u64> {
    let number = |value: &Value, key: &str| value.get(key).and_then(Value::as_u64);
    let used = number(usage, "used")?;
    let allocation = usage.get("allocation")?;
    match allocation.get(".tag").and_then(Value::as_str)? {
        "individual" => Some(number(allocation, "allocated")?.saturating_sub(used)),
        "team" => {
            let team = number(allocation, "allocated")?.saturating_sub(number(allocation, "used")?);
            // Some teams are only warned of their members' limits.
            let kind = allocation.pointer("/user_within_team_space_limit_type/.tag");
            let hard = kind
                .and_then(Value::as_str)
                .is_none_or(|kind| kind == "stop_sync");
            let limit = number(allocation, "user_within_team_space_allocated")
                .filter(|limit| *limit > 0 && hard);
            let own = number(allocation, "user_within_team_space_used_cached").unwrap_or(used);
            Some(limit.map_or(team, |limit| team.min(limit.saturating_sub(own))))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_space_of_a_person_and_of_a_team_member() {
        let person = json!({ "used": 10, "allocation": { ".tag": "individual", "allocated": 15 } });
        assert_eq!(free_space(&person), Some(5));
        let over = json!({ "used": 20, "allocation": { ".tag": "individual", "allocated": 15 } });
        assert_eq!(free_space(&over), Some(0));
        let member = json!({ "used": 7, "allocation": { ".tag": "team", "allocated": 100, "used": 50,
            "user_within_team_space_allocated": 9, "user_within_team_space_used_cached": 7 } });
        assert_eq!(free_space(&member), Some(2));
        let unlimited = json!({ "used": 7, "allocation": { ".tag": "team", "allocated": 100, "used": 50,
            "user_within_team_space_allocated": 0 } });
        assert_eq!(free_space(&unlimited), Some(50));
        assert_eq!(
            free_space(&json!({ "used": 7, "allocation": { ".tag": "other" } })),
            None
        );
    }
}
