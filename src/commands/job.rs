//! What each job does around its operation: it takes the lock, tells that it begins, is recorded in the history,
//! tells how it ended, and brings the report page up to date.

use std::io;
use std::pin::pin;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::setup::{Failure, Setup};
use super::{LOCKED, report};
use crate::archive::ArchiveKind;
use crate::history;
use crate::job::Job;
use crate::logging::Tail;
use crate::notify::message::Message;
use crate::notify::{Known, Notifier};
use crate::projects::report::ExportReport;
use crate::report::RunReport;
use crate::state::RunLock;

/// Who is told of a job: all the same, but each job has a health check of its own.
pub(super) fn notifier(setup: &Setup, job: Job) -> Notifier {
    let projects = setup.projects.as_ref();
    Notifier::new(match job {
        Job::Run => setup.notify.clone(),
        Job::Projects => {
            let healthcheck = projects.and_then(|projects| projects.healthcheck.clone());
            setup.notify.with_healthcheck(healthcheck)
        }
    })
}

/// Takes the lock; a job that cannot begin is told like one that failed. That another one is at work is no failure.
pub(super) async fn lock(
    setup: &Setup,
    (job, notifier): (Job, &Notifier),
    wait: Duration,
    log: &Tail,
) -> Result<RunLock, Failure> {
    let locked = setup.lock(wait).await;
    if let Err((status, error)) = &locked
        && *status != LOCKED
    {
        let message = Message::not_begun(job, &run_id(Utc::now()), error, log.text());
        notifier.tell(&message, &setup.stop).await;
    }
    locked
}

/// Carries the operation out; it waits for nobody who is told that it begins.
pub(super) async fn carry_out<T>(
    notifier: &Notifier,
    id: &str,
    operation: impl Future<Output = T>,
) -> T {
    // On the heap: an operation is a large state machine.
    let mut running = Box::pin(operation);
    let mut started = pin!(notifier.started(id));
    tokio::select! {
        report = &mut running => report,
        () = &mut started => running.await,
    }
}

/// A run is over.
pub(super) async fn run_ended(
    setup: &Setup,
    notifier: &Notifier,
    report: &mut RunReport,
    log: &Tail,
) {
    let history = before(setup);
    // Before anybody is told: that may take its time, and what happens meanwhile takes no run out of the history.
    note(setup, Job::Run, history::record(&setup.state, report));
    let destinations = setup.known();
    let known = known(setup, &history, &destinations);
    let (now, stop) = (Utc::now(), &setup.stop);
    notifier.ended(report, known, log.text(), now, stop).await;
    report::refresh(setup).await;
}

/// An export of projects is over.
pub(super) async fn export_ended(
    setup: &Setup,
    notifier: &Notifier,
    report: &mut ExportReport,
    log: &Tail,
) {
    let history = before(setup);
    let recorded = history::record_export(&setup.state, report);
    note(setup, Job::Projects, recorded);
    let destinations = setup.known();
    let known = known(setup, &history, &destinations);
    let told = notifier.exported(report, known, log.text(), &setup.stop);
    told.await;
    report::refresh(setup).await;
}

/// What was recorded before.
fn before(setup: &Setup) -> Vec<Value> {
    history::read_recent(&setup.state).unwrap_or_else(|error| {
        let folder = setup.state.path().display();
        tracing::warn!("the history in {folder} cannot be read: {error}");
        Vec::new()
    })
}

/// Says so if it could not be recorded.
fn note(setup: &Setup, job: Job, recorded: io::Result<()>) {
    if let Err(error) = recorded {
        let (noun, folder) = (job.noun(), setup.state.path().display());
        tracing::warn!("the {noun} cannot be added to the history in {folder}: {error}");
    }
}

/// For the metrics.
pub(super) fn known<'a>(
    setup: &Setup,
    history: &'a [Value],
    destinations: &'a [(String, Vec<ArchiveKind>)],
) -> Known<'a> {
    Known {
        history,
        destinations,
        exports: setup.projects.is_some(),
    }
}

/// Sorts by time, and is told from another one of the same second.
pub(super) fn run_id(now: DateTime<Utc>) -> String {
    format!("{}-{:x}", now.format("%Y%m%dT%H%M%SZ"), std::process::id())
}
