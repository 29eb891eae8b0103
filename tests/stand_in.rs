//! The stand-in, seen from a socket: what every fault does to the request and to the account.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::dropbox::{Dropbox, Fault, Line, Moment, Options, Reply, StallAt, What};

const BLOCK: usize = 4 << 20;

/// One request on a connection of its own; the status and the body as far as they came.
fn send(
    dropbox: &Dropbox,
    path: &str,
    headers: &str,
    body: &[u8],
) -> Result<(u16, String), ErrorKind> {
    let address = dropbox.url().trim_start_matches("http://").to_owned();
    let mut socket = TcpStream::connect(address).expect("a server");
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n",
        body.len()
    );
    // A reset may come while sending; then reading tells.
    let _ = socket
        .write_all(head.as_bytes())
        .and_then(|()| socket.write_all(body));
    let mut reply = String::new();
    socket
        .read_to_string(&mut reply)
        .map_err(|error| error.kind())?;
    let (head, text) = reply
        .split_once("\r\n\r\n")
        .ok_or(ErrorKind::UnexpectedEof)?;
    let length = head
        .split("Content-Length: ")
        .nth(1)
        .and_then(|rest| rest.split("\r\n").next());
    let length = length.expect("a length").parse().expect("a number");
    if text.len() < length {
        return Err(ErrorKind::UnexpectedEof);
    }
    Ok((head[9..12].parse().expect("a status"), text.to_owned()))
}

fn upload(
    dropbox: &Dropbox,
    call: &str,
    arg: &Value,
    body: &[u8],
) -> Result<(u16, Value), ErrorKind> {
    let token = dropbox.access_token();
    let headers = format!(
        "Authorization: Bearer {token}\r\nContent-Type: application/octet-stream\r\nDropbox-API-Arg: {arg}\r\n"
    );
    let (status, text) = send(dropbox, &format!("/2/files/upload{call}"), &headers, body)?;
    Ok((
        status,
        serde_json::from_str(&text).unwrap_or(Value::String(text)),
    ))
}

fn put(dropbox: &Dropbox, path: &str) -> Result<(u16, Value), ErrorKind> {
    upload(dropbox, "", &json!({ "path": path }), b"some bytes")
}

fn paths(dropbox: &Dropbox) -> Vec<String> {
    dropbox
        .files()
        .into_iter()
        .map(|file| file.path_display)
        .collect()
}

#[test]
fn resets_and_lost_replies() {
    let dropbox = Dropbox::start(Options::default());
    for what in [
        What::ResetBeforeBody,
        What::ResetInBody(4),
        What::ResetAfterBody,
        What::LostReply,
    ] {
        dropbox.fault(Fault::on("/upload", what.clone()));
        assert_eq!(
            put(&dropbox, "/a").expect_err("no reply"),
            ErrorKind::ConnectionReset,
            "{what:?}"
        );
        assert_eq!(
            paths(&dropbox).len(),
            usize::from(matches!(what, What::LostReply)),
            "{what:?}"
        );
    }
    assert_eq!(
        put(&dropbox, "/a").expect("a reply").0,
        200,
        "the same content again"
    );
    let seen = dropbox.requests();
    let statuses: Vec<_> = seen
        .iter()
        .map(|seen| (seen.status, seen.faulted, seen.received))
        .collect();
    let reset = |received| (None, true, received);
    assert_eq!(
        statuses,
        [
            reset(0),
            reset(4),
            reset(10),
            reset(10),
            (Some(200), false, 10)
        ]
    );
    assert_eq!(seen[0].endpoint, "/2/files/upload");
    assert_eq!(seen[4].arg["path"], "/a");
}

#[test]
fn damaged_replies() {
    let dropbox = Dropbox::start(Options::default());
    dropbox.fault(Fault::on("", What::TruncatedReply));
    assert_eq!(
        put(&dropbox, "/truncated").expect_err("no reply"),
        ErrorKind::UnexpectedEof
    );
    dropbox.fault(Fault::on("", What::BrokenJson));
    let (status, text) = put(&dropbox, "/broken").expect("a reply");
    assert!(status == 200 && text.is_string(), "{text}");
    dropbox.fault(Fault::on("", What::HtmlOk));
    let (status, text) = put(&dropbox, "/page").expect("a reply");
    assert!(status == 200 && text.as_str().expect("a text").starts_with("<html>"));
    assert_eq!(paths(&dropbox), ["/broken", "/truncated"]);
}

#[test]
fn replies_on_demand_in_their_order() {
    let dropbox = Dropbox::start(Options::default());
    dropbox.fault(
        Fault::on("upload", What::too_many_requests(Some(7)))
            .skip(1)
            .times(2),
    );
    dropbox.fault(Fault::on("upload", What::server_error(502)).skip(2));
    dropbox.fault(Fault::on("list_folder", What::server_error(500)).forever());
    dropbox.fault(Fault::on("upload", What::ExpiredToken).skip(4));
    dropbox.fault(Fault::on("upload", What::InsufficientSpace).skip(5));
    dropbox.fault(Fault::on("upload", What::Reply(Reply::text(503, "busy"))).skip(6));
    let statuses: Vec<u16> = (0..8)
        .map(|n| put(&dropbox, &format!("/{n}")).expect("a reply").0)
        .collect();
    assert_eq!(statuses, [200, 429, 429, 502, 401, 409, 503, 200]);
}

#[test]
fn stalls_end_with_their_time_and_with_the_server() {
    let dropbox = Dropbox::start(Options::default());
    let time = Duration::from_millis(200);
    for at in [StallAt::Head, StallAt::Body(3), StallAt::Reply] {
        dropbox.fault(Fault::on("", What::Stall(at, Some(time))));
        let begun = Instant::now();
        assert_eq!(put(&dropbox, "/a").expect("a reply").0, 200);
        assert!(begun.elapsed() >= time, "{at:?}");
    }
    dropbox.fault(Fault::on("", What::Stall(StallAt::Body(5), None)));
    std::thread::scope(|scope| {
        let shared = &dropbox;
        let stalled = scope.spawn(move || put(shared, "/b"));
        while dropbox.requests().len() < 4 {
            std::thread::yield_now();
        }
        assert!(!stalled.is_finished());
        dropbox.shut_down();
        stalled.join().expect("no panic").expect_err("no reply");
    });
}

#[test]
fn calls_come_at_their_moment() {
    let dropbox = Arc::new(Dropbox::start(Options::default()));
    for (moment, received, stored) in [
        (Moment::Head, 0, 0),
        (Moment::Body, 0, 0),
        (Moment::Applied, 0, 1),
    ] {
        let called = Arc::new(AtomicUsize::new(0));
        let (server, counter) = (Arc::downgrade(&dropbox), Arc::clone(&called));
        let call = Arc::new(move || {
            let server = server.upgrade().expect("running");
            assert_eq!(
                server.requests().last().expect("this one").received,
                received
            );
            assert_eq!(server.files().len(), stored, "{moment:?}");
            counter.fetch_add(1, Ordering::SeqCst);
        });
        dropbox.fault(Fault::on("", What::Call(moment, call)));
        assert_eq!(put(&dropbox, "/a").expect("a reply").0, 200);
        assert_eq!(called.load(Ordering::SeqCst), 1);
        dropbox.remove("/a");
    }
}

#[test]
fn a_concurrent_session_and_its_faults() {
    let dropbox = Dropbox::start(Options::default());
    let (zeros, ones) = (vec![0; BLOCK], vec![1; BLOCK]);
    let start = json!({ "session_type": "concurrent" });
    let (_, started) = upload(&dropbox, "_session/start", &start, b"").expect("a reply");
    let session = started["session_id"].as_str().expect("a text");
    let append = |offset: usize, close: bool, body: &[u8]| {
        let arg = json!({ "cursor": { "session_id": session, "offset": offset }, "close": close });
        upload(&dropbox, "_session/append_v2", &arg, body).expect("a reply")
    };
    dropbox.fault(Fault::on("append", What::SessionNotFound));
    dropbox.fault(Fault::on("append", What::SessionClosed).skip(1));
    assert_eq!(append(BLOCK, false, &ones).1["error"][".tag"], "not_found");
    assert_eq!(append(BLOCK, false, &ones).1["error"][".tag"], "closed");
    assert_eq!(append(BLOCK, false, &ones).0, 200);
    assert_eq!(append(BLOCK, false, &ones).0, 200);
    assert_eq!(append(BLOCK, false, &vec![2; BLOCK]).0, 400);
    assert_eq!(append(0, false, &zeros).0, 200);
    assert_eq!(append(2 * BLOCK, true, b"").0, 200);
    let finish = |path: &str| {
        let arg = json!({ "cursor": { "session_id": session, "offset": 2 * BLOCK }, "commit": { "path": path } });
        upload(&dropbox, "_session/finish", &arg, b"").expect("a reply")
    };
    dropbox.fault(Fault::on("finish", What::SessionNotFound));
    let (_, reply) = finish("/x");
    assert!(
        reply["error_summary"]
            .as_str()
            .expect("a text")
            .starts_with("lookup_failed/not_found/")
    );
    dropbox.put_file("/x", b"in the way");
    assert_eq!(finish("/x").1["error"]["path"]["conflict"][".tag"], "file");
    dropbox.fault(Fault::on("finish", What::LyingHash));
    let (_, lied) = finish("/y");
    let stored = &dropbox.files()[1];
    assert_ne!(lied["content_hash"], stored.content_hash.as_str());
    assert_eq!(dropbox.content("/Y"), [zeros, ones].concat());
    assert_eq!(dropbox.open_sessions(), 0);
    dropbox.fault(Fault::on("", What::WrongHash));
    let (_, wrong) = put(&dropbox, "/z").expect("a reply");
    assert_eq!(
        wrong["content_hash"],
        dropbox.files()[2].content_hash.as_str()
    );
    dropbox.put_file("/right", b"some bytes");
    assert_ne!(
        wrong["content_hash"],
        dropbox.files()[0].content_hash.as_str()
    );
}

#[test]
fn a_slow_line_is_slow_in_parallel_too() {
    let line = Line {
        append_latency: Duration::from_millis(600),
        per_connection: 20 << 20,
        whole: 40 << 20,
    };
    let dropbox = Dropbox::start(Options {
        line: Some(line),
        ..Options::default()
    });
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for number in 0..4 {
            let dropbox = &dropbox;
            scope.spawn(move || {
                let (_, start) =
                    upload(dropbox, "_session/start", &json!({}), b"").expect("a reply");
                let arg = json!({ "cursor": { "session_id": start["session_id"], "offset": 0 } });
                let reply = upload(
                    dropbox,
                    "_session/append_v2",
                    &arg,
                    &vec![number; 2 * BLOCK],
                )
                .expect("a reply");
                assert_eq!(reply.0, 200);
            });
        }
    });
    let took = begun.elapsed();
    // 32 MiB at 40 MiB/s, and the latency once, as all pay it at the same time; one after the other
    // they would take four times 0.4 s and the latency.
    assert!(
        took > Duration::from_millis(1350) && took < Duration::from_millis(3900),
        "{took:?}"
    );
}
