//! The whole job on this machine alone: no account, no GitLab, no network.
//!
//! GitLab's commands and Dropbox are played by the stand-ins of the tests; the program is the real one,
//! with real upload sessions. Everything lies in one folder that stays, to look at.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it is a program that shows something"
)]

mod backup;
mod dropbox;
mod host;
mod web;

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use backup::RealBackup;
use dropbox::{Dropbox, Options};
use host::Host;

/// Runs the program, shows all it says, and tells whether it ended well.
fn shown(host: &Host, arguments: &str) -> bool {
    println!("$ gitlab-pi-backup {arguments}");
    let ended = host.run(arguments);
    println!("{}{}", ended.out, ended.err);
    ended.status == Some(0)
}

fn main() -> ExitCode {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let built = Command::new(cargo)
        .current_dir(manifest)
        .args(["build", "--quiet"])
        .status();
    if !built.is_ok_and(|status| status.success()) {
        eprintln!("the program could not be built");
        return ExitCode::FAILURE;
    }
    let examples = std::env::current_exe().expect("this program has a path");
    let program = examples
        .parent()
        .and_then(Path::parent)
        .expect("target/debug")
        .join("gitlab-pi-backup");
    let dropbox = Dropbox::start(Options::default());
    let host = Host::new(&program.to_string_lossy(), &dropbox);
    host.populate(&RealBackup::new(7).uploads(40 << 20));
    let before = (host.gitlab_state(), host.gitlab_configuration());
    for arguments in ["run", "run --dry-run", "list", "verify", "rehearse"] {
        if !shown(&host, arguments) {
            return ExitCode::FAILURE;
        }
    }
    println!("The machine dies; a new one gets GitLab of the same version, newly installed.\n");
    host.wipe();
    if !shown(&host, "restore --plan") || !shown(&host, "restore --apply --yes") {
        return ExitCode::FAILURE;
    }
    if (host.gitlab_state(), host.gitlab_configuration()) != before {
        eprintln!("not everything is back");
        return ExitCode::FAILURE;
    }
    println!("Every file of GitLab is back, with the same content.\n");
    println!("stored in the stand-in for Dropbox:");
    for file in dropbox.files() {
        println!(
            "  {}  {} bytes, content hash {}",
            file.path_display, file.size, file.content_hash
        );
    }
    println!("requests it took:");
    for endpoint in ["/oauth2/token", "start", "append_v2", "finish"] {
        let count = dropbox
            .requests()
            .iter()
            .filter(|request| request.endpoint.ends_with(endpoint))
            .count();
        println!("  {count:>3} × {endpoint}");
    }
    let kept = host.keep();
    println!("to look at: {}", kept.display());
    for name in [
        "config.toml",
        "etc/gitlab",
        "var/opt/gitlab/backups",
        "var/opt/gitlab/state",
    ] {
        let found = fs::exists(kept.join(name)).unwrap_or(false);
        println!("  {name}{}", if found { "" } else { " is missing" });
    }
    ExitCode::SUCCESS
}
