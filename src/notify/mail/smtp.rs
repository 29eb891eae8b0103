//! Mail by a server: <https://www.rfc-editor.org/rfc/rfc5321>. The password is taken out of its wrapping here, to
//! log in, and out of everything the server says.

use std::fs::File;
use std::io::{self, Read};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use lettre::Message;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::AsyncSmtpConnection;
use lettre::transport::smtp::extension::ClientId;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::timeout;

use super::wire;
use crate::error::{Error, ErrorKind};
use crate::http::Http;
use crate::notify::message::{beginning, machine};
use crate::notify::post::persistently;
use crate::notify::settings::{Login, Password, Server};
use crate::units::Span;

/// A longer file is no password, in bytes.
const LONGEST_PASSWORD: u64 = 4096;
/// Whoever has done its work need not wait longer for a last word.
const GOODBYE: Duration = Duration::from_millis(500);

/// Sends a mail; what may succeed at a second try gets one.
pub async fn send(
    http: &Http,
    server: &Server,
    letter: &Message,
    step: Duration,
) -> Result<(), Error> {
    let action = format!("sending the mail through {}:{}", server.host, server.port);
    let bytes = letter.formatted();
    persistently(step, async || {
        let talk = async {
            let (mut connection, secrets) = log_in(http, &action, server, step).await?;
            let sent = connection.send(letter.envelope(), &bytes).await;
            sent.map_err(|error| told(&action, &error, &secrets))?;
            // It has the mail; how it says goodbye, and whether, is its own affair.
            let _ = timeout(GOODBYE, connection.quit()).await;
            Ok(())
        };
        bounded(&action, step * 2, talk).await
    })
    .await
}

/// Logs in, and sends nothing.
pub async fn reach(http: &Http, server: &Server, step: Duration) -> Result<(), Error> {
    let action = format!("logging in at {}:{}", server.host, server.port);
    let talk = async {
        let (mut connection, _) = log_in(http, &action, server, step).await?;
        let _ = timeout(GOODBYE, connection.quit()).await;
        Ok(())
    };
    bounded(&action, step * 2, talk).await
}

/// What can be known without a network.
pub fn look(server: &Server) -> Result<String, Error> {
    if let Some(login) = &server.login {
        password(login)?;
    }
    Ok(format!("mail goes through {}:{}", server.host, server.port))
}

async fn bounded<T>(
    action: &str,
    limit: Duration,
    talk: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let talked = timeout(limit, talk).await;
    talked.unwrap_or_else(|_| Err(silent(action, limit).hint("is the server up?")))
}

fn silent(action: &str, limit: Duration) -> Error {
    let reply = format!("the server did not answer within {}", Span(limit));
    Error::new(ErrorKind::Unavailable, action, reply)
}

/// A connection on which mail can be sent, and what must not be repeated of what was said there.
async fn log_in(
    http: &Http,
    action: &str,
    server: &Server,
    step: Duration,
) -> Result<(AsyncSmtpConnection, Vec<String>), Error> {
    let password = server.login.as_ref().map(password).transpose()?;
    let (hello, own_name) = hello();
    let connecting = wire::connect(http, action, server, &own_name);
    let wire = match timeout(step, connecting).await {
        Ok(wire) => wire?,
        Err(_) => return Err(silent(action, step).hint(wire::other_scheme(server))),
    };
    let greeted = AsyncSmtpConnection::connect_with_transport(Box::new(wire), &hello).await;
    let mut connection = greeted.map_err(|error| told(action, &error, &[]))?;
    let mut secrets = Vec::new();
    if let (Some(login), Some(password)) = (&server.login, password) {
        let (name, password) = (login.username.clone(), password.expose_secret().to_owned());
        secrets = vec![
            BASE64_STANDARD.encode(format!("\0{name}\0{password}")),
            BASE64_STANDARD.encode(&password),
            password.clone(),
        ];
        let credentials = Credentials::new(name, password);
        let mechanisms = [Mechanism::Plain, Mechanism::Login];
        let let_in = connection.auth(&mechanisms, &credentials).await;
        let_in.map_err(|error| {
            told(action, &error, &secrets).hint(if error.is_client() {
                "the server takes no login there: leave out `username`, or is there another port for it?"
            } else {
                "are `username` and the password right? many providers want a password made for this program alone"
            })
        })?;
    }
    Ok((connection, secrets))
}

/// How this machine introduces itself.
fn hello() -> (ClientId, String) {
    let name = machine();
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b".-".contains(&byte);
    if name.bytes().all(good) {
        (ClientId::Domain(name.clone()), name)
    } else {
        (ClientId::default(), "[127.0.0.1]".to_owned())
    }
}

fn password(login: &Login) -> Result<SecretString, Error> {
    let bad = |text: &str| text.is_empty() || text.contains(['\r', '\n', '\0']);
    let path = match &login.password {
        Password::Given(password) if bad(password.expose_secret()) => {
            let reply = "it takes exactly one line";
            let action = "using `notify.email.password`";
            return Err(
                Error::new(ErrorKind::Invalid, action, reply).hint("set it, or leave it out")
            );
        }
        Password::Given(password) => return Ok(password.clone()),
        Password::File(path) => path,
    };
    let action = format!(
        "reading the password of the mail account in {}",
        path.display()
    );
    let failed = |reply: &str| Error::new(ErrorKind::Invalid, &action, reply);
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(LONGEST_PASSWORD).read_to_string(&mut text))
        .map_err(|error| {
            failed(&error.to_string()).hint("write it there, in a line by itself, and chmod 600")
        })?;
    let password = SecretString::from(text.trim_end_matches(['\r', '\n']));
    if bad(password.expose_secret()) {
        return Err(failed("it takes exactly one line"));
    }
    Ok(password)
}

/// What the mail library tells, without what was secret in what was said.
fn told(action: &str, error: &lettre::transport::smtp::Error, secrets: &[String]) -> Error {
    let source = std::error::Error::source(error);
    let closed = source
        .and_then(|source| source.downcast_ref::<io::Error>())
        .is_some_and(|error| error.kind() == io::ErrorKind::UnexpectedEof);
    let cause = match source {
        Some(_) if closed => "the server closed the connection".to_owned(),
        Some(source) => source.to_string(),
        None => error.to_string(),
    };
    let known = |text: String, secret: &String| text.replace(secret, "[secret]");
    let cause = secrets.iter().fold(cause, known);
    let cause = beginning(&cause, 300);
    let (kind, reply) = match error.status() {
        Some(code) if error.is_transient() => (
            ErrorKind::Unavailable,
            format!("the server answered {code} {cause}"),
        ),
        Some(code) => (
            ErrorKind::Invalid,
            format!("the server answered {code} {cause}"),
        ),
        // It gave no answer, or none that could be understood.
        None if error.is_client() => (ErrorKind::Invalid, cause.to_owned()),
        None => (
            ErrorKind::Unavailable,
            format!("the conversation broke off: {cause}"),
        ),
    };
    Error::new(kind, action, reply)
}
