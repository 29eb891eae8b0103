//! The command line.

pub mod export;
pub mod manual;
pub mod upkeep;

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use crate::archive::ArchiveKind;
use crate::cli::export::ExportCommand;
use crate::cli::upkeep::{
    CompletionsArgs, DoctorArgs, LoginArgs, ManArgs, NotifyCommand, ReportArgs, ScheduleCommand,
    StatusArgs,
};
use crate::units::Span;

/// Verified backups of a self-hosted GitLab, brought to Dropbox
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 100,
    arg_required_else_help = true,
    long_about = manual::begin("", None),
    after_long_help = manual::end(""),
    mut_subcommands(manual::explain)
)]
pub struct Cli {
    /// What is asked of every command.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Global {
    /// The configuration file.
    #[arg(
        short,
        long,
        global = true,
        value_name = "FILE",
        help = "The configuration file [default: $GITLAB_PI_BACKUP_CONFIG, then /etc/gitlab-pi-backup/config.toml]"
    )]
    pub config: Option<PathBuf>,
    /// Tell more; twice for everything
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,
    /// Print nothing but errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Print the result as one JSON document
    #[arg(long, global = true)]
    pub json: bool,
    /// How log lines are written
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT"
    )]
    pub log_format: LogFormat,
    /// Show no progress bar
    #[arg(long, global = true)]
    pub no_progress: bool,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object a line.
    Json,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make the GitLab backups and bring them to every destination
    Run(RunArgs),
    /// Show all backups, on this machine and at the destinations
    List(ListArgs),
    /// Check that every stored archive is there, of the right size and hash, by metadata alone
    Verify(VerifyArgs),
    /// Read a whole backup and prove that it would restore
    Rehearse(RehearseArgs),
    /// Delete old backups as the configuration says
    Prune(PruneArgs),
    /// Fetch a stored backup, prove it and put it where GitLab looks for it
    Restore(RestoreArgs),
    /// Bring one project's repositories out of a stored backup
    Extract(ExtractArgs),
    /// Send what complete local backups a destination still lacks
    Sync(SyncArgs),
    /// Export projects by GitLab's API
    #[command(subcommand)]
    Export(ExportCommand),
    /// Obtain a Dropbox refresh token, and write a first configuration
    Login(LoginArgs),
    /// Check everything a run needs, one line and one hint per check
    Doctor(DoctorArgs),
    /// Show, install or remove what starts runs by itself
    #[command(subcommand)]
    Schedule(ScheduleCommand),
    /// Tell whether the newest backup is complete and fresh, for monitoring
    Status(StatusArgs),
    /// Try the notifications
    #[command(subcommand)]
    Notify(NotifyCommand),
    /// Write the report page
    Report(ReportArgs),
    /// Print completions for a shell
    Completions(CompletionsArgs),
    /// Print the manual page, or write all of them into a folder
    Man(ManArgs),
}

impl Command {
    /// Its name, for reports.
    pub fn name(&self) -> &'static str {
        match self {
            Command::Run(_) => "run",
            Command::List(_) => "list",
            Command::Verify(_) => "verify",
            Command::Rehearse(_) => "rehearse",
            Command::Prune(_) => "prune",
            Command::Restore(_) => "restore",
            Command::Extract(_) => "extract",
            Command::Sync(_) => "sync",
            Command::Export(ExportCommand::Projects(_)) => "export projects",
            Command::Login(_) => "login",
            Command::Doctor(_) => "doctor",
            Command::Schedule(_) => "schedule",
            Command::Status(_) => "status",
            Command::Notify(_) => "notify",
            Command::Report(_) => "report",
            Command::Completions(_) => "completions",
            Command::Man(_) => "man",
        }
    }
}

/// Options of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Tell what `run --skip-create` would upload, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Make no new backups; send the newest ones that are here
    #[arg(long)]
    pub skip_create: bool,
    /// Make and send only this kind (may be given twice)
    #[arg(long, value_name = "KIND", value_parser = kind)]
    pub only: Vec<ArchiveKind>,
    /// Send only to this destination (may be given several times)
    #[arg(long, value_name = "NAME")]
    pub destination: Vec<String>,
    /// Delete nothing at the end, whatever the configuration says
    #[arg(long)]
    pub no_prune: bool,
    /// Wait so long for another run to end, e.g. 30m
    #[arg(long, value_name = "DURATION")]
    pub wait: Option<Span>,
}

/// Options of `list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only what is on this machine; asks no destination
    #[arg(long, conflicts_with = "destination")]
    pub local: bool,
    /// Only what is at this destination (may be given several times)
    #[arg(long, value_name = "NAME")]
    pub destination: Vec<String>,
}

/// Options of `rehearse`.
#[derive(Debug, Args)]
pub struct RehearseArgs {
    /// A backup ID, or `latest` for the newest complete backup
    #[arg(value_name = "BACKUP", default_value = "latest")]
    pub backup: Option<String>,
    /// Read it from this machine's disk
    #[arg(long, conflicts_with = "destination")]
    pub local: bool,
    /// Read it from this destination [default: the first one that has it]
    #[arg(long, value_name = "NAME")]
    pub destination: Option<String>,
    /// A file with the age identity that opens encrypted archives
    #[arg(long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
    /// Let git check every bundle, too
    #[arg(long, requires = "scratch")]
    pub git: bool,
    /// A folder for the repositories that git checks, one at a time
    #[arg(long, value_name = "DIR", requires = "git")]
    pub scratch: Option<PathBuf>,
}

/// Options of `extract`.
#[derive(Debug, Args)]
pub struct ExtractArgs {
    /// A project's path, like group/app, or the hashed path of its repository
    #[arg(value_name = "PROJECT", required_unless_present = "list")]
    pub project: Option<String>,
    /// A backup ID, or `latest` for the newest complete backup
    #[arg(value_name = "BACKUP", default_value = "latest")]
    pub backup: Option<String>,
    /// The folder the repositories are made in
    #[arg(long, value_name = "DIR", required_unless_present = "list")]
    pub to: Option<PathBuf>,
    /// Show what can be had, and fetch nothing
    #[arg(long, conflicts_with = "to")]
    pub list: bool,
    /// Read it from this destination [default: the first one that has it]
    #[arg(long, value_name = "NAME")]
    pub destination: Option<String>,
    /// A file with the age identity that opens encrypted archives
    #[arg(long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
}

/// Options of `sync`.
#[derive(Debug, Args)]
pub struct SyncArgs {
    /// Only this destination (may be given several times)
    #[arg(long, value_name = "NAME")]
    pub destination: Vec<String>,
    /// Wait so long for another run to end, e.g. 30m
    #[arg(long, value_name = "DURATION")]
    pub wait: Option<Span>,
}

/// Options of `prune`.
#[derive(Debug, Args)]
pub struct PruneArgs {
    /// Show what would be deleted, and why, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Only at this destination (may be given several times)
    #[arg(long, value_name = "NAME")]
    pub destination: Vec<String>,
    /// Say that what has shrunk is right, and prune again
    #[arg(long)]
    pub accept_shrink: bool,
    /// Wait so long for another run to end, e.g. 30m
    #[arg(long, value_name = "DURATION")]
    pub wait: Option<Span>,
}

/// Options of `verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// A backup ID, or `latest` for the newest complete backup [default: all]
    #[arg(value_name = "BACKUP")]
    pub backup: Option<String>,
    /// Only what is at this destination (may be given several times)
    #[arg(long, value_name = "NAME")]
    pub destination: Vec<String>,
}

/// Options of `restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// A backup ID, or `latest`: the newest complete one; with `--project` the time of an export, like 2026-11-22-04-00-00
    #[arg(value_name = "BACKUP")]
    pub backup: Option<String>,
    /// Import the stored export of this project into GitLab, where nothing has its path
    #[arg(long, value_name = "PATH", value_parser = project_path, conflicts_with_all = ["to", "only", "plan", "apply", "yes"])]
    pub project: Option<String>,
    /// The path that the project gets [default: the one it had]
    #[arg(long = "as", value_name = "NEW/PATH", value_parser = new_project_path, requires = "project")]
    pub new_path: Option<String>,
    /// Put the archives into this folder instead of GitLab's own
    #[arg(long, value_name = "DIR")]
    pub to: Option<PathBuf>,
    /// Fetch only this kind
    #[arg(long, value_name = "KIND", value_parser = kind, conflicts_with = "plan")]
    pub only: Option<ArchiveKind>,
    /// Fetch from this destination
    #[arg(long, value_name = "NAME")]
    pub destination: Option<String>,
    /// A file with the age identity that opens encrypted archives
    #[arg(long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
    /// Tell every step back to a running GitLab, and fetch nothing
    #[arg(long)]
    pub plan: bool,
    /// Put the backup back into GitLab, step by step: its configuration and its data are replaced
    #[arg(long, conflicts_with_all = ["plan", "to", "only"])]
    pub apply: bool,
    /// Do not ask before each step
    #[arg(long, requires = "apply", conflicts_with = "plan")]
    pub yes: bool,
    /// Wait so long for another run to end, e.g. 30m
    #[arg(long, value_name = "DURATION", conflicts_with = "plan")]
    pub wait: Option<Span>,
}

/// A project's path: at least one group, or a user, and a name. What else GitLab refuses is for GitLab to tell.
fn project_path(text: &str) -> Result<String, String> {
    let wrong = || "takes a project's path with its groups, like `group/app`".to_owned();
    let path = text.trim_matches('/');
    let bad = |part: &str| {
        part.is_empty() || part == "." || part == ".." || part.chars().any(char::is_control)
    };
    if !path.contains('/') || path.split('/').any(bad) || text.contains("://") {
        return Err(wrong());
    }
    Ok(path.to_owned())
}

/// A path that GitLab can give to a project (<https://docs.gitlab.com/user/reserved_names/>); which names it keeps for
/// itself it tells.
fn new_project_path(text: &str) -> Result<String, String> {
    let path = project_path(text)?;
    let is_right = |part: &str| {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        part.starts_with(word) && part.chars().all(|c| word(c) || c == '-' || c == '.')
    };
    if !path.split('/').all(is_right) || [".git", ".atom"].iter().any(|end| path.ends_with(end)) {
        return Err(
            "takes a path that GitLab can have, like `group/app`: letters, digits, `_`, `-` and `.`, none of the \
             last two at the beginning, and no `.git` or `.atom` at the end"
                .to_owned(),
        );
    }
    Ok(path)
}

fn kind(text: &str) -> Result<ArchiveKind, String> {
    ArchiveKind::ALL
        .into_iter()
        .find(|kind| kind.as_str() == text)
        .ok_or_else(|| "takes `config` or `data`".to_owned())
}
