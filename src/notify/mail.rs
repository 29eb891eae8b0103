//! Mail, by a server or by the mail system of this machine.

mod sendmail;
mod smtp;
mod wire;

use std::time::{Duration, SystemTime};

use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, Mailboxes, MessageBuilder, header};

use crate::error::{Error, ErrorKind};
use crate::http::Http;
use crate::notify::message::{Message, machine};
use crate::notify::settings::{Email, Way};

/// Of the log a mail shows no more than this of its end, in bytes.
const LONGEST: usize = 100_000;

/// Sends a message. `step` is how long a server may be silent.
pub async fn send(
    http: &Http,
    email: &Email,
    message: &Message,
    step: Duration,
) -> Result<(), Error> {
    let from = sender(email)?;
    let letter = letter(email, from, message)?;
    match &email.way {
        Way::Sendmail => sendmail::send(&letter).await,
        Way::Smtp(server) => smtp::send(http, server, &letter, step).await,
    }
}

/// Goes as far as it can without sending anything; says how far that was.
pub async fn reach(http: &Http, email: &Email, step: Duration) -> Result<String, Error> {
    sender(email)?;
    match &email.way {
        Way::Sendmail => sendmail::find().map(|path| format!("{} is there", path.display())),
        Way::Smtp(server) => {
            smtp::reach(http, server, step).await?;
            Ok(match &server.login {
                Some(_) => "the mail server accepts the login".to_owned(),
                None => "the mail server answers".to_owned(),
            })
        }
    }
}

/// Looks at what is on this machine alone.
pub fn look(email: &Email) -> Result<String, Error> {
    sender(email)?;
    match &email.way {
        Way::Sendmail => sendmail::find().map(|path| format!("{} is there", path.display())),
        Way::Smtp(server) => smtp::look(server),
    }
}

fn sender(email: &Email) -> Result<Mailbox, Error> {
    if let Some(from) = &email.from {
        return Ok(from.clone());
    }
    let own = format!("root@{}", machine());
    own.parse()
        .or_else(|_| "root@localhost".parse())
        .map_err(|error| wrong(&format!("this machine has no address of its own: {error}")))
}

fn wrong(reply: &str) -> Error {
    Error::new(ErrorKind::Invalid, "writing the mail", reply).hint("set `notify.email.from`")
}

fn letter(email: &Email, from: Mailbox, message: &Message) -> Result<lettre::Message, Error> {
    // No program is to answer it: https://www.rfc-editor.org/rfc/rfc3834#section-5
    let automatic = HeaderName::new_from_ascii_str("Auto-Submitted");
    let to: Mailboxes = email.to.clone();
    let domain = from.email.domain().to_owned();
    let letter: MessageBuilder = lettre::Message::builder()
        .from(from)
        .mailbox(header::To::from(to))
        .subject(message.title.clone())
        .date(SystemTime::now())
        .message_id(Some(format!("<{}@{domain}>", unique())))
        .raw_header(HeaderValue::new(automatic, "auto-generated".to_owned()))
        .header(ContentType::TEXT_PLAIN);
    letter
        .body(message.whole(LONGEST))
        .map_err(|error| wrong(&error.to_string()))
}

/// What no other mail has: the time, and random bytes.
fn unique() -> String {
    let mut bytes = [0; 8];
    // The time alone is nearly as good.
    let _ = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes);
    let nanos = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_nanos();
    format!(
        "{nanos:x}.{:016x}.gitlab-pi-backup",
        u64::from_be_bytes(bytes)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_is_ascii_says_who_and_cannot_be_steered_by_what_it_tells() {
        let email = Email {
            to: "Ä <a@example.org>, b@example.org"
                .parse()
                .expect("addresses"),
            from: Some("pi@example.org".parse().expect("an address")),
            way: Way::Sendmail,
        };
        let mut message = Message::test(crate::job::Job::Run, true);
        message.title = "böse\r\nBcc: x@example.org".to_owned();
        message.text = "ein Übel\n.\nQUIT\n".to_owned() + &"x".repeat(2_000);
        let from = sender(&email).expect("a sender");
        let letter = letter(&email, from, &message).expect("a letter");
        let to: Vec<_> = letter
            .envelope()
            .to()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(to, ["a@example.org", "b@example.org"]);
        let text = String::from_utf8(letter.formatted()).expect("a text");
        assert!(text.is_ascii() && text.lines().all(|line| line.len() < 998));
        let (head, _) = text.split_once("\r\n\r\n").expect("head and body");
        let names: Vec<_> = head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .map(|(name, _)| name)
            .collect();
        for name in [
            "From",
            "To",
            "Subject",
            "Date",
            "Message-ID",
            "Auto-Submitted",
            "Content-Type",
        ] {
            assert_eq!(
                names.iter().filter(|own| **own == name).count(),
                1,
                "{name} in {head}"
            );
        }
        assert!(!names.contains(&"Bcc"), "{head}");
    }
}
