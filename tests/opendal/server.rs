//! Real servers, started by the tests and ended with them. Where one is not installed its tests are skipped, and
//! say so.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;

/// Says that a test cannot be made here.
pub fn skip(why: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}

/// A program that serves on a port of the loopback; killed at the end.
pub struct Server {
    child: Child,
    pub port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts it, and waits until it takes connections. `command` is told the port.
    pub fn start(command: impl Fn(u16) -> Command) -> Server {
        // Somebody else may take the port before the server does.
        for _ in 0..5 {
            let port = free_port();
            let mut child = command(port)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("a program that was called before");
            let deadline = Instant::now() + Duration::from_secs(20);
            while Instant::now() < deadline {
                if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
                    return Server { child, port };
                }
                if child.try_wait().expect("waited for").is_some() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        panic!("the server does not start");
    }
}

pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("an address").port()
}

fn is_installed(program: &str, argument: &str) -> bool {
    let called = Command::new(program)
        .arg(argument)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    called.is_ok()
}

pub const KEY_ID: &str = "AKIDEXAMPLEEXAMPLE00";
pub const SECRET: &str = "marked-secret-access-key-0123456789abcdef";
pub const BUCKET: &str = "gitlab-backups";

/// `rclone serve s3` over a folder whose one folder is the bucket.
pub struct S3 {
    server: Server,
    folder: TempDir,
    /// The certificate it shows, which nobody signed.
    certificate: Option<PathBuf>,
}

impl S3 {
    /// None, and that is told, if rclone is not installed.
    pub fn start(tls: bool) -> Option<S3> {
        if !is_installed("rclone", "version") {
            skip("rclone is not installed");
            return None;
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().to_owned();
        fs::create_dir_all(path.join("served").join(BUCKET)).expect("a bucket");
        let (certificate, key) = (path.join("certificate.pem"), path.join("key.pem"));
        if tls {
            let pair = KeyPair::generate().expect("a key");
            let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
            let made = CertificateParams::new(names).expect("names");
            let made = made.self_signed(&pair).expect("a certificate");
            fs::write(&certificate, made.pem()).expect("written");
            fs::write(&key, pair.serialize_pem()).expect("written");
        }
        let server = Server::start(|port| {
            let mut command = Command::new("rclone");
            command
                .args(["serve", "s3", "--config", "/dev/null", "--auth-key"])
                .arg(format!("{KEY_ID},{SECRET}"))
                .args(["--addr", &format!("127.0.0.1:{port}")])
                .args(["--vfs-cache-mode", "off"])
                .arg(path.join("served"));
            if tls {
                command.arg("--cert").arg(&certificate);
                command.arg("--key").arg(&key);
            }
            command
        });
        Some(S3 {
            server,
            certificate: tls.then_some(certificate),
            folder,
        })
    }

    /// The lines of a destination there.
    pub fn place(&self) -> String {
        place(&self.url())
    }

    pub fn url(&self) -> String {
        let scheme = if self.certificate.is_some() {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://127.0.0.1:{}", self.server.port)
    }

    pub fn certificate(&self) -> &Path {
        self.certificate.as_deref().expect("with TLS")
    }

    /// Where an object lies.
    pub fn object(&self, key: &str) -> PathBuf {
        self.folder.path().join("served").join(BUCKET).join(key)
    }
}

/// The lines of a destination at an address.
pub fn place(url: &str) -> String {
    format!(
        "type = \"s3\"\nbucket = \"{BUCKET}\"\nendpoint = \"{url}\"\naccess_key_id = \"{KEY_ID}\"\n\
         secret_access_key = \"{SECRET}\"\n"
    )
}

/// A server that answers everything with the same error.
pub struct Refusing {
    pub port: u16,
    thread: Option<JoinHandle<()>>,
}

impl Refusing {
    pub fn start(status: u16, code: &str) -> Refusing {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let body = format!(
            "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>as it is</Message></Error>"
        );
        let reply = format!(
            "HTTP/1.1 {status} No\r\nContent-Type: application/xml\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let mut buf = [0; 16 * 1024];
                let read = stream.read(&mut buf).unwrap_or(0);
                if buf[..read].starts_with(b"END") {
                    return;
                }
                let _ = stream.write_all(reply.as_bytes());
            }
        });
        Refusing {
            port,
            thread: Some(thread),
        }
    }
}

impl Drop for Refusing {
    fn drop(&mut self) {
        if let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)) {
            let _ = stream.write_all(b"END");
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
