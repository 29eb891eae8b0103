//! A mail server that keeps what it is sent, and misbehaves on demand.

use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::web::tls::Tls;

/// How it speaks TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// From the first byte.
    Implicit,
    /// When asked.
    StartTls,
    /// Not.
    None,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing.
    None,
    /// The first command that begins so gets this answer, also later.
    Refuse(&'static str, &'static str),
    /// The same, but only once.
    RefuseOnce(&'static str, &'static str),
    /// No answer to this command, nor anything else; to `""` not even a greeting.
    Hang(&'static str),
    /// The connection ends there.
    Close(&'static str),
    /// A line that never ends.
    Endless(&'static str),
    /// Words before TLS that pretend to be behind it.
    SlipIn,
    /// An answer that repeats what was said.
    Echo(&'static str),
}

/// A mail.
#[derive(Debug, Clone)]
pub struct Mail {
    /// Who it is from.
    pub from: String,
    /// Who gets it.
    pub to: Vec<String>,
    /// Its text, dots and all, as it was meant.
    pub text: String,
}

#[derive(Default)]
struct State {
    mails: Vec<Mail>,
    /// What clients said, in clear text and under TLS.
    clear: Vec<String>,
    hidden: Vec<String>,
    refused: bool,
    open: Vec<Arc<TcpStream>>,
    ended: bool,
}

/// A running server; it ends when this is dropped.
pub struct MailServer {
    state: Arc<Mutex<State>>,
    tls: Arc<Tls>,
    security: Security,
    port: u16,
}

struct Rules {
    state: Arc<Mutex<State>>,
    tls: Arc<Tls>,
    security: Security,
    trouble: Trouble,
    /// Base64 of what `AUTH PLAIN` must bring.
    login: Option<String>,
}

impl MailServer {
    /// Serves on 127.0.0.1. `login` is the base64 text of `AUTH PLAIN` that is let in.
    pub fn start(security: Security, login: Option<&str>, trouble: Trouble) -> MailServer {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("a bound listener").port();
        let (state, tls) = (Arc::<Mutex<State>>::default(), Arc::new(Tls::create()));
        let rules = Arc::new(Rules {
            state: Arc::clone(&state),
            tls: Arc::clone(&tls),
            security,
            trouble,
            login: login.map(str::to_owned),
        });
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let socket = Arc::new(socket);
                {
                    let mut state = lock(&rules.state);
                    if state.ended {
                        return;
                    }
                    state.open.push(Arc::clone(&socket));
                }
                let rules = Arc::clone(&rules);
                // Whatever ends a connection is the client's to notice.
                std::thread::spawn(move || {
                    let _ = rules.converse(&socket);
                    let _ = socket.shutdown(Shutdown::Both);
                });
            }
        });
        MailServer {
            state,
            tls,
            security,
            port,
        }
    }

    /// What goes into the setting `smtp`.
    pub fn url(&self) -> String {
        let scheme = if self.security == Security::Implicit {
            "smtps"
        } else {
            "smtp"
        };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whose certificate is to be trusted.
    pub fn ca_file(&self) -> &Path {
        self.tls.ca_file()
    }

    /// What it was sent.
    pub fn mails(&self) -> Vec<Mail> {
        lock(&self.state).mails.clone()
    }

    /// Lines that anybody in between could have read.
    pub fn said_in_clear(&self) -> Vec<String> {
        lock(&self.state).clear.clone()
    }

    /// Lines under TLS.
    pub fn said_under_tls(&self) -> Vec<String> {
        lock(&self.state).hidden.clone()
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        {
            let mut state = lock(&self.state);
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

/// Reads no further than asked, so that TLS can begin behind a line.
struct Slowly<'a>(&'a TcpStream);

impl Read for Slowly<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = buffer.len().min(1);
        self.0.read(&mut buffer[..len])
    }
}

impl Write for Slowly<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.0.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Rules {
    fn converse(&self, socket: &Arc<TcpStream>) -> io::Result<()> {
        if self.security == Security::Implicit {
            return self.talk(
                &mut self.tls.accept(Arc::clone(socket))?,
                socket,
                true,
                true,
            );
        }
        let mut clear = Slowly(socket);
        self.talk(&mut clear, socket, false, true)
    }

    /// Greets, and answers until the client goes.
    fn talk(
        &self,
        stream: &mut (impl Read + Write),
        socket: &Arc<TcpStream>,
        hidden: bool,
        greets: bool,
    ) -> io::Result<()> {
        let mut stream = BufReader::with_capacity(1, stream);
        if greets && self.interrupts("", &mut stream)? {
            return Ok(());
        }
        if greets {
            stream.get_mut().write_all(b"220 mail.test ESMTP\r\n")?;
        }
        let (mut from, mut to) = (String::new(), Vec::new());
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim_end().to_owned();
            {
                let mut state = lock(&self.state);
                let said = if hidden {
                    &mut state.hidden
                } else {
                    &mut state.clear
                };
                said.push(line.clone());
            }
            if self.interrupts(&line, &mut stream)? {
                return Ok(());
            }
            if let Some(refusal) = self.refusal(&line) {
                stream
                    .get_mut()
                    .write_all(format!("{refusal}\r\n").as_bytes())?;
                continue;
            }
            let word = line.split(' ').next().unwrap_or_default().to_uppercase();
            let reply = match word.as_str() {
                "EHLO" => self.offers(hidden),
                "STARTTLS" if self.security == Security::StartTls && !hidden => {
                    let more = if self.trouble == Trouble::SlipIn {
                        "250 slipped in\r\n"
                    } else {
                        ""
                    };
                    stream
                        .get_mut()
                        .write_all(format!("220 go ahead\r\n{more}").as_bytes())?;
                    let mut tls = self.tls.accept(Arc::clone(socket))?;
                    return self.talk(&mut tls, socket, true, false);
                }
                "AUTH" => match (&self.login, line.strip_prefix("AUTH PLAIN ")) {
                    (Some(login), Some(given)) if login == given => "235 welcome".to_owned(),
                    _ => "535 5.7.8 authentication failed".to_owned(),
                },
                "MAIL" => {
                    from = address(&line);
                    "250 ok".to_owned()
                }
                "RCPT" => {
                    to.push(address(&line));
                    "250 ok".to_owned()
                }
                "DATA" => {
                    stream.get_mut().write_all(b"354 go on\r\n")?;
                    let text = text(&mut stream)?;
                    if self.interrupts(".", &mut stream)? {
                        return Ok(());
                    }
                    let mail = Mail {
                        from: from.clone(),
                        to: std::mem::take(&mut to),
                        text,
                    };
                    lock(&self.state).mails.push(mail);
                    "250 queued".to_owned()
                }
                "QUIT" => {
                    stream.get_mut().write_all(b"221 bye\r\n")?;
                    return Ok(());
                }
                _ => "502 unknown".to_owned(),
            };
            stream
                .get_mut()
                .write_all(format!("{reply}\r\n").as_bytes())?;
        }
    }

    fn offers(&self, hidden: bool) -> String {
        let mut offers = vec!["mail.test", "8BITMIME", "SIZE 1000000"];
        if self.security == Security::StartTls && !hidden {
            offers.push("STARTTLS");
        }
        if self.login.is_some() && hidden {
            offers.push("AUTH PLAIN LOGIN");
        }
        let last = offers.pop().expect("one at least");
        let first = offers
            .iter()
            .fold(String::new(), |all, offer| format!("{all}250-{offer}\r\n"));
        format!("{first}250 {last}")
    }

    fn refusal(&self, line: &str) -> Option<String> {
        match self.trouble {
            Trouble::Refuse(command, reply) if line.starts_with(command) => Some(reply.to_owned()),
            Trouble::RefuseOnce(command, reply) if line.starts_with(command) => {
                let first = !std::mem::replace(&mut lock(&self.state).refused, true);
                first.then(|| reply.to_owned())
            }
            Trouble::Echo(command) if line.starts_with(command) => {
                Some(format!("535 5.7.8 what is {line}?"))
            }
            _ => None,
        }
    }

    /// Whether the conversation is over before this command is answered.
    fn interrupts(
        &self,
        line: &str,
        stream: &mut BufReader<&mut (impl Read + Write)>,
    ) -> io::Result<bool> {
        let at = |command: &str| {
            if command.is_empty() {
                line.is_empty()
            } else {
                line.starts_with(command)
            }
        };
        match self.trouble {
            Trouble::Hang(command) if at(command) => {
                // Until the client goes.
                let _ = io::copy(stream, &mut io::sink());
                Ok(true)
            }
            Trouble::Close(command) => Ok(at(command)),
            Trouble::Endless(command) if at(command) => loop {
                stream.get_mut().write_all(&[b'2'; 4096])?;
            },
            _ => Ok(false),
        }
    }
}

/// A mail's lines up to the single dot.
fn text(stream: &mut impl io::BufRead) -> io::Result<String> {
    let mut text = String::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line == ".\r\n" {
            return Ok(text);
        }
        text += line.strip_prefix('.').unwrap_or(&line);
    }
}

/// What stands between `<` and `>`.
fn address(line: &str) -> String {
    let address = line.split(['<', '>']).nth(1);
    address.unwrap_or_default().to_owned()
}
