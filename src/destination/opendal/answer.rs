//! What went wrong, as the house says it: set here, where a reply is parsed, and nowhere else.

use std::io;
use std::time::Duration;

use opendal::ErrorKind as Theirs;
use reqwest::header::{HeaderMap, RETRY_AFTER};

use crate::error::{Error, ErrorKind};

/// No code or message of a service is longer; characters.
const LONGEST_TEXT: usize = 300;

/// The statuses that a service's own code decides over: for it a missing object may be no error.
const NOT_OURS: [u16; 6] = [304, 308, 404, 409, 412, 416];

/// What an HTTP reply means; none if it is no error, or one for OpenDAL to judge. The action is for the caller
/// to say.
pub(super) fn judge(status: u16, headers: &HeaderMap, body: &[u8]) -> Option<Error> {
    let (code, message) = told(body);
    let bucket = ["NoSuchBucket", "ContainerNotFound"].contains(&code.as_str());
    if (200..300).contains(&status) || (NOT_OURS.contains(&status) && !bucket) {
        return None;
    }
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let region = header("x-amz-bucket-region").map(str::to_owned);
    let region = region.or_else(|| between(&String::from_utf8_lossy(body), "Region"));
    let (kind, hint) = by_code(&code, region.as_deref()).unwrap_or_else(|| match status {
        // What answers the question for a head has no body that would say more.
        301 | 307 | 400 if region.is_some() => (ErrorKind::Invalid, elsewhere(region.as_deref())),
        300..=399 => (
            ErrorKind::Invalid,
            "the place is elsewhere: check `endpoint` and `region`".to_owned(),
        ),
        401 | 403 => (
            ErrorKind::Unauthorized,
            "check the keys, and that they may list, read, write and delete there".to_owned(),
        ),
        408 | 499 | 500 | 502 | 504 => (ErrorKind::Unavailable, String::new()),
        429 | 503 => match wait(headers) {
            None if status == 503 => (ErrorKind::Unavailable, String::new()),
            wait => (ErrorKind::RateLimited(wait), String::new()),
        },
        507 => (ErrorKind::NoSpace, "make room there".to_owned()),
        _ => (ErrorKind::Invalid, String::new()),
    });
    let kind = match kind {
        ErrorKind::RateLimited(None) => ErrorKind::RateLimited(wait(headers)),
        kind => kind,
    };
    let mut what = format!("HTTP {status}");
    for text in [&code, &message] {
        if !text.is_empty() {
            what = format!("{what}: {text}");
        }
    }
    let error = Error::new(kind, "", what);
    Some(if hint.is_empty() {
        error
    } else {
        error.hint(hint)
    })
}

/// The codes of S3, Google, Azure and B2 that say more than their status.
fn by_code(code: &str, region: Option<&str>) -> Option<(ErrorKind, String)> {
    let known = |kind, hint: &str| Some((kind, hint.to_owned()));
    match code {
        "NoSuchBucket" | "ContainerNotFound" => known(
            ErrorKind::Invalid,
            "make the bucket, or mend its name in the configuration",
        ),
        "RequestTimeTooSkewed" | "RequestExpired" => known(
            ErrorKind::Unauthorized,
            "this machine's clock is wrong: check it with `timedatectl`, and let it be set from the network",
        ),
        "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "AuthenticationFailed"
        | "unauthorized" => known(
            ErrorKind::Unauthorized,
            "check the keys of this destination in the configuration",
        ),
        "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired" => known(
            ErrorKind::Unauthorized,
            "the session has expired: give a new one, or keys that do not expire",
        ),
        "AccessDenied" | "AllAccessDisabled" | "AuthorizationFailure" => known(
            ErrorKind::Unauthorized,
            "let these keys list the bucket, and read, write and delete what is in it",
        ),
        "PermanentRedirect"
        | "TemporaryRedirect"
        | "AuthorizationHeaderMalformed"
        | "IllegalLocationConstraintException"
        | "Redirect" => Some((ErrorKind::Invalid, elsewhere(region))),
        "BadDigest"
        | "InvalidDigest"
        | "XAmzContentSHA256Mismatch"
        | "XAmzContentChecksumMismatch"
        | "Md5Mismatch" => known(ErrorKind::Corrupt, ""),
        "SlowDown" | "TooManyRequests" | "ServerBusy" | "too_many_requests" => {
            known(ErrorKind::RateLimited(None), "")
        }
        "RequestTimeout" | "InternalError" | "ServiceUnavailable" | "OperationTimedOut"
        | "OperationAborted" | "expired_auth_token" | "bad_auth_token" => {
            known(ErrorKind::Unavailable, "")
        }
        "QuotaExceeded"
        | "XMinioStorageFull"
        | "InsufficientStorage"
        | "cap_exceeded"
        | "storage_cap_exceeded" => {
            known(ErrorKind::NoSpace, "make room there, or raise the limit")
        }
        _ => None,
    }
}

/// The way to a bucket in another region.
fn elsewhere(region: Option<&str>) -> String {
    region.map_or_else(
        || "check `region` and `endpoint`".to_owned(),
        |region| format!("set `region = \"{region}\"`, and an `endpoint` of that region"),
    )
}

fn wait(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?;
    seconds.trim().parse().ok().map(Duration::from_secs)
}

/// The code and the message of an error document, XML or JSON.
fn told(body: &[u8]) -> (String, String) {
    let text = String::from_utf8_lossy(body);
    if let Ok(json) = serde_json::from_slice::<serde_json::Value>(body) {
        // Google wraps it once more.
        let json = json.get("error").unwrap_or(&json);
        let get = |key: &str| {
            let value = json.get(key).and_then(serde_json::Value::as_str);
            short(value.unwrap_or_default())
        };
        return (get("code"), get("message"));
    }
    let get = |tag: &str| between(&text, tag).unwrap_or_default();
    (get("Code"), get("Message"))
}

/// The text of the first element of that name that holds no other.
fn between(text: &str, tag: &str) -> Option<String> {
    let (_, rest) = text.split_once(&format!("<{tag}>"))?;
    let (inner, _) = rest.split_once('<')?;
    Some(short(inner.trim()))
}

fn short(text: &str) -> String {
    text.chars().take(LONGEST_TEXT).collect()
}

/// OpenDAL's error as the house's. `action` says what was being done, and to what.
pub(super) fn understand(action: &str, error: &opendal::Error) -> Error {
    let mut cause = std::error::Error::source(error);
    let mut causes = Vec::new();
    while let Some(current) = cause {
        if let Some(ours) = current.downcast_ref::<Error>() {
            return ours.clone().during(action);
        }
        if let Some(error) = current.downcast_ref::<io::Error>()
            && error.raw_os_error().is_some()
        {
            return of_disk(action, error);
        }
        causes.push(current.to_string());
        cause = current.source();
    }
    let told = error.message();
    let kind = match error.kind() {
        Theirs::NotFound => ErrorKind::NotFound,
        Theirs::AlreadyExists | Theirs::ConditionNotMatch | Theirs::IsADirectory => {
            ErrorKind::AlreadyExists
        }
        Theirs::PermissionDenied => ErrorKind::Unauthorized,
        Theirs::RateLimited => ErrorKind::RateLimited(None),
        Theirs::ConfigInvalid | Theirs::Unsupported => ErrorKind::Invalid,
        _ if told == "ssh error" || told == "connection request: timeout" => {
            return of_ssh(action, causes.last().map_or(told, String::as_str));
        }
        // What a server of SFTP calls a failure is none of the line: it would fail again.
        _ if told == "sftp error" && causes.iter().any(|cause| cause.contains("Failure")) => {
            ErrorKind::Unexpected
        }
        _ if error.is_temporary() => ErrorKind::Unavailable,
        _ => ErrorKind::Unexpected,
    };
    let what = causes.last().map_or_else(
        || short(told),
        |cause| format!("{}: {}", short(told), short(cause)),
    );
    Error::new(kind, action, what)
}

/// `ssh` could not get through.
fn of_ssh(action: &str, told: &str) -> Error {
    let has = |part: &str| told.contains(part);
    let (kind, hint) = if has("Permission denied") {
        (
            ErrorKind::Unauthorized,
            "put the public key into ~/.ssh/authorized_keys there, and name the private one in `key`",
        )
    } else if has("Host key verification failed") || has("REMOTE HOST IDENTIFICATION") {
        (
            ErrorKind::Invalid,
            "make its host key known to root: connect once with `sudo ssh`, and compare the fingerprint",
        )
    } else if has("Read-only file system") {
        (
            ErrorKind::Invalid,
            "let root write into the folder of $XDG_STATE_HOME or ~/.local/state, where `ssh` keeps its socket",
        )
    } else if has("No such file") {
        (
            ErrorKind::Invalid,
            "install the OpenSSH client (`apt install openssh-client`), and check `key`",
        )
    } else {
        let error = Error::new(ErrorKind::Unavailable, action, short(told.trim()));
        return error
            .hint("check the network, `endpoint`, and that `sudo sftp` gets there")
            .absent();
    };
    Error::new(kind, action, short(told.trim())).hint(hint)
}

/// A disk, or a file system of the network, refused.
pub(super) fn of_disk(action: &str, error: &io::Error) -> Error {
    let full = "make room on that disk, or let [retention] do it";
    let (kind, hint) = match error.kind() {
        io::ErrorKind::NotFound => (ErrorKind::NotFound, ""),
        io::ErrorKind::AlreadyExists => (ErrorKind::AlreadyExists, ""),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => (ErrorKind::NoSpace, full),
        io::ErrorKind::FileTooLarge => (
            ErrorKind::NoSpace,
            "that file system takes no file of this size: FAT ends at 4 GiB, use ext4 or exFAT",
        ),
        io::ErrorKind::ReadOnlyFilesystem => (
            ErrorKind::Invalid,
            "mount it for writing; after an error the kernel makes a disk read-only, `dmesg` tells",
        ),
        io::ErrorKind::PermissionDenied => (
            ErrorKind::Unauthorized,
            "let root write there (a systemd unit needs the folder in ReadWritePaths: `schedule install` does it)",
        ),
        io::ErrorKind::StaleNetworkFileHandle
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::NotConnected
        | io::ErrorKind::TimedOut => (ErrorKind::Unavailable, "check the mount and the network"),
        _ => (
            ErrorKind::Invalid,
            "is the disk all right? `dmesg` tells what the kernel saw",
        ),
    };
    let error = Error::new(kind, action, error.to_string());
    if hint.is_empty() {
        error
    } else {
        error.hint(hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Retry;

    fn xml(code: &str) -> Vec<u8> {
        format!(
            "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>so it is</Message></Error>"
        )
        .into_bytes()
    }

    #[test]
    fn every_status_has_its_kind_and_success_has_none() {
        let none = HeaderMap::new();
        for status in 200..300 {
            assert!(judge(status, &none, b"").is_none());
        }
        for status in 300..600 {
            let judged = judge(status, &none, b"").map(|error| error.kind());
            let expected = match status {
                304 | 308 | 404 | 409 | 412 | 416 => None,
                401 | 403 => Some(ErrorKind::Unauthorized),
                408 | 499 | 500 | 502 | 503 | 504 => Some(ErrorKind::Unavailable),
                429 => Some(ErrorKind::RateLimited(None)),
                507 => Some(ErrorKind::NoSpace),
                _ => Some(ErrorKind::Invalid),
            };
            assert_eq!(judged, expected, "{status}");
        }
    }

    #[test]
    fn codes_say_more_than_their_status() {
        let none = HeaderMap::new();
        for (status, code, kind, way_out) in [
            (404, "NoSuchBucket", ErrorKind::Invalid, "make the bucket"),
            (
                403,
                "RequestTimeTooSkewed",
                ErrorKind::Unauthorized,
                "clock",
            ),
            (403, "InvalidAccessKeyId", ErrorKind::Unauthorized, "keys"),
            (
                403,
                "SignatureDoesNotMatch",
                ErrorKind::Unauthorized,
                "keys",
            ),
            (
                403,
                "AccessDenied",
                ErrorKind::Unauthorized,
                "list the bucket",
            ),
            (400, "ExpiredToken", ErrorKind::Unauthorized, "expired"),
            (400, "BadDigest", ErrorKind::Corrupt, "BadDigest"),
            (400, "RequestTimeout", ErrorKind::Unavailable, ""),
            (503, "SlowDown", ErrorKind::RateLimited(None), ""),
            (301, "PermanentRedirect", ErrorKind::Invalid, "region"),
        ] {
            let error = judge(status, &none, &xml(code)).expect("an error");
            assert_eq!(error.kind(), kind, "{code}");
            let text = error.during("doing it").to_string();
            assert!(text.contains(code) && text.contains("so it is"), "{text}");
            assert!(text.contains(way_out), "{text}");
        }
        let json = br#"{"status": 401, "code": "expired_auth_token", "message": "again"}"#;
        let error = judge(401, &none, json).expect("an error");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
    }

    #[test]
    fn a_server_that_names_its_region_is_quoted() {
        let body =
            b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-3</Region></Error>";
        let error = judge(400, &HeaderMap::new(), body).expect("an error");
        assert!(
            error.to_string().contains("region = \"eu-west-3\""),
            "{error}"
        );
        let mut headers = HeaderMap::new();
        headers.insert("x-amz-bucket-region", "fr-1".parse().expect("a value"));
        let error = judge(301, &headers, &xml("PermanentRedirect")).expect("an error");
        assert!(error.to_string().contains("region = \"fr-1\""), "{error}");
    }

    #[test]
    fn a_wait_that_is_asked_for_is_kept() {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, "7".parse().expect("a value"));
        for status in [429, 503] {
            let error = judge(status, &headers, &xml("SlowDown")).expect("an error");
            assert_eq!(error.kind().retry(), Retry::After(Duration::from_secs(7)));
        }
    }

    #[test]
    fn what_a_disk_says_is_told_with_a_way_out() {
        for (code, kind, way_out) in [
            (28, ErrorKind::NoSpace, "make room"),
            (122, ErrorKind::NoSpace, "make room"),
            (27, ErrorKind::NoSpace, "FAT"),
            (30, ErrorKind::Invalid, "mount it for writing"),
            (13, ErrorKind::Unauthorized, "ReadWritePaths"),
            (116, ErrorKind::Unavailable, "mount"),
            (5, ErrorKind::Invalid, "dmesg"),
            (2, ErrorKind::NotFound, ""),
        ] {
            let error = of_disk("writing", &io::Error::from_raw_os_error(code));
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(way_out), "{error}");
        }
    }

    #[test]
    fn what_ssh_says_is_told_with_a_way_out() {
        for (told, kind, way_out) in [
            (
                "git@x: Permission denied (publickey).",
                ErrorKind::Unauthorized,
                "authorized_keys",
            ),
            (
                "Host key verification failed.",
                ErrorKind::Invalid,
                "host key",
            ),
            (
                "connect to host x port 22: Connection refused",
                ErrorKind::Unavailable,
                "network",
            ),
        ] {
            let error = of_ssh("asking", told);
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(way_out), "{error}");
        }
    }

    #[test]
    fn our_own_error_comes_through_opendal_unchanged() {
        let ours = Error::new(ErrorKind::NoSpace, "", "full").hint("make room");
        let theirs = opendal::Error::new(opendal::ErrorKind::Unexpected, "send").set_source(ours);
        let error = understand("storing it", &theirs);
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        assert_eq!(error.to_string(), "storing it: full\n  make room");
    }
}
