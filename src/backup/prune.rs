//! Step 7: retention, after a run that left something better than what is deleted.

use chrono::Local;
use tokio::time::Instant;

use super::{Run, seconds};
use crate::destination::dropbox;
use crate::prune::{Outcome, Request, prune};
use crate::report::{ManifestStatus, Status, Step, StepReport, StepStatus};
use crate::retention::RetentionPolicy;

impl Run<'_> {
    /// Prunes the destinations that have this run's backup, whole, with its manifest. What fails here is told,
    /// and changes nothing about the backup.
    pub(super) async fn prune(&mut self, policy: &RetentionPolicy) {
        let start = Instant::now();
        let whole = |name: &str| {
            let mut rows = self.report.manifests.iter();
            rows.any(|row| row.destination == name && row.status != ManifestStatus::Failed)
        };
        let taking_part = self.job.taking_part();
        let destinations: Vec<_> = taking_part
            .filter(|destination| whole(destination.name()))
            .collect();
        let ended_well = matches!(self.report.status, Status::Ok | Status::Partial);
        let busy = self.job.is_stopped() || self.restoring.is_some();
        if destinations.is_empty() || !ended_well || busy {
            tracing::info!("nothing is pruned after a run that did not end well");
            return self.step(Step::Prune, StepStatus::Skipped, start.elapsed(), None);
        }
        let state = self.job.state;
        let request = Request {
            policy,
            state,
            gitlab: self.job.gitlab,
            awaited: dropbox::awaited(&state.path().join(dropbox::JOURNALS)),
            dry_run: false,
            accept_shrink: false,
            patience: self.job.upload.retry_for,
        };
        let now = self.now.with_timezone(&Local);
        let stop = self.job.stop;
        let mut outcome = Outcome::default();
        tokio::select! {
            () = prune(&destinations, &request, &now, &mut outcome) => {}
            signal = stop.requested() => {
                let what = format!("stopped by {}; the next pruning goes on there", signal.name());
                outcome.errors.insert(0, what);
            }
        }
        self.report.pruned = outcome.pruned;
        let error = outcome.errors.into_iter().chain(outcome.refused).next();
        if let Some(error) = &error {
            tracing::warn!("{error}");
        }
        self.report.steps.push(StepReport {
            step: Step::Prune,
            status: if error.is_none() {
                StepStatus::Ok
            } else {
                StepStatus::Failed
            },
            seconds: seconds(start.elapsed()),
            error,
        });
    }
}
