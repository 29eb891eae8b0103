//! The private key that decrypts archives: read from where `--identity` says, its passphrase asked for on the
//! terminal if it has one.

use std::io::{self, IsTerminal};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use secrecy::SecretString;

use super::login::ask::{Ask, Echo};
use super::setup::Failure;
use crate::seal::Identities;
use crate::stop::Stop;

/// Reads an identity file; none if none was given.
pub(super) async fn identities(
    path: Option<&Path>,
    stop: &Stop,
) -> Result<Option<Identities>, Failure> {
    let Some(path) = path else {
        return Ok(None);
    };
    warn_if_open_to_others(path);
    // Only the file itself tells whether a passphrase is needed.
    let asked = AtomicBool::new(false);
    let without = Identities::read(path, || {
        asked.store(true, Ordering::Relaxed);
        Err(String::new())
    });
    if !asked.into_inner() {
        return without.map(Some).map_err(|message| (1, message));
    }
    let passphrase = ask(path, stop).await?;
    // It is made to cost time.
    let path: PathBuf = path.to_owned();
    let reading = tokio::task::spawn_blocking(move || Identities::read(&path, || Ok(passphrase)));
    let read = tokio::select! {
        read = reading => read.unwrap_or_else(|error| Err(error.to_string())),
        signal = stop.requested() => {
            return Err((signal.exit_status(), format!("stopped by {}", signal.name())));
        }
    };
    read.map(Some).map_err(|message| (1, message))
}

async fn ask(path: &Path, stop: &Stop) -> Result<SecretString, Failure> {
    let shown = path.display();
    if !io::stdin().is_terminal() {
        let message = format!(
            "reading the identity file {shown}: it is protected by a passphrase, and standard input is no terminal\n  \
             call it from a terminal, or name an identity file without a passphrase"
        );
        return Err((1, message));
    }
    let ask = Ask {
        stop,
        terminal: true,
        answers: true,
        unanswered: "nothing was decrypted\n  call it again, and give the passphrase",
    };
    let prompt = format!("Passphrase for {shown}: ");
    let line = ask.line(&prompt, Echo::Off).await?;
    Ok(SecretString::from(line.unwrap_or_default()))
}

/// A private key that others can read is nobody's any more; but who restores on a new machine has other worries.
fn warn_if_open_to_others(path: &Path) {
    let mode = std::fs::metadata(path).map_or(0, |metadata| metadata.mode());
    if mode & 0o077 != 0 {
        tracing::warn!(
            "{}: others may read this private key (mode {:04o})\n  chmod 600 {}",
            path.display(),
            mode & 0o7777,
            path.display()
        );
    }
}
