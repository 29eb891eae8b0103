//! A machine that is about to log in, and what it is to be like afterwards.

#![allow(dead_code, reason = "not every test binary logs in")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::dialogue::Piped;
use super::dropbox::{Dropbox, Options};
use super::host::{Ended, Host};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_gitlab-pi-backup");
/// What the variables of the destination start with.
pub const PREFIX: &str = "GITLAB_PI_BACKUP_DESTINATIONS__DROPBOX__";

/// A machine without a configuration, that finds the stand-in by its environment.
pub fn machine(dropbox: &Dropbox) -> Host {
    let mut host = Host::without_config(PROGRAM);
    for key in ["API_URL", "CONTENT_URL"] {
        host.set(&format!("{PREFIX}{key}"), dropbox.url());
    }
    host.set("GITLAB_PI_BACKUP_UPLOAD__RETRY_FOR", "1s");
    host
}

/// The same with a configuration that lacks nothing but a token.
pub fn configured(dropbox: &Dropbox, more: &str) -> Host {
    let host = machine(dropbox);
    let key = Options::default().app_key;
    let token = token_file(&host).display().to_string();
    host.write_config(&format!(
        "[destinations.dropbox]\ntype = \"dropbox\"\napp_key = \"{key}\"\nrefresh_token_file = \"{token}\"\n{more}"
    ));
    host
}

pub fn token_file(host: &Host) -> PathBuf {
    host.path("dropbox.token")
}

/// The address that was shown.
pub fn address(shown: &str) -> &str {
    let start = shown.find("https://www.dropbox.com/oauth2/").expect(shown);
    shown[start..]
        .split_whitespace()
        .next()
        .expect("an address")
}

/// A text with everything that differs from call to call replaced by its name.
pub fn plain(text: &str, host: &Host) -> String {
    let mut text = text.replace(&host.root().display().to_string(), "ROOT");
    for (before, name) in [
        ("code_challenge=", "CHALLENGE"),
        ("gitlab-pi-backup-probe-", "RANDOM"),
        ("(request ", "ID"),
    ] {
        let mut from = 0;
        while let Some(found) = text[from..].find(before) {
            let start = from + found + before.len();
            let ends = |c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_';
            let len = text[start..].find(ends).unwrap_or(text.len() - start);
            text.replace_range(start..start + len, name);
            from = start;
        }
    }
    text
}

pub fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("metadata").permissions().mode() & 0o777
}

/// What a good end looks like.
pub const LOGGED_IN: &str = "\
dropbox: logged in as standin@example.com
  proven: a file was stored, looked at, read back and deleted; 2.0 TiB are free
  refresh token: ROOT/dropbox.token
";
pub const NEXT: &str = "next: sudo gitlab-pi-backup -c ROOT/config.toml doctor\n";

/// The one refresh token that is valid beside the stand-in's first one.
pub fn new_token(dropbox: &Dropbox) -> String {
    let first = Options::default().refresh_token;
    let mut new = dropbox.refresh_tokens();
    new.retain(|token| *token != first);
    assert_eq!(new.len(), 1, "{new:?}");
    new.remove(0)
}

/// The new token is stored as it should be, and works for what comes next.
pub fn assert_logged_in(dropbox: &Dropbox, host: &Host) {
    let stored = fs::read_to_string(token_file(host)).expect("a token");
    assert_eq!(stored, new_token(dropbox) + "\n");
    assert_eq!(mode(&token_file(host)), 0o600);
    assert_eq!(dropbox.files().len(), 0, "the probe is gone");
    let ended = host.run("list --json");
    assert_eq!(ended.status, Some(0), "{ended}");
}

/// Nothing was stored, and no token is left alive that nobody knows.
pub fn assert_nothing_stored(dropbox: &Dropbox, host: &Host, shown: &str) {
    assert!(!token_file(host).exists(), "{shown}");
    assert!(!token_file(host).with_extension("new").exists(), "{shown}");
    assert_eq!(
        dropbox.refresh_tokens(),
        [Options::default().refresh_token],
        "{shown}"
    );
    assert_eq!(dropbox.files().len(), 0, "{shown}");
}

/// The whole exchange through pipes, with a good code.
pub fn with_code(dropbox: &Dropbox, host: &Host, arguments: &str) -> Ended {
    with_code_changed(dropbox, host, arguments, |code| code)
}

pub fn with_code_changed(
    dropbox: &Dropbox,
    host: &Host,
    arguments: &str,
    change: impl Fn(String) -> String,
) -> Ended {
    let mut piped = Piped::start(host.command(arguments));
    piped.wait_for("on standard input.\n");
    let code = dropbox.authorize(address(&piped.text())).expect("a code");
    piped.enter(&(change(code) + "\n"));
    piped.end()
}
