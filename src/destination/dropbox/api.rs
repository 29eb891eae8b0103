//! Dropbox's wire format: requests, and what a reply means.
//!
//! From the public API specification (<https://github.com/dropbox/dropbox-api-spec>) and
//! <https://www.dropbox.com/developers/documentation/http/documentation>. Unknown fields and tags of a
//! reply are tolerated: its unions are open.

use std::fmt::Write as _;
use std::time::Duration;

use chrono::DateTime;
use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use serde::Deserialize;
use serde_json::Value;

use crate::content_hash::Digest;
use crate::destination::{Entry, FileEntry};
use crate::error::{Error, ErrorKind};
use crate::http::Reply;

/// The rights an app is to have for everything this program does, by Dropbox's names.
pub const SCOPES: [&str; 4] = [
    "account_info.read",
    "files.metadata.read",
    "files.content.read",
    "files.content.write",
];
/// Those of them without which no backup can be stored. Without reading contents an old token still stores
/// backups and their manifests; only rehearsing and restoring it cannot.
pub const NEEDED_TO_STORE: [&str; 2] = ["files.content.write", "files.metadata.read"];

/// Stands for a refusal that the service words as a plain text.
pub const DIFFERENT_DATA: &str = "different_data";

/// What a call came back with: its value, or the refusal its endpoint documents.
pub type Answer = Result<Value, Refusal>;

/// A documented refusal that needs a decision and not a repetition.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The tags from the outside in: `path/conflict/file`.
    pub tags: String,
    /// For `incorrect_offset`: where the service wants to go on.
    pub correct_offset: Option<u64>,
    /// Dropbox's name for the request, for its support.
    request: String,
}

impl Refusal {
    /// As an error of a kind the caller decides.
    pub fn error(&self, kind: ErrorKind, action: &str) -> Error {
        Error::new(
            kind,
            action,
            format!("Dropbox refused: {}{}", self.tags, self.request),
        )
    }
}

/// How a reply ended the call.
pub enum Outcome {
    /// With an answer.
    Answer(Answer),
    /// The access token is too old.
    ExpiredToken,
    /// Otherwise.
    Failed(Error),
}

#[derive(Deserialize)]
struct WireEntry {
    #[serde(rename = ".tag")]
    tag: Option<String>,
    name: String,
    size: Option<u64>,
    content_hash: Option<Digest>,
    rev: Option<String>,
    server_modified: Option<String>,
}

impl Entry {
    /// From the metadata of a reply; the one of a file that was just stored has no tag.
    pub(super) fn parse(value: &Value) -> Option<Entry> {
        let wire = WireEntry::deserialize(value).ok()?;
        let modified = wire.server_modified.as_deref();
        let modified = modified.and_then(|text| DateTime::parse_from_rfc3339(text).ok());
        let file = match (wire.tag.as_deref(), wire.size, wire.rev) {
            (None | Some("file"), Some(size), Some(rev)) => Some(FileEntry {
                size,
                content_hash: wire.content_hash,
                rev,
                modified: modified.map(|time| time.to_utc()),
            }),
            (Some("folder"), ..) => None,
            _ => return None,
        };
        Some(Entry {
            name: wire.name,
            file,
        })
    }
}

/// The value of a `Dropbox-API-Arg` header: JSON in plain ASCII, everything from U+007F up escaped.
pub fn header_argument(argument: &Value) -> String {
    let mut header = String::new();
    for c in argument.to_string().chars() {
        if ('\u{20}'..'\u{7f}').contains(&c) {
            header.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a string cannot fail.
                let _ = write!(header, "\\u{unit:04x}");
            }
        }
    }
    header
}

/// Understands the reply to a call.
pub fn read(action: &str, reply: &Reply) -> Outcome {
    let value = json(reply);
    let error = value.as_ref().and_then(|value| value.get("error"));
    let tags = value.as_ref().map(reason).unwrap_or_default();
    let request = request_id(&reply.headers);
    let failed = |kind, text: &str| {
        let what = format!("Dropbox answered {}: {text}{request}", reply.status);
        Error::new(kind, action, what)
    };
    let refused = |tags: &str| {
        let (tags, request) = (tags.to_owned(), request.clone());
        let correct_offset = error.and_then(|error| find_number(error, "correct_offset"));
        Outcome::Answer(Err(Refusal {
            tags,
            correct_offset,
            request,
        }))
    };
    let passes = |tag: &str| tag == "too_many_write_operations" || tag == "internal_error";
    Outcome::Failed(match reply.status {
        200..=299 => match value {
            Some(value) => return Outcome::Answer(Ok(value)),
            None => failed(ErrorKind::Unavailable, "the reply is cut off or no JSON"),
        },
        401 if tags == "expired_access_token" => return Outcome::ExpiredToken,
        401 => {
            let reason = if tags.is_empty() {
                "no reason given"
            } else {
                &tags
            };
            unauthorized(failed(ErrorKind::Unauthorized, reason), error)
        }
        409 if tags.split('/').any(passes) => failed(ErrorKind::Unavailable, &tags),
        409 if !tags.is_empty() => return refused(&tags),
        429 => {
            let wait = asked_to_wait(reply, error);
            failed(ErrorKind::RateLimited(wait), "too many requests")
        }
        400 => {
            let text = excerpt(reply);
            // The service's words for a piece that differs from the one it has.
            if text.contains("Different data already uploaded") {
                return refused(DIFFERENT_DATA);
            }
            let error = failed(ErrorKind::Invalid, &text);
            if text.contains("scope") {
                // The text names the right in quotes, behind the call's name.
                let named = SCOPES
                    .iter()
                    .find(|scope| text.contains(&format!("'{scope}'")));
                scope_hint(error).lacking(named.copied())
            } else {
                error
            }
        }
        403 if !tags.is_empty() => failed(ErrorKind::Unauthorized, &tags),
        403 => failed(ErrorKind::Unauthorized, &excerpt(reply)),
        // Pages of a proxy or a captive portal on the way, and requests for another host.
        300..=399 | 407 | 408 | 421 | 500..=599 => failed(ErrorKind::Unavailable, &excerpt(reply)),
        _ => failed(ErrorKind::Unexpected, &excerpt(reply)),
    })
}

/// Why a call was refused: the tags of `error`, or else the words of `error_summary`, which are the same
/// and may end in some dots.
fn reason(value: &Value) -> String {
    let tags = value.get("error").map(tags).unwrap_or_default();
    if !tags.is_empty() {
        return tags;
    }
    let summary = value.get("error_summary").and_then(Value::as_str);
    summary
        .unwrap_or_default()
        .trim_end_matches('.')
        .trim_end_matches('/')
        .to_owned()
}

/// The body as JSON, unless it says that it is something else.
pub fn json(reply: &Reply) -> Option<Value> {
    let html = reply
        .headers
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"text/html"));
    if html {
        None
    } else {
        serde_json::from_slice(&reply.body).ok()
    }
}

/// A few words of a body for a message; never a page.
pub fn excerpt(reply: &Reply) -> String {
    let html = reply.body.trim_ascii_start().starts_with(b"<");
    let text = String::from_utf8_lossy(&reply.body[..reply.body.len().min(400)]);
    let text = text.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
    match text.as_str() {
        "" => "an empty reply".to_owned(),
        _ if html => "a web page instead of an answer".to_owned(),
        text => text.chars().take(200).collect(),
    }
}

/// How long a 429 asks to wait: the larger of header and body.
pub fn asked_to_wait(reply: &Reply, error: Option<&Value>) -> Option<Duration> {
    let header = reply
        .headers
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.trim().parse::<u64>().ok());
    let body = error.and_then(|error| find_number(error, "retry_after"));
    header.max(body).map(Duration::from_secs)
}

fn request_id(headers: &HeaderMap) -> String {
    let id = headers
        .get("x-dropbox-request-id")
        .and_then(|value| value.to_str().ok());
    id.map(|id| format!(" (request {id})")).unwrap_or_default()
}

fn unauthorized(failed: Error, error: Option<&Value>) -> Error {
    match error.and_then(|error| error.get("required_scope")).and_then(Value::as_str) {
        Some(scope) => failed.hint(format!(
            "the refresh token lacks the right `{scope}`: tick it under Permissions in the Dropbox app console, \
             submit, and obtain a new refresh token (an old one keeps the old rights): sudo gitlab-pi-backup login"
        ))
        .lacking([scope]),
        None => failed.hint("the token was revoked or belongs to another app; obtain a new refresh token: \
             sudo gitlab-pi-backup login"),
    }
}

/// The app itself lacks a right.
fn scope_hint(error: Error) -> Error {
    error.hint(format!(
        "tick {} under Permissions in the Dropbox app console, submit, and obtain a new refresh token: sudo gitlab-pi-backup login",
        SCOPES.join(", ")
    ))
}

/// `{".tag": "path", "path": {".tag": "not_found"}}` → `path/not_found`.
fn tags(error: &Value) -> String {
    let mut tags = Vec::new();
    let mut current = Some(error);
    while let Some(value) = current {
        let tag = value
            .as_str()
            .or_else(|| value.get(".tag").and_then(Value::as_str));
        let Some(tag) = tag else { break };
        tags.push(tag);
        // `reason` is where a write error hides in the answer of a single upload or a 429.
        current = value
            .get(tag)
            .or_else(|| value.get("reason"))
            .filter(|_| tags.len() < 8);
    }
    tags.join("/")
}

/// Looks for a number in an error and the objects it wraps.
fn find_number(error: &Value, field: &str) -> Option<u64> {
    let object = error.as_object()?;
    let here = object.get(field).and_then(Value::as_u64);
    here.or_else(|| object.values().find_map(|inner| find_number(inner, field)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Retry;
    use serde_json::json;

    fn reply(status: u16, headers: &[(&str, &str)], body: &str) -> Reply {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: reqwest::header::HeaderName = name.parse().expect("a header name");
            map.insert(name, value.parse().expect("a header value"));
        }
        Reply {
            status,
            headers: map,
            body: body.as_bytes().to_vec(),
        }
    }

    fn failed(status: u16, headers: &[(&str, &str)], body: &str) -> Error {
        match read("testing", &reply(status, headers, body)) {
            Outcome::Failed(error) => error,
            Outcome::Answer(answer) => panic!("{answer:?}"),
            Outcome::ExpiredToken => panic!("expired"),
        }
    }

    #[test]
    fn every_status_has_a_decision() {
        for status in 100..=599 {
            let expected = match status {
                200..=399 | 407 | 408 | 421 | 500..=599 => Retry::Backoff,
                429 => Retry::After(Duration::from_secs(5)),
                _ => Retry::Never,
            };
            let error = failed(status, &[("content-type", "text/html")], "<html>no</html>");
            assert_eq!(error.kind().retry(), expected, "{status}: {error}");
        }
    }

    #[test]
    fn a_rate_limit_takes_the_larger_number() {
        for (headers, body, seconds) in [
            (&[("retry-after", "7")][..], "plain text", Some(7)),
            (
                &[("retry-after", "1")],
                r#"{"error":{"reason":{".tag":"too_many_requests"},"retry_after":15}}"#,
                Some(15),
            ),
            (
                &[],
                r#"{"error":{"reason":{".tag":"too_many_write_operations"}}}"#,
                None,
            ),
        ] {
            let kind = failed(429, headers, body).kind();
            assert_eq!(
                kind,
                ErrorKind::RateLimited(seconds.map(Duration::from_secs))
            );
        }
    }

    #[test]
    fn refusals_are_read_from_their_tags_however_deep() {
        let body = r#"{"error_summary": "path/conflict/file/..", "error":
            {".tag": "path", "path": {".tag": "conflict", "conflict": {".tag": "file"}}}}"#;
        let Outcome::Answer(Err(refusal)) = read("x", &reply(409, &[], body)) else {
            panic!("a refusal")
        };
        assert_eq!(refusal.tags, "path/conflict/file");
        let body = r#"{"error": {".tag": "lookup_failed",
            "lookup_failed": {".tag": "incorrect_offset", "correct_offset": 4194304}}}"#;
        let Outcome::Answer(Err(refusal)) = read("x", &reply(409, &[], body)) else {
            panic!("a refusal")
        };
        assert_eq!(
            (refusal.tags.as_str(), refusal.correct_offset),
            ("lookup_failed/incorrect_offset", Some(4_194_304))
        );
        let busy = r#"{"error": {".tag": "path", "path": {".tag": "too_many_write_operations"}}}"#;
        assert_eq!(failed(409, &[], busy).kind(), ErrorKind::Unavailable);
    }

    #[test]
    fn an_app_that_lacks_a_right_is_told_all_it_is_to_have() {
        let body = "Error in call to API function \"files/download\": Your app is not permitted to access this \
            endpoint because it does not have the required scope 'files.content.read'.";
        let error = failed(400, &[("content-type", "text/plain")], body).to_string();
        for scope in SCOPES {
            assert!(error.contains(scope), "{scope}: {error}");
        }
        assert!(NEEDED_TO_STORE.iter().all(|scope| SCOPES.contains(scope)));
    }

    #[test]
    fn a_summary_alone_tells_enough() {
        let body = r#"{"error_summary": "path/not_found/.."}"#;
        let Outcome::Answer(Err(refusal)) = read("x", &reply(409, &[], body)) else {
            panic!("a refusal")
        };
        assert_eq!(refusal.tags, "path/not_found");
        let expired = r#"{"error_summary": "expired_access_token/..."}"#;
        assert!(matches!(
            read("x", &reply(401, &[], expired)),
            Outcome::ExpiredToken
        ));
        let body = "Error in call to API function: Different data already uploaded at offset 0";
        assert!(matches!(
            read("x", &reply(400, &[], body)),
            Outcome::Answer(Err(_))
        ));
    }

    #[test]
    fn a_missing_right_is_named() {
        let body =
            r#"{"error": {".tag": "missing_scope", "required_scope": "files.content.write"}}"#;
        let error = failed(401, &[("x-dropbox-request-id", "abc")], body).to_string();
        assert!(
            error.contains("`files.content.write`") && error.contains("(request abc)"),
            "{error}"
        );
        let expired = r#"{"error": {".tag": "expired_access_token"}}"#;
        assert!(matches!(
            read("x", &reply(401, &[], expired)),
            Outcome::ExpiredToken
        ));
    }

    #[test]
    fn header_arguments_are_ascii_and_still_the_same_json() {
        let argument = json!({"path": "/Ärger/\u{1F600}\u{7f}\u{1}\"\\.tar"});
        let header = header_argument(&argument);
        assert!(
            header.bytes().all(|b| (0x20..0x7f).contains(&b)),
            "{header}"
        );
        assert_eq!(
            serde_json::from_str::<Value>(&header).expect("JSON"),
            argument
        );
    }
}
