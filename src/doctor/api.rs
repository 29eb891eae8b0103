//! GitLab's API: whether it answers, and whether the token can have projects exported.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::timeout;

use super::Check;
use crate::gitlab::api::Api;
use crate::retry::Patience;
use crate::units::Span;

const NAME: &str = "gitlab_api";
/// It is not waited for longer.
const LONGEST: Duration = Duration::from_secs(10);
/// What fails is tried again for so long: enough for a hiccup.
const TRIED_FOR: Duration = Duration::from_secs(2);

/// None where the API is not used.
pub(super) async fn check(
    api: Option<&Result<Api, String>>,
    offline: bool,
    now: DateTime<Utc>,
) -> Option<Check> {
    let api = match api? {
        Ok(api) => api,
        Err(message) => return Some(Check::failed(NAME, message)),
    };
    if offline {
        return Some(Check::skipped(NAME, "--offline"));
    }
    let patience = Patience::new(TRIED_FOR);
    let check = match timeout(LONGEST, api.access(&patience)).await {
        Ok(Ok(access)) => {
            let check = Check::ok(NAME, format!("{}: {}", api.host(), access.words()));
            match access.warning(now) {
                Some(warning) => check.hint(warning),
                None => check,
            }
        }
        Ok(Err(error)) => Check::failed(NAME, &error.to_string()),
        Err(_) => {
            let what = format!("{}: no answer for {}", api.host(), Span(LONGEST));
            Check::failed(NAME, &what).hint("check `gitlab.url` and the network")
        }
    };
    Some(check)
}
