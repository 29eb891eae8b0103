//! The endpoints that receive files.

use std::sync::Arc;

use serde_json::{Value, json};

use super::Shared;
use super::answer::{Answer, Reply, Stop, bad_input, refused, tagged, within};
use super::api::Call;
use super::arguments::Arguments;
use super::body::Body;
use super::content::{Content, Extent, Hasher};
use super::fault::What;
use super::paths::check_shape;
use super::sessions::{Piece, Place, Refusal, Session};
use super::tree::{Commit, Mode};
use super::{State, clock};

/// The most bytes of one request's body.
const MOST: u64 = 150 << 20;

/// The most entries of one batch.
const MOST_ENTRIES: usize = 1000;

/// `files/upload`.
pub fn upload(call: &Call, arg: &Value, body: &mut Body) -> Answer {
    let mut fields = COMMIT_FIELDS.to_vec();
    fields.push("content_hash");
    let arguments = Arguments::of(call.name(), arg, &fields)?;
    let commit = commit_of(call.name(), &arguments)?;
    let piece = receive(call, body, None)?;
    check_hash(&arguments, &piece)?;
    let content = content_of_piece(&piece);
    let mut state = call.shared.state();
    store(call, &mut state, &commit, content)
        .map(|metadata| Reply::json(200, &metadata))
        .map_err(|tags| {
            // The service keeps the bytes as a session, so that they need not be sent again.
            let session = state.sessions.hold(piece);
            refused(
                &json!({ ".tag": "path", "reason": tagged(tags), "upload_session_id": session }),
            )
        })
}

/// `files/upload_session/start`.
pub fn start(call: &Call, arg: &Value, body: &mut Body) -> Answer {
    let arguments = Arguments::of(call.name(), arg, &["close", "session_type", "content_hash"])?;
    let close = arguments.flag("close")?;
    let concurrent = concurrent(&arguments)?;
    let piece = receive(call, body, None)?;
    if concurrent && close {
        return Err(refused(&tagged(&["concurrent_session_close_not_allowed"])));
    }
    if concurrent && piece.size > 0 {
        return Err(refused(&tagged(&["concurrent_session_data_not_allowed"])));
    }
    check_hash(&arguments, &piece)?;
    let mut state = call.shared.state();
    let id = state.sessions.start(concurrent);
    if let Some(session) = state.sessions.get(&id).filter(|_| !concurrent) {
        take(call, session, Place { offset: 0, close }, piece)?;
    }
    Ok(Reply::json(200, &json!({ "session_id": id })))
}

/// `files/upload_session/start_batch`.
pub fn start_batch(call: &Call, arg: &Value) -> Answer {
    let arguments = Arguments::of(call.name(), arg, &["session_type", "num_sessions"])?;
    let concurrent = concurrent(&arguments)?;
    let number = arguments.number("num_sessions")?;
    if !(1..=MOST_ENTRIES as u64).contains(&number) {
        return Err(arguments.unacceptable("num_sessions", "must be between 1 and 1000"));
    }
    let mut state = call.shared.state();
    let ids: Vec<String> = (0..number)
        .map(|_| state.sessions.start(concurrent))
        .collect();
    Ok(Reply::json(200, &json!({ "session_ids": ids })))
}

/// `files/upload_session/append_v2`.
pub fn append(call: &Call, arg: &Value, body: &mut Body) -> Answer {
    let arguments = Arguments::of(call.name(), arg, &["cursor", "close", "content_hash"])?;
    let (id, offset) = cursor(call.name(), arguments.value("cursor")?)?;
    let place = Place {
        offset,
        close: arguments.flag("close")?,
    };
    let continued = call
        .shared
        .state()
        .sessions
        .get(id)
        .and_then(|session| session.unaligned_hash());
    let piece = receive(call, body, continued)?;
    let latency = call.shared.line().append_latency;
    if !latency.is_zero() {
        call.shared.end.wait(Some(latency));
    }
    let mut state = call.shared.state();
    let session = find(call, &mut state, id).map_err(|error| refused(&error))?;
    session
        .check(place, piece.size, call.shared.options.closed_before_offset)
        .map_err(|refusal| refuse(call, place, refusal))?;
    check_hash(&arguments, &piece)?;
    take(call, session, place, piece)?;
    Ok(Reply::json(200, &Value::Null))
}

/// `files/upload_session/finish`.
pub fn finish(call: &Call, arg: &Value, body: &mut Body) -> Answer {
    let arguments = Arguments::of(call.name(), arg, &["cursor", "commit", "content_hash"])?;
    let (id, offset) = cursor(call.name(), arguments.value("cursor")?)?;
    let commit = commit_of(call.name(), &commit_arguments(call.name(), &arguments)?)?;
    let continued = call
        .shared
        .state()
        .sessions
        .get(id)
        .and_then(|session| session.unaligned_hash());
    let piece = receive(call, body, continued)?;
    let mut state = call.shared.state();
    let lookup = |error: Value| refused(&within("lookup_failed", &error));
    let session = find(call, &mut state, id).map_err(lookup)?;
    let size = piece.size;
    if session.concurrent() && size > 0 {
        return Err(refused(&tagged(&["concurrent_session_data_not_allowed"])));
    }
    check_hash(&arguments, &piece)?;
    if size > 0 {
        let place = Place {
            offset,
            close: false,
        };
        let closed_first = call.shared.options.closed_before_offset;
        let taken = session
            .check(place, size, closed_first)
            .and_then(|()| session.take(place, piece));
        taken.map_err(|refusal| match refusal {
            Refusal::Lookup(error) => lookup(error),
            Refusal::DifferentData => refuse(call, place, Refusal::DifferentData),
        })?;
    }
    let metadata = commit_session(call, &mut state, id, offset + size, &commit)
        .map_err(|error| refused(&error))?;
    Ok(Reply::json(200, &metadata))
}

/// `files/upload_session/finish_batch_v2`: each entry succeeds or fails for itself.
pub fn finish_batch(call: &Call, arg: &Value) -> Answer {
    let name = call.name();
    let arguments = Arguments::of(name, arg, &["entries"])?;
    let entries = arguments.list("entries", MOST_ENTRIES)?;
    let mut parsed = Vec::new();
    for entry in entries {
        let entry = Arguments::of(name, entry, &["cursor", "commit", "content_hash"])?;
        let cursor = cursor(name, entry.value("cursor")?)?;
        parsed.push((cursor, commit_of(name, &commit_arguments(name, &entry)?)?));
    }
    let mut state = call.shared.state();
    let mut results = Vec::new();
    for ((id, offset), commit) in parsed {
        let closed = find(call, &mut state, id).and_then(|session| {
            if session.closed() {
                Ok(())
            } else {
                Err(tagged(&["not_closed"]))
            }
        });
        let result = closed
            .map_err(|error| within("lookup_failed", &error))
            .and_then(|()| commit_session(call, &mut state, id, offset, &commit));
        results.push(match result {
            Ok(mut metadata) => {
                metadata[".tag"] = "success".into();
                metadata
            }
            Err(error) => within("failure", &error),
        });
    }
    Ok(Reply::json(200, &json!({ "entries": results })))
}

/// The content of bytes that come from the test itself.
pub fn content_of(shared: &Shared, bytes: &[u8]) -> Content {
    let size = bytes.len() as u64;
    let at = shared.options.keep_bytes.then(|| {
        let at = shared.log.reserve(size);
        shared
            .log
            .write(at, bytes)
            .expect("writing to the temporary file");
        at
    });
    let hasher = shared.options.verify_hashes.then(|| {
        let mut hasher = Hasher::default();
        hasher.update(bytes);
        hasher
    });
    content_of_piece(&Piece {
        size,
        at,
        hasher,
        continued: None,
    })
}

fn content_of_piece(piece: &Piece) -> Content {
    Content {
        size: piece.size,
        hash: piece.hasher.as_ref().map(Hasher::content_hash),
        extents: piece.at.map(|at| {
            Arc::from([Extent {
                at,
                len: piece.size,
            }])
        }),
    }
}

/// Reads a body to its end, into the log and the hash, without holding any lock.
fn receive(call: &Call, body: &mut Body, mut continued: Option<(u64, Hasher)>) -> Answer<Piece> {
    let options = &call.shared.options;
    let too_large = || refused(&tagged(&["payload_too_large"]));
    if body.length().is_some_and(|length| length > MOST) {
        return Err(too_large());
    }
    let at = options
        .keep_bytes
        .then(|| call.shared.log.reserve(body.length().unwrap_or(MOST)));
    let mut hasher = options.verify_hashes.then(Hasher::default);
    if hasher.is_none() {
        continued = None;
    }
    let mut size = 0;
    loop {
        let bytes = body.piece()?;
        if bytes.is_empty() {
            return Ok(Piece {
                size,
                at,
                hasher,
                continued,
            });
        }
        let end = size + bytes.len() as u64;
        if end > MOST {
            return Err(too_large());
        }
        if let Some(at) = at {
            call.shared.log.write(at + size, bytes)?;
        }
        for hasher in hasher
            .iter_mut()
            .chain(continued.iter_mut().map(|(_, hasher)| hasher))
        {
            hasher.update(bytes);
        }
        size = end;
    }
}

/// Compares the hash the client sent of this body.
fn check_hash(arguments: &Arguments, piece: &Piece) -> Answer<()> {
    let Some(claimed) = arguments.optional_text("content_hash")? else {
        return Ok(());
    };
    if claimed.len() != 64
        || !claimed
            .bytes()
            .all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
    {
        return Err(arguments.unacceptable("content_hash", "did not match pattern '[0-9a-f]{64}'"));
    }
    match &piece.hasher {
        Some(hasher) if hasher.content_hash() != claimed => {
            Err(refused(&tagged(&["content_hash_mismatch"])))
        }
        _ => Ok(()),
    }
}

fn find<'a>(call: &Call, state: &'a mut State, id: &str) -> Result<&'a mut Session, Value> {
    match call.hit.0 {
        Some(What::SessionNotFound) => Err(tagged(&["not_found"])),
        Some(What::SessionClosed) => Err(tagged(&["closed"])),
        _ => state.sessions.get(id).ok_or_else(|| tagged(&["not_found"])),
    }
}

fn take(call: &Call, session: &mut Session, place: Place, piece: Piece) -> Answer<()> {
    session
        .take(place, piece)
        .map_err(|refusal| refuse(call, place, refusal))
}

fn refuse(call: &Call, place: Place, refusal: Refusal) -> Stop {
    match refusal {
        Refusal::Lookup(error) => refused(&error),
        Refusal::DifferentData => bad_input(
            call.name(),
            format!("Different data already uploaded at offset {}", place.offset),
        ),
    }
}

/// Stores what a session has gathered and forgets the session; on failure the session stays.
fn commit_session(
    call: &Call,
    state: &mut State,
    id: &str,
    offset: u64,
    commit: &Commit,
) -> Result<Value, Value> {
    let options = &call.shared.options;
    let session = find(call, state, id).map_err(|error| within("lookup_failed", &error))?;
    let content = session.content(offset, options.verify_hashes, options.keep_bytes)?;
    let metadata =
        store(call, state, commit, content).map_err(|tags| within("path", &tagged(tags)))?;
    state.sessions.remove(id);
    Ok(metadata)
}

fn store(
    call: &Call,
    state: &mut State,
    commit: &Commit,
    mut content: Content,
) -> Result<Value, super::paths::Tags> {
    let mut known = call.shared.options.known_hashes.iter();
    if content.hash.is_none() {
        content.hash = known
            .find(|(size, _)| *size == content.size)
            .map(|(_, hash)| hash.clone());
    }
    match call.hit.0 {
        Some(What::InsufficientSpace) => return Err(&["insufficient_space"]),
        Some(What::WrongHash) => content.hash = content.hash.map(|hash| falsified(&hash)),
        _ => {}
    }
    let mut metadata = state.tree.commit(commit, &content)?;
    if let (Some(What::LyingHash), Some(hash)) = (&call.hit.0, metadata["content_hash"].as_str()) {
        metadata["content_hash"] = falsified(hash).into();
    }
    Ok(metadata)
}

fn falsified(hash: &str) -> String {
    hash.chars().rev().collect()
}

fn concurrent(arguments: &Arguments) -> Answer<bool> {
    match arguments.union("session_type", "sequential")?.0 {
        "sequential" => Ok(false),
        "concurrent" => Ok(true),
        other => Err(arguments.unacceptable("session_type", &format!("invalid tag '{other}'"))),
    }
}

fn cursor<'a>(call: &'a str, value: &'a Value) -> Answer<(&'a str, u64)> {
    let cursor = Arguments::of(call, value, &["session_id", "offset"])?;
    Ok((cursor.text("session_id")?, cursor.number("offset")?))
}

const COMMIT_FIELDS: [&str; 7] = [
    "path",
    "mode",
    "autorename",
    "client_modified",
    "mute",
    "property_groups",
    "strict_conflict",
];

fn commit_arguments<'a>(call: &'a str, arguments: &Arguments<'a>) -> Answer<Arguments<'a>> {
    Arguments::of(call, arguments.value("commit")?, &COMMIT_FIELDS)
}

fn commit_of(call: &str, arguments: &Arguments) -> Answer<Commit> {
    let path = arguments.text("path")?;
    check_shape(call, "path", path, false)?;
    let client_modified = arguments.optional_text("client_modified")?;
    if let Some(stamp) = client_modified.filter(|stamp| !clock::is_stamp(stamp)) {
        let text = format!("time data '{stamp}' does not match format '%Y-%m-%dT%H:%M:%SZ'");
        return Err(arguments.unacceptable("client_modified", &text));
    }
    arguments.flag("mute")?;
    let mode = match arguments.union("mode", "add")? {
        ("add", _) => Mode::Add,
        ("overwrite", _) => Mode::Overwrite,
        ("update", Value::String(rev)) => Mode::Update(rev.clone()),
        (other, _) => return Err(arguments.unacceptable("mode", &format!("invalid tag '{other}'"))),
    };
    Ok(Commit {
        path: path.to_owned(),
        mode,
        autorename: arguments.flag("autorename")?,
        client_modified: client_modified.map(String::from),
        strict: arguments.flag("strict_conflict")?,
    })
}
