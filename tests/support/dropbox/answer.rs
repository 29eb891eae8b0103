//! What the service says: replies, and the JSON of its errors.

use std::io;

use serde_json::{Value, json};

use super::content::Content;

/// One HTTP reply.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// Header names and values; length and request id are added when it is sent.
    pub headers: Vec<(String, String)>,
    /// What follows the headers.
    pub body: Payload,
}

/// The body of a reply.
#[derive(Debug, Clone)]
pub enum Payload {
    /// These bytes.
    Bytes(Vec<u8>),
    /// A range of a stored file.
    Stored {
        /// The file's content.
        content: Content,
        /// First byte.
        from: u64,
        /// How many bytes.
        len: u64,
    },
}

impl Payload {
    /// In bytes.
    pub fn len(&self) -> u64 {
        match self {
            Payload::Bytes(bytes) => bytes.len() as u64,
            Payload::Stored { len, .. } => *len,
        }
    }
}

impl Reply {
    /// A reply with a body of the given media type.
    pub fn new(status: u16, media_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: vec![("Content-Type".into(), media_type.into())],
            body: Payload::Bytes(body.into()),
        }
    }

    /// A JSON reply. The SDKs compare the media type for equality, so it has no charset.
    #[must_use]
    pub fn json(status: u16, value: &Value) -> Self {
        Self::new(status, "application/json", value.to_string())
    }

    /// The plain text the service answers to requests it cannot make sense of.
    pub fn text(status: u16, text: impl Into<String>) -> Self {
        Self::new(status, "text/plain; charset=utf-8", text.into())
    }

    /// A page, as proxies and overloaded front ends send it.
    #[must_use]
    pub fn html(status: u16) -> Self {
        Self::new(
            status,
            "text/html",
            "<html><head><title>Dropbox</title></head><body><h1>Hello</h1></body></html>\r\n",
        )
    }

    /// The same reply with one more header.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

/// Why a request is not answered the ordinary way.
#[derive(Debug)]
pub enum Stop {
    /// With this reply, once the body is read.
    Reply(Box<Reply>),
    /// With this reply, before the body is read.
    Early(Box<Reply>),
    /// By a TCP reset.
    Reset,
    /// Not at all: the connection is gone, or the server ends.
    Gone(io::Error),
}

impl From<Reply> for Stop {
    fn from(reply: Reply) -> Self {
        Self::Reply(Box::new(reply))
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Gone(error)
    }
}

/// What an endpoint returns.
pub type Answer<T = Reply> = Result<T, Stop>;

/// 400 with the text "Error in call to API function ...".
pub fn bad_input(call: &str, what: impl AsRef<str>) -> Stop {
    let what = what.as_ref();
    Reply::text(
        400,
        format!("Error in call to API function \"{call}\": {what}"),
    )
    .into()
}

/// 409 with an error of the endpoint itself.
pub fn refused(error: &Value) -> Stop {
    failure(409, error).into()
}

/// An error reply: the union, and the summary made of its tags.
pub fn failure(status: u16, error: &Value) -> Reply {
    let dots = &"..."[..usize::from(super::random::bytes::<1>()[0] % 4)];
    let summary = format!("{}/{dots}", summary(error));
    Reply::json(status, &json!({ "error_summary": summary, "error": error }))
}

/// A union value nested as deep as there are tags: `["path", "conflict", "file"]`.
pub fn tagged(tags: &[&str]) -> Value {
    match tags {
        [] => Value::Null,
        [last] => json!({ ".tag": last }),
        [first, rest @ ..] => within(first, &tagged(rest)),
    }
}

/// A union value around another one.
pub fn within(tag: &str, inner: &Value) -> Value {
    json!({ ".tag": tag, tag: inner })
}

/// The session is at another offset than the client thinks.
pub fn incorrect_offset(correct: u64) -> Value {
    json!({ ".tag": "incorrect_offset", "correct_offset": correct })
}

fn summary(error: &Value) -> String {
    let tag = error[".tag"].as_str().unwrap_or("other");
    // The error of `upload` is a struct: its union sits in `reason`.
    [&error[tag], &error["reason"]]
        .into_iter()
        .find(|inner| inner[".tag"].is_string())
        .map_or_else(
            || tag.to_owned(),
            |inner| format!("{tag}/{}", summary(inner)),
        )
}
