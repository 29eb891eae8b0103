//! What a reply means that is not the one that was hoped for.

use std::time::Duration;

use reqwest::Url;
use reqwest::header::RETRY_AFTER;

use super::multistatus::message;
use crate::error::{Error, ErrorKind};
use crate::http::Reply;

/// So much of a page is looked at, in bytes.
const LONGEST_EXCERPT: usize = 4096;

/// From the status, and what the server says of it.
pub fn failed(action: &str, reply: &Reply) -> Error {
    let (kind, hint) = judge(reply);
    let what = format!("the server answered {}{}", reply.status, words(reply));
    let error = Error::new(kind, action, what);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

fn judge(reply: &Reply) -> (ErrorKind, Option<&'static str>) {
    match reply.status {
        401 => (
            ErrorKind::Unauthorized,
            Some(
                "check `username` and `password`, or `token`; Nextcloud gives app passwords under Settings, Security",
            ),
        ),
        403 => (
            ErrorKind::Unauthorized,
            Some("the folder may be read-only for this user"),
        ),
        404 | 410 => (ErrorKind::NotFound, None),
        405 | 501 => (
            ErrorKind::Invalid,
            Some("is `url` the address of a WebDAV folder, and may this user write there?"),
        ),
        413 => (
            ErrorKind::Invalid,
            Some(
                "the server or a proxy takes no file that large: raise its limit (nginx: client_max_body_size, \
                  Apache: LimitRequestBody)",
            ),
        ),
        423 => (
            ErrorKind::Unavailable,
            Some("somebody has locked it there: wait, or unlock it"),
        ),
        507 => (ErrorKind::NoSpace, Some("make room there")),
        429 => (ErrorKind::RateLimited(asked_to_wait(reply)), None),
        503 if asked_to_wait(reply).is_some() => {
            (ErrorKind::RateLimited(asked_to_wait(reply)), None)
        }
        408 | 425 | 500..=599 => (ErrorKind::Unavailable, None),
        407 => (ErrorKind::Unavailable, Some("check the proxy settings")),
        200..=299 => (
            ErrorKind::Unexpected,
            Some(
                "is `url` the address of a WebDAV folder? Nextcloud's is https://HOST/remote.php/dav/files/USER/",
            ),
        ),
        400..=499 => (ErrorKind::Invalid, None),
        _ => (ErrorKind::Unexpected, None),
    }
}

/// The server sends on to another one: a password is not shown there.
pub fn sent_elsewhere(action: &str, to: Option<&Url>) -> Error {
    let Some(to) = to else {
        return Error::new(
            ErrorKind::Unexpected,
            action,
            "the server sends on to nowhere",
        );
    };
    // What stands behind the path may be a secret.
    let shown = format!("{}{}", to.origin().ascii_serialization(), to.path());
    Error::new(
        ErrorKind::Invalid,
        action,
        format!("the server sends on to {shown}, another server"),
    )
    .hint("if that is the right one, correct `url`")
}

/// What the server says: its message, else that it is a page, else nothing.
fn words(reply: &Reply) -> String {
    let body = &reply.body[..reply.body.len().min(LONGEST_EXCERPT)];
    let text = String::from_utf8_lossy(body);
    let start = text.trim_start().to_ascii_lowercase();
    if let Some(message) =
        message(&text).filter(|_| !start.starts_with("<html") && !start.starts_with("<!doctype"))
    {
        return format!(": {message}");
    }
    if start.starts_with('<') {
        return if start.contains("<html") {
            " with a web page".to_owned()
        } else {
            String::new()
        };
    }
    let words = text.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
    let words: String = words.chars().take(200).collect();
    if words.is_empty() {
        words
    } else {
        format!(": {words}")
    }
}

fn asked_to_wait(reply: &Reply) -> Option<Duration> {
    let header = reply.headers.get(RETRY_AFTER)?.to_str().ok()?;
    header.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Retry;
    use reqwest::header::HeaderMap;

    fn reply(status: u16, body: &str) -> Reply {
        Reply {
            status,
            headers: HeaderMap::new(),
            body: body.as_bytes().to_vec(),
        }
    }

    #[test]
    fn every_status_has_a_decision() {
        for status in 100..=599 {
            let error = failed("testing", &reply(status, "<html>no</html>"));
            let expected = match status {
                407 | 408 | 423 | 425 | 500 | 502..=506 | 508..=599 => Retry::Backoff,
                429 => Retry::After(Duration::from_secs(5)),
                _ => Retry::Never,
            };
            assert_eq!(error.kind().retry(), expected, "{status}: {error}");
        }
        let mut maintenance = reply(503, "");
        maintenance
            .headers
            .insert(RETRY_AFTER, "120".parse().expect("a value"));
        let kind = failed("testing", &maintenance).kind();
        assert_eq!(kind.retry(), Retry::After(Duration::from_mins(2)));
    }

    #[test]
    fn what_the_server_says_is_told_and_pages_are_not() {
        let sabre = "<?xml version=\"1.0\"?><d:error xmlns:d=\"DAV:\" xmlns:s=\"http://sabredav.org/ns\">\
            <s:exception>Sabre\\DAV\\Exception\\InsufficientStorage</s:exception>\
            <s:message>no &amp; room\u{1b}</s:message></d:error>";
        for (body, told) in [
            (
                sabre,
                "a: the server answered 507: no & room\u{fffd}\n  make room there",
            ),
            (
                "<!DOCTYPE html><html><p>message</p></html>",
                "a: the server answered 507 with a web page\n  make room there",
            ),
            (
                "no room\n",
                "a: the server answered 507: no room\n  make room there",
            ),
            ("", "a: the server answered 507\n  make room there"),
        ] {
            assert_eq!(failed("a", &reply(507, body)).to_string(), told);
        }
        let long = failed("a", &reply(400, &"x".repeat(1 << 20)));
        assert!(long.to_string().len() < 300);
    }

    #[test]
    fn where_it_sends_on_is_told_without_what_may_be_a_secret() {
        let to = Url::parse("https://u:marked@other.example:8443/login?token=marked")
            .expect("an address");
        let told = sent_elsewhere("a", Some(&to)).to_string();
        assert!(
            told.contains("https://other.example:8443/login, another"),
            "{told}"
        );
        assert!(!told.contains("marked"), "{told}");
    }
}
