//! A server that answers as each test says, to see what the client makes of it.

use std::io;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::support::web::http::{Connection, Head, Stream};
use crate::support::web::tls::Tls;

/// One request, whole.
pub struct Seen {
    /// Its head.
    pub head: Head,
    /// Its body.
    pub body: String,
    /// How many there were before it.
    pub number: usize,
    /// When it had come.
    pub at: Instant,
    /// The number of the connection.
    pub connection: usize,
}

impl Seen {
    /// Method and target.
    pub fn line(&self) -> String {
        format!("{} {}", self.head.method, self.head.target)
    }
}

/// What comes back.
pub struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// So much of the body comes before the connection ends.
    cut: Option<usize>,
}

impl Answer {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Answer {
        Answer {
            status,
            headers: Vec::new(),
            body: body.into(),
            cut: None,
        }
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Answer {
        self.headers.push((name, value.into()));
        self
    }

    pub fn cut(mut self, bytes: usize) -> Answer {
        self.cut = Some(bytes);
        self
    }
}

/// No answer: the connection ends.
pub fn lost() -> Answer {
    Answer::new(0, "")
}

type Handler = dyn Fn(&Seen) -> Answer + Send + Sync;

/// A running server; it ends when this is dropped.
pub struct Server {
    port: u16,
    tls: Option<Arc<Tls>>,
    state: Arc<Mutex<State>>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    seen: Vec<Arc<Seen>>,
    open: Vec<Arc<TcpStream>>,
    ended: bool,
}

impl Server {
    pub fn start(handler: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Server {
        Server::serve(None, Arc::new(handler))
    }

    pub fn under_tls(handler: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Server {
        Server::serve(Some(Arc::new(Tls::create())), Arc::new(handler))
    }

    fn serve(tls: Option<Arc<Tls>>, handler: Arc<Handler>) -> Server {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("a bound listener").port();
        let state = Arc::<Mutex<State>>::default();
        let (shared, by) = (Arc::clone(&state), tls.clone());
        let acceptor = std::thread::spawn(move || {
            for (connection, socket) in listener.incoming().flatten().enumerate() {
                let socket = Arc::new(socket);
                {
                    let mut state = lock(&shared);
                    if state.ended {
                        return;
                    }
                    state.open.push(Arc::clone(&socket));
                }
                let (shared, by, handler) = (Arc::clone(&shared), by.clone(), Arc::clone(&handler));
                std::thread::spawn(move || {
                    // Whatever ends a connection is the client's to notice.
                    let _ = converse(&shared, by.as_deref(), &*handler, &socket, connection);
                    let _ = socket.shutdown(Shutdown::Both);
                });
            }
        });
        Server {
            port,
            tls,
            state,
            acceptor: Some(acceptor),
        }
    }

    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    pub fn ca_file(&self) -> &Path {
        self.tls.as_ref().expect("with TLS").ca_file()
    }

    pub fn seen(&self) -> Vec<Arc<Seen>> {
        lock(&self.state).seen.clone()
    }

    /// Method and target of all requests.
    pub fn lines(&self) -> Vec<String> {
        self.seen().iter().map(|seen| seen.line()).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        {
            let mut state = lock(&self.state);
            state.ended = true;
            for socket in &state.open {
                let _ = socket.shutdown(Shutdown::Both);
            }
        }
        // Wakes the acceptor.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        // From then on nobody listens.
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.join().expect("it ends well");
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn converse(
    shared: &Mutex<State>,
    tls: Option<&Tls>,
    handler: &Handler,
    socket: &Arc<TcpStream>,
    number: usize,
) -> io::Result<()> {
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
        let seen = {
            let mut state = lock(shared);
            let seen = Arc::new(Seen {
                head,
                body: String::from_utf8_lossy(&body).into_owned(),
                number: state.seen.len(),
                at: Instant::now(),
                connection: number,
            });
            state.seen.push(Arc::clone(&seen));
            seen
        };
        let answer = handler(&seen);
        if answer.status == 0 {
            return Ok(());
        }
        let mut reply = format!(
            "HTTP/1.1 {} x\r\nContent-Length: {}\r\n",
            answer.status,
            answer.body.len()
        );
        for (name, value) in &answer.headers {
            reply.extend([name, ": ", value.as_str(), "\r\n"]);
        }
        reply.push_str("\r\n");
        let mut reply = reply.into_bytes();
        let end = answer.cut.unwrap_or(answer.body.len());
        reply.extend_from_slice(&answer.body[..end]);
        connection.stream.write(&reply)?;
        if answer.cut.is_some() {
            return Ok(());
        }
    }
    Ok(())
}
