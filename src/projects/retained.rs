//! Retention in a run: what is deleted is told, whatever comes meanwhile.

use chrono::Local;

use super::journal::Stored;
use super::prune;
use super::run::{Item, Run};
use super::stored::Project;

impl Run<'_> {
    /// Deletes what `[retention]` does not keep of this project, now that a new export is there.
    pub(super) async fn prune(&self, item: &Item, stored: &Stored) {
        let Some(policy) = self.job.retention else {
            return;
        };
        let request = prune::Request {
            name: &self.job.settings.name,
            policy,
            shrink: self.job.shrink,
            made: &stored.key,
        };
        let project = Project {
            // It may have moved since it was listed.
            path: &stored.path,
            id: item.id,
        };
        let (patience, now) = (self.patience(), self.now().with_timezone(&Local));
        let mut pruning = Pruning {
            run: self,
            path: &stored.path,
            outcome: prune::Outcome::default(),
        };
        let (destination, outcome) = (self.destination(), &mut pruning.outcome);
        prune::prune(destination, project, &request, &patience, &now, outcome).await;
    }
}

/// The old exports of a project that are being deleted: what was is told even if the program is asked to stop meanwhile.
struct Pruning<'r, 'a> {
    run: &'r Run<'a>,
    path: &'r str,
    outcome: prune::Outcome,
}

impl Drop for Pruning<'_, '_> {
    fn drop(&mut self) {
        let outcome = std::mem::take(&mut self.outcome);
        self.run.pruned.borrow_mut().extend(outcome.pruned);
        if let Some(warning) = outcome.warning {
            self.run.warn(warning);
        }
        if let Some(error) = outcome.error {
            tracing::info!("{error}");
            let error = format!("deleting old exports of {}: {error}", self.path);
            self.run.trouble.borrow_mut().get_or_insert(error);
        }
    }
}
