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
    scopes: Vec<String>,
    expired: bool,
}

/// An access token.
struct Access {
    until: Instant,
    scopes: Vec<String>,
    /// The refresh token it came from.
    refresh: Option<String>,
}

/// A refresh token.
struct Refresh {
    /// Whether it was obtained with the app's secret, and needs it for ever.
    needs_secret: bool,
    scopes: Vec<String>,
}

/// All tokens and codes of the one account.
pub struct Tokens {
    app_key: String,
    app_secret: Option<String>,
    /// What is ticked under Permissions.
    app_scopes: Vec<String>,
    /// The scopes of tokens from before there was any log-in.
    scopes: Vec<String>,
    life: Duration,
    access: HashMap<String, Access>,
    refresh: HashMap<String, Refresh>,
    codes: HashMap<String, Code>,
    /// Codes that were used.
    spent: Vec<String>,
}

impl Tokens {
    /// Only the refresh token of the options.
    pub fn new(options: &Options) -> Self {
        let first = Refresh {
            needs_secret: options.app_secret.is_some(),
            scopes: options.scopes.clone(),
        };
        Self {
            app_key: options.app_key.clone(),
            app_secret: options.app_secret.clone(),
            app_scopes: options.app_scopes.clone(),
            scopes: options.scopes.clone(),
            life: options.token_life,
            access: HashMap::new(),
            refresh: HashMap::from([(options.refresh_token.clone(), first)]),
            codes: HashMap::new(),
            spent: Vec::new(),
        }
    }

    /// A new access token that belongs to no refresh token.
    pub fn issue(&mut self) -> String {
        self.issue_from(None, self.scopes.clone())
    }

    fn issue_from(&mut self, refresh: Option<String>, scopes: Vec<String>) -> String {
        let token = format!("sl.standin-{}", random::id());
        let until = Instant::now() + self.life;
        let access = Access {
            until,
            scopes,
            refresh,
        };
        self.access.insert(token.clone(), access);
        token
    }

    /// What is ticked under Permissions from now on; tokens keep the rights they have.
    pub fn tick(&mut self, scopes: &[&str]) {
        self.app_scopes = scopes.iter().map(ToString::to_string).collect();
    }

    /// Whether the app may ever do this.
    pub fn app_has(&self, scope: &str) -> bool {
        scope.is_empty() || self.app_scopes.iter().any(|own| own == scope)
    }

    /// Whether this token may do it.
    pub fn token_has(&self, token: &str, scope: &str) -> bool {
        let scopes = self.access.get(token).map(|access| &access.scopes);
        scope.is_empty() || scopes.is_some_and(|scopes| scopes.iter().any(|own| own == scope))
    }

    /// All refresh tokens that are valid.
    pub fn refresh_tokens(&self) -> Vec<String> {
        self.refresh.keys().cloned().collect()
    }

    /// The minutes that codes are valid for are over.
    pub fn expire_codes(&mut self) {
        self.codes.values_mut().for_each(|code| code.expired = true);
    }

    /// How a token stands.
    pub fn standing(&self, token: &str) -> Standing {
        match self.access.get(token) {
            None => Standing::Unknown,
            Some(access) if access.until <= Instant::now() => Standing::Expired,
            Some(_) => Standing::Valid,
        }
    }

    /// All access tokens are expired.
    pub fn expire(&mut self) {
        let now = Instant::now();
        self.access
            .values_mut()
            .for_each(|access| access.until = now);
    }

    /// What `auth/token/revoke` does: the refresh token this one came from dies, and all that came from it.
    pub fn revoke_one(&mut self, token: &str) {
        let Some(access) = self.access.remove(token) else {
            return;
        };
        if let Some(refresh) = access.refresh {
            self.access
                .retain(|_, other| other.refresh.as_ref() != Some(&refresh));
            self.refresh.remove(&refresh);
        }
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
        let mut scopes = self.app_scopes.clone();
        if let Some(wanted) = query.remove("scope") {
            let wanted: Vec<_> = wanted.split(' ').map(str::to_owned).collect();
            if let Some(other) = wanted.iter().find(|scope| !scopes.contains(scope)) {
                return Err(format!("invalid scope: {other}"));
            }
            scopes = wanted;
        }
        let code = random::id();
        let offline = query.get("token_access_type").map(String::as_str) == Some("offline");
        self.codes.insert(
            code.clone(),
            Code {
                challenge,
                redirect: query.remove("redirect_uri"),
                offline,
                scopes,
                expired: false,
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
        let mut reply = json!({
            "token_type": "bearer",
            "expires_in": self.life.as_secs(),
        });
        reply["access_token"] = match form.get("grant_type").map(String::as_str) {
            Some("refresh_token") => {
                let token = required(form, "refresh_token")?;
                let refresh = self
                    .refresh
                    .get(token)
                    .ok_or_else(|| invalid_grant("refresh token is invalid or revoked"))?;
                if refresh.needs_secret && !proven {
                    return Err(no_auth_function());
                }
                let scopes = refresh.scopes.clone();
                self.issue_from(Some(token.to_owned()), scopes).into()
            }
            Some("authorization_code") => {
                let given = required(form, "code")?;
                if self.spent.iter().any(|spent| spent == given) {
                    return Err(invalid_grant("code has already been used"));
                }
                // A code is spent by the first attempt, successful or not.
                let code = self
                    .codes
                    .remove(given)
                    .filter(|code| !code.expired)
                    .ok_or_else(|| invalid_grant("code doesn't exist or has expired"))?;
                self.spent.push(given.to_owned());
                code.check(proven, form)?;
                let scopes = code.scopes.clone();
                reply["scope"] = scopes.join(" ").into();
                let refresh = code.offline.then(|| {
                    let token = format!("standin-refresh-{}", random::id());
                    let refresh = Refresh {
                        needs_secret: proven,
                        scopes: scopes.clone(),
                    };
                    self.refresh.insert(token.clone(), refresh);
                    reply["refresh_token"] = token.clone().into();
                    token
                });
                self.issue_from(refresh, scopes).into()
            }
            _ => {
                return Err(token_error(
                    "unsupported_grant_type",
                    Some("unsupported grant type"),
                ));
            }
        };
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
    let token = call.token().unwrap_or_default();
    call.shared.state().tokens.revoke_one(token);
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
