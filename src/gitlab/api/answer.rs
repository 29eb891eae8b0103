//! GitLab's answers as errors of the house.

use std::time::Duration;

use reqwest::Url;
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use serde_json::Value;

use super::header;
use super::limits::{asked_to_wait, rest_of};
use crate::error::{Error, ErrorKind};
use crate::http::Reply;

/// The scope without which a token may read, but not have anything exported.
pub(super) const SCOPE: &str = "api";
/// So much of a page is looked at, in bytes.
const LONGEST_EXCERPT: usize = 4096;
/// So much of what GitLab says is told, in characters.
const LONGEST_WORDS: usize = 300;

const NEW_TOKEN: &str = "make a new one in GitLab with the scope `api` (Edit profile > Access tokens), and put it into \
                         `gitlab.token`";
const IS_IT_GITLAB: &str =
    "is `gitlab.url` the address of a GitLab? a proxy or a login page may stand before it";
const MAINTENANCE: &str = "GitLab is in maintenance, or starting: `gitlab-ctl status` on its machine tells; it is tried \
                           again, and by the next run";

/// What a reply means that is no success, of something that is allowed so often in a `minute`, whatever its length.
pub(super) fn understand(action: &str, reply: &Reply, minute: Duration) -> Option<Error> {
    if matches!(reply.status, 200..=299) {
        return None;
    }
    let page = page(&reply.headers, &reply.body);
    let words = match page {
        None => words(&reply.body),
        Some(_) => None,
    };
    let told = match (&page, &words) {
        (Some(page), _) => format!(" with {page}"),
        (None, Some(words)) => format!(": {}", without_status(words, reply.status)),
        (None, None) => String::new(),
    };
    let what = format!("GitLab answered {}{told}", reply.status);
    let said = words.unwrap_or_default().to_lowercase();
    let is_page = page.is_some();
    let error = |kind| Some(Error::new(kind, action, what.clone()));
    let hinted = |kind, hint: &str| error(kind).map(|error| error.hint(hint));
    match reply.status {
        429 => {
            let wait = asked_to_wait(&reply.headers);
            let wait = wait.unwrap_or_else(|| rest_of(minute, &reply.headers));
            error(ErrorKind::RateLimited(Some(wait)))
        }
        503 if asked_to_wait(&reply.headers).is_some() => hinted(
            ErrorKind::RateLimited(asked_to_wait(&reply.headers)),
            MAINTENANCE,
        ),
        502..=504 => hinted(ErrorKind::Unavailable, MAINTENANCE),
        408 | 425 | 500.. => error(ErrorKind::Unavailable),
        407 => hinted(ErrorKind::Unavailable, "check the proxy settings"),
        _ if is_page => hinted(ErrorKind::Invalid, IS_IT_GITLAB),
        401 if said.contains("expired") => hinted(
            ErrorKind::Unauthorized,
            &format!("the token has expired: {NEW_TOKEN}"),
        ),
        401 if said.contains("revoked") => hinted(
            ErrorKind::Unauthorized,
            &format!("the token was revoked: {NEW_TOKEN}"),
        ),
        401 => hinted(
            ErrorKind::Unauthorized,
            &format!("the token is not one of this GitLab, or is no longer: {NEW_TOKEN}"),
        ),
        403 if said.contains("insufficient_scope") || said.contains("insufficient scope") => {
            let error = hinted(
                ErrorKind::Unauthorized,
                &format!("the token lacks the scope `api`: {NEW_TOKEN}"),
            );
            error.map(|error| error.lacking([SCOPE]))
        }
        // Maintenance mode: GitLab can be read, and not asked for anything.
        403 if said.contains("read-only") || said.contains("maintenance") => {
            hinted(ErrorKind::Unavailable, MAINTENANCE)
        }
        403 => error(ErrorKind::Unauthorized),
        404 | 410 => error(ErrorKind::NotFound),
        409 => error(ErrorKind::AlreadyExists),
        400..=499 => error(ErrorKind::Invalid),
        _ => error(ErrorKind::Unexpected),
    }
}

/// It sends on to where the token is not shown.
pub(super) fn sent_elsewhere(action: &str, asked: &Url, to: Option<&Url>) -> Error {
    let Some(to) = to else {
        let what = "GitLab sends on to nowhere";
        return Error::new(ErrorKind::Unexpected, action, what).hint(IS_IT_GITLAB);
    };
    // What stands behind the path may be a secret.
    let origin = to.origin().ascii_serialization();
    let what = format!("GitLab sends on to {origin}{}", to.path());
    let error = Error::new(ErrorKind::Invalid, action, what);
    // What lies before the API is what belongs into the configuration.
    let behind = |url: &Url| {
        url.path()
            .split_once("/api/v4/")
            .map(|(base, _)| base.to_owned())
    };
    match (behind(asked), behind(to)) {
        (Some(_), Some(base)) => error.hint(format!(
            "it is at another address: `gitlab.url = \"{origin}{base}\"`"
        )),
        _ => error.hint(IS_IT_GITLAB),
    }
}

/// A success that is none: no JSON that was asked for.
pub(super) fn not_understood(action: &str, reply: &Reply, why: &serde_json::Error) -> Error {
    let what = match page(&reply.headers, &reply.body) {
        Some(page) => format!("GitLab answered {} with {page}", reply.status),
        None => format!("the answer is not what GitLab's API gives: {why}"),
    };
    Error::new(ErrorKind::Unexpected, action, what).hint(IS_IT_GITLAB)
}

/// Told where a page comes instead of what was asked for; none if it is no page.
pub(super) fn page(headers: &HeaderMap, body: &[u8]) -> Option<String> {
    let body = &body[..body.len().min(LONGEST_EXCERPT)];
    let text = String::from_utf8_lossy(body);
    let kind = header(headers, CONTENT_TYPE.as_str()).unwrap_or_default();
    let start = text.trim_start().to_ascii_lowercase();
    let is_page = kind.to_ascii_lowercase().starts_with("text/html")
        || start.starts_with("<!doctype html")
        || start.starts_with("<html");
    if !is_page {
        return None;
    }
    let title = start.find("<title>").and_then(|at| {
        // The same place in both: only letters of ASCII were changed.
        let rest = text.trim_start().get(at + "<title>".len()..)?;
        let title = rest.split('<').next()?;
        let title = title.split_whitespace().collect::<Vec<_>>().join(" ");
        Some(title.chars().take(80).collect::<String>()).filter(|title| !title.is_empty())
    });
    Some(match title {
        Some(title) => format!("an HTML page (\"{title}\")"),
        None => "an HTML page".to_owned(),
    })
}

/// What GitLab says, in one line and without addresses' secrets; none if it says nothing.
/// The shapes: <https://docs.gitlab.com/api/rest/troubleshooting/>.
fn words(body: &[u8]) -> Option<String> {
    let told = match serde_json::from_slice::<Value>(body) {
        Ok(Value::Object(map)) => {
            let parts = ["message", "error", "error_description"];
            let parts = parts.iter().filter_map(|key| map.get(*key));
            let mut parts: Vec<_> = parts.map(|part| spoken(part, 0)).collect();
            parts.retain(|part| !part.is_empty());
            parts.dedup();
            parts.join(": ")
        }
        Ok(Value::String(text)) => text,
        Ok(_) => String::new(),
        Err(_) => String::from_utf8_lossy(&body[..body.len().min(LONGEST_EXCERPT)]).into_owned(),
    };
    let mut told = told
        .split_whitespace()
        .map(without_query)
        .collect::<Vec<_>>()
        .join(" ");
    if let Some((end, _)) = told.char_indices().nth(LONGEST_WORDS) {
        told.truncate(end);
        told.push('…');
    }
    Some(told).filter(|told| !told.is_empty())
}

/// A message, or one for each field that is wrong.
fn spoken(value: &Value, depth: usize) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(parts) if depth < 4 => {
            let parts: Vec<_> = parts.iter().map(|part| spoken(part, depth + 1)).collect();
            parts.join(", ")
        }
        Value::Object(fields) if depth < 4 => {
            let fields = fields.iter().map(|(field, value)| {
                let told = spoken(value, depth + 1);
                match field.as_str() {
                    "base" | "error" => told,
                    field => format!("{field} {told}"),
                }
            });
            fields.collect::<Vec<_>>().join("; ")
        }
        _ => String::new(),
    }
}

/// An address without what stands behind its path: of one that was signed beforehand it is the secret.
fn without_query(word: &str) -> String {
    let has = |marks: &[&str]| marks.iter().any(|mark| word.contains(mark));
    if !has(&["://", "%3A%2F%2F", "X-Amz-", "Signature="]) {
        return word.to_owned();
    }
    let marks = ["?", "%3F", "X-Amz-", "Signature="];
    match marks.iter().filter_map(|mark| word.find(mark)).min() {
        Some(end) => format!("{}…", &word[..end]),
        None => word.to_owned(),
    }
}

/// `404 Project Not Found` behind `GitLab answered 404` says it twice.
fn without_status(words: &str, status: u16) -> &str {
    let rest = words.strip_prefix(&format!("{status} "));
    rest.unwrap_or(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Retry;
    use crate::gitlab::api::limits::MINUTE;

    fn reply(status: u16, headers: &[(&'static str, &'static str)], body: &str) -> Reply {
        let headers = headers.iter().map(|(name, value)| {
            let name = reqwest::header::HeaderName::from_static(name);
            (name, reqwest::header::HeaderValue::from_static(value))
        });
        Reply {
            status,
            headers: headers.collect(),
            body: body.as_bytes().to_vec(),
        }
    }

    fn told(status: u16, body: &str) -> String {
        let error = understand("a", &reply(status, &[], body), MINUTE);
        error.map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn every_status_has_a_decision() {
        for status in 100..=599 {
            let error = understand("a", &reply(status, &[], "{}"), MINUTE);
            let Some(error) = error else {
                assert!((200..=299).contains(&status));
                continue;
            };
            match (status, error.kind().retry()) {
                (429, Retry::After(wait)) => assert!(wait <= Duration::from_secs(61)),
                (407 | 408 | 425 | 500..=599, Retry::Backoff) => {}
                (407 | 408 | 425 | 429 | 500..=599, other) => panic!("{status}: {other:?}"),
                (_, other) => assert_eq!(other, Retry::Never, "{status}"),
            }
        }
        let later = reply(503, &[("retry-after", "120")], "");
        let kind = understand("a", &later, MINUTE).expect("an error").kind();
        assert_eq!(kind.retry(), Retry::After(Duration::from_mins(2)));
    }

    #[test]
    fn gitlabs_own_words_are_told_in_all_their_shapes() {
        for (status, body, expected) in [
            (
                404,
                r#"{"message":"404 Project Not Found"}"#,
                "GitLab answered 404: Project Not Found",
            ),
            (
                400,
                r#"{"message":{"url":["is blocked","is bad"],"base":["x"]}}"#,
                "GitLab answered 400: x; url is blocked, is bad",
            ),
            (
                429,
                r#"{"message":{"error":"This endpoint has been requested too many times. Try again later."}}"#,
                "GitLab answered 429: This endpoint has been requested too many times. Try again later.",
            ),
            (
                400,
                r#"{"error":"group_id is invalid"}"#,
                "GitLab answered 400: group_id is invalid",
            ),
            (
                400,
                r#"{"error":"a","error_description":"b"}"#,
                "GitLab answered 400: a: b",
            ),
            (400, r#"["x"]"#, "GitLab answered 400"),
            (400, "Retry later\n", "GitLab answered 400: Retry later"),
            (400, "", "GitLab answered 400"),
        ] {
            let told = told(status, body);
            assert_eq!(told.lines().next(), Some(format!("a: {expected}").as_str()));
        }
        let deep = format!("{{\"message\":{}{}}}", "[".repeat(100), "]".repeat(100));
        assert_eq!(told(400, &deep), "a: GitLab answered 400");
        let long = format!("{{\"message\":\"{}\"}}", "ü".repeat(100_000));
        assert!(told(400, &long).chars().count() < 400);
        assert!(!told(400, "{\"message\":\"\\u001b[2J\"}").contains('\u{1b}'));
    }

    #[test]
    fn each_refusal_says_the_way_out() {
        for (status, body, kind, hint) in [
            (
                401,
                r#"{"message":"401 Unauthorized"}"#,
                ErrorKind::Unauthorized,
                "not one of this GitLab",
            ),
            (
                401,
                r#"{"error":"invalid_token","error_description":"Token is expired. You can either do re-authorization or token refresh."}"#,
                ErrorKind::Unauthorized,
                "has expired: make a new one",
            ),
            (
                401,
                r#"{"error":"invalid_token","error_description":"Token was revoked. You have to re-authorize from the user."}"#,
                ErrorKind::Unauthorized,
                "was revoked",
            ),
            (
                403,
                r#"{"error":"insufficient_scope","error_description":"The request requires higher privileges than provided by the access token.","scope":"api"}"#,
                ErrorKind::Unauthorized,
                "lacks the scope `api`",
            ),
            (
                403,
                r#"{"message":"You cannot perform write operations on a read-only instance"}"#,
                ErrorKind::Unavailable,
                "in maintenance",
            ),
            (
                502,
                "<html><title>GitLab is not responding (502)</title>",
                ErrorKind::Unavailable,
                "in maintenance",
            ),
            (
                403,
                "<!DOCTYPE html><title>Attention Required!</title>",
                ErrorKind::Invalid,
                "a proxy or a login page",
            ),
            (
                404,
                "<html>nginx</html>",
                ErrorKind::Invalid,
                "`gitlab.url`",
            ),
        ] {
            let error = understand("a", &reply(status, &[], body), MINUTE).expect("an error");
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(hint), "{error}");
        }
        let scope = reply(403, &[], r#"{"error":"insufficient_scope"}"#);
        assert_eq!(
            understand("a", &scope, MINUTE).expect("an error").lacks(),
            [SCOPE]
        );
    }

    #[test]
    fn a_page_is_named_as_such() {
        for (headers, body, expected) in [
            (
                &[][..],
                "  <!DOCTYPE HTML><head><TITLE>Sign in\n · GitLab</TITLE>",
                Some("an HTML page (\"Sign in · GitLab\")"),
            ),
            (
                &[("content-type", "text/html; charset=utf-8")],
                "no",
                Some("an HTML page"),
            ),
            (&[], "<html>", Some("an HTML page")),
            (&[], "<title>\u{130}", None),
            (&[("content-type", "application/json")], "{}", None),
            (&[], "<Error/>", None),
        ] {
            let reply = reply(200, headers, body);
            assert_eq!(page(&reply.headers, &reply.body).as_deref(), expected);
        }
        let title = format!(
            "<html><title>{}\u{130}{}",
            "x".repeat(79),
            "y".repeat(9_999)
        );
        assert!(page(&HeaderMap::new(), title.as_bytes()).is_some_and(|told| told.len() < 120));
    }

    #[test]
    fn no_address_that_was_signed_is_told() {
        for said in [
            "https://s3.example/b/k?X-Amz-Signature=marked is blocked",
            "upload[url]=https%3A%2F%2Fs3.example%2Fb%3FX-Amz-Signature%3Dmarked",
            "X-Amz-Signature=marked",
            "<Resource>/b/k?Expires=1&Signature=marked</Resource>",
        ] {
            let body = serde_json::json!({ "message": { "url": [said] } }).to_string();
            let told = told(400, &body);
            assert!(!told.contains("marked"), "{told}");
        }
        assert!(told(400, r#"{"message":"why? because"}"#).contains("why? because"));
    }

    #[test]
    fn where_gitlab_really_is_can_be_copied_into_the_configuration() {
        let asked = Url::parse("http://git.example/api/v4/projects?x=1").expect("an address");
        for (to, expected) in [
            (
                "https://u:marked@git.example/sub/api/v4/projects?token=marked",
                "`gitlab.url = \"https://git.example/sub\"`",
            ),
            ("https://git.example/users/sign_in?marked", "a login page"),
        ] {
            let to = Url::parse(to).expect("an address");
            let told = sent_elsewhere("a", &asked, Some(&to)).to_string();
            assert!(
                told.contains(expected) && !told.contains("marked"),
                "{told}"
            );
        }
    }
}
