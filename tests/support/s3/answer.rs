//! What is asked of buckets and objects, once the signature is right.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use md5::{Digest as _, Md5};

use super::sign::{check, hex};
use super::{Call, Object, Shared, State};

/// An object that comes in parts.
pub struct Upload {
    at: (String, String),
    parts: BTreeMap<u32, Vec<u8>>,
}

/// What goes back.
pub struct Reply {
    pub status: u16,
    pub headers: String,
    pub body: Vec<u8>,
    /// What a `HEAD` says of a body that does not come.
    pub length: Option<usize>,
}

impl Reply {
    fn new(status: u16, body: impl Into<Vec<u8>>) -> Reply {
        Reply {
            status,
            headers: String::new(),
            body: body.into(),
            length: None,
        }
    }

    fn header(mut self, name: &str, value: impl std::fmt::Display) -> Reply {
        let _ = write!(self.headers, "{name}: {value}\r\n");
        self
    }

    /// An error document.
    pub fn error(status: u16, code: &str) -> Reply {
        let text = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>so it is</Message></Error>"
        );
        Reply::new(status, text).header("Content-Type", "application/xml")
    }

    /// An error document that says where the bucket is.
    pub fn elsewhere(status: u16, code: &str, region: &str) -> Reply {
        let text = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>it is elsewhere</Message>\
             <Region>{region}</Region></Error>"
        );
        Reply::new(status, text)
            .header("Content-Type", "application/xml")
            .header("x-amz-bucket-region", region)
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`
pub fn http_date(time: DateTime<Utc>) -> String {
    time.format("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

pub fn md5(bytes: &[u8]) -> String {
    hex(&Md5::digest(bytes))
}

fn escape(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;").replace('"', "&quot;")
}

/// Answers a request, whose body has come.
pub fn answer(shared: &Shared, call: &Call<'_>, body: Vec<u8>) -> Reply {
    let region = shared.region(&call.bucket);
    let is_bucket = call.key.is_empty();
    let told = region.filter(|_| !shared.options.hides_regions);
    let told = |reply: Reply| match told {
        Some(region) if is_bucket => reply.header("x-amz-bucket-region", region),
        _ => reply,
    };
    let Some(region) = region else {
        // Whoever does not sign is told no less.
        return Reply::error(404, "NoSuchBucket");
    };
    if let Some(asked) = call.region_of_host()
        && asked != region
    {
        return Reply::elsewhere(301, "PermanentRedirect", region);
    }
    let now = shared.now();
    if let Err(reply) = check(call, &body, region, now) {
        let names_it = reply.headers.contains("x-amz-bucket-region");
        return if names_it { reply } else { told(reply) };
    }
    let mut state = shared.state();
    match (call.head.method.as_str(), is_bucket) {
        ("HEAD", true) => told(Reply::new(200, "")),
        ("GET", true) if call.param("location").is_some() => Reply::new(
            200,
            format!("<LocationConstraint>{region}</LocationConstraint>"),
        ),
        ("GET", true) => list(&state, call, shared.options.page),
        ("PUT", true) => Reply::error(409, "BucketAlreadyOwnedByYou"),
        ("GET" | "HEAD", false) => get(&state, call),
        ("PUT", false) => put(&mut state, call, body, now),
        ("POST", false) => post(&mut state, call, now),
        ("DELETE", false) => {
            match call.param("uploadId") {
                Some(id) => drop(state.uploads.remove(id)),
                None => drop(state.objects.remove(&at(call))),
            }
            Reply::new(204, "")
        }
        _ => Reply::error(501, "NotImplemented"),
    }
}

fn at(call: &Call<'_>) -> (String, String) {
    (call.bucket.clone(), call.key.clone())
}

fn put(state: &mut State, call: &Call<'_>, body: Vec<u8>, now: DateTime<Utc>) -> Reply {
    let etag = md5(&body);
    if let (Some(id), Some(number)) = (call.param("uploadId"), call.param("partNumber")) {
        let upload = state.uploads.get_mut(id);
        let Some((upload, number)) = upload.zip(number.parse().ok()) else {
            return Reply::error(404, "NoSuchUpload");
        };
        upload.parts.insert(number, body);
        return Reply::new(200, "").header("ETag", format!("\"{etag}\""));
    }
    store(state, call, body, &etag, now)
}

fn store(
    state: &mut State,
    call: &Call<'_>,
    bytes: Vec<u8>,
    etag: &str,
    now: DateTime<Utc>,
) -> Reply {
    let only_new = call.head.header("If-None-Match") == Some("*");
    if only_new && state.objects.contains_key(&at(call)) {
        return Reply::error(412, "PreconditionFailed");
    }
    let content_type = call.head.header("Content-Type");
    let object = Object {
        bytes,
        // In whole seconds, as it is told.
        modified: DateTime::from_timestamp(now.timestamp(), 0).expect("a time"),
        content_type: content_type.unwrap_or("binary/octet-stream").to_owned(),
        etag: etag.to_owned(),
    };
    state.objects.insert(at(call), object);
    Reply::new(200, "").header("ETag", format!("\"{etag}\""))
}

/// Begins an upload in parts, or makes an object of them.
fn post(state: &mut State, call: &Call<'_>, now: DateTime<Utc>) -> Reply {
    if call.param("uploads").is_some() {
        state.serial += 1;
        let id = format!("upload-{}", state.serial);
        let upload = Upload {
            at: at(call),
            parts: BTreeMap::new(),
        };
        state.uploads.insert(id.clone(), upload);
        return Reply::new(
            200,
            format!(
                "<InitiateMultipartUploadResult><Bucket>{}</Bucket><Key>{}</Key><UploadId>{id}</UploadId>\
                 </InitiateMultipartUploadResult>",
                call.bucket,
                escape(&call.key)
            ),
        );
    }
    let id = call.param("uploadId").unwrap_or_default();
    let Some(upload) = state
        .uploads
        .remove(id)
        .filter(|upload| upload.at == at(call))
    else {
        return Reply::error(404, "NoSuchUpload");
    };
    let sums = upload.parts.values().flat_map(Md5::digest);
    let sums: Vec<u8> = sums.collect();
    let etag = format!("{}-{}", md5(&sums), upload.parts.len());
    let bytes = upload.parts.into_values().flatten().collect();
    let reply = store(state, call, bytes, &etag, now);
    if reply.status != 200 {
        return reply;
    }
    Reply::new(
        200,
        format!(
            "<CompleteMultipartUploadResult><Bucket>{}</Bucket><Key>{}</Key><ETag>&quot;{etag}&quot;</ETag>\
             </CompleteMultipartUploadResult>",
            call.bucket,
            escape(&call.key)
        ),
    )
}

fn get(state: &State, call: &Call<'_>) -> Reply {
    let Some(object) = state.objects.get(&at(call)) else {
        return Reply::error(404, "NoSuchKey");
    };
    let described = |reply: Reply| {
        reply
            .header("ETag", format!("\"{}\"", object.etag))
            .header("Last-Modified", http_date(object.modified))
            .header("Content-Type", &object.content_type)
            .header("Accept-Ranges", "bytes")
    };
    let len = object.bytes.len();
    let range = call.head.header("Range").and_then(|range| {
        let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
        let first: usize = first.parse().ok()?;
        Some((first, last.parse().unwrap_or(usize::MAX)))
    });
    match range {
        Some((first, _)) if first >= len => Reply::error(416, "InvalidRange"),
        Some((first, last)) => {
            let last = last.min(len - 1);
            described(Reply::new(206, &object.bytes[first..=last]))
                .header("Content-Range", format!("bytes {first}-{last}/{len}"))
        }
        None if call.head.method == "HEAD" => Reply {
            length: Some(len),
            ..described(Reply::new(200, ""))
        },
        None => described(Reply::new(200, object.bytes.clone())),
    }
}

/// Both versions of the list, in pages.
fn list(state: &State, call: &Call<'_>, page: usize) -> Reply {
    let param = |name: &str| call.param(name).unwrap_or_default();
    let (prefix, delimiter) = (param("prefix"), param("delimiter"));
    let is_second = param("list-type") == "2";
    let after = if is_second {
        [param("start-after"), param("continuation-token")]
            .into_iter()
            .max()
    } else {
        Some(param("marker"))
    };
    let after = after.unwrap_or_default();
    let most = param("max-keys").parse().unwrap_or(page).min(page);
    let encode = |text: &str| {
        if param("encoding-type") == "url" {
            let text =
                percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC);
            text.to_string().replace("%2F", "/")
        } else {
            escape(text)
        }
    };
    let (mut contents, mut folders) = (String::new(), BTreeSet::new());
    let (mut count, mut last, mut truncated) = (0, String::new(), false);
    for ((bucket, key), object) in &state.objects {
        let Some(rest) = key.strip_prefix(prefix).filter(|_| *bucket == call.bucket) else {
            continue;
        };
        let folder = rest.split_once(delimiter).filter(|_| !delimiter.is_empty());
        let shown = folder.map_or(key.clone(), |(name, _)| {
            format!("{prefix}{name}{delimiter}")
        });
        if shown.as_str() <= after || folders.contains(&shown) {
            continue;
        }
        if count == most {
            truncated = true;
            break;
        }
        count += 1;
        if folder.is_none() {
            let _ = write!(
                contents,
                "<Contents><Key>{}</Key><LastModified>{}</LastModified><ETag>&quot;{}&quot;</ETag><Size>{}</Size>\
                 <StorageClass>STANDARD</StorageClass></Contents>",
                encode(key),
                object.modified.format("%Y-%m-%dT%H:%M:%S.000Z"),
                object.etag,
                object.bytes.len()
            );
        } else {
            folders.insert(shown.clone());
        }
        last = shown;
    }
    let folders = folders.iter().fold(String::new(), |mut text, folder| {
        let folder = encode(folder);
        let _ = write!(
            text,
            "<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>"
        );
        text
    });
    let next = match (truncated, is_second) {
        (true, true) => format!(
            "<NextContinuationToken>{}</NextContinuationToken>",
            escape(&last)
        ),
        (true, false) => format!("<NextMarker>{}</NextMarker>", encode(&last)),
        _ => String::new(),
    };
    let encoding = match param("encoding-type") {
        "url" => "<EncodingType>url</EncodingType>",
        _ => "",
    };
    Reply::new(
        200,
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ListBucketResult \
             xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>{}</Name><Prefix>{}</Prefix><Delimiter>{}</Delimiter>\
             <MaxKeys>{most}</MaxKeys><KeyCount>{count}</KeyCount>{encoding}<IsTruncated>{truncated}</IsTruncated>{next}\
             {contents}{folders}</ListBucketResult>",
            call.bucket,
            encode(prefix),
            encode(delimiter)
        ),
    )
    .header("Content-Type", "application/xml")
}
