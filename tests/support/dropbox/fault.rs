//! Faults on demand: what a network, a proxy or the service may do to a request.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::answer::{Answer, Reply, Stop};
use super::line::End;

/// Something that goes wrong with certain requests.
///
/// Every fault counts the requests it is meant for, whether another fault hits them or not. A request is
/// hit by one fault at most, the one queued first.
#[derive(Debug, Clone)]
pub struct Fault {
    on: String,
    skip: usize,
    times: usize,
    what: What,
}

impl Fault {
    /// Hits the first request whose endpoint contains `on`, or ends like it if `on` ends in `$`; every
    /// endpoint contains "".
    #[must_use]
    pub fn on(on: &str, what: What) -> Self {
        Self {
            on: on.into(),
            skip: 0,
            times: 1,
            what,
        }
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
}

/// What goes wrong.
#[derive(Clone)]
pub enum What {
    /// This reply instead, sent before the body is read; the body is then read and thrown away.
    Reply(Reply),
    /// A TCP reset when the head has been read.
    ResetBeforeBody,
    /// A TCP reset when so many bytes of the body have been read.
    ResetInBody(u64),
    /// A TCP reset when the whole body has been read; nothing is applied.
    ResetAfterBody,
    /// The request is applied, then the connection is reset: the lost acknowledgement.
    LostReply,
    /// The request is applied, the reply ends in the middle: shorter than its Content-Length.
    TruncatedReply,
    /// The request is applied, the reply is complete, but its JSON is cut.
    BrokenJson,
    /// 200 with a page instead of JSON; nothing is applied.
    HtmlOk,
    /// Nothing moves any more: until the server ends, or for this time.
    Stall(StallAt, Option<Duration>),
    /// The body is read at so many bytes per second; some MiB of it fit into the sockets' buffers all the same.
    SlowRead(u64),
    /// 401 `expired_access_token`, whatever the token.
    ExpiredToken,
    /// An append or finish finds no session; the session itself stays.
    SessionNotFound,
    /// An append or finish finds the session closed; the session itself stays as it is.
    SessionClosed,
    /// The file is stored with a wrong content hash, as if its bytes were damaged.
    WrongHash,
    /// The file is stored well, but the reply names a wrong content hash.
    LyingHash,
    /// A commit finds too little space.
    InsufficientSpace,
    /// Calls a function, for instance one that kills the client, and goes on as if nothing were.
    Call(Moment, Arc<dyn Fn() + Send + Sync>),
}

/// Where a stalled request stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StallAt {
    /// The body is never read.
    Head,
    /// So many bytes of the body are read, and then no more.
    Body(u64),
    /// The request is applied and never answered.
    Reply,
}

/// When a function is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The head is read, the body is not.
    Head,
    /// The body is read, nothing is applied.
    Body,
    /// The request is applied, the reply is not sent.
    Applied,
}

impl What {
    /// 429 with or without a Retry-After header of so many seconds.
    #[must_use]
    pub fn too_many_requests(retry_after: Option<u64>) -> Self {
        let seconds = retry_after.unwrap_or(1);
        let body = serde_json::json!({
            "error_summary": "too_many_requests/..",
            "error": { "reason": { ".tag": "too_many_requests" }, "retry_after": seconds },
        });
        let reply = Reply::json(429, &body);
        Self::Reply(match retry_after {
            Some(seconds) => reply.with("Retry-After", seconds.to_string()),
            None => Reply::text(429, "too many requests"),
        })
    }

    /// 429 because another write holds the account's lock; its body often has no `retry_after`.
    #[must_use]
    pub fn too_many_write_operations() -> Self {
        let body = serde_json::json!({
            "error_summary": "too_many_write_operations/.",
            "error": { "reason": { ".tag": "too_many_write_operations" } },
        });
        Self::Reply(Reply::json(429, &body).with("Retry-After", "1"))
    }

    /// A failure of the service: 500 and 503 as text, 502 and others as a page.
    #[must_use]
    pub fn server_error(status: u16) -> Self {
        Self::Reply(match status {
            500 | 503 => Reply::text(status, "Internal Server Error"),
            _ => Reply::html(status),
        })
    }
}

impl fmt::Debug for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reply(reply) => write!(f, "Reply({})", reply.status),
            Self::Stall(at, time) => write!(f, "Stall({at:?}, {time:?})"),
            Self::ResetInBody(bytes) => write!(f, "ResetInBody({bytes})"),
            Self::SlowRead(rate) => write!(f, "SlowRead({rate})"),
            Self::Call(moment, _) => write!(f, "Call({moment:?})"),
            Self::ResetBeforeBody => f.write_str("ResetBeforeBody"),
            Self::ResetAfterBody => f.write_str("ResetAfterBody"),
            Self::LostReply => f.write_str("LostReply"),
            Self::TruncatedReply => f.write_str("TruncatedReply"),
            Self::BrokenJson => f.write_str("BrokenJson"),
            Self::HtmlOk => f.write_str("HtmlOk"),
            Self::ExpiredToken => f.write_str("ExpiredToken"),
            Self::SessionNotFound => f.write_str("SessionNotFound"),
            Self::SessionClosed => f.write_str("SessionClosed"),
            Self::WrongHash => f.write_str("WrongHash"),
            Self::LyingHash => f.write_str("LyingHash"),
            Self::InsufficientSpace => f.write_str("InsufficientSpace"),
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
    pub fn hit(&mut self, endpoint: &str) -> Option<What> {
        let mut hit = None;
        for fault in self
            .0
            .iter_mut()
            .filter(|fault| match fault.on.strip_suffix('$') {
                Some(end) => endpoint.ends_with(end),
                None => endpoint.contains(&fault.on),
            })
        {
            if fault.skip > 0 {
                fault.skip -= 1;
            } else if hit.is_none() && fault.times > 0 {
                fault.times = if fault.times == usize::MAX {
                    usize::MAX
                } else {
                    fault.times - 1
                };
                hit = Some(fault.what.clone());
            }
        }
        self.0.retain(|fault| fault.times > 0);
        hit
    }
}

/// What is done to the reply of a request that was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// It is sent.
    Whole,
    /// It is sent in part.
    Truncated,
    /// Its body is cut, its Content-Length is right.
    Broken,
}

/// The fault of one request, if any, asked at each moment of it.
#[derive(Debug, Default)]
pub struct Hit(pub Option<What>);

impl Hit {
    /// The head is read.
    pub fn at_head(&self, end: &End) -> Answer<()> {
        match &self.0 {
            Some(What::Reply(reply)) => Err(Stop::Early(Box::new(reply.clone()))),
            Some(What::ResetBeforeBody) => Err(Stop::Reset),
            Some(What::Stall(StallAt::Head, time)) => stall(end, *time),
            Some(What::Call(Moment::Head, call)) => {
                call();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// How many more bytes may be read before something happens.
    pub fn allowance(&self, received: u64) -> u64 {
        match &self.0 {
            Some(What::ResetInBody(at) | What::Stall(StallAt::Body(at), _)) if *at > received => {
                at - received
            }
            _ => u64::MAX,
        }
    }

    /// So many bytes of the body are read.
    pub fn in_body(&self, received: u64, end: &End) -> Answer<()> {
        match &self.0 {
            Some(What::ResetInBody(at)) if *at == received => Err(Stop::Reset),
            Some(What::Stall(StallAt::Body(at), time)) if *at == received => stall(end, *time),
            _ => Ok(()),
        }
    }

    /// The body is read.
    pub fn after_body(&self) -> Answer<()> {
        match &self.0 {
            Some(What::ResetAfterBody | What::ResetInBody(_)) => Err(Stop::Reset),
            Some(What::HtmlOk) => Err(Reply::html(200).into()),
            Some(What::Call(Moment::Body, call)) => {
                call();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The request is applied.
    pub fn applied(&self, end: &End) -> Answer<Delivery> {
        match &self.0 {
            Some(What::LostReply) => Err(Stop::Reset),
            Some(What::TruncatedReply) => Ok(Delivery::Truncated),
            Some(What::BrokenJson) => Ok(Delivery::Broken),
            Some(What::Stall(StallAt::Reply, time)) => stall(end, *time).map(|()| Delivery::Whole),
            Some(What::Call(Moment::Applied, call)) => {
                call();
                Ok(Delivery::Whole)
            }
            _ => Ok(Delivery::Whole),
        }
    }
}

fn stall(end: &End, time: Option<Duration>) -> Answer<()> {
    if end.wait(time) {
        return Err(Stop::Gone(std::io::ErrorKind::Interrupted.into()));
    }
    Ok(())
}
