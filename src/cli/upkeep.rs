//! The commands that set the program up and keep an eye on it.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::units::Span;

/// Options of `login`.
#[derive(Debug, Args)]
pub struct LoginArgs {
    /// The destination to log in to [default: the only Dropbox destination, or `dropbox`]
    #[arg(value_name = "DESTINATION")]
    pub destination: Option<String>,
    /// Ask nothing: `-` reads the code from standard input
    #[arg(long, value_name = "CODE", conflicts_with = "revoke")]
    pub code: Option<String>,
    /// Take app key, secret, token and folders out of the older Python script
    #[arg(long, value_name = "FILE", conflicts_with_all = ["revoke", "code"])]
    pub from_script: Option<PathBuf>,
    /// End the permission: the stored refresh token becomes worthless
    #[arg(long)]
    pub revoke: bool,
}

/// Options of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Check under the bare environment that cron gives
    #[arg(long)]
    pub as_cron: bool,
    /// Only what needs no network
    #[arg(long)]
    pub offline: bool,
    /// What `--as-cron` tells the program that it starts: the names of variables that only the user's shell has.
    #[arg(long, hide = true, value_name = "NAMES", conflicts_with = "as_cron")]
    pub of_shell: Option<Names>,
}

/// Names of variables, separated by commas.
#[derive(Clone, Debug)]
pub struct Names(pub Vec<String>);

impl From<String> for Names {
    fn from(text: String) -> Names {
        let names = text.split(',').filter(|name| !name.is_empty());
        Names(names.map(str::to_owned).collect())
    }
}

/// What `schedule` does.
#[derive(Debug, Subcommand)]
pub enum ScheduleCommand {
    /// Print what `install` would write
    Show(ScheduleArgs),
    /// Write it and switch it on; doing so twice changes nothing
    Install(ScheduleArgs),
    /// Take it away without a trace
    Remove(ScheduleRemoveArgs),
    /// Wait at most three minutes until something has set the clock; what the service does first
    #[command(hide = true)]
    AwaitClock,
}

/// Options of `schedule show` and `schedule install`.
#[derive(Debug, Args)]
pub struct ScheduleArgs {
    /// A systemd service and timer [default where systemd runs]
    #[arg(long, conflicts_with = "cron")]
    pub systemd: bool,
    /// A marked block in root's crontab
    #[arg(long)]
    pub cron: bool,
    /// When: in systemd's calendar form or in cron's
    #[arg(long, value_name = "SPEC", default_value = "Wed,Sat 04:00")]
    pub at: String,
    /// When exports of projects start, if any are configured [default: as the runs, an hour later]
    #[arg(long, value_name = "SPEC", conflicts_with = "packaged")]
    pub projects_at: Option<String>,
    /// The program that is started, for whoever builds a package [default: this one]
    #[arg(long, value_name = "FILE", hide = true)]
    pub program: Option<PathBuf>,
    /// The units as a package brings them, for whoever builds one
    #[arg(long, hide = true, conflicts_with = "cron")]
    pub packaged: bool,
}

/// Options of `schedule remove`.
#[derive(Debug, Args)]
pub struct ScheduleRemoveArgs {
    /// Only the systemd units
    #[arg(long, conflicts_with = "cron")]
    pub systemd: bool,
    /// Only the block in root's crontab
    #[arg(long)]
    pub cron: bool,
}

/// Options of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// How old the newest complete backup may be [default: the schedule's interval and a day, or 5d]
    #[arg(long, value_name = "DURATION")]
    pub max_age: Option<Span>,
    /// Ask the destinations instead of trusting the history of this machine
    #[arg(long)]
    pub remote: bool,
    /// Print one line for Nagios and Icinga, and end with 0, 2 or 3
    #[arg(long, conflicts_with = "json")]
    pub nagios: bool,
}

/// What `notify` does.
#[derive(Debug, Subcommand)]
pub enum NotifyCommand {
    /// Send a test message to every configured target
    Test(NotifyTestArgs),
    /// Tell of a run that could not tell itself; called by systemd (`OnFailure=`)
    #[command(hide = true)]
    Crashed(NotifyCrashedArgs),
}

/// Options of `notify crashed`.
#[derive(Debug, Args)]
pub struct NotifyCrashedArgs {
    /// It was an export of projects
    #[arg(long)]
    pub projects: bool,
}

/// Options of `notify test`.
#[derive(Debug, Args)]
pub struct NotifyTestArgs {
    /// What the message tells of
    #[arg(long = "as", value_enum, value_name = "OUTCOME", default_value_t)]
    pub outcome: TestOutcome,
}

/// The outcome a test message tells of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum TestOutcome {
    /// A good run.
    #[default]
    Success,
    /// A failed one.
    Failure,
}

/// Options of `report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Where to; `-` is standard output
    #[arg(long, value_name = "FILE")]
    pub html: PathBuf,
}

/// Options of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// Which shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// Options of `man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// The folder for one page per command [default: print the main page]
    #[arg(value_name = "DIR")]
    pub dir: Option<PathBuf>,
}
