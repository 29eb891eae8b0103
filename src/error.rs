//! The error of anything remote: what was being done, what came back, what the user can do.

use std::fmt;
use std::time::Duration;

/// What went wrong, as far as it decides what happens next. Set where a response is parsed and
/// nowhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The thing asked for is not there.
    NotFound,
    /// Something else has the name.
    AlreadyExists,
    /// The credentials are refused, or lack a right.
    Unauthorized,
    /// The destination is full.
    NoSpace,
    /// The request can never succeed as it is: wrong settings, wrong certificate, wrong name.
    Invalid,
    /// Too many requests; the server said how long to wait, or not.
    RateLimited(Option<Duration>),
    /// The line or the server is down for the moment.
    Unavailable,
    /// The bytes that arrived are not the bytes that were sent.
    Corrupt,
    /// The local bytes changed while they were read.
    SourceChanged,
    /// An answer that the protocol does not know.
    Unexpected,
}

/// Whether trying again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// It cannot.
    Never,
    /// After a growing pause.
    Backoff,
    /// After exactly this long, by all tasks of the destination, and without counting as an attempt.
    After(Duration),
}

impl ErrorKind {
    /// The one decision about retrying; [`crate::retry`] carries it out.
    pub fn retry(self) -> Retry {
        match self {
            ErrorKind::NotFound
            | ErrorKind::AlreadyExists
            | ErrorKind::Unauthorized
            | ErrorKind::NoSpace
            | ErrorKind::Invalid
            | ErrorKind::SourceChanged
            | ErrorKind::Unexpected => Retry::Never,
            ErrorKind::Unavailable | ErrorKind::Corrupt => Retry::Backoff,
            // Dropbox's documentation asks for a pause; without a number five seconds.
            ErrorKind::RateLimited(wait) => Retry::After(
                wait.unwrap_or(Duration::from_secs(5))
                    .max(Duration::from_secs(1)),
            ),
        }
    }
}

/// An error of anything remote.
#[derive(Clone, Debug)]
pub struct Error {
    kind: ErrorKind,
    action: String,
    reply: String,
    hint: Option<String>,
    lacks: Vec<String>,
    absent: bool,
}

impl Error {
    /// `action` says what was being done and to what, `reply` what came back.
    pub fn new(kind: ErrorKind, action: impl Into<String>, reply: impl Into<String>) -> Error {
        Error {
            kind,
            action: action.into(),
            reply: printable(&reply.into()),
            hint: None,
            lacks: Vec::new(),
            absent: false,
        }
    }

    /// Notes that the place as a whole is not there: a disk that is not mounted, a machine that does not answer.
    #[must_use]
    pub fn absent(mut self) -> Error {
        self.absent = true;
        self
    }

    /// Whether the place as a whole is not there, which need not be a failure.
    pub fn is_absent(&self) -> bool {
        self.absent
    }

    /// Notes which rights the credentials lack, by the service's names.
    #[must_use]
    pub fn lacking(mut self, rights: impl IntoIterator<Item: Into<String>>) -> Error {
        let printed = rights.into_iter().map(|right| printable(&right.into()));
        self.lacks = printed.collect();
        self
    }

    /// The rights that the credentials lack, as far as that is why it failed.
    pub fn lacks(&self) -> &[String] {
        &self.lacks
    }

    /// Adds what the user can do, below what has been added before.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Error {
        let hint = hint
            .into()
            .split('\n')
            .map(printable)
            .collect::<Vec<_>>()
            .join("\n");
        self.hint = Some(match self.hint.take() {
            Some(first) => first + "\n  " + &hint,
            None => hint,
        });
        self
    }

    /// Says what was being done, where only the caller knows it.
    #[must_use]
    pub fn during(mut self, action: impl Into<String>) -> Error {
        self.action = action.into();
        self
    }

    /// Changes what came back, to take secrets out of it.
    #[must_use]
    pub fn map_text(mut self, change: impl Fn(&str) -> String) -> Error {
        self.reply = change(&self.reply);
        self
    }

    /// What went wrong, for decisions.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.action, self.reply)?;
        match &self.hint {
            Some(hint) => write!(f, "\n  {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

/// A text from elsewhere without what would steer a terminal.
pub fn printable(text: &str) -> String {
    let shown = |c: char| {
        if c.is_control() {
            char::REPLACEMENT_CHARACTER
        } else {
            c
        }
    };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_says_what_was_done_what_came_back_and_what_to_do() {
        let error =
            Error::new(ErrorKind::NoSpace, "uploading a to b", "no space").hint("delete something");
        assert_eq!(
            error.to_string(),
            "uploading a to b: no space\n  delete something"
        );
    }

    #[test]
    fn no_reply_steers_the_terminal() {
        let hostile = Error::new(ErrorKind::Invalid, "a", "\u{1b}[2Jb\u{7}");
        assert_eq!(hostile.to_string(), "a: \u{fffd}[2Jb\u{fffd}");
    }

    #[test]
    fn waiting_is_never_a_busy_loop() {
        for (told, waits) in [(None, 5), (Some(0), 1), (Some(300), 300)] {
            let kind = ErrorKind::RateLimited(told.map(Duration::from_secs));
            assert_eq!(kind.retry(), Retry::After(Duration::from_secs(waits)));
        }
    }
}
