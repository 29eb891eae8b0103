//! `man`

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory as _};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};
use serde::Serialize;

use super::setup::Failure;
use super::{ExitStatus, tell};
use crate::cli::upkeep::ManArgs;
use crate::cli::{Cli, Global, manual};
use crate::report::Status;

/// What `--json` shows.
#[derive(Serialize)]
struct Pages {
    command: &'static str,
    status: Status,
    files: Vec<PathBuf>,
    text: Option<String>,
    error: Option<String>,
}

/// Prints or writes the manual pages.
pub fn run(global: &Global, arguments: &ManArgs) -> Result<ExitStatus, Failure> {
    let mut cli = Cli::command().disable_help_subcommand(true);
    cli.build();
    let mut report = Pages {
        command: "man",
        status: Status::Ok,
        files: Vec::new(),
        text: None,
        error: None,
    };
    let Some(folder) = &arguments.dir else {
        report.text = Some(page(&cli, ""));
        tell(global, &report, || report.text.clone().unwrap_or_default());
        return Ok(0);
    };
    let refused = |path: &Path, error: io::Error| {
        let path = path.display();
        let way_out = "name a folder that may be written to";
        (
            1,
            format!("writing manual pages: {path}: {error}\n  {way_out}"),
        )
    };
    fs::create_dir_all(folder).map_err(|error| refused(folder, error))?;
    for (words, command) in pages("", &cli) {
        let path = folder.join(format!("{}.1", name_of_page(&words)));
        let text = page(command, &words);
        replace(&path, &text).map_err(|error| refused(&path, error))?;
        report.files.push(path);
    }
    tell(global, &report, || {
        let (count, folder) = (report.files.len(), folder.display());
        format!("{count} manual pages are in {folder}: man -l {folder}/gitlab-pi-backup.1\n")
    });
    Ok(0)
}

/// A page that is there makes room for the new one; a link in its place is not followed.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    File::create_new(path)?.write_all(text.as_bytes())
}

/// A command and all below it, each with its words (`schedule install`); the program itself has none.
fn pages<'a>(words: &str, command: &'a Command) -> Vec<(String, &'a Command)> {
    let mut all = vec![(words.to_owned(), command)];
    for below in shown(command) {
        all.extend(pages(format!("{words} {}", below.get_name()).trim(), below));
    }
    all
}

/// The commands below this one that people are told of.
fn shown(command: &Command) -> impl Iterator<Item = &Command> {
    let below = command.get_subcommands();
    below.filter(|below| !below.is_hide_set())
}

fn name_of_page(words: &str) -> String {
    let words = ["gitlab-pi-backup"]
        .into_iter()
        .chain(words.split_whitespace());
    words.collect::<Vec<_>>().join("-")
}

/// The page of a command, with its words; without a date, so that it is the same whenever it is made.
fn page(command: &Command, words: &str) -> String {
    let section = |arg: clap::Arg| {
        if arg.is_global_set() {
            arg.help_heading("Options of every command")
        } else {
            arg
        }
    };
    let mut command = command.clone().display_name(name_of_page(words));
    if !words.is_empty() {
        command = command.mut_args(section);
    }
    let generator = Man::new(command.clone());
    let mut text = Vec::new();
    let written = title(words, &mut text)
        .and_then(|()| generator.render_name_section(&mut text))
        .and_then(|()| synopsis(&command).to_writer(&mut text))
        .and_then(|()| generator.render_description_section(&mut text))
        .and_then(|()| generator.render_options_section(&mut text))
        .and_then(|()| {
            if command.has_subcommands() {
                generator.render_subcommands_section(&mut text)?;
            }
            Ok(())
        })
        .and_then(|()| more(&command, words).to_writer(&mut text));
    written.expect("memory takes everything");
    let text = String::from_utf8_lossy(&text).into_owned();
    // How the generator parts help from values; mandoc takes it for a mistake.
    text.replace(".br\n\n.br\n", ".sp\n")
}

/// By hand, as the generator leaves an empty date out, and what follows moves up. The manual has no name, for which a line
/// of eighty characters has no room between the longest titles.
fn title(words: &str, page: &mut Vec<u8>) -> io::Result<()> {
    let name = name_of_page(words).to_uppercase();
    let version = env!("CARGO_PKG_VERSION");
    writeln!(
        page,
        r#".TH "{name}" "1" "" "gitlab-pi-backup {version}" " ""#
    )
}

/// As `--help` begins; the generator's own names every option a second time.
fn synopsis(command: &Command) -> Roff {
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ");
    let name = command.get_bin_name().unwrap_or_default();
    let mut page = Roff::new();
    page.control("SH", ["SYNOPSIS"]);
    page.text([bold(name), roman(usage.strip_prefix(name).unwrap_or(usage))]);
    page
}

/// What is not told by options.
fn more(command: &Command, words: &str) -> Roff {
    let mut page = Roff::new();
    let told = manual::of(words);
    let examples = told.map_or(&[][..], |told| told.examples);
    if !examples.is_empty() {
        page.control("SH", ["EXAMPLES"]);
    }
    for (arguments, what) in examples {
        page.control("TP", []);
        page.text([bold(format!("gitlab-pi-backup {arguments}"))]);
        page.text([roman(*what)]);
    }
    page.control("SH", ["EXIT STATUS"]);
    let mut status = "";
    for exit in manual::exits(words) {
        if exit.status == status {
            page.control("br", []);
        } else {
            page.control("TP", []);
            page.text([bold(exit.status)]);
            status = exit.status;
        }
        let of = match exit.of {
            of if words.is_empty() && !of.is_empty() => format!("{}: ", of.join(", ")),
            _ => String::new(),
        };
        page.text([roman(of + exit.meaning)]);
    }
    if words.is_empty() {
        page.control("SH", ["ENVIRONMENT"]);
        for (variables, what) in manual::VARIABLES {
            page.control("TP", []);
            page.text([bold(*variables)]);
            page.text([roman(*what)]);
        }
        page.control("SH", ["FILES"]);
        for (path, what) in manual::FILES {
            page.control("TP", []);
            page.text([italic(*path)]);
            page.text([roman(*what)]);
        }
    }
    page.control("SH", ["SEE ALSO"]);
    let below = shown(command).map(|below| format!("{words} {}", below.get_name()));
    let related = told.map_or(&[][..], |told| told.see_also);
    let main = Some("gitlab-pi-backup(1)").filter(|_| !words.is_empty());
    let ours = |words: &str| format!("{}(1)", name_of_page(words));
    let related = related.iter().map(|page| match page.strip_suffix(')') {
        Some(_) => (*page).to_owned(),
        None => ours(page),
    });
    let main = main.map(str::to_owned).into_iter();
    let pages: Vec<_> = main
        .chain(below.map(|words| ours(&words)))
        .chain(related)
        .collect();
    for (at, page_of) in pages.iter().enumerate() {
        let (name, section) = page_of.split_once('(').unwrap_or((page_of, ""));
        let comma = if at + 1 < pages.len() { "," } else { "" };
        page.text([bold(name), roman(format!("({section}{comma}"))]);
    }
    page
}
