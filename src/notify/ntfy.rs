//! A message to a telephone by [ntfy](https://docs.ntfy.sh/publish/).

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use reqwest::header::{CONTENT_TYPE, HeaderName, HeaderValue};

use crate::error::Error;
use crate::http::Http;
use crate::notify::address::Address;
use crate::notify::message::{Message, Verdict, beginning};
use crate::notify::post::post;

/// A longer message would become an attachment.
const LONGEST: usize = 4_000;

/// Sends it.
pub async fn send(http: &Http, address: &Address, message: &Message) -> Result<(), Error> {
    let (priority, tag) = match message.verdict {
        Verdict::Ok | Verdict::Recovered => ("default", "white_check_mark"),
        Verdict::Partial => ("high", "warning"),
        Verdict::Failed => ("high", "rotating_light"),
    };
    let name = HeaderName::from_static;
    let headers = vec![
        (
            CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        ),
        (name("title"), header(&message.title)),
        (name("priority"), HeaderValue::from_static(priority)),
        (name("tags"), HeaderValue::from_static(tag)),
    ];
    let body = beginning(message.text.trim_end(), LONGEST).to_owned();
    post(http, "ntfy", address.url(), headers, body).await
}

/// A text as a header takes it, in the way of RFC 2047 where it is not all ASCII.
fn header(text: &str) -> HeaderValue {
    HeaderValue::from_str(text)
        .ok()
        .filter(|_| text.is_ascii())
        .or_else(|| {
            let encoded = format!("=?UTF-8?B?{}?=", BASE64_STANDARD.encode(text));
            HeaderValue::from_str(&encoded).ok()
        })
        .unwrap_or_else(|| HeaderValue::from_static("GitLab backup"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_is_always_ascii() {
        assert_eq!(header("GitLab backup on pi: ok"), "GitLab backup on pi: ok");
        assert_eq!(header("böse\nHost: x"), "=?UTF-8?B?YsO2c2UKSG9zdDogeA==?=");
    }
}
