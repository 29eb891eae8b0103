//! `completions`

use clap::CommandFactory as _;
use serde::Serialize;

use super::setup::Failure;
use super::{ExitStatus, tell};
use crate::cli::upkeep::CompletionsArgs;
use crate::cli::{Cli, Global};
use crate::report::Status;

/// What `--json` shows.
#[derive(Serialize)]
struct Completions {
    command: &'static str,
    status: Status,
    shell: String,
    text: String,
    error: Option<String>,
}

/// Prints completions for a shell.
pub fn run(global: &Global, arguments: &CompletionsArgs) -> Result<ExitStatus, Failure> {
    let mut cli = Cli::command();
    let name = cli.get_name().to_owned();
    // Into memory, as the generator panics when what it writes to is closed.
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut cli, name, &mut script);
    let script = String::from_utf8_lossy(&script);
    let report = Completions {
        command: "completions",
        status: Status::Ok,
        shell: arguments.shell.to_string(),
        // The generator for bash (clap_complete 4.6) takes the dashes of the program's name for the beginnings of commands in
        // half of the places; then nothing is completed behind a command. What does not occur is not replaced.
        text: script.replace("gitlab__subcmd__pi__subcmd__backup", "gitlab__pi__backup"),
        error: None,
    };
    tell(global, &report, || report.text.clone());
    Ok(0)
}
