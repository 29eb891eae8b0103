//! GitLab as a client: one request that uploads an export.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::ring::default_provider;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};

use super::Shared;
use super::archive::Archive;

/// How long a store may keep silent.
const PATIENCE: Duration = Duration::from_secs(30);

/// Sends an archive to `METHOD URL`, and returns the status that comes back.
pub fn send(shared: &Shared, upload: &str, archive: &Archive) -> io::Result<u16> {
    let malformed = || io::Error::other("an address that cannot be used");
    let (method, url) = upload.split_once(' ').ok_or_else(malformed)?;
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
        "{method} {target} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: Ruby\r\nAccept: */*\r\n\
         Content-Type: application/gzip\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        archive.len
    );
    if scheme == "http" {
        return exchange(socket, &head, archive);
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
    exchange(StreamOwned::new(tls, socket), &head, archive)
}

fn exchange(mut stream: impl Read + Write, head: &str, archive: &Archive) -> io::Result<u16> {
    stream.write_all(head.as_bytes())?;
    // A store that has refused already may have closed its side; then its answer tells more than the error.
    let _ = archive
        .read(0, archive.len, |piece| stream.write_all(piece))
        .and_then(|()| stream.flush());
    let mut reply = Vec::new();
    let mut buffer = [0; 1024];
    while !reply.contains(&b'\n') {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        reply.extend_from_slice(&buffer[..read]);
    }
    let line = String::from_utf8_lossy(&reply);
    let status = line
        .split_ascii_whitespace()
        .nth(1)
        .and_then(|word| word.parse().ok());
    status.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}
