//! How OpenDAL's requests go out: by the house's own HTTP client, with its certificates, time-outs and errors.
//!
//! What comes back to a body that was sent is looked at, too: a service that answers with the MD5 or the checksum
//! of what arrived has proven it, and nothing need be read back.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use md5::{Digest as _, Md5};
use opendal::{Buffer, HttpBody, HttpTransport};
use reqwest::Url;
use reqwest::header::{CONTENT_LENGTH, ETAG, HeaderMap, HeaderName, HeaderValue};

use super::answer::judge;
use super::keys::Settings;
use crate::error::{Error, ErrorKind, Retry};
use crate::http::{Bandwidth, Http, Line, Method, Payload, Request};
use crate::retry::Pause;
use crate::source::{Fingerprint, Source};

/// Putting many parts together can take a service minutes.
const LONG_WAIT: Duration = Duration::from_mins(10);
/// A signature is good for a quarter of an hour; what would wait longer than this is signed anew.
const LONGEST_PAUSE: Duration = Duration::from_mins(5);

/// The connections to one service.
pub(super) struct Wire {
    pub(super) http: Http,
    pub(super) settings: Settings,
    /// When the service asks to wait, everybody waits.
    pub(super) pause: Pause,
    idle: Mutex<Vec<Line>>,
}

impl Wire {
    pub(super) fn new(http: Http, settings: Settings) -> Wire {
        Wire {
            http,
            settings,
            pause: Pause::default(),
            idle: Mutex::default(),
        }
    }
}

/// What became of the bodies that were sent.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    arrived: AtomicU64,
    told: AtomicU64,
    unproven: AtomicBool,
}

impl Ledger {
    /// Bytes that have arrived, by the word of the service, since this was asked last.
    pub(super) fn news(&self) -> u64 {
        let arrived = self.arrived.load(Ordering::Relaxed);
        arrived.saturating_sub(self.told.swap(arrived, Ordering::Relaxed))
    }

    /// Whether the service has shown for every body that it got what was sent.
    pub(super) fn is_proven(&self) -> bool {
        self.arrived.load(Ordering::Relaxed) > 0 && !self.unproven.load(Ordering::Relaxed)
    }
}

/// One client's way to the service.
pub(super) struct Transport {
    pub(super) wire: Arc<Wire>,
    pub(super) bandwidth: Option<Arc<Bandwidth>>,
    pub(super) ledger: Arc<Ledger>,
}

impl HttpTransport for Transport {
    async fn fetch(
        &self,
        request: http::Request<Buffer>,
    ) -> opendal::Result<http::Response<HttpBody>> {
        self.exchange(request).await.map_err(|error| {
            let error = error.map_text(|text| self.wire.settings.redact(text));
            let temporary = error.kind().retry() != Retry::Never;
            opendal::Error::new(opendal::ErrorKind::Unexpected, "sending a request")
                .with_temporary(temporary)
                .set_source(error)
        })
    }
}

impl Transport {
    async fn exchange(
        &self,
        request: http::Request<Buffer>,
    ) -> Result<http::Response<HttpBody>, Error> {
        let wire = &self.wire;
        let left = wire.pause.left();
        if left > LONGEST_PAUSE {
            let kind = ErrorKind::RateLimited(Some(left));
            return Err(Error::new(kind, "", "the service asked to wait"));
        }
        wire.pause.over().await;
        let (parts, body) = request.into_parts();
        let body = body.to_bytes();
        let url = Url::parse(&parts.uri.to_string())
            .map_err(|error| Error::new(ErrorKind::Invalid, "", error.to_string()))?;
        let line = wire.idle.lock().ok().and_then(|mut idle| idle.pop());
        let line = line.unwrap_or_else(|| wire.http.line());
        let headers = parts.headers.iter();
        let headers: Vec<(HeaderName, HeaderValue)> = headers
            // The body says how long it is.
            .filter(|(name, _)| **name != CONTENT_LENGTH)
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let len = body.len() as u64;
        let is_head = parts.method == Method::HEAD;
        let payload = if len == 0 {
            Payload::Bytes(Bytes::new())
        } else {
            let source: Arc<dyn Source> = Arc::new(Piece(body.clone()));
            Payload::Range(source, 0..len, self.bandwidth.clone())
        };
        let reply_wait = if parts.method == Method::POST {
            LONG_WAIT
        } else {
            wire.http.stall()
        };
        let sent = line.send(
            "",
            Request {
                method: parts.method.clone(),
                url,
                headers,
                body: payload,
                reply_wait,
            },
        );
        let reply = sent.await?;
        // One that failed is not used again: something may still come on it.
        if let Ok(mut idle) = wire.idle.lock() {
            idle.push(line);
        }
        if let Some(error) = judge(reply.status, &reply.headers, &reply.body) {
            if let ErrorKind::RateLimited(Some(wait)) = error.kind() {
                // Tasks of OpenDAL's do not come back here before they try again.
                wire.pause.ask_for(wait);
            }
            return Err(error);
        }
        if len > 0 && parts.method == Method::PUT && (200..300).contains(&reply.status) {
            self.note(&parts.headers, &body, &reply.headers).await;
        }
        let stated = (!is_head).then_some(reply.body.len() as u64);
        let buffer = Buffer::from(reply.body);
        let stream = stream::iter((!buffer.is_empty()).then_some(Ok(buffer)));
        let mut response = http::Response::new(HttpBody::new(stream, stated));
        *response.status_mut() = http::StatusCode::from_u16(reply.status)
            .map_err(|error| Error::new(ErrorKind::Unexpected, "", error.to_string()))?;
        *response.headers_mut() = reply.headers;
        Ok(response)
    }

    /// A body has arrived: does the reply prove it?
    async fn note(&self, asked: &HeaderMap, body: &Bytes, told: &HeaderMap) {
        let checksum = "x-amz-checksum-crc32c";
        let same =
            matches!((asked.get(checksum), told.get(checksum)), (Some(a), Some(b)) if a == b);
        if !same {
            let etag = told.get(ETAG).and_then(|value| value.to_str().ok());
            let etag = etag.unwrap_or_default().trim_matches('"').to_owned();
            let body = body.clone();
            let md5 = tokio::task::spawn_blocking(move || hex(&Md5::digest(&body)));
            if md5.await.ok().is_none_or(|md5| md5 != etag.to_lowercase()) {
                self.ledger.unproven.store(true, Ordering::Relaxed);
            }
        }
        self.ledger
            .arrived
            .fetch_add(body.len() as u64, Ordering::Relaxed);
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// A part that OpenDAL holds, read while it is sent.
struct Piece(Bytes);

impl Source for Piece {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn fingerprint(&self) -> io::Result<Fingerprint> {
        Ok(Fingerprint(String::new()))
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        Ok(self.read_ready(offset, buf))
    }

    fn read_ready(&self, offset: u64, buf: &mut [u8]) -> usize {
        let rest = usize::try_from(offset)
            .ok()
            .and_then(|offset| self.0.get(offset..))
            .unwrap_or_default();
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        len
    }

    fn release(&self, _range: Range<u64>) {}
}
