//! The run as JSON, for programs.

use reqwest::header::{CONTENT_TYPE, HeaderValue};

use crate::error::Error;
use crate::http::Http;
use crate::notify::address::Address;
use crate::notify::message::Message;
use crate::notify::post::post;

/// Sends the document that `--json` prints.
pub async fn send(http: &Http, address: &Address, message: &Message) -> Result<(), Error> {
    let json = HeaderValue::from_static("application/json");
    let body = message.document.to_string();
    post(
        http,
        "the webhook",
        address.url(),
        vec![(CONTENT_TYPE, json)],
        body,
    )
    .await
}
