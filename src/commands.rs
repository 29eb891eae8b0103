//! One file per subcommand: build the parts from the configuration, call one operation, print its report.

pub mod run;

use std::io::{self, Write};

use serde_json::json;

use crate::cli::{Cli, Command};

/// What `main` ends the program with.
pub type ExitStatus = u8;

/// A usage or configuration error.
pub const USAGE: ExitStatus = 2;
/// Another process holds the lock.
pub const LOCKED: ExitStatus = 4;

/// Carries out a command.
pub fn run(cli: &Cli) -> ExitStatus {
    let name = cli.command.name();
    let json = cli.global.json;
    let result = match &cli.command {
        Command::Run(arguments) => run::run(&cli.global, arguments),
    };
    result.unwrap_or_else(|(status, message)| fail(json, Some(name), status, &message))
}

/// Tells of an error that kept a command from being carried out at all.
pub fn fail(json: bool, command: Option<&str>, status: ExitStatus, message: &str) -> ExitStatus {
    if json {
        print(&format!(
            "{}\n",
            json!({ "command": command, "status": "failed", "error": message })
        ));
    }
    // A closed standard error changes nothing.
    let _ = writeln!(io::stderr(), "error: {message}");
    status
}

/// Writes a result. That nobody reads it keeps no backup from having been stored.
pub fn print(text: &str) {
    let mut out = io::stdout().lock();
    if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        tracing::debug!("the result could not be printed: {error}");
    }
}
