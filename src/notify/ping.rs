//! Pings of a check at [healthchecks.io](https://healthchecks.io/docs/http_api/), or at a server of its kind: it
//! sounds the alarm when they stay away, whatever the reason. They are always sent.

use reqwest::Url;
use reqwest::header::{CONTENT_TYPE, HeaderValue};

use crate::error::Error;
use crate::http::Http;
use crate::notify::address::Address;
use crate::notify::message::Message;
use crate::notify::post::post;

/// Of a longer body only the beginning would be kept.
const LONGEST: usize = 100_000;
const WHAT: &str = "the health check";

/// A run begins; with it the server measures how long it takes.
pub async fn started(http: &Http, address: &Address, run_id: &str) -> Result<(), Error> {
    send(
        http,
        named(address.below("start"), Some(run_id)),
        String::new(),
    )
    .await
}

/// How it ended. Done in part counts as failed: a person is to look.
pub async fn ended(http: &Http, address: &Address, message: &Message) -> Result<(), Error> {
    let url = if message.verdict.is_failure() {
        address.below("fail")
    } else {
        address.url()
    };
    let body = format!(
        "{}\n\n{}",
        message.title,
        message.whole(LONGEST - message.title.len() - 2)
    );
    send(http, named(url, message.run_id.as_deref()), body).await
}

async fn send(http: &Http, url: Url, body: String) -> Result<(), Error> {
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    post(http, WHAT, url, vec![(CONTENT_TYPE, text)], body).await
}

/// Lets the server tell runs apart.
fn named(mut url: Url, run_id: Option<&str>) -> Url {
    if let Some(run_id) = run_id {
        url.query_pairs_mut().append_pair("rid", &uuid(run_id));
    }
    url
}

/// Always the same for a run, so that what is at the server can be found in the history. Version 8 of
/// <https://www.rfc-editor.org/rfc/rfc9562>: made in our own way.
fn uuid(run_id: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, run_id.as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.as_ref()[..16]);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = format!("{:032x}", u128::from_be_bytes(bytes));
    let parts = [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ];
    parts.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_has_one_uuid() {
        let one = uuid("20231216T202943Z-1f");
        assert_eq!(one, uuid("20231216T202943Z-1f"));
        assert_ne!(one, uuid("20231216T202943Z-20"));
        let lengths: Vec<_> = one.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
        assert!(
            &one[14..15] == "8" && "89ab".contains(&one[19..20]),
            "{one}"
        );
        let url = Url::parse("https://x/ping/a?create=1").expect("an address");
        let expected = format!("https://x/ping/a?create=1&rid={one}");
        assert_eq!(named(url, Some("20231216T202943Z-1f")).as_str(), expected);
    }
}
