//! The HTTP client: TLS roots, proxies, time-outs, and errors that hold no secret.
//!
//! One [`Http`] makes any number of [`Line`]s. A line is a client with at most one connection to a
//! host, so that what that connection does can be watched: a slow one is left alone, a dead one given up.

mod address;
mod body;
mod watch;

use std::error::Error as _;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use reqwest::header::{CONTENT_LENGTH, DATE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Url};
use rustls::ClientConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::error::{Error, ErrorKind};
use crate::http::body::{Meter, Streamed};
use crate::http::watch::{Connection, ConnectionLayer};
use crate::source::Source;
use crate::units::{Size, Span};

pub use crate::http::address::is_loopback;
pub use crate::http::body::Bandwidth;
pub use reqwest::Method;

/// A longer reply is refused; bytes.
const LONGEST_REPLY: usize = 8 * 1024 * 1024;
/// Connecting, name look-up and TLS handshake included, takes no longer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Makes connections that all share one TLS configuration.
pub struct Http {
    tls: ClientConfig,
    stall: Duration,
    direct: bool,
    clock: Clock,
}

/// At most one connection, to one host.
pub struct Line {
    client: Client,
    connection: Connection,
    stall: Duration,
    clock: Clock,
}

/// How far this machine's clock is behind the last server that told the time; shared by all lines.
type Clock = Arc<Mutex<Option<TimeDelta>>>;

/// A request.
pub struct Request {
    /// What is asked for.
    pub method: Method,
    /// Where to.
    pub url: Url,
    /// Its headers; a secret one is marked sensitive.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// What is sent.
    pub body: Payload,
    /// How long the reply may take once the whole body has been acknowledged.
    pub reply_wait: Duration,
}

/// The body of a request; a clone is the same bytes again.
#[derive(Clone)]
pub enum Payload {
    /// A few bytes from memory.
    Bytes(Bytes),
    /// A range of a source, read while it is sent and never collected.
    Range(Arc<dyn Source>, Range<u64>, Option<Arc<Bandwidth>>),
}

/// A reply, whole.
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Vec<u8>,
}

/// What becomes of the body of a reply.
enum Wanted<'a> {
    /// It is collected.
    Whole,
    /// It is not read.
    Nothing,
    /// That of a success goes here; any other is collected.
    Pieces(Pieces<'a>),
}

/// Takes a body as it comes: the status, the headers, the next bytes. Whether it wants more.
type Pieces<'a> = &'a mut (dyn FnMut(u16, &HeaderMap, &[u8]) -> bool + Send);

impl Http {
    /// `stall`: a connection that moves nothing for so long is given up. `direct`: no proxy is used,
    /// whatever the environment says.
    pub fn new(stall: Duration, direct: bool) -> Http {
        Http::trusting(stall, direct, &[]).expect("without a certificate none is wrong")
    }

    /// Like [`Http::new`], and these certificates are trusted beside the system's. They are PEM; the error says
    /// what is wrong with them.
    pub fn trusting(stall: Duration, direct: bool, more: &[u8]) -> Result<Http, String> {
        let mut roots = rustls::RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::debug!("reading the system's certificates: {error}");
        }
        roots.add_parsable_certificates(found.certs);
        let mut extra = 0;
        for certificate in CertificateDer::pem_slice_iter(more) {
            let certificate = certificate.map_err(|error| error.to_string())?;
            roots.add(certificate).map_err(|error| error.to_string())?;
            extra += 1;
        }
        if extra == 0 && !more.is_empty() {
            return Err("there is no certificate in it".to_owned());
        }
        if roots.is_empty() {
            tracing::warn!(
                "no trusted certificates were found on this machine, so no HTTPS connection can succeed\n  \
                 install the package `ca-certificates`, or point SSL_CERT_FILE at a certificate file"
            );
        }
        let tls = ClientConfig::builder_with_provider(Arc::new(crypto_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring serves TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let clock = Clock::default();
        Ok(Http {
            tls,
            stall,
            direct,
            clock,
        })
    }

    /// How long a connection may move nothing, and a reply may take.
    pub fn stall(&self) -> Duration {
        self.stall
    }

    /// What TLS of another protocol is to trust as well.
    pub fn tls(&self) -> Arc<ClientConfig> {
        Arc::new(self.tls.clone())
    }

    /// How far this machine's clock is behind the server's, by its last reply; negative if it is ahead, none if
    /// no reply told the time.
    pub fn clock_lag(&self) -> Option<TimeDelta> {
        self.clock.lock().ok().and_then(|clock| *clock)
    }

    /// A new line, not connected yet.
    pub fn line(&self) -> Line {
        let connection = Connection::default();
        let mut builder = Client::builder()
            .tls_backend_preconfigured(self.tls.clone())
            // With HTTP/2 all appends would share one connection.
            .http1_only()
            .pool_max_idle_per_host(1)
            .connect_timeout(CONNECT_TIMEOUT.min(self.stall))
            .tcp_user_timeout(self.stall)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .user_agent(concat!(
                env!("CARGO_PKG_NAME"),
                "/",
                env!("CARGO_PKG_VERSION")
            ))
            .connector_layer(ConnectionLayer::new(connection.clone()));
        if self.direct {
            builder = builder.no_proxy();
        }
        let client = builder.build().expect("a client from fixed settings");
        Line {
            client,
            connection,
            stall: self.stall,
            clock: self.clock.clone(),
        }
    }
}

/// ring, with `ChaCha20` offered first on ARM processors without AES instructions (every Raspberry Pi
/// before the 5), where it is several times faster.
fn crypto_provider() -> CryptoProvider {
    let provider = rustls::crypto::ring::default_provider();
    #[cfg(target_arch = "aarch64")]
    let provider = {
        let mut provider = provider;
        if !std::arch::is_aarch64_feature_detected!("aes") {
            provider.cipher_suites.sort_by_key(|suite| {
                // Stable: within the two groups the order stays.
                !format!("{:?}", suite.suite()).contains("CHACHA20")
            });
        }
        provider
    };
    provider
}

impl Line {
    /// Sends a request and reads the whole reply. `action` says what it is for in an error.
    pub async fn send(&self, action: &str, request: Request) -> Result<Reply, Error> {
        self.exchange(action, request, Wanted::Whole).await
    }

    /// Like [`Line::send`], but the body of a 200 or 206 is handed to `take` as it comes, and not collected.
    /// What `take` wants no more of is not read.
    pub async fn receive(
        &self,
        action: &str,
        request: Request,
        mut take: impl FnMut(u16, &HeaderMap, &[u8]) -> bool + Send,
    ) -> Result<Reply, Error> {
        self.exchange(action, request, Wanted::Pieces(&mut take))
            .await
    }

    /// Like [`Line::send`], but what comes behind the head of the reply is not read; its status.
    pub async fn tell(&self, action: &str, request: Request) -> Result<u16, Error> {
        let reply = self.exchange(action, request, Wanted::Nothing).await?;
        Ok(reply.status)
    }

    async fn exchange(
        &self,
        action: &str,
        request: Request,
        mut wanted: Wanted<'_>,
    ) -> Result<Reply, Error> {
        let meter = Arc::new(Meter::default());
        let (body, body_len) = match request.body {
            Payload::Bytes(bytes) => {
                let len = bytes.len() as u64;
                meter.add(len);
                (reqwest::Body::from(bytes), len)
            }
            Payload::Range(source, range, bandwidth) => {
                let len = range.end - range.start;
                (
                    reqwest::Body::wrap(Streamed::new(source, range, bandwidth, meter.clone())),
                    len,
                )
            }
        };
        let asks = matches!(request.method, Method::GET | Method::HEAD);
        let mut builder = self.client.request(request.method, request.url).body(body);
        for (name, value) in request.headers {
            builder = builder.header(name, value);
        }
        if body_len == 0 && !asks {
            // Left out otherwise, and then some servers ask for it (411).
            builder = builder.header(CONTENT_LENGTH, 0);
        }
        let exchange = async {
            let mut response = builder.send().await?;
            let (status, headers) = (response.status().as_u16(), response.headers().clone());
            if let (Some(lag), Ok(mut clock)) = (lag(&headers, Utc::now()), self.clock.lock()) {
                *clock = Some(lag);
            }
            if matches!(wanted, Wanted::Nothing) {
                let body = Vec::new();
                return Ok(Some(Reply {
                    status,
                    headers,
                    body,
                }));
            }
            if let Wanted::Pieces(take) = &mut wanted
                && matches!(status, 200 | 206)
            {
                while let Some(chunk) = response.chunk().await? {
                    meter.received(chunk.len() as u64);
                    if !take(status, &headers, &chunk) {
                        break;
                    }
                }
                let body = Vec::new();
                return Ok(Some(Reply {
                    status,
                    headers,
                    body,
                }));
            }
            // A part of an archive: grown piece by piece it would take twice its length.
            let stated = response.content_length().unwrap_or(0);
            let stated = usize::try_from(stated).unwrap_or(usize::MAX);
            let mut body = Vec::with_capacity(stated.min(LONGEST_REPLY));
            while let Some(chunk) = response.chunk().await? {
                meter.received(chunk.len() as u64);
                if body.len() + chunk.len() > LONGEST_REPLY {
                    return Ok(None);
                }
                body.extend_from_slice(&chunk);
            }
            Ok(Some(Reply {
                status,
                headers,
                body,
            }))
        };
        let given_up = self
            .connection
            .given_up(&meter, body_len, self.stall, request.reply_wait);
        let result = tokio::select! {
            result = exchange => result,
            reason = given_up => return Err(Error::new(ErrorKind::Unavailable, action, reason)),
        };
        // After an early reply nobody wants the rest of the body.
        meter.abandon();
        match (result, meter.take_failure()) {
            (Ok(Some(reply)), _) => Ok(reply),
            (Ok(None), _) => {
                let reply = format!("the reply is longer than {}", Size(LONGEST_REPLY as u64));
                Err(Error::new(ErrorKind::Unexpected, action, reply))
            }
            (Err(_), Some(error)) => Err(source_error(action, &error)),
            (Err(error), None) => Err(network_error(action, &error)),
        }
    }
}

impl Line {
    /// Asks for the head of a page, and takes any answer for a sign of life; its status.
    pub async fn look(&self, action: &str, url: Url) -> Result<u16, Error> {
        let asking = self.client.head(url).send();
        match tokio::time::timeout(self.stall, asking).await {
            Ok(Ok(response)) => Ok(response.status().as_u16()),
            Ok(Err(error)) => Err(network_error(action, &error)),
            Err(_) => {
                let reply = format!("no answer for {}", Span(self.stall));
                Err(Error::new(ErrorKind::Unavailable, action, reply).hint("check the network"))
            }
        }
    }
}

/// A connection of another protocol than HTTP could not be made, or broke.
pub fn connection_error(action: &str, error: &io::Error) -> Error {
    if is_certificate_error(error) {
        return untrusted(action, &error.to_string());
    }
    let (kind, reply) = match error.kind() {
        io::ErrorKind::InvalidData => (
            ErrorKind::Invalid,
            format!("the server does not speak TLS as it should: {error}"),
        ),
        io::ErrorKind::UnexpectedEof => (
            ErrorKind::Unavailable,
            "the server closed the connection".to_owned(),
        ),
        _ => (
            ErrorKind::Unavailable,
            format!("no connection to the server: {error}"),
        ),
    };
    Error::new(kind, action, reply).hint("check the address and the network")
}

fn untrusted(action: &str, reply: &str) -> Error {
    Error::new(ErrorKind::Invalid, action, format!("the server's certificate is not trusted: {reply}")).hint(
        "if a proxy or a private certificate authority is wanted here, put its certificate into a file \
         and name that in SSL_CERT_FILE; else somebody is between you and the server",
    )
}

/// How far `now` is behind the time that a reply tells
/// (<https://www.rfc-editor.org/rfc/rfc9110#name-date>).
fn lag(headers: &HeaderMap, now: DateTime<Utc>) -> Option<TimeDelta> {
    let told = headers.get(DATE)?.to_str().ok()?;
    let told = DateTime::parse_from_rfc2822(told).ok()?;
    Some(told.to_utc() - now)
}

/// The local bytes could not be read.
pub fn source_error(action: &str, error: &io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::NotFound
        | io::ErrorKind::StaleNetworkFileHandle => ErrorKind::SourceChanged,
        _ => ErrorKind::Invalid,
    };
    Error::new(kind, action, format!("reading the file: {error}"))
}

/// The line, not the server, failed: names no address, since one may hold credentials.
fn network_error(action: &str, error: &reqwest::Error) -> Error {
    let mut chain = Vec::new();
    let mut certificate = false;
    let mut cause = error.source();
    while let Some(current) = cause {
        chain.push(current.to_string());
        certificate |= is_certificate_error(current);
        cause = current.source();
    }
    chain.dedup();
    // The innermost cause is the one that says what happened; the outer ones only where it was.
    let reply = chain
        .pop()
        .unwrap_or_else(|| "the connection failed".to_owned());
    if certificate {
        return untrusted(action, &reply);
    }
    let dns = chain.iter().any(|text| text.contains("dns error"));
    let (reply, hint) = if dns {
        (
            format!("the server's name could not be looked up: {reply}"),
            "check the network and /etc/resolv.conf",
        )
    } else if error.is_connect() {
        (
            format!("no connection to the server: {reply}"),
            "check the network and the proxy settings",
        )
    } else {
        (
            format!("the connection broke: {reply}"),
            "check the network",
        )
    };
    let failed = Error::new(ErrorKind::Unavailable, action, reply).hint(hint);
    if dns || error.is_connect() {
        failed.absent()
    } else {
        failed
    }
}

/// rustls' error lies inside an I/O error, perhaps inside another one; their `source` skips it.
fn is_certificate_error(error: &(dyn std::error::Error + 'static)) -> bool {
    if let Some(error) = error.downcast_ref::<rustls::Error>() {
        return matches!(error, rustls::Error::InvalidCertificate(_));
    }
    let inner = error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref);
    inner.is_some_and(|inner| is_certificate_error(inner))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{CipherSuite, ClientConfig, ClientConnection, RootCertStore};

    use super::crypto_provider;

    /// What a `ClientHello` offers first, at its fixed place: behind the headers of record and handshake
    /// (5 + 4 bytes), the version (2), the random bytes (32), the session's ID and the list's length (2).
    fn offered_first() -> CipherSuite {
        let config = ClientConfig::builder_with_provider(Arc::new(crypto_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let name = "example.org".try_into().expect("a name");
        let mut connection = ClientConnection::new(Arc::new(config), name).expect("a client");
        let mut hello = Vec::new();
        connection.write_tls(&mut hello).expect("a ClientHello");
        let suite = 5 + 4 + 2 + 32 + 1 + usize::from(hello[43]) + 2;
        CipherSuite::from(u16::from_be_bytes([hello[suite], hello[suite + 1]]))
    }

    #[test]
    fn the_cipher_this_processor_is_quick_at_is_offered_first() {
        #[cfg(target_arch = "aarch64")]
        let has_aes = std::arch::is_aarch64_feature_detected!("aes");
        #[cfg(not(target_arch = "aarch64"))]
        let has_aes = true;
        let expected = if has_aes {
            CipherSuite::TLS13_AES_256_GCM_SHA384
        } else {
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
        };
        assert_eq!(offered_first(), expected, "AES instructions: {has_aes}");
    }
}
