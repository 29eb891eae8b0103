//! The endpoints that read the account and change it without receiving files.

use std::fmt::Write as _;
use std::ops::Range;

use serde_json::{Value, json};

use super::answer::{Answer, Payload, Reply, bad_input, refused, tagged, within};
use super::api::Call;
use super::arguments::Arguments;
use super::paths::check_shape;

/// The one account there is.
pub const ACCOUNT_ID: &str = "dbid:AAH4f99T0taONIb-OurWxbNQ6ywGRopQngc";

/// `users/get_current_account`.
pub fn get_current_account(call: &Call, arg: &Value) -> Answer {
    check_null(call, arg)?;
    let name = json!({
        "given_name": "Stand", "surname": "In", "familiar_name": "Stand",
        "display_name": "Stand In", "abbreviated_name": "SI",
    });
    let account = json!({
        "account_id": ACCOUNT_ID,
        "name": name,
        "email": "standin@example.com",
        "email_verified": true,
        "disabled": false,
        "locale": "en",
        "referral_link": "https://www.dropbox.com/referrals/standin",
        "is_paired": false,
        "account_type": { ".tag": "basic" },
        "root_info": { ".tag": "user", "root_namespace_id": "3235641", "home_namespace_id": "3235641" },
        "country": "DE",
    });
    Ok(Reply::json(200, &account))
}

/// `users/get_space_usage`.
pub fn get_space_usage(call: &Call, arg: &Value) -> Answer {
    check_null(call, arg)?;
    let tree = &call.shared.state().tree;
    let allocation = json!({ ".tag": "individual", "allocated": tree.quota });
    Ok(Reply::json(
        200,
        &json!({ "used": tree.used(), "allocation": allocation }),
    ))
}

fn check_null(call: &Call, arg: &Value) -> Answer<()> {
    if arg.is_null() {
        return Ok(());
    }
    Err(bad_input(
        call.name(),
        "request body: expected null, got value",
    ))
}

/// `files/get_metadata`.
pub fn get_metadata(call: &Call, arg: &Value) -> Answer {
    let known = [
        "path",
        "include_media_info",
        "include_deleted",
        "include_has_explicit_shared_members",
        "include_property_groups",
    ];
    let path = Arguments::of(call.name(), arg, &known)?.text("path")?;
    check_shape(call.name(), "path", path, false)?;
    match call.shared.state().tree.metadata(path) {
        Ok(metadata) => Ok(Reply::json(200, &metadata)),
        Err(tags) => Err(refused(&within("path", &tagged(tags)))),
    }
}

/// `files/list_folder`.
pub fn list_folder(call: &Call, arg: &Value) -> Answer {
    let known = [
        "path",
        "recursive",
        "include_media_info",
        "include_deleted",
        "include_has_explicit_shared_members",
        "include_mounted_folders",
        "limit",
        "shared_link",
        "include_property_groups",
        "include_non_downloadable_files",
        "include_restorable_info",
    ];
    let arguments = Arguments::of(call.name(), arg, &known)?;
    let path = arguments.text("path")?;
    check_shape(call.name(), "path", path, true)?;
    let limit = arguments.optional_number("limit")?.unwrap_or(2000);
    if !(1..=2000).contains(&limit) {
        return Err(arguments.unacceptable("limit", "must be between 1 and 2000"));
    }
    let options = &call.shared.options;
    let page = usize::try_from(limit)
        .unwrap_or(usize::MAX)
        .min(options.list_page)
        .max(1);
    let recursive = arguments.flag("recursive")?;
    match call
        .shared
        .state()
        .tree
        .list(path, recursive, page, options.list_empty_page)
    {
        Ok(listing) => Ok(Reply::json(200, &listing)),
        Err(tags) => Err(refused(&within("path", &tagged(tags)))),
    }
}

/// `files/list_folder/continue`.
pub fn list_folder_continue(call: &Call, arg: &Value) -> Answer {
    let cursor = Arguments::of(call.name(), arg, &["cursor"])?.text("cursor")?;
    match call.shared.state().tree.list_on(cursor) {
        Some(listing) => Ok(Reply::json(200, &listing)),
        None => Err(bad_input(call.name(), "Invalid \"cursor\" parameter")),
    }
}

/// `files/create_folder_v2`.
pub fn create_folder(call: &Call, arg: &Value) -> Answer {
    let arguments = Arguments::of(call.name(), arg, &["path", "autorename"])?;
    let path = arguments.text("path")?;
    check_shape(call.name(), "path", path, false)?;
    let autorename = arguments.flag("autorename")?;
    match call.shared.state().tree.create_folder(path, autorename) {
        Ok(metadata) => Ok(Reply::json(200, &json!({ "metadata": metadata }))),
        Err(tags) => Err(refused(&within("path", &tagged(tags)))),
    }
}

/// `files/delete_v2`.
pub fn delete(call: &Call, arg: &Value) -> Answer {
    let arguments = Arguments::of(call.name(), arg, &["path", "parent_rev"])?;
    let path = arguments.text("path")?;
    check_shape(call.name(), "path", path, false)?;
    let rev = arguments.optional_text("parent_rev")?;
    match call.shared.state().tree.delete(path, rev) {
        Ok(metadata) => Ok(Reply::json(200, &json!({ "metadata": metadata }))),
        Err(tags) => Err(refused(&tagged(tags))),
    }
}

/// `files/move_v2`.
pub fn relocate(call: &Call, arg: &Value) -> Answer {
    let known = [
        "from_path",
        "to_path",
        "allow_shared_folder",
        "autorename",
        "allow_ownership_transfer",
    ];
    let arguments = Arguments::of(call.name(), arg, &known)?;
    let (from, to) = (arguments.text("from_path")?, arguments.text("to_path")?);
    check_shape(call.name(), "from_path", from, false)?;
    check_shape(call.name(), "to_path", to, false)?;
    let autorename = arguments.flag("autorename")?;
    match call.shared.state().tree.relocate(from, to, autorename) {
        Ok(metadata) => Ok(Reply::json(200, &json!({ "metadata": metadata }))),
        Err(tags) => Err(refused(&tagged(tags))),
    }
}

/// `files/download`.
pub fn download(call: &Call, arg: &Value) -> Answer {
    let arguments = Arguments::of(call.name(), arg, &["path", "rev"])?;
    let by_rev = arguments
        .optional_text("rev")?
        .map(|rev| format!("rev:{rev}"));
    let path = arguments.text("path")?;
    check_shape(call.name(), "path", path, false)?;
    let path = by_rev.as_deref().unwrap_or(path);
    let state = call.shared.state();
    let found = state
        .tree
        .content(path)
        .and_then(|content| Ok((content, state.tree.metadata(path)?)));
    let (content, mut metadata) = found.map_err(|tags| refused(&within("path", &tagged(tags))))?;
    drop(state);
    if content.extents.is_none() {
        return Err(Reply::text(500, "the stand-in was told to keep no bytes").into());
    }
    if let Some(fields) = metadata.as_object_mut() {
        fields.remove(".tag");
    }
    let size = content.size;
    let range = match call.head.header("Range").map(|text| range_of(text, size)) {
        None => None,
        Some(Some(range)) => Some(range),
        Some(None) => {
            let reply = Reply::text(416, "range not satisfiable");
            return Err(reply
                .with("Content-Range", format!("bytes */{size}"))
                .into());
        }
    };
    let served = range.clone().unwrap_or(0..size);
    let reply = Reply {
        status: if range.is_some() { 206 } else { 200 },
        headers: vec![
            ("Content-Type".into(), "application/octet-stream".into()),
            ("Accept-Ranges".into(), "bytes".into()),
            ("Dropbox-API-Result".into(), ascii(&metadata)),
        ],
        body: Payload::Stored {
            content,
            from: served.start,
            len: served.end - served.start,
        },
    };
    Ok(match range {
        Some(range) => reply.with(
            "Content-Range",
            format!("bytes {}-{}/{size}", range.start, range.end - 1),
        ),
        None => reply,
    })
}

/// The bytes a Range header asks for; none if there are no such bytes.
fn range_of(header: &str, size: u64) -> Option<Range<u64>> {
    let (first, last) = header.strip_prefix("bytes=")?.split_once('-')?;
    let range = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) => first..last.saturating_add(1).min(size),
        (Ok(first), Err(_)) => first..size,
        (Err(_), Ok(length)) => size.saturating_sub(length)..size,
        (Err(_), Err(_)) => return None,
    };
    (range.start < range.end).then_some(range)
}

/// JSON for a header: everything from 0x7f up is escaped.
fn ascii(value: &Value) -> String {
    let mut text = String::new();
    for letter in value.to_string().chars() {
        if letter < '\u{7f}' {
            text.push(letter);
        } else {
            let mut units = [0; 2];
            for unit in letter.encode_utf16(&mut units) {
                let _ = write!(text, "\\u{unit:04x}");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::range_of;

    #[test]
    fn ranges() {
        assert_eq!(range_of("bytes=2-5", 10), Some(2..6));
        assert_eq!(range_of("bytes=2-", 10), Some(2..10));
        assert_eq!(range_of("bytes=-3", 10), Some(7..10));
        assert_eq!(range_of("bytes=10-", 10), None);
        assert_eq!(range_of("lines=1-2", 10), None);
    }
}
