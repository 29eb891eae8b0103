//! Who is told how a job ended: a health check, a webhook, a telephone by ntfy, people by mail, Prometheus.
//!
//! Telling never changes what came of the backup. All are told at once, each in bounded time; whoever could
//! not be told is a failed step of the report and a line in the log, and nothing else. What is sent holds no
//! secret: it is made of the report and of the log, which hold none.

pub mod address;
pub mod crash;
mod mail;
pub mod message;
pub mod metrics;
mod ntfy;
mod ping;
mod post;
pub mod reach;
pub mod settings;
mod webhook;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::{LocalBoxFuture, join_all};
use serde::Serialize;
use serde_json::Value;
use tokio::time::{Instant, timeout};

use crate::archive::ArchiveKind;
use crate::error::{Error, ErrorKind};
use crate::history::export_entry;
use crate::history::past::{self, PastExport, PastRun};
use crate::http::Http;
use crate::job::Job;
use crate::notify::message::Message;
use crate::notify::metrics::Past;
use crate::notify::reach::{look_at_metrics, too_slow};
use crate::notify::settings::{On, Way};
use crate::projects::report::ExportReport;
use crate::report::{RunReport, Step, StepReport, StepStatus};
use crate::stop::Stop;

pub use crate::notify::reach::{Reachability, reachable, usable};
pub use crate::notify::settings::Settings;

/// Once somebody wants the program to end, it ends after this long.
const AFTER_A_SIGNAL: Duration = Duration::from_secs(5);
/// The start of a run is told while it begins, and not for longer.
const START: Duration = Duration::from_secs(10);

/// Somebody, or something, that is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// `healthcheck_url`.
    Healthcheck,
    /// `webhook_url`.
    Webhook,
    /// `ntfy_url`.
    Ntfy,
    /// `email`.
    Email,
    /// `metrics_file`.
    Metrics,
}

impl Target {
    /// As in `--json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Target::Healthcheck => "healthcheck",
            Target::Webhook => "webhook",
            Target::Ntfy => "ntfy",
            Target::Email => "email",
            Target::Metrics => "metrics",
        }
    }

    /// In a sentence.
    pub fn told(self) -> &'static str {
        match self {
            Target::Healthcheck => "the health check",
            Target::Webhook => "the webhook",
            Target::Ntfy => "ntfy",
            Target::Email => "the people who get mail",
            Target::Metrics => "Prometheus",
        }
    }
}

/// Whether a target was told.
#[derive(Debug)]
pub struct Told {
    /// Who.
    pub target: Target,
    /// What was done, in words; or why it could not be.
    pub result: Result<String, String>,
}

/// Tells whoever is configured.
pub struct Notifier {
    settings: Settings,
    /// None if nobody is told by a network.
    http: Option<Http>,
}

/// What the metrics are made of beside what has just ended.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    /// What was recorded before it.
    pub history: &'a [Value],
    /// The configured destinations by their names, and the kinds that each gets.
    pub destinations: &'a [(String, Vec<ArchiveKind>)],
    /// Whether projects are exported.
    pub exports: bool,
}

impl Known<'_> {
    fn past(&self) -> Past {
        let exports = past::exports(self.history);
        Past {
            runs: past::runs(self.history),
            rehearsals: past::rehearsals(self.history),
            exports: if self.exports { exports } else { Vec::new() },
        }
    }
}

/// What a target is told.
type Telling<'a> = (Target, LocalBoxFuture<'a, Result<String, Error>>);

impl Notifier {
    /// Connects to nobody yet.
    pub fn new(settings: Settings) -> Notifier {
        let by_http = [&settings.healthcheck, &settings.webhook, &settings.ntfy];
        let network = by_http.iter().any(|address| address.is_some()) || settings.email.is_some();
        let http = network.then(|| Http::new(settings.timeout, false));
        Notifier { settings, http }
    }

    /// Whether nobody is to be told anything.
    pub fn is_empty(&self) -> bool {
        self.settings.is_empty()
    }

    /// Tells the health check that a job begins. Not waited for by anybody, and dropped when the run ends first.
    pub async fn started(&self, run_id: &str) {
        let (Some(http), Some(address)) = (&self.http, &self.settings.healthcheck) else {
            return;
        };
        match timeout(START, ping::started(http, address, run_id)).await {
            Ok(Ok(())) => tracing::debug!("the health check knows that it begins"),
            Ok(Err(error)) => tracing::info!("{error}"),
            Err(_) => tracing::info!("{}", too_slow(Target::Healthcheck, START)),
        }
    }

    /// Tells of a run that came to an end, and adds that as a step to its report. `log` is the end of its log.
    pub async fn ended(
        &self,
        report: &mut RunReport,
        known: Known<'_>,
        log: String,
        now: DateTime<Utc>,
        stop: &Stop,
    ) {
        if self.is_empty() {
            return;
        }
        let start = Instant::now();
        let mut past = known.past();
        let recovered =
            past.runs.last().is_some_and(|run| run.status != "ok") && report.exit_status() == 0;
        let message = Message::of_run(report, recovered, log, now);
        past.runs.extend(PastRun::of(report));
        let told = self.tell_and_measure(&message, &past, known, stop).await;
        report.steps.push(step(&told, start.elapsed()));
    }

    /// Tells of an export of projects that came to an end; whoever could not be told is a warning of its report.
    pub async fn exported(
        &self,
        report: &mut ExportReport,
        known: Known<'_>,
        log: String,
        stop: &Stop,
    ) {
        let Some(export) = PastExport::of(report).filter(|_| !self.is_empty()) else {
            return;
        };
        let mut past = known.past();
        let before = past.exports.last();
        let recovered =
            before.is_some_and(|before| before.status != "ok") && export.exit == Some(0);
        let message = Message::of_export(&export, export_entry(report), recovered, log);
        past.exports.push(export);
        let told = self.tell_and_measure(&message, &past, known, stop).await;
        let errors = told.into_iter().filter_map(|told| told.result.err());
        report.warnings.extend(errors);
    }

    /// Tells whoever is to be told, and brings the metrics up to date.
    async fn tell_and_measure(
        &self,
        message: &Message,
        past: &Past,
        known: Known<'_>,
        stop: &Stop,
    ) -> Vec<Told> {
        let mut targets = self.messages(message);
        if let Some(path) = &self.settings.metrics_file {
            let text = metrics::text(past, known.destinations);
            targets.push((
                Target::Metrics,
                Box::pin(write(path.as_path().into(), text)),
            ));
        }
        let told = self.carry_out(targets, stop).await;
        warn(&told);
        told
    }

    /// Tells of what has no report: a job that did not begin, or was killed.
    pub async fn tell(&self, message: &Message, stop: &Stop) -> Vec<Told> {
        let told = self.carry_out(self.messages(message), stop).await;
        warn(&told);
        told
    }

    /// Tells that a rehearsal failed. The health check is one of runs: it is left alone.
    pub async fn rehearsed(&self, message: &Message, stop: &Stop) {
        let mut targets = self.messages(message);
        targets.retain(|(target, _)| *target != Target::Healthcheck);
        warn(&self.carry_out(targets, stop).await);
    }

    /// Tells everybody that this is a test; of the metrics only whether they could be written.
    pub async fn test(&self, job: Job, failure: bool, stop: &Stop) -> Vec<Told> {
        let message = Message::test(job, failure);
        let mut targets = self.all(&message);
        if let Some(path) = &self.settings.metrics_file {
            let look = look_at_metrics(path.as_path().into());
            targets.push((Target::Metrics, Box::pin(look)));
        }
        self.carry_out(targets, stop).await
    }

    /// A health check is told always, the others where it is news to them.
    fn messages<'a>(&'a self, message: &'a Message) -> Vec<Telling<'a>> {
        let mut targets = self.all(message);
        if self.settings.on == On::Failure && !message.verdict.is_news() {
            targets.retain(|(target, _)| *target == Target::Healthcheck);
        }
        targets
    }

    fn all<'a>(&'a self, message: &'a Message) -> Vec<Telling<'a>> {
        let mut targets: Vec<Telling<'a>> = Vec::new();
        let Some(http) = &self.http else {
            return targets;
        };
        let settings = &self.settings;
        if let Some(address) = &settings.healthcheck {
            let word = if message.verdict.is_failure() {
                "failure"
            } else {
                "success"
            };
            let words = format!("a ping of {word} was sent");
            let ping = ping::ended(http, address, message);
            targets.push((Target::Healthcheck, Box::pin(said(ping, words))));
        }
        if let Some(address) = &settings.webhook {
            let call = webhook::send(http, address, message);
            targets.push((
                Target::Webhook,
                Box::pin(said(call, "the document was sent".to_owned())),
            ));
        }
        if let Some(address) = &settings.ntfy {
            let send = ntfy::send(http, address, message);
            targets.push((
                Target::Ntfy,
                Box::pin(said(send, "the message was sent".to_owned())),
            ));
        }
        if let Some(email) = &settings.email {
            let words = match &email.way {
                Way::Sendmail => "the mail was given to sendmail".to_owned(),
                Way::Smtp(server) => format!("{} took the mail", server.host),
            };
            let send = mail::send(http, email, message, settings.timeout);
            targets.push((Target::Email, Box::pin(said(send, words))));
        }
        targets
    }

    /// All at once, each in bounded time, and a shorter one once somebody wants the program to end.
    async fn carry_out(&self, targets: Vec<Telling<'_>>, stop: &Stop) -> Vec<Told> {
        let limit = self.settings.in_all();
        let bounded = targets.into_iter().map(|(target, mut telling)| async move {
            let short = limit.min(AFTER_A_SIGNAL);
            let result = tokio::select! {
                biased;
                _ = stop.requested() => timeout(short, &mut telling).await.map_err(|_| short),
                result = timeout(limit, &mut telling) => result.map_err(|_| limit),
            };
            let result = result.unwrap_or_else(|limit| Err(too_slow(target, limit)));
            let result = result.map_err(|error| error.to_string());
            Told { target, result }
        });
        join_all(bounded).await
    }
}

/// Brings the metrics up to what was recorded in the history, where there are any: after a rehearsal.
pub async fn measure(settings: &Settings, known: Known<'_>) {
    let Some(path) = &settings.metrics_file else {
        return;
    };
    let text = metrics::text(&known.past(), known.destinations);
    let written = timeout(settings.in_all(), write(path.as_path().into(), text)).await;
    let written = written.unwrap_or_else(|_| Err(too_slow(Target::Metrics, settings.in_all())));
    if let Err(error) = written {
        tracing::warn!("{error}");
    }
}

/// Writes the metrics; a folder on a dead network disk holds up nobody else.
async fn write(path: Arc<Path>, text: String) -> Result<String, Error> {
    let writing = tokio::task::spawn_blocking(move || {
        metrics::write(&path, &text).map(|()| format!("{} was written", path.display()))
    });
    writing.await.unwrap_or_else(|error| {
        Err(Error::new(
            ErrorKind::Unexpected,
            "writing the metrics",
            error.to_string(),
        ))
    })
}

/// Says who could not be told.
fn warn(told: &[Told]) {
    for error in told.iter().filter_map(|told| told.result.as_ref().err()) {
        tracing::warn!("{error}");
    }
}

async fn said(
    telling: impl Future<Output = Result<(), Error>>,
    words: String,
) -> Result<String, Error> {
    telling.await.map(|()| words)
}

fn step(told: &[Told], took: Duration) -> StepReport {
    let errors: Vec<_> = told
        .iter()
        .filter_map(|told| told.result.as_ref().err().map(String::as_str))
        .collect();
    let status = match (told.is_empty(), errors.is_empty()) {
        (true, _) => StepStatus::Skipped,
        (false, true) => StepStatus::Ok,
        (false, false) => StepStatus::Failed,
    };
    StepReport {
        step: Step::Notify,
        status,
        seconds: (took.as_secs_f64() * 1_000.0).round() / 1_000.0,
        error: (!errors.is_empty()).then(|| errors.join("\n")),
    }
}
