//! Who asks, and what it may do (<https://docs.gitlab.com/api/personal_access_tokens/>).

use chrono::{DateTime, NaiveDate, Utc};
use serde::Deserialize;

use super::answer::SCOPE;
use super::{Api, Call};
use crate::error::{Error, ErrorKind};
use crate::retry::Patience;

/// Who uses a token that ends sooner is told so, in days.
const SOON: i64 = 14;

/// What GitLab tells of the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// The user's name, as far as it was asked for.
    pub user: Option<String>,
    /// What the token is for; none where GitLab does not tell.
    pub scopes: Option<Vec<String>>,
    /// The day on which it is no longer good.
    pub expires_at: Option<NaiveDate>,
    /// GitLab's version.
    pub version: Option<String>,
}

/// A token, as it tells of itself.
#[derive(Deserialize)]
struct TokenTold {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    scopes: Option<Vec<String>>,
    #[serde(default)]
    expires_at: Option<NaiveDate>,
    #[serde(default)]
    revoked: bool,
    active: Option<bool>,
}

#[derive(Deserialize)]
struct User {
    username: String,
}

#[derive(Deserialize)]
struct Version {
    version: String,
}

impl Api {
    /// Who asks. An error says why this token can have nothing exported: there is none, it is refused, or it lacks
    /// the scope `api`.
    pub async fn access(&self, patience: &Patience) -> Result<Access, Error> {
        const ACTION: &str = "asking GitLab who the token belongs to";
        if let Ok(service) = &self.service
            && service.token.is_none()
        {
            let what = "there is no token";
            return Err(Error::new(ErrorKind::Unauthorized, ACTION, what).hint(
                "make one in GitLab with the scope `api` (Edit profile > Access tokens), and put it into `gitlab.token`",
            ));
        }
        let call = Call::get(ACTION, &["personal_access_tokens", "self"]);
        let token = self.json::<TokenTold>(&call, patience).await;
        let mut access = match token {
            Ok(token) => judged(token, ACTION)?,
            // OAuth tokens do not know it, nor does GitLab before 15.5.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Invalid) => {
                let call = Call::get(ACTION, &["user"]);
                let user: User = self.json(&call, patience).await?;
                Access {
                    user: Some(user.username),
                    scopes: None,
                    expires_at: None,
                    version: None,
                }
            }
            Err(error) => return Err(error),
        };
        access.version = self.version(patience).await?;
        Ok(access)
    }

    /// GitLab's version; none if it does not tell.
    pub async fn version(&self, patience: &Patience) -> Result<Option<String>, Error> {
        // The older of the two is the one that every GitLab knows.
        let call = Call::get("asking GitLab for its version", &["version"]);
        match self.json::<Version>(&call, patience).await {
            Ok(told) => Ok(Some(told.version)),
            Err(error) if error.kind() == ErrorKind::Unavailable => Err(error),
            Err(_) => Ok(None),
        }
    }
}

fn judged(token: TokenTold, action: &str) -> Result<Access, Error> {
    let name = token.name.unwrap_or_default();
    if token.revoked || token.active == Some(false) {
        let what = format!("the token \"{name}\" was revoked, or has expired");
        return Err(Error::new(ErrorKind::Unauthorized, action, what)
            .hint("make a new one with the scope `api`, and put it into `gitlab.token`"));
    }
    let scopes = token.scopes;
    if let Some(scopes) = scopes
        .as_ref()
        .filter(|scopes| !scopes.iter().any(|scope| scope == SCOPE))
    {
        let what = format!(
            "the token \"{name}\" has only the scopes {}",
            scopes.join(", ")
        );
        return Err(Error::new(ErrorKind::Unauthorized, action, what)
            .lacking([SCOPE])
            .hint("it takes the scope `api` to have a project exported: make another token, and put it into `gitlab.token`"));
    }
    Ok(Access {
        user: None,
        scopes,
        expires_at: token.expires_at,
        version: None,
    })
}

impl Access {
    /// That the token soon ends.
    pub fn warning(&self, now: DateTime<Utc>) -> Option<String> {
        let expires_at = self.expires_at?;
        let days = expires_at
            .signed_duration_since(now.date_naive())
            .num_days();
        (days <= SOON).then(|| {
            let when = match days {
                ..=0 => "today".to_owned(),
                1 => "tomorrow".to_owned(),
                days => format!("in {days} days"),
            };
            format!(
                "GitLab's token expires {when}, on {expires_at}: make a new one in time, or rotate it, and put it into \
                 `gitlab.token`"
            )
        })
    }

    /// In a few words.
    pub fn words(&self) -> String {
        let version = self.version.as_ref();
        let version = version.map_or_else(String::new, |version| format!("GitLab {version}, "));
        let user = self.user.as_ref();
        let user = user.map_or_else(String::new, |user| format!(" of {user}"));
        let expiry = match (self.expires_at, &self.scopes) {
            (Some(day), _) => format!(", good until {day}"),
            (None, Some(_)) => ", without an end".to_owned(),
            (None, None) => String::new(),
        };
        format!("{version}token{user} accepted{expiry}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(json: &str) -> Result<Access, Error> {
        judged(serde_json::from_str(json).expect("a token"), "a")
    }

    #[test]
    fn a_token_that_can_have_nothing_exported_is_refused() {
        for (json, expected) in [
            (
                r#"{"name":"t","scopes":["read_api","read_user"],"active":true}"#,
                Some("has only the scopes read_api, read_user"),
            ),
            (
                r#"{"name":"t","scopes":["api"],"revoked":true,"active":false}"#,
                Some("was revoked"),
            ),
            (
                r#"{"name":"t","scopes":["api"],"active":false}"#,
                Some("has expired"),
            ),
            (
                r#"{"scopes":["api"],"active":true,"expires_at":null}"#,
                None,
            ),
            (
                r#"{"scopes":["api","read_user"],"expires_at":"2026-12-01"}"#,
                None,
            ),
            (r"{}", None),
        ] {
            let result = told(json).map_err(|error| error.to_string());
            match expected {
                Some(part) => assert!(result.is_err_and(|told| told.contains(part)), "{json}"),
                None => assert!(result.is_ok(), "{json} {result:?}"),
            }
        }
        let lacks = told(r#"{"scopes":[]}"#).expect_err("a refusal");
        assert_eq!(lacks.lacks(), [SCOPE]);
    }

    #[test]
    fn that_it_soon_ends_is_told_in_time() {
        let now = "2026-11-22T23:00:00Z".parse().expect("a time");
        for (day, expected) in [
            (None, None),
            (Some("2026-11-22"), Some("expires today, on 2026-11-22")),
            (Some("2026-11-23"), Some("expires tomorrow")),
            (Some("2026-12-06"), Some("expires in 14 days")),
            (Some("2026-12-07"), None),
        ] {
            let access = Access {
                user: None,
                scopes: Some(Vec::new()),
                expires_at: day.map(|day| day.parse().expect("a day")),
                version: Some("17.8.2-ee".to_owned()),
            };
            let warning = access.warning(now);
            assert_eq!(warning.is_some(), expected.is_some(), "{day:?}");
            assert!(
                warning
                    .unwrap_or_default()
                    .contains(expected.unwrap_or_default())
            );
            assert!(
                access
                    .words()
                    .starts_with("GitLab 17.8.2-ee, token accepted")
            );
        }
    }
}
