//! Faults on demand: what GitLab, a proxy or the network may do to a request; and the kinds of requests there are.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::answer::{Reply, too_often};

/// What a request is for; requests are counted and hit by faults by this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `GET /user`
    User,
    /// `GET /version`, `GET /metadata`
    Version,
    /// `GET /personal_access_tokens/self`
    Token,
    /// `GET /groups`
    Groups,
    /// `GET /groups/:id`
    Group,
    /// `GET /groups/:id/subgroups`, `GET /groups/:id/descendant_groups`
    Subgroups,
    /// `GET /groups/:id/projects`
    GroupProjects,
    /// `GET /projects`
    Projects,
    /// `GET /projects/:id`
    Project,
    /// `GET /namespaces/:id`
    Namespace,
    /// `POST /projects/:id/export`
    Export,
    /// `GET /projects/:id/export`
    ExportStatus,
    /// `GET /projects/:id/export/download`, and what it redirects to
    Download,
    /// `POST /projects/import`
    Import,
    /// `POST /projects/remote-import`
    RemoteImport,
    /// `GET /projects/:id/import`
    ImportStatus,
    /// Anything else.
    Other,
    /// For faults: all of them.
    Any,
}

/// Something that goes wrong with certain requests.
///
/// Every fault counts the requests it is meant for, whether another fault hits them or not. A request is hit by one
/// fault at most, the one queued first.
#[derive(Debug, Clone)]
pub struct Fault {
    kind: Kind,
    of: String,
    skip: usize,
    times: usize,
    every: usize,
    seen: usize,
    what: What,
}

impl Fault {
    /// Hits the first request of this kind.
    #[must_use]
    pub fn on(kind: Kind, what: What) -> Self {
        Self {
            kind,
            of: String::new(),
            skip: 0,
            times: 1,
            every: 1,
            seen: 0,
            what,
        }
    }

    /// Only if the address, as it came, contains this.
    #[must_use]
    pub fn of(mut self, part: &str) -> Self {
        part.clone_into(&mut self.of);
        self
    }

    /// Lets the first `requests` pass.
    #[must_use]
    pub fn skip(mut self, requests: usize) -> Self {
        self.skip = requests;
        self
    }

    /// Hits so many requests.
    #[must_use]
    pub fn times(mut self, requests: usize) -> Self {
        self.times = requests;
        self
    }

    /// Hits all requests from then on.
    #[must_use]
    pub fn forever(self) -> Self {
        self.times(usize::MAX)
    }

    /// Hits one of so many requests only, for as long as there are any.
    #[must_use]
    pub fn one_in(mut self, requests: usize) -> Self {
        self.every = requests;
        self.forever()
    }
}

/// What goes wrong.
#[derive(Clone)]
pub enum What {
    /// This reply instead; nothing is done.
    Reply(Reply),
    /// A TCP reset before anything is done.
    Reset,
    /// The request is carried out, then the connection is reset: the lost reply.
    LostReply,
    /// The request is carried out, the reply's body ends after so many bytes although more were promised.
    Cut(u64),
    /// The reply's body ends after so many bytes, and its length says just that.
    Truncated(u64),
    /// One byte in the middle of the reply's body is another one.
    Changed,
    /// The reply's body comes at so many bytes per second.
    Slow(u64),
    /// Nothing moves any more: until the server ends, or for this time, and then as if nothing had been.
    Stall(Option<Duration>),
    /// 401, as when the token's last day is over.
    Expired,
    /// 401, as when somebody took the token back.
    Revoked,
    /// Calls a function before the request is carried out, for instance one that kills the client or deletes a
    /// project, and goes on as if nothing were.
    Before(Arc<dyn Fn() + Send + Sync>),
    /// The same when it was carried out and nothing was replied.
    After(Arc<dyn Fn() + Send + Sync>),
}

impl What {
    /// 429 of the limits in front of GitLab, with or without `Retry-After` and what comes with it.
    #[must_use]
    pub fn too_many_requests(retry_after: Option<u64>) -> Self {
        let reply = Reply::new(429, "text/plain", "Retry later\n");
        Self::Reply(match retry_after {
            Some(seconds) => reply.with("Retry-After", seconds.to_string()),
            None => reply,
        })
    }

    /// 429 of an endpoint that counts by itself: nothing says how long.
    #[must_use]
    pub fn too_often() -> Self {
        Self::Reply(too_often())
    }

    /// A failure: 500 as JSON, as GitLab's API gives it, all others as a page.
    #[must_use]
    pub fn server_error(status: u16) -> Self {
        Self::Reply(match status {
            500 => Reply::message(500, "500 Internal Server Error"),
            _ => Reply::html(status),
        })
    }

    /// 200 with a page instead of JSON, as a log-in in front of GitLab gives it.
    #[must_use]
    pub fn html_ok() -> Self {
        Self::Reply(Reply::html(200))
    }
}

impl fmt::Debug for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reply(reply) => write!(f, "Reply({})", reply.status),
            Self::Reset => f.write_str("Reset"),
            Self::LostReply => f.write_str("LostReply"),
            Self::Cut(bytes) => write!(f, "Cut({bytes})"),
            Self::Truncated(bytes) => write!(f, "Truncated({bytes})"),
            Self::Changed => f.write_str("Changed"),
            Self::Slow(rate) => write!(f, "Slow({rate})"),
            Self::Stall(time) => write!(f, "Stall({time:?})"),
            Self::Expired => f.write_str("Expired"),
            Self::Revoked => f.write_str("Revoked"),
            Self::Before(_) => f.write_str("Before"),
            Self::After(_) => f.write_str("After"),
        }
    }
}

/// The queue of faults.
#[derive(Debug, Default)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// Adds one at the end.
    pub fn push(&mut self, fault: Fault) {
        self.0.push(fault);
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// What hits this request.
    pub fn hit(&mut self, kind: Kind, target: &str) -> Option<What> {
        let mut hit = None;
        let meant = |fault: &&mut Fault| {
            (fault.kind == kind || fault.kind == Kind::Any) && target.contains(&fault.of)
        };
        for fault in self.0.iter_mut().filter(meant) {
            if fault.skip > 0 {
                fault.skip -= 1;
                continue;
            }
            fault.seen += 1;
            let turn = fault.seen % fault.every == 0;
            if hit.is_none() && fault.times > 0 && turn {
                if fault.times != usize::MAX {
                    fault.times -= 1;
                }
                hit = Some(fault.what.clone());
            }
        }
        self.0.retain(|fault| fault.times > 0);
        hit
    }
}
