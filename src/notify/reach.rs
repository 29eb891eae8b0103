//! Could everybody be told? Looks as far as it can without telling anybody anything.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{LocalBoxFuture, join_all};
use tokio::time::timeout;

use super::{Notifier, Target};
use crate::error::{Error, ErrorKind};
use crate::http::Http;
use crate::notify::address::Address;
use crate::notify::settings::Settings;
use crate::notify::{mail, metrics};
use crate::units::Span;

/// Whether a target could be told.
#[derive(Debug)]
pub struct Reachability {
    /// Who.
    pub target: Target,
    /// How far the look went, in words; or what is in the way, with the way out in its second line.
    pub result: Result<String, String>,
}

/// Looks at every configured target: connects to servers, logs in for mail, and sends nothing. Of an address
/// only the server is asked, for its front page, as asking for the address itself would be a ping.
pub async fn reachable(settings: &Settings) -> Vec<Reachability> {
    let notifier = Notifier::new(settings.clone());
    let limit = settings.in_all();
    let mut looks: Vec<(Target, LocalBoxFuture<'_, Result<String, Error>>)> = Vec::new();
    if let Some(http) = &notifier.http {
        let addresses = [
            (Target::Healthcheck, &settings.healthcheck),
            (Target::Webhook, &settings.webhook),
            (Target::Ntfy, &settings.ntfy),
        ];
        for (target, address) in addresses {
            if let Some(address) = address {
                looks.push((target, Box::pin(front_page(http, target, address))));
            }
        }
        if let Some(email) = &settings.email {
            looks.push((
                Target::Email,
                Box::pin(mail::reach(http, email, settings.timeout)),
            ));
        }
    }
    if let Some(path) = &settings.metrics_file {
        looks.push((
            Target::Metrics,
            Box::pin(look_at_metrics(path.as_path().into())),
        ));
    }
    let bounded = looks.into_iter().map(|(target, look)| async move {
        let result = timeout(limit, look).await;
        let result = result.unwrap_or_else(|_| Err(too_slow(target, limit)));
        Reachability {
            target,
            result: result.map_err(|error| error.to_string()),
        }
    });
    join_all(bounded).await
}

/// Looks at what is on this machine alone: files, programs, folders.
pub fn usable(settings: &Settings) -> Vec<Reachability> {
    let mut found = Vec::new();
    let addresses = [
        (Target::Healthcheck, &settings.healthcheck),
        (Target::Webhook, &settings.webhook),
        (Target::Ntfy, &settings.ntfy),
    ];
    for (target, address) in addresses {
        if address.is_some() {
            let result = Ok("configured; not asked without a network".to_owned());
            found.push(Reachability { target, result });
        }
    }
    if let Some(email) = &settings.email {
        let result = mail::look(email).map_err(|error| error.to_string());
        found.push(Reachability {
            target: Target::Email,
            result,
        });
    }
    if let Some(path) = &settings.metrics_file {
        let result = metrics::look(path).map_err(|error| error.to_string());
        found.push(Reachability {
            target: Target::Metrics,
            result,
        });
    }
    found
}

/// Any answer will do: what is behind the address is not asked.
async fn front_page(http: &Http, target: Target, address: &Address) -> Result<String, Error> {
    let action = format!("reaching {}", target.told());
    http.line().look(&action, address.server()).await?;
    Ok("the server answers".to_owned())
}

/// A folder on a dead network disk holds up nobody else.
pub(super) async fn look_at_metrics(path: Arc<Path>) -> Result<String, Error> {
    let looking = tokio::task::spawn_blocking(move || metrics::look(&path)).await;
    looking.unwrap_or_else(|error| {
        Err(Error::new(
            ErrorKind::Unexpected,
            "looking at the metrics",
            error.to_string(),
        ))
    })
}

pub(super) fn too_slow(target: Target, limit: Duration) -> Error {
    let reply = format!("not done after {}", Span(limit));
    Error::new(
        ErrorKind::Unavailable,
        format!("telling {}", target.told()),
        reply,
    )
    .hint("is it up, and the network?")
}
