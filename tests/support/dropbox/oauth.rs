//! Log-in: the token endpoint, the page where the user allows the app, and the tokens themselves.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use percent_encoding::percent_decode_str;
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

use super::answer::{Answer, Reply, Stop, bad_input};
use super::api::Call;
use super::body::Body;
use super::{Options, random};

const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const URL_SAFE: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// How an access token stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It may be used.
    Valid,
    /// Its time is over.
    Expired,
    /// It never was, or it was revoked.
    Unknown,
}

/// A code the user was given to paste.
struct Code {
    challenge: Option<String>,
    redirect: Option<String>,
    offline: bool,
}

/// All tokens and codes of the one account.
pub struct Tokens {
    app_key: String,
    app_secret: Option<String>,
    life: Duration,
    access: HashMap<String, Instant>,
    /// Refresh tokens, and whether they need the app's secret.
    refresh: HashMap<String, bool>,
    codes: HashMap<String, Code>,
}

impl Tokens {
    /// Only the refresh token of the options.
    pub fn new(options: &Options) -> Self {
        Self {
            app_key: options.app_key.clone(),
            app_secret: options.app_secret.clone(),
            life: options.token_life,
            access: HashMap::new(),
            refresh: HashMap::from([(options.refresh_token.clone(), options.app_secret.is_some())]),
            codes: HashMap::new(),
        }
    }

    /// A new access token.
    pub fn issue(&mut self) -> String {
        let token = format!("sl.standin-{}", random::id());
        self.access
            .insert(token.clone(), Instant::now() + self.life);
        token
    }

    /// How a token stands.
    pub fn standing(&self, token: &str) -> Standing {
        match self.access.get(token) {
            None => Standing::Unknown,
            Some(until) if *until <= Instant::now() => Standing::Expired,
            Some(_) => Standing::Valid,
        }
    }

    /// All access tokens are expired.
    pub fn expire(&mut self) {
        let now = Instant::now();
        self.access.values_mut().for_each(|until| *until = now);
    }

    /// No token is valid any more.
    pub fn revoke(&mut self) {
        self.access.clear();
        self.refresh.clear();
    }

    /// The user allows what the query asks for; a code, or what is wrong with the query.
    pub fn authorize(&mut self, query: &str) -> Result<String, String> {
        let mut query = form(query);
        if query.get("client_id") != Some(&self.app_key) {
            return Err("invalid client_id".into());
        }
        if query.get("response_type").map(String::as_str) != Some("code") {
            return Err("invalid response_type".into());
        }
        let challenge = query.remove("code_challenge");
        if challenge.is_some()
            && query.get("code_challenge_method").map(String::as_str) != Some("S256")
        {
            return Err("invalid code_challenge_method".into());
        }
        let code = random::id();
        let offline = query.get("token_access_type").map(String::as_str) == Some("offline");
        self.codes.insert(
            code.clone(),
            Code {
                challenge,
                redirect: query.remove("redirect_uri"),
                offline,
            },
        );
        Ok(code)
    }

    /// Whether the client proves to be the app; true if it does so by the secret.
    fn client(&self, basic: Option<&str>, form: &HashMap<String, String>) -> Answer<bool> {
        let wrong = || token_error("invalid_client: Invalid client_id or client_secret", None);
        let secret = form.get("client_secret");
        if let Some(basic) = basic {
            if secret.is_some() {
                return Err(token_error(
                    "invalid_request",
                    Some("multiple client authentications"),
                ));
            }
            let own = format!(
                "{}:{}",
                self.app_key,
                self.app_secret.as_deref().unwrap_or_default()
            );
            return if basic.trim_end_matches('=') == base64(STANDARD, own.as_bytes()) {
                Ok(self.app_secret.is_some())
            } else {
                Err(wrong())
            };
        }
        match form.get("client_id") {
            None => Err(token_error(
                "invalid_request",
                Some("missing required field \"client_id\""),
            )),
            Some(id) if *id != self.app_key => Err(wrong()),
            Some(_) if secret.is_some() && secret != self.app_secret.as_ref() => Err(wrong()),
            Some(_) => Ok(secret.is_some()),
        }
    }

    fn grant(&mut self, basic: Option<&str>, form: &HashMap<String, String>) -> Answer<Value> {
        let proven = self.client(basic, form)?;
        let refresh = match form.get("grant_type").map(String::as_str) {
            Some("refresh_token") => {
                let token = required(form, "refresh_token")?;
                let needs_secret = *self
                    .refresh
                    .get(token)
                    .ok_or_else(|| invalid_grant("refresh token is invalid or revoked"))?;
                if needs_secret && !proven {
                    return Err(no_auth_function());
                }
                None
            }
            Some("authorization_code") => {
                let code = required(form, "code")?;
                // A code is spent by the first attempt, successful or not.
                let code = self
                    .codes
                    .remove(code)
                    .ok_or_else(|| invalid_grant("code doesn't exist or has expired"))?;
                code.check(proven, form)?;
                code.offline.then(|| {
                    let token = format!("standin-refresh-{}", random::id());
                    self.refresh.insert(token.clone(), proven);
                    token
                })
            }
            _ => {
                return Err(token_error(
                    "unsupported_grant_type",
                    Some("unsupported grant type"),
                ));
            }
        };
        let mut reply = json!({
            "access_token": self.issue(),
            "token_type": "bearer",
            "expires_in": self.life.as_secs(),
        });
        if let Some(refresh) = refresh {
            reply["refresh_token"] = refresh.into();
        }
        Ok(reply)
    }
}

impl Code {
    fn check(&self, proven: bool, form: &HashMap<String, String>) -> Answer<()> {
        if self.redirect.as_ref() != form.get("redirect_uri") {
            return Err(invalid_grant("redirect_uri mismatch"));
        }
        match (&self.challenge, form.get("code_verifier")) {
            (Some(challenge), Some(verifier)) => {
                let hash = digest(&SHA256, verifier.as_bytes());
                let fits = (43..=128).contains(&verifier.len())
                    && base64(URL_SAFE, hash.as_ref()) == *challenge;
                if fits {
                    Ok(())
                } else {
                    Err(invalid_grant("invalid code verifier"))
                }
            }
            (Some(_), None) => Err(invalid_grant("code verifier required")),
            (None, Some(_)) => Err(invalid_grant("no code challenge was given")),
            (None, None) if proven => Ok(()),
            (None, None) => Err(no_auth_function()),
        }
    }
}

/// `/oauth2/token`.
pub fn token(call: &Call, body: &mut Body) -> Answer {
    let body = body.collect("oauth2/token")?;
    let form = form(&String::from_utf8_lossy(&body));
    let basic = call
        .head
        .header("Authorization")
        .and_then(|value| value.strip_prefix("Basic "));
    let mut state = call.shared.state();
    state.seen[call.seen].arg = json!({ "grant_type": form.get("grant_type") });
    let mut reply = state.tokens.grant(basic, &form)?;
    if form
        .get("grant_type")
        .is_some_and(|grant| grant == "authorization_code")
    {
        reply["scope"] = call.shared.options.scopes.join(" ").into();
        reply["uid"] = "1234".into();
        reply["account_id"] = super::files::ACCOUNT_ID.into();
    }
    Ok(Reply::json(200, &reply))
}

/// `/oauth2/authorize`: a user who allows everything; the page is nothing but the code.
pub fn page(call: &Call) -> Answer {
    match call.shared.state().tokens.authorize(call.head.query()) {
        Ok(code) => Ok(Reply::text(200, code)),
        Err(error) => Err(Reply::text(400, error).into()),
    }
}

/// `auth/token/revoke`: the refresh token dies with the access token.
pub fn revoke(call: &Call, arg: &Value) -> Answer {
    if !arg.is_null() {
        return Err(bad_input(
            call.name(),
            "request body: expected null, got value",
        ));
    }
    call.shared.state().tokens.revoke();
    Ok(Reply::json(200, &Value::Null))
}

/// The pairs of a form or query.
pub fn form(text: &str) -> HashMap<String, String> {
    let decoded = |part: &str| {
        percent_decode_str(&part.replace('+', " "))
            .decode_utf8_lossy()
            .into_owned()
    };
    text.split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (decoded(name), decoded(value)))
        .collect()
}

fn required<'a>(form: &'a HashMap<String, String>, name: &str) -> Answer<&'a str> {
    form.get(name).map(String::as_str).ok_or_else(|| {
        token_error(
            "invalid_request",
            Some(&format!("missing required field \"{name}\"")),
        )
    })
}

fn invalid_grant(description: &str) -> Stop {
    token_error("invalid_grant", Some(description))
}

fn no_auth_function() -> Stop {
    token_error(
        "invalid_request",
        Some("No auth function available for given request"),
    )
}

fn token_error(error: &str, description: Option<&str>) -> Stop {
    let mut value = json!({ "error": error });
    if let Some(description) = description {
        value["error_description"] = description.into();
    }
    Reply::json(400, &value).into()
}

/// Base64 without padding.
fn base64(alphabet: &[u8; 64], bytes: &[u8]) -> String {
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = group
            .iter()
            .fold(0, |bits, byte| bits << 8 | u32::from(*byte))
            << (8 * (3 - group.len()));
        for digit in 0..=group.len() {
            text.push(char::from(
                alphabet[(bits >> (18 - 6 * digit) & 63) as usize],
            ));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{STANDARD, URL_SAFE, base64};

    #[test]
    fn base64_without_padding() {
        assert_eq!(base64(STANDARD, b"user:pass"), "dXNlcjpwYXNz");
        assert_eq!(base64(STANDARD, b"ab"), "YWI");
        assert_eq!(base64(URL_SAFE, &[0xfb, 0xff]), "-_8");
    }
}
