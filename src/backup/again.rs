//! A backup that lies here already, to places that lack it: the way of a run, without its commands.

use chrono::{DateTime, Utc};

use super::look::open;
use super::send::Ready;
use super::{Job, Run};
use crate::archive::Archive;
use crate::report::RunReport;

/// What became of it.
pub enum Brought {
    /// It is not whole, or doubtful; in words.
    PassedOver(String),
    /// It was sent, or tried to be: archives, manifests and what else a run reports, but no verdict.
    Sent(Box<RunReport>),
}

/// Looks into the archives, and brings them to the destinations that take part if nothing is wrong with them.
pub async fn bring(job: &Job<'_>, archives: Vec<Archive>, now: DateTime<Utc>) -> Brought {
    let mut run = Run::new(job, String::new(), now);
    let mut all = Vec::new();
    for archive in archives {
        let notes = run.notes(&archive.name);
        let opened = tokio::select! {
            opened = open(&archive, &job.gitlab.skip, notes) => opened,
            signal = job.stop.requested() => Err(format!("stopped by {}", signal.name())),
        };
        let opened = match opened {
            Ok(opened) => opened,
            Err(why) => return Brought::PassedOver(format!("{}: {why}", archive.path.display())),
        };
        let known = run.known_doubts(&archive, &opened);
        if let Some(doubt) = opened.seen.doubts.iter().chain(&known).next() {
            return Brought::PassedOver(format!("{}: {doubt}", archive.path.display()));
        }
        all.push(Ready {
            archive,
            made_by_this_run: false,
            doubts: Vec::new(),
            opened: Ok(opened),
        });
    }
    let record = run.record(&all).await;
    // An encrypted upload that was begun goes on only with its own key.
    run.finish_left(|name| all.iter().any(|ready| ready.archive.name == *name))
        .await;
    for ready in &all {
        if !run.job.is_stopped() {
            run.send(ready).await;
        }
    }
    run.write_manifests(record).await;
    if !run.job.is_stopped() {
        run.write_recovery().await;
    }
    Brought::Sent(Box::new(run.report))
}
