//! One request to a target, with a second and a third try.

use std::time::Duration;

use bytes::Bytes;
use reqwest::Url;
use reqwest::header::{HeaderName, HeaderValue};

use crate::error::{Error, ErrorKind};
use crate::http::{Http, Method, Payload, Request};
use crate::retry::{Patience, Pause, retry};

/// More tries than these help nobody who waits for the run to end.
const TRIES: u32 = 3;

/// Sends `body`, and takes every reply of success for one. `what` names the target by its kind: its address is
/// a secret, and nothing of what it answers but the status is read, as it may repeat the address or never end.
pub async fn post(
    http: &Http,
    what: &str,
    url: Url,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: String,
) -> Result<(), Error> {
    let action = format!("sending to {what}");
    let body = Payload::Bytes(Bytes::from(body));
    let line = http.line();
    persistently(http.stall(), async || {
        let request = Request {
            method: Method::POST,
            url: url.clone(),
            headers: headers.clone(),
            body: body.clone(),
            reply_wait: http.stall(),
        };
        judge(&action, line.tell(&action, request).await?)
    })
    .await
}

/// Tries again what may succeed then, but not often: `step` is how long one try may be silent.
pub async fn persistently(
    step: Duration,
    mut operation: impl AsyncFnMut() -> Result<(), Error>,
) -> Result<(), Error> {
    let mut left = TRIES;
    // A target that hangs is asked twice.
    let patience = Patience::new(step + step / 2);
    let attempt = async || {
        left -= 1;
        match operation().await {
            Err(error) if left == 0 => Ok(Err(error)),
            Err(error) => Err(error),
            Ok(()) => Ok(Ok(())),
        }
    };
    retry(&Pause::default(), &patience, attempt).await?
}

fn judge(action: &str, status: u16) -> Result<(), Error> {
    let (kind, hint) = match status {
        200..=299 => return Ok(()),
        300..=399 => (
            ErrorKind::Invalid,
            "it wants to lead elsewhere, which is not followed: give the address it leads to",
        ),
        401 | 403 => (
            ErrorKind::Unauthorized,
            "give user and password in the address (https://USER:PASSWORD@…; for a token of ntfy https://:TOKEN@…)",
        ),
        404 | 410 => (
            ErrorKind::NotFound,
            "is the address right, and does the check or topic still exist?",
        ),
        405 => (
            ErrorKind::Invalid,
            "it takes no POST: is the address right?",
        ),
        413 => (ErrorKind::Invalid, "the message is too long for it"),
        429 => (ErrorKind::Unavailable, "it was sent too much lately"),
        500..=599 => (ErrorKind::Unavailable, "look at the server, or try later"),
        _ => (ErrorKind::Invalid, "is the address right?"),
    };
    Err(Error::new(kind, action, format!("the server answered {status}")).hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Retry;

    #[test]
    fn what_a_status_means() {
        for status in 200..=299 {
            assert!(judge("a", status).is_ok());
        }
        for status in (100..200).chain(300..=600) {
            let error = judge("sending to the webhook", status).expect_err("no success");
            let again = error.kind().retry() == Retry::Backoff;
            assert_eq!(
                again,
                status == 429 || (500..600).contains(&status),
                "{status}"
            );
            let text = error.to_string();
            assert!(text.starts_with(&format!(
                "sending to the webhook: the server answered {status}\n  "
            )));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn three_tries_and_no_more() {
        let mut tries = 0;
        let fails = async || {
            tries += 1;
            Err(Error::new(ErrorKind::Unavailable, "a", "b"))
        };
        let error = persistently(Duration::from_secs(10), fails)
            .await
            .expect_err("in vain");
        assert_eq!((tries, error.to_string().as_str()), (3, "a: b"));
        let mut tries = 0;
        let refused = async || {
            tries += 1;
            Err(Error::new(ErrorKind::Invalid, "a", "b"))
        };
        persistently(Duration::from_secs(10), refused)
            .await
            .expect_err("refused");
        assert_eq!(tries, 1);
        let mut tries = 0;
        let second = async || {
            tries += 1;
            if tries == 2 {
                Ok(())
            } else {
                Err(Error::new(ErrorKind::Unavailable, "a", "b"))
            }
        };
        persistently(Duration::from_secs(10), second)
            .await
            .expect("at last");
    }
}
