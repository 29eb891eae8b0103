//! The arguments of the commands that export what GitLab's API gives.

use clap::{Args, Subcommand};

use crate::units::Span;

/// What is exported.
#[derive(Debug, Subcommand)]
pub enum ExportCommand {
    /// Let GitLab export every selected project, and bring the exports to their destination
    Projects(ExportProjectsArgs),
}

/// Options of `export projects`.
#[derive(Debug, Args)]
pub struct ExportProjectsArgs {
    /// Tell what would be exported and where to, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Wait so long for another run to end, e.g. 30m
    #[arg(long, value_name = "DURATION")]
    pub wait: Option<Span>,
}
