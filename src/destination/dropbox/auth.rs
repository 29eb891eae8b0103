//! Refresh token → access token (<https://developers.dropbox.com/oauth-guide>), and the endpoint that grants
//! both.
//!
//! One token for all workers: whoever first finds it missing or too old refreshes it, the others wait.

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex as SyncMutex;
use std::time::Duration;

use bytes::Bytes;
use reqwest::Url;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::destination::dropbox::api::{self, NEEDED_TO_STORE, SCOPES};
use crate::error::{Error, ErrorKind};
use crate::http::{Line, Method, Payload, Reply, Request};

/// A token is renewed this long before it expires, or after nine tenths of a shorter life.
const AHEAD: Duration = Duration::from_mins(5);

/// What identifies the app and the user.
#[derive(Debug)]
pub struct Credentials {
    /// Names the app; not secret.
    pub app_key: String,
    /// None for an app authorised by PKCE.
    pub app_secret: Option<SecretString>,
    /// Given by itself …
    pub refresh_token: Option<SecretString>,
    /// … or in a file, read when it is first needed.
    pub refresh_token_file: PathBuf,
    /// The page where the user allows the app.
    pub authorize_url: Url,
}

/// Keeps the access token fresh.
#[derive(Debug)]
pub struct Auth {
    /// The destination's name, for messages.
    name: String,
    credentials: Credentials,
    token_url: Url,
    reply_wait: Duration,
    token: Mutex<Option<Token>>,
    /// A refresh token that counts before the one of the credentials: a log-in is proven with it before it is
    /// stored anywhere.
    adopted: SyncMutex<Option<SecretString>>,
    /// Every secret that could come back in a reply.
    secrets: SyncMutex<Vec<SecretString>>,
}

/// An access token, and which one: so that only the first to see it refused renews it.
#[derive(Clone, Debug)]
pub struct Token {
    header: HeaderValue,
    serial: u64,
    renew_at: Instant,
}

impl Token {
    /// The value of an `Authorization` header, marked sensitive.
    pub fn header(&self) -> HeaderValue {
        self.header.clone()
    }
}

/// What the token endpoint grants.
#[derive(Deserialize)]
pub struct Granted {
    access_token: SecretString,
    expires_in: Option<u64>,
    /// Only for a code that was asked for with offline access.
    pub refresh_token: Option<SecretString>,
    scope: Option<String>,
}

impl Granted {
    /// The rights it comes with, by Dropbox's names; empty if the reply does not tell.
    pub fn scopes(&self) -> Vec<String> {
        let scopes = self.scope.as_deref().unwrap_or_default();
        scopes.split_ascii_whitespace().map(str::to_owned).collect()
    }

    /// The value of an `Authorization` header, marked sensitive; none if the token cannot be one.
    pub fn header(&self) -> Option<HeaderValue> {
        let text = format!("Bearer {}", self.access_token.expose_secret());
        let mut header = HeaderValue::from_str(&text).ok()?;
        header.set_sensitive(true);
        Some(header)
    }
}

/// Why the token endpoint granted nothing.
pub struct NotGranted {
    /// Dropbox's word for it, like `invalid_grant`; empty if the endpoint itself did not refuse.
    pub code: String,
    /// As everybody else is to see it.
    pub error: Error,
}

impl NotGranted {
    /// Adds what the user can do.
    pub fn hint(self, hint: impl Into<String>) -> NotGranted {
        let NotGranted { code, error } = self;
        let error = error.hint(hint);
        NotGranted { code, error }
    }
}

impl From<Error> for NotGranted {
    fn from(error: Error) -> NotGranted {
        let code = String::new();
        NotGranted { code, error }
    }
}

/// A field of what the token endpoint is asked.
pub enum Field<'a> {
    /// Anybody may see it.
    Plain(&'a str),
    /// Nobody may.
    Secret(&'a SecretString),
}

impl Auth {
    /// Nothing is asked before the first token is needed.
    pub fn new(name: &str, credentials: Credentials, token_url: Url, reply_wait: Duration) -> Auth {
        let secrets = [&credentials.app_secret, &credentials.refresh_token]
            .into_iter()
            .flatten()
            .cloned()
            .collect();
        let (token, secrets) = (Mutex::new(None), SyncMutex::new(secrets));
        Auth {
            name: name.to_owned(),
            credentials,
            token_url,
            reply_wait,
            token,
            adopted: SyncMutex::default(),
            secrets,
        }
    }

    /// What identifies the app.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// From now on this is the refresh token.
    pub async fn adopt(&self, refresh_token: SecretString) {
        self.conceal(&refresh_token);
        if let Ok(mut adopted) = self.adopted.lock() {
            *adopted = Some(refresh_token);
        }
        *self.token.lock().await = None;
    }

    /// Takes this secret out of every text that comes back.
    fn conceal(&self, secret: &SecretString) {
        if let Ok(mut secrets) = self.secrets.lock() {
            secrets.push(secret.clone());
        }
    }

    /// A token that is good for some minutes more.
    pub async fn token(&self, line: &Line) -> Result<Token, Error> {
        let mut current = self.token.lock().await;
        if let Some(token) = current
            .as_ref()
            .filter(|token| Instant::now() < token.renew_at)
        {
            return Ok(token.clone());
        }
        let serial = current.as_ref().map_or(0, |token| token.serial + 1);
        let token = self.refresh(line, serial).await?;
        *current = Some(token.clone());
        Ok(token)
    }

    /// The service says that this token is too old; if it is still the current one, it is renewed.
    pub async fn expired(&self, token: &Token) {
        let mut current = self.token.lock().await;
        if let Some(current) = current
            .as_mut()
            .filter(|current| current.serial == token.serial)
        {
            current.renew_at = Instant::now();
        }
    }

    /// Takes every secret out of a text that came over the network.
    pub fn redact(&self, text: &str) -> String {
        let Ok(secrets) = self.secrets.lock() else {
            return String::new();
        };
        secrets
            .iter()
            .map(ExposeSecret::expose_secret)
            .filter(|secret| !secret.is_empty())
            .fold(text.to_owned(), |text, secret| {
                text.replace(secret, "[secret]")
            })
    }

    /// A reply that is no success, without the secrets it repeats: before any of it is cut short, when a
    /// secret could no longer be recognised, or becomes part of a message.
    pub fn redacted(&self, mut reply: Reply) -> Reply {
        if reply.status >= 300 {
            let text = self.redact(&String::from_utf8_lossy(&reply.body));
            reply.body = text.into_bytes();
        }
        reply
    }

    async fn refresh(&self, line: &Line, serial: u64) -> Result<Token, Error> {
        let action = format!("{}: refreshing the access token", self.name);
        let granted = self
            .ask_again(line, &action)
            .await
            .map_err(|refused| refused.error)?;
        self.check_rights(&action, &granted.scopes())?;
        let header = granted.header().ok_or_else(|| {
            let what = "the access token is not one";
            Error::new(ErrorKind::Unexpected, &action, what)
        })?;
        let lifetime = Duration::from_secs(granted.expires_in.unwrap_or(14_400).min(86_400));
        tracing::debug!(
            "{}: new access token for {} s",
            self.name,
            lifetime.as_secs()
        );
        Ok(Token {
            header,
            serial,
            renew_at: Instant::now() + lifetime - AHEAD.min(lifetime / 10),
        })
    }

    /// Asks for an access token in exchange for the refresh token.
    pub async fn ask_again(&self, line: &Line, action: &str) -> Result<Granted, NotGranted> {
        let refresh_token = self.refresh_token(action)?;
        let fields = [
            ("grant_type", Field::Plain("refresh_token")),
            ("refresh_token", Field::Secret(&refresh_token)),
        ];
        let granted = self.ask(line, action, &fields).await;
        granted.map_err(|refused| match refused.code.as_str() {
            "invalid_grant" => refused.hint(format!(
                "the refresh token was revoked or belongs to another app; {}",
                self.new_token_hint()
            )),
            "invalid_request" if self.credentials.app_secret.is_none() => refused.hint(
                "a refresh token obtained with the app's secret needs `app_secret` for every refresh",
            ),
            _ => refused,
        })
    }

    /// Asks the token endpoint, with what identifies the app.
    pub async fn ask(
        &self,
        line: &Line,
        action: &str,
        fields: &[(&str, Field<'_>)],
    ) -> Result<Granted, NotGranted> {
        let mut form = Url::parse("form:").expect("a fixed address");
        for (name, field) in fields {
            let value = match field {
                Field::Plain(value) => value,
                Field::Secret(secret) => {
                    self.conceal(secret);
                    secret.expose_secret()
                }
            };
            form.query_pairs_mut().append_pair(name, value);
        }
        form.query_pairs_mut()
            .append_pair("client_id", &self.credentials.app_key);
        if let Some(secret) = &self.credentials.app_secret {
            form.query_pairs_mut()
                .append_pair("client_secret", secret.expose_secret());
        }
        let request = Request {
            method: Method::POST,
            url: self.token_url.clone(),
            headers: vec![(
                CONTENT_TYPE,
                HeaderValue::from_static("application/x-www-form-urlencoded"),
            )],
            body: Payload::Bytes(Bytes::from(form.query().unwrap_or_default().to_owned())),
            reply_wait: self.reply_wait,
        };
        let reply = line.send(action, request).await?;
        if reply.status != 200 {
            return Err(refused(action, &self.redacted(reply)));
        }
        let granted = serde_json::from_slice::<Granted>(&reply.body).map_err(|_| {
            let what = "the reply is cut off or no JSON";
            Error::new(ErrorKind::Unavailable, action, what)
        })?;
        self.conceal(&granted.access_token);
        if let Some(refresh_token) = &granted.refresh_token {
            self.conceal(refresh_token);
        }
        Ok(granted)
    }

    /// A reply may name the token's rights. Where it does, one that is missing is told before hours of work.
    fn check_rights(&self, action: &str, granted: &[String]) -> Result<(), Error> {
        let lacks = |scope: &&str| !granted.is_empty() && !granted.iter().any(|has| has == scope);
        let missing: Vec<_> = NEEDED_TO_STORE
            .iter()
            .filter(|scope| lacks(scope))
            .copied()
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let what = format!("the refresh token lacks the right {}", missing.join(", "));
        let hint = format!(
            "tick it under Permissions in the Dropbox app console, submit, and {}",
            self.new_token_hint()
        );
        let error = Error::new(ErrorKind::Unauthorized, action, what).hint(hint);
        // Who mends that can mend the others as well.
        Err(error.lacking(SCOPES.into_iter().filter(lacks)))
    }

    fn refresh_token(&self, action: &str) -> Result<SecretString, Error> {
        let adopted = self.adopted.lock().ok();
        if let Some(token) = adopted.and_then(|adopted| adopted.clone()) {
            return Ok(token);
        }
        if let Some(token) = &self.credentials.refresh_token {
            return Ok(token.clone());
        }
        let path = &self.credentials.refresh_token_file;
        let text = fs::read_to_string(path).map_err(|error| {
            Error::new(
                ErrorKind::Unauthorized,
                action,
                format!("no refresh token in {}: {error}", path.display()),
            )
            .hint(self.new_token_hint())
        })?;
        let token = SecretString::from(text.trim());
        self.conceal(&token);
        Ok(token)
    }

    fn new_token_hint(&self) -> String {
        format!(
            "obtain a new refresh token: sudo gitlab-pi-backup login {}",
            self.name
        )
    }
}

/// What a reply other than 200 means. What `invalid_grant` and `invalid_request` mean depends on what was
/// given in exchange: who gave it adds the hint.
fn refused(action: &str, reply: &Reply) -> NotGranted {
    let value = api::json(reply).unwrap_or_default();
    let code = value
        .get("error")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let text = match value.get("error_description").and_then(Value::as_str) {
        Some(description) => format!("{code}: {description}"),
        None if code.is_empty() => api::excerpt(reply),
        None => code.to_owned(),
    };
    let code = code.split(':').next().unwrap_or_default();
    let failed = |kind| {
        Error::new(
            kind,
            action,
            format!("Dropbox answered {}: {text}", reply.status),
        )
    };
    let error = match (reply.status, code) {
        (429, _) => failed(ErrorKind::RateLimited(api::asked_to_wait(
            reply,
            value.get("error"),
        ))),
        (300..=399 | 407 | 408 | 421 | 500..=599, _) => failed(ErrorKind::Unavailable),
        (_, "invalid_client") => failed(ErrorKind::Unauthorized).hint(
            "check `app_key` and `app_secret` against the app's page in the Dropbox app console",
        ),
        _ => failed(ErrorKind::Unauthorized),
    };
    let code = code.to_owned();
    NotGranted { code, error }
}
