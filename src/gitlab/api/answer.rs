//! GitLab's answers as errors of the house.

use crate::error::{Error, ErrorKind};
use crate::http::Reply;

/// What a reply that is no success means.
pub(super) fn understand(action: &str, reply: &Reply) -> Option<Error> {
    let kind = match reply.status {
        200..=299 => return None,
        401 | 403 => ErrorKind::Unauthorized,
        404 => ErrorKind::NotFound,
        409 => ErrorKind::AlreadyExists,
        429 => ErrorKind::RateLimited(None),
        500.. => ErrorKind::Unavailable,
        _ => ErrorKind::Invalid,
    };
    Some(Error::new(kind, action, format!("HTTP {}", reply.status)))
}
