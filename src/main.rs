//! Arguments, logging, run, exit status; nothing else.

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use gitlab_pi_backup::cli::Cli;
use gitlab_pi_backup::{commands, logging};

fn main() -> ExitCode {
    let status = match Cli::try_parse() {
        Ok(cli) => {
            let log = logging::start(&cli.global);
            commands::run(&cli, &log)
        }
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                // A closed standard output is no failure.
                let _ = error.print();
                0
            }
            _ if std::env::args_os().any(|argument| argument == "--json") => {
                let text = error.render().to_string();
                let message = text.trim_end();
                // `fail` says that it is an error.
                let message = message.strip_prefix("error: ").unwrap_or(message);
                commands::fail(true, None, commands::USAGE, message)
            }
            // To monitoring, 2 is an alarm.
            _ if std::env::args_os().any(|argument| argument == "--nagios") => {
                commands::status::unknown(&error.render().to_string())
            }
            _ => {
                let _ = error.print();
                commands::USAGE
            }
        },
    };
    ExitCode::from(status)
}
