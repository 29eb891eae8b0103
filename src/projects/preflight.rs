//! Whether GitLab and the destination answer, and know who asks: what is wrong with either is told at once, and
//! before anything is asked for.

use chrono::{DateTime, Utc};

use crate::error::{Error, ErrorKind};
use crate::projects::Job;
use crate::retry::{Patience, SHORT_PATIENCE};
use crate::units::Span;

/// What is worth knowing beforehand; an error says why nothing could be exported.
pub(super) async fn preflight(job: &Job<'_>, now: DateTime<Utc>) -> Result<Vec<String>, String> {
    let allowed = job.upload.retry_for;
    let short = Patience::short(allowed);
    let access = match job.api.access(&short).await {
        // Nobody waits an hour for what would be done; and an hour of silence would look like a program that hangs.
        Err(error) if is_down(&error) && !job.dry_run && allowed > SHORT_PATIENCE => {
            let told = error.to_string();
            let told = told.lines().next().unwrap_or_default();
            let span = Span(allowed);
            tracing::warn!("{told}; it is asked again for {span} (`upload.retry_for`)");
            job.api.access(&Patience::new(allowed)).await
        }
        access => access,
    };
    let access = access.map_err(|error| error.to_string())?;
    tracing::info!("{}: {}", job.api.host(), access.words());
    let patience = if job.dry_run {
        short.again()
    } else {
        Patience::new(allowed)
    };
    let reached = job.destination.authenticate(&patience).await;
    reached.map_err(|error| error.to_string())?;
    Ok(access.warning(now).into_iter().collect())
}

fn is_down(error: &Error) -> bool {
    error.kind() == ErrorKind::Unavailable
}
