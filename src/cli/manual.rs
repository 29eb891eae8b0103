//! What `--help` and the manual pages tell of a command beyond its options: more than one sentence, examples, exit
//! statuses. The main page also tells of files and variables.

mod commands;

use std::fmt::Write as _;

use clap::Command;

pub use self::commands::COMMANDS;
use crate::config::DEFAULT_PATH;

/// What is told of one command.
pub struct Told {
    /// Its words: `schedule install`.
    pub command: &'static str,
    /// Paragraphs.
    pub text: &'static [&'static str],
    /// Arguments of the program, and what they do.
    pub examples: &'static [(&'static str, &'static str)],
    /// Pages that say more: a command of ours, or a foreign page with its section.
    pub see_also: &'static [&'static str],
}

/// What an exit status means.
pub struct Exit {
    /// The status, or several.
    pub status: &'static str,
    /// Of which commands; none: of all that have no meaning of their own for it.
    pub of: &'static [&'static str],
    /// In words.
    pub meaning: &'static str,
}

/// All exit statuses, in order.
pub const EXITS: &[Exit] = &[
    told(
        "0",
        &[],
        "all done and verified; a dry run: also if nothing is to do",
    ),
    told("0", &["status"], "the newest backup is complete and fresh"),
    told("0", &["doctor"], "every check passed"),
    told("0", &["man", "completions", "report"], "written"),
    told(
        "1",
        &["run"],
        "failed: a command of GitLab's or of `hooks.before` failed, an archive is doubtful, or nothing holds a whole backup",
    ),
    told("1", &["list"], "no destination could be asked"),
    told(
        "1",
        &["verify"],
        "something is missing or wrong, or a destination could not be asked",
    ),
    told(
        "1",
        &["rehearse"],
        "it would not restore, or it could not be read to its end",
    ),
    told(
        "1",
        &["sync"],
        "no destination could be brought up to date, or the archives of this machine could not be looked at",
    ),
    told(
        "1",
        &["restore"],
        "failed; no archive that is not the stored one got a name, and the same command goes on from there",
    ),
    told(
        "1",
        &["extract"],
        "failed; nothing was made under its final name",
    ),
    told(
        "1",
        &["export"],
        "nothing could be exported: GitLab or the destination does not answer, the token is refused, or every project failed or was skipped",
    ),
    told(
        "1",
        &["status"],
        "the newest backup is late or not complete, the last run failed, or it could not be looked at",
    ),
    told(
        "1",
        &["doctor"],
        "a check failed; also if what fails is that the configuration is wrong or missing",
    ),
    told(
        "1",
        &["login"],
        "Dropbox refused, the token lacks a right, no code was given, or it could not be stored",
    ),
    told(
        "1",
        &["schedule"],
        "it could not be done; what was begun is taken back",
    ),
    told(
        "1",
        &["report", "man"],
        "what is to be written could not be",
    ),
    told(
        "2",
        &[],
        "the arguments or the configuration are wrong; nothing was done",
    ),
    told(
        "2",
        &["doctor"],
        "the arguments are wrong; nothing was done",
    ),
    told(
        "2",
        &["notify"],
        "the arguments or the configuration are wrong, or its [notify] names nobody; nothing was done",
    ),
    told(
        "2",
        &["status"],
        "the arguments or the configuration are wrong; with --nagios: critical",
    ),
    told(
        "2",
        &["prune"],
        "the arguments or the configuration are wrong, or it has no [retention]; nothing was done",
    ),
    told(
        "3",
        &["run"],
        "done in part: one destination holds everything, another does not; or a part of GitLab has shrunk; or a command of `hooks.after` failed",
    ),
    told(
        "3",
        &["list"],
        "some destinations could not be asked; the others are shown",
    ),
    told(
        "3",
        &["sync"],
        "one destination could be brought up to date, another not",
    ),
    told(
        "3",
        &["restore"],
        "with --project: GitLab has imported the project, but for some of its relations",
    ),
    told(
        "3",
        &["prune"],
        "not all of it could be done, or it was refused",
    ),
    told(
        "3",
        &["status"],
        "only with --nagios: unknown, as the configuration, the history or a destination could not be read",
    ),
    told(
        "3",
        &["export"],
        "some projects failed, or a group is not there; the others are stored",
    ),
    told("3", &["notify"], "somebody could not be told"),
    told(
        "4",
        &["run", "sync", "prune", "restore", "export"],
        "another run holds the lock",
    ),
    told(
        "129, 130, 143",
        &[],
        "stopped by SIGHUP, Ctrl-C, SIGTERM; what was done is kept, and the next call goes on",
    ),
];

const fn told(status: &'static str, of: &'static [&'static str], meaning: &'static str) -> Exit {
    Exit {
        status,
        of,
        meaning,
    }
}

/// Files, and what they are.
pub const FILES: &[(&str, &str)] = &[
    (
        DEFAULT_PATH,
        "the configuration; refused if it holds secrets and others can read it",
    ),
    (
        "/etc/gitlab-pi-backup/NAME.token",
        "the refresh token of the destination NAME, unless the configuration says otherwise",
    ),
    (
        "/var/lib/gitlab-pi-backup/",
        "the lock, the journals of unfinished uploads, and the history; `state_dir` of the configuration",
    ),
    (
        "/usr/share/doc/gitlab-pi-backup/examples/config.example.toml",
        "every setting with its default (Debian package)",
    ),
];

/// Variables of the environment, and what they do.
pub const VARIABLES: &[(&str, &str)] = &[
    (
        "GITLAB_PI_BACKUP_CONFIG",
        "the configuration, where -c names none",
    ),
    (
        "GITLAB_PI_BACKUP_…",
        "any setting: its path in capitals, parts joined by two underscores, for instance \
         GITLAB_PI_BACKUP_UPLOAD__CHUNK_SIZE; it beats the file",
    ),
    (
        "GITLAB_TOKEN, GITLAB_OAUTH, GITLAB_URL, GROUPS_TO_BACKUP",
        "`gitlab.token`, `gitlab.url` and `projects.groups`, where these are absent",
    ),
    (
        "AWS_S3_BUCKET, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY",
        "where the exports of projects go, for `export projects` where there is no configuration",
    ),
    (
        "CREDENTIALS_DIRECTORY",
        "credentials of a systemd unit; one that is named like a setting is its value, and beats the file",
    ),
    (
        "HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY",
        "the way to the network",
    ),
    (
        "SSL_CERT_FILE, SSL_CERT_DIR",
        "certificates that are trusted instead of the system's",
    ),
];

/// What is told of a command, by its words.
pub fn of(command: &str) -> Option<&'static Told> {
    COMMANDS.iter().find(|told| told.command == command)
}

/// The exit statuses of a command, by its words; of the whole program for none.
pub fn exits(command: &str) -> impl Iterator<Item = &'static Exit> {
    let family = command.split(' ').next().unwrap_or_default();
    let own = move |exit: &Exit| exit.of.contains(&family);
    EXITS.iter().filter(move |exit| {
        family.is_empty()
            || own(exit)
            || exit.of.is_empty()
                && !EXITS
                    .iter()
                    .any(|other| own(other) && other.status == exit.status)
    })
}

/// What `--help` begins with; `about` is how `-h` does.
pub fn begin(words: &str, about: Option<&str>) -> String {
    let text = of(words).map_or(&[][..], |told| told.text);
    let paragraphs: Vec<_> = about.into_iter().chain(text.iter().copied()).collect();
    paragraphs.join("\n\n")
}

/// What `--help` ends with.
pub fn end(words: &str) -> String {
    let mut text = String::new();
    let mut line = |first: &str, second: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {first}\n          {second}");
    };
    let examples = of(words).map_or(&[][..], |told| told.examples);
    for (arguments, what) in examples {
        line(&format!("gitlab-pi-backup {arguments}"), what);
    }
    if words.is_empty() {
        return format!(
            "Examples:\n{text}\n`gitlab-pi-backup COMMAND --help` tells more of a command, and its exit statuses"
        );
    }
    let mut examples = String::new();
    if !text.is_empty() {
        examples = format!("Examples:\n{}\n", std::mem::take(&mut text));
    }
    for exit in exits(words) {
        let _ = writeln!(text, "  {}\n          {}", exit.status, exit.meaning);
    }
    format!("{examples}Exit status:\n{text}")
}

/// Puts what is told of a command, and of those below it, into its `--help`; `-h` stays short.
pub fn explain(command: Command) -> Command {
    explain_below("", command)
}

fn explain_below(above: &str, command: Command) -> Command {
    let words = format!("{above} {}", command.get_name());
    let words = words.trim();
    let about = command.get_about().map(ToString::to_string);
    command
        .mut_subcommands(|below| explain_below(words, below))
        .long_about(begin(words, about.as_deref()))
        .after_long_help(end(words))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;

    /// The words of every command.
    fn words(above: &str, command: &Command) -> Vec<String> {
        let below = command
            .get_subcommands()
            .filter(|below| below.get_name() != "help" && !below.is_hide_set());
        below
            .flat_map(|below| {
                let own = format!("{above} {}", below.get_name()).trim().to_owned();
                let more = words(&own, below);
                [own].into_iter().chain(more)
            })
            .collect()
    }

    #[test]
    fn every_command_is_told_once_and_no_other() {
        let mut expected = words("", &Cli::command());
        expected.push(String::new());
        let mut told: Vec<_> = COMMANDS.iter().map(|told| told.command).collect();
        expected.sort();
        told.sort_unstable();
        assert_eq!(told, expected);
        for told in COMMANDS {
            assert!(!told.text.is_empty(), "{}", told.command);
            // One that does something itself shows how.
            let family = COMMANDS
                .iter()
                .any(|other| other.command.starts_with(&format!("{} ", told.command)));
            assert_eq!(told.examples.is_empty(), family, "{}", told.command);
            let foreign = |page: &str| page.ends_with(')');
            for page in told.see_also.iter().filter(|page| !foreign(page)) {
                assert!(of(page).is_some(), "{}: {page}", told.command);
            }
        }
    }

    /// Every example is understood (what a shell makes of quotes, pipes and files is taken away).
    #[test]
    fn examples_are_accepted() {
        for (arguments, _) in COMMANDS.iter().flat_map(|told| told.examples) {
            let arguments = arguments.split([';', '|', '>']).next().unwrap_or_default();
            let mut words = vec!["gitlab-pi-backup"];
            for (at, quoted) in arguments.split('\'').enumerate() {
                if at % 2 == 1 {
                    words.push(quoted);
                } else {
                    words.extend(quoted.split_whitespace());
                }
            }
            let parsed = Cli::command().try_get_matches_from(&words);
            assert!(parsed.is_ok(), "{words:?}: {:?}", parsed.err());
        }
    }

    #[test]
    fn an_exit_status_has_one_meaning_for_each_command() {
        for words in words("", &Cli::command()) {
            let statuses: Vec<_> = exits(&words).map(|exit| exit.status).collect();
            let first = |status: &&str| {
                status
                    .split(", ")
                    .next()
                    .and_then(|first| first.parse::<u8>().ok())
            };
            let rising = statuses
                .windows(2)
                .all(|pair| first(&pair[0]) < first(&pair[1]));
            assert!(rising, "{words}: {statuses:?}");
            assert!(
                statuses.contains(&"0") && statuses.contains(&"2"),
                "{words}"
            );
        }
        for name in EXITS.iter().flat_map(|exit| exit.of) {
            assert!(of(name).is_some(), "{name}");
        }
        assert_eq!(exits("").count(), EXITS.len());
    }

    #[test]
    fn files_are_where_the_program_looks_for_them() {
        let folder = Path::new(DEFAULT_PATH).parent().expect("a folder");
        assert!(Path::new(FILES[1].0).starts_with(folder));
    }

    #[test]
    fn help_is_short_or_long() {
        let mut cli = Cli::command();
        let run = cli.find_subcommand_mut("run").expect("there");
        let (short, long) = (run.render_help(), run.render_long_help());
        assert!(!short.to_string().contains("Examples:"));
        let long = long.to_string();
        for part in [
            "Examples:\n  gitlab-pi-backup run --dry-run\n",
            "\n  129, 130, 143\n          stopped",
        ] {
            assert!(long.contains(part), "{long}");
        }
    }
}
