//! The one-time consent: the page where the user allows the app, the code it shows, the refresh token for it;
//! and the end of that permission (<https://developers.dropbox.com/oauth-guide>).
//!
//! An app without a secret proves that whoever brings the code is who asked for it (PKCE, RFC 7636): the page's
//! address holds the hash of a random text, and the text itself comes with the code. An app with one proves it
//! by the secret; what it obtains needs the secret for every refresh.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use reqwest::Url;
use reqwest::header::AUTHORIZATION;
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom as _, SystemRandom};
use secrecy::SecretString;
use serde_json::Value;

use super::{Dropbox, at};
use crate::destination::dropbox::api::{self, Outcome};
use crate::destination::dropbox::auth::{Field, NotGranted};
use crate::error::{Error, ErrorKind};
use crate::http::{Method, Payload, Request};
use crate::retry::{Patience, retry};

/// Where a user makes an app, ticks its rights and finds its key.
pub const APPS_PAGE: &str = "https://www.dropbox.com/developers/apps";
/// Where a user sees every app that is allowed, and takes the permission back.
pub const CONNECTED_APPS_PAGE: &str = "https://www.dropbox.com/account/connected_apps";

/// So many random bytes make a verifier of 64 characters; 43 to 128 are allowed.
const VERIFIER_BYTES: usize = 48;

/// A consent that has been asked for: good for every code that its page shows.
#[derive(Debug)]
pub struct Consent {
    url: Url,
    /// None for an app with a secret.
    verifier: Option<SecretString>,
}

impl Consent {
    /// The page where the user allows the app, and gets a code.
    pub fn url(&self) -> &Url {
        &self.url
    }
}

/// What the user's code was exchanged for.
#[derive(Debug)]
pub struct Grant {
    /// Stays valid until it is revoked.
    pub refresh_token: SecretString,
    /// The rights it comes with, by Dropbox's names; empty if the reply does not tell.
    pub scopes: Vec<String>,
}

/// How a permission ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revoked {
    /// Now.
    Now,
    /// The refresh token was worthless already.
    Before,
}

impl Dropbox {
    /// Asks for a consent. Nothing is sent: the user opens its page.
    pub fn consent(&self) -> Result<Consent, Error> {
        let credentials = self.auth.credentials();
        let verifier = match credentials.app_secret {
            Some(_) => None,
            None => Some(verifier().map_err(|what| {
                let action = format!("{}: beginning a log-in", self.name);
                Error::new(ErrorKind::Invalid, action, what)
            })?),
        };
        let mut url = credentials.authorize_url.clone();
        url.query_pairs_mut()
            .append_pair("client_id", &credentials.app_key)
            .append_pair("response_type", "code")
            .append_pair("token_access_type", "offline");
        if let Some((_, challenge)) = &verifier {
            url.query_pairs_mut()
                .append_pair("code_challenge", challenge)
                .append_pair("code_challenge_method", "S256");
        }
        let verifier = verifier.map(|(verifier, _)| verifier);
        Ok(Consent { url, verifier })
    }

    /// Exchanges the code that the page showed for a refresh token, and uses that one from now on.
    pub async fn redeem(
        &self,
        consent: &Consent,
        code: &SecretString,
        patience: &Patience,
    ) -> Result<Grant, Error> {
        let action = format!("{}: exchanging the code", self.name);
        let mut fields = vec![
            ("grant_type", Field::Plain("authorization_code")),
            ("code", Field::Secret(code)),
        ];
        let verifier = consent.verifier.as_ref();
        fields.extend(verifier.map(|verifier| ("code_verifier", Field::Secret(verifier))));
        let granted = retry(&self.pause, patience, async || {
            let granted = self.auth.ask(&self.api_line, &action, &fields).await;
            granted.map_err(|refused| self.code_refused(refused, consent.verifier.is_some()))
        })
        .await?;
        let scopes = granted.scopes();
        let refresh_token = granted.refresh_token.ok_or_else(|| {
            let what = "Dropbox granted access for some hours, but gave no refresh token";
            Error::new(ErrorKind::Unexpected, &action, what).hint(
                "open the address exactly as it was printed, and paste the code that page shows",
            )
        })?;
        self.adopt(refresh_token.clone()).await;
        Ok(Grant {
            refresh_token,
            scopes,
        })
    }

    /// Uses this refresh token from now on, wherever another one is given.
    pub async fn adopt(&self, refresh_token: SecretString) {
        self.auth.adopt(refresh_token).await;
    }

    /// Whose account it is: the address that its owner logs in with, or the name; none if neither is told.
    pub async fn account(&self, patience: &Patience) -> Result<Option<String>, Error> {
        let action = format!("{}: asking whose account it is", self.name);
        let endpoint = "users/get_current_account";
        let answer = self.rpc(&action, endpoint, &Value::Null, patience).await?;
        let account = answer.map_err(|refusal| refusal.error(ErrorKind::Unexpected, &action))?;
        let mut told = ["/email", "/name/display_name"]
            .into_iter()
            .filter_map(|pointer| account.pointer(pointer)?.as_str());
        Ok(told.find(|text| !text.is_empty()).map(str::to_owned))
    }

    /// Ends the permission: the refresh token, and every access token it gave, become worthless.
    pub async fn revoke(&self, patience: &Patience) -> Result<Revoked, Error> {
        let action = format!("{}: revoking the refresh token", self.name);
        retry(&self.pause, patience, async || {
            self.revoke_once(&action).await
        })
        .await
    }

    /// A code that is refused, with what the user can do about it.
    fn code_refused(&self, refused: NotGranted, by_challenge: bool) -> Error {
        match refused.code.as_str() {
            "invalid_grant" => refused.error.hint(format!(
                "a code counts once, whole, and for some minutes; begin again for a new one: \
                 sudo gitlab-pi-backup login {}",
                self.name
            )),
            "invalid_request" if by_challenge => refused.error.hint(
                "this app wants its secret: set `app_secret`, or switch on public clients (PKCE) in the app's settings",
            ),
            _ => refused.error,
        }
    }

    /// By a token of its own: the rights that a stored token lacks must not keep it alive.
    async fn revoke_once(&self, action: &str) -> Result<Revoked, Error> {
        let granted = match self.auth.ask_again(&self.api_line, action).await {
            Ok(granted) => granted,
            Err(refused) if refused.code == "invalid_grant" => return Ok(Revoked::Before),
            Err(refused) => return Err(refused.error),
        };
        let header = granted.header().ok_or_else(|| {
            let what = "the access token is not one";
            Error::new(ErrorKind::Unexpected, action, what)
        })?;
        let request = Request {
            method: Method::POST,
            url: at(&self.api_url, "/2/auth/token/revoke"),
            headers: vec![(AUTHORIZATION, header)],
            body: Payload::Bytes(Bytes::new()),
            reply_wait: self.http.stall(),
        };
        let reply = self.api_line.send(action, request).await?;
        // Documented as "no return values": the body is `null`, or nothing.
        if reply.status == 200 {
            return Ok(Revoked::Now);
        }
        match api::read(action, &self.auth.redacted(reply)) {
            Outcome::Failed(error) => Err(error),
            // It was valid a moment ago; the next attempt asks for another one.
            Outcome::ExpiredToken => Err(Error::new(
                ErrorKind::Unavailable,
                action,
                "Dropbox takes a fresh access token for an old one",
            )),
            Outcome::Answer(Err(refusal)) => Err(refusal.error(ErrorKind::Unexpected, action)),
            Outcome::Answer(Ok(_)) => Ok(Revoked::Now),
        }
    }
}

/// A random text, and what the page's address tells of it.
fn verifier() -> Result<(SecretString, String), &'static str> {
    let mut random = [0; VERIFIER_BYTES];
    SystemRandom::new()
        .fill(&mut random)
        .map_err(|_| "the system gives no random bytes")?;
    let text = URL_SAFE_NO_PAD.encode(random);
    let challenge = challenge(&text);
    Ok((text.into(), challenge))
}

/// RFC 7636, section 4.2, method S256.
fn challenge(verifier: &str) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, verifier.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    #[test]
    fn the_challenge_is_the_one_of_the_rfc() {
        let verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        let expected = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
        assert_eq!(challenge(verifier), expected);
    }

    #[test]
    fn verifiers_are_long_allowed_and_never_the_same() {
        let (first, told) = verifier().expect("random bytes");
        let (second, _) = verifier().expect("random bytes");
        let (first, second) = (first.expose_secret(), second.expose_secret());
        assert_ne!(first, second);
        assert_eq!(first.len(), 64);
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        assert!(first.bytes().all(allowed), "{first}");
        assert_eq!(challenge(first), told);
    }
}
