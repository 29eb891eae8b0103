//! GitLab as a client: one request that uploads an export, or fetches one to import it.

use std::io::{self, Cursor, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use ring::digest::{Context, SHA256};
use rustls::crypto::ring::default_provider;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};

use super::super::web::random::hex;
use super::Shared;
use super::archive::Archive;
use super::imports::Received;

/// How long a store may keep silent.
const PATIENCE: Duration = Duration::from_secs(30);
/// The most bytes of the head of a reply.
const MOST_HEAD: usize = 64 << 10;

/// Sends an archive to `METHOD URL`, and returns the status that comes back.
pub fn send(shared: &Shared, upload: &str, archive: &Archive) -> io::Result<u16> {
    let (method, url) = upload.split_once(' ').ok_or_else(malformed)?;
    let (mut stream, head) = connect(shared, method, url)?;
    let head = format!(
        "{head}Content-Type: application/gzip\r\nContent-Length: {}\r\n\r\n",
        archive.len
    );
    stream.write_all(head.as_bytes())?;
    // A store that has refused already may have closed its side; then its answer tells more than the error.
    let _ = archive
        .read(0, archive.len, |piece| stream.write_all(piece))
        .and_then(|()| stream.flush());
    let (head, _) = reply_head(&mut *stream)?;
    status(&head)
}

/// Fetches a file for an import; only what comes with its length is taken.
pub fn fetch(shared: &Shared, url: &str) -> io::Result<Received> {
    let (mut stream, head) = connect(shared, "GET", url)?;
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    stream.flush()?;
    let (head, begun) = reply_head(&mut *stream)?;
    let code = status(&head)?;
    if code != 200 {
        return Err(io::Error::other(format!("the server answers {code}")));
    }
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    let mut lengths = lines.filter(|(name, _)| name.eq_ignore_ascii_case("Content-Length"));
    let length = lengths
        .next()
        .and_then(|(_, value)| value.parse::<u64>().ok());
    let length = length.ok_or_else(|| io::Error::other("no Content-Length"))?;
    let mut body = begun.chain(stream).take(length);
    let (mut file, mut digest) = (tempfile::tempfile()?, Context::new(&SHA256));
    let (mut buffer, mut len) = (vec![0; 64 << 10], 0);
    loop {
        let read = body.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        file.write_all(&buffer[..read])?;
        digest.update(&buffer[..read]);
        len += read as u64;
    }
    if len != length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Received {
        file,
        sha256: hex(digest.finish().as_ref()),
        name: String::new(),
    })
}

/// A connection, in clear text or under TLS.
trait Both: Read + Write {}
impl<T: Read + Write> Both for T {}

/// A connection to where an address leads, and the head of a request without its end.
fn connect(shared: &Shared, method: &str, url: &str) -> io::Result<(Box<dyn Both>, String)> {
    let (scheme, rest) = url.split_once("://").ok_or_else(malformed)?;
    let (authority, target) = match rest.find(['/', '?']) {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    let usual = if scheme == "https" { 443 } else { 80 };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().map_err(|_| malformed())?),
        None => (authority, usual),
    };
    let socket = TcpStream::connect((host, port))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.set_nodelay(true)?;
    let head = format!(
        "{method} {target} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: Ruby\r\nAccept: */*\r\nConnection: close\r\n"
    );
    if scheme == "http" {
        return Ok((Box::new(socket), head));
    }
    let mut roots = RootCertStore::empty();
    if let Some(path) = &shared.options.upload_ca {
        for certificate in CertificateDer::pem_file_iter(path).map_err(io::Error::other)? {
            let certificate = certificate.map_err(io::Error::other)?;
            roots.add(certificate).map_err(io::Error::other)?;
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let tls = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    Ok((Box::new(StreamOwned::new(tls, socket)), head))
}

/// The head of a reply, and what came with it of the body.
fn reply_head(stream: &mut dyn Both) -> io::Result<(String, Cursor<Vec<u8>>)> {
    let mut reply = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        if let Some(end) = reply.windows(4).position(|four| four == b"\r\n\r\n") {
            let body = reply.split_off(end + 4);
            let head = String::from_utf8_lossy(&reply).into_owned();
            return Ok((head, Cursor::new(body)));
        }
        let read = stream.read(&mut buffer)?;
        if read == 0 || reply.len() > MOST_HEAD {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        reply.extend_from_slice(&buffer[..read]);
    }
}

fn status(head: &str) -> io::Result<u16> {
    let word = head.split_ascii_whitespace().nth(1);
    let status = word.and_then(|word| word.parse().ok());
    status.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn malformed() -> io::Error {
    io::Error::other("an address that cannot be used")
}
