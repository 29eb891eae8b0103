//! The stand-in for Dropbox, in the two ways the measurements need it.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::archive::Archive;
use crate::dropbox::{Dropbox, Line, Options};

/// The app's secret; rclone cannot do without one.
pub const APP_SECRET: &str = "s3cret";

/// Where a client finds the stand-in.
pub struct Address {
    /// The proxy that leads to it, whatever host of Dropbox's is asked for.
    pub proxy: String,
    /// The authority that signed its certificate.
    pub ca_file: PathBuf,
}

/// A stand-in in a process of its own; it ends when this is dropped.
pub struct Server {
    child: Child,
    /// Where it is.
    pub address: Address,
}

impl Server {
    /// Starts one that takes `archive`, with further flags of [`crate::dropbox::serve_main`].
    pub fn start(archive: &Archive, flags: &[&str]) -> Server {
        let known = format!("{}:{}", archive.size, archive.hash);
        let own = ["--discard", "--no-hashes", "--known-hash", &known];
        Server::serve(&[&own, flags].concat())
    }

    /// Starts one that keeps what it gets, on the disk, and hashes it.
    pub fn keeping() -> Server {
        Server::serve(&[])
    }

    fn serve(flags: &[&str]) -> Server {
        let own = std::env::current_exe().expect("this program has a path");
        let mut child = Command::new(own)
            .args(["serve", "--tls", "--app-secret", APP_SECRET])
            .args(flags)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program starts itself");
        let mut ready = String::new();
        let stdout = child.stdout.take().expect("a piped stdout");
        BufReader::new(stdout)
            .read_line(&mut ready)
            .expect("the stand-in's address");
        let ready: Value = serde_json::from_str(&ready).expect("the stand-in's address");
        let text = |name: &str| ready[name].as_str().expect("an address");
        let address = Address {
            proxy: text("proxy").to_owned(),
            ca_file: text("ca_file").into(),
        };
        Server { child, address }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // It ends with its input; how does not matter any more.
        let _ = self.child.wait();
    }
}

/// A stand-in in this process, whose count of received bytes can be read; not for measuring speed.
pub fn here(archive: &Archive, whole_line: u64) -> (Dropbox, Address) {
    let dropbox = Dropbox::start(Options {
        tls: true,
        keep_bytes: false,
        verify_hashes: false,
        known_hashes: vec![(archive.size, archive.hash.to_string())],
        app_secret: Some(APP_SECRET.into()),
        line: Some(Line {
            whole: whole_line,
            ..Line::default()
        }),
        ..Options::default()
    });
    let address = Address {
        proxy: dropbox.proxy_url(),
        ca_file: dropbox.ca_file().map(Path::to_owned).expect("TLS"),
    };
    (dropbox, address)
}

/// Bytes of content that were read from clients up to now, by requests that have ended.
pub fn received(dropbox: &Dropbox) -> u64 {
    let requests = dropbox.requests();
    let content = requests
        .iter()
        .filter(|request| request.endpoint.contains("/upload"));
    content.map(|request| request.received).sum()
}
