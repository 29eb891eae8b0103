//! Signatures of version 4, as S3 checks them
//! (<https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-authenticating-requests.html>).

use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use ring::digest::{SHA256, digest};
use ring::hmac::{HMAC_SHA256, Key, sign};

use super::answer::Reply;
use super::{Call, KEY_ID, SECRET};

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const UNSIGNED: &str = "UNSIGNED-PAYLOAD";
/// Amazon takes no request that was signed earlier or later than this.
const MOST_SKEW: TimeDelta = TimeDelta::minutes(15);
const LONGEST_VALID: i64 = 7 * 24 * 3600;
/// What stands in an address as it is.
const VALUE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
const PATH: &AsciiSet = &VALUE.remove(b'/');

/// What a signature says of itself.
struct Claim {
    credential: String,
    signed_headers: String,
    signature: String,
    time: String,
    payload: String,
}

/// Whether whoever asks may: signed by the one key, for this region, at this time, over exactly this.
pub fn check(call: &Call<'_>, body: &[u8], region: &str, now: DateTime<Utc>) -> Result<(), Reply> {
    let presigned = call.param("X-Amz-Algorithm").is_some();
    if call.param("Signature").is_some() {
        return Err(Reply::error(400, "InvalidRequest")); // version 2
    }
    let claim = if presigned {
        from_query(call)?
    } else {
        from_header(call)?
    };
    let malformed = if presigned {
        "AuthorizationQueryParametersError"
    } else {
        "AuthorizationHeaderMalformed"
    };
    let Ok(time) = NaiveDateTime::parse_from_str(&claim.time, "%Y%m%dT%H%M%SZ") else {
        return Err(Reply::error(400, malformed));
    };
    let time = time.and_utc();
    let scope: Vec<_> = claim.credential.split('/').collect();
    let [key_id, day, signed_region, "s3", "aws4_request"] = scope[..] else {
        return Err(Reply::error(400, malformed));
    };
    if key_id != KEY_ID {
        return Err(Reply::error(403, "InvalidAccessKeyId"));
    }
    if signed_region != region {
        return Err(Reply::elsewhere(400, malformed, region));
    }
    if day != time.format("%Y%m%d").to_string() {
        return Err(Reply::error(400, malformed));
    }
    if presigned {
        let valid = call
            .param("X-Amz-Expires")
            .and_then(|text| text.parse().ok());
        let Some(valid) = valid.filter(|valid| (1..=LONGEST_VALID).contains(valid)) else {
            return Err(Reply::error(400, malformed));
        };
        if time - now > MOST_SKEW || now > time + TimeDelta::seconds(valid) {
            // "Request is not yet valid", "Request has expired".
            return Err(Reply::error(403, "AccessDenied"));
        }
    } else if (now - time).abs() > MOST_SKEW {
        return Err(Reply::error(403, "RequestTimeTooSkewed"));
    }
    let names: Vec<_> = claim.signed_headers.split(';').collect();
    let sent = call.head.names();
    let must_be_signed = |name: &str| name == "host" || name.starts_with("x-amz-");
    let unsigned = sent
        .iter()
        .find(|name| must_be_signed(name) && !names.contains(&name.as_str()));
    // S3 says so of headers in the case of an address, too: "There were headers present in the request which were not
    // signed".
    if unsigned.is_some_and(|name| name != "x-amz-content-sha256") {
        return Err(Reply::error(403, "AccessDenied"));
    }
    if ![UNSIGNED, "STREAMING-UNSIGNED-PAYLOAD-TRAILER"].contains(&claim.payload.as_str())
        && claim.payload != hex(digest(&SHA256, body).as_ref())
    {
        return Err(Reply::error(400, "XAmzContentSHA256Mismatch"));
    }
    let request = canonical(call, &names, &claim);
    let hash = hex(digest(&SHA256, request.as_bytes()).as_ref());
    let text = format!(
        "{ALGORITHM}\n{}\n{day}/{signed_region}/s3/aws4_request\n{hash}",
        claim.time
    );
    let mut key = format!("AWS4{SECRET}").into_bytes();
    for part in [day, signed_region, "s3", "aws4_request", text.as_str()] {
        let tag = sign(&Key::new(HMAC_SHA256, &key), part.as_bytes());
        key = tag.as_ref().to_vec();
    }
    if hex(&key) != claim.signature {
        return Err(Reply::error(403, "SignatureDoesNotMatch"));
    }
    Ok(())
}

fn canonical(call: &Call<'_>, names: &[&str], claim: &Claim) -> String {
    let path = percent_decode_str(call.head.path()).decode_utf8_lossy();
    let path = utf8_percent_encode(&path, PATH).to_string();
    let encode = |text: &str| utf8_percent_encode(text, VALUE).to_string();
    let query = call
        .query
        .iter()
        .filter(|(name, _)| name != "X-Amz-Signature");
    let mut query: Vec<_> = query
        .map(|(name, value)| (encode(name), encode(value)))
        .collect();
    query.sort();
    let query: Vec<_> = query
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let mut headers = String::new();
    for name in names {
        let value = call.head.header(name).unwrap_or_default();
        let value: Vec<_> = value.split_whitespace().collect();
        headers.extend([name, ":", &value.join(" "), "\n"]);
    }
    format!(
        "{}\n{path}\n{}\n{headers}\n{}\n{}",
        call.head.method,
        query.join("&"),
        claim.signed_headers,
        claim.payload
    )
}

fn from_query(call: &Call<'_>) -> Result<Claim, Reply> {
    let get = |name: &str| {
        let value = call.param(name).map(str::to_owned);
        value.ok_or_else(|| Reply::error(400, "AuthorizationQueryParametersError"))
    };
    if get("X-Amz-Algorithm")? != ALGORITHM {
        return Err(Reply::error(400, "AuthorizationQueryParametersError"));
    }
    Ok(Claim {
        credential: get("X-Amz-Credential")?,
        signed_headers: get("X-Amz-SignedHeaders")?,
        signature: get("X-Amz-Signature")?,
        time: get("X-Amz-Date")?,
        payload: UNSIGNED.to_owned(),
    })
}

fn from_header(call: &Call<'_>) -> Result<Claim, Reply> {
    let Some(header) = call.head.header("Authorization") else {
        return Err(Reply::error(403, "AccessDenied"));
    };
    let Some(fields) = header.strip_prefix(ALGORITHM) else {
        return Err(Reply::error(400, "InvalidRequest"));
    };
    let get = |name: &str| {
        let mut fields = fields.split(',').map(str::trim);
        let value = fields.find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
        let value = value.map(str::to_owned);
        value.ok_or_else(|| Reply::error(400, "AuthorizationHeaderMalformed"))
    };
    let header = |name: &str| call.head.header(name).unwrap_or_default().to_owned();
    Ok(Claim {
        credential: get("Credential")?,
        signed_headers: get("SignedHeaders")?,
        signature: get("Signature")?,
        time: header("x-amz-date"),
        payload: header("x-amz-content-sha256"),
    })
}

pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
