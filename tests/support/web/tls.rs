//! TLS with a certificate authority of its own, made at start and trusted by nobody who is not told to.

use std::io::{self, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
};
use rustls::crypto::ring::default_provider;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::PrivateKeyDer;
use tempfile::NamedTempFile;

use super::http::Socket;

/// The names the certificate is good for; a CONNECT to any other name is refused.
pub const HOSTS: [&str; 7] = [
    "api.dropboxapi.com",
    "content.dropboxapi.com",
    "notify.dropboxapi.com",
    "api.dropbox.com",
    "www.dropbox.com",
    "localhost",
    "127.0.0.1",
];

/// A TLS connection; the socket below it reads ahead, as rustls asks for 4 KiB at a time.
pub type TlsStream = StreamOwned<ServerConnection, Socket>;

/// What is needed to speak TLS.
#[derive(Debug)]
pub struct Tls {
    config: Arc<ServerConfig>,
    ca_file: NamedTempFile,
}

impl Tls {
    /// A new authority, and a certificate by it for all of [`HOSTS`].
    pub fn create() -> Self {
        Self::for_hosts(HOSTS.map(String::from).to_vec())
    }

    /// A new authority, and a certificate by it for these names.
    pub fn for_hosts(hosts: Vec<String>) -> Self {
        let issued = "certificates are made from constants";
        let mut authority = CertificateParams::default();
        authority
            .distinguished_name
            .push(DnType::CommonName, "stand-in CA");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().expect(issued))
            .expect(issued);

        let key = KeyPair::generate().expect(issued);
        let mut leaf = CertificateParams::new(hosts).expect(issued);
        leaf.distinguished_name.push(DnType::CommonName, "stand-in");
        leaf.use_authority_key_identifier_extension = true;
        let leaf = leaf.signed_by(&key, &authority).expect(issued);

        let mut ca_file = NamedTempFile::with_suffix(".pem").expect("a temporary file");
        ca_file
            .write_all(authority.pem().as_bytes())
            .expect("writing the certificate");

        let key = PrivateKeyDer::try_from(key.serialize_der()).expect(issued);
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring knows TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key)
            .expect(issued);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self {
            config: Arc::new(config),
            ca_file,
        }
    }

    /// Where the authority's certificate lies, as PEM.
    pub fn ca_file(&self) -> &Path {
        self.ca_file.path()
    }

    /// TLS over an accepted connection; the handshake happens with the first read.
    pub fn accept(&self, socket: Arc<TcpStream>) -> io::Result<TlsStream> {
        let connection =
            ServerConnection::new(Arc::clone(&self.config)).map_err(io::Error::other)?;
        Ok(StreamOwned::new(connection, Socket::new(socket)))
    }
}
