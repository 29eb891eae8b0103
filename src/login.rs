//! The way to a refresh token and a first configuration, and the end of that permission.
//!
//! The order makes it safe to fail anywhere: the user's code is exchanged, the new token is proven, and only
//! then something is written, the configuration before the token. What was stored before counts until then. A
//! token that is not stored is revoked: none is left that nobody knows of.

pub mod configuration;
pub mod probe;
pub mod script;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;
use serde::Serialize;

use crate::destination::Destination;
use crate::destination::dropbox::{
    APPS_PAGE, CONNECTED_APPS_PAGE, Consent, Dropbox, Revoked, SCOPES,
};
use crate::login::configuration::{First, store_token};
use crate::login::probe::{Probe, Proof};
use crate::report::Status;
use crate::restore::runbook::quote;
use crate::retry::Patience;
use crate::stop::{Stop, StopSignal};
use crate::units::Size;

/// How long what a failed log-in would leave at the service is cleaned up.
const PARTING: Duration = Duration::from_secs(5);

/// What a log-in works with.
pub struct Job<'a> {
    /// Where to.
    pub destination: &'a Destination,
    /// The same, as what it is.
    pub dropbox: &'a Dropbox,
    /// Where its refresh token is stored.
    pub token_file: &'a Path,
    /// Where the configuration is, or would be.
    pub configuration: &'a Path,
    /// The configuration that is written if there is none.
    pub first: Option<&'a First>,
    /// How to call the program with this configuration.
    pub program: &'a str,
    /// Each request is tried again for a minute, or for this long if that is less.
    pub allowed: Duration,
    /// Whether the program has been asked to stop.
    pub stop: &'a Stop,
}

/// What a refresh token comes from.
pub enum Credential<'a> {
    /// The code that the page of a consent showed.
    Code(&'a Consent, &'a SecretString),
    /// One that is known.
    Token(&'a SecretString),
}

/// What a log-in or its end came to.
#[derive(Debug, Serialize)]
pub struct LoginReport {
    /// `login`.
    pub command: &'static str,
    /// How it ended.
    pub status: Status,
    /// What went wrong.
    pub error: Option<String>,
    /// The destination's name.
    pub destination: String,
    /// Whose account it is.
    pub account: Option<String>,
    /// The rights the token has, by Dropbox's names.
    pub scopes: Vec<String>,
    /// Those it lacks.
    pub missing_scopes: Vec<String>,
    /// The file that the token was stored in, or removed with.
    pub token_file: Option<PathBuf>,
    /// The configuration that leads to it; none if there is none.
    pub configuration: Option<PathBuf>,
    /// What else is to be known, in words.
    pub notes: Vec<String>,
    /// The command to type next.
    pub next: Option<String>,
    /// In the order they are told.
    #[serde(skip)]
    lines: Vec<String>,
    #[serde(skip)]
    stopped: Option<StopSignal>,
}

impl LoginReport {
    fn begin(job: &Job<'_>) -> LoginReport {
        LoginReport {
            command: "login",
            status: Status::Failed,
            error: None,
            destination: job.destination.name().to_owned(),
            account: None,
            scopes: Vec::new(),
            missing_scopes: Vec::new(),
            token_file: None,
            configuration: job.first.is_none().then(|| job.configuration.to_owned()),
            notes: Vec::new(),
            next: None,
            lines: Vec::new(),
            stopped: None,
        }
    }

    fn failed(mut self, error: impl Into<String>) -> LoginReport {
        self.error = Some(error.into());
        self
    }

    fn stopped(mut self, signal: StopSignal) -> LoginReport {
        self.stopped = Some(signal);
        self.failed(format!(
            "stopped by {}; nothing was stored on this machine",
            signal.name()
        ))
    }

    /// What the program ends with.
    pub fn exit_status(&self) -> u8 {
        match (self.stopped, self.status) {
            (Some(signal), _) => signal.exit_status(),
            (None, Status::Ok) => 0,
            (None, _) => 1,
        }
    }

    /// For people; empty if it failed, as the error says all.
    pub fn text(&self) -> String {
        if self.status != Status::Ok {
            return String::new();
        }
        let notes = self.notes.iter().map(|note| format!("note: {note}"));
        let next = self.next.iter().map(|next| format!("next: {next}"));
        let lines: Vec<_> = self
            .lines
            .iter()
            .cloned()
            .chain(notes)
            .chain(next)
            .collect();
        lines.join("\n") + "\n"
    }
}

/// The program as the user calls it, with a configuration that is not where it is looked for.
pub fn program(configuration: Option<&Path>) -> String {
    let named = configuration.map(|path| format!(" -c {}", quote(&path.to_string_lossy())));
    format!("sudo gitlab-pi-backup{}", named.unwrap_or_default())
}

/// Obtains a token, or takes the known one; proves it; stores it. `confirm` is asked whether a first
/// configuration is to be written; its error ends the log-in.
pub async fn log_in(
    job: &Job<'_>,
    credential: Credential<'_>,
    confirm: impl AsyncFnOnce() -> Result<bool, String>,
) -> LoginReport {
    let mut report = LoginReport::begin(job);
    let dropbox = job.dropbox;
    let is_new = matches!(credential, Credential::Code(..));
    let obtained = tokio::select! {
        obtained = obtain(job, credential) => obtained,
        signal = job.stop.requested() => return report.stopped(signal),
    };
    let (token, told) = match obtained {
        Ok(obtained) => obtained,
        Err(error) => return report.failed(error),
    };
    let probe = Probe::new(job.destination, job.allowed);
    let finish = async {
        let proof = prove(&probe, &told).await;
        report.scopes = if told.is_empty() {
            proof.scopes()
        } else {
            told
        };
        report.missing_scopes = proof.missing.iter().cloned().collect();
        report.account.clone_from(&proof.account);
        if !proof.is_good() {
            return Err(fault(job, proof));
        }
        let write_first = match job.first {
            Some(_) => confirm().await?,
            None => false,
        };
        Ok((proof, write_first))
    };
    let finished = tokio::select! {
        finished = finish => finished.map_err(Ending::Failed),
        signal = job.stop.requested() => Err(Ending::Stopped(signal)),
    };
    // What was asked meanwhile has heard the signal as well.
    let finished = finished.map_err(|ending| job.stop.signal().map_or(ending, Ending::Stopped));
    let stored = finished.and_then(|(proof, write_first)| {
        store(job, &token, write_first).map_err(Ending::Failed)?;
        Ok((proof, write_first))
    });
    let (proof, wrote_first) = match stored {
        Ok(stored) => stored,
        Err(ending) => {
            let parting = async {
                if let Ending::Stopped(_) = ending {
                    probe.clean_up().await;
                }
                if is_new {
                    // Nobody knows it but this process, and nobody is to.
                    drop(dropbox.revoke(&Patience::new(Duration::ZERO)).await);
                }
            };
            // Only a courtesy: nobody waits long for it.
            drop(tokio::time::timeout(PARTING, parting).await);
            return match ending {
                Ending::Stopped(signal) => report.stopped(signal),
                Ending::Failed(error) => report.failed(error),
            };
        }
    };
    tell_of_success(job, &proof, wrote_first, &mut report);
    report
}

/// Why a token is not stored.
enum Ending {
    Stopped(StopSignal),
    Failed(String),
}

/// The token, and the rights it is told to have.
async fn obtain(
    job: &Job<'_>,
    credential: Credential<'_>,
) -> Result<(SecretString, Vec<String>), String> {
    match credential {
        Credential::Code(consent, code) => {
            let patience = Patience::short(job.allowed);
            let grant = job.dropbox.redeem(consent, code, &patience).await;
            let grant = grant.map_err(|error| error.to_string())?;
            Ok((grant.refresh_token, grant.scopes))
        }
        Credential::Token(token) => {
            job.dropbox.adopt(token.clone()).await;
            Ok((token.clone(), Vec::new()))
        }
    }
}

/// Tries nothing if the rights the token is told to have are not enough.
async fn prove(probe: &Probe<'_>, told: &[String]) -> Proof {
    let lacks = |scope: &&str| !told.is_empty() && !told.iter().any(|has| has == scope);
    let missing: Vec<_> = SCOPES.into_iter().filter(lacks).collect();
    if missing.is_empty() {
        return probe.make().await;
    }
    Proof {
        missing: missing.into_iter().map(str::to_owned).collect(),
        ..Proof::default()
    }
}

fn fault(job: &Job<'_>, proof: Proof) -> String {
    if let Some(error) = proof.error {
        return error.to_string();
    }
    let name = job.destination.name();
    let missing: Vec<_> = proof.missing.into_iter().collect();
    let (rights, them) = match missing.len() {
        1 => ("right", "it"),
        _ => ("rights", "them"),
    };
    format!(
        "{name}: the token lacks the {rights} {}, so it was not stored\n  \
         tick {them} under Permissions on the app's page ({APPS_PAGE}), press Submit, and log in again:\n  \
         a token keeps the rights it was born with; {} login {name}",
        missing.join(", "),
        job.program
    )
}

/// Both files, or none.
fn store(job: &Job<'_>, token: &SecretString, write_first: bool) -> Result<(), String> {
    let first = job.first.filter(|_| write_first);
    if let Some(first) = first {
        first.write(job.configuration).map_err(|error| {
            let path = job.configuration.display();
            format!("writing a first configuration {path}: {error}\n  nothing was stored; mend it and log in again")
        })?;
    }
    store_token(job.token_file, token).map_err(|error| {
        if first.is_some() {
            // It was made a moment ago, and leads to nothing.
            let _ = fs::remove_file(job.configuration);
        }
        let path = job.token_file.display();
        format!("storing the refresh token in {path}: {error}\n  nothing was changed; mend it and log in again")
    })
}

fn tell_of_success(job: &Job<'_>, proof: &Proof, wrote_first: bool, report: &mut LoginReport) {
    let name = job.destination.name();
    let account = proof.account.as_deref().unwrap_or("an unknown account");
    let free = match proof.free {
        Some(bytes) => format!("; {} are free", Size(bytes)),
        None => String::new(),
    };
    let (token, configuration) = (job.token_file.display(), job.configuration.display());
    report.lines = vec![
        format!("{name}: logged in as {account}"),
        format!("  proven: a file was stored, looked at, read back and deleted{free}"),
        format!("  refresh token: {token}"),
    ];
    report.status = Status::Ok;
    report.token_file = Some(job.token_file.to_owned());
    match job.first {
        Some(_) if wrote_first => {
            report
                .lines
                .push(format!("  first configuration: {configuration}"));
            report.configuration = Some(job.configuration.to_owned());
        }
        Some(first) => {
            report.notes.push(format!(
                "write the configuration {configuration} (chmod 600) before anything else; the least is:\n\n{}",
                first.shown()
            ));
        }
        None => report
            .lines
            .push(format!("  configuration: {configuration}")),
    }
    report.next = Some(format!("{} doctor", job.program));
}

/// Ends the permission. `given_at`: where the token is given, if not in its file.
pub async fn revoke(job: &Job<'_>, given_at: Option<&str>) -> LoginReport {
    let mut report = LoginReport::begin(job);
    let (name, path) = (job.destination.name(), job.token_file);
    if given_at.is_none() && fs::symlink_metadata(path).is_err() {
        return report.failed(format!(
            "{name}: there is no refresh token in {}, so there is nothing to revoke\n  \
             if the app is still allowed, disconnect it at {CONNECTED_APPS_PAGE}",
            path.display()
        ));
    }
    let patience = Patience::short(job.allowed);
    let revoked = tokio::select! {
        revoked = job.dropbox.revoke(&patience) => revoked,
        signal = job.stop.requested() => {
            report.stopped = Some(signal);
            return report.failed(format!(
                "stopped by {}; the token is still stored, and may be revoked or not\n  \
                 do it again: {} login {name} --revoke",
                signal.name(),
                job.program
            ));
        }
    };
    let what = match revoked {
        Ok(Revoked::Now) => "the refresh token is revoked",
        Ok(Revoked::Before) => "the refresh token was worthless already",
        Err(error) => return report.failed(error.to_string()),
    };
    let place = if let Some(place) = given_at {
        format!("it still stands in {place}: take it out there")
    } else {
        if let Err(error) = fs::remove_file(path) {
            return report.failed(format!(
                "{name}: {what}, but its file cannot be removed: {}: {error}\n  remove it yourself",
                path.display()
            ));
        }
        report.token_file = Some(path.to_owned());
        format!("{} is removed", path.display())
    };
    report.status = Status::Ok;
    report.lines = vec![
        format!("{name}: {what}, and {place}"),
        format!(
            "  what is stored there stays; the app can be disconnected at {CONNECTED_APPS_PAGE}"
        ),
        format!(
            "  runs fail from now on: log in again with `{program} login {name}`, or end them with\n  \
             `{program} schedule remove`",
            program = job.program
        ),
    ];
    report
}
