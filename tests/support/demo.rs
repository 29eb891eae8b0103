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

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use dropbox::{Dropbox, Options};
use host::Host;

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
    let mut host = Host::new(&program.to_string_lossy(), &dropbox);
    host.set("STUB_SIZE", (40 << 20).to_string());
    for arguments in ["run", "run --dry-run", "list", "verify", "rehearse"] {
        println!("$ gitlab-pi-backup {arguments}");
        let ended = host.run(arguments);
        println!("{}{}", ended.out, ended.err);
        if ended.status != Some(0) {
            return ExitCode::FAILURE;
        }
    }
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
        "state/history.jsonl",
        "etc/gitlab/config_backup",
        "var/opt/gitlab/backups",
    ] {
        let found = fs::exists(kept.join(name)).unwrap_or(false);
        println!("  {name}{}", if found { "" } else { " is missing" });
    }
    ExitCode::SUCCESS
}
