//! One file per subcommand: build the parts from the configuration, call one operation, print its report.
//! What they share at the start is in [`setup`].

pub mod completions;
pub mod doctor;
pub mod export;
pub mod extract;
mod identity;
mod job;
mod known;
pub mod list;
pub mod login;
pub mod man;
pub mod notify;
pub mod prune;
pub mod rehearse;
pub mod report;
pub mod restore;
pub mod run;
pub mod schedule;
pub mod setup;
pub mod status;
pub mod sync;
pub mod verify;

use std::io::{self, Write};

use serde::Serialize;
use serde_json::json;

use crate::cli::{Cli, Command, Global};
use crate::logging::Tail;

/// What `main` ends the program with.
pub type ExitStatus = u8;

/// A usage or configuration error.
pub const USAGE: ExitStatus = 2;
/// Another process holds the lock.
pub const LOCKED: ExitStatus = 4;

/// Carries out a command. `log` is the end of its log, for whoever is told how it went.
pub fn run(cli: &Cli, log: &Tail) -> ExitStatus {
    let name = cli.command.name();
    let json = cli.global.json;
    let result = match &cli.command {
        Command::Run(arguments) => run::run(&cli.global, arguments, log),
        Command::List(arguments) => list::run(&cli.global, arguments),
        Command::Prune(arguments) => prune::run(&cli.global, arguments),
        Command::Rehearse(arguments) => rehearse::run(&cli.global, arguments),
        Command::Verify(arguments) => verify::run(&cli.global, arguments),
        Command::Restore(arguments) => restore::run(&cli.global, arguments),
        Command::Extract(arguments) => extract::run(&cli.global, arguments),
        Command::Sync(arguments) => sync::run(&cli.global, arguments),
        Command::Export(arguments) => export::run(&cli.global, arguments, log),
        Command::Login(arguments) => login::run(&cli.global, arguments),
        Command::Doctor(arguments) => doctor::run(&cli.global, arguments),
        Command::Schedule(arguments) => schedule::run(&cli.global, arguments),
        Command::Status(arguments) => status::run(&cli.global, arguments),
        Command::Notify(arguments) => notify::run(&cli.global, arguments),
        Command::Report(arguments) => report::run(&cli.global, arguments),
        Command::Completions(arguments) => completions::run(&cli.global, arguments),
        Command::Man(arguments) => man::run(&cli.global, arguments),
    };
    result.unwrap_or_else(|(status, message)| fail(json, Some(name), status, &message))
}

/// Prints a report: as the one JSON document, or as text unless only errors are wanted.
pub fn tell(global: &Global, json: &impl Serialize, text: impl FnOnce() -> String) {
    if global.json {
        // A report holds nothing that cannot be written as JSON.
        print(&(serde_json::to_string(json).unwrap_or_default() + "\n"));
    } else if !global.quiet {
        print(&text());
    }
}

/// Tells of an error that kept a command from being carried out at all.
pub fn fail(json: bool, command: Option<&str>, status: ExitStatus, message: &str) -> ExitStatus {
    if json {
        print(&format!(
            "{}\n",
            json!({ "command": command, "status": "failed", "error": message })
        ));
    }
    complain(message);
    status
}

/// Tells of an error.
pub fn complain(message: &str) {
    // A closed standard error changes nothing.
    let _ = writeln!(io::stderr(), "error: {message}");
}

/// Writes a result. That nobody reads it keeps no backup from having been stored.
pub fn print(text: &str) {
    let mut out = io::stdout().lock();
    if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        tracing::debug!("the result could not be printed: {error}");
    }
}
