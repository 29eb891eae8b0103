//! A stand-in for the Dropbox HTTP API, for tests, the benchmark and the demo.
//!
//! It keeps the service's rules (offsets, alignment, hashes, conflicts, scopes, error bodies) and can be told
//! to misbehave in every way a network or the service may. It serves HTTP/1.1 on 127.0.0.1, in clear text or
//! under TLS, and takes `CONNECT` like a proxy, so that clients which know nothing of it can be pointed to it.
//!
//! `api` is the table of endpoints; `tree` and `sessions` are the state; `fault` is what goes wrong.

#![allow(
    dead_code,
    unused_imports,
    reason = "every test binary uses another part of it"
)]

mod answer;
mod api;
mod arguments;
mod body;
mod clock;
mod content;
mod fault;
mod files;
mod listener;
mod listing;
mod main_loop;
mod oauth;
mod paths;
mod sessions;
mod tree;
mod upload;

use std::collections::HashMap;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::web::line::{End, Pace};
use super::web::tls::Tls;
use super::web::{http, line, random, tls};

pub use self::answer::Reply;
pub use self::fault::{Fault, Moment, StallAt, What};
pub use self::main_loop::serve_main;
pub use self::tree::StoredFile;
pub use super::web::line::Line;

use self::content::Log;
use self::fault::{Faults, Hit};
use self::oauth::Tokens;
use self::sessions::Sessions;
use self::tree::Tree;

/// All the scopes that are known here.
const SCOPES: [&str; 4] = [
    "account_info.read",
    "files.metadata.read",
    "files.content.read",
    "files.content.write",
];

/// How a stand-in behaves; the default is a fast, roomy, well-behaved one in clear text.
#[derive(Debug, Clone)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "independent switches, named where they are set"
)]
pub struct Options {
    /// Speak TLS, with a certificate by [`Dropbox::ca_file`].
    pub tls: bool,
    /// Keep the bytes of files; otherwise they cannot be downloaded, and memory and disk stay empty.
    pub keep_bytes: bool,
    /// Compute block hashes; otherwise no `content_hash` is checked, and metadata has none
    /// but the [`Options::known_hashes`].
    pub verify_hashes: bool,
    /// Content hashes of files known beforehand, by size: what metadata names if nothing is hashed here.
    ///
    /// For benchmarks of clients that compare the hash: hashing here would cost as much as all the rest.
    pub known_hashes: Vec<(u64, String)>,
    /// A line slower than loopback.
    pub line: Option<Line>,
    /// Bytes the account may hold.
    pub quota: u64,
    /// How long access tokens live.
    pub token_life: Duration,
    /// The app's `client_id`.
    pub app_key: String,
    /// The app's secret; with one, [`Options::refresh_token`] cannot be used without it.
    pub app_secret: Option<String>,
    /// A refresh token that is valid from the start.
    pub refresh_token: String,
    /// The scopes of [`Options::refresh_token`], and of tokens that come from no log-in.
    pub scopes: Vec<String>,
    /// What is ticked under Permissions: the scopes of every token of a new log-in, and all that any may use.
    pub app_scopes: Vec<String>,
    /// The port to listen at; 0 for any free one.
    pub port: u16,
    /// The most entries of one page of a listing, whatever the client's `limit`.
    pub list_page: usize,
    /// Start every listing with an empty page that promises more, as the service may.
    pub list_empty_page: bool,
    /// The service's clock is so many seconds ahead of this machine's.
    pub clock_ahead: i64,
    /// Look whether a session is closed before looking at the offset; which comes first is not documented.
    pub closed_before_offset: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tls: false,
            keep_bytes: true,
            verify_hashes: true,
            known_hashes: Vec::new(),
            line: None,
            quota: 2 << 40,
            token_life: Duration::from_hours(4),
            app_key: "standin-app-key".into(),
            app_secret: None,
            refresh_token: "standin-refresh-token".into(),
            scopes: SCOPES.map(String::from).to_vec(),
            app_scopes: SCOPES.map(String::from).to_vec(),
            port: 0,
            list_page: 2000,
            list_empty_page: false,
            clock_ahead: 0,
            closed_before_offset: true,
        }
    }
}

/// One request, as far as it has got.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The path without query, like `/2/files/upload_session/append_v2`.
    pub endpoint: String,
    /// The call's argument, from the header or the body; null if there was none.
    pub arg: Value,
    /// Bytes of the body that were read.
    pub received: u64,
    /// The status answered; none if no reply was sent, or not yet.
    pub status: Option<u16>,
    /// Bytes of the answer's body.
    pub answered: u64,
    /// The bearer token.
    pub token: Option<String>,
    /// The number of the TCP connection, in the order they were accepted.
    pub connection: u64,
    /// Whether a fault hit it.
    pub faulted: bool,
    /// When its head was read.
    pub at: Instant,
}

/// Everything that changes; the lock is never held while reading from a client or waiting.
struct State {
    tree: Tree,
    sessions: Sessions,
    tokens: Tokens,
    faults: Faults,
    seen: Vec<Seen>,
    open: HashMap<u64, Arc<TcpStream>>,
}

/// What the threads of a server share.
struct Shared {
    options: Options,
    log: Log,
    whole_line: Pace,
    tls: Option<Tls>,
    end: End,
    state: Mutex<State>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic in one connection's thread shows in the test that caused it, not in all others.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn line(&self) -> Line {
        self.options.line.clone().unwrap_or_default()
    }
}

/// A running stand-in; it ends when this is dropped.
pub struct Dropbox {
    shared: Arc<Shared>,
    port: u16,
    acceptor: Option<JoinHandle<()>>,
}

impl Dropbox {
    /// Serves on 127.0.0.1 from now on.
    ///
    /// # Panics
    ///
    /// If the port is taken.
    pub fn start(options: Options) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port)).expect("a free port");
        let port = listener.local_addr().expect("a bound listener").port();
        let shared = Arc::new(Shared {
            log: Log::create().expect("a temporary file"),
            whole_line: Pace::new(options.line.as_ref().map_or(0, |line| line.whole)),
            tls: options.tls.then(Tls::create),
            end: End::default(),
            state: Mutex::new(State {
                tree: Tree::new(options.quota),
                sessions: Sessions::default(),
                tokens: Tokens::new(&options),
                faults: Faults::default(),
                seen: Vec::new(),
                open: HashMap::new(),
            }),
            options,
        });
        let acceptor = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || listener::accept(&shared, &listener)
        });
        Self {
            shared,
            port,
            acceptor: Some(acceptor),
        }
    }

    /// The base of every endpoint's address: both hosts are told apart by the path alone.
    pub fn url(&self) -> String {
        let port = self.port;
        if self.shared.options.tls {
            format!("https://localhost:{port}")
        } else {
            format!("http://127.0.0.1:{port}")
        }
    }

    /// The address of the same server as an HTTP proxy, for clients that insist on Dropbox's host names.
    pub fn proxy_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The certificate authority that signed the certificate, as PEM; none without TLS.
    pub fn ca_file(&self) -> Option<&Path> {
        self.shared.tls.as_ref().map(Tls::ca_file)
    }

    /// Puts a file there, replacing what is at the path.
    ///
    /// # Panics
    ///
    /// If the service would refuse the path.
    pub fn put_file(&self, path: &str, bytes: &[u8]) {
        let content = upload::content_of(&self.shared, bytes);
        self.shared.state().tree.put_file(path, &content);
    }

    /// Makes a folder and its parents.
    ///
    /// # Panics
    ///
    /// If the service would refuse the path.
    pub fn put_folder(&self, path: &str) {
        self.shared
            .state()
            .tree
            .create_folder(path, false)
            .expect("a path for a folder");
    }

    /// Removes a file or folder.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn remove(&self, path: &str) {
        self.shared
            .state()
            .tree
            .delete(path, None)
            .expect("something to remove");
    }

    /// All files, by path.
    pub fn files(&self) -> Vec<StoredFile> {
        self.shared.state().tree.files()
    }

    /// The files that are archives of GitLab's, by path.
    pub fn archives(&self) -> Vec<StoredFile> {
        let mut files = self.files();
        files.retain(|file| {
            Path::new(&file.path_display)
                .extension()
                .is_some_and(|e| e == "tar")
        });
        files
    }

    /// The bytes of a file.
    ///
    /// # Panics
    ///
    /// If there is no such file, or its bytes were not kept.
    pub fn content(&self, path: &str) -> Vec<u8> {
        let content = self
            .shared
            .state()
            .tree
            .content(path)
            .expect("a file at the path");
        assert!(
            content.extents.is_some(),
            "{path}: this server keeps no bytes"
        );
        let mut bytes = Vec::new();
        content
            .read(&self.shared.log, 0, content.size, |piece| {
                bytes.extend_from_slice(piece);
                Ok(())
            })
            .expect("reading what was kept");
        bytes
    }

    /// All requests so far, in the order they came.
    pub fn requests(&self) -> Vec<Seen> {
        self.shared.state().seen.clone()
    }

    /// How many upload sessions are neither finished nor forgotten.
    pub fn open_sessions(&self) -> usize {
        self.shared.state().sessions.count()
    }

    /// Queues a fault.
    pub fn fault(&self, fault: Fault) {
        self.shared.state().faults.push(fault);
    }

    /// Forgets all queued faults.
    pub fn clear_faults(&self) {
        self.shared.state().faults.clear();
    }

    /// A new access token, for clients that bring no refresh token.
    pub fn access_token(&self) -> String {
        self.shared.state().tokens.issue()
    }

    /// What the user does in the browser: opens the address of `/oauth2/authorize` and allows the app.
    ///
    /// # Errors
    ///
    /// What the page would complain about.
    pub fn authorize(&self, address: &str) -> Result<String, String> {
        let query = address.split_once('?').map_or("", |(_, query)| query);
        self.shared.state().tokens.authorize(query)
    }

    /// What the user sees after opening the same address and not allowing the app: no code.
    pub fn deny(&self, address: &str) -> String {
        let asked = self.authorize(address);
        asked.err().unwrap_or_else(|| "error=access_denied".into())
    }

    /// The minutes that the codes so far are valid for are over.
    pub fn expire_codes(&self) {
        self.shared.state().tokens.expire_codes();
    }

    /// What is ticked under Permissions from now on; tokens keep the rights they have.
    pub fn tick(&self, scopes: &[&str]) {
        self.shared.state().tokens.tick(scopes);
    }

    /// All refresh tokens that are valid.
    pub fn refresh_tokens(&self) -> Vec<String> {
        self.shared.state().tokens.refresh_tokens()
    }

    /// All access tokens so far are expired.
    pub fn expire_tokens(&self) {
        self.shared.state().tokens.expire();
    }

    /// The user takes the permission back: no token is valid any more.
    pub fn revoke(&self) {
        self.shared.state().tokens.revoke();
    }

    /// All upload sessions are unknown, as after seven days.
    pub fn forget_sessions(&self) {
        self.shared.state().sessions.forget();
    }

    /// All upload sessions are closed.
    pub fn close_sessions(&self) {
        self.shared.state().sessions.close();
    }

    /// Ends all connections, stalled ones included, and takes no new ones; what is stored can still be seen.
    pub fn shut_down(&self) {
        self.shared.end.declare();
        // Wakes the acceptor, which looks for the end after every connection.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        for socket in self.shared.state().open.values() {
            // It may be closed already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Changes how many bytes the account may hold.
    pub fn set_quota(&self, bytes: u64) {
        self.shared.state().tree.quota = bytes;
    }
}

impl Drop for Dropbox {
    fn drop(&mut self) {
        self.shut_down();
        if let Some(acceptor) = self.acceptor.take() {
            // If it has panicked, its message is out already.
            let _ = acceptor.join();
        }
    }
}
