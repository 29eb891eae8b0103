//! How it behaves, and what it remembers of requests.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::download::Validators;
use super::exports::Pace;
use super::fault::Kind;
use super::limits::Limits;

/// What cannot be changed while it runs.
#[derive(Debug, Clone)]
pub struct Options {
    /// Speak TLS, with a certificate by [`GitLabApi::ca_file`].
    pub tls: bool,
    /// The port to listen at; 0 for any free one.
    pub port: u16,
    /// How long a minute of the limits is.
    pub minute: Duration,
    /// GitLab's version.
    pub version: String,
    /// The authority of servers that exports are uploaded to over https.
    pub upload_ca: Option<PathBuf>,
    /// GitLab's clock is so many seconds ahead of this machine's, as its `Date` headers tell.
    pub clock_ahead: i64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tls: false,
            port: 0,
            minute: Duration::from_mins(1),
            version: "18.6.2-ee".into(),
            upload_ca: None,
            clock_ahead: 0,
        }
    }
}

/// What can be changed while it runs, by [`GitLabApi::set`].
#[derive(Debug, Clone)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "independent switches, named where they are set"
)]
pub struct Settings {
    /// How many calls are allowed; all, unless something is said.
    pub limits: Limits,
    /// When exports go on.
    pub pace: Pace,
    /// Whether exports are allowed on this instance; if not, their endpoints are not there.
    pub export_enabled: bool,
    /// Exports belong to the user who asked for them, as with newer versions, or to everybody.
    pub per_user: bool,
    /// An export stays to be downloaded when it was uploaded, so that the status is `finished` afterwards, whether
    /// the store has taken it or not: as with current versions. Otherwise it is `none`, as with older ones.
    pub keeps_uploaded: bool,
    /// Whether a failure is told as `failed`, or as `none` like with older versions.
    pub tells_failures: bool,
    /// Whether exports may be uploaded to this machine.
    pub local_requests: bool,
    /// Longer lists are not counted for clients.
    pub counted_up_to: usize,
    /// The last row that can be reached by page numbers where keysets are offered.
    pub offset_limit: usize,
    /// Projects with more bytes are not exported.
    pub export_limit: Option<u64>,
    /// Stores refuse uploads of more bytes: S3 takes no more than 5 GB at once. They are not even begun here.
    pub upload_ceiling: Option<u64>,
    /// Downloads are sent on to an object store, which has addresses of its own.
    pub object_storage: bool,
    /// What tells a client whether a download is still the same file.
    pub validators: Validators,
    /// How many polls an import answers with `scheduled` and with `started`.
    pub import_polls: [u32; 2],
    /// How imports end; none is well.
    pub import_error: Option<String>,
    /// What imports could not take over: the relation, and the class of the exception. GitLab tells no message.
    pub failed_relations: Vec<(String, String)>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            pace: Pace::default(),
            export_enabled: true,
            per_user: true,
            keeps_uploaded: true,
            tells_failures: true,
            local_requests: true,
            counted_up_to: 10_000,
            offset_limit: 50_000,
            export_limit: None,
            upload_ceiling: None,
            object_storage: false,
            validators: Validators::LastModified,
            import_polls: [1, 1],
            import_error: None,
            failed_relations: Vec::new(),
        }
    }
}

/// What everybody gets, whatever is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Answers.
    Normal,
    /// 503 with a page: GitLab is down, or is being upgraded.
    Maintenance,
    /// 200 with a page: a log-in that stands in front of GitLab.
    Proxy,
}

/// One request.
#[derive(Debug, Clone)]
pub struct Seen {
    /// What it is for.
    pub kind: Kind,
    /// `GET`, `POST`.
    pub method: String,
    /// As it came, without the query.
    pub path: String,
    /// As it came.
    pub query: String,
    /// The name of the token, `unknown` for one that is not known here; none without.
    pub token: Option<String>,
    /// The `Range` header.
    pub range: Option<String>,
    /// The status answered; none if no reply was sent, or not yet.
    pub status: Option<u16>,
    /// Bytes of the answer's body.
    pub answered: u64,
    /// The number of the TCP connection, in the order they were accepted.
    pub connection: u64,
    /// Whether a fault hit it.
    pub faulted: bool,
    /// When its head was read.
    pub at: Instant,
}
