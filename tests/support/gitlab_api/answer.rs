//! Replies, and GitLab's ways to say no.

use std::sync::Arc;

use serde_json::{Value, json};

use super::archive::Archive;

/// One HTTP reply.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// Names and values; length, date and request id are added when it is sent.
    pub headers: Vec<(String, String)>,
    /// What follows the headers.
    pub body: Payload,
}

/// The body of a reply.
#[derive(Debug, Clone)]
pub enum Payload {
    /// These bytes.
    Bytes(Vec<u8>),
    /// A range of an export.
    Archive {
        /// The export.
        archive: Arc<Archive>,
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
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Archive { len, .. } => *len,
        }
    }
}

/// What an endpoint returns: both are replies, the second ends the work on it.
pub type Answer<T = Reply> = Result<T, Reply>;

impl Reply {
    /// With a body of this media type.
    pub fn new(status: u16, media_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: vec![("Content-Type".into(), media_type.into())],
            body: Payload::Bytes(body.into()),
        }
    }

    /// JSON, as GitLab sends it.
    pub fn json(status: u16, value: &Value) -> Self {
        Self::new(status, "application/json", value.to_string())
    }

    /// `{"message": …}`, the usual form of an error.
    pub fn message(status: u16, message: impl Into<Value>) -> Self {
        Self::json(status, &json!({ "message": message.into() }))
    }

    /// `{"error": …}`, how the framework below GitLab's API complains of parameters and paths.
    pub fn error(status: u16, error: impl Into<Value>) -> Self {
        Self::json(status, &json!({ "error": error.into() }))
    }

    /// A page, as GitLab's own nginx, a proxy or a log-in in front of it sends it.
    pub fn html(status: u16) -> Self {
        let title = match status {
            502 => "GitLab is not responding (502)",
            503 => "GitLab is currently unavailable (503)",
            200 => "Sign in",
            _ => "The page could not be shown",
        };
        let page = format!(
            "<!DOCTYPE html>\n<html>\n<head><title>{title}</title></head>\n<body><h1>{status}</h1>\
             <h3>{title}</h3></body>\n</html>\n"
        );
        Self::new(status, "text/html; charset=utf-8", page)
    }

    /// The same reply with one more header.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// What a token gets that is not good enough (RFC 6750).
    pub fn bearer(status: u16, error: &str, description: &str, scope: Option<&str>) -> Self {
        let mut body = json!({ "error": error, "error_description": description });
        let mut header = format!(
            "Bearer realm=\"Protected by OAuth 2.0\", error=\"{error}\", error_description=\"{description}\""
        );
        if let Some(scope) = scope {
            body["scope"] = scope.into();
            header = format!("{header}, scope=\"{scope}\"");
        }
        Self::json(status, &body).with("WWW-Authenticate", header)
    }
}

/// 401 without a token, or with one that is not known.
pub fn unauthorized() -> Reply {
    Reply::message(401, "401 Unauthorized")
}

/// 404 for something that is not there or may not be seen.
pub fn not_found(what: &str) -> Reply {
    Reply::message(404, format!("404 {what} Not Found"))
}

/// 403 for something that is there.
pub fn forbidden() -> Reply {
    Reply::message(403, "403 Forbidden")
}

/// 429 of an endpoint that counts by itself: without any header that says how long.
pub fn too_often() -> Reply {
    let error = "This endpoint has been requested too many times. Try again later.";
    Reply::message(429, json!({ "error": error }))
}
