//! The user's own commands around a run.

use tokio::time::Instant;

use super::Run;
use crate::hooks::Outcome;
use crate::report::{Step, StepStatus};

impl Run<'_> {
    /// The commands before everything else; whether the run goes on.
    pub(super) async fn before(&mut self) -> bool {
        let job = self.job;
        if job.request.dry_run || !job.hooks.has_before() {
            return true;
        }
        let start = Instant::now();
        let run_id = self.report.run_id.clone();
        let result = job.hooks.before(&run_id, job.stop).await;
        let (status, error) = match result {
            Ok(()) => (StepStatus::Ok, None),
            Err(failure) => (StepStatus::Failed, Some(failure.message)),
        };
        let goes_on = error.is_none() && !job.is_stopped();
        self.step(Step::Before, status, start.elapsed(), error);
        goes_on
    }

    /// The commands after everything else, however it ended. What fails here takes nothing back that is
    /// stored, but a run that ended well has not.
    pub(super) async fn after(&mut self) {
        let job = self.job;
        if job.request.dry_run || !job.hooks.has_after() {
            return;
        }
        let start = Instant::now();
        let outcome = Outcome {
            status: self.report.status.as_str(),
            exit: self.report.exit_status(),
            backup_id: self.report.backup_id.as_deref(),
            run_id: &self.report.run_id,
            error: self.report.error.as_deref(),
        };
        let result = job.hooks.after(&outcome, job.stop).await;
        let (status, error) = match result {
            Ok(()) => (StepStatus::Ok, None),
            Err(failure) => (StepStatus::Failed, Some(failure.message)),
        };
        if let Some(error) = &error {
            self.report.not_all_well(error);
        }
        self.step(Step::After, status, start.elapsed(), error);
    }
}
