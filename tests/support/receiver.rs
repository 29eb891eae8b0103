//! A server that takes whatever is posted to it, and misbehaves on demand.

use std::io::Read as _;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::web::http::{Connection, Head, Stream};
use super::web::tls::Tls;

/// What comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// A status.
    Status(u16),
    /// Nothing, for ever.
    Hang,
    /// The connection ends.
    Close,
    /// A body that hardly comes, a little at a time.
    Drip,
    /// Ones that lead elsewhere.
    Redirect,
}

/// One request, whole.
pub struct Posted {
    /// Its head.
    pub head: Head,
    /// Its body; what is no text in it cannot be read here.
    pub body: String,
    /// When it had come.
    pub at: Instant,
}

#[derive(Default)]
struct State {
    posted: Vec<Arc<Posted>>,
    /// For paths that begin so, the later ones first.
    answers: Vec<(String, Vec<Answer>)>,
    open: Vec<Arc<TcpStream>>,
    ended: bool,
}

/// A running server; it ends when this is dropped.
pub struct Receiver {
    state: Arc<(Mutex<State>, Condvar)>,
    tls: Option<Arc<Tls>>,
    port: u16,
}

impl Receiver {
    /// Serves on 127.0.0.1 in clear text.
    pub fn start() -> Receiver {
        Receiver::serve(None)
    }

    /// Serves under TLS, with a certificate by [`Receiver::ca_file`].
    pub fn under_tls() -> Receiver {
        Receiver::serve(Some(Arc::new(Tls::create())))
    }

    fn serve(tls: Option<Arc<Tls>>) -> Receiver {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("a bound listener").port();
        let state = Arc::<(Mutex<State>, Condvar)>::default();
        let (shared, by) = (Arc::clone(&state), tls.clone());
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let socket = Arc::new(socket);
                {
                    let mut state = lock(&shared.0);
                    if state.ended {
                        return;
                    }
                    state.open.push(Arc::clone(&socket));
                }
                let (shared, tls) = (Arc::clone(&shared), by.clone());
                // Whatever ends a connection is the client's to notice.
                std::thread::spawn(move || converse(&shared, tls.as_deref(), &socket));
            }
        });
        Receiver { state, tls, port }
    }

    /// An address here.
    pub fn url(&self, path: &str) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}{path}", self.port)
    }

    /// Whose certificate is to be trusted.
    pub fn ca_file(&self) -> &Path {
        self.tls.as_ref().expect("with TLS").ca_file()
    }

    /// From now on paths that begin so get these answers, the last one for ever.
    pub fn answer(&self, path: &str, answers: &[Answer]) {
        let mut state = lock(&self.state.0);
        state.answers.insert(0, (path.to_owned(), answers.to_vec()));
    }

    /// All requests so far.
    pub fn posted(&self) -> Vec<Arc<Posted>> {
        lock(&self.state.0).posted.clone()
    }

    /// Forgets them.
    pub fn forget(&self) {
        lock(&self.state.0).posted.clear();
    }

    /// Method and path of all of them, without the query, in the order they came.
    pub fn targets(&self) -> Vec<String> {
        let posted = self.posted();
        let target =
            |posted: &Arc<Posted>| format!("{} {}", posted.head.method, posted.head.path());
        posted.iter().map(target).collect()
    }

    /// The one request to a path.
    pub fn the(&self, path: &str) -> Arc<Posted> {
        let mut found = self.posted();
        found.retain(|posted| posted.head.path() == path);
        assert_eq!(found.len(), 1, "{path} among {:?}", self.targets());
        found.remove(0)
    }

    /// Waits until a request to this path has come.
    pub fn wait_for(&self, path: &str) {
        let (state, told) = &*self.state;
        let absent =
            |state: &mut State| !state.posted.iter().any(|posted| posted.head.path() == path);
        let waited = told.wait_timeout_while(lock(state), Duration::from_secs(30), absent);
        let waited = waited.unwrap_or_else(PoisonError::into_inner);
        assert!(!waited.1.timed_out(), "nothing came to {path}");
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        {
            let mut state = lock(&self.state.0);
            state.ended = true;
            for socket in &state.open {
                // It may be closed already.
                let _ = socket.shutdown(Shutdown::Both);
            }
        }
        // Wakes the acceptor.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn converse(
    shared: &(Mutex<State>, Condvar),
    tls: Option<&Tls>,
    socket: &Arc<TcpStream>,
) -> std::io::Result<()> {
    let stream = match tls {
        Some(tls) => Stream::Tls(Box::new(tls.accept(Arc::clone(socket))?)),
        None => Stream::Plain(Arc::clone(socket)),
    };
    let mut connection = Connection::new(stream);
    while let Some(head) = connection.head()? {
        let mut framing = head.framing()?;
        let mut body = Vec::new();
        loop {
            let piece = connection.piece(&mut framing, u64::MAX)?;
            if piece.is_empty() {
                break;
            }
            body.extend_from_slice(piece);
        }
        let answer = {
            let mut state = lock(&shared.0);
            let path = head.path().to_owned();
            let body = String::from_utf8_lossy(&body).into_owned();
            state.posted.push(Arc::new(Posted {
                head,
                body,
                at: Instant::now(),
            }));
            shared.1.notify_all();
            let mut answers = state.answers.iter_mut();
            match answers.find(|(begin, _)| path.starts_with(begin.as_str())) {
                Some((_, answers)) if answers.len() > 1 => answers.remove(0),
                Some((_, answers)) => answers[0],
                None => Answer::Status(200),
            }
        };
        let status = match answer {
            Answer::Status(status) => status,
            Answer::Redirect => {
                connection.stream.write(
                    b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n",
                )?;
                continue;
            }
            Answer::Close => return socket.shutdown(Shutdown::Both),
            Answer::Hang => {
                // Until the client goes.
                let _ = (&**socket).read(&mut [0]);
                return Ok(());
            }
            Answer::Drip => {
                let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n";
                connection.stream.write(head)?;
                loop {
                    connection.stream.write(b"x")?;
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
        };
        // It repeats where it was sent to, as careless servers do.
        let text = connection_text(shared);
        let reply = format!(
            "HTTP/1.1 {status} x\r\nContent-Length: {}\r\n\r\n{text}",
            text.len()
        );
        connection.stream.write(reply.as_bytes())?;
    }
    Ok(())
}

fn connection_text(shared: &(Mutex<State>, Condvar)) -> String {
    let state = lock(&shared.0);
    let last = state.posted.last().expect("a request");
    format!("you asked for {}", last.head.target)
}
