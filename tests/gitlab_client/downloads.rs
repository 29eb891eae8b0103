//! Downloads: continued where they broke, never mixed, and never taken for whole when they are not.

use std::sync::{Arc, Mutex};

use gitlab_pi_backup::error::{Error, ErrorKind};
use gitlab_pi_backup::gitlab::api::{Api, Part};

use crate::server::{Answer, Seen, Server};
use crate::{TOKEN, client, refused, run};

const TAG: &str = "\"first\"";

fn bytes() -> Vec<u8> {
    (0..200_000_u32).map(|i| (i % 251) as u8).collect()
}

/// As servers do it that can send parts.
fn file(seen: &Seen, bytes: &[u8], tag: &'static str) -> Answer {
    let from = seen.head.header("range").and_then(|range| {
        let same = seen.head.header("if-range").is_none_or(|told| told == tag);
        let from = range.strip_prefix("bytes=")?.strip_suffix('-')?;
        from.parse::<usize>().ok().filter(|_| same)
    });
    let kind = |answer: Answer| {
        answer
            .with("ETag", tag)
            .with("Content-Type", "application/octet-stream")
    };
    match from {
        Some(from) if from >= bytes.len() => {
            kind(Answer::new(416, "")).with("Content-Range", format!("bytes */{}", bytes.len()))
        }
        Some(from) => {
            let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
            kind(Answer::new(206, &bytes[from..])).with("Content-Range", range)
        }
        None => kind(Answer::new(200, bytes)).with(
            "Content-Disposition",
            "attachment; filename=../../etc/passwd",
        ),
    }
}

/// What came, put where it belongs; the validator, and the whole length that was told.
#[derive(Default)]
struct Got {
    bytes: Vec<u8>,
    first: Option<u64>,
    validator: Option<String>,
    len: Option<u64>,
}

async fn download(api: &Api, from: u64, tag: Option<&str>) -> (Result<bool, Error>, Got) {
    let got = Arc::new(Mutex::new(Got::default()));
    let shared = Arc::clone(&got);
    let take = move |part: &Part<'_>, piece: &[u8]| {
        let mut got = shared.lock().expect("a lock");
        got.first.get_or_insert(part.offset);
        assert_eq!(part.offset, got.first.unwrap_or(0) + got.bytes.len() as u64);
        got.bytes.extend_from_slice(piece);
        got.validator = part.validator.map(str::to_owned);
        got.len = part.len;
        true
    };
    let result = api.download_export(42, from, tag, take).await;
    let got = std::mem::take(&mut *got.lock().expect("a lock"));
    (result, got)
}

#[test]
fn a_download_is_whole_and_can_be_continued() {
    let server = Server::start(|seen| file(seen, &bytes(), TAG));
    let api = client(&server);
    run(async {
        let (result, got) = download(&api, 0, None).await;
        assert!(result.expect("the export"));
        assert_eq!((got.first, got.len), (Some(0), Some(200_000)));
        assert!(got.bytes == bytes());
        assert_eq!(got.validator.as_deref(), Some(TAG));
        let (result, got) = download(&api, 150_000, Some(TAG)).await;
        assert!(result.expect("the rest"));
        assert_eq!((got.first, got.len), (Some(150_000), Some(200_000)));
        assert!(got.bytes == bytes()[150_000..]);
        // It was there already.
        let (result, got) = download(&api, 200_000, Some(TAG)).await;
        assert!(result.expect("nothing more"));
        assert!(got.bytes.is_empty());
        // Another export meanwhile: all of it.
        let (result, got) = download(&api, 150_000, Some("\"other\"")).await;
        assert!(result.expect("the export"));
        assert_eq!((got.first, got.bytes.len()), (Some(0), 200_000));
        // Without a validator nobody knows.
        let (_, got) = download(&api, 150_000, None).await;
        assert_eq!(got.first, Some(0));
        // And what is shorter now is another one, too.
        let (result, _) = download(&api, 200_001, Some(TAG)).await;
        assert_eq!(refused(result).kind(), ErrorKind::SourceChanged);
    });
    let seen = server.seen();
    assert_eq!(seen[0].line(), "GET /api/v4/projects/42/export/download");
    assert_eq!(seen[0].head.header("range"), None);
    assert_eq!(seen[1].head.header("range"), Some("bytes=150000-"));
    assert_eq!(seen[1].head.header("if-range"), Some(TAG));
}

#[test]
fn a_download_that_was_cut_is_an_error_that_helps_to_continue() {
    for cut in [0, 1, 100_000, 199_999] {
        let server = Server::start(move |seen| file(seen, &bytes(), TAG).cut(cut));
        let (result, got) = run(download(&client(&server), 0, None));
        assert_eq!(refused(result).kind(), ErrorKind::Unavailable);
        assert!(got.bytes == bytes()[..got.bytes.len()] && got.bytes.len() <= cut);
    }
    // A part that is said to be shorter than the rest.
    let server = Server::start(|_| {
        Answer::new(206, "abc")
            .with("Content-Range", "bytes 10-12/99")
            .with("ETag", TAG)
    });
    let error = refused(run(download(&client(&server), 10, Some(TAG))).0);
    assert!(
        error
            .to_string()
            .contains("the download was cut: 13 B of 99 B came"),
        "{error}"
    );
    // A part that nobody asked for.
    for from in [0, 11] {
        let error = refused(run(download(&client(&server), from, Some(TAG))).0);
        assert!(error.to_string().contains("another part came"), "{error}");
    }
}

#[test]
fn what_is_no_export_is_not_taken_for_one() {
    for (status, kind, body, expected, told) in [
        (
            200,
            "text/html",
            "<html>",
            ErrorKind::Unexpected,
            "an HTML page came instead",
        ),
        (
            200,
            "application/octet-stream",
            "<!DOCTYPE html>",
            ErrorKind::Unexpected,
            "an HTML page",
        ),
        (
            200,
            "application/json",
            "{}",
            ErrorKind::Unexpected,
            "a message came instead",
        ),
        (
            404,
            "application/json",
            "{\"message\":\"404 Not found or has expired\"}",
            ErrorKind::NotFound,
            "Not found or has expired\n  exports expire",
        ),
        (
            204,
            "text/plain",
            "",
            ErrorKind::Unexpected,
            "an export was asked for",
        ),
    ] {
        let server = Server::start(move |_| Answer::new(status, body).with("Content-Type", kind));
        let (result, got) = run(download(&client(&server), 0, None));
        let error = refused(result);
        assert_eq!(error.kind(), expected, "{error}");
        assert!(error.to_string().contains(told), "{error}");
        assert!(got.first.is_none());
    }
    let empty = Server::start(|_| Answer::new(200, "").with("Content-Type", "application/gzip"));
    let (result, got) = run(download(&client(&empty), 0, None));
    assert!(result.expect("an empty file") && got.bytes.is_empty());
}

#[test]
fn an_object_store_gets_the_address_and_never_the_token() {
    let store = Server::start(|seen| file(seen, &bytes(), TAG));
    let to = format!("{}/exports/42?X-Amz-Signature=marked-address", store.url());
    let server = Server::start(move |_| Answer::new(302, "").with("Location", to.clone()));
    let api = client(&server);
    let (result, got) = run(download(&api, 100, Some(TAG)));
    assert!(result.expect("the rest"));
    assert!(got.first == Some(100) && got.bytes == bytes()[100..]);
    assert_eq!(server.seen()[0].head.header("private-token"), Some(TOKEN));
    let seen = store.seen();
    assert_eq!(seen[0].head.header("private-token"), None);
    assert_eq!(seen[0].head.header("authorization"), None);
    assert_eq!(seen[0].head.header("range"), Some("bytes=100-"));
    // What fails there does not tell the address.
    for (to, told) in [
        (
            "http://store.example/k?X-Amz-Signature=marked-address",
            "sends on to http://store.example/k",
        ),
        ("/users/sign_in", "a login page"),
        (
            "http://127.0.0.1:1/k?X-Amz-Signature=marked-address",
            "no connection",
        ),
    ] {
        let server = Server::start(move |_| Answer::new(302, "").with("Location", to));
        let error = refused(run(download(&client(&server), 0, None)).0);
        assert!(error.to_string().contains(told), "{error}");
    }
    let refusing = Server::start(|seen| {
        Answer::new(
            403,
            format!(
                "<?xml version=\"1.0\"?><Error><Resource>{}</Resource></Error>",
                seen.head.target
            ),
        )
    });
    let to = format!("{}/k?X-Amz-Signature=marked-address", refusing.url());
    let server = Server::start(move |_| Answer::new(302, "").with("Location", to.clone()));
    let error = refused(run(download(&client(&server), 0, None)).0);
    assert_eq!(error.kind(), ErrorKind::Unexpected);
    assert!(
        error
            .to_string()
            .contains("the object store that GitLab keeps exports in answered 403"),
        "{error}"
    );
}

#[test]
fn who_wants_no_more_is_not_sent_more() {
    let server = Server::start(|seen| file(seen, &bytes(), TAG));
    let api = client(&server);
    let mut pieces = 0;
    let result = run(api.download_export(42, 0, None, |_, _| {
        pieces += 1;
        false
    }));
    assert!(!result.expect("stopped"));
    assert_eq!(pieces, 1);
}
