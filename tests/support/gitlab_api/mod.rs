//! A stand-in for GitLab's REST API, as far as projects are listed, exported and imported.
//!
//! It keeps GitLab's rules (who sees and may do what, pages, limits, the states of an export, the words of errors)
//! and can be told to misbehave. It serves HTTP/1.1 on 127.0.0.1, under TLS if wanted.
//!
//! ```ignore
//! let gitlab = GitLabApi::start();                  // or GitLabApi::with(Options { tls: true, ..Options::default() })
//! gitlab.project("group/sub/app");                  // groups are made as needed; the user `backup` owns them all
//! gitlab.project_with("group/big", |project| {      // any field of `model::Project`
//!     project.export_bytes = 20 << 20;
//!     project.archived = true;
//! });
//! gitlab.share("group/sub/app", "other", Access::Maintainer);
//! // url = gitlab.url(), token = gitlab.token() (scope api, of the user `backup`)
//! let poor = gitlab.token_of("guest", &["read_api"]);   // another user, made as needed, with a token
//! gitlab.member("group", "guest", Access::Guest);
//!
//! gitlab.set(|settings| {                           // at any time; see `Settings`
//!     settings.limits = Limits::usual();            // 6 exports, 1 download, 6 imports per minute; off by default
//!     settings.pace = Pace::Time { queued: ms(1), started: ms(20) };  // usually: with the polls of the status
//! });
//! // Options { minute: Duration::from_secs(1), .. } makes GitLab's minute a second long.
//!
//! gitlab.fault(Fault::on(Kind::GroupProjects, What::server_error(502)).skip(1).times(2));
//! gitlab.fault(Fault::on(Kind::Any, What::too_many_requests(Some(1))).one_in(50));
//! gitlab.fault(Fault::on(Kind::Download, What::Cut(100_000)).of("/42/"));
//! gitlab.mode(Mode::Maintenance);                   // 503 as a page to everything; Mode::Proxy: 200 as a page
//! gitlab.delete("group/big");                       // also from What::Before(…), between list and export
//! gitlab.rename("group/big", "other/big");          // the old path leads there
//! gitlab.change("group/big", |project| project.outcome = Outcome::Fails);
//!
//! // … the program runs …
//! assert_eq!(gitlab.count(Kind::Export), 2);        // requests by kind; all of them: gitlab.requests()
//! assert!(gitlab.busiest(Limit::Export) <= 6);      // the most calls in any one of GitLab's minutes, refused ones too
//! let exported = gitlab.exports();                  // what was asked for, packed, and uploaded where
//! let bytes = gitlab.archive("group/sub/app");      // the last one of a project
//! ```
//!
//! An export is uploaded to `upload[url]` by the stand-in itself, over http, or over https to servers whose
//! authority is [`Options::upload_ca`]. `routes` is the table of endpoints, `model` is what there is, `exports` and
//! `imports` are what is done with it, `fault` is what goes wrong.

#![allow(
    dead_code,
    unused_imports,
    reason = "every test binary uses another part of it"
)]

pub mod answer;
pub mod archive;
mod client;
mod download;
mod exports;
mod fault;
mod imports;
mod limits;
mod listings;
pub mod model;
mod options;
mod paging;
mod routes;
mod server;

use std::collections::HashMap;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;

use super::web::line::End;
use super::web::random;
use super::web::tls::Tls;

pub use self::answer::Reply;
pub use self::download::Validators;
pub use self::exports::{Exported, Pace};
pub use self::fault::{Fault, Kind, What};
pub use self::limits::{Limit, Limits};
pub use self::model::{Access, Outcome, Visibility};
pub use self::options::{Mode, Options, Seen, Settings};

use self::archive::Archive;
use self::exports::Exports;
use self::fault::Faults;
use self::limits::Counted;
use self::model::{Group, Project, Standing, Token, User, World};

/// The user that owns everything unless something else is said.
pub const USER: &str = "backup";

/// Everything that changes; the lock is never held while reading from a client or waiting.
struct State {
    world: World,
    settings: Settings,
    exports: Exports,
    counted: Counted,
    faults: Faults,
    mode: Mode,
    seen: Vec<Seen>,
    /// What the object store has.
    stored: Vec<Arc<Archive>>,
    open: HashMap<u64, Arc<TcpStream>>,
}

/// What the threads of a server share.
pub struct Shared {
    options: Options,
    tls: Option<Tls>,
    port: u16,
    end: End,
    state: Mutex<State>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic in one connection's thread shows in the test that caused it, not in all others.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn url(&self) -> String {
        let port = self.port;
        if self.tls.is_some() {
            format!("https://localhost:{port}")
        } else {
            format!("http://127.0.0.1:{port}")
        }
    }
}

/// A running stand-in; it ends when this is dropped.
pub struct GitLabApi {
    shared: Arc<Shared>,
    token: String,
    acceptor: Option<JoinHandle<()>>,
}

impl GitLabApi {
    /// Serves on 127.0.0.1 from now on, in clear text.
    pub fn start() -> Self {
        Self::with(Options::default())
    }

    /// Serves on 127.0.0.1 from now on.
    ///
    /// # Panics
    ///
    /// If the port is taken.
    pub fn with(options: Options) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port)).expect("a free port");
        let port = listener.local_addr().expect("a bound listener").port();
        let shared = Arc::new(Shared {
            tls: options.tls.then(Tls::create),
            port,
            end: End::default(),
            state: Mutex::new(State {
                world: World::default(),
                settings: Settings::default(),
                exports: Exports::default(),
                counted: Counted::default(),
                faults: Faults::default(),
                mode: Mode::Normal,
                seen: Vec::new(),
                stored: Vec::new(),
                open: HashMap::new(),
            }),
            options,
        });
        let acceptor = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || server::accept(&shared, &listener)
        });
        let mut gitlab = Self {
            shared,
            token: String::new(),
            acceptor: Some(acceptor),
        };
        gitlab.token = gitlab.token_of(USER, &["api"]);
        gitlab
    }

    /// Where it is: what `gitlab.url` takes.
    pub fn url(&self) -> String {
        self.shared.url()
    }

    /// The certificate authority that signed the certificate, as PEM; none without TLS.
    pub fn ca_file(&self) -> Option<&Path> {
        self.shared.tls.as_ref().map(Tls::ca_file)
    }

    /// The token of the user [`USER`], with the scope `api`.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// A new token of a user, who is made if there is none. In the log of requests it is called like the user.
    pub fn token_of(&self, username: &str, scopes: &[&str]) -> String {
        let secret = format!("glpat-{}", &random::id()[..20]);
        let mut state = self.shared.state();
        let token = Token {
            secret: secret.clone(),
            name: username.to_owned(),
            user: state.world.user(username),
            scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
            standing: Standing::Valid,
            expires_at: None,
        };
        state.world.tokens.insert(secret.clone(), token);
        secret
    }

    /// The token's last day is over.
    pub fn expire(&self, token: &str) {
        self.stand(token, Standing::Expired);
    }

    /// Somebody takes the token back.
    pub fn revoke(&self, token: &str) {
        self.stand(token, Standing::Revoked);
    }

    fn stand(&self, token: &str, standing: Standing) {
        let mut state = self.shared.state();
        let token = state
            .world
            .tokens
            .get_mut(token)
            .expect("a token of this server");
        token.standing = standing;
    }

    /// The token's last day, like `2026-12-31`; it counts until [`GitLabApi::expire`] says otherwise.
    pub fn token_ends(&self, token: &str, day: &str) {
        let mut state = self.shared.state();
        let token = state.world.tokens.get_mut(token);
        token.expect("a token of this server").expires_at = Some(day.to_owned());
    }

    /// Makes somebody an administrator.
    pub fn administrator(&self, username: &str) {
        let mut state = self.shared.state();
        let id = state.world.user(username);
        state.world.users.get_mut(&id).expect("a user").admin = true;
    }

    /// The number of a group, which is made if there is none.
    pub fn group(&self, path: &str) -> u64 {
        self.shared.state().world.group(path)
    }

    /// A group of this kind.
    pub fn group_with(&self, path: &str, change: impl FnOnce(&mut Group)) -> u64 {
        let mut state = self.shared.state();
        let id = state.world.group(path);
        change(state.world.groups.get_mut(&id).expect("a group"));
        id
    }

    /// A new project, and its number. `backup/app` lies with the user `backup`, all others lie in groups.
    ///
    /// # Panics
    ///
    /// If there is one.
    pub fn project(&self, path: &str) -> u64 {
        self.project_with(path, |_| {})
    }

    /// A new project of this kind, and its number.
    ///
    /// # Panics
    ///
    /// If there is one.
    pub fn project_with(&self, path: &str, change: impl FnOnce(&mut Project)) -> u64 {
        let mut state = self.shared.state();
        let id = state.world.project(path);
        change(state.world.projects.get_mut(&id).expect("a project"));
        id
    }

    /// Changes a project.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn change(&self, path: &str, change: impl FnOnce(&mut Project)) {
        let mut state = self.shared.state();
        let id = state.world.project_at(path).expect("a project");
        change(state.world.projects.get_mut(&id).expect("a project"));
    }

    /// A project as it is; none if there is none.
    pub fn look(&self, path: &str) -> Option<Project> {
        let state = self.shared.state();
        let id = state.world.project_at(path)?;
        state.world.projects.get(&id).cloned()
    }

    /// Makes somebody a member of a group, or of a project.
    ///
    /// # Panics
    ///
    /// If there is neither.
    pub fn member(&self, path: &str, username: &str, access: Access) {
        let mut state = self.shared.state();
        let user = state.world.user(username);
        let members = match (state.world.group_at(path), state.world.project_at(path)) {
            (Some(group), _) => &mut state.world.groups.get_mut(&group).expect("a group").members,
            (None, Some(id)) => {
                &mut state
                    .world
                    .projects
                    .get_mut(&id)
                    .expect("a project")
                    .members
            }
            (None, None) => panic!("{path}: no group and no project"),
        };
        match access {
            Access::None => members.remove(&user),
            access => members.insert(user, access),
        };
    }

    /// Shares a project with a group, which is made if there is none.
    pub fn share(&self, project: &str, group: &str, access: Access) {
        let id = self.group(group);
        self.change(project, |project| {
            project.shared_with.insert(id, access);
        });
    }

    /// Deletes a project.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn delete(&self, path: &str) {
        let mut state = self.shared.state();
        let id = state.world.project_at(path).expect("a project");
        state.world.delete(id);
    }

    /// Moves a project to a group; its old path leads to the new one.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn rename(&self, from: &str, to: &str) {
        let mut state = self.shared.state();
        let id = state.world.project_at(from).expect("a project");
        state.world.rename(id, to);
    }

    /// Changes how it behaves.
    pub fn set(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.shared.state().settings);
    }

    /// What everybody gets from now on.
    pub fn mode(&self, mode: Mode) {
        self.shared.state().mode = mode;
    }

    /// Queues a fault.
    pub fn fault(&self, fault: Fault) {
        self.shared.state().faults.push(fault);
    }

    /// Forgets all queued faults.
    pub fn clear_faults(&self) {
        self.shared.state().faults.clear();
    }

    /// The worker does everything that waits, uploads included; returns when it is done. For [`Pace::Held`].
    pub fn work(&self) {
        exports::work(&self.shared);
    }

    /// Somebody asks for an export of the same project as the user [`USER`] in a browser, which does not throw away
    /// the one that is there: the status is `regeneration_in_progress` from now on.
    ///
    /// # Panics
    ///
    /// If there is no such project.
    pub fn regenerate(&self, path: &str) {
        let mut state = self.shared.state();
        let id = state.world.project_at(path).expect("a project");
        let user = state.world.user(USER);
        exports::begin(&self.shared, &mut state, id, user, None);
    }

    /// All exports that wait to be downloaded are gone, as after a day.
    pub fn expire_exports(&self) {
        self.shared.state().exports.expire();
    }

    /// All requests so far, in the order they came.
    pub fn requests(&self) -> Vec<Seen> {
        self.shared.state().seen.clone()
    }

    /// How many requests of a kind there were.
    pub fn count(&self, kind: Kind) -> usize {
        let state = self.shared.state();
        let of_it = |seen: &&Seen| kind == Kind::Any || seen.kind == kind;
        state.seen.iter().filter(of_it).count()
    }

    /// How many requests were refused because there were too many of them.
    pub fn refused(&self) -> usize {
        let state = self.shared.state();
        let refused = |seen: &&Seen| seen.status == Some(429);
        state.seen.iter().filter(refused).count()
    }

    /// Forgets all requests so far; limits and exports stay.
    pub fn forget_requests(&self) {
        self.shared.state().seen.clear();
    }

    /// The most calls in any one window of a limit, refused ones included, for any user (and namespace).
    pub fn busiest(&self, limit: Limit) -> u32 {
        self.shared.state().counted.busiest(limit)
    }

    /// All exports that were accepted, in the order they were asked for.
    pub fn exports(&self) -> Vec<Exported> {
        self.shared.state().exports.all.clone()
    }

    /// The bytes of the export of a project that was packed last.
    ///
    /// # Panics
    ///
    /// If none was.
    pub fn archive(&self, path: &str) -> Vec<u8> {
        let exports = self.exports();
        let mut of_it = exports
            .iter()
            .rev()
            .filter(|exported| exported.path == path);
        let archive = of_it.find_map(|exported| exported.archive.clone());
        archive.expect("an export that was packed").to_vec()
    }

    /// Ends all connections, and takes no new ones; what happened can still be seen.
    pub fn shut_down(&self) {
        self.shared.end.declare();
        // Wakes the acceptor, which looks for the end after every connection.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.shared.port));
        for socket in self.shared.state().open.values() {
            // It may be closed already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for GitLabApi {
    fn drop(&mut self) {
        self.shut_down();
        if let Some(acceptor) = self.acceptor.take() {
            // If it has panicked, its message is out already.
            let _ = acceptor.join();
        }
    }
}
