//! Whether GitLab and the destination answer, and know who asks: what is wrong with either is told at once, and
//! before anything is asked for.

use chrono::{DateTime, Utc};

use crate::projects::Job;
use crate::retry::Patience;

/// What is worth knowing beforehand; an error says why nothing could be exported.
pub(super) async fn preflight(job: &Job<'_>, now: DateTime<Utc>) -> Result<Vec<String>, String> {
    let allowed = job.upload.retry_for;
    // Nobody waits an hour for what would be done.
    let patience = if job.dry_run {
        Patience::short(allowed)
    } else {
        Patience::new(allowed)
    };
    let access = job.api.access(&patience).await;
    let access = access.map_err(|error| error.to_string())?;
    tracing::info!("{}: {}", job.api.host(), access.words());
    let patience = patience.again();
    let reached = job.destination.authenticate(&patience).await;
    reached.map_err(|error| error.to_string())?;
    Ok(access.warning(now).into_iter().collect())
}
