//! What packagers ask for: manual pages and completions. They are checked by the programs that read them, where those
//! are here.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::CommandFactory as _;
use gitlab_pi_backup::cli::{Cli, manual};
use serde_json::{Value, json};
use support::host::{Ended, Host};

const PROGRAM: &str = env!("CARGO_BIN_EXE_gitlab-pi-backup");
const README: &str = include_str!("../README.md");

/// A machine without a configuration: none is needed.
fn bare() -> Host {
    Host::without_config(PROGRAM)
}

/// Whether this foreign program is here; else that is said.
fn has(program: &str) -> bool {
    let found = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .output();
    // mandoc knows no --version, but it is there.
    if found.is_ok_and(|found| program == "mandoc" || found.status.success()) {
        return true;
    }
    let told = writeln!(io::stderr(), "skipped: there is no `{program}` here");
    told.expect("standard error");
    false
}

/// What a foreign program said of a file.
fn ask(program: &str, arguments: &[&str], file: &Path) -> Ended {
    let ended = Command::new(program).args(arguments).arg(file).output();
    ended.expect("it was found").into()
}

/// All commands with their words, and the program itself with none.
fn commands() -> Vec<(String, clap::Command)> {
    let mut cli = Cli::command().disable_help_subcommand(true);
    cli.build();
    let mut all = vec![(String::new(), cli)];
    let mut at = 0;
    while at < all.len() {
        let (above, command) = all[at].clone();
        let below = command
            .get_subcommands()
            .filter(|below| !below.is_hide_set())
            .cloned();
        all.extend(
            below.map(|below| (format!("{above} {}", below.get_name()).trim().into(), below)),
        );
        at += 1;
    }
    all
}

fn page_of(words: &str) -> String {
    let words: Vec<_> = ["gitlab-pi-backup"]
        .into_iter()
        .chain(words.split_whitespace())
        .collect();
    words.join("-") + ".1"
}

/// A page for everybody, without what only `man` understands.
fn plain(page: &str) -> String {
    let page = page.replace("\\-", "-").replace("\\*(Aq", "'");
    ["\\fB", "\\fI", "\\fR"]
        .iter()
        .fold(page, |page, font| page.replace(font, ""))
}

/// The folder with all pages, and what the program said.
fn written(host: &Host) -> (PathBuf, Ended) {
    let folder = host.path("share/man/man1");
    let ended = host.run(&format!("man {}", folder.display()));
    (folder, ended)
}

#[test]
fn there_is_a_page_for_every_command_with_everything_that_help_tells() {
    let host = bare();
    let (folder, ended) = written(&host);
    assert_eq!((ended.status, ended.err.as_str()), (Some(0), ""), "{ended}");
    let names: BTreeSet<_> = fs::read_dir(&folder)
        .expect("the folder")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .into_string()
                .expect("text")
        })
        .collect();
    let expected: BTreeSet<_> = commands().iter().map(|(words, _)| page_of(words)).collect();
    assert_eq!(names, expected);
    let count = names.len();
    let folder_name = folder.display();
    assert_eq!(
        ended.out,
        format!(
            "{count} manual pages are in {folder_name}: man -l {folder_name}/gitlab-pi-backup.1\n"
        )
    );
    for (words, command) in commands() {
        let page = fs::read_to_string(folder.join(page_of(&words))).expect("a page");
        let page = plain(&page);
        let version = env!("CARGO_PKG_VERSION");
        let name = page_of(&words).trim_end_matches(".1").to_owned();
        let title = format!(
            ".TH \"{}\" \"1\" \"\" \"gitlab-pi-backup {version}\"",
            name.to_uppercase()
        );
        let about = command.get_about().expect("it is told").to_string();
        let usage = command.clone().render_usage().to_string();
        let mut parts = vec![
            title,
            format!(".SH NAME\n{name} - {about}\n"),
            format!(".SH SYNOPSIS\n{}\n", usage.trim_start_matches("Usage: ")),
            ".SH DESCRIPTION\n".to_owned(),
            ".SH OPTIONS\n".to_owned(),
            ".SH \"EXIT STATUS\"\n".to_owned(),
            ".SH \"SEE ALSO\"\n".to_owned(),
        ];
        for argument in command
            .get_arguments()
            .filter(|argument| !argument.is_hide_set())
        {
            parts.extend(argument.get_long().map(|long| format!("--{long}")));
            let help = argument.get_help().map(ToString::to_string);
            // That of `--help` itself says how to see more or less.
            parts.extend(help.filter(|_| argument.get_id() != "help"));
        }
        for below in command
            .get_subcommands()
            .filter(|below| !below.is_hide_set())
        {
            parts.push(format!("{name}-{}(1)", below.get_name()));
        }
        let told = manual::of(&words).expect("it is told");
        parts.extend(told.text.iter().map(ToString::to_string));
        for (arguments, what) in told.examples {
            parts.push(format!(".TP\ngitlab-pi-backup {arguments}\n{what}\n"));
        }
        if words.is_empty() {
            parts.extend([".SH ENVIRONMENT\n".to_owned(), ".SH FILES\n".to_owned()]);
        }
        for part in parts {
            assert!(page.contains(&part), "{name}: {part}\n{page}");
        }
    }
    assert_eq!(
        host.run("man").out,
        fs::read_to_string(folder.join("gitlab-pi-backup.1")).expect("the main page")
    );
}

#[test]
fn pages_are_the_same_whenever_they_are_made() {
    let (one, other) = (bare(), bare());
    let (first, second) = (written(&one).0, written(&other).0);
    for (words, _) in commands() {
        let read = |folder: &Path| fs::read(folder.join(page_of(&words))).expect("a page");
        assert_eq!(read(&first), read(&second));
    }
    // And where some are already; what a link leads to is left alone.
    let page = first.join(page_of("run"));
    let (own, precious) = (fs::read(&page).expect("a page"), one.path("precious"));
    fs::write(&precious, "precious").expect("a file");
    fs::remove_file(&page).expect("removed");
    symlink(&precious, &page).expect("a link");
    let (_, ended) = written(&one);
    assert_eq!(ended.status, Some(0), "{ended}");
    assert_eq!(fs::read(&page).expect("a page"), own);
    assert_eq!(fs::read(&precious).expect("a file"), b"precious");
}

/// `man` and `mandoc` read them without a word.
#[test]
fn pages_are_what_their_readers_expect() {
    let host = bare();
    let (folder, _) = written(&host);
    let (man, mandoc) = (has("man"), has("mandoc"));
    for (words, _) in commands() {
        let page = folder.join(page_of(&words));
        if man {
            let ended = ask("man", &["--warnings", "-EUTF-8", "-Tutf8", "-l"], &page);
            assert_eq!((ended.status, ended.err.as_str()), (Some(0), ""), "{ended}");
            assert!(ended.out.contains("gitlab-pi-backup"), "{ended}");
        }
        if mandoc {
            let ended = ask("mandoc", &["-T", "lint", "-W", "warning"], &page);
            let complaints: Vec<_> = ended
                .out
                .lines()
                // There is none, so that pages are the same whenever they are made.
                .filter(|line| !line.contains("missing date"))
                .collect();
            assert!(complaints.is_empty(), "{complaints:?}");
        }
    }
}

#[test]
fn completions_are_what_the_shells_understand() {
    let host = bare();
    for (shell, check) in [("bash", "-n"), ("zsh", "-n"), ("fish", "--no-execute")] {
        let ended = host.run(&format!("completions {shell}"));
        assert_eq!((ended.status, ended.err.as_str()), (Some(0), ""), "{ended}");
        for part in ["skip-create", "rehearse", "install"] {
            assert!(ended.out.contains(part), "{shell}: {part}");
        }
        if !has(shell) {
            continue;
        }
        let file = host.path(shell);
        fs::write(&file, &ended.out).expect("a file");
        let said = ask(shell, &[check], &file);
        assert_eq!((said.status, said.err.as_str()), (Some(0), ""), "{said}");
    }
    for shell in ["elvish", "powershell"] {
        let ended = host.run(&format!("completions {shell}"));
        assert_eq!(ended.status, Some(0), "{ended}");
        assert!(ended.out.contains("skip-create"), "{shell}");
    }
}

/// What bash offers after the Tab key.
#[test]
fn bash_completes() {
    if !has("bash") {
        return;
    }
    let host = bare();
    let script = host.path("completions");
    fs::write(&script, host.run("completions bash").out).expect("a file");
    for (line, expected) in [
        ("gitlab-pi-backup reh", "rehearse"),
        ("gitlab-pi-backup schedule in", "install"),
        ("gitlab-pi-backup run --skip", "--skip-create"),
        ("gitlab-pi-backup --log-format j", "json"),
    ] {
        let offered = Command::new("bash")
            .args(["--norc", "-c"])
            .arg(
                r#". "$1"; read -ra COMP_WORDS <<<"$2"; COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
                   _gitlab__pi__backup gitlab-pi-backup "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
                   printf '%s\n' "${COMPREPLY[@]}""#,
            )
            .args(["bash".as_ref(), script.as_os_str(), line.as_ref()])
            .output();
        let offered = Ended::from(offered.expect("bash"));
        assert_eq!(offered.out.trim(), expected, "{line}: {offered}");
    }
}

#[test]
fn results_as_json() {
    let host = bare();
    let (folder, _) = written(&host);
    let document = host.run("man --json").json();
    let page = fs::read_to_string(folder.join("gitlab-pi-backup.1")).expect("a page");
    assert_eq!(
        document,
        json!({ "command": "man", "status": "ok", "files": [], "text": page, "error": null })
    );
    let document = host.run(&format!("man {} --json", folder.display())).json();
    let files = document["files"].as_array().expect("a list");
    let mut expected: Vec<_> = commands()
        .iter()
        .map(|(words, _)| folder.join(page_of(words)).display().to_string())
        .collect();
    let mut files: Vec<_> = files.iter().filter_map(Value::as_str).collect();
    files.sort_unstable();
    expected.sort_unstable();
    assert_eq!(files, expected);
    assert_eq!(
        (&document["text"], &document["status"]),
        (&Value::Null, &json!("ok"))
    );
    let document = host.run("completions zsh --json").json();
    let text = host.run("completions zsh").out;
    assert_eq!(
        document,
        json!({ "command": "completions", "status": "ok", "shell": "zsh", "text": text, "error": null })
    );
    assert_eq!(host.run("man -q").out, "");
}

#[test]
fn what_cannot_be_written_or_is_not_known_is_said() {
    let host = bare();
    fs::write(host.path("file"), "").expect("a file");
    fs::create_dir_all(host.path("full/gitlab-pi-backup.1/x")).expect("a folder");
    let (file, full) = (host.path("file"), host.path("full"));
    let (file, full) = (file.display(), full.display());
    let way_out = "\n  name a folder that may be written to\n";
    for (arguments, status, message) in [
        (
            format!("man {file}"),
            1,
            format!("error: writing manual pages: {file}: File exists (os error 17){way_out}"),
        ),
        (
            format!("man {file}/man1"),
            1,
            format!(
                "error: writing manual pages: {file}/man1: Not a directory (os error 20){way_out}"
            ),
        ),
        (
            format!("man {full}"),
            1,
            format!(
                "error: writing manual pages: {full}/gitlab-pi-backup.1: Is a directory (os error 21){way_out}"
            ),
        ),
    ] {
        let ended = host.run(&arguments);
        assert_eq!(
            (ended.status, &ended.err),
            (Some(status), &message),
            "{arguments}"
        );
        let document = host.run(&format!("{arguments} --json")).json();
        assert_eq!(
            (&document["command"], &document["status"]),
            (&json!("man"), &json!("failed"))
        );
    }
    for (arguments, part) in [
        ("completions", "<SHELL>"),
        (
            "completions cmd",
            "[possible values: bash, elvish, fish, powershell, zsh]",
        ),
        ("man one two", "unexpected argument 'two'"),
    ] {
        let ended = host.run(arguments);
        assert_eq!((ended.status, ended.out.as_str()), (Some(2), ""), "{ended}");
        assert!(ended.err.contains(part), "{ended}");
    }
}

/// Nobody reads to the end: `gitlab-pi-backup man | head -n 1`.
#[test]
fn a_closed_or_full_output_is_no_panic() {
    let host = bare();
    for arguments in ["man", "completions bash", "man --json", "run --help"] {
        for name in ["full", "closed"] {
            let output = match name {
                "full" => fs::File::create("/dev/full").expect("/dev/full").into(),
                _ => Stdio::from(io::pipe().expect("a pipe").1),
            };
            let mut command = host.command(arguments);
            let child = command.stdout(output).stderr(Stdio::piped()).spawn();
            drop(command);
            let ended = child.expect("started").wait_with_output().expect("ended");
            let ended = Ended::from(ended);
            assert_eq!(
                (ended.status, ended.err.as_str()),
                (Some(0), ""),
                "{arguments} {name}: {ended}"
            );
        }
    }
}

/// The rows of the README's table of exit statuses: each status, and the first words of the commands (none: all).
fn readme_exits() -> BTreeSet<(String, Vec<String>)> {
    let rows = README.lines().map(str::trim);
    let rows = rows
        .skip_while(|line| !line.starts_with("| exit status |"))
        .skip(2);
    let mut statuses = String::new();
    let mut found = BTreeSet::new();
    for line in rows.take_while(|line| line.starts_with('|')) {
        let mut cells = line.split('|').skip(1).map(str::trim);
        match cells.next() {
            Some("") | None => {}
            Some(own) => own.clone_into(&mut statuses),
        }
        let of = cells.next().unwrap_or_default().split('`');
        let of = of.skip(1).step_by(2);
        let of: Vec<_> = of
            .filter_map(|words| words.split(' ').next().map(str::to_owned))
            .collect();
        found.extend(
            statuses
                .split(", ")
                .map(|status| (status.to_owned(), of.clone())),
        );
    }
    found
}

/// The README and the manual pages tell of the same statuses of every command.
#[test]
fn exit_statuses_are_those_of_the_readme() {
    let rows = readme_exits();
    assert!(rows.len() > 9, "{rows:?}");
    let told = |family: &str| README.contains(&format!("\n| `{family}"));
    for (words, _) in commands().iter().filter(|(words, _)| !words.is_empty()) {
        let family = words.split(' ').next().unwrap_or_default().to_owned();
        // A command that the README does not tell of at all is found by another test.
        if !told(&family) {
            continue;
        }
        let told: BTreeSet<_> = rows
            .iter()
            .filter(|(_, of)| of.is_empty() || of.contains(&family))
            .map(|(status, _)| status.as_str())
            .collect();
        let own = manual::exits(words).flat_map(|exit| exit.status.split(", "));
        let own: BTreeSet<_> = own.collect();
        assert_eq!(own, told, "{words}");
    }
}
