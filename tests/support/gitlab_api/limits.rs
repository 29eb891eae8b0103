//! Limits, counted as GitLab counts: by fixed windows of its own clock, refused calls included.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::answer::{Reply, too_often};

/// What is limited by the endpoints themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Limit {
    /// `project_export`: per user.
    Export,
    /// `project_download_export`: per user and namespace.
    Download,
    /// `project_import`: per user.
    Import,
    /// All requests of a user to the API: what stands in front of GitLab counts them.
    Requests,
}

/// How many calls are allowed in a window; none is without limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// GitLab's default is 6.
    pub export: Option<u32>,
    /// GitLab's default is 1.
    pub download: Option<u32>,
    /// GitLab's default is 6.
    pub import: Option<u32>,
    /// Off by default; 2,000 at gitlab.com.
    pub requests: Option<u32>,
    /// Whether all replies tell of [`Limits::requests`], as at gitlab.com, or only refusals.
    pub told: bool,
}

impl Limits {
    /// What GitLab comes with.
    pub fn usual() -> Self {
        Self {
            export: Some(6),
            download: Some(1),
            import: Some(6),
            requests: None,
            told: false,
        }
    }

    fn of(&self, limit: Limit) -> Option<u32> {
        match limit {
            Limit::Export => self.export,
            Limit::Download => self.download,
            Limit::Import => self.import,
            Limit::Requests => self.requests,
        }
    }
}

/// One window of one limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Window {
    limit: Limit,
    /// The user, and for downloads the namespace.
    scope: (u64, u64),
    number: u128,
}

/// All calls so far.
#[derive(Debug, Default)]
pub struct Counted(HashMap<Window, u32>);

/// Where a window stands after a call.
#[derive(Debug, Clone, Copy)]
pub struct Standing {
    /// How many are allowed.
    allowed: Option<u32>,
    /// How many there were, this one included.
    observed: u32,
    /// When it ends.
    reset: Duration,
    left: Duration,
}

impl Counted {
    /// Counts a call, allowed or not.
    pub fn count(
        &mut self,
        limit: Limit,
        scope: (u64, u64),
        limits: &Limits,
        minute: Duration,
    ) -> Standing {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("a clock after 1970");
        let number = now.as_nanos() / minute.as_nanos();
        let calls = self
            .0
            .entry(Window {
                limit,
                scope,
                number,
            })
            .or_default();
        *calls += 1;
        let into = Duration::from_nanos(
            u64::try_from(now.as_nanos() % minute.as_nanos()).expect("less than a window"),
        );
        let left = minute.saturating_sub(into);
        Standing {
            allowed: limits.of(limit),
            observed: *calls,
            reset: now + left,
            left,
        }
    }

    /// The most calls in any window of this limit, of any scope.
    pub fn busiest(&self, limit: Limit) -> u32 {
        let of_it = self.0.iter().filter(|(window, _)| window.limit == limit);
        of_it.map(|(_, calls)| *calls).max().unwrap_or(0)
    }
}

impl Standing {
    /// The refusal of an endpoint that counts by itself.
    pub fn refusal(&self) -> Option<Reply> {
        let allowed = self.allowed?;
        (self.observed > allowed).then(too_often)
    }

    /// The refusal of what stands in front.
    pub fn early_refusal(&self) -> Option<Reply> {
        let allowed = self.allowed?;
        if self.observed <= allowed {
            return None;
        }
        let seconds = self.left.as_millis().div_ceil(1000).max(1);
        let reply = Reply::new(429, "text/plain", "Retry later\n");
        let reply = self
            .headers()
            .into_iter()
            .fold(reply, |reply, (name, value)| reply.with(name, value));
        Some(reply.with("Retry-After", seconds.to_string()))
    }

    /// `RateLimit-*`.
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        let Some(allowed) = self.allowed else {
            return Vec::new();
        };
        let reset = i64::try_from(self.reset.as_secs()).unwrap_or_default();
        let time = chrono::DateTime::from_timestamp(reset, 0).unwrap_or_default();
        vec![
            ("RateLimit-Limit", allowed.to_string()),
            ("RateLimit-Name", "throttle_authenticated_api".to_owned()),
            ("RateLimit-Observed", self.observed.to_string()),
            (
                "RateLimit-Remaining",
                allowed.saturating_sub(self.observed).to_string(),
            ),
            ("RateLimit-Reset", reset.to_string()),
            (
                "RateLimit-ResetTime",
                time.format("%a, %d %b %Y %H:%M:%S GMT").to_string(),
            ),
        ]
    }
}
